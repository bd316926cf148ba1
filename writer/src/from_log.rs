//! Reads the log and decides what is stored when; every record meets one fate.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use contract::Topics;
use platform::event_log::{
    self, Event, EventLog, Fingerprint, LogError, LogRecord, Progress, Reader, Sharing, Topic, TopicPartition,
};
use platform::fail_point::fail_point;
use platform::health::Check;
use platform::retry;

use crate::batch::{Batch, Fate, Move, collapse, dead_letter, fate};
use crate::config::Settings;
use crate::failure::StoreError;
use crate::store::{Applied, Store};

/// How long a transaction may take; past it the server may be gone without a word. Whether it was committed
/// after all, the compare-and-set of the next try tells.
const TRANSACTION: Duration = Duration::from_secs(35);

/// The consuming side of the writer.
pub struct FromLog {
    settings: Settings,
    log: Arc<dyn EventLog>,
    store: Arc<dyn Store>,
    log_check: Check,
    store_check: Check,
    partitions: BTreeMap<TopicPartition, Partition>,
}

/// An assigned partition.
#[derive(Debug, Clone, Copy, Default)]
struct Partition {
    /// What the store says, as far as this writer knows: what the next batch is compared with.
    progress: Option<Progress>,
    /// The next offset to apply.
    next: u64,
    /// What the record before `next` must look like, until it was looked at.
    unverified: Option<Fingerprint>,
}

type Fated = (LogRecord, Fate);

/// The batch was not this writer's to store; positions were read again.
struct LostPlace;

impl FromLog {
    pub fn new(
        settings: Settings,
        log: Arc<dyn EventLog>,
        store: Arc<dyn Store>,
        log_check: Check,
        store_check: Check,
    ) -> Self {
        Self { settings, log, store, log_check, store_check, partitions: BTreeMap::new() }
    }

    /// Consumes for ever.
    ///
    /// # Errors
    /// If the log's reader ends.
    pub async fn run(mut self) -> anyhow::Result<()> {
        self.migrate().await;
        let topic = Topics::with_suffix(&self.settings.topic_suffix).changes;
        let topic = Topic { base: topic, mirrored: true };
        let mut reader = self.log.read(topic.clone(), &self.settings.group, Sharing::Group).await?;
        let watch = event_log::watch(self.log.clone(), topic.base, self.log_check.clone());
        tokio::select! {
            () = watch => Ok(()),
            ended = self.consume(&mut *reader) => Ok(ended?),
        }
    }

    async fn migrate(&self) {
        let mut waits = retry::reconnecting();
        while let Err(error) = self.store.migrate().await {
            self.wait_for_store(&error, &mut waits).await;
        }
        self.store_check.ready("answers");
    }

    async fn consume(&mut self, reader: &mut dyn Reader) -> Result<(), LogError> {
        loop {
            match reader.next().await? {
                Event::Assigned(partitions) => self.begin(reader, partitions).await?,
                Event::Revoked(partitions) => {
                    tracing::info!(partitions = partitions.len(), "revoked");
                    self.partitions.retain(|at, _| !partitions.contains(at));
                }
                Event::Records(records) => self.apply(reader, records).await?,
                Event::OutOfRange(at) => self.begin_again(reader, at).await?,
            }
            metrics::gauge!("chat_sync_writer_partitions").set(self.partitions.len() as f64);
        }
    }

    /// Takes the positions of these partitions from the store.
    async fn begin(&mut self, reader: &mut dyn Reader, partitions: Vec<TopicPartition>) -> Result<(), LogError> {
        tracing::info!(partitions = partitions.len(), "assigned");
        let stored = self.progress().await;
        let mut positions = Vec::new();
        for at in partitions {
            let progress = match stored.get(&at) {
                Some(progress) => Some(*progress),
                None => self.begin_where_the_log_does(&at).await,
            };
            let next = progress.map_or(0, |progress| progress.next_offset);
            // Where nothing was read yet, there is nothing to compare.
            let unverified = progress.map(|progress| progress.last).filter(|last| *last != Fingerprint::default());
            // One before, to see whether the log still is the one that was applied.
            positions.push((at.clone(), if unverified.is_some() { next - 1 } else { next }));
            self.partitions.insert(at, Partition { progress, next, unverified });
        }
        reader.start(positions).await
    }

    /// Where the log does not reach back to its beginning, that is said to whoever reads the copy: a partition that holds
    /// nothing any more would stay without progress, and everybody would wait for it.
    async fn begin_where_the_log_does(&self, at: &TopicPartition) -> Option<Progress> {
        let start = self.log_start(at).await;
        if start == 0 {
            return None;
        }
        self.ask_reconcile("the store is new, and the log does not reach back to its beginning").await;
        // Another writer that was faster has begun there too.
        Some(self.store_place(at, None, start).await.unwrap_or(beginning(start)))
    }

