//! Asks where partitions begin and end, beside a consumer that reads them: a question to that one would wait behind the fetch
//! that is under way, which lasts until something comes.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaResult;
use rdkafka::metadata::Metadata;

use super::kafka::SILENT;
use super::kafka_look::{id, looking};
use super::{LogError, TopicPartition};

/// How long one question may take: nothing is polled meanwhile.
const QUESTION: Duration = Duration::from_millis(500);
/// How long it may take which topics there are.
const METADATA: Duration = Duration::from_secs(2);
/// How many times as long as a look took the next one waits at most, where a topic does not answer.
const REST: u32 = 20;

/// A client that asks, and another one in its place where nothing is answered for long (decision 19).
pub(super) struct Asking {
    cluster: ClientConfig,
    client: BaseConsumer,
    /// Since when nothing was answered.
    silent: Option<Instant>,
    /// Looks in a row in which a topic did not answer.
    vain: u32,
    /// When the next one may be.
    look_at: Instant,
}

/// What a look for lost positions found.
pub(super) struct Lost {
    pub partitions: Vec<TopicPartition>,
    /// Whether all topics answered.
    pub all: bool,
}

impl Asking {
    pub(super) fn begin(cluster: &ClientConfig) -> Result<Self, LogError> {
        let client = looking(cluster)?;
        Ok(Self { cluster: cluster.clone(), client, silent: None, vain: 0, look_at: Instant::now() })
    }

    /// Which topics there are.
    pub(super) fn metadata(&mut self) -> Option<Metadata> {
        let answer = self.client.fetch_metadata(None, METADATA);
        self.note(answer)
    }

    /// Where a partition ends.
    pub(super) fn end(&mut self, at: &TopicPartition) -> Option<u64> {
        self.held(at).map(|held| *held.end())
    }

    /// Which of these positions the log does not hold; `None` while it is too soon to ask again. A topic that does not answer
    /// does not hide the others, nor does asking it take much of the time.
    pub(super) fn lost(&mut self, positions: &BTreeMap<TopicPartition, u64>) -> Option<Lost> {
        let began = Instant::now();
        if began < self.look_at {
            return None;
        }
        let (mut partitions, mut silent) = (Vec::new(), None);
        for (at, position) in positions {
            if silent.as_ref() == Some(&at.topic) {
                continue;
            }
            match self.held(at) {
                Some(held) if held.contains(position) => {}
                Some(_) => partitions.push(at.clone()),
                None => silent = Some(at.topic.clone()),
            }
        }
        let all = silent.is_none();
        self.vain = if all { 0 } else { REST.min(self.vain + 1) };
        self.look_at = Instant::now() + began.elapsed() * self.vain;
        Some(Lost { partitions, all })
    }

    /// From where a partition begins to where it ends.
    fn held(&mut self, at: &TopicPartition) -> Option<RangeInclusive<u64>> {
        let answer = self.client.fetch_watermarks(&at.topic, id(at.partition), QUESTION);
        let (start, end) = self.note(answer)?;
        Some(u64::try_from(start).unwrap_or(0)..=u64::try_from(end).unwrap_or(0))
    }

    fn note<T>(&mut self, answer: KafkaResult<T>) -> Option<T> {
        match answer {
            Ok(answer) => {
                self.silent = None;
                Some(answer)
            }
            Err(error) => {
                tracing::debug!(%error, "asking Kafka");
                let since = *self.silent.get_or_insert_with(Instant::now);
                if since.elapsed() >= SILENT {
                    self.replace();
                }
                None
            }
        }
    }

    fn replace(&mut self) {
        self.silent = None;
        match looking(&self.cluster) {
            Ok(new) => end_beside(std::mem::replace(&mut self.client, new)),
            Err(error) => tracing::error!(%error, "no new client to ask"),
        }
    }
}

/// On a thread of its own: a consumer that is dropped waits for answers to all that it had asked, of a broker that may be gone for
/// a minute or for good, and nothing would be read meanwhile.
pub(super) fn end_beside(former: impl Send + 'static) {
    if let Err(error) = std::thread::Builder::new().name("kafka-former".into()).spawn(move || drop(former)) {
        tracing::warn!(%error, "no thread to end a consumer on");
    }
}
