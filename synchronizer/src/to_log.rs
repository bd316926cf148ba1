//! Writes to the log: records first, then the claims about them.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use contract::erasure::Erasure;
use contract::record::RETRY_HEADER;
use contract::topic::{MAX_RECORD_BYTES, PARTITIONS, RETENTION_MS};
use contract::{Marker, Record, Timestamp, Topics};
use platform::event_log::follow::{Begin, Follow};
use platform::event_log::{
    self, EventLog, LogError, LogRecord, NewRecord, Reader, Sharing, Topic, TopicPartition, TopicSpec,
};

use platform::fail_point::fail_point;
use platform::health::Check;

use crate::agenda;
use crate::checkpoint::{Checkpoint, Earlier};
use crate::config::Settings;
use crate::counted::Appended;
use crate::differences::Digests;

/// Nothing is committed for this group: it only has to have a name.
const GROUP: &str = "synchronizer-standby";
/// How many of the last checkpoints are looked at first. Ours is written every second, so it is near the end, unless
/// this region has been away for long.
const CHECKPOINT_TAIL: u64 = 1000;

/// An offset of each partition.
pub type Positions = BTreeMap<TopicPartition, u64>;

/// The log, as the synchronizer writes it.
#[derive(Clone)]
pub struct ToLog {
    log: Arc<dyn EventLog>,
    topics: Topics,
    changes: Arc<str>,
    /// The other regions' names.
    others: Vec<String>,
    /// Their changes, and their other topics, as they are called here; in the same order.
    mirrored: Vec<String>,
    mirrored_erasures: Vec<String>,
    mirrored_digests: Vec<String>,
    source: String,
    region: String,
    partitions: u32,
    appended: Arc<Mutex<Appended>>,
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
            others: settings.others().map(str::to_owned).collect(),
            mirrored: settings.mirrored(&topics.changes).collect(),
            mirrored_erasures: settings.mirrored(&topics.erasures).collect(),
            mirrored_digests: settings.mirrored(&topics.digests).collect(),
            log,
            topics,
            source: settings.source.clone(),
            region: settings.region.clone(),
            partitions,
            appended: Arc::default(),
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

    /// The log did not take or give something: makes the topics again that somebody may have deleted. If the log itself
    /// does not answer, there will be a next time.
    pub async fn make_topics_again(&self) {
        if let Err(error) = self.log.ensure_topics(&specs(&self.topics)).await {
            tracing::debug!(%error, "looking for the topics");
        }
    }

    /// The number of partitions of the changes topic.
    pub fn partitions(&self) -> u32 {
        self.partitions
    }

    /// Whether a topic holds another region's changes.
    pub fn is_mirrored(&self, topic: &str) -> bool {
        self.mirrored.iter().any(|mirrored| mirrored == topic)
    }

    /// Whether a topic is where this region's erasures are asked for.
    pub fn is_own_erasures(&self, topic: &str) -> bool {
        self.topics.erasures == topic
    }

    /// Where other regions' erasures are mirrored to: region, topic.
    pub fn others_erasures(&self) -> impl Iterator<Item = (&str, &str)> {
        self.others.iter().map(String::as_str).zip(self.mirrored_erasures.iter().map(String::as_str))
    }

    /// The changes topics that are there: the own one, and those that are mirrored.
    async fn changes(&self) -> Result<Vec<&str>, LogError> {
        self.there(&self.topics.changes, &self.mirrored).await
    }

    async fn there<'a>(&self, own: &'a str, mirrored: &'a [String]) -> Result<Vec<&'a str>, LogError> {
        let mut there = vec![own];
        for topic in mirrored {
            if self.log.partitions(topic).await?.is_some() {
                there.push(topic);
            }
        }
        Ok(there)
    }

    /// The end of every partition of the changes that holds something, mirrored ones too.
    ///
    /// # Errors
    /// [`LogError`].
    pub async fn ends(&self) -> Result<Positions, LogError> {
        self.ends_of_all(self.changes().await?).await
    }

    async fn ends_of_all(&self, topics: Vec<&str>) -> Result<Positions, LogError> {
        let mut ends = Positions::new();
        for topic in topics {
            ends.extend(self.ends_of(topic).await?);
        }
        Ok(ends)
    }

    /// The erasures, mirrored ones too where there are other regions.
    pub fn erasures(&self) -> Follow {
        Follow {
            log: self.log.clone(),
            topic: Topic { base: self.topics.erasures.clone(), mirrored: !self.mirrored.is_empty() },
            mirrors: self.mirrored_erasures.clone(),
            group: GROUP.into(),
            begin: Begin::Start,
        }
    }

