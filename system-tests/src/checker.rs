//! Proves that a pipeline lost nothing, whatever was done to it while people wrote.
//!
//! What the vendor accepted is read from its own table of changes, not from its API; what the log holds by reading
//! it whole; what Postgres did by triggers that note every step backwards; what people saw by clients that remember.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use contract::{Record, Timestamp, Topics};
use platform::config::Secret;
use platform::event_log::kafka::Kafka;
use platform::event_log::{EventLog, LogRecord, TopicPartition};
use platform::eventually;
use platform::testing::PATIENCE;
use serde_json::Value;
use sqlx::PgPool;
use sqlx::sqlite::{SqliteConnectOptions, SqlitePool};

use crate::compared::{Rows, at_the_vendor, dead_letters, in_the_copy, screens_are, screens_come_to_be};
use crate::pipeline::Pipeline;
use crate::reader::Reader;
use crate::tool::verifies_with;

/// A message's change: chat, message, the vendor's sequence.
type Change = (String, String, u64);

/// What a checked run came to.
#[derive(Debug, Default, Clone)]
pub struct Verdict {
    /// What the vendor accepted.
    pub changes: u64,
    /// Rows of messages in the log.
    pub records: u64,
    /// When each of them was appended, in milliseconds since the Unix epoch, in order.
    pub appended_ms: Vec<i64>,
}

impl Verdict {
    /// Rows in the log for each change.
    pub fn records_a_change(&self) -> f64 {
        self.records as f64 / self.changes.max(1) as f64
    }

    /// The longest time without an append that touches this window, all in milliseconds since the Unix epoch.
    pub fn longest_gap_ms(&self, from: i64, to: i64) -> i64 {
        let gaps = self.appended_ms.windows(2).filter(|pair| pair[1] >= from && pair[0] <= to);
        gaps.map(|pair| pair[1] - pair[0]).max().unwrap_or(0)
    }
}

/// A copy, and what its writer reads.
pub struct Copy<'a> {
    pub kafka: &'a str,
    pub topics: Vec<String>,
    /// What `chat-sync verify` is told that differs from the pipeline.
    pub settings: Vec<(&'static str, String)>,
}

impl<'a> Copy<'a> {
    /// The one of a pipeline that is alone.
    pub fn of(pipeline: &'a Pipeline) -> Self {
        let topics = vec![Topics::with_suffix(&pipeline.topic_suffix).changes];
        Self { kafka: &pipeline.kafka, topics, settings: Vec::new() }
    }
}

/// Watches a copy from its beginning.
pub struct Checker {
    pool: PgPool,
    lost: Lost,
}

/// What may have gone with a log that is gone.
#[derive(Default)]
struct Lost {
    /// Changes up to this one: what is newest of a message is still there, what it took the place of need not be.
    sequence: u64,
    /// Records that nobody could understand and nobody may have read.
    poison: Vec<&'static str>,
}

impl Checker {
    /// Lets this Postgres note whatever goes backwards from now on. The tables must be there.
    ///
    /// # Panics
    /// If Postgres cannot be asked.
    pub async fn begin(database: &Secret) -> Self {
        let checker = Self::on(database).await;
        sqlx::raw_sql(include_str!("falls.sql")).execute(&checker.pool).await.expect("triggers");
        checker
    }

    /// On a database that has the triggers already.
    ///
    /// # Panics
    /// If Postgres cannot be asked.
    pub async fn on(database: &Secret) -> Self {
        Self { pool: PgPool::connect(database.expose()).await.expect("Postgres"), lost: Lost::default() }
    }

    /// The database is this one from now on; it has the triggers already.
    ///
    /// # Panics
    /// If Postgres cannot be asked.
    pub async fn moves_to(&mut self, database: &Secret) {
        self.pool = Self::on(database).await.pool;
    }

    /// The log is gone, and another one in its place. `poison` is what was poisoned so far.
    ///
    /// # Panics
    /// If the vendor's file cannot be read.
    pub async fn the_log_was_lost(&mut self, pipeline: &Pipeline, poison: Vec<&'static str>) {
        let newest = accepted(pipeline).await.into_keys().map(|(_, _, sequence)| sequence).max();
        self.lost.sequence = newest.unwrap_or(0);
        // Of what was in an earlier one the letters are still there.
        self.lost.poison.extend(poison);
    }

