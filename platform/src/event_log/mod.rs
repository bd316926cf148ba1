//! A partitioned, replayable log: Kafka in production, its embedded twin in one process.
//!
//! Readers hand out partitions ([`Event::Assigned`]) and deliver nothing from them until the caller
//! has said where to begin ([`Reader::start`]): positions live in the caller's store, not in the log.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use xxhash_rust::xxh3::xxh3_64;

pub mod follow;
pub mod kafka;
mod kafka_asking;
mod kafka_consumer;
mod kafka_look;
mod kafka_reader;
pub mod kafka_settings;
mod kafka_silence;
mod kafka_waiting;
pub mod suite;

/// A partition of a topic.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicPartition {
    pub topic: Arc<str>,
    pub partition: u32,
}

impl TopicPartition {
    pub fn new(topic: impl Into<Arc<str>>, partition: u32) -> Self {
        Self { topic: topic.into(), partition }
    }

    /// A position as stores keep it: topic, partition, next offset.
    pub fn position((topic, partition, next): (String, i32, i64)) -> (Self, u64) {
        (Self::new(topic, partition.cast_unsigned()), u64::try_from(next).unwrap_or_default())
    }
}

/// Of the ends that a log had, those that it can still be read up to; `now` has its ends without those of partitions that hold
/// nothing. A topic that was made again is shorter, or not there yet.
pub fn still_held(
    ends: BTreeMap<TopicPartition, u64>,
    now: &BTreeMap<TopicPartition, u64>,
) -> BTreeMap<TopicPartition, u64> {
    let held = |(at, end): (TopicPartition, u64)| {
        let end = end.min(*now.get(&at)?);
        Some((at, end))
    };
    ends.into_iter().filter_map(held).collect()
}

/// How far a store has applied a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Every record below this one is applied, superseded or dead-lettered.
    pub next_offset: u64,
    /// Of the record before it.
    pub last: Fingerprint,
}

/// What tells a record from another one at the same offset of another log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Fingerprint {
    /// The record's timestamp, in milliseconds since the Unix epoch.
    pub timestamp_ms: i64,
    /// xxh3 of its key; 0 without one.
    pub key_hash: u64,
}

/// Progress as stores keep it: topic, partition, next offset, the last record's timestamp and the hash of its key.
pub type ProgressRow = (String, i32, i64, i64, i64);

impl Progress {
    pub fn from_row((topic, partition, next, timestamp_ms, key_hash): ProgressRow) -> (TopicPartition, Self) {
        let (at, next_offset) = TopicPartition::position((topic, partition, next));
        (at, Self { next_offset, last: Fingerprint { timestamp_ms, key_hash: key_hash.cast_unsigned() } })
    }
}

impl fmt::Display for TopicPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}[{}]", self.topic, self.partition)
    }
}

/// A record to append.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewRecord {
    pub topic: Arc<str>,
    pub partition: u32,
    pub key: Option<String>,
    pub value: Vec<u8>,
    pub headers: Vec<(String, String)>,
}

/// A record as it stands in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogRecord {
    pub at: TopicPartition,
    pub offset: u64,
    /// When it was appended, in milliseconds since the Unix epoch.
    pub timestamp_ms: i64,
    pub key: Option<Vec<u8>>,
    pub value: Vec<u8>,
    pub headers: Vec<(String, String)>,
}

impl LogRecord {
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint { timestamp_ms: self.timestamp_ms, key_hash: self.key.as_ref().map_or(0, |key| xxh3_64(key)) }
    }
}

/// When the partition of these records that is furthest behind was last appended to, in milliseconds since the Unix epoch; 0
/// without records.
pub fn furthest_behind(records: &[LogRecord]) -> i64 {
    let last: HashMap<&TopicPartition, i64> = records.iter().map(|record| (&record.at, record.timestamp_ms)).collect();
    last.into_values().min().unwrap_or(0)
}

/// The offsets that a partition holds: `start` the first one kept, `end` the next to be given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Offsets {
    pub start: u64,
    pub end: u64,
}

/// A topic that must exist.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicSpec {
    pub name: String,
    pub partitions: u32,
    pub compacted: bool,
    /// Ignored where `compacted`.
    pub retention_ms: u64,
    pub max_record_bytes: usize,
}

/// Which topics a reader reads: `base` and, with `mirrored`, every `<alias>.base`, but never the
/// mirror of a mirror.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topic {
    pub base: String,
    pub mirrored: bool,
}

impl Topic {
    /// Whether this topic is one of them: `^([a-z0-9-]+\.)?base$`.
    pub fn matches(&self, name: &str) -> bool {
        let Some(alias) = name.strip_suffix(&self.base) else { return false };
        let Some(alias) = alias.strip_suffix('.') else { return alias.is_empty() };
        let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        self.mirrored && !alias.is_empty() && alias.chars().all(allowed)
    }
}

/// How partitions are shared out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sharing {
    /// The members of the group share the partitions.
    Group,
    /// This reader has all of them; the group only names its committed positions.
    All,
}

/// What a reader tells.
#[derive(Debug)]
pub enum Event {
    /// These are the caller's now; nothing comes from them before [`Reader::start`].
    Assigned(Vec<TopicPartition>),
    /// These are another's now, or gone.
    Revoked(Vec<TopicPartition>),
    /// In order within each partition; never empty.
    Records(Vec<LogRecord>),
    /// The position asked for is not in the log any more, or not yet: [`EventLog::offsets`] tells more.
    OutOfRange(TopicPartition),
}

