//! Writes to the log: records first, then the claims about them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use contract::record::RETRY_HEADER;
use contract::topic::{MAX_RECORD_BYTES, PARTITIONS, RETENTION_MS};
use contract::{Marker, Record, Timestamp, Topics};
use platform::event_log::{EventLog, LogError, LogRecord, NewRecord, Offsets, TopicPartition, TopicSpec};

use crate::agenda;
use crate::checkpoint::Checkpoint;
use crate::config::Settings;
use crate::seen::Seen;

/// How many of each partition's last records a new leader looks at.
const TAIL: u64 = 2000;

/// The log, as the synchronizer writes it.
#[derive(Clone)]
pub struct ToLog {
    log: Arc<dyn EventLog>,
    topics: Topics,
    changes: Arc<str>,
    source: String,
    region: String,
    partitions: u32,
}

/// Why the log cannot be written to.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(transparent)]
    Log(#[from] LogError),
    #[error(
        "{topic} has {found} partitions, but its markers say {marked}: a chat's records would be spread over two \
         partitions and lose their order; make a new topic instead"
    )]
    PartitionsChanged { topic: String, found: u32, marked: u32 },
}

impl ToLog {
    /// Makes the topics that are missing and checks the number of partitions.
    ///
    /// # Errors
    /// [`OpenError::PartitionsChanged`] is for people to mend; anything else may pass.
    pub async fn open(settings: &Settings, log: Arc<dyn EventLog>) -> Result<Self, OpenError> {
        let topics = Topics::with_suffix(&settings.topic_suffix);
        log.ensure_topics(&specs(&topics)).await?;
        let found = log.partitions(&topics.changes).await?;
        let partitions = found.ok_or_else(|| LogError::Unavailable(format!("{} is not there yet", topics.changes)))?;
        let to_log = Self {
            changes: topics.changes.as_str().into(),
            log,
            topics,
            source: settings.source.clone(),
            region: settings.region.clone(),
            partitions,
        };
        for record in to_log.log.tail(&to_log.topics.changes, 5).await? {
            if let Ok(Record::Marker(marker)) = Record::decode(&record.value, Timestamp::now())
                && marker.partitions != partitions
            {
                let (topic, marked) = (to_log.topics.changes.clone(), marker.partitions);
                return Err(OpenError::PartitionsChanged { topic, found: partitions, marked });
            }
        }
        Ok(to_log)
    }

    /// The number of partitions of the changes topic.
    pub fn partitions(&self) -> u32 {
        self.partitions
    }

    /// The end of every partition of the changes topic.
    ///
    /// # Errors
    /// [`LogError`].
    pub async fn ends(&self) -> Result<BTreeMap<TopicPartition, u64>, LogError> {
        let offsets = self.log.offsets(&self.topics.changes).await?;
        let end = |(partition, held): (u32, Offsets)| (TopicPartition::new(self.changes.clone(), partition), held.end);
        Ok(offsets.into_iter().map(end).collect())
    }

    /// The newest checkpoint of this source in this region.
    ///
    /// # Errors
    /// [`LogError`].
    pub async fn checkpoint(&self) -> Result<Option<Checkpoint>, LogError> {
        let key = Checkpoint::key(&self.source, &self.region);
        let is_ours = |record: &LogRecord| record.key.as_deref() == Some(key.as_bytes());
        // Ours is written every second, so it is near the end, unless this region has been away for long.
        let mut ours = self.log.tail(&self.topics.checkpoints, 1000).await?.into_iter().rfind(is_ours);
        if ours.is_none() {
            ours = self.log.tail(&self.topics.checkpoints, u64::MAX).await?.into_iter().rfind(is_ours);
        }
        let Some(record) = ours else { return Ok(None) };
        match serde_json::from_slice(&record.value) {
            Ok(checkpoint) => Ok(Some(checkpoint)),
            Err(error) => {
                // Beginning anew is always safe.
                tracing::error!(%error, "the checkpoint cannot be read; beginning anew");
                Ok(None)
            }
        }
    }

