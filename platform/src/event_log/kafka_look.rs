//! What Kafka is asked for at once: how many partitions there are, where they end, and what stands there.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Header, Headers, Message};
use rdkafka::producer::{FutureProducer, Producer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList, TopicPartitionListElem};

use super::kafka::{Kafka, QUESTION, classify, unavailable};
use super::{LogError, LogRecord, Offsets, TopicPartition};

pub(super) fn partitions(producer: &FutureProducer, topic: &str) -> Result<Option<u32>, LogError> {
    let metadata = producer.client().fetch_metadata(Some(topic), QUESTION).map_err(unavailable)?;
    let found = metadata.topics().iter().find(|found| found.name() == topic && found.error().is_none());
    Ok(found.and_then(|found| u32::try_from(found.partitions().len()).ok()).filter(|&count| count > 0))
}

pub(super) fn offsets(producer: &FutureProducer, topic: &str) -> Result<BTreeMap<u32, Offsets>, LogError> {
    let count = partitions(producer, topic)?.ok_or_else(|| unavailable(format!("there is no topic {topic} yet")))?;
    let mut all = BTreeMap::new();
    for partition in 0..count {
        let (start, end) = producer.client().fetch_watermarks(topic, id(partition), QUESTION).map_err(unavailable)?;
        let offset = |value: i64| u64::try_from(value).unwrap_or(0);
        all.insert(partition, Offsets { start: offset(start), end: offset(end) });
    }
    Ok(all)
}

pub(super) fn tail(
    producer: &FutureProducer,
    cluster: &ClientConfig,
    topic: &str,
    per_partition: u64,
) -> Result<Vec<LogRecord>, LogError> {
    let stretches = offsets(producer, topic)?.into_iter().map(|(partition, held)| {
        let from = held.end.saturating_sub(per_partition).max(held.start);
        (id(partition), kafka_offset(from)..kafka_offset(held.end))
    });
    read_whole(&looking(cluster)?, &topic.into(), stretches.collect(), |_| true)
}

pub(super) fn since(
    producer: &FutureProducer,
    cluster: &ClientConfig,
    topic: &str,
    since_ms: i64,
) -> Result<BTreeMap<u32, u64>, LogError> {
    let ends = offsets(producer, topic)?;
    let mut times = TopicPartitionList::new();
    for partition in ends.keys() {
        times.add_partition_offset(topic, id(*partition), Offset::Offset(since_ms.max(0))).map_err(unavailable)?;
    }
    let found = looking(cluster)?.offsets_for_times(times, QUESTION).map_err(unavailable)?;
    let first = found.elements().into_iter().map(|element| {
        let partition = u32::try_from(element.partition()).unwrap_or_default();
        let end = ends.get(&partition).map_or(0, |held| held.end);
        let first = first_at(&element)?.map_or(end, |offset| u64::try_from(offset).unwrap_or_default());
        // Where nobody leads a partition, librdkafka leaves the moment in the offset's place.
        (first <= end)
            .then_some((partition, first))
            .ok_or_else(|| unavailable(format!("{topic}[{partition}] does not say where a moment begins")))
    });
    first.collect()
}

pub(super) fn find(
    cluster: &ClientConfig,
    at: &TopicPartition,
    key: &[u8],
    since_ms: i64,
) -> Result<Vec<LogRecord>, LogError> {
    let (consumer, id) = (looking(cluster)?, id(at.partition));
    let (_, end) = consumer.fetch_watermarks(&at.topic, id, QUESTION).map_err(unavailable)?;
    let mut since = TopicPartitionList::new();
    since.add_partition_offset(&at.topic, id, Offset::Offset(since_ms.max(0))).map_err(unavailable)?;
    let first = consumer.offsets_for_times(since, QUESTION).map_err(unavailable)?;
    let Some(from) = first.elements().first().map(first_at).transpose()?.flatten() else { return Ok(Vec::new()) };
    read_whole(&consumer, &at.topic, BTreeMap::from([(id, from..end)]), |message| message.key() == Some(key))
}

/// Where a moment's first record stands; `None` if there is none yet.
fn first_at(element: &TopicPartitionListElem<'_>) -> Result<Option<i64>, LogError> {
    element.error().map_err(unavailable)?;
    match element.offset() {
        Offset::Offset(offset) => Ok(Some(offset)),
        _ => Ok(None),
    }
}

