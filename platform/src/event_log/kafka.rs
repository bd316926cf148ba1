//! Kafka as the event log, through librdkafka.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use rdkafka::admin::{AdminClient, AdminOptions, ConfigResource, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord, Producer};

use super::kafka_look::{find, offsets, partitions, since, tail};
use super::kafka_reader::KafkaReader;
use super::kafka_settings::KafkaSettings;
use super::{EventLog, LogError, LogRecord, NewRecord, Offsets, Reader, Sharing, Topic, TopicPartition, TopicSpec};
use crate::fail_point::fail_point;
use crate::retry;

/// How long a question about metadata or offsets may take.
pub(super) const QUESTION: Duration = Duration::from_secs(5);
/// How long nothing is answered before another client asks.
pub(super) const SILENT: Duration = Duration::from_secs(20);

/// Room for the greatest record and its headers, in bytes; the brokers' `message.max.bytes` alike.
const MAX_MESSAGE_BYTES: &str = "8388608";

/// A Kafka cluster.
#[derive(Clone)]
pub struct Kafka {
    cluster: ClientConfig,
    producer: Arc<RwLock<FutureProducer>>,
    /// Since when it has answered nothing.
    silent: Arc<Mutex<Option<Instant>>>,
}

impl Kafka {
    /// A client; it connects in the background, so that brokers that are away are met where they are needed.
    ///
    /// # Errors
    /// If librdkafka refuses the settings.
    pub fn new(brokers: &str) -> Result<Self, LogError> {
        Self::at(client(brokers))
    }

    /// A client of the brokers that the settings name.
    ///
    /// # Errors
    /// A sentence that names the setting that is wrong.
    pub fn reached_by(settings: &KafkaSettings) -> anyhow::Result<Self> {
        Ok(Self::at(settings.client()?)?)
    }

    fn at(cluster: ClientConfig) -> Result<Self, LogError> {
        let producer = Arc::new(RwLock::new(Self::new_producer(&cluster)?));
        Ok(Self { cluster, producer, silent: Arc::default() })
    }

    fn new_producer(cluster: &ClientConfig) -> Result<FutureProducer, LogError> {
        cluster
            .clone()
            .set("acks", "all")
            .set("enable.idempotence", "true")
            // The default of 5 ms is most of an idle pipeline's latency.
            .set("linger.ms", "0")
            .set("message.max.bytes", MAX_MESSAGE_BYTES)
            // Past this the caller begins again from its last checkpoint, which is safe.
            .set("message.timeout.ms", "10000")
            .create()
            .map_err(unavailable)
    }

    fn producer(&self) -> FutureProducer {
        self.producer.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// An idempotent producer that met a fatal error (the broker lost what it had acknowledged) never works again.
    fn replace_if_broken(&self, producer: &FutureProducer) {
        let Some((code, why)) = producer.client().fatal_error() else { return };
        tracing::error!(%code, why, "the producer is broken; making a new one");
        self.replace();
    }

    async fn append_with(&self, producer: &FutureProducer, records: &[NewRecord]) -> Result<(), LogError> {
        let mut deliveries = Vec::with_capacity(records.len());
        for record in records {
            deliveries.push(enqueue(producer, record).await?);
        }
        fail_point("log.sent");
        for delivery in deliveries {
            match delivery.await {
                Ok(Ok(_)) => {}
                Ok(Err((error, _))) => return Err(classify(&error)),
                Err(_) => return Err(LogError::Unavailable("the producer was closed".into())),
            }
        }
        Ok(())
    }

    pub(super) fn consumer_config(cluster: &ClientConfig, group: &str) -> ClientConfig {
        let mut config = cluster.clone();
        config
            .set("group.id", group)
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("auto.offset.reset", "error")
            .set("fetch.wait.max.ms", "100")
            // The default of 1 s is a stall whenever the local queue was full for a moment.
            .set("fetch.queue.backoff.ms", "10")
            .set("queued.max.messages.kbytes", "16384")
            // What is fetched stands in one queue for all partitions, one with a backlog before the others: as much as is
            // handed over at once.
            .set("queued.min.messages", "2000")
            .set("fetch.message.max.bytes", "1048576")
            .set("topic.metadata.refresh.interval.ms", "2000")
            .set("session.timeout.ms", "10000")
            // A member that is killed while its group forms is waited for this long; the default is five minutes. The
            // reader's thread polls every few seconds, whatever else waits.
            .set("max.poll.interval.ms", "45000");
        config
    }

    fn admin(&self) -> Result<(AdminClient<DefaultClientContext>, AdminOptions), LogError> {
        let options = AdminOptions::new().operation_timeout(Some(QUESTION)).request_timeout(Some(QUESTION));
        Ok((self.cluster.create().map_err(unavailable)?, options))
    }

    async fn blocking<T: Send + 'static>(
        &self,
        question: impl FnOnce(&FutureProducer) -> Result<T, LogError> + Send + 'static,
    ) -> Result<T, LogError> {
        let producer = self.producer();
        let answer = tokio::task::spawn_blocking(move || question(&producer)).await.map_err(unavailable)?;
        self.note(answer.is_ok());
        answer
    }

