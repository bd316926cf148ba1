//! Who was shown what, as pages acknowledge it.

use deadpool_redis::redis::cmd;
use platform::config::Secret;
use platform::eventually;
use platform::redis::RedisTls;
use platform::testing::{PATIENCE, server};
use serde_json::Value;
use system_tests::browser::Browser;
use system_tests::http;
use system_tests::pipeline::{Options, Pipeline};

async fn readers(pipeline: &Pipeline, chat: &str, message: &str) -> Option<u64> {
    let address = &pipeline.internal_address;
    let answer = http::get(format!("http://{address}/api/chats/{chat}/messages/{message}/receipts")).await.ok()?;
    answer.json::<Value>().await.ok()?["readers"].as_u64()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_is_delivered_when_pages_say_that_they_show_it() {
    let (Some(first), Some(second)) = (Browser::open().await, Browser::open().await) else { return };
    let Some(pipeline) = Pipeline::start(Options::default()).await else { return };
    pipeline.ready().await;
    let vendor = pipeline.vendor();
    let chat = vendor.create_chat("Receipts").await;
    let message = vendor.post(&chat, "who reads this?").await;
    let page = format!("#/{chat}");
    first.show(&pipeline.internal_address, &page).await;
    eventually!(readers(&pipeline, &chat, &message).await == Some(1), "one page shows it");
    second.show(&pipeline.internal_address, &page).await;
    eventually!(readers(&pipeline, &chat, &message).await == Some(2), "two pages show it");
    eventually!(
        first.run("return document.getElementById('seen').textContent").await == "Seen by 2 readers",
        "the page says so"
    );
    first.pictures("seen").await;
    // The same page loaded again is the same reader.
    second.show(&pipeline.internal_address, "").await;
    second.show(&pipeline.internal_address, &page).await;
    // A page that is closed has not been shown what came later.
    eventually!(second.shows(&message, "who reads this?").await, "it is shown again");
    second.show(&pipeline.vendor_address, "").await;
    vendor.edit(&chat, &message, "who reads this now?").await;
    eventually!(first.shows(&message, "who reads this now?").await, "the edit is shown");
    eventually!(readers(&pipeline, &chat, &message).await == Some(1), "the edit was shown to one");
    second.show(&pipeline.internal_address, &page).await;
    eventually!(readers(&pipeline, &chat, &message).await == Some(2), "and to the other when it came back");
    assert_eq!(readers(&pipeline, &chat, "nowhere").await, None);
    assert_eq!(readers(&pipeline, "nowhere", &message).await, None);

    // Redis forgets all of it, and nobody writes any more.
    let url = Secret::new(server("CHAT_SYNC_TEST_REDIS").expect("Redis"));
    let pool = platform::redis::pool(&url, &RedisTls::default(), 1, PATIENCE).expect("a pool");
    let key = format!("chat-sync{}:{{{chat}}}:shown", pipeline.topic_suffix);
    let mut redis = pool.get().await.expect("Redis");
    let gone: u64 = cmd("DEL").arg(&key).query_async(&mut redis).await.expect("deleted");
    assert_eq!(gone, 1, "there was something to forget");
    eventually!(
        cmd("HLEN").arg(&key).query_async::<u64>(&mut redis).await.is_ok_and(|pages| pages == 2),
        "both pages repeat what they show"
    );
    eventually!(readers(&pipeline, &chat, &message).await == Some(2), "and count again");
    first.close().await;
    second.close().await;
}
