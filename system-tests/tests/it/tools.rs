//! The operator's tools on the real servers, as processes.

use contract::Topics;
use platform::eventually;
use platform::testing::{postgres_database, unique_suffix};
use serde_json::json;
use sqlx::PgPool;
use system_tests::compared::{at_the_vendor, in_the_copy};
use system_tests::metrics;
use system_tests::own_kafka;
use system_tests::pipeline::{Options, Pipeline};
use system_tests::process::{free_port, ready};
use system_tests::reader::Reader;
use system_tests::tool::{command, printed, tool};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn verify_names_what_differs_and_reconcile_mends_it() {
    let Some(pipeline) = Pipeline::start(Options::default()).await else { return };
    pipeline.ready().await;
    let vendor = pipeline.vendor();
    let chat = vendor.create_chat("To be verified").await;
    let mut ids = Vec::new();
    for number in 0..20 {
        ids.push(vendor.post(&chat, &format!("message {number}")).await);
    }
    vendor.delete(&chat, &ids[19]).await;
    let equal = tool(&pipeline, &["verify", "--allow-lag", "20s"]).await;
    assert!(equal.status.success(), "{}", printed(&equal));
    assert!(printed(&equal).contains("compared 1 chats with 19 messages"), "{}", printed(&equal));

    // What somebody does to the copy by hand: a row lost, a text changed under its version, a row that the source never
    // had. Not before the first comparison is over: it would mend some of it.
    let first = async || metrics::value(&pipeline.synchronizer_address, "chat_sync_drift_messages").await;
    eventually!(first().await == Some(0.0), "the first comparison is done");
    let pool = PgPool::connect(pipeline.database_url.expose()).await.unwrap();
    let harm = format!(
        "DELETE FROM messages WHERE id = '{}';
         UPDATE messages SET text = 'not what they wrote' WHERE id = '{}';
         INSERT INTO messages SELECT chat_id, 'stray', parent_id, author, text, created_at, edited_at, deleted_at,
             deleted, version FROM messages WHERE id = '{}'",
        ids[3], ids[5], ids[7]
    );
    sqlx::raw_sql(sqlx::AssertSqlSafe(harm)).execute(&pool).await.unwrap();
    let differs = tool(&pipeline, &["verify", "--allow-lag", "1s"]).await;
    assert_eq!(differs.status.code(), Some(1), "{}", printed(&differs));
    for (id, how) in [
        (&*ids[3], "is missing in the copy"),
        (&*ids[5], "has another content in the copy"),
        ("stray", "is not at the source any more"),
    ] {
        assert!(printed(&differs).contains(&format!("message {id} {how}")), "{}", printed(&differs));
    }
    let json = tool(&pipeline, &["verify", "--allow-lag", "1s", "--json"]).await;
    let report: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(report["differing"][&chat]["differences"].as_array().unwrap().len(), 3, "{report}");

    // The synchronizer remembers that it has appended the lost row: that must not keep it from doing so again.
    let mended = tool(&pipeline, &["reconcile", "--reason", "the test did harm"]).await;
    assert!(mended.status.success(), "{}", printed(&mended));
    let expected = at_the_vendor(&vendor).await;
    eventually!(
        {
            let mut copy = in_the_copy(&pool).await;
            copy.remove(&(chat.clone(), "stray".into())).is_some_and(|row| row.0) && copy == expected
        },
        "the copy is as the vendor is"
    );
    let equal = tool(&pipeline, &["verify"]).await;
    assert!(equal.status.success(), "{}", printed(&equal));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_that_cannot_be_read_hide_no_others() {
    let Some(pipeline) = Pipeline::start(Options::default()).await else { return };
    pipeline.ready().await;
    let vendor = pipeline.vendor();
    let (spoilt, chat) = (vendor.create_chat("Spoilt").await, vendor.create_chat("Not spoilt").await);
    let mut ids = Vec::new();
    for number in 0..4 {
        ids.push(vendor.post(&chat, &format!("message {number}")).await);
    }
    let equal = tool(&pipeline, &["verify", "--allow-lag", "20s"]).await;
    assert!(equal.status.success(), "{}", printed(&equal));
    let pool = PgPool::connect(pipeline.database_url.expose()).await.unwrap();
    let run = async |sql: String| sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&pool).await.unwrap();
    run(format!(
        "UPDATE chats SET version = 'none' WHERE id = '{spoilt}';
         UPDATE messages SET version = 'none' WHERE id = '{}';
         DELETE FROM messages WHERE id = '{}'",
        ids[1], ids[2]
    ))
    .await;
    let unproven = tool(&pipeline, &["verify", "--allow-lag", "1s"]).await;
    assert!(!unproven.status.success(), "{}", printed(&unproven));
    assert!(printed(&unproven).contains(&format!("{spoilt}: its version")), "{}", printed(&unproven));

    let asked = tool(&pipeline, &["erase", "--chat", &chat, "--author", "nobody", "--dry-run"]).await;
    assert!(asked.status.success(), "{}", printed(&asked));
    assert!(printed(&asked).contains("1 row of this chat cannot be read"), "{}", printed(&asked));

    // The round comes to its end, and what can be mended is.
    let done = tool(&pipeline, &["reconcile", "--reason", "the test did harm"]).await;
    assert!(done.status.success(), "{}", printed(&done));
    let expected = at_the_vendor(&vendor).await;
    let lost = (chat.clone(), ids[2].clone());
    eventually!(in_the_copy(&pool).await.get(&lost) == expected.get(&lost), "the row that was lost is back");
    let unreadable = metrics::value(&pipeline.synchronizer_address, "chat_sync_unreadable_rows_total").await;
    assert!(unreadable.is_some_and(|rows| rows >= 2.0), "{unreadable:?}");

    run("DELETE FROM chats WHERE version = 'none'; DELETE FROM messages WHERE version = 'none'".into()).await;
    let done = tool(&pipeline, &["reconcile", "--reason", "somebody took them away"]).await;
    assert!(done.status.success(), "{}", printed(&done));
    let equal = tool(&pipeline, &["verify", "--allow-lag", "20s"]).await;
    assert!(equal.status.success(), "{}", printed(&equal));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn verify_compares_the_copies_of_several_regions_at_once() {
    let Some(pipeline) = Pipeline::start(Options::default()).await else { return };
    let Some(second) = postgres_database().await else { return };
    let told = [("DATABASE_URL", second.expose().to_owned()), ("CHAT_SYNC_WRITER_GROUP", unique_suffix())];
    let address = format!("127.0.0.1:{}", free_port());
    let _writer = pipeline.another_writer(&address, told.into());
    pipeline.ready().await;
    ready(&address).await;
    let vendor = pipeline.vendor();
    let chat = vendor.create_chat("Everywhere").await;
    let ids = [vendor.post(&chat, "here").await, vendor.post(&chat, "and there").await];
    let also = format!("b={}", second.expose());
    let equal = tool(&pipeline, &["verify", "--allow-lag", "20s", "--also", &also]).await;
    assert!(equal.status.success(), "{}", printed(&equal));
    let said = printed(&equal);
    assert_eq!(said.matches("compared 1 chats with 2 messages").count(), 1, "the source was read once: {said}");
    assert!(said.contains("copy a has everything") && said.contains("copy b has everything"), "{said}");

    let pool = PgPool::connect(second.expose()).await.unwrap();
    sqlx::query("DELETE FROM messages WHERE id = $1").bind(&ids[1]).execute(&pool).await.unwrap();
    let verify = ["verify", "--allow-lag", "1s", "--also", &also];
    let differs = tool(&pipeline, &verify).await;
    assert_eq!(differs.status.code(), Some(1), "{}", printed(&differs));
    let said = printed(&differs);
    assert!(said.contains("copy a has everything") && said.contains("1 chat DIFFERS in copy b"), "{said}");
    assert!(said.contains(&format!("message {} is missing in the copy", ids[1])), "{said}");
    let json = tool(&pipeline, &[&verify[..], &["--json"]].concat()).await;
    let report: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(report["a"]["differing"], json!({}), "{report}");
    assert_eq!(report["b"]["differing"][&chat]["differences"].as_array().unwrap().len(), 1, "{report}");
    for wrong in ["b=/nowhere", "b", "b=postgres://127.0.0.1:1/nothing", &format!("a={}", second.expose())] {
        let refused = tool(&pipeline, &["verify", "--also", wrong]).await;
        assert_eq!(refused.status.code(), Some(2), "{wrong}: {}", printed(&refused));
        assert!(printed(&refused).contains("--also"), "{wrong}: {}", printed(&refused));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_letter_is_shown_tried_again_resolved_or_discarded() {
    let Some(pipeline) = Pipeline::start(Options::default()).await else { return };
    pipeline.ready().await;
    let vendor = pipeline.vendor();
    let chat = vendor.create_chat("With a dead letter").await;
    vendor.misbehave(json!({ "strange_text": { "kinds": ["lone_surrogate"], "times": 1 } })).await;
    let strange = vendor.post(&chat, "plain").await;
    let other = vendor.post(&chat, "another").await;
    let pool = PgPool::connect(pipeline.database_url.expose()).await.unwrap();
    eventually!(
        sqlx::query_scalar::<_, i64>("SELECT count(*) FROM dead_letters").fetch_one(&pool).await.unwrap() == 1,
        "it is a dead letter"
    );
    let explained = tool(&pipeline, &["verify"]).await;
    assert!(explained.status.success(), "{}", printed(&explained));
    assert!(printed(&explained).contains("1 rows are explained"), "{}", printed(&explained));
    let groups = printed(&tool(&pipeline, &["dead-letters", "list"]).await);
    assert!(groups.contains("malformed") && groups.contains("open"), "{groups}");
    let list = printed(&tool(&pipeline, &["dead-letters", "list", "--reason", "malformed"]).await);
    let digest = &list[..8];
    let trace = printed(&tool(&pipeline, &["trace", &strange]).await);
    assert!(trace.contains("dead letter") && trace.contains(digest), "{trace}");
    let shown = printed(&tool(&pipeline, &["dead-letters", "show", digest]).await);
    assert!(shown.contains(&strange) && shown.contains("\\ud800"), "{shown}");
    let again = tool(&pipeline, &["dead-letters", "retry", digest]).await;
    assert_eq!(again.status.code(), Some(1), "{}", printed(&again));
    assert!(printed(&again).contains("still open: tried again: malformed"), "{}", printed(&again));

    // As if the version after this one had learned to read it.
    sqlx::query("UPDATE dead_letters SET raw = replace(raw, '\\ud800', '')").execute(&pool).await.unwrap();
    let reader = Reader::watch(&pipeline.internal_address);
    let resolved = tool(&pipeline, &["dead-letters", "retry", "--reason", "malformed"]).await;
    assert!(resolved.status.success(), "{}", printed(&resolved));
    assert!(printed(&resolved).contains("resolved"), "{}", printed(&resolved));
    eventually!(reader.text(&chat, &strange).is_some(), "it is on the screen");
    assert!(in_the_copy(&pool).await.contains_key(&(chat.clone(), strange.clone())));
    let none = tool(&pipeline, &["dead-letters", "discard", "--all", "--note", "x"]).await;
    assert!(none.status.success() && printed(&none).contains("no open dead letters"), "{}", printed(&none));
    let none = tool(&pipeline, &["dead-letters", "discard", "--reason", "malfromed", "--note", "x"]).await;
    assert_eq!(none.status.code(), Some(2), "{}", printed(&none));

    sqlx::query("UPDATE dead_letters SET state = 'open'").execute(&pool).await.unwrap();
    let unexplained = tool(&pipeline, &["dead-letters", "discard", digest]).await;
    assert!(printed(&unexplained).contains("--note"), "{}", printed(&unexplained));
    let discarded = tool(&pipeline, &["dead-letters", "discard", digest, "--note", "nobody misses it"]).await;
    assert!(discarded.status.success(), "{}", printed(&discarded));
    let shown = printed(&tool(&pipeline, &["dead-letters", "show", digest]).await);
    assert!(shown.contains("discarded") && shown.contains("nobody misses it"), "{shown}");
    let lost = printed(&tool(&pipeline, &["trace", "no-such-message"]).await);
    assert!(lost.contains("is not in the copy"), "{lost}");

    let trace = printed(&tool(&pipeline, &["trace", &other]).await);
    for words in
        ["vendor   created", "polled", "appended", "applied: it is the stored row", "stored   version", "pushed"]
    {
        assert!(trace.contains(words), "{trace}");
    }
    let nobody = tool(&pipeline, &["trace", "nobody"]).await;
    assert_eq!(nobody.status.code(), Some(2), "{}", printed(&nobody));
}

/// While it waits for the writer to store all that the log holds, the log is lost: nobody will ever store that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_erasure_does_not_wait_for_a_log_that_is_gone() {
    // As often as a slow comparison may find what was erased, it erases that too.
    let never = vec![("CHAT_SYNC_RECONCILE_EVERY", "1h".to_owned())];
    let Some(mut pipeline) = Pipeline::start(Options { synchronizer: never, ..Options::default() }).await else {
        return;
    };
    pipeline.ready().await;
    let vendor = pipeline.vendor();
    let chat = vendor.create_chat("Much was written here").await;
    let mut ids = Vec::new();
    // More than the markers of a minute in the log that takes its place.
    for number in 0..500 {
        ids.push(vendor.post(&chat, &format!("message {number}")).await);
    }
    let reader = Reader::watch(&pipeline.internal_address);
    eventually!(reader.text(&chat, &ids[499]).is_some(), "all of it is shown");
    let stored = PgPool::connect(pipeline.database_url.expose()).await.unwrap();
    eventually!(in_the_copy(&stored).await.len() == 500, "and stored");
    pipeline.writer.kill();
    vendor.post(&chat, "nobody stores this").await;
    let erase = |id: &str| ["erase", "--chat", &chat, "--message", id].map(str::to_owned);
    let mut waits = command(&pipeline, &[], &erase(&ids[0]).each_ref().map(String::as_str)).spawn().expect("it runs");
    let dropped = async || {
        vendor.edit(&chat, &ids[0], "once more").await;
        metrics::value(&pipeline.synchronizer_address, "chat_sync_erased_dropped_total").await
    };
    eventually!(dropped().await >= Some(1.0), "the synchronizer knows it, and waits for the writer");
    own_kafka::delete_topic(&pipeline.kafka, &Topics::with_suffix(&pipeline.topic_suffix).changes).await;
    vendor.post(&chat, "this makes it again").await;
    pipeline.writer.start_again();
    eventually!(waits.try_wait().expect("a process").is_some_and(|ended| ended.success()), "the erasure is done");
    let later = tool(&pipeline, &erase(&ids[1]).each_ref().map(String::as_str)).await;
    assert!(later.status.success(), "{}", printed(&later));
}