    /// Asks every synchronizer, here and in the other regions, to erase, and to append nothing of it any more.
    ///
    /// # Errors
    /// [`LogError`].
    pub async fn ask_to_erase(&self, erasure: &Erasure) -> Result<(), LogError> {
        self.log
            .append(vec![NewRecord {
                topic: self.topics.erasures.as_str().into(),
                partition: 0,
                key: Some(erasure.key()),
                value: erasure.encode(),
                headers: Vec::new(),
            }])
            .await
    }

    /// Reads what the copies hold, here and where the mirrors come from.
    ///
    /// # Errors
    /// [`LogError`].
    pub async fn read_digests(&self) -> Result<Box<dyn Reader>, LogError> {
        self.read(&self.topics.digests, true).await
    }

    /// Whether a topic holds what another region's copy holds.
    pub fn is_mirrored_digests(&self, topic: &str) -> bool {
        self.mirrored_digests.iter().any(|mirrored| mirrored == topic)
    }

    /// Says what this region's copy holds of some chats. What takes the same `place` later on covers it.
    ///
    /// # Errors
    /// [`LogError`].
    pub async fn tell(&self, place: impl Display, digests: &Digests) -> Result<(), LogError> {
        self.log
            .append(vec![NewRecord {
                topic: self.topics.digests.as_str().into(),
                partition: 0,
                key: Some(format!("{}/{}/{place}", self.source, self.region)),
                // Strings, numbers and times: it cannot fail.
                value: serde_json::to_vec(digests).unwrap_or_default(),
                headers: Vec::new(),
            }])
            .await
    }

    /// Where a partition ends.
    ///
    /// # Errors
    /// [`LogError`].
    pub async fn end_of(&self, at: &TopicPartition) -> Result<u64, LogError> {
        Ok(self.log.offsets(&at.topic).await?.get(&at.partition).map_or(0, |held| held.end))
    }

    /// Where a partition begins.
    ///
    /// # Errors
    /// [`LogError`].
    pub async fn start_of(&self, at: &TopicPartition) -> Result<u64, LogError> {
        Ok(self.log.offsets(&at.topic).await?.get(&at.partition).map_or(0, |held| held.start))
    }

    /// The end of the checkpoints.
    ///
    /// # Errors
    /// [`LogError`].
    pub async fn checkpoint_ends(&self) -> Result<Positions, LogError> {
        self.ends_of(&self.topics.checkpoints).await
    }

    /// Only of partitions that hold something: what retention has emptied nobody can read up to its end.
    async fn ends_of(&self, topic: &str) -> Result<Positions, LogError> {
        let offsets = self.log.offsets(topic).await?.into_iter().filter(|(_, held)| held.start < held.end);
        Ok(offsets.map(|(partition, held)| (TopicPartition::new(topic, partition), held.end)).collect())
    }

    /// Where to begin reading what was appended since this moment (milliseconds since the Unix epoch), here or in another
    /// region.
    ///
    /// # Errors
    /// [`LogError`].
    pub async fn since(&self, since_ms: i64) -> Result<Positions, LogError> {
        let mut since = BTreeMap::new();
        for topic in self.changes().await? {
            let offsets = self.log.since(topic, since_ms).await?;
            since
                .extend(offsets.into_iter().map(|(partition, offset)| (TopicPartition::new(topic, partition), offset)));
        }
        Ok(since)
    }

    /// The newest checkpoint of this source in this region.
    ///
    /// # Errors
    /// [`LogError`].
    pub async fn checkpoint(&self) -> Result<Option<Checkpoint>, LogError> {
        for last in [CHECKPOINT_TAIL, u64::MAX] {
            let records = self.log.tail(&self.topics.checkpoints, last).await?;
            if let Some(checkpoint) = records.iter().rev().find_map(|record| self.checkpoint_from(record)) {
                return Ok(Some(checkpoint));
            }
        }
        Ok(None)
    }

    /// The checkpoint that a record holds, if it is one of this source in this region.
    pub fn checkpoint_from(&self, record: &LogRecord) -> Option<Checkpoint> {
        let ours = record.at.topic.as_ref() == self.topics.checkpoints
            && record.key.as_deref() == Some(Checkpoint::key(&self.source, &self.region).as_bytes());
        if !ours {
            return None;
        }
        // Passing one over is always safe: an older one costs reading again, none at all a listing.
        serde_json::from_slice(&record.value)
            .inspect_err(|error| tracing::error!(%error, offset = record.offset, "a checkpoint cannot be read"))
            .ok()
    }

