//! What every stored copy must do when it is read: Postgres and the embedded one alike.

use std::collections::BTreeMap;
use std::sync::Arc;

use all_in_one::embedded_store::EmbeddedStore;
use contract::row::unstamped;
use contract::{Chat, Message, Record, Row};
use internal::copy::{ChatCopy, Page};
use internal::postgres_copy::PostgresCopy;
use internal::shown::ShownMessage;
use platform::event_log::TopicPartition;
use platform::sqlite::Sqlite;
use platform::testing::postgres_database;
use tempfile::TempDir;
use writer::Store;
use writer::batch::{Fate, collapse, fate};
use writer::suite::{message, record_of};
use writer::to_postgres::Postgres;

/// A copy to read, with the store that fills it.
struct Subject {
    copy: Arc<dyn ChatCopy>,
    store: Arc<dyn Store>,
    _folder: Option<TempDir>,
}

async fn postgres() -> Option<Subject> {
    let url = postgres_database().await?;
    let store = Postgres::new(platform::postgres::pool(&url, 2, true).unwrap());
    store.migrate().await.unwrap();
    let copy = PostgresCopy::new(platform::postgres::pool(&url, 2, false).unwrap());
    Some(Subject { copy: Arc::new(copy), store: Arc::new(store), _folder: None })
}

async fn embedded() -> Option<Subject> {
    let folder = tempfile::tempdir().unwrap();
    let store = Arc::new(EmbeddedStore::new(Sqlite::open(&folder.path().join("test.sqlite")).await.unwrap()));
    store.migrate().await.unwrap();
    Some(Subject { copy: store.clone(), store, _folder: Some(folder) })
}

fn at() -> TopicPartition {
    TopicPartition::new("chat-changes", 3)
}

/// Ten messages of chat `c`, two at one instant, the first and the last at the ends of time.
fn rows() -> Vec<Message> {
    let times = (1..9).map(|second| format!("2026-01-02T03:04:{:02}.000001Z", second.min(7)));
    let first = std::iter::once("1970-01-01T00:00:00.000001Z".to_owned());
    let times = first.chain(times).chain(std::iter::once("9999-12-31T23:59:59.999999Z".to_owned()));
    let row = |(number, time): (usize, String)| {
        let mut row = message("c", &format!("m{number}"), number as u64 + 1);
        row.created_at = time.parse().unwrap();
        row.stamp.changed_at = row.created_at;
        row.stamped()
    };
    times.enumerate().map(row).collect()
}

fn chat(id: &str, deleted: bool) -> Chat {
    let row = message(id, "m", 1);
    let mut stamp = row.stamp;
    stamp.deleted = deleted;
    Chat {
        id: id.into(),
        title: Some(format!("Title of {id}")),
        created_at: row.created_at,
        edited_at: None,
        deleted_at: None,
        stamp,
        version: unstamped(),
    }
    .stamped()
}

async fn filled(subject: &Subject) -> Vec<Message> {
    let rows = rows();
    let chats = [Record::Chat(chat("c", false)), Record::Chat(chat("gone", true))];
    let records = chats.into_iter().chain(rows.iter().cloned().map(Record::Message));
    let fated: Vec<_> = records
        .enumerate()
        .map(|(offset, record)| {
            let record = record_of(&at(), offset as u64, &record);
            let fate = fate(&record);
            assert!(matches!(fate, Fate::Row(Row::Chat(_) | Row::Message(_))));
            (record, fate)
        })
        .collect();
    subject.store.apply(&collapse(&fated, &BTreeMap::new())).await.unwrap();
    rows
}

fn shown(rows: &[Message]) -> Vec<ShownMessage> {
    rows.iter().map(ShownMessage::from).collect()
}

async fn a_snapshot_has_the_last_rows_and_the_positions(subject: Subject) {
    let rows = filled(&subject).await;
    let snapshot = subject.copy.snapshot("c", 3).await.unwrap();
    assert_eq!(snapshot.messages, shown(&rows[7..]), "oldest first, times to the microsecond");
    assert_eq!(snapshot.progress[&at()].next_offset, 12);
    assert_eq!(snapshot.progress, subject.store.progress().await.unwrap(), "and what the last record looked like");
    assert!(subject.copy.snapshot("nowhere", 3).await.unwrap().messages.is_empty());
}

async fn pages_go_back_to_the_beginning_without_a_gap(subject: Subject) {
    let rows = filled(&subject).await;
    let mut seen: Vec<ShownMessage> = Vec::new();
    loop {
        let before = seen.first().map(|oldest| oldest.id.clone());
        let Page::Messages(older) = subject.copy.messages("c", before.as_deref(), 3).await.unwrap() else {
            panic!("there is such a chat");
        };
        assert_eq!(older.before, seen.first().map(|oldest| (oldest.created_at, oldest.id.clone())));
        assert_eq!(older.snapshot.progress[&at()].next_offset, 12);
        seen.splice(0..0, older.snapshot.messages);
        if !older.more {
            break;
        }
    }
    assert_eq!(seen, shown(&rows));
    let page = async |chat, before| subject.copy.messages(chat, before, 3).await.unwrap();
    assert!(matches!(page("c", Some("nobody")).await, Page::NoSuchPlace));
    assert!(matches!(page("nowhere", None).await, Page::NoChat));
    assert!(matches!(page("gone", None).await, Page::NoChat), "deleted");
}

async fn stored_rows_are_found_by_chat_and_id_together(subject: Subject) {
    let rows = filled(&subject).await;
    let wanted = [("c".to_owned(), "m1".to_owned()), ("d".to_owned(), "m2".to_owned())];
    assert_eq!(subject.copy.stored(&wanted).await.unwrap(), shown(&rows[1..2]));
}

async fn the_list_of_chats_has_no_deleted_ones(subject: Subject) {
    filled(&subject).await;
    let chats = subject.copy.chats().await.unwrap();
    let titles: Vec<_> = chats.iter().map(|chat| (chat.id.as_str(), chat.title.as_deref())).collect();
    assert_eq!(titles, [("c", Some("Title of c"))]);
}

macro_rules! copy_suite {
    ($name:ident: $($case:ident),* $(,)?) => {
        mod $name {
            $(
                #[tokio::test]
                async fn $case() {
                    if let Some(subject) = super::$name().await {
                        super::$case(subject).await;
                    }
                }
            )*
        }
    };
}

copy_suite!(postgres:
    a_snapshot_has_the_last_rows_and_the_positions,
    pages_go_back_to_the_beginning_without_a_gap,
    stored_rows_are_found_by_chat_and_id_together,
    the_list_of_chats_has_no_deleted_ones,
);

copy_suite!(embedded:
    a_snapshot_has_the_last_rows_and_the_positions,
    pages_go_back_to_the_beginning_without_a_gap,
    stored_rows_are_found_by_chat_and_id_together,
    the_list_of_chats_has_no_deleted_ones,
);