    /// What stands at the end of the log.
    ///
    /// # Errors
    /// [`LogError`].
    pub async fn seen(&self) -> Result<Seen, LogError> {
        let mut seen = Seen::default();
        for record in self.log.tail(&self.topics.changes, TAIL).await? {
            if let Ok(record) = Record::decode(&record.value, Timestamp::now()) {
                seen.insert(&record, Instant::now());
            }
        }
        Ok(seen)
    }

    /// Appends rows and rejected items and waits for the acks.
    ///
    /// # Errors
    /// [`LogError`]; some may have been appended.
    pub async fn append(&self, records: &[Record]) -> Result<(), LogError> {
        let trace = format!("00-{:032x}-{:016x}-01", rand::random::<u128>(), rand::random::<u64>());
        let now = Timestamp::now();
        let new = records.iter().filter_map(|record| {
            let mut new = self.new_record(record, record.partition(self.partitions)?, now);
            new.headers.push(("traceparent".to_owned(), trace.clone()));
            Some(new)
        });
        self.log.append(new.collect()).await?;
        let mut kinds: BTreeMap<&str, u64> = BTreeMap::new();
        for record in records {
            *kinds.entry(record.kind()).or_default() += 1;
        }
        for (kind, count) in kinds {
            metrics::counter!("chat_sync_records_appended_total", "kind" => kind).increment(count);
        }
        Ok(())
    }

    /// Appends what a dead letter held; the writer says in that letter what becomes of it now.
    ///
    /// # Errors
    /// [`LogError`].
    pub async fn append_retry(&self, record: &Record, digest: &str) -> Result<(), LogError> {
        let partition = record.partition(self.partitions).unwrap_or(0);
        let mut new = self.new_record(record, partition, Timestamp::now());
        new.headers.push((RETRY_HEADER.to_owned(), digest.to_owned()));
        self.log.append(vec![new]).await
    }

    /// Claims that everything up to the marker's cursor is in the log: a marker to every partition, then the
    /// checkpoint. To be called only after the acks of all of it.
    ///
    /// # Errors
    /// [`LogError`].
    pub async fn claim(
        &self,
        marker: Marker,
        generation: Option<u32>,
        reconcile: agenda::State,
    ) -> Result<(), LogError> {
        let checkpoint = Checkpoint {
            source: marker.source.clone(),
            region: marker.region.clone(),
            leader: marker.leader.clone(),
            number: marker.number,
            cursor: marker.cursor.clone(),
            settled: marker.settled.clone(),
            generation,
            reconcile,
            at: marker.at,
        };
        let now = marker.at;
        let record = Record::Marker(marker);
        let markers = (0..self.partitions).map(|partition| self.new_record(&record, partition, now));
        self.log.append(markers.collect()).await?;
        self.log
            .append(vec![NewRecord {
                topic: self.topics.checkpoints.as_str().into(),
                partition: 0,
                key: Some(Checkpoint::key(&self.source, &self.region)),
                // Strings, numbers and times: it cannot fail.
                value: serde_json::to_vec(&checkpoint).unwrap_or_default(),
                headers: Vec::new(),
            }])
            .await
    }

    fn new_record(&self, record: &Record, partition: u32, now: Timestamp) -> NewRecord {
        NewRecord {
            topic: self.changes.clone(),
            partition,
            key: record.key(),
            value: record.encode(),
            headers: record.headers(&self.source, now),
        }
    }
}

fn specs(topics: &Topics) -> [TopicSpec; 3] {
    // Room for a record's headers and key.
    let max_record_bytes = 2 * MAX_RECORD_BYTES;
    let compacted = |name: &String| TopicSpec {
        name: name.clone(),
        partitions: 1,
        compacted: true,
        retention_ms: RETENTION_MS,
        max_record_bytes,
    };
    let changes = TopicSpec {
        name: topics.changes.clone(),
        partitions: PARTITIONS,
        compacted: false,
        retention_ms: RETENTION_MS,
        max_record_bytes,
    };
    [changes, compacted(&topics.checkpoints), compacted(&topics.erasures)]
}
