//! Reconcile against a source whose listings are wrong: nothing that is there may be deleted or changed for that, and
//! nothing is called compared that was not.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use all_in_one::embedded_log::EmbeddedLog;
use all_in_one::embedded_store::EmbeddedStore;
use async_trait::async_trait;
use platform::eventually;
use platform::health::Health;
use platform::leadership::Leadership;
use platform::lifecycle::Stop;
use platform::sqlite::Sqlite;
use serde_json::json;
use serde_json::value::RawValue;
use synchronizer::source::{ListAt, Listing, Outcome, Page, Source};
use tempfile::TempDir;
use writer::Store;

/// How its listings are wrong.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Wrong {
    /// The list of chats is empty, once.
    NoChatsOnce,
    /// The list of chats is not found, once.
    ChatsGoneOnce,
    /// The chat's messages are not found, ever.
    MessagesGone,
    /// There is an item of which nobody can read what it is.
    UnreadableId,
    /// A message has an older text, once.
    OldTextOnce,
    /// A message is missing, once.
    NoMessageOnce,
}

/// Has one chat with two messages; its feed brings them, its listings are wrong from the second round on.
struct Listed {
    wrong: Wrong,
    rounds: AtomicU32,
    was_wrong: AtomicBool,
}

fn raw(value: serde_json::Value) -> Box<RawValue> {
    RawValue::from_string(value.to_string()).unwrap()
}

fn chat() -> serde_json::Value {
    json!({ "type": "chat", "id": "c", "title": "A chat", "created_at": "2026-01-02T03:04:05Z", "edited_at": null,
            "deleted_at": null, "deleted": false, "sequence": 1 })
}

fn message(id: &str, sequence: u64) -> serde_json::Value {
    json!({ "type": "message", "chat_id": "c", "id": id, "parent_id": null, "author": "a", "text": "x",
            "created_at": "2026-01-02T03:04:05Z", "edited_at": null, "deleted_at": null, "deleted": false,
            "sequence": sequence })
}

#[async_trait]
impl Source for Listed {
    async fn poll(&self, after: Option<&str>, _: Duration) -> Outcome<Page> {
        let items = match after {
            None => vec![raw(chat()), raw(message("m", 2)), raw(message("n", 3))],
            Some(_) => {
                tokio::time::sleep(Duration::from_millis(20)).await;
                Vec::new()
            }
        };
        Outcome::Answered(Page { generation: 1, items, next: "end".into(), more: false })
    }

    async fn list(&self, at: &ListAt) -> Outcome<Listing> {
        let page = |items| Outcome::Answered(Listing { generation: 1, items, next: None });
        let round = match at {
            ListAt::Chats => self.rounds.fetch_add(1, Ordering::SeqCst) + 1,
            ListAt::Messages { .. } => self.rounds.load(Ordering::SeqCst),
        };
        match (at, self.wrong) {
            (ListAt::Chats, Wrong::NoChatsOnce) if round == 2 => page(Vec::new()),
            (ListAt::Chats, Wrong::ChatsGoneOnce) if round == 2 => Outcome::Gone("404".into()),
            (ListAt::Chats, _) => page(vec![raw(chat())]),
            (ListAt::Messages { .. }, Wrong::MessagesGone) if round >= 2 => Outcome::Gone("404".into()),
            (ListAt::Messages { .. }, Wrong::UnreadableId) if round >= 2 => {
                page(vec![raw(json!({ "garbled": true })), raw(message("n", 3))])
            }
            (ListAt::Messages { .. }, wrong @ (Wrong::OldTextOnce | Wrong::NoMessageOnce))
                if round >= 2 && !self.was_wrong.swap(true, Ordering::SeqCst) =>
            {
                let mut old = message("m", 1);
                old["text"] = "old".into();
                let old = (wrong == Wrong::OldTextOnce).then(|| raw(old));
                page(old.into_iter().chain([raw(message("n", 3))]).collect())
            }
            (ListAt::Messages { .. }, _) => page(vec![raw(message("m", 2)), raw(message("n", 3))]),
        }
    }
}

struct World {
    db: Sqlite,
    source: Arc<Listed>,
    stop: Stop,
    _folder: TempDir,
}

