//! What every store of the copy must do. The embedded store is trusted because it passes what Postgres passes.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use contract::record::RETRY_HEADER;
use contract::row::unstamped;
use contract::{Chat, Message, Record, Rejected, Stamp, Timestamp};
use platform::event_log::{LogRecord, Progress, TopicPartition};

use crate::batch::{Batch, Fate, collapse, fate};
use crate::store::{Applied, Store};

/// A store with a view of what it holds, for the suite only.
#[async_trait]
pub trait Inspected: Store {
    /// Every message, by (chat, id): its version, its text.
    async fn messages(&self) -> BTreeMap<(String, String), (String, Option<String>)>;
    /// Every version kept of a message.
    async fn versions(&self, chat: &str, id: &str) -> Vec<String>;
    /// Every chat's title by id.
    async fn chats(&self) -> BTreeMap<String, Option<String>>;
    /// The dead letters: reason, raw.
    async fn dead_letters(&self) -> Vec<(String, String)>;
    /// Judges (stored, incoming) pairs of versions by writing one over the other: whether the incoming one won.
    async fn judge(&self, stored: &str, incoming: &str) -> bool;
}

/// Makes one test a case; `$store` is an expression of type `Option<Arc<dyn Inspected>>` in async context,
/// empty and migrated.
#[macro_export]
macro_rules! store_suite {
    ($store:expr) => {
        $crate::store_suite!(@cases $store;
            a_batch_is_stored_whole,
            newer_wins_in_whatever_order_they_come,
            an_edit_before_its_create_is_kept,
            a_batch_from_another_place_changes_nothing,
            one_partition_that_missed_rolls_back_the_whole_batch,
            progress_begins_once_only,
            a_dead_letter_is_kept_once,
            a_dead_letter_that_was_erased_holds_nothing_any_more,
            what_is_erased_leaves_neither_history_nor_raw_text,
            a_version_of_what_was_erased_is_not_kept_however_late_it_comes,
            migrating_again_changes_nothing,
            versions_are_judged_as_the_fixtures_say,
        );
    };
    (@cases $store:expr; $($case:ident),* $(,)?) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                if let Some(store) = $store {
                    $crate::suite::$case(store).await;
                }
            }
        )*
    };
}

type Subject = Arc<dyn Inspected>;

/// A message of this sequence, for tests.
pub fn message(chat: &str, id: &str, sequence: u64) -> Message {
    let created_at: Timestamp = "2026-01-02T03:04:05.000006Z".parse().expect("a time");
    Message {
        chat_id: chat.into(),
        id: id.into(),
        parent_id: None,
        author: Some("ada".into()),
        text: Some("hello".into()),
        created_at,
        edited_at: None,
        deleted_at: None,
        stamp: Stamp { epoch: 1, sequence, changed_at: created_at, rev: 0, deleted: false },
        version: unstamped(),
    }
    .stamped()
}

/// The same message, edited.
pub fn edited(message: &Message, sequence: u64, text: &str) -> Message {
    let mut edited = message.clone();
    edited.text = Some(text.into());
    edited.stamp.sequence = sequence;
    edited.stamped()
}

/// A record as the log would hold it.
pub fn record_of(at: &TopicPartition, offset: u64, record: &Record) -> LogRecord {
    LogRecord {
        at: at.clone(),
        offset,
        timestamp_ms: 1_767_323_045_000 + i64::try_from(offset).unwrap_or_default(),
        key: record.key().map(String::into_bytes),
        value: record.encode(),
        headers: Vec::new(),
    }
}

fn batch(at: &TopicPartition, from: Option<u64>, records: &[Record]) -> Batch {
    let first = from.unwrap_or(0);
    let fated: Vec<(LogRecord, Fate)> = records
        .iter()
        .zip(first..)
        .map(|(record, offset)| {
            let record = record_of(at, offset, record);
            let fate = fate(&record);
            (record, fate)
        })
        .collect();
    let from = from.map(|next_offset| (at.clone(), Progress { next_offset, last: Default::default() }));
    collapse(&fated, &from.into_iter().collect())
}

fn at(partition: u32) -> TopicPartition {
    TopicPartition::new("chat-changes", partition)
}

async fn apply(store: &Subject, batch: &Batch) -> Applied {
    store.apply(batch).await.unwrap()
}

async fn next_offset(store: &Subject, at: &TopicPartition) -> Option<u64> {
    store.progress().await.unwrap().get(at).map(|progress| progress.next_offset)
}

