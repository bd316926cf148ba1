//! From records to what one transaction stores. Pure: no I/O, no clock.

use std::collections::BTreeMap;

use contract::erasure::quoted;
use contract::record::{ERASED_REASON, RETRY_HEADER, is_digest};
use contract::{Chat, Marker, Message, Record, Row, RowKey, Timestamp};
use platform::event_log::{LogRecord, Progress, TopicPartition};
use xxhash_rust::xxh3::xxh3_64;

/// How much of a dead letter's raw bytes is kept.
const MAX_RAW_BYTES: usize = contract::record::MAX_RAW_BYTES;

/// What one transaction stores.
#[derive(Debug, Clone, Default)]
pub struct Batch {
    /// The newest of each, sorted by key: sorted writes do not deadlock, and a statement may name a key once only.
    pub chats: Vec<Chat>,
    pub messages: Vec<Message>,
    /// Every distinct version of every message, those that were collapsed too.
    pub versions: Vec<Message>,
    pub dead_letters: Vec<DeadLetter>,
    pub retried: Vec<Retried>,
    pub moves: Vec<Move>,
}

/// A row of which nothing may be left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Erased {
    /// Its records' key.
    pub key: String,
    pub chat_id: String,
    /// `None` for the chat itself.
    pub id: Option<String>,
}

impl Erased {
    /// How its ids stand in raw JSON: what names both is about it.
    pub fn names(&self) -> (String, Option<String>) {
        (quoted(&self.chat_id), self.id.as_deref().map(quoted))
    }
}

impl Batch {
    /// The erased rows: their history goes, and what dead letters hold of them.
    pub fn erased(&self) -> Vec<Erased> {
        let chats = self.chats.iter().filter(|chat| chat.is_erased()).map(|chat| Row::Chat(chat.clone()));
        let messages = self.messages.iter().filter(|message| message.is_erased()).cloned().map(Row::Message);
        let erased = |row: Row| Erased {
            chat_id: row.chat_id().to_owned(),
            id: matches!(row, Row::Message(_)).then(|| row.id().to_owned()),
            key: Record::from(row).key().unwrap_or_default(),
        };
        chats.chain(messages).map(erased).collect()
    }
}

/// A partition's progress as the batch moves it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Move {
    pub at: TopicPartition,
    /// Where it must be; `None` if it must not have any progress yet.
    pub from: Option<u64>,
    pub to: Progress,
}

/// What became of a dead letter that was tried again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retried {
    /// The letter's digest.
    pub digest: String,
    /// Why it stays one; `None` if it was applied.
    pub failed: Option<String>,
    /// Whether it was erased: then nothing may be left of what it holds.
    pub erased: bool,
}

impl Retried {
    fn new(digest: &str, fate: &Fate) -> Self {
        let (failed, erased) = match fate {
            Fate::DeadLetter(letter) if letter.reason == ERASED_REASON => (Some(letter.reason.clone()), true),
            Fate::DeadLetter(letter) => (Some(format!("tried again: {}: {}", letter.reason, letter.detail)), false),
            Fate::Row(_) | Fate::Marker(_) => (None, false),
        };
        Self { digest: digest.to_owned(), failed, erased }
    }

    /// What the letter is from now on.
    pub fn state(&self) -> &'static str {
        match (&self.failed, self.erased) {
            (_, true) => "discarded",
            (Some(_), false) => "open",
            (None, false) => "resolved",
        }
    }
}

/// A record that is not applied, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetter {
    /// xxh3 of the raw bytes, 16 hex digits: the same content is one dead letter, however often it comes.
    pub digest: String,
    /// Whether `raw` is an item of the source; else it is a record of the log.
    pub from_source: bool,
    /// Of the feed, when the source served it.
    pub generation: Option<u32>,
    pub reason: String,
    pub detail: String,
    pub at: TopicPartition,
    pub offset: u64,
    pub key: Option<String>,
    pub raw: String,
    pub raw_length: u64,
}

/// What a record of the log says, or that it is a dead letter.
#[derive(Debug, Clone)]
pub enum Fate {
    Row(Row),
    DeadLetter(DeadLetter),
    Marker(Marker),
}

impl Fate {
    /// Whether it can still become a dead letter.
    pub fn is_row(&self) -> bool {
        matches!(self, Self::Row(_))
    }
}

/// Reads a record; whatever it is, it gets a fate.
pub fn fate(record: &LogRecord) -> Fate {
    match Record::decode(&record.value, appended_at(record)) {
        Ok(Record::Message(message)) => Fate::Row(Row::Message(message)),
        Ok(Record::Chat(chat)) => Fate::Row(Row::Chat(chat)),
        Ok(Record::Marker(marker)) => Fate::Marker(marker),
        Ok(Record::Rejected(rejected)) => Fate::DeadLetter(DeadLetter {
            digest: rejected.raw_digest,
            from_source: true,
            generation: rejected.generation,
            reason: rejected.reason,
            detail: rejected.detail,
            at: record.at.clone(),
            offset: record.offset,
            key: key_text(record),
            raw: rejected.raw,
            raw_length: rejected.raw_length,
        }),
        Err(invalid) => Fate::DeadLetter(dead_letter(record, invalid.reason(), invalid.to_string())),
    }
}

