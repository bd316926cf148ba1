//! The event log in SQLite, for one process.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use platform::event_log::{
    Event, EventLog, LogError, LogRecord, NewRecord, Offsets, Reader, Sharing, Topic, TopicPartition, TopicSpec,
};
use platform::sqlite::Sqlite;
use sqlx::{Sqlite as Db, Transaction};
use tokio::sync::watch;

/// How many records are handed over at once.
const BATCH: i64 = 500;

/// A log in a SQLite file. Clones share it; no other process may write to it.
#[derive(Clone)]
pub struct EmbeddedLog {
    db: Sqlite,
    /// What each partition holds, as it is in the file.
    held: Arc<Mutex<BTreeMap<TopicPartition, Offsets>>>,
    /// Counts appends and new topics, for readers that wait.
    changed: Arc<watch::Sender<u64>>,
}

/// Offset, timestamp, key, value, headers as JSON.
type RecordRow = (i64, i64, Option<Vec<u8>>, Vec<u8>, String);

fn failed(error: sqlx::Error) -> LogError {
    LogError::Unavailable(error.to_string())
}

fn signed(offset: u64) -> i64 {
    i64::try_from(offset).unwrap_or(i64::MAX)
}

fn unsigned(offset: i64) -> u64 {
    u64::try_from(offset).unwrap_or_default()
}

impl EmbeddedLog {
    /// Opens the log in a file whose tables were made.
    ///
    /// # Errors
    /// If it cannot be read.
    pub async fn open(db: Sqlite) -> Result<Self, LogError> {
        let log = Self { db, held: Arc::default(), changed: Arc::new(watch::Sender::new(0)) };
        log.look_again().await?;
        Ok(log)
    }

    /// Takes note of what another process has appended: one of the operator's tools.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub async fn look_again(&self) -> Result<(), LogError> {
        let rows: Vec<(String, u32, i64, i64)> = sqlx::query_as("SELECT topic, partition, first, next FROM log_ends")
            .fetch_all(&self.db.read)
            .await
            .map_err(failed)?;
        let mut news = false;
        for (topic, partition, first, next) in rows {
            let mut held = self.held();
            let known = held.entry(TopicPartition::new(topic, partition)).or_insert(Offsets { start: 0, end: 0 });
            news |= known.end < unsigned(next);
            *known = Offsets { start: known.start.max(unsigned(first)), end: known.end.max(unsigned(next)) };
        }
        if news {
            self.announce();
        }
        Ok(())
    }

    /// Forgets what lies below these offsets, but for the last `keep` records of each partition.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub async fn forget(&self, below: BTreeMap<TopicPartition, u64>, keep: u64) -> Result<(), LogError> {
        for (at, below) in below {
            let Some(held) = self.held().get(&at).copied() else { continue };
            let first = below.min(held.end.saturating_sub(keep));
            if first <= held.start {
                continue;
            }
            let mut tx = self.db.write.begin().await.map_err(failed)?;
            sqlx::query("DELETE FROM log_records WHERE topic = ? AND partition = ? AND \"offset\" < ?")
                .bind(&*at.topic)
                .bind(at.partition)
                .bind(signed(first))
                .execute(&mut *tx)
                .await
                .map_err(failed)?;
            sqlx::query("UPDATE log_ends SET first = ? WHERE topic = ? AND partition = ?")
                .bind(signed(first))
                .bind(&*at.topic)
                .bind(at.partition)
                .execute(&mut *tx)
                .await
                .map_err(failed)?;
            tx.commit().await.map_err(failed)?;
            if let Some(held) = self.held().get_mut(&at) {
                held.start = first;
            }
        }
        Ok(())
    }

    fn held(&self) -> MutexGuard<'_, BTreeMap<TopicPartition, Offsets>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn announce(&self) {
        self.changed.send_modify(|count| *count += 1);
    }

    async fn records(&self, at: &TopicPartition, from: u64, limit: i64) -> Result<Vec<LogRecord>, LogError> {
        let rows: Vec<RecordRow> = sqlx::query_as(
            "SELECT \"offset\", timestamp_ms, key, value, headers FROM log_records \
             WHERE topic = ? AND partition = ? AND \"offset\" >= ? ORDER BY \"offset\" LIMIT ?",
        )
        .bind(&*at.topic)
        .bind(at.partition)
        .bind(signed(from))
        .bind(limit)
        .fetch_all(&self.db.read)
        .await
        .map_err(failed)?;
        let record = |(offset, timestamp_ms, key, value, headers): RecordRow| {
            let headers = serde_json::from_str(&headers).map_err(|error| LogError::Unavailable(error.to_string()))?;
            Ok(LogRecord { at: at.clone(), offset: unsigned(offset), timestamp_ms, key, value, headers })
        };
        rows.into_iter().map(record).collect()
    }
}