    /// Waits until everything has come through, and checks all of it. `poison` are the reasons of the dead letters that
    /// there should be.
    ///
    /// # Panics
    /// If anything was lost, went backwards, or met another fate than it should; with the history of what shows it.
    pub async fn check(
        &self,
        pipeline: &Pipeline,
        copy: &Copy<'_>,
        chats: &[String],
        readers: &[Reader],
        poison: &[&str],
    ) -> Verdict {
        let expected = at_the_vendor(&pipeline.vendor()).await;
        let accepted = accepted(pipeline).await;
        let different = self.differs(&expected).await;
        let unstored = self.unstored(&accepted).await;
        let log: Arc<dyn EventLog> = Arc::new(Kafka::new(copy.kafka).expect("a client"));
        let mut records = Vec::new();
        for topic in &copy.topics {
            records.extend(eventually!(log.tail(topic, u64::MAX).await.ok(), "{topic} is read whole"));
        }
        let rows = rows_of(&records);
        eventually!(self.applied(&records).await, "progress reaches the end of the log");
        if let Some((chat, id)) = different {
            let history = self.history(&(chat.clone(), id.clone(), 0), &accepted, &rows, readers).await;
            panic!("Postgres is not as the vendor is: {chat}/{id}\n{history}");
        }
        if self.lost.sequence == 0 {
            screens_are(&expected, chats, readers).await;
        } else {
            // A pod that began anew since can know what stood in the log only from the gate. Where that is away too, it
            // pushes what is read again, and the page's merge is what keeps V3.
            screens_come_to_be(&expected, chats, readers).await;
        }
        let stored = self.versions().await;
        for (what, lost) in [
            ("accepted by the vendor and stored in no version", unstored.as_ref()),
            (
                "in the log and stored in no version",
                rows.iter().map(|(change, _)| change).find(|row| !stored.contains(*row)),
            ),
        ] {
            if let Some(lost) = lost {
                panic!("{what}: {lost:?}\n{}", self.history(lost, &accepted, &rows, readers).await);
            }
        }
        self.nothing_fell().await;
        self.letters_are(poison).await;
        verifies_with(pipeline, &copy.settings).await;
        let mut appended_ms: Vec<i64> = rows.iter().map(|(_, record)| record.timestamp_ms).collect();
        appended_ms.sort_unstable();
        Verdict { changes: accepted.len() as u64, records: rows.len() as u64, appended_ms }
    }

    /// Nothing went backwards in Postgres; but progress, where another log is in the place of one that is gone.
    ///
    /// # Panics
    /// If something did.
    pub async fn nothing_fell(&self) {
        let mut fell: Vec<String> =
            sqlx::query_scalar("SELECT what FROM fell").fetch_all(&self.pool).await.expect("falls");
        fell.retain(|what| self.lost.sequence == 0 || !what.starts_with("progress UPDATE"));
        assert!(fell.is_empty(), "went backwards in Postgres: {fell:?}");
    }

    /// The dead letters are exactly what was poisoned, and maybe what was in a log that is gone.
    async fn letters_are(&self, poison: &[&str]) {
        let letters = dead_letters(&self.pool).await;
        let mut more = letters.clone();
        for reason in poison {
            let at = more.iter().position(|letter| letter == reason);
            more.remove(at.unwrap_or_else(|| panic!("no dead letter for {reason}: {letters:?}")));
        }
        let mut gone = self.lost.poison.clone();
        for letter in more {
            let at = gone.iter().position(|reason| *reason == letter);
            gone.remove(at.unwrap_or_else(|| panic!("a dead letter that nobody poisoned, {letter}: {letters:?}")));
        }
    }

    /// The first message that is not in Postgres as it is at the vendor, however long one waits.
    async fn differs(&self, expected: &Rows) -> Option<(String, String)> {
        for_good(async || {
            let stored = in_the_copy(&self.pool).await;
            let differs = |key: &&(String, String)| stored.get(*key) != expected.get(*key);
            expected.keys().chain(stored.keys()).find(differs).cloned()
        })
        .await
    }

    /// The first accepted change that is stored in no version, however long one waits: one that the feed serves late
    /// comes behind the change that took its place.
    async fn unstored(&self, accepted: &BTreeMap<Change, Value>) -> Option<Change> {
        for_good(async || {
            let stored = self.versions().await;
            accepted.keys().find(|change| change.2 > self.lost.sequence && !stored.contains(*change)).cloned()
        })
        .await
    }

