//! In real Chromium: how readers find their way, what operators see, and whether anybody is kept out.

use platform::eventually;
use platform::testing::server;
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::{PgPool, SqlitePool};
use system_tests::browser::Browser;
use system_tests::http;
use system_tests::pipeline::{Embedded, OPERATOR_TOKEN, Options, Pipeline};
use thirtyfour::prelude::*;

pub async fn started() -> Option<(Browser, Embedded)> {
    let browser = Browser::open().await?;
    let mirror = Embedded::start(&[]);
    mirror.ready().await;
    Some((browser, mirror))
}

/// A page asks for them once.
async fn versions_are_stored(mirror: &Embedded, chat: &str, message: &str, count: usize) {
    let url = format!("http://{}/api/chats/{chat}/messages/{message}/versions", mirror.internal_address);
    let stored = async || http::get(&url).await.ok()?.json::<Value>().await.ok();
    eventually!(
        stored().await.is_some_and(|stored| stored["versions"].as_array().map(Vec::len) == Some(count)),
        "{count} versions are stored: {:?}",
        stored().await
    );
}

async fn text_of(browser: &Browser, selector: &str) -> String {
    let script = format!("return document.querySelector({selector:?})?.textContent ?? ''");
    browser.run(&script).await.as_str().unwrap_or_default().to_owned()
}

