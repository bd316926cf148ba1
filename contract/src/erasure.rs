//! What must never be in the copy again, as it stands in its topic. Pure: no I/O, no clock.

use std::cell::OnceCell;
use std::collections::HashMap;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::record::Record;
use crate::row::Message;
use crate::time::Timestamp;

/// How much of a chat is erased.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "scope", rename_all = "snake_case")]
pub enum Scope {
    /// The chat and whatever is in it, now or later.
    Chat,
    /// One message.
    Message { message_id: String },
    /// What one author had written until then. By [`author_hash`]: the record itself must not keep the name.
    Author { author_hash: String },
}

/// An erasure.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Erasure {
    pub chat_id: String,
    #[serde(flatten)]
    pub scope: Scope,
    /// When it was asked for, by the clock of who asked.
    pub erased_at: Timestamp,
}

/// SHA-256 of `["<chat>","<author>"]` as compact JSON, 64 hex digits: an author has another one in every chat.
pub fn author_hash(chat: &str, author: &str) -> String {
    // Strings cannot fail to serialise.
    let named = serde_json::to_vec(&(chat, author)).unwrap_or_default();
    Sha256::digest(named).iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Erasure {
    /// # Errors
    /// What serde says of bytes that are none.
    pub fn decode(value: &[u8]) -> serde_json::Result<Self> {
        serde_json::from_slice(value)
    }

    /// The record's value.
    pub fn encode(&self) -> Vec<u8> {
        // Strings and a time: it cannot fail.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// The record's key: of two erasures of the same, the later one covers the earlier one.
    pub fn key(&self) -> String {
        let (kind, of) = match &self.scope {
            Scope::Chat => ("chat", None),
            Scope::Message { message_id } => ("message", Some(message_id)),
            Scope::Author { author_hash } => ("author", Some(author_hash)),
        };
        serde_json::json!([kind, self.chat_id, of]).to_string()
    }

    /// Whether a message is among what is erased; its text, its version and its other times do not matter.
    pub fn covers(&self, message: &Message) -> bool {
        message.chat_id == self.chat_id && self.covers_of_chat(Written::of(message), &OnceCell::new())
    }

    /// `hash` is the author's, once it was asked for.
    fn covers_of_chat(&self, message: Written<'_>, hash: &OnceCell<String>) -> bool {
        let is_by = |author: &str, erased| hash.get_or_init(|| author_hash(&self.chat_id, author)) == erased;
        match &self.scope {
            Scope::Chat => true,
            Scope::Message { message_id } => message.id == *message_id,
            Scope::Author { author_hash: erased } => {
                message.created_at <= self.erased_at && message.author.is_some_and(|author| is_by(author, erased))
            }
        }
    }

    /// Whether what nobody understands is about what is erased: whether it names it, as JSON does, or has its key. What says
    /// who wrote it is judged by that; of the rest, whatever has an author's name between quotes may be theirs.
    pub fn is_named_in(&self, raw: &str, key: Option<&str>) -> bool {
        let by = By::read(raw);
        let is_of_author = |erased: &str| match &by {
            By { created_at: Some(at), .. } if *at > self.erased_at => false,
            By { author: Some(author), .. } => author_hash(&self.chat_id, author) == erased,
            By { .. } => strings(raw).any(|text| author_hash(&self.chat_id, &text) == erased),
        };
        self.names(raw, key, is_of_author)
    }

    /// Whether an item must not be appended. One of which nobody can tell who wrote it, and when, may be a later one's, and becomes a
    /// dead letter first.
    fn bars_item(&self, raw: &str) -> bool {
        let by = By::read(raw);
        let is_of_author = |erased: &str| match &by {
            By { author: Some(author), created_at: Some(at) } => {
                *at <= self.erased_at && author_hash(&self.chat_id, author) == erased
            }
            By { .. } => false,
        };
        self.names(raw, None, is_of_author)
    }

    fn names(&self, raw: &str, key: Option<&str>, is_of_author: impl Fn(&str) -> bool) -> bool {
        let names = |id: &str| raw.contains(&quoted(id));
        let behind_chat = key.and_then(|key| key.strip_prefix(&self.chat_id));
        let is_of_chat =
            names(&self.chat_id) || behind_chat.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        is_of_chat
            && match &self.scope {
                Scope::Chat => true,
                Scope::Message { message_id } => {
                    names(message_id) || behind_chat.and_then(|rest| rest.strip_prefix('/')) == Some(message_id)
                }
                Scope::Author { author_hash } => is_of_author(author_hash),
            }
    }
}

/// Who wrote what nobody understands otherwise, and when, as far as it says so.
struct By {
    author: Option<String>,
    created_at: Option<Timestamp>,
}

impl By {
    fn read(raw: &str) -> Self {
        let item: serde_json::Value = serde_json::from_str(raw).unwrap_or_default();
        let text = |name: &str| item.get(name).and_then(serde_json::Value::as_str);
        Self {
            author: text("author").map(str::to_owned),
            created_at: text("created_at").and_then(|at| at.parse().ok()),
        }
    }
}

/// An id as it stands in JSON.
pub fn quoted(id: &str) -> String {
    serde_json::Value::from(id).to_string()
}

/// How long a name is at most that is looked for, in bytes.
const LONGEST_NAME: usize = 1024;

/// What stands between two quotes and may be a name, in JSON that is damaged or cut.
fn strings(raw: &str) -> impl Iterator<Item = String> {
    let opens = |at: &usize| !raw[..*at].ends_with('\\');
    let from = raw.match_indices('"').map(|(at, _)| at).filter(opens);
    from.filter_map(|at| {
        let name = &raw[at..raw.floor_char_boundary(at + LONGEST_NAME)];
        serde_json::Deserializer::from_str(name).into_iter().next()?.ok()
    })
}

/// What of a message an erasure is judged by.
#[derive(Debug, Clone, Copy)]
pub struct Written<'a> {
    pub id: &'a str,
    pub author: Option<&'a str>,
    pub created_at: Timestamp,
}

impl<'a> Written<'a> {
    fn of(message: &'a Message) -> Self {
        Self { id: &message.id, author: message.author.as_deref(), created_at: message.created_at }
    }
}

/// All erasures, by chat.
#[derive(Debug, Clone, Default)]
pub struct ErasureSet(HashMap<String, Vec<Erasure>>);

impl ErasureSet {
    /// Adds one; an earlier one of the same gives way to it. Gives whether that is news.
    pub fn insert(&mut self, erasure: Erasure) -> bool {
        if self.has(&erasure) {
            return false;
        }
        let of_chat = self.0.entry(erasure.chat_id.clone()).or_default();
        of_chat.retain(|known| known.scope != erasure.scope);
        of_chat.push(erasure);
        true
    }

    /// Whether this one, or a later one of the same, is among them.
    pub fn has(&self, erasure: &Erasure) -> bool {
        self.of(&erasure.chat_id).any(|known| known.scope == erasure.scope && known.erased_at >= erasure.erased_at)
    }

    /// All of them, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &Erasure> {
        self.0.values().flatten()
    }

    /// Whether a message is among what is erased.
    pub fn covers_message(&self, message: &Message) -> bool {
        self.covers(&message.chat_id, Written::of(message))
    }

    /// The same, by what is known of it.
    pub fn covers(&self, chat: &str, message: Written<'_>) -> bool {
        let hash = OnceCell::new();
        self.of(chat).any(|erasure| erasure.covers_of_chat(message, &hash))
    }

    /// Whether a whole chat is.
    pub fn covers_chat(&self, chat: &str) -> bool {
        self.of(chat).any(|erasure| erasure.scope == Scope::Chat)
    }

    /// Whether this must not be appended. What says that something is erased may be, always.
    pub fn bars(&self, record: &Record) -> bool {
        match record {
            Record::Message(message) => !message.is_erased() && self.covers_message(message),
            Record::Chat(chat) => !chat.is_erased() && self.covers_chat(&chat.id),
            Record::Rejected(rejected) => self.iter().any(|erasure| erasure.bars_item(&rejected.raw)),
            Record::Marker(_) => false,
        }
    }

    fn of(&self, chat: &str) -> impl Iterator<Item = &Erasure> {
        self.0.get(chat).into_iter().flatten()
    }
}
