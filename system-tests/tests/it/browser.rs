//! In real Chromium, on the embedded mirror: what people see.

use std::time::{Duration, Instant};

use platform::eventually;
use system_tests::browser::Browser;
use system_tests::http;
use system_tests::metrics;
use system_tests::pipeline::{Embedded, Options, Pipeline};
use system_tests::proxy::{Fault, Proxy};
use system_tests::reader::Reader;
use thirtyfour::prelude::*;

use crate::pages::started;

/// A chat with so many messages, and their ids.
/// All of it is pushed and stored: what a page loads has the last one.
async fn long_chat(mirror: &Embedded, count: usize) -> (String, Vec<String>) {
    let vendor = mirror.vendor();
    let chat = vendor.create_chat("A long one").await;
    let mut ids = Vec::new();
    for number in 0..count {
        ids.push(vendor.post(&chat, &format!("message {number}")).await);
    }
    if let Some(last) = ids.last() {
        let reader = Reader::watch_chat(&mirror.internal_address, &chat);
        eventually!(reader.text(&chat, last).is_some(), "the last one is pushed");
        let history = format!("http://{}/api/chats/{chat}/messages/{last}/versions", mirror.internal_address);
        let stored = async || http::get(&history).await.is_ok_and(|answer| answer.status().is_success());
        eventually!(stored().await, "and stored");
    }
    (chat, ids)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_written_at_the_vendor_is_seen_edited_and_deleted_at_the_copy() {
    let Some((browser, mirror)) = started().await else { return };
    let vendor = mirror.vendor();
    let chat = vendor.create_chat("Support desk").await;
    // Written by hand at the vendor's page.
    browser.show(&mirror.vendor_address, &format!("#{chat}")).await;
    let compose = browser.driver.query(By::Css("#compose textarea")).and_displayed().first().await.unwrap();
    compose.send_keys("Hello from the vendor's page").await.unwrap();
    browser.driver.find(By::Id("send")).await.unwrap().click().await.unwrap();
    let id = eventually!(
        browser
            .run("return document.querySelector('#messages .message')?.dataset.id")
            .await
            .as_str()
            .map(str::to_owned),
        "the vendor's page shows it"
    );
    let reply = vendor.reply(&chat, &id, "And a reply to it").await;
    eventually!(browser.shows(&reply, "And a reply to it").await, "the vendor's page shows what others write");
    browser.pictures("vendor").await;

    browser.show(&mirror.internal_address, &format!("#/{chat}")).await;
    eventually!(browser.shows(&id, "Hello from the vendor's page").await, "the copy shows it");
    let fold = async |words| {
        browser
            .run("return document.querySelector('.fold button')?.textContent")
            .await
            .as_str()
            .is_some_and(|text| text.starts_with(words))
    };
    eventually!(fold("▸ 1 reply").await, "the reply is folded under its parent");
    assert!(browser.text(&reply).await.is_none());
    browser.driver.find(By::Css(".fold button")).await.unwrap().click().await.unwrap();
    assert!(browser.shows(&reply, "And a reply to it").await);
    vendor.edit(&chat, &id, "Hello, edited").await;
    eventually!(browser.shows(&id, "Hello, edited").await, "the copy shows the edit");
    assert!(browser.shows(&id, "edited").await);
    vendor.reply(&chat, &id, "And one more").await;
    eventually!(fold("▾ 2 replies").await, "another reply comes under it");
    eventually!(browser.state().await == "live", "the chip says live");
    browser.pictures("copy").await;
    vendor.delete(&chat, &id).await;
    eventually!(browser.shows(&id, "This message was deleted.").await, "the copy shows the deletion");
    vendor.rename_chat(&chat, "Renamed").await;
    eventually!(browser.run("return document.getElementById('title').textContent").await == "Renamed", "the new title");
    vendor.delete_chat(&chat).await;
    eventually!(
        browser.run("return document.getElementById('notice').textContent").await
            == "This chat is not there, or not any more.",
        "the page says that the chat is gone"
    );
    browser.close().await;
}

/// A pod that did not know the chat yet answers so, and its list, which has it, may overtake the answer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_chat_that_the_list_has_is_asked_for_again_when_it_was_refused() {
    let Some((browser, mirror)) = started().await else { return };
    let vendor = mirror.vendor();
    let chat = vendor.create_chat("Known at last").await;
    let id = vendor.post(&chat, "still there").await;
    let script = "window.WebSocket = class extends WebSocket { constructor(url) { super(url); window.link = this; } };";
    let tools = browser.driver.cdp();
    let arguments = serde_json::json!({ "source": script });
    tools.send_raw("Page.addScriptToEvaluateOnNewDocument", arguments).await.expect("the browser");
    browser.show(&mirror.internal_address, &format!("#/{chat}")).await;
    eventually!(browser.shows(&id, "still there").await, "the copy shows it");
    let refusal =
        serde_json::json!({ "type": "error", "code": "chat_not_found", "message": "no such chat", "chat": chat });
    let answer =
        format!("link.onmessage({{ data: JSON.stringify({refusal}) }}); return document.querySelector('#messages li')");
    assert_eq!(browser.run(&answer).await, serde_json::Value::Null, "nothing of it stays");
    eventually!(browser.shows(&id, "still there").await, "it was asked for again");
    for code in ["chat_not_here", "chat_deleted"] {
        let answer = answer.replace("chat_not_found", code);
        assert_eq!(browser.run(&answer).await, serde_json::Value::Null, "nor of what this region has no more: {code}");
        eventually!(browser.shows(&id, "still there").await, "it was asked for again");
    }
    browser.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_leads_to_its_message_far_back_and_the_end_waits_to_be_asked_for() {
    let Some((browser, mirror)) = started().await else { return };
    let vendor = mirror.vendor();
    let (chat, ids) = long_chat(&mirror, 230).await;
    browser.show(&mirror.internal_address, &format!("#/{chat}/{}", ids[3])).await;
    eventually!(browser.shows(&ids[3], "message 3").await, "the linked message is fetched");
    let visible = format!(
        "const place = document.querySelector('[data-id=\"{}\"]').getBoundingClientRect();
         return place.top >= 0 && place.bottom <= innerHeight",
        ids[3]
    );
    eventually!(browser.run(&visible).await == true, "it is in view");
    let order =
        browser.run("return [...document.querySelectorAll('#messages .text')].map((text) => text.textContent)").await;
    let order: Vec<&str> = order.as_array().unwrap().iter().map(|text| text.as_str().unwrap()).collect();
    assert_eq!(order, (0..230).map(|number| format!("message {number}")).collect::<Vec<_>>());
    let place = browser.run("return document.getElementById('messages').scrollTop").await;
    let newest = vendor.post(&chat, "the newest").await;
    eventually!(
        browser.run("return document.getElementById('news').textContent").await == "1 new message ↓",
        "it is announced"
    );
    assert_eq!(browser.run("return document.getElementById('messages').scrollTop").await, place, "nothing jumped");
    browser.pictures("news").await;
    browser.driver.find(By::Id("news")).await.unwrap().click().await.unwrap();
    let visible = visible.replace(&ids[3], &newest);
    eventually!(browser.run(&visible).await == true, "it leads to the newest message");
    browser.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_whose_server_goes_away_says_so_and_goes_on_by_itself() {
    let Some(browser) = Browser::open().await else { return };
    let mut mirror = Embedded::start(&[]);
    mirror.ready().await;
    let vendor = mirror.vendor();
    let chat = vendor.create_chat("Cut and restored").await;
    let first = vendor.post(&chat, "before").await;
    browser.show(&mirror.internal_address, &format!("#/{chat}")).await;
    eventually!(browser.shows(&first, "before").await, "the page is up to date");
    browser.run("window.witness = document.querySelector('#messages .message'); return null").await;
    mirror.process.kill();
    eventually!(browser.state().await == "offline", "the chip says offline");
    browser.pictures("offline").await;
    mirror.process.start_again();
    mirror.ready().await;
    let second = vendor.post(&chat, "after").await;
    vendor.edit(&chat, &first, "before, edited").await;
    eventually!(browser.shows(&second, "after").await, "what came later is shown");
    eventually!(browser.shows(&first, "before, edited").await, "what changed is shown");
    eventually!(browser.state().await == "live", "the chip says live");
    assert_eq!(browser.run("return window.witness.isConnected").await, true, "the page was not drawn anew");
    browser.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_of_which_a_part_does_not_arrive_begins_anew() {
    let Some((browser, mirror)) = started().await else { return };
    let vendor = mirror.vendor();
    let chat = vendor.create_chat("In parts").await;
    let id = vendor.post(&chat, "all of it").await;
    let tools = browser.driver.cdp();
    tools.send_raw("Network.enable", serde_json::json!({})).await.expect("the browser");
    let block =
        async |urls: &[&str]| tools.send_raw("Network.setBlockedURLs", serde_json::json!({ "urls": urls })).await;
    let starts = "return Number(sessionStorage.getItem('chat-sync.starts'))";
    for (page, part) in [("ops", "*/page.js"), (&format!("#/{chat}"), "*/copy.js")] {
        block(&[part]).await.expect("the browser");
        browser.show(&mirror.internal_address, page).await;
        eventually!(browser.run(starts).await.as_f64().is_some_and(|starts| starts >= 2.0), "it tries and tries");
        block(&[]).await.expect("the browser");
        eventually!(browser.run(starts).await == 0, "it has begun");
    }
    eventually!(browser.shows(&id, "all of it").await, "and shows what there is");
    browser.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_whose_socket_is_cut_resumes_where_it_was() {
    let Some((browser, mirror)) = started().await else { return };
    let proxy = Proxy::to(&mirror.internal_address).await;
    let vendor = mirror.vendor();
    let chat = vendor.create_chat("Socket cut").await;
    let first = vendor.post(&chat, "before the cut").await;
    browser.show(&proxy.address, &format!("#/{chat}")).await;
    eventually!(browser.shows(&first, "before the cut").await, "the page is up to date");
    proxy.cut();
    eventually!(browser.state().await == "offline", "the chip says offline");
    let second = vendor.post(&chat, "while it was cut").await;
    vendor.edit(&chat, &first, "before the cut, edited").await;
    let watcher = Reader::watch(&mirror.internal_address);
    eventually!(watcher.text(&chat, &second).is_some(), "the server has it");
    assert!(!browser.shows(&second, "while it was cut").await, "the page cannot have it");
    let loads = async || metrics::value(&mirror.internal_address, "chat_sync_loads_total").await;
    let before = loads().await;
    proxy.restore();
    eventually!(browser.shows(&second, "while it was cut").await, "what came meanwhile is shown");
    eventually!(browser.shows(&first, "before the cut, edited").await, "what changed meanwhile is shown");
    eventually!(browser.state().await == "live", "the chip says live");
    assert_eq!(loads().await, before, "it resumed; nothing was loaded");
    browser.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn markup_and_script_stay_text_on_both_pages() {
    let Some((browser, mirror)) = started().await else { return };
    let vendor = mirror.vendor();
    let evil = "<img src=x onerror=\"window.hurt=1\"><script>window.hurt=1</script><b>bold</b> &amp; \u{202e}";
    let chat = vendor.create_chat(evil).await;
    let id = vendor.post(&chat, evil).await;
    vendor.reply(&chat, &id, "javascript:alert(1)").await;
    for (address, path) in
        [(&mirror.internal_address, format!("#/{chat}")), (&mirror.vendor_address, format!("#{chat}"))]
    {
        browser.show(address, &path).await;
        eventually!(
            browser.shows(&id, "<script>window.hurt=1</script><b>bold</b> &amp;").await,
            "it is shown as written"
        );
        eventually!(
            browser.run("return document.getElementById('title').textContent").await == evil.trim(),
            "the title is shown as written"
        );
        assert_eq!(browser.run("return window.hurt ?? null").await, serde_json::Value::Null);
        assert_eq!(browser.run("return document.querySelectorAll('main img, main script, main b').length").await, 0);
    }
    browser.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scrolling_up_shows_older_messages_without_a_jump() {
    let Some((browser, mirror)) = started().await else { return };
    let (chat, ids) = long_chat(&mirror, 180).await;
    browser.show(&mirror.internal_address, &format!("#/{chat}")).await;
    eventually!(browser.shows(&ids[179], "message 179").await, "the last ones are shown");
    assert!(browser.text(&ids[100]).await.is_none(), "older ones are not fetched before they are asked for");
    // The first one that is shown, and where it stands when the page goes to the top.
    let witness = &ids[130];
    let place = format!("return document.querySelector('[data-id=\"{witness}\"]').getBoundingClientRect().top");
    browser.run("document.getElementById('messages').scrollTop = 0; return null").await;
    let before = browser.run(&place).await.as_f64().unwrap();
    eventually!(browser.text(&ids[60]).await.is_some(), "older ones are fetched");
    let after = browser.run(&place).await.as_f64().unwrap();
    assert!((before - after).abs() < 60.0, "it stood at {before} and now at {after}");
    browser.close().await;
}

/// A page that is refused is not the end of the chat.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn v5_a_linked_message_that_cannot_be_had_now_is_told_from_one_that_is_not_there() {
    let Some((browser, mirror)) = started().await else { return };
    let (chat, ids) = long_chat(&mirror, 180).await;
    browser.show(&mirror.internal_address, &format!("#/{chat}")).await;
    eventually!(browser.shows(&ids[179], "message 179").await, "the last ones are shown");
    let refused = "const asked = window.fetch; window.is_refused = true;
        window.fetch = async (url, ...more) => window.is_refused && String(url).includes('/messages?')
          ? new Response('{}', { status: 503 }) : asked(url, ...more); return null";
    browser.run(refused).await;
    let link = async |id: &str| browser.run(&format!("location.hash = '#/{chat}/{id}'; return null")).await;
    let notice = async || browser.run("return document.getElementById('notice').textContent").await;
    link(&ids[3]).await;
    eventually!(notice().await == "The linked message cannot be had just now.", "the page says that it does not know");
    browser.pictures("link-not-now").await;
    browser.run("window.is_refused = false; return null").await;
    eventually!(browser.shows(&ids[3], "message 3").await, "it was asked for again");
    eventually!(notice().await == "", "and nothing is said any more");
    link("nowhere").await;
    eventually!(notice().await == "The linked message is not in this chat.", "the whole chat was read");
    browser.close().await;
}

/// Of a store that is far behind and has little: here its answers are cut and made older on their way to the page.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn v4_older_messages_that_may_not_be_as_they_are_now_are_asked_for_again_and_so_are_those_that_lacked() {
    let Some((browser, mirror)) = started().await else { return };
    let (chat, ids) = long_chat(&mirror, 180).await;
    browser.show(&mirror.internal_address, &format!("#/{chat}")).await;
    eventually!(browser.shows(&ids[179], "message 179").await, "the last ones are shown");
    let behind = "const asked = window.fetch; window.is_behind = true;
        window.fetch = async (url, ...more) => {
          const answer = await asked(url, ...more);
          if (!String(url).includes('/messages?') || !window.is_behind) return answer;
          const page = await answer.json();
          const messages = page.messages.slice(0, 3).concat(page.messages.slice(-3));
          Object.assign(messages[0], { text: 'of long ago', version: '0'.repeat(messages[0].version.length) });
          return new Response(JSON.stringify({ messages, more: false, behind: true }));
        }; return null";
    browser.run(behind).await;
    let to_the_top = async || browser.run("document.getElementById('messages').scrollTop = 0; return null").await;
    let notice = async || browser.run("return document.getElementById('notice').textContent").await;
    eventually!(to_the_top().await.is_null() && browser.shows(&ids[0], "of long ago").await, "what there is is shown");
    eventually!(notice().await == "Some messages may still be missing here.", "and that it may not be all");
    browser.run("window.is_behind = false; return null").await;
    eventually!(to_the_top().await.is_null() && browser.shows(&ids[0], "message 0").await, "it is as it should be");
    eventually!(notice().await == "", "and nothing is said any more");
    for number in [100, 60, 20] {
        browser.run(&format!("location.hash = '#/{chat}/{}'; return null", ids[number])).await;
        eventually!(browser.shows(&ids[number], &format!("message {number}")).await, "what was lacking is shown");
    }
    browser.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn v5_the_chip_tells_live_behind_idle_and_offline_apart() {
    let Some((browser, mirror)) = started().await else { return };
    browser.show(&mirror.internal_address, "").await;
    let said = browser
        .driver
        .execute_async(
            "const done = arguments[0];
             import('/link.js').then(({ state }) => done([
               { open: true, heard: true, age: 2000, change: 1000 },
               { open: true, heard: true, age: 2000, change: 61000 },
               { open: true, heard: true, age: 9000, change: 1000 },
               { open: true, heard: true, age: 9000, change: 61000 },
               { open: true, heard: true, age: null, change: 0 },
               { open: true, heard: false, age: null, change: 0 },
               { open: false, heard: true, age: 0, change: 0 },
               { open: false, heard: false, age: null, change: 0 },
             ].map(state)))",
            Vec::new(),
        )
        .await
        .unwrap();
    let expected = ["live", "idle", "behind", "behind", "behind", "connecting", "offline", "connecting"];
    assert_eq!(said.json(), &serde_json::json!(expected));
    browser.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn v5_a_page_says_what_it_waits_for_and_what_is_not_there() {
    let Some(browser) = Browser::open().await else { return };
    let Some(mut pipeline) = Pipeline::start(Options::default()).await else { return };
    pipeline.ready().await;
    let proxy = Proxy::to(&pipeline.internal_address).await;
    let vendor = pipeline.vendor();
    let chat = vendor.create_chat("Support desk").await;
    for text in ["The parcel has not come", "I ask the carrier", "It comes tomorrow, says the carrier"] {
        vendor.post(&chat, text).await;
    }
    let last = vendor.post(&chat, "Thank you").await;
    let says = async |words: &str| browser.run("return document.getElementById('notice').textContent").await == words;
    browser.show(&proxy.address, "#/nothing-of-that-name").await;
    eventually!(says("This chat is not there, or not any more.").await, "a chat that is not there is refused");
    browser.pictures("refused").await;

    eventually!(browser.state().await == "live", "the chip says live");
    // Heartbeats come, and what the page asks for does not arrive.
    proxy.misbehave(Fault::NothingThere);
    browser.run(&format!("location.hash = '#/{chat}'")).await;
    eventually!(says("Loading …").await, "it says that it loads");
    browser.pictures("loading").await;
    proxy.misbehave(Fault::None);
    eventually!(browser.shows(&last, "Thank you").await, "the chat is shown");

    // A minute in which nobody writes: as long as patience lasts, so half of it is waited for first.
    let quiet = Instant::now();
    eventually!(quiet.elapsed() > Duration::from_secs(30), "half a minute is over");
    eventually!(browser.state().await == "idle", "the chip says idle");
    browser.pictures("idle").await;

    pipeline.external.kill();
    eventually!(browser.state().await == "behind", "the chip says behind");
    browser.pictures("behind").await;
    assert!(browser.shows(&last, "Thank you").await, "and what there is stays");
    browser.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_page_judges_versions_as_the_fixtures_say() {
    let Some((browser, mirror)) = started().await else { return };
    browser.show(&mirror.internal_address, "").await;
    browser.driver.set_script_timeout(Duration::from_secs(20)).await.unwrap();
    let fixtures = include_str!("../../../contract/fixtures/versions.json");
    let wrong = browser
        .driver
        .execute_async(
            &format!(
                "const done = arguments[0];
                 import('/copy.js').then(({{ newer, Copy }}) => done(({fixtures}).filter((pair) => {{
                   const row = (version) => ({{ id: 'm', chat_id: 'c', created_at: '1', version }});
                   const copy = new Copy();
                   copy.merge([row(pair.stored.version)]);
                   const merged = copy.merge([row(pair.incoming.version)]).length === 1;
                   const expected = pair.incoming_is === 'newer';
                   return merged !== expected || newer(pair.incoming.version, pair.stored.version) !== expected;
                 }}).map((pair) => pair.name)), (error) => done([String(error)]))"
            ),
            Vec::new(),
        )
        .await
        .unwrap();
    assert_eq!(wrong.json(), &serde_json::json!([]));
    browser.close().await;
}

/// By the position and the messages that it kept, not by another load.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_that_is_left_and_come_back_to_goes_on_where_it_was() {
    let Some((browser, mirror)) = started().await else { return };
    let vendor = mirror.vendor();
    let (chat, ids) = long_chat(&mirror, 60).await;
    let path = format!("#/{chat}");
    browser.show(&mirror.internal_address, &path).await;
    eventually!(browser.shows(&ids[59], "message 59").await, "the page is up to date");
    // The window of a load does not reach back to it.
    eventually!(
        browser.run("document.getElementById('messages').scrollTop = 0; return null").await.is_null()
            && browser.shows(&ids[0], "message 0").await,
        "it is fetched"
    );
    browser.driver.goto("about:blank").await.unwrap();
    let reader = Reader::watch(&mirror.internal_address);
    vendor.edit(&chat, &ids[0], "edited meanwhile").await;
    let later = vendor.post(&chat, "written meanwhile").await;
    eventually!(reader.text(&chat, &later).is_some(), "both are mirrored");
    drop(reader);
    let count = async |name| metrics::value(&mirror.internal_address, name).await.unwrap_or(0.0);
    let (loads, resumes) = (count("chat_sync_loads_total").await, count("chat_sync_resumes_total").await);
    browser.show(&mirror.internal_address, &path).await;
    eventually!(browser.shows(&later, "written meanwhile").await, "what was written is shown");
    eventually!(
        browser.run("document.getElementById('messages').scrollTop = 0; return null").await.is_null()
            && browser.shows(&ids[0], "edited meanwhile").await,
        "what was edited is shown"
    );
    assert_eq!(count("chat_sync_loads_total").await, loads);
    assert_eq!(count("chat_sync_resumes_total").await, resumes + 1.0);
    browser.close().await;
}