async fn press(browser: &Browser, keys: impl Into<TypingData>) {
    browser.driver.action_chain().send_keys(keys).perform().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_looks_at_the_versions_of_a_message() {
    let Some((browser, mirror)) = started().await else { return };
    let vendor = mirror.vendor();
    let chat = vendor.create_chat("Edited").await;
    let id = vendor.post(&chat, "The export is stuck at 97 %.").await;
    vendor.edit(&chat, &id, "The export is stuck at 98 %.").await;
    vendor.edit(&chat, &id, "The export of May is stuck at 98 %.").await;
    versions_are_stored(&mirror, &chat, &id, 3).await;
    browser.show(&mirror.internal_address, &format!("#/{chat}")).await;
    eventually!(text_of(&browser, ".message .mark").await == "edited (2)", "it says how often it was edited");
    browser.driver.find(By::Css(".message .mark")).await.unwrap().click().await.unwrap();
    let count = "return document.querySelectorAll('#versions li').length";
    eventually!(browser.run(count).await == 3, "all versions are shown");
    assert_eq!(text_of(&browser, "#versions li:nth-child(1) ins").await, "of May ");
    assert_eq!(text_of(&browser, "#versions li:nth-child(2) del").await, "97");
    assert_eq!(text_of(&browser, "#versions li:nth-child(2) ins").await, "98");
    browser.pictures("versions").await;
    press(&browser, Key::Escape).await;
    assert_eq!(browser.run("return document.getElementById('drawer').hidden").await, true);
    assert_eq!(browser.run("return document.activeElement.className").await, "mark", "the focus is back");
    vendor.delete(&chat, &id).await;
    eventually!(browser.shows(&id, "This message was deleted.").await, "it is deleted");
    let history = format!("http://{}/api/chats/{chat}/messages/{id}/versions", mirror.internal_address);
    eventually!(
        system_tests::http::get(&history).await.unwrap().status() == 404,
        "what was deleted is not shown by its history"
    );
    browser.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_searches_filters_and_goes_by_keys() {
    let Some((browser, mirror)) = started().await else { return };
    let vendor = mirror.vendor();
    let mut chats = Vec::new();
    for number in 0..9 {
        chats.push(vendor.create_chat(&format!("Room {number}")).await);
    }
    let wanted = vendor.post(&chats[4], "Customer 4711 asks for the <b>Invoice</b> again").await;
    for number in 0..80 {
        vendor.post(&chats[4], &format!("something else {number}")).await;
    }
    let hidden = vendor.post(&chats[5], "an invoice that was deleted").await;
    vendor.delete(&chats[5], &hidden).await;
    let search = format!("http://{}/api/search?q=invoice", mirror.internal_address);
    let found = async || http::get(&search).await.ok()?.text().await.ok();
    eventually!(
        found().await.is_some_and(|found| found.contains(&wanted) && !found.contains(&hidden)),
        "all is stored"
    );
    browser.show(&mirror.internal_address, "").await;
    eventually!(browser.run("return document.querySelectorAll('#chats a').length").await == 9, "all chats are listed");
    assert_eq!(browser.run("return document.querySelectorAll('#chats a[tabindex=\"0\"]').length").await, 1, "one stop");

    press(&browser, "/").await;
    press(&browser, "invoi again").await;
    eventually!(text_of(&browser, "#found-words").await == "1 message", "it is found, and the deleted one is not");
    assert_eq!(text_of(&browser, "#results mark").await, "Invoice");
    assert!(text_of(&browser, "#results .head").await.contains("Room 4"));
    browser.pictures("search").await;
    press(&browser, Key::Down).await;
    press(&browser, Key::Enter).await;
    eventually!(browser.shows(&wanted, "Customer 4711").await, "the result leads to its place");
    let in_view = format!(
        "const place = document.querySelector('[data-id=\"{wanted}\"]').getBoundingClientRect();
         return place.top >= 0 && place.bottom <= innerHeight"
    );
    eventually!(browser.run(&in_view).await == true, "which is in view");

    press(&browser, Key::Escape).await;
    eventually!(browser.run("return location.hash").await == "", "Escape leads back to the list");
    eventually!(
        browser.run("return document.activeElement.closest('#chats') !== null").await == true,
        "and the focus with it"
    );
    press(&browser, Key::End).await;
    press(&browser, Key::Up).await;
    assert_eq!(browser.run("return document.activeElement.textContent").await, "Room 7");
    press(&browser, Key::Enter).await;
    eventually!(text_of(&browser, "#title").await == "Room 7", "Enter opens it");
    eventually!(text_of(&browser, "#notice").await == "Nothing was written here yet.", "it is empty, and says so");
    browser.pictures("empty").await;
    browser.driver.find(By::Id("filter")).await.unwrap().send_keys("room 3").await.unwrap();
    assert_eq!(browser.run("return document.querySelectorAll('#chats a').length").await, 1);
    browser.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_comes_back_to_the_first_unread_message() {
    let Some((browser, mirror)) = started().await else { return };
    let vendor = mirror.vendor();
    let chat = vendor.create_chat("Read later").await;
    let mut ids = Vec::new();
    for number in 0..30 {
        ids.push(vendor.post(&chat, &format!("message {number}")).await);
    }
    browser.show(&mirror.internal_address, &format!("#/{chat}")).await;
    eventually!(browser.shows(&ids[29], "message 29").await, "everything is read");
    let stored = "return JSON.parse(localStorage.getItem('chat-sync.read') ?? '{}')";
    eventually!(browser.run(stored).await[&chat]["id"] == *ids[29], "the page remembers it");
    browser.driver.goto("about:blank").await.unwrap();
    for number in 30..110 {
        ids.push(vendor.post(&chat, &format!("message {number}")).await);
    }
    let newest = format!("http://{}/api/chats/{chat}/messages/{}/versions", mirror.internal_address, ids[109]);
    eventually!(system_tests::http::get(&newest).await.unwrap().status() == 200, "everything is mirrored");
    browser.show(&mirror.internal_address, &format!("#/{chat}")).await;
    eventually!(text_of(&browser, ".unread").await == "new since you were here", "a line says what is new");
    assert_eq!(
        browser.run("return document.querySelector('.unread').nextElementSibling.dataset.id").await,
        *ids[30],
        "it stands before the first unread message"
    );
    let in_view = "const place = document.querySelector('.unread').getBoundingClientRect();
                   return place.top >= 0 && place.bottom <= innerHeight";
    assert_eq!(browser.run(in_view).await, true);
    browser.pictures("unread").await;
    let newest = vendor.post(&chat, "the newest").await;
    eventually!(text_of(&browser, "#announcer").await == "Ada: the newest", "a screen reader hears of it");
    assert_eq!(browser.run(in_view).await, true, "nothing jumped");
    browser.driver.find(By::Id("news")).await.unwrap().click().await.unwrap();
    eventually!(browser.run(stored).await[&chat]["id"] == *newest, "now everything is read");
    // The same within the page: what came while another chat was open.
    let read = "document.querySelector('#messages').scrollTo(0, 1e6); return null";
    eventually!(
        {
            browser.run(read).await;
            browser.run("return document.getElementById('news').hidden").await == true
        },
        "everything is read"
    );
    let other = vendor.create_chat("Another").await;
    browser.show(&mirror.internal_address, &format!("#/{other}")).await;
    eventually!(text_of(&browser, "#title").await == "Another", "another chat is open");
    let missed = vendor.post(&chat, "while another chat was open").await;
    let url = format!("http://{}/api/chats/{chat}/messages", mirror.internal_address);
    eventually!(
        system_tests::http::get(&url).await.unwrap().text().await.unwrap().contains(&missed),
        "the copy has it"
    );
    browser.show(&mirror.internal_address, &format!("#/{chat}")).await;
    eventually!(
        browser.run("return document.querySelector('.unread')?.nextElementSibling.dataset.id").await == missed,
        "the line stands before what was missed"
    );
    let reply = vendor.reply(&chat, &missed, "a reply that comes while it is open").await;
    eventually!(text_of(&browser, ".fold button").await.contains("1 reply, 1 new"), "its fold says that it is new");
    assert!(browser.text(&reply).await.is_none(), "and stays folded");
    browser.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_sees_the_pipeline_and_decides_about_dead_letters() {
    let Some((browser, mirror)) = started().await else { return };
    let vendor = mirror.vendor();
    let chat = vendor.create_chat("With a dead letter").await;
    vendor.misbehave(json!({ "strange_text": { "kinds": ["nul"], "times": 1 } })).await;
    vendor.post(&chat, "plain").await;
    browser.show(&mirror.internal_address, "ops").await;
    let stages =
        "return [...document.querySelectorAll('.stage h3')].map((head) => head.firstChild.textContent).join(' ')";
    eventually!(
        browser.run(stages).await == "vendor synchronizer log writer copy internal browsers",
        "every stage is there, from left to right"
    );
    eventually!(text_of(&browser, "#state").await.starts_with("all well"), "all is well");
    eventually!(text_of(&browser, "#drift").await == "0 rows", "the drift is known");
    let linked =
        browser.run("return [...document.querySelectorAll('.stage dd a')].map((link) => link.hash.slice(1))").await;
    for metric in linked.as_array().unwrap() {
        let named = format!("return document.getElementById({metric})?.textContent.startsWith({metric})");
        eventually!(browser.run(&named).await == true, "the page says what {metric} is");
    }
    eventually!(text_of(&browser, "#groups button").await == "nul_character: 1 open", "the dead letter is there");
    browser.driver.find(By::Css("#groups button")).await.unwrap().click().await.unwrap();
    eventually!(text_of(&browser, "#letters").await.contains("U+0000"), "it can be looked at");
    browser.run("scrollTo(0, 0); return null").await;
    browser.pictures("ops").await;
    let click = async |words: &str| {
        let script = format!(
            "[...document.querySelectorAll('#group button')].find((one) => one.textContent === {words:?}).click(); return null"
        );
        browser.run(&script).await;
    };
    click("Discard").await;
    eventually!(text_of(&browser, "#said").await == "this is not the operator's token", "nobody decides without it");
    browser.driver.find(By::Id("token")).await.unwrap().send_keys(OPERATOR_TOKEN).await.unwrap();
    click("Discard").await;
    eventually!(text_of(&browser, "#said").await == "note says why; it is empty", "discarding asks for a reason");
    browser.driver.find(By::Css("#letters input")).await.unwrap().send_keys("nobody misses it").await.unwrap();
    click("Discard").await;
    eventually!(text_of(&browser, "#groups").await == "nul_character: 1 discarded", "it is discarded");
    eventually!(text_of(&browser, "#letters").await.contains("nobody misses it"), "and the reason is kept");

    vendor.misbehave(json!({ "strange_text": { "kinds": ["nul"], "times": 2 } })).await;
    vendor.post(&chat, "plain").await;
    vendor.post(&chat, "as plain").await;
    eventually!(text_of(&browser, "#groups").await.contains("2 open"), "two more");
    browser.driver.find(By::Css("#groups button")).await.unwrap().click().await.unwrap();
    eventually!(text_of(&browser, "#all").await.contains("Try all 2 open ones again"), "all at once");
    browser.driver.find(By::Css("#all input")).await.unwrap().send_keys("nor these").await.unwrap();
    click("Try all 2 open ones again").await;
    eventually!(text_of(&browser, "#said").await == "0 letters resolved, 2 still open", "the outcome is said");
    eventually!(text_of(&browser, "#letters").await.contains("tried again: nul_character"), "and kept");
    eventually!(text_of(&browser, "#all").await.contains("Discard all 2"), "and all are open again");
    // Whatever was drawn meanwhile, what was typed stands there.
    click("Discard all 2").await;
    eventually!(text_of(&browser, "#groups").await == "nul_character: 3 discarded", "all are discarded");
    browser.close().await;
}

/// What axe-core finds that is serious or worse, as `rule: how many`.
async fn barriers(browser: &Browser, axe: &str) -> Vec<String> {
    browser.run(axe).await;
    let script = "const done = arguments[arguments.length - 1];
        axe.run().then(({ violations }) => done(violations
            .filter(({ impact }) => impact === 'serious' || impact === 'critical')
            .map(({ id, nodes }) => `${id}: ${nodes.map((node) => node.html + ' ' + (node.any[0]?.message ?? '')).join('; ')}`)),
            (error) => done([String(error)]))";
    let found = browser.driver.execute_async(script, Vec::new()).await.unwrap();
    found.json().as_array().unwrap().iter().map(|rule| rule.as_str().unwrap().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_on_the_pages_keeps_anybody_out() {
    let Some(axe) = server("CHAT_SYNC_TEST_AXE") else { return };
    let axe = std::fs::read_to_string(axe).unwrap();
    let Some((browser, mirror)) = started().await else { return };
    let vendor = mirror.vendor();
    let chat = vendor.create_chat("For everybody").await;
    let id = vendor.post(&chat, "first").await;
    vendor.edit(&chat, &id, "first, edited").await;
    vendor.reply(&chat, &id, "a reply").await;
    versions_are_stored(&mirror, &chat, &id, 2).await;
    let gone = vendor.post(&chat, "gone").await;
    vendor.delete(&chat, &gone).await;
    let tools = browser.driver.cdp();
    for scheme in ["light", "dark"] {
        let media = json!({ "features": [{ "name": "prefers-color-scheme", "value": scheme }] });
        tools.send_raw("Emulation.setEmulatedMedia", media).await.unwrap();
        browser.show(&mirror.internal_address, &format!("#/{chat}")).await;
        eventually!(browser.shows(&id, "first, edited").await, "the thread is shown");
        eventually!(
            browser.run("return document.querySelector('.fold button') !== null").await == true,
            "the reply too"
        );
        browser.run("document.querySelector('.fold button').click(); return null").await;
        assert_eq!(barriers(&browser, &axe).await, [""; 0], "the thread, {scheme}");
        browser.run("document.querySelector('.mark').click(); return null").await;
        eventually!(browser.run("return document.querySelectorAll('#versions li').length").await == 2, "the versions");
        assert_eq!(barriers(&browser, &axe).await, [""; 0], "the versions, {scheme}");
        press(&browser, Key::Escape).await;
        press(&browser, "/first").await;
        eventually!(browser.run("return document.querySelectorAll('#results mark').length").await == 1, "the search");
        assert_eq!(barriers(&browser, &axe).await, [""; 0], "the search, {scheme}");
        browser.show(&mirror.internal_address, "ops").await;
        eventually!(browser.run("return document.querySelectorAll('.stage').length").await == 7, "the stages");
        assert_eq!(barriers(&browser, &axe).await, [""; 0], "the operator's page, {scheme}");
        browser.show(&mirror.vendor_address, &format!("#{chat}")).await;
        eventually!(browser.shows(&id, "first, edited").await, "the vendor's page");
        browser.run("document.getElementById('misbehave').click(); return null").await;
        assert_eq!(barriers(&browser, &axe).await, [""; 0], "the vendor's page, {scheme}");
    }
    browser.close().await;
}

/// So many messages, put into the vendor's tables while it does not run.
async fn fill(pipeline: &mut Pipeline, chat: &str, count: i64) {
    pipeline.external.terminate().await;
    let file = pipeline.folder.path().join("external.sqlite");
    let pool = SqlitePool::connect(&format!("sqlite://{}", file.display())).await.unwrap();
    let insert = "WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < ?2)
        INSERT INTO vendor_messages (chat_id, id, author, text, created_at, sequence)
        SELECT ?1, printf('m%07d', n), 'Ada', 'message ' || n || ' ' || substr('of some length or other, as people write', 1, n % 40),
               1767000000000000 + n * 60000000, 1000 + n FROM numbers";
    sqlx::query(insert).bind(chat).bind(count).execute(&pool).await.unwrap();
    sqlx::query("UPDATE vendor_feed SET sequence = 1000 + ?").bind(count).execute(&pool).await.unwrap();
    pool.close().await;
    pipeline.external.start_again();
    pipeline.ready().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_thousand_messages_scroll_without_a_jump_in_little_memory() {
    const COUNT: i64 = 100_000;
    let Some(browser) = Browser::open().await else { return };
    let Some(mut pipeline) = Pipeline::start(Options::default()).await else { return };
    pipeline.ready().await;
    let chat = pipeline.vendor().create_chat("A very long one").await;
    fill(&mut pipeline, &chat, COUNT).await;
    // The feed does not have them; a comparison with the source does.
    let pool = PgPool::connect(pipeline.database_url.expose()).await.unwrap();
    sqlx::query("INSERT INTO reconcile_requests (id, reason, gap) VALUES (1, 'the test', false)")
        .execute(&pool)
        .await
        .unwrap();
    let stored = async || sqlx::query_scalar::<_, i64>("SELECT count(*) FROM messages").fetch_one(&pool).await.unwrap();
    for part in 1..=10 {
        eventually!(stored().await >= COUNT / 10 * part, "{part} of 10 parts are in the copy");
    }
    let last = format!("m{COUNT:07}");
    browser.show(&pipeline.internal_address, &format!("#/{chat}")).await;
    eventually!(browser.shows(&last, "message").await, "the newest are shown");
    // Up to the very first one, as fast as the page allows.
    browser.run("document.getElementById('messages').focus(); return null").await;
    press(&browser, Key::Home).await;
    eventually!(browser.shows("m0000001", "message 1").await, "the first is shown");
    let items = browser.run("return document.querySelectorAll('#messages > li').length").await;
    assert!(items.as_u64().unwrap() < 1000, "{items} items are in the page");
    // Down again, screen by screen: whatever comes and goes at the ends, what is in view does not move by itself.
    let jumps = browser
        .driver
        .execute_async(
            "const done = arguments[0];
             const list = document.getElementById('messages');
             const frame = () => new Promise((resume) => requestAnimationFrame(() => requestAnimationFrame(resume)));
             (async () => {
               let worst = 0;
               for (let step = 0; step < 60; step++) {
                 const at = list.getBoundingClientRect().top + 200;
                 const witness = [...list.children].find((item) => item.dataset.id && item.getBoundingClientRect().top > at);
                 const before = witness.getBoundingClientRect().top;
                 list.scrollTop += 400;
                 await frame();
                 if (!witness.isConnected) { worst = Infinity; break; }
                 worst = Math.max(worst, Math.abs(before - witness.getBoundingClientRect().top - 400));
               }
               done(worst);
             })();",
            Vec::new(),
        )
        .await
        .unwrap();
    assert!(jumps.json().as_f64().is_some_and(|worst| worst < 2.0), "it jumped by {} px", jumps.json());
    let tools = browser.driver.cdp();
    tools.send_raw("HeapProfiler.collectGarbage", json!({})).await.unwrap();
    tools.send_raw("Performance.enable", json!({})).await.unwrap();
    let metrics = tools.send_raw("Performance.getMetrics", json!({})).await.unwrap();
    let heap = metrics["metrics"].as_array().unwrap().iter().find(|metric| metric["name"] == "JSHeapUsedSize").unwrap();
    let heap = heap["value"].as_f64().unwrap() / 1e6;
    eprintln!("{COUNT} messages: {heap:.0} MB of JavaScript heap, {items} items");
    assert!(heap < 150.0, "{heap} MB");
    browser.pictures("hundred-thousand").await;
    browser.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_decides_where_no_token_is_set_and_bad_questions_are_answered() {
    let mirror = Embedded::start(&[]);
    mirror.ready().await;
    let base = format!("http://{}", mirror.internal_address);
    let code = async |method: Method, path: &str, body: Value| {
        let client = system_tests::http::client();
        let answer = client.request(method, format!("{base}{path}")).json(&body).send().await.unwrap();
        let status = answer.status().as_u16();
        let body: Value = answer.json().await.unwrap();
        (status, body["error"]["code"].as_str().unwrap_or_default().to_owned())
    };
    let expect = |status: u16, code: &str| (status, code.to_owned());
    let retry = json!({ "action": "retry" });
    assert_eq!(code(Method::POST, "/api/ops/dead-letters/x", retry).await, expect(401, "bad_operator_token"));
    assert_eq!(code(Method::GET, "/api/search?q=%21", json!({})).await, expect(400, "bad_request"));
    assert_eq!(code(Method::GET, "/api/search?q=a&limit=0", json!({})).await, expect(400, "bad_request"));
    assert_eq!(code(Method::GET, "/api/search", json!({})).await, expect(400, "bad_request"));
    assert_eq!(
        code(Method::GET, "/api/chats/c/messages/m/versions", json!({})).await,
        expect(404, "message_not_found")
    );
    assert_eq!(code(Method::GET, "/api/ops/pushes/c/m", json!({})).await, expect(404, "not_pushed"));
    assert_eq!(code(Method::GET, "/api/chats/c/edits", json!({})).await, expect(400, "bad_request"));
}
