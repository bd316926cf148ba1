//! A chat log, played through the whole pipeline; at the end the copy equals what the log says.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use platform::eventually;
use platform::testing::skip;
use serde_json::Value;
use sqlx::{PgPool, SqlitePool};
use system_tests::pipeline::{Embedded, Options, Pipeline};
use system_tests::reader::Reader;

/// What must be known of a message: author, text, parent, edited (seconds), deleted.
type Fact = (String, Option<String>, Option<String>, Option<i64>, bool);
/// By chat, by message.
type Facts = BTreeMap<String, BTreeMap<String, Fact>>;

/// Reads the log by itself: it shares no code with the replay.
fn facts(files: &[PathBuf]) -> Facts {
    let mut facts = Facts::new();
    for file in files {
        let bytes = std::fs::read(file).unwrap();
        for line in bytes.split(|byte| *byte == b'\n') {
            if let Some(event) = serde_json::from_slice::<Value>(line).ok().filter(|event| event["type"] == "message") {
                learn(&mut facts, &event);
            }
        }
    }
    facts
}

fn learn(facts: &mut Facts, event: &Value) -> Option<()> {
    let chat = event["channel"].as_str().filter(|chat| !chat.is_empty())?;
    event["ts"].as_str()?;
    let known = |facts: &Facts, id: &str| facts.get(chat).and_then(|chat| chat.get(id)).cloned();
    match event["subtype"].as_str() {
        Some("message_replied") => {}
        Some("message_deleted") => {
            let id = event["deleted_ts"].as_str()?;
            let (author, _, parent, edited, _) = known(facts, id)?;
            facts.get_mut(chat)?.insert(id.to_owned(), (author, None, parent, edited, true));
        }
        subtype => {
            let change = subtype == Some("message_changed");
            let body = if change { &event["message"] } else { event };
            let id = body["ts"].as_str()?;
            let before = known(facts, id);
            if before.as_ref().is_some_and(|before| before.4 || !change) {
                return None;
            }
            let author = ["user", "bot_id", "username"].iter().find_map(|field| body[*field].as_str())?;
            let parent = body["thread_ts"].as_str().filter(|parent| *parent != id).map(str::to_owned);
            let edited = match body["edited"]["ts"].as_str() {
                Some(time) => Some(time.split('.').next()?.parse().ok()?),
                None => None,
            };
            let fact = (author.to_owned(), Some(body["text"].as_str()?.to_owned()), parent, edited, false);
            facts.entry(chat.to_owned()).or_default().insert(id.to_owned(), fact);
        }
    }
    Some(())
}

fn real_log() -> Option<Vec<PathBuf>> {
    let Some(folder) = std::env::var_os("CHAT_SYNC_TEST_SLACK_LOG").map(PathBuf::from) else {
        skip("CHAT_SYNC_TEST_SLACK_LOG names no folder with the real log");
        return None;
    };
    Some(["2018-02-01", "2018-02-02", "2018-02-03"].map(|day| folder.join(format!("{day}.jsonl"))).to_vec())
}

fn small_log() -> Vec<PathBuf> {
    vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/slack-log.jsonl")]
}

type Row = (String, String, Option<String>, Option<String>, Option<String>, Option<i64>, bool);

fn facts_of(rows: Vec<Row>) -> Facts {
    let mut facts = Facts::new();
    for (chat, id, author, text, parent, edited, deleted) in rows {
        let fact = (author.unwrap_or_default(), text, parent, edited.map(|micros| micros / 1_000_000), deleted);
        facts.entry(chat).or_default().insert(id, fact);
    }
    facts
}

async fn in_postgres(pool: &PgPool) -> Facts {
    let rows: Vec<Row> =
        sqlx::query_as("SELECT chat_id, id, author, text, parent_id, from_micros(edited_at), deleted FROM messages")
            .fetch_all(pool)
            .await
            .unwrap_or_default();
    facts_of(rows)
}

async fn in_sqlite(pool: &SqlitePool) -> Facts {
    let rows: Vec<Row> =
        sqlx::query_as("SELECT chat_id, id, author, text, parent_id, edited_at, deleted FROM messages")
            .fetch_all(pool)
            .await
            .unwrap_or_default();
    facts_of(rows)
}

fn on_screen(reader: &Reader) -> Facts {
    let rows = reader.screen().messages.into_values().flat_map(BTreeMap::into_values);
    let rows = rows.map(|row| {
        let edited = row.edited_at.map(|time| i64::try_from(time.micros()).unwrap());
        (row.chat_id, row.id, row.author, row.text, row.parent_id, edited, row.deleted)
    });
    facts_of(rows.collect())
}