/// A consumer that tells where a partition ends.
pub(super) fn looking(cluster: &ClientConfig) -> Result<BaseConsumer, LogError> {
    let mut config = Kafka::consumer_config(cluster, "chat-sync-tail");
    config.set("enable.partition.eof", "true").create().map_err(unavailable)
}

/// Reads these offsets of these partitions. Not to where librdkafka says that a partition ends: of a topic that had just been
/// made again, and was written to, it did not say so for half a minute to five minutes. And what others go on to bring is no
/// answer of a partition that is silent.
fn read_whole(
    consumer: &BaseConsumer,
    topic: &Arc<str>,
    mut stretches: BTreeMap<i32, Range<i64>>,
    is_wanted: impl Fn(&BorrowedMessage<'_>) -> bool,
) -> Result<Vec<LogRecord>, LogError> {
    stretches.retain(|_, stretch| !stretch.is_empty());
    let mut positions = TopicPartitionList::new();
    for (&partition, stretch) in &stretches {
        positions.add_partition_offset(topic, partition, Offset::Offset(stretch.start)).map_err(unavailable)?;
    }
    consumer.assign(&positions).map_err(unavailable)?;
    let (mut records, mut heard, mut passing) = (Vec::new(), Instant::now(), None);
    while !stretches.is_empty() {
        let left = QUESTION.saturating_sub(heard.elapsed());
        if left.is_zero() {
            let silent: Vec<_> = stretches.keys().collect();
            let why = passing.map(|error| format!(": {error}")).unwrap_or_default();
            return Err(unavailable(format!("partitions {silent:?} of {topic} were not read to their ends{why}")));
        }
        match consumer.poll(left) {
            Some(Ok(message)) => {
                let Some(stretch) = stretches.get(&message.partition()) else { continue };
                heard = Instant::now();
                if message.offset() < stretch.end && is_wanted(&message) {
                    records.push(log_record(topic, &message));
                }
                if message.offset() + 1 >= stretch.end {
                    stretches.remove(&message.partition());
                }
            }
            // All partitions are of one topic here, so the number says enough.
            Some(Err(KafkaError::PartitionEOF(partition))) => {
                let Some(stretch) = stretches.remove(&partition) else { continue };
                is_as_long(consumer, topic, partition, stretch.end)?;
                heard = Instant::now();
            }
            Some(Err(error)) if is_passing(&error) => passing = Some(error),
            Some(Err(error)) => return Err(classify(&error)),
            None => {}
        }
    }
    Ok(records)
}

/// The last offsets of a partition may be those of records that were compacted away; or it is another one, in its place, or one
/// whose new leader does not say yet up to where it is whole.
fn is_as_long(consumer: &BaseConsumer, topic: &str, partition: i32, end: i64) -> Result<(), LogError> {
    let (_, now) = consumer.fetch_watermarks(topic, partition, QUESTION).map_err(unavailable)?;
    if now < end {
        return Err(unavailable(format!("{topic}[{partition}] ends at {now}, and ended at {end}")));
    }
    Ok(())
}

/// What a client says of one broker, or of a group that is none of these questions' affair: others may answer.
fn is_passing(error: &KafkaError) -> bool {
    use RDKafkaErrorCode as Code;
    matches!(
        error.rdkafka_error_code(),
        Some(
            Code::BrokerTransportFailure
                | Code::AllBrokersDown
                | Code::Resolve
                | Code::GroupAuthorizationFailed
                | Code::CoordinatorNotAvailable
                | Code::CoordinatorLoadInProgress
        )
    )
}

pub(super) fn id(partition: u32) -> i32 {
    i32::try_from(partition).unwrap_or(i32::MAX)
}

pub(super) fn kafka_offset(offset: u64) -> i64 {
    i64::try_from(offset).unwrap_or(i64::MAX)
}

pub(super) fn log_record(topic: &Arc<str>, message: &BorrowedMessage<'_>) -> LogRecord {
    let header = |header: Header<'_, &[u8]>| {
        (header.key.to_owned(), String::from_utf8_lossy(header.value.unwrap_or_default()).into_owned())
    };
    LogRecord {
        at: TopicPartition::new(topic.clone(), u32::try_from(message.partition()).unwrap_or_default()),
        offset: u64::try_from(message.offset()).unwrap_or_default(),
        timestamp_ms: message.timestamp().to_millis().unwrap_or_default(),
        key: message.key().map(<[u8]>::to_vec),
        value: message.payload().unwrap_or_default().to_vec(),
        headers: message.headers().map(|headers| headers.iter().map(header).collect()).unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use rdkafka::mocking::MockCluster;
    use rdkafka::producer::{BaseProducer, BaseRecord, DefaultProducerContext};

    use super::*;
    use crate::event_log::kafka::client;

    const TOPIC: &str = "t";

    /// A cluster of its own, with a topic of two partitions that nobody has written to.
    fn cluster() -> (MockCluster<'static, DefaultProducerContext>, ClientConfig) {
        let mock = MockCluster::new(1).expect("a mock cluster");
        mock.create_topic(TOPIC, 2, 1).expect("a topic");
        let config = client(&mock.bootstrap_servers());
        (mock, config)
    }

    /// Another record in partition 0.
    fn write(producer: &BaseProducer) {
        let record = BaseRecord::<(), str>::to(TOPIC).partition(0).payload("again");
        producer.send(record).map_err(|(error, _)| error).expect("there is room");
        producer.flush(QUESTION).expect("it is taken");
    }

    /// Reads while partition 0 is written to.
    fn read_of_a_busy_topic(
        config: &ClientConfig,
        stretches: impl Into<BTreeMap<i32, Range<i64>>>,
    ) -> Result<Vec<LogRecord>, LogError> {
        let producer: BaseProducer = config.create().expect("a producer");
        (0..10).for_each(|_| write(&producer));
        std::thread::scope(|scope| {
            let (running, stopped) = mpsc::channel::<()>();
            // Not for ever: whoever waits for an end must fail.
            let longest = Instant::now() + 3 * QUESTION;
            scope.spawn(move || {
                while stopped.try_recv() == Err(mpsc::TryRecvError::Empty) && Instant::now() < longest {
                    write(&producer);
                }
            });
            let read = read_whole(&looking(config).expect("a consumer"), &TOPIC.into(), stretches.into(), |_| true);
            assert!(running.send(()).is_ok(), "it is written to for as long as it is read");
            read
        })
    }

    #[test]
    fn a_partition_that_is_written_to_is_read_up_to_where_it_ended() {
        let (_mock, config) = cluster();
        let records = read_of_a_busy_topic(&config, [(0, 3..7), (1, 0..0)]).expect("it is read");
        assert_eq!(records.iter().map(|record| record.offset).collect::<Vec<_>>(), [3, 4, 5, 6]);
    }

    fn read(config: &ClientConfig, stretches: impl Into<BTreeMap<i32, Range<i64>>>) -> Result<usize, LogError> {
        let consumer = looking(config).expect("a consumer");
        read_whole(&consumer, &TOPIC.into(), stretches.into(), |_| true).map(|records| records.len())
    }

    #[test]
    fn a_partition_that_is_shorter_by_now_was_not_read_whole() {
        let (_mock, config) = cluster();
        let producer: BaseProducer = config.create().expect("a producer");
        (0..10).for_each(|_| write(&producer));
        assert_eq!(read(&config, [(0, 3..10)]).expect("it is read"), 7);
        let error = read(&config, [(0, 3..11)]).expect_err("it ended at 11, and ends at 10");
        assert!(error.to_string().contains("t[0] ends at 10"), "{error}");
    }

    #[test]
    fn a_broker_that_is_away_does_not_keep_another_from_being_read() {
        let (mock, mut config) = cluster();
        write(&config.create().expect("a producer"));
        // Nobody listens there; a client begins with any of them, and most often not with the one that answers.
        let away = (1..=20).map(|port| format!("127.0.0.1:{port},")).collect::<String>();
        config.set("bootstrap.servers", away + &mock.bootstrap_servers());
        assert_eq!(read(&config, [(0, 0..1)]).expect("it is read"), 1);
    }

    #[test]
    fn a_partition_that_goes_on_does_not_hide_one_that_is_silent() {
        let (mock, config) = cluster();
        mock.partition_leader(TOPIC, 1, None).expect("nobody leads partition 1");
        let error = read_of_a_busy_topic(&config, [(0, 3..10), (1, 0..5)]).expect_err("partition 1 says nothing");
        assert!(error.to_string().contains("[1] of t"), "{error}");
    }
}