async fn begin(wrong: Wrong) -> World {
    #[derive(clap::Parser)]
    struct Args {
        #[command(flatten)]
        settings: synchronizer::Settings,
    }
    let arguments = ["synchronizer", "--marker-every", "20ms", "--reconcile-every", "300ms"];
    let settings = <Args as clap::Parser>::parse_from(arguments).settings;
    let folder = tempfile::tempdir().unwrap();
    let db = Sqlite::open(&folder.path().join("log.sqlite")).await.unwrap();
    let store = Arc::new(EmbeddedStore::new(db.clone()));
    store.migrate().await.unwrap();
    let log = Arc::new(EmbeddedLog::open(db.clone()).await.unwrap());
    let stop = Stop::new();
    let source = Arc::new(Listed { wrong, rounds: AtomicU32::new(0), was_wrong: AtomicBool::new(false) });
    let running = synchronizer::run(
        settings,
        source.clone(),
        store.clone(),
        log.clone(),
        Leadership::always(),
        Health::new(),
        stop.clone(),
    );
    tokio::spawn(running);
    let writing = writer::Settings { topic_suffix: String::new(), group: "writer".into() };
    tokio::spawn(writer::run(writing, log, store, Health::new(), stop.clone()));
    World { db, source, stop, _folder: folder }
}

impl World {
    async fn count(&self, sql: &'static str) -> i64 {
        sqlx::query_scalar(sql).fetch_one(&self.db.read).await.unwrap()
    }

    async fn rounds(&self, count: u32) {
        eventually!(self.source.rounds.load(Ordering::SeqCst) >= count, "{count} lists of chats were asked for");
    }

    async fn nothing_is_changed(self) {
        assert_eq!(self.count("SELECT count(*) FROM messages WHERE NOT deleted").await, 2);
        assert_eq!(self.count("SELECT count(*) FROM chats WHERE NOT deleted").await, 1);
        let deletions = "SELECT count(*) FROM log_records WHERE value LIKE '%\"deleted\":true%'";
        assert_eq!(self.count(deletions).await, 0, "nor was anybody told so");
        assert_eq!(self.count("SELECT count(*) FROM message_versions").await, 2, "nor is a text another one");
        self.stop.cancel();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_of_chats_that_is_empty_once_deletes_nothing() {
    let world = begin(Wrong::NoChatsOnce).await;
    eventually!(world.count("SELECT count(*) FROM messages").await == 2, "both are stored");
    world.rounds(5).await;
    world.nothing_is_changed().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_of_chats_that_is_not_found_is_asked_for_again() {
    let world = begin(Wrong::ChatsGoneOnce).await;
    eventually!(world.count("SELECT count(*) FROM messages").await == 2, "both are stored");
    world.rounds(4).await;
    world.nothing_is_changed().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_chat_that_cannot_be_listed_is_not_called_compared() {
    let world = begin(Wrong::MessagesGone).await;
    eventually!(world.count("SELECT count(*) FROM messages").await == 2, "both are stored");
    world.rounds(3).await;
    let claims = "SELECT count(DISTINCT json_extract(CAST(value AS TEXT), '$.verified_through')) FROM log_records
        WHERE topic = 'chat-changes'";
    assert!(world.count(claims).await <= 1, "only the first round was a whole one");
    world.nothing_is_changed().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_item_without_an_id_may_be_any_that_is_missing() {
    let world = begin(Wrong::UnreadableId).await;
    eventually!(world.count("SELECT count(*) FROM messages").await == 2, "both are stored");
    world.rounds(4).await;
    world.nothing_is_changed().await;
}

/// Waits until it was wrong, and for three rounds more.
async fn after_it_was_wrong(world: &World) {
    eventually!(world.count("SELECT count(*) FROM messages").await == 2, "both are stored");
    eventually!(world.source.was_wrong.load(Ordering::SeqCst), "it was served wrongly");
    let rounds = world.source.rounds.load(Ordering::SeqCst);
    world.rounds(rounds + 3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_text_that_is_served_wrongly_once_repairs_nothing() {
    let world = begin(Wrong::OldTextOnce).await;
    after_it_was_wrong(&world).await;
    world.nothing_is_changed().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_is_missing_once_is_not_deleted() {
    let world = begin(Wrong::NoMessageOnce).await;
    after_it_was_wrong(&world).await;
    world.nothing_is_changed().await;
}
