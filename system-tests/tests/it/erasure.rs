//! What is erased is gone everywhere, and stays away whatever the source says.

use std::collections::BTreeSet;

use deadpool_redis::redis::{self, AsyncCommands};
use platform::event_log::kafka::Kafka;
use platform::event_log::{EventLog, LogRecord, NewRecord};
use platform::eventually;
use platform::testing::server;
use serde_json::json;
use sqlx::PgPool;
use system_tests::browser::Browser;
use system_tests::http;
use system_tests::metrics;
use system_tests::own_kafka;
use system_tests::pipeline::{Embedded, Options, Pipeline};
use system_tests::process::{path_of, ready};
use system_tests::reader::Reader;
use system_tests::regions::{Regions, Setup};
use system_tests::tool::{printed, tool, tool_with, verifies};
use tokio::process::Command;

/// Runs a tool that must find all well; gives what it says.
async fn does(pipeline: &Pipeline, arguments: &[&str]) -> String {
    does_with(pipeline, &[], arguments).await
}

/// The same with other settings than the pipeline's.
async fn does_with(pipeline: &Pipeline, settings: &[(&str, &str)], arguments: &[&str]) -> String {
    let output = tool_with(pipeline, settings, arguments).await;
    assert!(output.status.success(), "{arguments:?}: {}", printed(&output));
    printed(&output)
}

/// A message as it is stored: author, text, and how many versions of it are kept.
async fn stored(pool: &PgPool, message: &str) -> Option<(Option<String>, Option<String>, i64)> {
    sqlx::query_as(
        "SELECT author, text, (SELECT count(*) FROM message_versions v WHERE (v.chat_id, v.id) = (m.chat_id, m.id)) \
         FROM messages m WHERE id = $1",
    )
    .bind(message)
    .fetch_optional(pool)
    .await
    .expect("the copy answers")
}

/// The gate is asked however long it takes: where it is not, it does not know the message.
const ASKED: (&str, &str) = ("CHAT_SYNC_GATE_DEADLINE", "5s");

/// What the gate keeps of a message; `None` if it does not answer or has nothing.
async fn in_redis(url: &str, pipeline: &Pipeline, chat: &str, message: &str) -> Option<String> {
    let mut redis = redis::Client::open(url).unwrap().get_multiplexed_async_connection().await.ok()?;
    redis.get(format!("chat-sync{}:{{{chat}}}:m:{message}", pipeline.topic_suffix)).await.ok()?
}

