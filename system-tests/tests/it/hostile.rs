//! What people write to get a page to do their bidding, as names, titles and texts, in real Chromium.

use platform::eventually;
use reqwest::Method;
use serde_json::{Value, json};
use system_tests::browser::Browser;

use crate::pages::started;

/// Ways around filters that look for tags, handlers and schemes; each would set `window.hurt` if it ran.
const EVASIONS: &[&str] = &[
    "<script>window.hurt=1</script>",
    "<ScRiPt >window.hurt=1</sCrIpT>",
    "<script/x>window.hurt=1</script/x>",
    "<<script>window.hurt=1;//<</script>",
    "\"><script>window.hurt=1</script>",
    "'><img src=x onerror=window.hurt=1>",
    "<img src=x onerror=window.hurt=1>",
    "<img/src=x/onerror=window.hurt=1>",
    "<img src=\"x` `<script>window.hurt=1</script>\"` `>",
    "<img src onerror /\" '\"= alt=window.hurt=1//\">",
    "<svg onload=window.hurt=1>",
    "<svg><script>window.hurt&equals;1</script>",
    "<svg><animate onbegin=window.hurt=1 attributeName=x dur=1s>",
    "<math><mtext><table><mglyph><style><!--</style><img title=\"--&gt;&lt;img src=1 onerror=window.hurt=1&gt;\">",
    "<body onload=window.hurt=1>",
    "<details open ontoggle=window.hurt=1>",
    "<input autofocus onfocus=window.hurt=1>",
    "<iframe src=\"javascript:parent.hurt=1\"></iframe>",
    "<iframe srcdoc=\"<script>parent.hurt=1</script>\">",
    "<a href=\"javascript:window.hurt=1\">click</a>",
    "<a href=\"jav&#x09;ascript:window.hurt=1\">click</a>",
    "<a href=&#106;&#97;&#118;&#97;&#115;&#99;&#114;&#105;&#112;&#116;:window.hurt=1>click</a>",
    "<object data=\"data:text/html,<script>parent.hurt=1</script>\">",
    "<embed src=\"data:image/svg+xml,<svg onload=parent.hurt=1>\">",
    "<meta http-equiv=refresh content=\"0;javascript:window.hurt=1\">",
    "<base href=\"javascript:window.hurt=1//\">",
    "<link rel=stylesheet href=\"data:text/css,*{display:none}\">",
    "<style>*{display:none}</style>",
    "<template><script>window.hurt=1</script></template>",
    "<noscript><p title=\"</noscript><img src=x onerror=window.hurt=1>\">",
    "<textarea></textarea><img src=x onerror=window.hurt=1>",
    "<!--><img src=x onerror=window.hurt=1>-->",
    "<![CDATA[<img src=x onerror=window.hurt=1>]]>",
    "&lt;img src=x onerror=window.hurt=1&gt;",
    "\\u003cimg src=x onerror=window.hurt=1\\u003e",
    "%3Cimg%20src%3Dx%20onerror%3Dwindow.hurt%3D1%3E",
    "javascript:window.hurt=1",
    "${window.hurt=1} {{constructor.constructor('window.hurt=1')()}}",
    "</title><script>window.hurt=1</script>",
    "\u{202e}gpj.exe\u{2066} and \u{200b}zero\u{feff} width",
];

/// What a text would have to become to do anything.
const MADE: &str = "return document.querySelectorAll('img, svg:not(#rate):not(#lag), iframe, object, embed, body script, base, style, \
     template, textarea:not(#compose textarea), details[open][ontoggle], [onerror], [onload], [onfocus], a[href^=\"java\"]').length";

async fn is_harmless(browser: &Browser, where_: &str) {
    assert_eq!(browser.run("return window.hurt ?? null").await, Value::Null, "{where_}");
    assert_eq!(browser.run(MADE).await, 0, "{where_}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn evasions_stay_text_in_titles_names_texts_versions_and_search() {
    let Some((browser, mirror)) = started().await else { return };
    let vendor = mirror.vendor();
    let mut chats = Vec::new();
    for evasion in EVASIONS {
        chats.push(vendor.create_chat(evasion).await);
    }
    let chat = &chats[0];
    let mut ids = Vec::new();
    for evasion in EVASIONS {
        let body = json!({ "author": evasion, "text": format!("findme {evasion}") });
        let (status, message) = vendor.ask(Method::POST, &format!("/chats/{chat}/messages"), Some(body)).await;
        assert!(status.is_success(), "{evasion}: {message}");
        ids.push(message["id"].as_str().unwrap().to_owned());
    }
    let (edited, last) = (&ids[ids.len() - 2], ids.last().unwrap());
    vendor.edit(chat, edited, &format!("findme again {}", EVASIONS[6])).await;
    browser.show(&mirror.internal_address, &format!("#/{chat}")).await;
    eventually!(browser.shows(last, "findme").await, "the last one is shown");
    eventually!(browser.shows(edited, "findme again").await, "the edit is shown");
    for (id, evasion) in ids.iter().zip(EVASIONS).filter(|(id, _)| *id != edited) {
        let told = format!("return document.querySelector('[data-id=\"{id}\"] .text')?.textContent ?? null");
        if let Value::String(text) = browser.run(&told).await {
            assert_eq!(text.trim(), format!("findme {evasion}").trim(), "shown as it was written");
        }
    }
    is_harmless(&browser, "the thread and the list of chats").await;
    // The title and the address of every chat.
    for chat in &chats {
        browser.run(&format!("location.hash = '#/{chat}'; return null")).await;
        eventually!(
            browser.run("return document.querySelector('#chats [aria-current]') !== null").await == true,
            "the chat is open"
        );
    }
    is_harmless(&browser, "titles").await;
    for evasion in EVASIONS {
        browser.run(&format!("location.hash = {}; return null", json!(format!("#/{evasion}")))).await;
    }
    is_harmless(&browser, "addresses that name no chat").await;
    browser.show(&mirror.internal_address, &format!("#/{chat}/{edited}")).await;
    let mark = format!("[data-id=\"{edited}\"] .mark");
    eventually!(
        browser.run(&format!("return document.querySelector('{mark}') !== null")).await == true,
        "it is edited"
    );
    browser.run(&format!("document.querySelector('{mark}').click(); return null")).await;
    eventually!(browser.run("return document.querySelectorAll('#versions li').length").await == 2, "its versions");
    is_harmless(&browser, "versions").await;
    for query in ["findme", "<img src=x onerror=window.hurt=1>"] {
        let typed = format!(
            "const field = document.getElementById('search'); field.value = {}; field.dispatchEvent(new Event('input')); \
             return null",
            json!(query)
        );
        browser.run(&typed).await;
        eventually!(browser.run("return document.querySelectorAll('#results li').length > 0").await == true, "found");
        is_harmless(&browser, "search").await;
    }
    browser.close().await;
}