/// Names what differs, for a failure that can be read.
fn assert_same(found: &Facts, expected: &Facts, place: &str) {
    assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>(), "the chats of {place}");
    for (chat, messages) in expected {
        for (id, fact) in messages {
            assert_eq!(found[chat].get(id), Some(fact), "{chat}/{id} of {place}");
        }
        assert_eq!(found[chat].len(), messages.len(), "the messages of {chat} of {place}");
    }
}

async fn mirrored(files: Vec<PathBuf>, kill: bool) {
    let expected = facts(&files);
    let Some(mut pipeline) = Pipeline::start(Options { replay: files, ..Options::default() }).await else { return };
    let reader = Reader::watch(&pipeline.internal_address);
    let pool = PgPool::connect_lazy(pipeline.database_url.expose()).unwrap();
    if kill {
        for process in 0..4 {
            let before = in_postgres(&pool).await.values().map(BTreeMap::len).sum::<usize>();
            let enough = expected.values().map(BTreeMap::len).sum::<usize>() / 5 * (process + 1);
            eventually!(
                in_postgres(&pool).await.values().map(BTreeMap::len).sum::<usize>() >= enough.min(before + 50),
                "some more messages are mirrored"
            );
            pipeline.processes()[process].kill();
            pipeline.processes()[process].start_again();
        }
    }
    eventually!(in_postgres(&pool).await == expected, "Postgres has what the log says");
    eventually!(reader.screen().messages.len() == expected.len(), "all chats are on the screen");
    reader.scroll_to_the_beginning().await;
    eventually!(on_screen(&reader) == expected, "the screen shows what the log says");
    assert_same(&in_postgres(&pool).await, &expected, "Postgres");
    assert_same(&on_screen(&reader), &expected, "the screen");
    assert_eq!(reader.screen().backwards, Vec::<String>::new());
    let dead: i64 = sqlx::query_scalar("SELECT count(*) FROM dead_letters").fetch_one(&pool).await.unwrap();
    assert_eq!(dead, 0);
}

async fn mirrored_embedded(files: Vec<PathBuf>, kill: bool) {
    let expected = facts(&files);
    let mut mirror = Embedded::start(&files);
    let reader = Reader::watch(&mirror.internal_address);
    mirror.ready().await;
    let pool = SqlitePool::connect_lazy(&format!("sqlite://{}?mode=ro", mirror.file().display())).unwrap();
    if kill {
        eventually!(in_sqlite(&pool).await.len() > expected.len() / 2, "half of the chats are mirrored");
        mirror.process.kill();
        mirror.process.start_again();
    }
    eventually!(in_sqlite(&pool).await == expected, "the store has what the log says");
    eventually!(reader.screen().messages.len() == expected.len(), "all chats are on the screen");
    reader.scroll_to_the_beginning().await;
    eventually!(on_screen(&reader) == expected, "the screen shows what the log says");
    assert_same(&in_sqlite(&pool).await, &expected, "the store");
    assert_same(&on_screen(&reader), &expected, "the screen");
    assert_eq!(reader.screen().backwards, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_real_log_is_mirrored_whole() {
    if let Some(files) = real_log() {
        mirrored(files, false).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_real_log_is_mirrored_whole_although_every_process_is_killed_once() {
    if let Some(files) = real_log() {
        mirrored(files, true).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_real_log_is_mirrored_whole_on_the_embedded_parts() {
    if let Some(files) = real_log() {
        mirrored_embedded(files, false).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_real_log_is_mirrored_whole_on_the_embedded_parts_although_they_are_killed() {
    if let Some(files) = real_log() {
        mirrored_embedded(files, true).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_small_log_with_every_trap_is_mirrored_whole() {
    mirrored(small_log(), false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_small_log_with_every_trap_is_mirrored_whole_on_the_embedded_parts() {
    mirrored_embedded(small_log(), false).await;
}

#[test]
fn the_small_log_says_what_it_is_meant_to_say() {
    let facts = facts(&small_log());
    let fact = |chat: &str, id: &str| facts[chat].get(id).cloned();
    assert_eq!(fact("C1", "1600000001.000100").unwrap().1.as_deref(), Some("edited in the same second"));
    assert_eq!(fact("C2", "1600000001.000100").unwrap().1.as_deref(), Some("the same ts in another channel"));
    assert_eq!(fact("C1", "1600000003.000300").unwrap().2.as_deref(), Some("1600000001.000100"));
    assert_eq!(fact("C1", "1600000004.000400").unwrap(), ("U2".into(), None, None, None, true));
    assert_eq!(fact("C1", "1600000009.000900").unwrap().1.as_deref(), Some("a change of a message never seen"));
    assert_eq!(fact("C1", "1600000005.000500").unwrap().3, None, "a change without an edited mark");
    assert_eq!(facts.values().map(BTreeMap::len).sum::<usize>(), 9);
}