fn chat(title: &str, sequence: u64) -> Chat {
    let row = message("c", "m", sequence);
    Chat {
        id: "c".into(),
        title: Some(title.into()),
        created_at: row.created_at,
        edited_at: None,
        deleted_at: None,
        stamp: row.stamp,
        version: unstamped(),
    }
    .stamped()
}

pub async fn a_batch_is_stored_whole(store: Subject) {
    let records = [
        Record::Chat(chat("General", 1)),
        Record::Message(message("c", "m1", 2)),
        Record::Message(message("c", "m2", 3)),
    ];
    let batch = batch(&at(0), None, &records);
    assert_eq!(apply(&store, &batch).await, Applied::Whole { newer: 3 });
    assert_eq!(store.messages().await.len(), 2);
    assert_eq!(store.chats().await, BTreeMap::from([("c".into(), Some("General".into()))]));
    assert_eq!(next_offset(&store, &at(0)).await, Some(3));
    assert_eq!(store.progress().await.unwrap()[&at(0)].last, batch.moves[0].to.last);
}

pub async fn newer_wins_in_whatever_order_they_come(store: Subject) {
    let first = message("c", "m", 1);
    let (second, third) = (edited(&first, 2, "second"), edited(&first, 3, "third"));
    for (offset, row) in [&second, &first, &third, &second].into_iter().enumerate() {
        let from = (offset > 0).then_some(offset as u64);
        apply(&store, &batch(&at(0), from, &[Record::Message(row.clone())])).await;
    }
    let stored = store.messages().await;
    assert_eq!(stored[&("c".into(), "m".into())], (third.version.to_string(), Some("third".into())));
    let mut versions = store.versions("c", "m").await;
    versions.sort();
    assert_eq!(versions, [first, second, third].map(|row| row.version.to_string()));
}

pub async fn an_edit_before_its_create_is_kept(store: Subject) {
    let first = message("c", "m", 1);
    let edit = edited(&first, 2, "edited");
    apply(&store, &batch(&at(0), None, &[Record::Message(edit)])).await;
    assert_eq!(apply(&store, &batch(&at(0), Some(1), &[Record::Message(first)])).await, Applied::Whole { newer: 0 });
    assert_eq!(store.messages().await[&("c".into(), "m".into())].1.as_deref(), Some("edited"));
}

pub async fn a_batch_from_another_place_changes_nothing(store: Subject) {
    apply(&store, &batch(&at(0), None, &[Record::Message(message("c", "m1", 1))])).await;
    let elsewhere = batch(&at(0), Some(5), &[Record::Message(message("c", "m2", 2)), Record::Chat(chat("x", 3))]);
    assert_eq!(apply(&store, &elsewhere).await, Applied::Missed);
    assert_eq!((store.messages().await.len(), store.chats().await.len()), (1, 0));
    assert_eq!(next_offset(&store, &at(0)).await, Some(1));
}

pub async fn one_partition_that_missed_rolls_back_the_whole_batch(store: Subject) {
    apply(&store, &batch(&at(0), None, &[Record::Message(message("c", "m1", 1))])).await;
    let mut both = batch(&at(0), Some(1), &[Record::Message(message("c", "m2", 2))]);
    both.moves.extend(batch(&at(1), Some(7), &[Record::Message(message("d", "m3", 3))]).moves);
    assert_eq!(apply(&store, &both).await, Applied::Missed);
    assert_eq!((next_offset(&store, &at(0)).await, next_offset(&store, &at(1)).await), (Some(1), None));
    assert_eq!(store.messages().await.len(), 1);
}

pub async fn progress_begins_once_only(store: Subject) {
    let first = batch(&at(0), None, &[Record::Message(message("c", "m1", 1))]);
    apply(&store, &first).await;
    let again = batch(&at(0), None, &[Record::Message(message("c", "m2", 2))]);
    assert_eq!(apply(&store, &again).await, Applied::Missed);
    assert_eq!(store.messages().await.len(), 1);
}