    /// Whether every record of the log lies below its partition's progress.
    async fn applied(&self, records: &[LogRecord]) -> bool {
        let progress = sqlx::query_as("SELECT topic, partition, next_offset FROM progress").fetch_all(&self.pool);
        let progress: BTreeMap<_, _> =
            progress.await.expect("progress").into_iter().map(TopicPartition::position).collect();
        records.iter().all(|record| progress.get(&record.at).is_some_and(|next| record.offset < *next))
    }

    async fn versions(&self) -> BTreeSet<Change> {
        let rows: Vec<(String, String, String)> = sqlx::query_as("SELECT chat_id, id, version FROM message_versions")
            .fetch_all(&self.pool)
            .await
            .expect("versions");
        rows.into_iter()
            .map(|(chat, id, version)| {
                let sequence = sequence(&version);
                (chat, id, sequence)
            })
            .collect()
    }

    /// Everything that is known of one message, by whoever knows it.
    async fn history(
        &self,
        (chat, id, _): &Change,
        accepted: &BTreeMap<Change, Value>,
        rows: &[(Change, &LogRecord)],
        readers: &[Reader],
    ) -> String {
        let mut text = String::new();
        let is_it = |change: &Change| change.0 == *chat && change.1 == *id;
        for (change, row) in accepted.iter().filter(|(change, _)| is_it(change)) {
            let _ = writeln!(text, "  the vendor accepted {}: {row}", change.2);
        }
        for (change, record) in rows.iter().filter(|(change, _)| is_it(change)) {
            let _ = writeln!(
                text,
                "  the log has {} at {} offset {} since {} ms",
                change.2, record.at, record.offset, record.timestamp_ms
            );
        }
        for (_, _, sequence) in self.versions().await.iter().filter(|change| is_it(change)) {
            let _ = writeln!(text, "  Postgres has {sequence}");
        }
        for (number, reader) in readers.iter().enumerate() {
            for heard in reader.screen().heard.iter().filter(|heard| heard.chat == *chat && heard.message == *id) {
                let _ = writeln!(
                    text,
                    "  reader {number} heard {} by {} at {}",
                    sequence(heard.version.as_str()),
                    heard.frame,
                    heard.at
                );
            }
        }
        text
    }
}

/// What the vendor accepted, by its own table.
async fn accepted(pipeline: &Pipeline) -> BTreeMap<Change, Value> {
    let file = SqliteConnectOptions::new().filename(pipeline.folder.path().join("external.sqlite")).read_only(true);
    let pool = SqlitePool::connect_with(file).await.expect("the vendor's file");
    let rows: Vec<(i64, String)> = sqlx::query_as("SELECT sequence, body FROM vendor_changes ORDER BY sequence")
        .fetch_all(&pool)
        .await
        .expect("its changes");
    let messages = rows.into_iter().filter_map(|(sequence, row)| {
        let row: Value = serde_json::from_str(&row).expect("a row");
        let text = |field: &str| row[field].as_str().map(str::to_owned);
        (row["type"] == "message").then(|| {
            ((text("chat_id").expect("a chat"), text("id").expect("an id"), sequence.cast_unsigned()), row.clone())
        })
    });
    messages.collect()
}

/// What is wrong and stays so, however long one waits: the feed may show a row 40 s late, and it is read again within 23 s of
/// that.
async fn for_good<T>(wrong: impl AsyncFn() -> Option<T>) -> Option<T> {
    let began = Instant::now();
    loop {
        let found = wrong().await;
        if found.is_none() || began.elapsed() > 2 * PATIENCE {
            return found;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// The rows of messages in the log, with where they stand.
fn rows_of(records: &[LogRecord]) -> Vec<(Change, &LogRecord)> {
    let row = |record: &'_ LogRecord| match Record::decode(&record.value, Timestamp::now()) {
        Ok(Record::Message(message)) => Some((message.chat_id, message.id, message.stamp.sequence)),
        _ => None,
    };
    records.iter().filter_map(|record| Some((row(record)?, record))).collect()
}

/// The vendor's sequence, as it stands in a version behind the epoch's eight digits.
fn sequence(version: &str) -> u64 {
    u64::from_str_radix(&version[8..24], 16).expect("a version")
}