/// A dead letter of this record.
pub fn dead_letter(record: &LogRecord, reason: &str, detail: String) -> DeadLetter {
    let raw = &record.value[..record.value.len().min(MAX_RAW_BYTES)];
    DeadLetter {
        digest: format!("{:016x}", xxh3_64(&record.value)),
        from_source: false,
        generation: None,
        reason: reason.to_owned(),
        detail: storable(&detail),
        at: record.at.clone(),
        offset: record.offset,
        key: key_text(record),
        raw: storable(&String::from_utf8_lossy(raw)),
        raw_length: record.value.len() as u64,
    }
}

fn key_text(record: &LogRecord) -> Option<String> {
    record.key.as_ref().map(|key| storable(&String::from_utf8_lossy(key)))
}

/// Postgres' text refuses U+0000; its visible stand-in is U+2400.
fn storable(text: &str) -> String {
    text.replace('\0', "\u{2400}")
}

fn appended_at(record: &LogRecord) -> Timestamp {
    let micros = u64::try_from(record.timestamp_ms).unwrap_or(0).saturating_mul(1000);
    Timestamp::from_micros(micros).unwrap_or_default()
}

/// The dead letter that this record is another try of.
fn retried_letter(record: &LogRecord) -> Option<&str> {
    record
        .headers
        .iter()
        .find(|(name, _)| name == RETRY_HEADER)
        .map(|(_, digest)| digest.as_str())
        .filter(|digest| is_digest(digest))
}

/// Collapses records with their fates to one batch; `from` is each partition's progress before it.
///
/// Records of a partition must be in order.
pub fn collapse(records: &[(LogRecord, Fate)], from: &BTreeMap<TopicPartition, Progress>) -> Batch {
    let mut newest: BTreeMap<RowKey, &Row> = BTreeMap::new();
    let mut versions: BTreeMap<(&str, &str, &str), &Message> = BTreeMap::new();
    let mut dead_letters: BTreeMap<&str, &DeadLetter> = BTreeMap::new();
    let mut retried: BTreeMap<&str, Retried> = BTreeMap::new();
    let mut moves: BTreeMap<&TopicPartition, Progress> = BTreeMap::new();
    for (record, fate) in records {
        match fate {
            Fate::Row(row) => {
                if let Row::Message(message) = row
                    && !message.is_erased()
                {
                    versions.insert((&message.chat_id, &message.id, message.version.as_str()), message);
                }
                let kept = newest.entry(row.key()).or_insert(row);
                if row.version() > kept.version() {
                    *kept = row;
                }
            }
            Fate::DeadLetter(_) if retried_letter(record).is_some() => {}
            Fate::DeadLetter(letter) => {
                dead_letters.entry(&letter.digest).or_insert(letter);
            }
            Fate::Marker(_) => {}
        }
        if let Some(digest) = retried_letter(record) {
            retried.insert(digest, Retried::new(digest, fate));
        }
        moves.insert(&record.at, Progress { next_offset: record.offset + 1, last: record.fingerprint() });
    }
    let mut batch = Batch {
        versions: versions.into_values().cloned().collect(),
        dead_letters: dead_letters.into_values().cloned().collect(),
        retried: retried.into_values().collect(),
        ..Batch::default()
    };
    for row in newest.into_values() {
        match row {
            Row::Chat(chat) => batch.chats.push(chat.clone()),
            Row::Message(message) => batch.messages.push(message.clone()),
        }
    }
    batch.moves = moves
        .into_iter()
        .map(|(at, to)| Move { at: at.clone(), from: from.get(at).map(|progress| progress.next_offset), to })
        .collect();
    batch
}

#[cfg(test)]
mod tests {
    use platform::event_log::Fingerprint;

    use super::*;
    use crate::suite::{edited, message, record_of};

    fn fates(records: Vec<LogRecord>) -> Vec<(LogRecord, Fate)> {
        records.into_iter().map(|record| (record.clone(), fate(&record))).collect()
    }

    #[test]
    fn a_batch_keeps_the_newest_row_and_every_version() {
        let at = TopicPartition::new("t", 0);
        let (old, new) = (message("c", "m", 1), edited(&message("c", "m", 1), 2, "new"));
        let rows = [&new, &old, &new].map(|row| Record::Message(row.clone()));
        let records = rows.iter().enumerate().map(|(offset, row)| record_of(&at, offset as u64, row)).collect();
        let batch = collapse(&fates(records), &BTreeMap::new());
        assert_eq!(batch.messages, std::slice::from_ref(&new));
        assert_eq!(batch.versions, [old, new]);
        assert_eq!((batch.moves[0].from, batch.moves[0].to.next_offset), (None, 3));
    }

