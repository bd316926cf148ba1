//! The record: JSON on the log, readable by whoever looks into the topic.

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use crate::row::{Chat, Message, Row};
use crate::time::Timestamp;
use crate::topic::{MAX_RECORD_BYTES, partition_of, spread};

/// How much of a rejected item's raw text is kept, in bytes: 256 KiB.
pub const MAX_RAW_BYTES: usize = 256 << 10;

/// How much of the explanation for people is kept, in bytes.
const MAX_DETAIL_BYTES: usize = 1 << 10;

/// The longest id, in bytes: an index entry of Postgres holds a third of its 8 KiB page at most
/// (PostgreSQL's documentation, "Limits"), and a key has two ids.
pub const MAX_ID_BYTES: usize = 512;

/// The header of a record that is a dead letter's second try: the letter's digest.
pub const RETRY_HEADER: &str = "chat-sync-retry";

/// A change further ahead of its record's own timestamp than this is not believed, where the source
/// has no sequence to order by: one day, in microseconds.
const MAX_AHEAD_MICROS: u64 = 24 * 3600 * 1_000_000;

/// Everything that stands in the changes topic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Record {
    Message(Message),
    Chat(Chat),
    Rejected(Rejected),
    Marker(Marker),
}

/// A source item that could not be understood. The cursor may pass it only because it is here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rejected {
    pub source: String,
    /// The feed's generation when the item was served, where it is an item of the source.
    #[serde(default)]
    pub generation: Option<u32>,
    /// A short code, such as `malformed`; what dead letters are grouped by.
    pub reason: String,
    /// For people.
    pub detail: String,
    /// The item as it was served, cut to [`MAX_RAW_BYTES`].
    pub raw: String,
    /// Its whole length, in bytes.
    pub raw_length: u64,
    /// xxh3 of the whole, in the one form that it is known by; 16 hex digits; the record's key.
    pub raw_digest: String,
}

/// A claim of the leader: everything that the source served up to `cursor` was appended before this.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Marker {
    pub source: String,
    pub region: String,
    /// The leader's incarnation: another string at every start.
    pub leader: String,
    /// Counts up from 1 within one incarnation.
    pub number: u64,
    /// Opaque; `null` before the source's first page.
    pub cursor: Option<String>,
    /// The oldest cursor that a new leader should start from, so that late rows are read again.
    pub settled: Option<String>,
    /// Of the changes topic.
    pub partitions: u32,
    /// When it was made, by the leader's clock.
    pub at: Timestamp,
    /// When the source last said that there was nothing more, by the leader's clock; `null` until it did.
    pub fresh_as_of: Option<Timestamp>,
    /// Why the source cannot be read just now, for people; `null` while it answers.
    #[serde(default)]
    pub waiting: Option<String>,
    /// Since when this leader leads, by its clock.
    #[serde(default)]
    pub leads_since: Option<Timestamp>,
    /// What the last whole comparison with the source had to append, and when that comparison began.
    #[serde(default)]
    pub drift: Option<u64>,
    #[serde(default)]
    pub verified_through: Option<Timestamp>,
    /// Whether the source does not answer this region at all: another one may reach it, and should poll then.
    #[serde(default)]
    pub unreachable: bool,
    /// The number of the last marker before this one that every partition took; 0 if none is known. Where that one was not
    /// read before this one, records are missing in between.
    #[serde(default)]
    pub previous: u64,
    /// Whose marker that was; without it, this leader's own.
    #[serde(default)]
    pub previous_leader: Option<String>,
    /// The feed's generation, once it was served.
    #[serde(default)]
    pub generation: Option<u32>,
    /// Whether changes may be missing up to the cursor, until a reconcile is done.
    #[serde(default)]
    pub gap: bool,
    /// In how many chats the copies of this region and of another one differ, for all that is known; `null` where there is no other
    /// region, or none was heard of yet.
    #[serde(default)]
    pub differing: Option<u64>,
    /// Everything that stood in the other regions' copies at that moment, by their clocks, was compared with this one's.
    #[serde(default)]
    pub compared_through: Option<Timestamp>,
    /// At least so many records of this leader lie in this partition between the marker before this one (its predecessor) and this
    /// one; another number in every partition.
    #[serde(default)]
    pub records: u64,
}

impl Marker {
    /// The leader and the number of the last marker before this one that every partition took, if one is known.
    pub fn predecessor(&self) -> Option<(&str, u64)> {
        let leader = self.previous_leader.as_deref().unwrap_or(&self.leader);
        (self.previous > 0).then_some((leader, self.previous))
    }
}

/// Why bytes are not a [`Record`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    #[error("not UTF-8: {0}")]
    BadUtf8(String),
    #[error("not JSON: {0}")]
    BadJson(String),
    #[error("JSON nested too deeply: {0}")]
    TooDeep(String),
    #[error("no known kind of record: {0}")]
    UnknownKind(String),
    #[error("not of the record's shape: {0}")]
    BadShape(String),
    #[error("{0} bytes exceed the limit of {MAX_RECORD_BYTES}")]
    TooLarge(usize),
    #[error("an id of {0} bytes; the limit is {MAX_ID_BYTES}")]
    LongId(usize),
    #[error("U+0000 in a text, which the store cannot hold")]
    NulCharacter,
    #[error("the version {found} does not match its fields, which make {expected}")]
    VersionMismatch { found: String, expected: String },
    #[error("changed_at {0} is not the latest of created, edited and deleted")]
    ChangedAtMismatch(Timestamp),
    #[error("changed_at {0} lies more than a day ahead of the record's timestamp")]
    FromTheFuture(Timestamp),
}