    /// A client that does not find its brokers again may never do so, though they are there: a new one looks for them from the beginning.
    fn note(&self, answered: bool) {
        let mut silent = self.silent.lock().unwrap_or_else(PoisonError::into_inner);
        if answered {
            *silent = None;
        } else if silent.get_or_insert_with(Instant::now).elapsed() > SILENT {
            *silent = None;
            drop(silent);
            tracing::warn!("the log does not answer; asking with a new client");
            self.replace();
        }
    }

    /// Whoever appends with the former one ends that first. It ends on a thread of its own: that may take long.
    fn replace(&self) {
        match Self::new_producer(&self.cluster) {
            Ok(new) => {
                let former =
                    std::mem::replace(&mut *self.producer.write().unwrap_or_else(PoisonError::into_inner), new);
                std::thread::spawn(move || drop(former));
            }
            Err(error) => tracing::error!(%error, "no new producer"),
        }
    }
}

pub(super) fn client(brokers: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", brokers)
        .set("client.id", "chat-sync")
        .set("socket.keepalive.enable", "true")
        // A broker that comes back elsewhere leaves an address behind where nobody says no; the default is 30 s.
        .set("socket.connection.setup.timeout.ms", "5000")
        .set("reconnect.backoff.ms", "50")
        .set("reconnect.backoff.max.ms", "1000")
        .set_log_level(rdkafka::config::RDKafkaLogLevel::Warning);
    config
}

#[async_trait]
impl EventLog for Kafka {
    async fn ensure_topics(&self, topics: &[TopicSpec]) -> Result<(), LogError> {
        let (admin, options) = self.admin()?;
        let settings: Vec<(String, String)> =
            topics.iter().map(|topic| (topic.retention_ms.to_string(), topic.max_record_bytes.to_string())).collect();
        let new = topics.iter().zip(&settings).map(|(topic, (retention, bytes))| new_topic(topic, retention, bytes));
        for result in admin.create_topics(&new.collect::<Vec<_>>(), &options).await.map_err(unavailable)? {
            match result {
                Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
                Err((name, code)) => return Err(refused_or_away(code, format!("topic {name}: {code}"))),
            }
        }
        Ok(())
    }

    async fn partitions(&self, topic: &str) -> Result<Option<u32>, LogError> {
        let topic = topic.to_owned();
        self.blocking(move |producer| partitions(producer, &topic)).await
    }

    async fn append(&self, records: Vec<NewRecord>) -> Result<(), LogError> {
        let producer = self.producer();
        let appended = self.append_with(&producer, &records).await;
        if appended.is_err() {
            self.replace_if_broken(&producer);
        }
        appended
    }

    async fn read(&self, topic: Topic, group: &str, sharing: Sharing) -> Result<Box<dyn Reader>, LogError> {
        Ok(Box::new(KafkaReader::open(&self.cluster, topic, group, sharing)?))
    }

    async fn offsets(&self, topic: &str) -> Result<BTreeMap<u32, Offsets>, LogError> {
        let topic = topic.to_owned();
        self.blocking(move |producer| offsets(producer, &topic)).await
    }

    async fn since(&self, topic: &str, since_ms: i64) -> Result<BTreeMap<u32, u64>, LogError> {
        let (topic, cluster) = (topic.to_owned(), self.cluster.clone());
        self.blocking(move |producer| since(producer, &cluster, &topic, since_ms)).await
    }