#[async_trait]
impl EventLog for EmbeddedLog {
    async fn ensure_topics(&self, topics: &[TopicSpec]) -> Result<(), LogError> {
        let mut tx = self.db.write.begin().await.map_err(failed)?;
        let mut new = Vec::new();
        for topic in topics {
            let made = sqlx::query("INSERT INTO log_topics VALUES (?, ?, ?) ON CONFLICT DO NOTHING")
                .bind(&topic.name)
                .bind(topic.partitions)
                .bind(topic.compacted)
                .execute(&mut *tx)
                .await
                .map_err(failed)?;
            if made.rows_affected() == 0 {
                continue;
            }
            for partition in 0..topic.partitions {
                sqlx::query("INSERT INTO log_ends VALUES (?, ?, 0, 0)")
                    .bind(&topic.name)
                    .bind(partition)
                    .execute(&mut *tx)
                    .await
                    .map_err(failed)?;
                new.push(TopicPartition::new(topic.name.as_str(), partition));
            }
        }
        tx.commit().await.map_err(failed)?;
        self.held().extend(new.into_iter().map(|at| (at, Offsets { start: 0, end: 0 })));
        self.announce();
        Ok(())
    }

    async fn partitions(&self, topic: &str) -> Result<Option<u32>, LogError> {
        let count = self.held().keys().filter(|at| *at.topic == *topic).count();
        Ok(u32::try_from(count).ok().filter(|count| *count > 0))
    }

    async fn append(&self, records: Vec<NewRecord>) -> Result<(), LogError> {
        // The write connection is the only one, so offsets are given in the order of the transactions.
        let mut tx = self.db.write.begin().await.map_err(failed)?;
        let mut ends = BTreeMap::new();
        let timestamp_ms = chrono::Utc::now().timestamp_millis();
        for record in &records {
            let at = TopicPartition::new(record.topic.clone(), record.partition);
            let offset = insert(&mut tx, record, timestamp_ms).await?;
            ends.insert(at, offset + 1);
        }
        tx.commit().await.map_err(failed)?;
        let mut held = self.held();
        for (at, end) in ends {
            if let Some(held) = held.get_mut(&at) {
                held.end = held.end.max(end);
            }
        }
        drop(held);
        self.announce();
        Ok(())
    }

    /// The group is one process's only member, whatever the sharing.
    async fn read(&self, topic: Topic, _: &str, _: Sharing) -> Result<Box<dyn Reader>, LogError> {
        let changed = self.changed.subscribe();
        Ok(Box::new(EmbeddedReader {
            log: self.clone(),
            topic,
            changed,
            known: BTreeSet::new(),
            positions: BTreeMap::new(),
            turn: 0,
        }))
    }

    async fn offsets(&self, topic: &str) -> Result<BTreeMap<u32, Offsets>, LogError> {
        let held = self.held();
        let offsets: BTreeMap<u32, Offsets> =
            held.iter().filter(|(at, _)| *at.topic == *topic).map(|(at, held)| (at.partition, *held)).collect();
        if offsets.is_empty() {
            return Err(LogError::Unavailable(format!("there is no topic {topic} yet")));
        }
        Ok(offsets)
    }

    async fn since(&self, topic: &str, since_ms: i64) -> Result<BTreeMap<u32, u64>, LogError> {
        let mut first = BTreeMap::new();
        for (partition, held) in self.offsets(topic).await? {
            // Back from the end: what is asked for is near it.
            let last_before: Option<i64> = sqlx::query_scalar(
                "SELECT \"offset\" FROM log_records WHERE topic = ? AND partition = ? AND timestamp_ms < ? \
                 ORDER BY \"offset\" DESC LIMIT 1",
            )
            .bind(topic)
            .bind(partition)
            .bind(since_ms)
            .fetch_optional(&self.db.read)
            .await
            .map_err(failed)?;
            let next = last_before.and_then(|last| u64::try_from(last).ok()).map(|last| last + 1);
            first.insert(partition, next.unwrap_or(held.start));
        }
        Ok(first)
    }

    async fn find(&self, at: &TopicPartition, key: &str, since_ms: i64) -> Result<Vec<LogRecord>, LogError> {
        let all = self.records(at, 0, i64::MAX).await?;
        let is_wanted =
            |record: &LogRecord| record.timestamp_ms >= since_ms && record.key.as_deref() == Some(key.as_bytes());
        Ok(all.into_iter().filter(is_wanted).collect())
    }

