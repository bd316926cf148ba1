//! The copy, as the synchronizer reads it: what is stored already, and what operators ask for. It never writes there.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use async_trait::async_trait;
use contract::erasure::Erasure;
use contract::{Chat, Message, Version};
use platform::event_log::TopicPartition;
use platform::retry;

/// Why the copy cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum StoredError {
    /// Not now; it may pass.
    #[error("the copy cannot be read: {0}")]
    Away(String),
    #[error("a row of the copy cannot be read: {0}")]
    Row(#[from] Unreadable),
}

impl From<sqlx::Error> for StoredError {
    fn from(error: sqlx::Error) -> Self {
        Self::Away(error.to_string())
    }
}

/// A row that holds what no record can: somebody wrote it there, and it will not pass.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{id}: {why}")]
pub struct Unreadable {
    pub id: String,
    pub why: String,
}

/// Rows of the copy. One that cannot be read must not hide the others.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Rows<C> {
    pub readable: C,
    pub unreadable: Vec<Unreadable>,
}

impl<C> Rows<C> {
    /// # Errors
    /// If one of them cannot be read.
    pub fn whole(self) -> Result<C, StoredError> {
        self.unreadable.into_iter().next().map_or(Ok(self.readable), |row| Err(row.into()))
    }

    /// Those that can be read; somebody must mend the others, `of` this chat or of the chats.
    pub fn readable(self, of: &str) -> C {
        for row in &self.unreadable {
            tracing::error!(of, id = row.id, why = row.why, "a row of the copy cannot be read");
        }
        metrics::counter!("chat_sync_unreadable_rows_total").increment(self.unreadable.len() as u64);
        self.readable
    }
}

impl<T, C: Default + Extend<T>> FromIterator<Result<T, Unreadable>> for Rows<C> {
    fn from_iter<I: IntoIterator<Item = Result<T, Unreadable>>>(rows: I) -> Self {
        let mut all = Self { readable: C::default(), unreadable: Vec::new() };
        all.extend(rows);
        all
    }
}

impl<T, C: Extend<T>> Extend<Result<T, Unreadable>> for Rows<C> {
    fn extend<I: IntoIterator<Item = Result<T, Unreadable>>>(&mut self, rows: I) {
        let Self { readable, unreadable } = self;
        readable.extend(rows.into_iter().filter_map(|row| row.map_err(|row| unreadable.push(row)).ok()));
    }
}

/// A dead letter that somebody asked to be tried again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retry {
    pub digest: String,
    /// When it was asked for, in microseconds; tells one wish from the next.
    pub asked_at: i64,
    /// Whether `raw` is an item of the source; else it is a record of the log.
    pub from_source: bool,
    /// Of the feed, when the source served it.
    pub generation: Option<u32>,
    pub raw: String,
}

/// What a dead letter holds.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct HeldLetter {
    pub digest: String,
    /// Of the record that it is of.
    pub record_key: Option<String>,
    /// An item of the source or a record of the log, cut to 256 KiB.
    pub raw: String,
}

impl HeldLetter {
    /// Whether it holds something that is to be erased.
    pub fn is_about(&self, erasure: &Erasure) -> bool {
        erasure.is_named_in(&self.raw, self.record_key.as_deref())
    }
}

/// A reconcile that somebody asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Random: a store that went back in time must not give one twice.
    pub id: i64,
    /// Whether changes may be missing until it is done.
    pub gap: bool,
    pub reason: String,
}

/// Whether a store with this progress has everything below these ends.
pub fn has_all(progress: &BTreeMap<TopicPartition, u64>, ends: &BTreeMap<TopicPartition, u64>) -> bool {
    ends.iter().all(|(at, end)| *end == 0 || progress.get(at).is_some_and(|applied| applied >= end))
}

/// Asks the copy as long as it takes; `tell` is told each time why it does not answer.
pub async fn patiently<T, F>(ask: impl Fn() -> F, tell: impl Fn(StoredError)) -> T
where
    F: Future<Output = Result<T, StoredError>>,
{
    let mut waits = retry::reconnecting();
    loop {
        match ask().await {
            Ok(answer) => return answer,
            Err(error) => {
                tell(error);
                tokio::time::sleep(waits.next().unwrap_or(Duration::from_secs(2))).await;
            }
        }
    }
}

/// The copy.
#[async_trait]
pub trait Stored: Send + Sync {
    /// Every chat, by id; deleted ones too.
    async fn chats(&self) -> Result<Rows<BTreeMap<String, Chat>>, StoredError>;

    /// The ids of all chats, in order; deleted ones too.
    async fn chat_ids(&self) -> Result<Vec<String>, StoredError>;

    /// The versions that a chat's messages make as they are stored, by id; deleted ones too. Not the versions that
    /// stand beside them: somebody may have changed a text under its version.
    async fn versions(&self, chat: &str) -> Result<Rows<HashMap<String, Version>>, StoredError>;

    /// These messages of a chat, whole.
    async fn messages(&self, chat: &str, ids: &[String]) -> Result<Rows<Vec<Message>>, StoredError>;

    /// A chat's row.
    async fn chat(&self, chat: &str) -> Result<Option<Chat>, StoredError>;

    /// The next `limit` messages of a chat, by id, that are not erased: what is needed to erase them, and no text.
    async fn unerased(&self, chat: &str, after: &str, limit: u32) -> Result<Rows<Vec<Message>>, StoredError>;

    /// How many versions are kept of messages that are erased; 0 is what it should be.
    async fn erased_versions(&self) -> Result<u64, StoredError>;

    /// Which of these digests are in the dead letters, whatever became of them.
    async fn dead_letters(&self, digests: &[String]) -> Result<HashSet<String>, StoredError>;

    /// The next `limit` dead letters, by digest, that still hold something.
    async fn held_letters(&self, after: &str, limit: u32) -> Result<Vec<HeldLetter>, StoredError>;

    /// The next offset that is applied, by partition.
    async fn progress(&self) -> Result<BTreeMap<TopicPartition, u64>, StoredError>;

    /// The dead letters that are to be tried again.
    async fn retries(&self) -> Result<Vec<Retry>, StoredError>;

    /// The newest reconcile that was asked for.
    async fn request(&self) -> Result<Option<Request>, StoredError>;
}