    /// Reads the changes, all partitions, mirrored ones too where there are other regions.
    ///
    /// # Errors
    /// [`LogError`].
    pub async fn read_changes(&self) -> Result<Box<dyn Reader>, LogError> {
        self.read(&self.topics.changes, !self.mirrored.is_empty()).await
    }

    /// Reads the checkpoints.
    ///
    /// # Errors
    /// [`LogError`].
    pub async fn read_checkpoints(&self) -> Result<Box<dyn Reader>, LogError> {
        self.read(&self.topics.checkpoints, false).await
    }

    /// Says in `check` whether the log answers, and calls `away` whenever it does not. Never ends.
    pub async fn watch(&self, check: Check, away: impl Fn()) {
        event_log::watch_and_tell(self.log.clone(), self.topics.changes.clone(), check, away).await;
    }

    async fn read(&self, topic: &str, mirrored: bool) -> Result<Box<dyn Reader>, LogError> {
        let topic = Topic { base: topic.to_owned(), mirrored };
        self.log.read(topic, GROUP, Sharing::All).await
    }

    /// A term of leadership begins in this process: what is appended from now on is its.
    pub fn begin_term(&self) {
        self.appended().begin_term();
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
        let new: Vec<NewRecord> = new.collect();
        let taken: Vec<u32> = new.iter().map(|record| record.partition).collect();
        let begun = self.appended().begin();
        self.log.append(new).await?;
        self.appended().taken(begun, taken.into_iter());
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

    /// Claims that everything up to the marker's cursor is in the log, in every partition. To be called only after the acks
    /// of all of it.
    ///
    /// # Errors
    /// [`LogError`]; it may come to some partitions, later too.
    pub async fn mark(&self, marker: &Marker) -> Result<(), LogError> {
        let records = self.appended().close();
        let markers = (0..self.partitions).map(|partition| {
            let records = records.get(&partition).copied().unwrap_or(0);
            self.new_record(&Record::Marker(Marker { records, ..marker.clone() }), partition, marker.at)
        });
        self.log.append(markers.collect()).await?;
        self.appended().open();
        fail_point("leader.marked");
        Ok(())
    }

    /// Where this region is: at a marker that every partition took.
    ///
    /// # Errors
    /// [`LogError`].
    pub async fn keep_place(
        &self,
        marker: &Marker,
        earlier: Vec<Earlier>,
        reconcile: agenda::State,
    ) -> Result<(), LogError> {
        self.check_point(&Checkpoint { earlier, ..self.place_of(marker, true, reconcile) }).await?;
        fail_point("leader.checkpointed");
        Ok(())
    }

    /// Everything up to the cursor of another region's marker is in this region's log, since that marker was read in every
    /// partition: from there this region would go on.
    ///
    /// # Errors
    /// [`LogError`].
    pub async fn stand_by(&self, marker: &Marker, reconcile: agenda::State) -> Result<(), LogError> {
        self.check_point(&self.place_of(marker, false, reconcile)).await
    }

    fn appended(&self) -> MutexGuard<'_, Appended> {
        self.appended.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn place_of(&self, marker: &Marker, polls: bool, reconcile: agenda::State) -> Checkpoint {
        Checkpoint {
            source: marker.source.clone(),
            region: self.region.clone(),
            leader: marker.leader.clone(),
            number: marker.number,
            cursor: marker.cursor.clone(),
            settled: marker.settled.clone(),
            earlier: Vec::new(),
            generation: marker.generation,
            polls,
            reconcile,
            // By the own clock.
            at: Timestamp::now(),
        }
    }

    async fn check_point(&self, checkpoint: &Checkpoint) -> Result<(), LogError> {
        self.log
            .append(vec![NewRecord {
                topic: self.topics.checkpoints.as_str().into(),
                partition: 0,
                key: Some(Checkpoint::key(&self.source, &self.region)),
                // Strings, numbers and times: it cannot fail.
                value: serde_json::to_vec(checkpoint).unwrap_or_default(),
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

fn specs(topics: &Topics) -> [TopicSpec; 4] {
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
    [changes, compacted(&topics.checkpoints), compacted(&topics.erasures), compacted(&topics.digests)]
}