/// What went wrong with the log; all of it may come back by itself but [`LogError::Refused`].
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    #[error("the log cannot be reached: {0}")]
    Unavailable(String),
    #[error("the log refused: {0}")]
    Refused(String),
}

/// The log.
#[async_trait]
pub trait EventLog: Send + Sync {
    /// Makes the topics that are missing; those that are there stay as they are.
    async fn ensure_topics(&self, topics: &[TopicSpec]) -> Result<(), LogError>;

    /// How many partitions the topic has; `None` if there is no such topic.
    async fn partitions(&self, topic: &str) -> Result<Option<u32>, LogError>;

    /// Appends, and waits until all are stored for good. On an error some may be stored.
    async fn append(&self, records: Vec<NewRecord>) -> Result<(), LogError>;

    /// Opens a reader.
    async fn read(&self, topic: Topic, group: &str, sharing: Sharing) -> Result<Box<dyn Reader>, LogError>;

    /// What each partition of the topic holds now.
    async fn offsets(&self, topic: &str) -> Result<BTreeMap<u32, Offsets>, LogError>;

    /// The first offset of each partition whose record was appended at `since_ms` (milliseconds since the Unix epoch) or
    /// later; the partition's end where there is none.
    async fn since(&self, topic: &str, since_ms: i64) -> Result<BTreeMap<u32, u64>, LogError>;

    /// The records of a partition with this key that were appended since `since_ms`, in order. Reads on to the
    /// partition's end: it is for people who look.
    async fn find(&self, at: &TopicPartition, key: &str, since_ms: i64) -> Result<Vec<LogRecord>, LogError>;

    /// The last records of each partition, at most `per_partition` each, in order within each.
    async fn tail(&self, topic: &str, per_partition: u64) -> Result<Vec<LogRecord>, LogError>;

    /// How long after it was appended a record may still be there, as the topic is set now; `None` where nothing is deleted
    /// because of its age.
    async fn kept(&self, _topic: &str) -> Result<Option<Duration>, LogError> {
        Ok(None)
    }
}

/// One reader of the log.
#[async_trait]
pub trait Reader: Send {
    /// The next event; waits for one. Safe to drop while it waits.
    async fn next(&mut self) -> Result<Event, LogError>;

    /// Delivers from these offsets on; what was under way from an earlier position is dropped.
    /// Partitions that are not assigned any more are passed over.
    async fn start(&mut self, positions: Vec<(TopicPartition, u64)>) -> Result<(), LogError>;

    /// Tells the log how far this group is, for people who look; nothing here depends on it.
    fn commit(&mut self, positions: Vec<(TopicPartition, u64)>);
}

/// How often it is looked whether the log answers: each look asks the brokers, and `/readyz` need not know sooner.
const LOOK: Duration = Duration::from_secs(2);

/// Says in `check`, every few seconds, whether the log answers and has the topic. Never ends.
pub async fn watch(log: Arc<dyn EventLog>, topic: String, check: crate::health::Check) {
    watch_and_tell(log, topic, check, || ()).await;
}

/// The same, and calls `away` whenever it does not answer.
pub async fn watch_and_tell(log: Arc<dyn EventLog>, topic: String, check: crate::health::Check, away: impl Fn()) {
    loop {
        match log.partitions(&topic).await {
            Ok(Some(_)) => check.ready("answers"),
            Ok(None) => check.waiting(format!("there is no topic {topic} yet")),
            Err(error) => {
                check.waiting(error.to_string());
                away();
            }
        }
        tokio::time::sleep(LOOK).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_log_has_lost_is_read_by_nobody() {
        let ends = |ends: &[(u32, u64)]| ends.iter().map(|&(id, end)| (TopicPartition::new("t", id), end)).collect();
        let had: BTreeMap<_, _> = ends(&[(0, 5), (1, 5), (2, 5), (3, 5)]);
        let now = ends(&[(0, 5), (1, 9), (2, 3), (7, 1)]);
        assert_eq!(still_held(had, &now), ends(&[(0, 5), (1, 5), (2, 3)]));
    }

    #[test]
    fn mirrors_are_read_but_never_the_mirror_of_a_mirror() {
        let topic = Topic { base: "chat-changes".into(), mirrored: true };
        assert!(topic.matches("chat-changes") && topic.matches("b.chat-changes") && topic.matches("eu-1.chat-changes"));
        for other in ["a.b.chat-changes", ".chat-changes", "B.chat-changes", "xchat-changes", "chat-changes-x", "chat"]
        {
            assert!(!topic.matches(other), "{other}");
        }
        assert!(!Topic { mirrored: false, ..topic }.matches("b.chat-changes"));
    }

    #[test]
    fn a_batch_is_as_old_as_the_partition_that_is_furthest_behind() {
        let record = |partition, timestamp_ms| {
            let at = TopicPartition::new("t", partition);
            LogRecord { at, offset: 0, timestamp_ms, key: None, value: Vec::new(), headers: Vec::new() }
        };
        assert_eq!(furthest_behind(&[record(0, 1), record(0, 50), record(1, 20), record(1, 40), record(2, 90)]), 40);
        assert_eq!(furthest_behind(&[]), 0);
    }
}