    async fn find(&self, at: &TopicPartition, key: &str, since_ms: i64) -> Result<Vec<LogRecord>, LogError> {
        let (at, key, cluster) = (at.clone(), key.as_bytes().to_owned(), self.cluster.clone());
        self.blocking(move |_| find(&cluster, &at, &key, since_ms)).await
    }

    async fn tail(&self, topic: &str, per_partition: u64) -> Result<Vec<LogRecord>, LogError> {
        let (topic, cluster) = (topic.to_owned(), self.cluster.clone());
        self.blocking(move |producer| tail(producer, &cluster, &topic, per_partition)).await
    }

    async fn kept(&self, topic: &str) -> Result<Option<Duration>, LogError> {
        let (admin, options) = self.admin()?;
        let described =
            admin.describe_configs(&[ResourceSpecifier::Topic(topic)], &options).await.map_err(unavailable)?;
        match described.into_iter().next() {
            Some(Err(code)) => Err(refused_or_away(code, format!("how long topic {topic} is kept: {code}"))),
            Some(Ok(settings)) if !settings.entries.is_empty() => Ok(kept(&settings)),
            // As of a topic that is not there.
            _ => Err(LogError::Unavailable(format!("how long topic {topic} is kept: no answer"))),
        }
    }
}

/// Kafka deletes whole segments, when their newest record is as old as the retention; each takes records for `segment.ms`.
fn kept(settings: &ConfigResource) -> Option<Duration> {
    let value = |name: &str| settings.get(name)?.value.clone();
    if !value("cleanup.policy")?.split(',').any(|policy| policy.trim() == "delete") {
        return None;
    }
    // -1: for ever.
    let ms = |name: &str| value(name)?.parse::<u64>().ok().map(Duration::from_millis);
    ms("retention.ms")?.checked_add(ms("segment.ms")?)
}

fn new_topic<'a>(topic: &'a TopicSpec, retention: &'a str, bytes: &'a str) -> NewTopic<'a> {
    let partitions = i32::try_from(topic.partitions).unwrap_or(i32::MAX);
    let new = NewTopic::new(&topic.name, partitions, TopicReplication::Fixed(-1)).set("max.message.bytes", bytes);
    if topic.compacted {
        // The active segment is never compacted; the default of a week makes a small topic long to read.
        new.set("cleanup.policy", "compact").set("segment.ms", "60000")
    } else {
        new.set("cleanup.policy", "delete").set("retention.ms", retention)
    }
}

type Delivery = rdkafka::producer::DeliveryFuture;

/// Hands a record to librdkafka; waits while its queue is full.
async fn enqueue(producer: &FutureProducer, record: &NewRecord) -> Result<Delivery, LogError> {
    let mut waits = retry::backoff(Duration::from_millis(1), Duration::from_millis(50));
    loop {
        match producer.send_result(future_record(record)) {
            Ok(delivery) => return Ok(delivery),
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), _)) => {
                tokio::time::sleep(waits.next().unwrap_or(QUESTION)).await;
            }
            Err((error, _)) => return Err(classify(&error)),
        }
    }
}

fn future_record(record: &NewRecord) -> FutureRecord<'_, String, Vec<u8>> {
    let headers = record
        .headers
        .iter()
        .fold(OwnedHeaders::new(), |headers, (key, value)| headers.insert(Header { key, value: Some(value) }));
    let partition = i32::try_from(record.partition).unwrap_or(i32::MAX);
    let mut future = FutureRecord::to(&record.topic).partition(partition).payload(&record.value).headers(headers);
    future.key = record.key.as_ref();
    future
}

pub(super) fn unavailable(error: impl std::fmt::Display) -> LogError {
    LogError::Unavailable(error.to_string())
}

pub(super) fn classify(error: &KafkaError) -> LogError {
    match error.rdkafka_error_code() {
        Some(code) => refused_or_away(code, error.to_string()),
        None => LogError::Unavailable(error.to_string()),
    }
}

fn refused_or_away(code: RDKafkaErrorCode, message: String) -> LogError {
    use RDKafkaErrorCode as Code;
    match code {
        // For what the record is. A missing right or a policy is the cluster's affair, and may be mended there.
        Code::MessageSizeTooLarge => LogError::Refused(message),
        _ => LogError::Unavailable(message),
    }
}
