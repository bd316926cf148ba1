//! Chats and messages as whole rows, each with the stamp that its version is made of.

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use crate::time::Timestamp;
use crate::version::{ERASED, Version, VersionFields};

/// What a version is made of besides the content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp {
    pub epoch: u32,
    pub sequence: u64,
    pub changed_at: Timestamp,
    pub rev: u32,
    pub deleted: bool,
}

impl Stamp {
    /// Greater than any that a source can make.
    fn erased(created_at: Timestamp) -> Self {
        Self { epoch: ERASED, sequence: 0, changed_at: created_at, rev: 0, deleted: true }
    }

    fn version(&self, digest: u64) -> Version {
        VersionFields {
            epoch: self.epoch,
            sequence: self.sequence,
            changed_at: self.changed_at,
            rev: self.rev,
            deleted: self.deleted,
            digest,
        }
        .encode()
    }
}

/// A message, whole. A deleted one has no text; an erased one has neither text nor author.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    pub chat_id: String,
    /// Unique within its chat only.
    pub id: String,
    /// The message that this one answers, in the same chat.
    pub parent_id: Option<String>,
    pub author: Option<String>,
    pub text: Option<String>,
    pub created_at: Timestamp,
    pub edited_at: Option<Timestamp>,
    pub deleted_at: Option<Timestamp>,
    #[serde(flatten)]
    pub stamp: Stamp,
    pub version: Version,
}

/// A chat, whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chat {
    pub id: String,
    pub title: Option<String>,
    pub created_at: Timestamp,
    pub edited_at: Option<Timestamp>,
    pub deleted_at: Option<Timestamp>,
    #[serde(flatten)]
    pub stamp: Stamp,
    pub version: Version,
}

/// What identifies a row: of all records with one key, the newest is the row.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RowKey {
    Chat(String),
    Message(String, String),
}

impl RowKey {
    pub fn chat_id(&self) -> &str {
        match self {
            Self::Chat(chat) | Self::Message(chat, _) => chat,
        }
    }
}

/// A chat or a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Row {
    Chat(Chat),
    Message(Message),
}

impl Row {
    pub fn key(&self) -> RowKey {
        match self {
            Self::Chat(chat) => RowKey::Chat(chat.id.clone()),
            Self::Message(message) => RowKey::Message(message.chat_id.clone(), message.id.clone()),
        }
    }

    pub fn chat_id(&self) -> &str {
        match self {
            Self::Chat(chat) => &chat.id,
            Self::Message(message) => &message.chat_id,
        }
    }

    pub fn id(&self) -> &str {
        match self {
            Self::Chat(chat) => &chat.id,
            Self::Message(message) => &message.id,
        }
    }

    pub fn version(&self) -> &Version {
        match self {
            Self::Chat(chat) => &chat.version,
            Self::Message(message) => &message.version,
        }
    }

    pub fn is_erased(&self) -> bool {
        self.stamp().epoch == ERASED
    }

    pub fn stamp(&self) -> &Stamp {
        match self {
            Self::Chat(chat) => &chat.stamp,
            Self::Message(message) => &message.stamp,
        }
    }
}

impl Message {
    /// Sets `version` from the stamp and the content.
    #[must_use]
    pub fn stamped(mut self) -> Self {
        self.version = self.expected_version();
        self
    }

    /// The version that this row's fields make.
    pub fn expected_version(&self) -> Version {
        self.stamp.version(self.digest())
    }

    /// xxh3 of `["message",chat_id,id,parent_id,author,text]` as compact JSON.
    pub fn digest(&self) -> u64 {
        digest(&("message", &self.chat_id, &self.id, &self.parent_id, &self.author, &self.text))
    }

    pub fn is_erased(&self) -> bool {
        self.stamp.epoch == ERASED
    }

    /// The row that takes this one's place for ever: where it stood, and nothing of what it was. The same in every region.
    #[must_use]
    pub fn erased(self) -> Self {
        let stamp = Stamp::erased(self.created_at);
        Self { author: None, text: None, edited_at: None, deleted_at: None, stamp, ..self }.stamped()
    }

    pub(crate) fn latest_time(&self) -> Timestamp {
        latest(self.created_at, self.edited_at, self.deleted_at)
    }

    pub(crate) fn texts(&self) -> impl Iterator<Item = &str> {
        [Some(&self.chat_id), Some(&self.id), self.parent_id.as_ref(), self.author.as_ref(), self.text.as_ref()]
            .into_iter()
            .flatten()
            .map(String::as_str)
    }
}

impl Chat {
    /// Sets `version` from the stamp and the content.
    #[must_use]
    pub fn stamped(mut self) -> Self {
        self.version = self.expected_version();
        self
    }

    /// The version that this row's fields make.
    pub fn expected_version(&self) -> Version {
        self.stamp.version(self.digest())
    }

    pub fn is_erased(&self) -> bool {
        self.stamp.epoch == ERASED
    }

    /// The row that takes this one's place for ever, as [`Message::erased`].
    #[must_use]
    pub fn erased(self) -> Self {
        let stamp = Stamp::erased(self.created_at);
        Self { title: None, edited_at: None, deleted_at: None, stamp, ..self }.stamped()
    }

    /// xxh3 of `["chat",id,title]` as compact JSON.
    pub fn digest(&self) -> u64 {
        digest(&("chat", &self.id, &self.title))
    }

    pub(crate) fn latest_time(&self) -> Timestamp {
        latest(self.created_at, self.edited_at, self.deleted_at)
    }

    pub(crate) fn texts(&self) -> impl Iterator<Item = &str> {
        [Some(&self.id), self.title.as_ref()].into_iter().flatten().map(String::as_str)
    }
}

fn digest(content: &impl Serialize) -> u64 {
    // Strings, options and tuples of them cannot fail to serialise.
    xxh3_64(&serde_json::to_vec(content).unwrap_or_default())
}

/// The latest of created, edited and deleted: what `changed_at` of an unrepaired row must be.
pub fn latest(created: Timestamp, edited: Option<Timestamp>, deleted: Option<Timestamp>) -> Timestamp {
    [edited, deleted].into_iter().flatten().fold(created, Timestamp::max)
}

/// A version for a row that is still to be [`Message::stamped`] or [`Chat::stamped`].
pub fn unstamped() -> Version {
    VersionFields { epoch: 0, sequence: 0, changed_at: Timestamp::default(), rev: 0, deleted: false, digest: 0 }
        .encode()
}