    /// Where this partition is read on, without a record that says so; `None` if another writer was faster: what it
    /// stores next is noticed as always.
    async fn store_place(&self, at: &TopicPartition, from: Option<Progress>, start: u64) -> Option<Progress> {
        let to = beginning(start);
        let from = from.map(|progress| progress.next_offset);
        let batch = Batch { moves: vec![Move { at: at.clone(), from, to }], ..Batch::default() };
        let mut waits = retry::reconnecting();
        loop {
            match tokio::time::timeout(TRANSACTION, self.store.apply(&batch)).await {
                Ok(Ok(Applied::Whole { .. })) => return Some(to),
                Ok(Ok(Applied::Missed)) => return None,
                Ok(Err(error)) => self.wait_for_store(&error, &mut waits).await,
                Err(_) => self.wait_for_store(&silent(), &mut waits).await,
            }
        }
    }

    /// The position is not in the log: it was cut by retention, or another log is in its place.
    async fn begin_again(&mut self, reader: &mut dyn Reader, at: TopicPartition) -> Result<(), LogError> {
        let start = self.log_start(&at).await;
        let Some(partition) = self.partitions.get_mut(&at) else { return Ok(()) };
        if start != partition.next {
            tracing::error!(
                partition = %at, position = partition.next, start,
                "the position is not in the log any more; beginning at the log's start"
            );
            metrics::counter!("chat_sync_log_replaced_total").increment(1);
            // What stood between may never have been applied.
            self.ask_reconcile("the log was replaced, or cut by its retention").await;
        }
        let Some(partition) = self.partitions.get_mut(&at) else { return Ok(()) };
        partition.next = start;
        partition.unverified = None;
        let known = partition.progress;
        // A partition that holds nothing now may get nothing for long, and whoever reads the copy would wait for that.
        if known.map_or(0, |progress| progress.next_offset) != start
            && let Some(stored) = self.store_place(&at, known, start).await
            && let Some(partition) = self.partitions.get_mut(&at)
        {
            partition.progress = Some(stored);
        }
        reader.start(vec![(at, start)]).await
    }

    async fn apply(&mut self, reader: &mut dyn Reader, records: Vec<LogRecord>) -> Result<(), LogError> {
        let last_ms = event_log::furthest_behind(&records);
        let mut fated = Vec::with_capacity(records.len());
        let mut replaced = BTreeSet::new();
        for record in records {
            // Of a log that was replaced, nothing counts before it is read from its start.
            if replaced.contains(&record.at) {
                continue;
            }
            match self.place(&record) {
                Place::Next => {
                    let fate = fate(&record);
                    fated.push((record, fate));
                }
                Place::Passed => {}
                Place::Replaced => {
                    replaced.insert(record.at);
                }
            }
        }
        for at in replaced {
            self.begin_again(reader, at).await?;
        }
        if self.store_all(fated).await.is_err() {
            metrics::counter!("chat_sync_writer_lost_places_total").increment(1);
            let partitions = self.partitions.keys().cloned().collect();
            return self.begin(reader, partitions).await;
        }
        let now_ms = chrono::Utc::now().timestamp_millis();
        // The lag is set at each batch; this one lets a reader compute it while there is none.
        metrics::gauge!("chat_sync_writer_last_record_timestamp_seconds").set(last_ms as f64 / 1000.0);
        metrics::gauge!("chat_sync_writer_lag_seconds").set((now_ms - last_ms).max(0) as f64 / 1000.0);
        let positions =
            self.partitions.iter().filter_map(|(at, partition)| Some((at.clone(), partition.progress?.next_offset)));
        reader.commit(positions.collect());
        Ok(())
    }

    fn place(&mut self, record: &LogRecord) -> Place {
        let Some(partition) = self.partitions.get_mut(&record.at) else { return Place::Passed };
        if record.offset + 1 == partition.next
            && let Some(expected) = partition.unverified.take()
            && expected != record.fingerprint()
        {
            return Place::Replaced;
        }
        if record.offset < partition.next {
            return Place::Passed;
        }
        partition.next = record.offset + 1;
        Place::Next
    }