impl Invalid {
    /// The short code that dead letters are grouped by.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::BadUtf8(_) => "bad_utf8",
            Self::BadJson(_) => "bad_json",
            Self::TooDeep(_) => "too_deep",
            Self::UnknownKind(_) => "unknown_kind",
            Self::BadShape(_) => "bad_shape",
            Self::TooLarge(_) => "too_large",
            Self::LongId(_) => "long_id",
            Self::NulCharacter => "nul_character",
            Self::VersionMismatch { .. } => "version_mismatch",
            Self::ChangedAtMismatch(_) => "changed_at_mismatch",
            Self::FromTheFuture(_) => "from_the_future",
        }
    }
}

impl From<Row> for Record {
    fn from(row: Row) -> Self {
        match row {
            Row::Chat(chat) => Self::Chat(chat),
            Row::Message(message) => Self::Message(message),
        }
    }
}

impl Record {
    /// Reads a record's value and checks it whole.
    ///
    /// `appended_at` is the record's own timestamp on the log.
    ///
    /// # Errors
    /// [`Invalid`]: whatever it is, the bytes are a dead letter.
    pub fn decode(value: &[u8], appended_at: Timestamp) -> Result<Self, Invalid> {
        if value.len() > MAX_RECORD_BYTES {
            return Err(Invalid::TooLarge(value.len()));
        }
        let text = std::str::from_utf8(value).map_err(|error| Invalid::BadUtf8(error.to_string()))?;
        let record: Self = serde_json::from_str(text).map_err(|error| classify(text, &error))?;
        record.check(appended_at)?;
        Ok(record)
    }

    /// The record's value.
    pub fn encode(&self) -> Vec<u8> {
        // Every field is a string, a number, a bool or an option of these: it cannot fail.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// The record's key: `chat_id/message_id`, `chat_id`, the raw item's digest, or none for a marker.
    pub fn key(&self) -> Option<String> {
        match self {
            Self::Message(message) => Some(format!("{}/{}", message.chat_id, message.id)),
            Self::Chat(chat) => Some(chat.id.clone()),
            Self::Rejected(rejected) => Some(rejected.raw_digest.clone()),
            Self::Marker(_) => None,
        }
    }

    /// The partition that it belongs to; `None` for a marker, which goes to every one.
    pub fn partition(&self, partitions: u32) -> Option<u32> {
        match self {
            Self::Message(message) => Some(partition_of(&message.chat_id, partitions)),
            Self::Chat(chat) => Some(partition_of(&chat.id, partitions)),
            Self::Rejected(rejected) => {
                Some(spread(u64::from_str_radix(&rejected.raw_digest, 16).unwrap_or(0), partitions))
            }
            Self::Marker(_) => None,
        }
    }

    /// CloudEvents 1.0 attributes in Kafka's binary mode, `source` being the vendor's name.
    ///
    /// Source: CloudEvents Kafka protocol binding 1.0.2, §3.2 (`ce_` prefix, `content-type`).
    pub fn headers(&self, source: &str, at: Timestamp) -> Vec<(String, String)> {
        let id = match self {
            Self::Message(message) => message.version.to_string(),
            Self::Chat(chat) => chat.version.to_string(),
            Self::Rejected(rejected) => rejected.raw_digest.clone(),
            Self::Marker(marker) => format!("{}/{}", marker.leader, marker.number),
        };
        [
            ("ce_specversion", "1.0".to_owned()),
            ("ce_id", id),
            ("ce_source", source.to_owned()),
            ("ce_type", format!("chat-sync.{}.v1", self.kind())),
            ("ce_time", at.to_string()),
            ("content-type", "application/json".to_owned()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .to_vec()
    }

    /// What it is called as a dead letter: the same content is one letter. xxh3, 16 hex digits.
    pub fn letter_digest(&self) -> String {
        match self {
            Self::Rejected(rejected) => rejected.raw_digest.clone(),
            other => format!("{:016x}", xxh3_64(&other.encode())),
        }
    }

    pub fn kind(&self) -> &'static str {
        match self {
            Self::Message(_) => "message",
            Self::Chat(_) => "chat",
            Self::Rejected(_) => "rejected",
            Self::Marker(_) => "marker",
        }
    }

    /// Whether the row keeps its promises: its version is what its fields make, the store can hold it.
    ///
    /// # Errors
    /// [`Invalid`], as from [`Record::decode`].
    pub fn check(&self, appended_at: Timestamp) -> Result<(), Invalid> {
        match self {
            Self::Message(message) => {
                short([&message.chat_id, &message.id])?;
                short(&message.parent_id)?;
                nul_free(message.texts())?;
                let row = Row::Message(message.clone());
                matching(&row, message.expected_version().as_str())?;
                plausible(&row, message.latest_time(), appended_at)
            }
            Self::Chat(chat) => {
                short([&chat.id])?;
                nul_free(chat.texts())?;
                let row = Row::Chat(chat.clone());
                matching(&row, chat.expected_version().as_str())?;
                plausible(&row, chat.latest_time(), appended_at)
            }
            Self::Rejected(rejected) => rejected.check(),
            Self::Marker(_) => Ok(()),
        }
    }
}

fn short<'a>(ids: impl IntoIterator<Item = &'a String>) -> Result<(), Invalid> {
    match ids.into_iter().find(|id| id.len() > MAX_ID_BYTES) {
        Some(id) => Err(Invalid::LongId(id.len())),
        None => Ok(()),
    }
}

fn nul_free<'a>(mut texts: impl Iterator<Item = &'a str>) -> Result<(), Invalid> {
    if texts.any(|text| text.contains('\0')) { Err(Invalid::NulCharacter) } else { Ok(()) }
}