    #[test]
    fn a_newer_row_takes_an_older_ones_place() {
        let at = TopicPartition::new("t", 0);
        let (old, new) = (message("c", "m", 1), edited(&message("c", "m", 1), 2, "new"));
        let rows = [&old, &new].map(|row| Record::Message(row.clone()));
        let records = rows.iter().enumerate().map(|(offset, row)| record_of(&at, offset as u64, row)).collect();
        assert_eq!(collapse(&fates(records), &BTreeMap::new()).messages, [new]);
    }

    #[test]
    fn an_erased_row_is_known_by_its_ids_as_they_stand_in_json() {
        let at = TopicPartition::new("t", 0);
        let rows = [message("c", "a \"quoted\" one", 1).erased(), message("c", "kept", 1)];
        let records =
            rows.into_iter().zip(0..).map(|(row, offset)| record_of(&at, offset, &Record::Message(row))).collect();
        let batch = collapse(&fates(records), &BTreeMap::new());
        assert_eq!(batch.versions.len(), 1, "an erased row has no history");
        let erased = batch.erased();
        assert_eq!(erased.len(), 1);
        assert_eq!((erased[0].chat_id.as_str(), erased[0].id.as_deref()), ("c", Some("a \"quoted\" one")));
        assert_eq!(erased[0].key, record_key(&batch.messages[0]));
        assert_eq!(erased[0].names(), ("\"c\"".into(), Some("\"a \\\"quoted\\\" one\"".into())));
        let chat = Erased { key: "c".into(), chat_id: "c".into(), id: None };
        assert_eq!(chat.names(), ("\"c\"".into(), None));
    }

    fn record_key(message: &Message) -> String {
        Record::Message(message.clone()).key().expect("a key")
    }

    #[test]
    fn a_second_try_takes_its_letter_away_or_says_why_not() {
        let at = TopicPartition::new("t", 0);
        let digest = "0123456789abcdef";
        let again = |offset, value: Option<&[u8]>, header: &str| {
            let mut record = record_of(&at, offset, &Record::Message(message("c", "m", 1)));
            record.headers = vec![("another".into(), digest.into()), (RETRY_HEADER.into(), header.into())];
            record.value = value.map_or(record.value, <[u8]>::to_vec);
            record
        };
        let of = |record| collapse(&fates(vec![record]), &BTreeMap::new());
        let applied = of(again(0, None, digest));
        assert_eq!(applied.retried, [Retried { digest: digest.into(), failed: None, erased: false }]);
        let failed = of(again(0, Some(b"\xff"), digest));
        assert!(failed.dead_letters.is_empty(), "it is one already");
        assert!(failed.retried[0].failed.as_ref().is_some_and(|why| why.starts_with("tried again: bad_utf8: ")));
        let of_none = of(again(0, Some(b"\xff"), "no digest"));
        assert_eq!((of_none.retried.len(), of_none.dead_letters.len()), (0, 1));
    }

    #[test]
    fn a_dead_letter_tells_where_it_was_and_holds_what_postgres_takes() {
        let mut record = record_of(&TopicPartition::new("t", 3), 7, &Record::Message(message("c", "m", 1)));
        record.key = Some(b"c/\0m".to_vec());
        let letter = dead_letter(&record, "bad", "a\0b".into());
        assert_eq!((letter.key.as_deref(), letter.detail.as_str()), (Some("c/\u{2400}m"), "a\u{2400}b"));
        assert!(!Fate::DeadLetter(letter).is_row());
        assert!(fate(&record_of(&TopicPartition::new("t", 3), 7, &Record::Message(message("c", "m", 1)))).is_row());
        record.timestamp_ms = 1_767_000_000_123;
        assert_eq!(appended_at(&record).micros(), 1_767_000_000_123_000);
    }

    #[test]
    fn garbage_is_a_dead_letter_and_still_moves_progress() {
        let at = TopicPartition::new("t", 3);
        let mut garbage = record_of(&at, 7, &Record::Message(message("c", "m", 1)));
        garbage.value = b"\xff\0".to_vec();
        let from = BTreeMap::from([(at.clone(), Progress { next_offset: 7, last: Fingerprint::default() })]);
        let batch = collapse(&fates(vec![garbage]), &from);
        assert_eq!(batch.dead_letters[0].reason, "bad_utf8");
        assert!(!batch.dead_letters[0].raw.contains('\0'));
        assert_eq!((batch.moves[0].from, batch.moves[0].to.next_offset), (Some(7), 8));
    }
}
