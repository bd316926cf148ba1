//! What is read from the stored copy.

use std::collections::BTreeMap;

use async_trait::async_trait;
use contract::Timestamp;
use platform::event_log::{Progress, TopicPartition};

use crate::shown::{ShownChat, ShownMessage};

/// Messages of a chat and the positions that they reflect, from ONE snapshot of the store.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// Oldest first.
    pub messages: Vec<ShownMessage>,
    /// Every record below these offsets is in `messages`, as far as it belongs there; partitions without
    /// progress are absent.
    pub progress: BTreeMap<TopicPartition, Progress>,
}

/// Why the copy could not be read.
#[derive(Debug, thiserror::Error)]
#[error("the copy cannot be read now: {0}")]
pub struct CopyError(pub String);

/// What became of a question about a chat's messages.
#[derive(Debug, Clone)]
pub enum Page {
    Messages(Older),
    /// There is no such chat, or it was deleted.
    NoChat,
    /// `before` names no message of this chat.
    NoSuchPlace,
}

/// Messages before a place in a chat.
#[derive(Debug, Clone)]
pub struct Older {
    /// The last ones before it.
    pub snapshot: Snapshot,
    /// Whether there are older ones.
    pub more: bool,
    /// The message before which they stand, as time and id; `None` at the chat's end.
    pub before: Option<(Timestamp, String)>,
}

/// The stored copy, for reading.
#[async_trait]
pub trait ChatCopy: Send + Sync {
    /// All chats that are not deleted, by time.
    async fn chats(&self) -> Result<Vec<ShownChat>, CopyError>;

    /// The chat's last `limit` messages, with the positions that they reflect.
    async fn snapshot(&self, chat: &str, limit: u32) -> Result<Snapshot, CopyError>;

    /// The same, for whom the last one was too old.
    async fn recent_snapshot(&self, chat: &str, limit: u32) -> Result<Snapshot, CopyError> {
        self.snapshot(chat, limit).await
    }

    /// The last `limit` messages before the message `before`.
    async fn messages(&self, chat: &str, before: Option<&str>, limit: u32) -> Result<Page, CopyError>;

    /// The positions up to which the store has everything.
    async fn progress(&self) -> Result<BTreeMap<TopicPartition, Progress>, CopyError>;

    /// The stored rows of these messages, as (chat, id); those that are not stored are absent.
    async fn stored(&self, wanted: &[(String, String)]) -> Result<Vec<ShownMessage>, CopyError>;
}