    /// Stores all of it, in as many transactions as it takes; waits for the store as long as it takes.
    async fn store_all(&mut self, fated: Vec<Fated>) -> Result<(), LostPlace> {
        let mut waiting = vec![fated];
        let mut waits = retry::reconnecting();
        while let Some(mut part) = waiting.pop() {
            if part.is_empty() {
                continue;
            }
            match self.store(&part).await {
                Ok(true) => waits = retry::reconnecting(),
                Ok(false) => return Err(LostPlace),
                // What is too much may pass, however little it is: a full disk refuses one record too.
                Err(StoreError::Data(why)) if part.len() == 1 && part[0].1.is_row() => {
                    let letter = Fate::DeadLetter(dead_letter(&part[0].0, "refused_by_store", why));
                    let row = std::mem::replace(&mut part[0].1, letter);
                    match self.store(&part).await {
                        Ok(true) => {}
                        Ok(false) => return Err(LostPlace),
                        // Not even the letter: then it may not be the row's fault.
                        Err(error) => {
                            part[0].1 = row;
                            waiting.push(part);
                            self.wait_for_store(&error, &mut waits).await;
                        }
                    }
                }
                Err(StoreError::Data(_) | StoreError::Saturated(_)) if part.len() > 1 => {
                    let second = part.split_off(part.len() / 2);
                    waiting.push(second);
                    waiting.push(part);
                }
                Err(error) => {
                    waiting.push(part);
                    self.wait_for_store(&error, &mut waits).await;
                }
            }
        }
        Ok(())
    }

    /// One transaction; false if another writer was there.
    async fn store(&mut self, fated: &[Fated]) -> Result<bool, StoreError> {
        let from =
            self.partitions.iter().filter_map(|(at, partition)| Some((at.clone(), partition.progress?))).collect();
        let batch = collapse(fated, &from);
        fail_point("writer.collapsed");
        let started = std::time::Instant::now();
        let applied = tokio::time::timeout(TRANSACTION, self.store.apply(&batch)).await;
        match applied.unwrap_or_else(|_| Err(StoreError::Saturated(format!("no answer within {TRANSACTION:?}"))))? {
            Applied::Missed => Ok(false),
            Applied::Whole { newer } => {
                self.store_check.ready("answers");
                for step in &batch.moves {
                    if let Some(partition) = self.partitions.get_mut(&step.at) {
                        partition.progress = Some(step.to);
                    }
                }
                metrics::histogram!("chat_sync_writer_transaction_seconds").record(started.elapsed().as_secs_f64());
                metrics::counter!("chat_sync_writer_records_total").increment(fated.len() as u64);
                metrics::counter!("chat_sync_writer_rows_newer_total").increment(newer);
                for letter in &batch.dead_letters {
                    metrics::counter!("chat_sync_dead_letters_total", "reason" => letter.reason.clone()).increment(1);
                    tracing::warn!(
                        reason = letter.reason, kafka.topic = %letter.at.topic, kafka.partition = letter.at.partition,
                        kafka.offset = letter.offset, "dead letter"
                    );
                }
                Ok(true)
            }
        }
    }

    async fn progress(&self) -> BTreeMap<TopicPartition, Progress> {
        let mut waits = retry::reconnecting();
        loop {
            match tokio::time::timeout(TRANSACTION, self.store.progress()).await {
                Ok(Ok(progress)) => return progress,
                Ok(Err(error)) => self.wait_for_store(&error, &mut waits).await,
                Err(_) => self.wait_for_store(&silent(), &mut waits).await,
            }
        }
    }

    /// Asks for it as long as it takes: nothing else would bring what is missing.
    async fn ask_reconcile(&self, reason: &str) {
        let mut waits = retry::reconnecting();
        loop {
            match tokio::time::timeout(TRANSACTION, self.store.ask_reconcile(reason, true)).await {
                Ok(Ok(_)) => return,
                Ok(Err(error)) => self.wait_for_store(&error, &mut waits).await,
                Err(_) => self.wait_for_store(&silent(), &mut waits).await,
            }
        }
    }

    async fn log_start(&self, at: &TopicPartition) -> u64 {
        let mut waits = retry::reconnecting();
        loop {
            match self.log.offsets(&at.topic).await {
                Ok(offsets) => match offsets.get(&at.partition) {
                    Some(held) => return held.start,
                    None => tokio::time::sleep(waits.next().unwrap_or(Duration::from_secs(2))).await,
                },
                Err(error) => {
                    self.log_check.waiting(error.to_string());
                    tokio::time::sleep(waits.next().unwrap_or(Duration::from_secs(2))).await;
                }
            }
        }
    }

    async fn wait_for_store(&self, error: &StoreError, waits: &mut (impl Iterator<Item = Duration> + Send)) {
        metrics::counter!("chat_sync_writer_retries_total").increment(1);
        self.store_check.waiting(error.to_string());
        tokio::time::sleep(waits.next().unwrap_or(Duration::from_secs(2))).await;
    }
}

/// Nothing of this log was read yet.
fn beginning(start: u64) -> Progress {
    Progress { next_offset: start, last: Fingerprint::default() }
}

fn silent() -> StoreError {
    StoreError::Transient(format!("no answer within {TRANSACTION:?}"))
}

/// Where a record stands.
enum Place {
    /// It is to be applied.
    Next,
    /// It was applied before.
    Passed,
    /// It is another one than the record that was applied here: the log was replaced.
    Replaced,
}