    async fn tail(&self, topic: &str, per_partition: u64) -> Result<Vec<LogRecord>, LogError> {
        let mut records = Vec::new();
        for (partition, held) in self.offsets(topic).await? {
            let from = held.end.saturating_sub(per_partition).max(held.start);
            records.extend(self.records(&TopicPartition::new(topic, partition), from, i64::MAX).await?);
        }
        Ok(records)
    }
}

async fn insert(tx: &mut Transaction<'_, Db>, record: &NewRecord, timestamp_ms: i64) -> Result<u64, LogError> {
    let next: Option<i64> =
        sqlx::query_scalar("UPDATE log_ends SET next = next + 1 WHERE topic = ? AND partition = ? RETURNING next")
            .bind(&*record.topic)
            .bind(record.partition)
            .fetch_optional(&mut **tx)
            .await
            .map_err(failed)?;
    let no_such = || LogError::Refused(format!("there is no {}[{}]", record.topic, record.partition));
    let offset = next.ok_or_else(no_such)? - 1;
    let headers = serde_json::to_string(&record.headers).unwrap_or_default();
    sqlx::query("INSERT INTO log_records VALUES (?, ?, ?, ?, ?, ?, ?)")
        .bind(&*record.topic)
        .bind(record.partition)
        .bind(offset)
        .bind(timestamp_ms)
        .bind(record.key.as_ref().map(String::as_bytes))
        .bind(&record.value)
        .bind(headers)
        .execute(&mut **tx)
        .await
        .map_err(failed)?;
    sqlx::query(
        "DELETE FROM log_records WHERE topic = ?1 AND partition = ?2 AND key = ?3 AND \"offset\" < ?4 \
         AND (SELECT compacted FROM log_topics WHERE name = ?1)",
    )
    .bind(&*record.topic)
    .bind(record.partition)
    .bind(record.key.as_ref().map(String::as_bytes))
    .bind(offset)
    .execute(&mut **tx)
    .await
    .map_err(failed)?;
    Ok(unsigned(offset))
}

struct EmbeddedReader {
    log: EmbeddedLog,
    topic: Topic,
    changed: watch::Receiver<u64>,
    /// What was announced.
    known: BTreeSet<TopicPartition>,
    /// Where each started partition is read next.
    positions: BTreeMap<TopicPartition, u64>,
    /// Which partition is looked at first, so that a busy one does not starve the others.
    turn: usize,
}

impl EmbeddedReader {
    fn new_partitions(&mut self) -> Vec<TopicPartition> {
        let held = self.log.held();
        let matching = held.keys().filter(|at| self.topic.matches(&at.topic) && !self.known.contains(*at));
        let new: Vec<TopicPartition> = matching.cloned().collect();
        drop(held);
        self.known.extend(new.iter().cloned());
        new
    }

    /// A partition that has something to tell, and where it is read.
    fn ready(&mut self) -> Option<(TopicPartition, u64, Offsets)> {
        let held = self.log.held();
        let count = self.positions.len();
        self.turn += 1;
        let order = self.positions.iter().cycle().skip(self.turn % count.max(1)).take(count);
        for (at, position) in order {
            let Some(held) = held.get(at) else { continue };
            if *position != held.end {
                return Some((at.clone(), *position, *held));
            }
        }
        None
    }
}

#[async_trait]
impl Reader for EmbeddedReader {
    async fn next(&mut self) -> Result<Event, LogError> {
        loop {
            self.changed.borrow_and_update();
            let new = self.new_partitions();
            if !new.is_empty() {
                return Ok(Event::Assigned(new));
            }
            let Some((at, position, held)) = self.ready() else {
                // The log lives as long as this reader, so there is always a sender.
                let _ = self.changed.changed().await;
                continue;
            };
            if position < held.start || position > held.end {
                self.positions.remove(&at);
                return Ok(Event::OutOfRange(at));
            }
            let records = self.log.records(&at, position, BATCH).await?;
            // Where compaction took the rest, the position still goes to the end.
            self.positions.insert(at, records.last().map_or(held.end, |record| record.offset + 1));
            if !records.is_empty() {
                return Ok(Event::Records(records));
            }
        }
    }

    async fn start(&mut self, positions: Vec<(TopicPartition, u64)>) -> Result<(), LogError> {
        self.positions.extend(positions);
        Ok(())
    }

    fn commit(&mut self, _: Vec<(TopicPartition, u64)>) {}
}