fn matching(row: &Row, expected: &str) -> Result<(), Invalid> {
    let found = row.version().as_str();
    if found == expected {
        return Ok(());
    }
    Err(Invalid::VersionMismatch { found: found.to_owned(), expected: expected.to_owned() })
}

fn plausible(row: &Row, latest: Timestamp, appended_at: Timestamp) -> Result<(), Invalid> {
    let stamp = row.stamp();
    // A repair keeps the stored time, whatever the row's own times say.
    if stamp.rev == 0 && stamp.epoch != crate::version::ERASED && stamp.changed_at != latest {
        return Err(Invalid::ChangedAtMismatch(stamp.changed_at));
    }
    let ahead = stamp.changed_at.micros().saturating_sub(appended_at.micros());
    if stamp.sequence == 0 && stamp.epoch != crate::version::ERASED && ahead > MAX_AHEAD_MICROS {
        return Err(Invalid::FromTheFuture(stamp.changed_at));
    }
    Ok(())
}

/// Reads the text once more, as any JSON, to tell broken JSON from an unknown kind from a bad field.
fn classify(text: &str, error: &serde_json::Error) -> Invalid {
    let value = match serde_json::from_str::<serde_json::Value>(text) {
        Ok(value) => value,
        Err(broken) if broken.to_string().starts_with("recursion limit exceeded") => {
            return Invalid::TooDeep(broken.to_string());
        }
        Err(broken) => return Invalid::BadJson(broken.to_string()),
    };
    match value.get("kind").map(|kind| kind.as_str()) {
        Some(Some("message" | "chat" | "rejected" | "marker")) => Invalid::BadShape(error.to_string()),
        Some(Some(kind)) => Invalid::UnknownKind(kind.to_owned()),
        Some(None) => Invalid::UnknownKind("one that is no string".to_owned()),
        None if value.is_object() => Invalid::UnknownKind("none".to_owned()),
        None => Invalid::BadShape(error.to_string()),
    }
}

fn cut(mut text: String, bytes: usize) -> String {
    text.truncate((0..=bytes.min(text.len())).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0));
    text
}

/// Whether it is a letter's digest: 16 lower-case hex digits.
pub fn is_digest(text: &str) -> bool {
    text.len() == 16 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// The reason of [`Rejected::erased`].
pub const ERASED_REASON: &str = "erased";

impl Rejected {
    /// Whether the store can hold it.
    fn check(&self) -> Result<(), Invalid> {
        if !is_digest(&self.raw_digest) || self.reason.is_empty() || self.reason.len() > 64 {
            return Err(Invalid::BadShape("a rejected item without a digest or a reason".into()));
        }
        nul_free([&self.reason, &self.detail, &self.raw].into_iter().map(String::as_str))
    }

    /// Says of a dead letter that another try of it would bring what was erased: nothing of it may be left.
    pub fn erased(source: &str) -> Self {
        Self::new(source, ERASED_REASON, "it was erased", b"")
    }

    /// Makes the record of an item that could not be understood.
    pub fn new(source: &str, reason: &str, detail: impl Into<String>, raw: &[u8]) -> Self {
        Self::known_as(raw, source, reason, detail, raw)
    }

    /// As [`Rejected::new`], for an item that the source may write in several ways: `canonical` is the one that it
    /// is known by.
    pub fn known_as(canonical: &[u8], source: &str, reason: &str, detail: impl Into<String>, raw: &[u8]) -> Self {
        // U+0000 is legal JSON but no store's text; its visible stand-in is U+2400.
        let kept = String::from_utf8_lossy(&raw[..raw.len().min(MAX_RAW_BYTES)]).replace('\0', "\u{2400}");
        Self {
            source: source.to_owned(),
            generation: None,
            reason: reason.to_owned(),
            // Parsers repeat what they could not read.
            detail: cut(detail.into(), MAX_DETAIL_BYTES),
            raw: kept,
            raw_length: raw.len() as u64,
            raw_digest: format!("{:016x}", xxh3_64(canonical)),
        }
    }
}