pub async fn a_dead_letter_is_kept_once(store: Subject) {
    let mut garbage = record_of(&at(0), 0, &Record::Chat(chat("x", 1)));
    garbage.value = b"{\"kind\":\"poll\",\"x\":\"\xc3\xa4\"}".to_vec();
    let twice: Vec<_> = (0..2)
        .map(|offset| {
            let record = LogRecord { offset, ..garbage.clone() };
            (record.clone(), fate(&record))
        })
        .collect();
    let mut batch = collapse(&twice, &BTreeMap::new());
    apply(&store, &batch).await;
    batch.moves[0].from = Some(2);
    apply(&store, &batch).await;
    let reasons: Vec<String> = store.dead_letters().await.into_iter().map(|(reason, _)| reason).collect();
    assert_eq!(reasons, ["unknown_kind"]);
    assert_eq!(next_offset(&store, &at(0)).await, Some(2));
}

pub async fn what_is_erased_leaves_neither_history_nor_raw_text(store: Subject) {
    let (first, other) = (message("c", "m", 1), message("c", "other", 1));
    let edit = edited(&first, 2, "edited");
    let rows = [&first, &edit, &other].map(|row| Record::Message(row.clone()));
    let mut before = batch(&at(0), None, &rows);
    let letter = |id: &str| {
        let raw = format!(r#"{{"chat_id":"c","id":"{id}","text":7}}"#);
        Record::Rejected(Rejected::new("external", "malformed", "7 is no text", raw.as_bytes()))
    };
    before.dead_letters = batch(&at(1), None, &[letter("m"), letter("other")]).dead_letters;
    apply(&store, &before).await;
    apply(&store, &batch(&at(0), Some(3), &[Record::Message(edit.erased())])).await;
    assert_eq!(store.messages().await[&("c".into(), "m".into())].1, None);
    assert_eq!((store.versions("c", "m").await.len(), store.versions("c", "other").await.len()), (0, 1));
    let raw: Vec<bool> = store.dead_letters().await.into_iter().map(|(_, raw)| raw.is_empty()).collect();
    assert_eq!(raw.iter().filter(|blank| **blank).count(), 1, "the other's stays");
    assert_eq!(raw.len(), 2, "that there was one stays");
    let chat = Record::Chat(chat("General", 1).erased());
    apply(&store, &batch(&at(0), Some(4), &[chat])).await;
    assert_eq!(store.chats().await, BTreeMap::from([("c".into(), None)]));
    assert!(store.dead_letters().await.iter().all(|(_, raw)| raw.is_empty()), "what names the chat is about it");
}

pub async fn a_dead_letter_that_was_erased_holds_nothing_any_more(store: Subject) {
    let letter = Record::Rejected(Rejected::new("external", "malformed", "about secrets", b"a secret"));
    let garbage = batch(&at(0), None, std::slice::from_ref(&letter));
    let digest = garbage.dead_letters[0].digest.clone();
    apply(&store, &garbage).await;
    let mut erased = record_of(&at(0), 1, &Record::Rejected(Rejected::erased("external")));
    erased.headers.push((RETRY_HEADER.to_owned(), digest));
    let fate = fate(&erased);
    let from = BTreeMap::from([(at(0), Progress { next_offset: 1, last: garbage.moves[0].to.last })]);
    apply(&store, &collapse(&[(erased, fate)], &from)).await;
    assert_eq!(store.dead_letters().await, [("malformed".to_owned(), String::new())]);
}

pub async fn a_version_of_what_was_erased_is_not_kept_however_late_it_comes(store: Subject) {
    let first = message("c", "m", 1);
    let erased = first.clone().erased();
    let both = [Record::Message(erased.clone()), Record::Message(first.clone())];
    apply(&store, &batch(&at(0), None, &both)).await;
    apply(&store, &batch(&at(0), Some(2), &[Record::Message(edited(&first, 9, "late"))])).await;
    assert_eq!(store.messages().await[&("c".into(), "m".into())], (erased.version.to_string(), None));
    assert_eq!(store.versions("c", "m").await, Vec::<String>::new());
}

pub async fn migrating_again_changes_nothing(store: Subject) {
    apply(&store, &batch(&at(0), None, &[Record::Message(message("c", "m1", 1))])).await;
    store.migrate().await.unwrap();
    assert_eq!(store.messages().await.len(), 1);
}

pub async fn versions_are_judged_as_the_fixtures_say(store: Subject) {
    let cases: Vec<serde_json::Value> =
        serde_json::from_str(include_str!("../../contract/fixtures/versions.json")).unwrap();
    for case in cases {
        let version = |side: &str| case[side]["version"].as_str().unwrap().to_owned();
        let won = store.judge(&version("stored"), &version("incoming")).await;
        assert_eq!(won, case["incoming_is"] == "newer", "{}", case["name"]);
    }
}