/// Whether it keeps the message, and in it the secret; `None` as above.
async fn knows_the_secret(url: &str, pipeline: &Pipeline, chat: &str, message: &str) -> Option<bool> {
    Some(in_redis(url, pipeline, chat, message).await?.contains("secret"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_is_erased_and_the_source_does_not_bring_it_back() {
    let options = Options { internal: vec![(ASKED.0, ASKED.1.to_owned())], ..Options::default() };
    let Some(mut pipeline) = Pipeline::start(options).await else { return };
    pipeline.ready().await;
    let vendor = pipeline.vendor();
    let pool = PgPool::connect(pipeline.database_url.expose()).await.unwrap();
    let chat = vendor.create_chat("With a secret").await;
    let (secret, other) = (vendor.post(&chat, "the secret").await, vendor.post(&chat, "nothing of interest").await);
    vendor.edit(&chat, &secret, "the secret, spelt right").await;
    let reader = Reader::watch(&pipeline.internal_address);
    let spelt = Some(Some("the secret, spelt right".to_owned()));
    eventually!(reader.text(&chat, &secret) == spelt && reader.text(&chat, &other).is_some(), "it is shown");
    eventually!(stored(&pool, &secret).await.is_some_and(|row| row.2 == 2), "and stored, with its history");
    let redis = server("CHAT_SYNC_TEST_REDIS").expect("Redis");
    eventually!(knows_the_secret(&redis, &pipeline, &chat, &secret).await == Some(true), "the gate knows it");

    let erase = ["erase", "--chat", &chat, "--message", &secret];
    let said = does(&pipeline, &[&erase[..], &["--dry-run"]].concat()).await;
    assert!(said.contains("1 row would be erased; nothing was done"), "{said}");
    assert!(stored(&pool, &secret).await.is_some_and(|row| row.2 == 2));
    let said = does(&pipeline, &erase).await;
    assert!(said.contains("erased 1 row from this copy"), "{said}");
    assert_eq!(stored(&pool, &secret).await, Some((None, None, 0)));
    assert_eq!(stored(&pool, &other).await.unwrap().2, 1, "and nothing else");
    eventually!(reader.text(&chat, &secret) == Some(None), "it is gone from the screen");
    eventually!(knows_the_secret(&redis, &pipeline, &chat, &secret).await == Some(false), "and from the gate");
    // Whoever comes now, or comes back, is not told either.
    let late = Reader::watch(&pipeline.internal_address);
    eventually!(late.text(&chat, &secret) == Some(None), "nor shown to whoever comes later");

    // The next leader knows it before it reads anything.
    pipeline.synchronizer.kill();
    vendor.edit(&chat, &secret, "the secret once more").await;
    pipeline.synchronizer.start_again();
    ready(&pipeline.synchronizer_address).await;
    let last = vendor.post(&chat, "behind it").await;
    eventually!(stored(&pool, &last).await.is_some(), "what comes later is stored");
    let dropped = metrics::value(&pipeline.synchronizer_address, "chat_sync_erased_dropped_total").await;
    assert!(dropped >= Some(1.0), "{dropped:?}");
    assert_eq!(stored(&pool, &secret).await, Some((None, None, 0)));
    verifies(&pipeline).await;
    let said = does(&pipeline, &["verify", "--erased"]).await;
    assert!(said.contains("1 erasure; nothing is left of them in this copy"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_author_is_erased_up_to_now_and_a_chat_for_good() {
    let Some(pipeline) = Pipeline::start(Options::default()).await else { return };
    pipeline.ready().await;
    let vendor = pipeline.vendor();
    let pool = PgPool::connect(pipeline.database_url.expose()).await.unwrap();
    let chats = [vendor.create_chat("Left").await, vendor.create_chat("Not left").await];
    let mut of_bob = Vec::new();
    for chat in [&chats[0], &chats[0], &chats[1]] {
        of_bob.push(vendor.post_as("Bob", chat, "by Bob").await);
    }
    let of_ada = vendor.post(&chats[0], "by Ada").await;
    eventually!(stored(&pool, &of_ada).await.is_some(), "all is stored");
    let said = does(&pipeline, &["erase", "--chat", &chats[0], "--author", "Bob"]).await;
    assert!(said.contains("erased 2 rows"), "{said}");
    for (message, left) in [(&of_bob[0], false), (&of_bob[1], false), (&of_bob[2], true), (&of_ada, true)] {
        assert_eq!(stored(&pool, message).await.unwrap().1.is_some(), left);
    }

    let later = vendor.post_as("Bob", &chats[0], "Bob is back").await;
    eventually!(stored(&pool, &later).await.is_some_and(|row| row.1.is_some()), "what Bob writes later is his");

    // The vendor's clock is ahead of the tool's.
    let of_eve = vendor.post_as("Eve", &chats[0], "by Eve").await;
    eventually!(stored(&pool, &of_eve).await.is_some(), "it is stored");
    let ahead = format!("UPDATE messages SET created_at = now() + interval '2 minutes' WHERE id = '{of_eve}'");
    sqlx::raw_sql(sqlx::AssertSqlSafe(ahead)).execute(&pool).await.unwrap();
    let said = does(&pipeline, &["erase", "--chat", &chats[0], "--author", "Eve"]).await;
    assert!(said.contains("erased 1 row"), "{said}");

    // An older copy is restored: what was erased is erased again, by the round that mends the rest.
    let harm = format!(
        "UPDATE messages SET text = 'by Bob', author = 'Bob', deleted = false, \
         version = '00000001' || substr(version, 9) WHERE id = '{}'",
        of_bob[0]
    );
    sqlx::raw_sql(sqlx::AssertSqlSafe(harm)).execute(&pool).await.unwrap();
    let left = tool(&pipeline, &["verify", "--erased"]).await;
    assert_eq!(left.status.code(), Some(1), "{}", printed(&left));
    assert!(printed(&left).contains("1 row LEFT"), "{}", printed(&left));
    let differs = tool(&pipeline, &["verify", "--allow-lag", "1s"]).await;
    assert_eq!(differs.status.code(), Some(1), "{}", printed(&differs));
    let named = format!("message {} was to be erased and is in the copy", of_bob[0]);
    assert!(printed(&differs).contains(&named), "{}", printed(&differs));
    does(&pipeline, &["reconcile"]).await;
    eventually!(stored(&pool, &of_bob[0]).await.is_some_and(|row| row.1.is_none()), "it is erased once more");

    let reader = Reader::watch(&pipeline.internal_address);
    eventually!(reader.text(&chats[1], &of_bob[2]).is_some(), "the other chat is shown");
    let said = does(&pipeline, &["erase", "--chat", &chats[1]]).await;
    assert!(said.contains("erased 2 rows"), "{said}");
    eventually!(!reader.screen().chats.contains_key(&chats[1]), "it is in no list any more");
    let after = vendor.post(&chats[1], "written into it later").await;
    vendor.rename_chat(&chats[1], "Another name").await;
    let last = vendor.post(&chats[0], "behind it").await;
    eventually!(stored(&pool, &last).await.is_some(), "what comes later is stored");
    assert_eq!(stored(&pool, &after).await, None);
    let title: Option<String> =
        sqlx::query_scalar("SELECT title FROM chats WHERE id = $1").bind(&chats[1]).fetch_one(&pool).await.unwrap();
    assert_eq!(title, None);
    verifies(&pipeline).await;
    does(&pipeline, &["verify", "--erased"]).await;
}

/// The dead letter that names this id, as (state, what it holds).
async fn letter(pool: &PgPool, digest: &str) -> (String, String) {
    let query = "SELECT state, raw || detail FROM dead_letters WHERE digest = $1";
    sqlx::query_as(query).bind(digest).fetch_one(pool).await.expect("a letter")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_nobody_understood_is_erased_too() {
    let Some(mut pipeline) = Pipeline::start(Options::default()).await else { return };
    pipeline.ready().await;
    let vendor = pipeline.vendor();
    let pool = PgPool::connect(pipeline.database_url.expose()).await.unwrap();
    let chat = vendor.create_chat("With secrets").await;
    vendor.misbehave(json!({ "strange_text": { "kinds": ["nul"] } })).await;
    let mut letters = Vec::new();
    for author in ["Bob", "Ada", "Eve"] {
        let id = vendor.post_as(author, &chat, "a secret").await;
        let named = async || {
            let query = "SELECT digest FROM dead_letters WHERE position($1 IN raw) > 0";
            sqlx::query_scalar::<_, String>(query).bind(&id).fetch_optional(&pool).await.unwrap()
        };
        eventually!(named().await.is_some(), "it is a dead letter");
        letters.push((id.clone(), named().await.unwrap()));
    }
    vendor.misbehave(json!({})).await;
    let [(_, by_bob), (of_ada, by_ada), (of_eve, by_eve)] = &letters[..] else { unreachable!() };
    let gone = ("discarded".to_owned(), String::new());

    let said = does(&pipeline, &["erase", "--chat", &chat, "--author", "Bob", "--dry-run"]).await;
    assert!(said.contains("0 rows and 1 dead letter would be erased; nothing was done"), "{said}");
    assert_ne!(letter(&pool, by_bob).await, gone);
    does(&pipeline, &["erase", "--chat", &chat, "--author", "Bob"]).await;
    assert_eq!(letter(&pool, by_bob).await, gone);
    does(&pipeline, &["erase", "--chat", &chat, "--message", of_ada]).await;
    assert_eq!(letter(&pool, by_ada).await, gone);
    assert!(letter(&pool, by_eve).await.1.contains(of_eve), "and nothing else");

    // One that somebody wants to be tried again is not.
    pipeline.synchronizer.kill();
    let run = async |sql: String| sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&pool).await.unwrap();
    run(format!("UPDATE dead_letters SET state = 'retry' WHERE digest = '{by_eve}'")).await;
    does(&pipeline, &["erase", "--chat", &chat, "--message", of_eve, "--no-wait"]).await;
    let left = tool(&pipeline, &["verify", "--erased"]).await;
    assert_eq!(left.status.code(), Some(1), "{}", printed(&left));
    assert!(printed(&left).contains("0 rows and 1 dead letter LEFT"), "{}", printed(&left));
    pipeline.synchronizer.start_again();
    eventually!(letter(&pool, by_eve).await == gone, "it is emptied");

    // An older copy is restored.
    let raw = format!(r#""{chat}" "{of_eve}""#);
    run(format!("UPDATE dead_letters SET raw = '{raw}', state = 'open' WHERE digest = '{by_eve}'")).await;
    does(&pipeline, &["reconcile"]).await;
    eventually!(letter(&pool, by_eve).await == gone, "and once more");
    let said = does(&pipeline, &["verify", "--erased"]).await;
    assert!(said.contains("3 erasures; nothing is left of them in this copy"), "{said}");
    verifies(&pipeline).await;
}

/// While a region is filled again from the other one's log, its copy has a text before it has the record that took it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_erased_is_not_shown_although_copy_and_log_have_it_again() {
    let Some(mut pipeline) = Pipeline::start(Options::default()).await else { return };
    pipeline.ready().await;
    let vendor = pipeline.vendor();
    let pool = PgPool::connect(pipeline.database_url.expose()).await.unwrap();
    let (chat, gone) = (vendor.create_chat("Kept").await, vendor.create_chat("Gone").await);
    let by_ada = vendor.post(&chat, "the secret of Ada").await;
    let by_bob = vendor.post_as("Bob", &chat, "the secret of Bob").await;
    // More than a load brings.
    for number in 0..60 {
        vendor.post_as("Bob", &chat, &format!("the secret {number} of Bob")).await;
    }
    let in_gone = vendor.post(&gone, "the secret of a chat").await;
    eventually!(stored(&pool, &in_gone).await.is_some(), "all is stored");
    let run = async |sql: &str| sqlx::raw_sql(sqlx::AssertSqlSafe(sql.to_owned())).execute(&pool).await.unwrap();
    run("CREATE TABLE m AS TABLE messages; CREATE TABLE c AS TABLE chats; CREATE TABLE v AS TABLE message_versions")
        .await;
    does(&pipeline, &["erase", "--chat", &chat, "--author", "Bob"]).await;
    does(&pipeline, &["erase", "--chat", &gone]).await;
    // Nobody erases it once more.
    pipeline.synchronizer.kill();
    run("DELETE FROM messages; DELETE FROM chats; DELETE FROM message_versions; INSERT INTO messages TABLE m; \
         INSERT INTO chats TABLE c; INSERT INTO message_versions TABLE v")
    .await;
    let (log, topic) = (Kafka::new(&pipeline.kafka).unwrap(), format!("chat-changes{}", pipeline.topic_suffix));
    let records = log.tail(&topic, u64::MAX).await.unwrap();
    let again = records.into_iter().filter(|record| String::from_utf8_lossy(&record.value).contains("secret"));
    let again = again.map(|LogRecord { at, key, value, headers, .. }| NewRecord {
        topic: at.topic,
        partition: at.partition,
        key: key.map(|key| String::from_utf8(key).unwrap()),
        value,
        headers,
    });
    log.append(again.collect()).await.unwrap();
    pipeline.internal.kill();
    pipeline.internal.start_again();
    ready(&pipeline.internal_address).await;

    let reader = Reader::watch(&pipeline.internal_address);
    eventually!(reader.screen().chats.contains_key(&chat), "what is not erased is listed");
    assert!(!reader.screen().chats.contains_key(&gone));
    if let Some(browser) = Browser::open().await {
        browser.show(&pipeline.internal_address, &format!("#/{chat}")).await;
        eventually!(
            browser.shows(&by_ada, "the secret of Ada").await,
            "it is shown, though the load had nothing to show"
        );
        let text = browser.run("return document.body.textContent").await;
        assert!(!text.as_str().unwrap().contains("of Bob"), "{text}");
        browser.close().await;
    }
    let client = http::client();
    let get = async |path: String| {
        let response = client.get(format!("http://{}{path}", pipeline.internal_address)).send().await.unwrap();
        response.text().await.unwrap()
    };
    let search = get("/api/search?q=secret".into()).await;
    assert!(search.contains(&by_ada) && !search.contains(&by_bob) && !search.contains(&in_gone), "{search}");
    let page = get(format!("/api/chats/{chat}/messages")).await;
    assert!(page.contains(&by_ada) && !page.contains(&by_bob), "{page}");
    assert!(!get(format!("/api/chats/{gone}/messages")).await.contains("secret"));
    assert!(!get("/api/chats".into()).await.contains(&gone));
    for (chat, message, shown) in [(&chat, &by_ada, true), (&chat, &by_bob, false), (&gone, &in_gone, false)] {
        let versions = get(format!("/api/chats/{chat}/messages/{message}/versions")).await;
        assert_eq!(versions.contains("secret"), shown, "{versions}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_that_is_open_forgets_what_is_erased() {
    let Some(browser) = Browser::open().await else { return };
    let embedded = Embedded::start(&[]);
    embedded.ready().await;
    let vendor = embedded.vendor();
    let chat = vendor.create_chat("With a secret").await;
    let secret = vendor.post(&chat, "the secret").await;
    vendor.edit(&chat, &secret, "the secret, spelt right").await;
    vendor.post(&chat, "nothing of interest").await;
    browser.show(&embedded.internal_address, &format!("#/{chat}")).await;
    eventually!(browser.shows(&secret, "the secret, spelt right").await, "it is shown");
    let history = format!("http://{}/api/chats/{chat}/messages/{secret}/versions", embedded.internal_address);
    let stored = async || http::get(&history).await.ok()?.text().await.ok();
    eventually!(stored().await.is_some_and(|versions| versions.contains("spelt right")), "its history is stored");
    browser.run(&format!("document.querySelector('[data-id=\"{secret}\"] .mark').click()")).await;
    let versions = "return document.getElementById('versions').textContent";
    eventually!(browser.run(versions).await.as_str().is_some_and(|text| text.contains("secret")), "its history too");
    let erase = ["erase", "--chat", &chat, "--message", &secret, "--data-dir"];
    let folder = embedded.file().parent().expect("a folder").to_owned();
    let erased = Command::new(path_of("chat-sync")).env_clear().args(erase).arg(folder).output().await.unwrap();
    assert!(erased.status.success(), "{}", printed(&erased));
    eventually!(browser.shows(&secret, "This message was erased.").await, "the page says so");
    let page = "return document.body.textContent";
    eventually!(
        browser.run(page).await.as_str().is_some_and(|text| !text.contains("secret, spelt")),
        "and has it nowhere"
    );
    browser.pictures("erased").await;
    browser.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_erasure_is_asked_for_in_one_region_and_done_in_both() {
    let setup = Setup { internals: vec![(ASKED.0, ASKED.1.to_owned())], ..Setup::default() };
    let Some(mut regions) = Regions::start_with(setup).await else { return };
    regions.ready().await;
    let vendor = regions.a.vendor();
    let [a, b] = [&regions.a.database_url, &regions.b.database_url];
    let (a, b) = (PgPool::connect(a.expose()).await.unwrap(), PgPool::connect(b.expose()).await.unwrap());
    let chat = vendor.create_chat("With a secret").await;
    let secret = vendor.post(&chat, "the secret").await;
    for pool in [&a, &b] {
        eventually!(stored(pool, &secret).await.is_some(), "it is in both copies");
    }
    let pods = [&regions.a.internal_address, &regions.b.internal_address];
    let readers = pods.map(|address| Reader::watch(address));
    let shown = |text: Option<&str>| {
        let text = Some(text.map(str::to_owned));
        readers.iter().all(|reader| reader.text(&chat, &secret) == text)
    };
    eventually!(shown(Some("the secret")), "both show it");
    let gates = [&regions.redis_a, &regions.redis_b].map(|redis| format!("redis://{}", redis.address));
    for gate in &gates {
        eventually!(knows_the_secret(gate, &regions.a, &chat, &secret).await == Some(true), "both gates know it");
    }
    // Where nobody polls: the leader of the other region learns of it through the mirror.
    let names = "a=http://127.0.0.1:1,b=http://127.0.0.1:2";
    let in_b = [
        ("DATABASE_URL", regions.b.database_url.expose()),
        ("CHAT_SYNC_KAFKA", regions.kafka_b.address.as_str()),
        ("CHAT_SYNC_REGION", "b"),
        ("CHAT_SYNC_REGIONS", names),
    ];
    does_with(&regions.a, &in_b, &["erase", "--chat", &chat, "--message", &secret]).await;
    for pool in [&a, &b] {
        eventually!(stored(pool, &secret).await == Some((None, None, 0)), "it is erased in both");
    }
    eventually!(shown(None), "and on the screens of both");
    for gate in &gates {
        eventually!(
            knows_the_secret(gate, &regions.a, &chat, &secret).await == Some(false),
            "and in the gates of both"
        );
    }
    vendor.edit(&chat, &secret, "the secret once more").await;
    let last = vendor.post(&chat, "behind it").await;
    for pool in [&a, &b] {
        eventually!(stored(pool, &last).await.is_some(), "what comes later is stored");
        assert_eq!(stored(pool, &secret).await, Some((None, None, 0)));
    }
    let in_a = [("CHAT_SYNC_REGIONS", names)];
    for settings in [&in_a[..], &in_b[..]] {
        let said = tool_with(&regions.a, settings, &["verify", "--erased"]).await;
        assert!(said.status.success(), "{}", printed(&said));
        assert!(printed(&said).contains("1 erasure; nothing is left"), "{}", printed(&said));
    }
    whole_scopes_asked_for_in_b(&regions, &in_b, [&a, &b]).await;
    let (lag, of_b) = ("20s", format!("b={}", regions.b.database_url.expose()));
    let said = does_with(&regions.a, &in_a, &["verify", "--allow-lag", lag, "--also", &of_b]).await;
    assert!(said.contains("copy a has everything") && said.contains("copy b has everything"), "{said}");
    asked_for_while_apart(&regions, &in_b, (&chat, &last), [&a, &b]).await;
    whichever_log_is_lost(&mut regions).await;
}

/// The other one still has what was asked for, and gives it back.
async fn whichever_log_is_lost(regions: &mut Regions) {
    let topic = contract::Topics::with_suffix(&regions.a.topic_suffix).erasures;
    for kafka in [&regions.kafka_a, &regions.kafka_b] {
        eventually!(asked_for(&kafka.address, &topic).await == 4, "all are in both regions' own logs");
    }
    own_kafka::delete_topic(&regions.kafka_b.address, &topic).await;
    eventually!(
        asked_for(&regions.kafka_b.address, &topic).await == 4,
        "b has them again, while its leader leads; now {}",
        asked_for(&regions.kafka_b.address, &topic).await
    );
    own_kafka::delete_topic(&regions.kafka_b.address, &topic).await;
    regions.b.synchronizer.kill();
    regions.b.synchronizer.start_again();
    eventually!(asked_for(&regions.kafka_b.address, &topic).await == 4, "b has them from a");
}

/// What an author has written in a chat, and another chat whole; what is written later is the author's, and the chat stays away.
async fn whole_scopes_asked_for_in_b(regions: &Regions, in_b: &[(&str, &str)], copies: [&PgPool; 2]) {
    let vendor = regions.a.vendor();
    let chats = [vendor.create_chat("Of several").await, vendor.create_chat("Not to be left").await];
    let of_bob = vendor.post_as("Bob", &chats[0], "by Bob").await;
    let [of_ada, in_other] = [vendor.post(&chats[0], "by Ada").await, vendor.post(&chats[1], "there").await];
    for pool in copies {
        for message in [&of_bob, &of_ada, &in_other] {
            eventually!(stored(pool, message).await.is_some(), "it is in both copies");
        }
    }
    does_with(&regions.a, in_b, &["erase", "--chat", &chats[0], "--author", "Bob"]).await;
    does_with(&regions.a, in_b, &["erase", "--chat", &chats[1]]).await;
    let is_there = async |pool: &PgPool, message: &str| stored(pool, message).await.unwrap().1.is_some();
    for pool in copies {
        eventually!(!is_there(pool, &of_bob).await && !is_there(pool, &in_other).await, "it is erased in both");
        assert!(is_there(pool, &of_ada).await, "and nothing else");
    }
    let (after, later) = (vendor.post(&chats[1], "later").await, vendor.post_as("Bob", &chats[0], "Bob is back").await);
    for pool in copies {
        eventually!(stored(pool, &later).await.is_some_and(|row| row.1.is_some()), "what comes later is stored");
        assert_eq!(stored(pool, &after).await, None, "but not in a chat that is erased");
    }
}

/// What one region has not heard of yet it may go on appending: the other one says so.
async fn asked_for_while_apart(
    regions: &Regions,
    in_b: &[(&str, &str)],
    (chat, message): (&str, &str),
    copies: [&PgPool; 2],
) {
    let erased_in_b = async || does_with(&regions.a, in_b, &["verify", "--erased"]).await;
    eventually!(!erased_in_b().await.contains("NOT SAID"), "both say that they know of what was asked for before");
    for way in [&regions.to_a, &regions.to_b] {
        way.cut();
    }
    does_with(&regions.a, in_b, &["erase", "--chat", chat, "--message", message, "--no-wait"]).await;
    // The copy may still have the row: then it exits 1.
    let said = printed(&tool_with(&regions.a, in_b, &["verify", "--erased"]).await);
    assert!(said.contains("region a has NOT SAID that it knows of it"), "{said}");
    let unheard = "chat_sync_erasures_unheard{region=\"a\"}";
    let unheard_in_b = async || metrics::value(&regions.b.synchronizer_address, unheard).await;
    eventually!(unheard_in_b().await == Some(1.0), "and so does the metric");
    for way in [&regions.to_a, &regions.to_b] {
        way.restore();
    }
    for pool in copies {
        eventually!(stored(pool, message).await == Some((None, None, 0)), "it is erased in both");
    }
    eventually!(!erased_in_b().await.contains("NOT SAID"), "both know of it");
    eventually!(unheard_in_b().await == Some(0.0), "{:?}", unheard_in_b().await);
}

/// How many erasures stand in a region's own topic, whatever was appended twice.
async fn asked_for(kafka: &str, topic: &str) -> usize {
    let log = Kafka::new(kafka).expect("a client");
    let keys = |records: Vec<LogRecord>| records.into_iter().map(|record| record.key).collect::<BTreeSet<_>>().len();
    log.tail(topic, u64::MAX).await.map_or(0, keys)
}
