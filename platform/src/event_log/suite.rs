//! What every event log must do. The embedded log is trusted because it passes what Kafka passes.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::follow::{Begin, Follow, Told};
use super::{Event, EventLog, NewRecord, Reader, Sharing, Topic, TopicPartition, TopicSpec};
use crate::eventually;
use crate::testing::{PATIENCE, unique_suffix};

/// Makes one test a case; `$log` is an expression of type `Option<Arc<dyn EventLog>>` in async context.
#[macro_export]
macro_rules! event_log_suite {
    ($log:expr) => {
        $crate::event_log_suite!(@cases $log;
            topics_are_made_once_and_stay,
            what_is_appended_is_read_back_whole_and_in_order,
            nothing_is_delivered_before_start,
            a_start_goes_to_the_offset_and_drops_what_was_under_way,
            however_often_a_group_is_opened_no_partition_stays_silent,
            a_storm_of_starts_ends_where_the_last_ones_say,
            a_reader_waits_for_what_is_appended_later,
            every_reader_of_all_gets_everything,
            a_group_shares_the_partitions_and_hands_over,
            mirrored_topics_are_read_too,
            the_tail_is_the_last_records_of_each_partition,
            records_are_found_by_their_key,
            a_moment_has_its_offsets,
            a_position_beyond_the_end_is_said,
            a_record_of_four_megabytes_passes,
            who_follows_a_topic_is_told_when_all_was_read,
        );
    };
    (@cases $log:expr; $($case:ident),* $(,)?) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                if let Some(log) = $log {
                    $crate::event_log::suite::$case(log).await;
                }
            }
        )*
    };
}

type Log = Arc<dyn EventLog>;

async fn topic(log: &Log, partitions: u32) -> String {
    named(log, format!("suite{}", unique_suffix()), partitions).await
}

async fn named(log: &Log, name: String, partitions: u32) -> String {
    let spec = TopicSpec { name, partitions, compacted: false, retention_ms: 3_600_000, max_record_bytes: 8 << 20 };
    log.ensure_topics(std::slice::from_ref(&spec)).await.unwrap();
    eventually!(log.partitions(&spec.name).await.unwrap() == Some(partitions), "the topic is there");
    spec.name
}

fn record(topic: &str, partition: u32, value: impl Into<Vec<u8>>) -> NewRecord {
    NewRecord { topic: topic.into(), partition, key: Some("key".into()), value: value.into(), headers: Vec::new() }
}

async fn append(log: &Log, topic: &str, partition: u32, values: &[&str]) {
    log.append(values.iter().map(|value| record(topic, partition, *value)).collect()).await.unwrap();
}

async fn open(log: &Log, topic: &str, sharing: Sharing) -> Box<dyn Reader> {
    let topic = Topic { base: topic.to_owned(), mirrored: false };
    log.read(topic, &format!("group{}", unique_suffix()), sharing).await.unwrap()
}

async fn next(reader: &mut Box<dyn Reader>) -> Event {
    tokio::time::timeout(PATIENCE, reader.next()).await.expect("an event in time").unwrap()
}

/// The partitions that were assigned, once there are `count`.
async fn assigned(reader: &mut Box<dyn Reader>, count: usize) -> Vec<TopicPartition> {
    let mut all = Vec::new();
    while all.len() < count {
        match next(reader).await {
            Event::Assigned(new) => all.extend(new),
            Event::Revoked(_) => all.clear(),
            event => panic!("not an assignment: {event:?}"),
        }
    }
    all
}

/// The next `count` values, by partition.
async fn values(reader: &mut Box<dyn Reader>, count: usize) -> BTreeMap<TopicPartition, Vec<(u64, String)>> {
    let mut all: BTreeMap<TopicPartition, Vec<(u64, String)>> = BTreeMap::new();
    let mut seen = 0;
    while seen < count {
        if let Event::Records(records) = next(reader).await {
            for record in records {
                let value = String::from_utf8(record.value).unwrap();
                all.entry(record.at).or_default().push((record.offset, value));
                seen += 1;
            }
        }
    }
    all
}

async fn start_all(reader: &mut Box<dyn Reader>, partitions: Vec<TopicPartition>) {
    reader.start(partitions.into_iter().map(|at| (at, 0)).collect()).await.unwrap();
}

pub async fn topics_are_made_once_and_stay(log: Log) {
    let name = topic(&log, 3).await;
    append(&log, &name, 2, &["kept"]).await;
    let again = TopicSpec { name: name.clone(), partitions: 5, compacted: true, retention_ms: 1, max_record_bytes: 99 };
    log.ensure_topics(&[again]).await.unwrap();
    assert_eq!(log.partitions(&name).await.unwrap(), Some(3));
    assert_eq!(log.tail(&name, 10).await.unwrap().len(), 1);
    assert_eq!(log.partitions(&format!("{name}-other")).await.unwrap(), None);
}

pub async fn what_is_appended_is_read_back_whole_and_in_order(log: Log) {
    let name = topic(&log, 2).await;
    let headers = vec![("ce_id".to_owned(), "1".to_owned()), ("ce_type".to_owned(), "ä".to_owned())];
    let whole = NewRecord { headers: headers.clone(), ..record(&name, 1, "first") };
    log.append(vec![whole, record(&name, 0, "other"), NewRecord { key: None, ..record(&name, 1, "second") }])
        .await
        .unwrap();
    let mut reader = open(&log, &name, Sharing::All).await;
    let partitions = assigned(&mut reader, 2).await;
    start_all(&mut reader, partitions).await;
    let mut seen = Vec::new();
    while seen.len() < 3 {
        if let Event::Records(records) = next(&mut reader).await {
            seen.extend(records);
        }
    }
    seen.retain(|record| record.at.partition == 1);
    assert_eq!(seen.iter().map(|record| record.offset).collect::<Vec<_>>(), [0, 1]);
    assert_eq!((seen[0].key.as_deref(), seen[1].key.as_deref()), (Some(&b"key"[..]), None));
    assert_eq!((&seen[0].value[..], &seen[1].value[..]), (&b"first"[..], &b"second"[..]));
    assert_eq!(seen[0].headers, headers);
    assert!(seen[0].timestamp_ms > 1_700_000_000_000);
}

pub async fn nothing_is_delivered_before_start(log: Log) {
    let name = topic(&log, 2).await;
    append(&log, &name, 0, &["a"]).await;
    append(&log, &name, 1, &["b"]).await;
    let mut reader = open(&log, &name, Sharing::Group).await;
    let partitions = assigned(&mut reader, 2).await;
    let one = partitions.iter().find(|at| at.partition == 1).unwrap().clone();
    reader.start(vec![(one.clone(), 0)]).await.unwrap();
    append(&log, &name, 1, &["c"]).await;
    assert_eq!(values(&mut reader, 2).await, BTreeMap::from([(one, vec![(0, "b".into()), (1, "c".into())])]));
}

pub async fn a_start_goes_to_the_offset_and_drops_what_was_under_way(log: Log) {
    let name = topic(&log, 1).await;
    let texts: Vec<String> = (0..100).map(|number| number.to_string()).collect();
    append(&log, &name, 0, &texts.iter().map(String::as_str).collect::<Vec<_>>()).await;
    for sharing in [Sharing::All, Sharing::Group] {
        let mut reader = open(&log, &name, sharing).await;
        let partitions = assigned(&mut reader, 1).await;
        reader.start(vec![(partitions[0].clone(), 40)]).await.unwrap();
        assert_eq!(values(&mut reader, 1).await[&partitions[0]][0], (40, "40".into()));
        reader.start(vec![(partitions[0].clone(), 7)]).await.unwrap();
        let again = values(&mut reader, 93).await.remove(&partitions[0]).unwrap();
        assert_eq!(again.iter().map(|(offset, _)| *offset).collect::<Vec<_>>(), (7..100).collect::<Vec<_>>());
    }
}

/// A start may meet an assignment that is still being made.
pub async fn however_often_a_group_is_opened_no_partition_stays_silent(log: Log) {
    const PARTITIONS: u32 = 60;
    let name = topic(&log, PARTITIONS).await;
    log.append((0..PARTITIONS).map(|partition| record(&name, partition, "a")).collect()).await.unwrap();
    for _ in 0..20 {
        let mut reader = open(&log, &name, Sharing::Group).await;
        let partitions = assigned(&mut reader, PARTITIONS as usize).await;
        start_all(&mut reader, partitions).await;
        assert_eq!(values(&mut reader, PARTITIONS as usize).await.len(), PARTITIONS as usize);
    }
}

/// As when every position is out of range at once, and each partition begins again by itself.
pub async fn a_storm_of_starts_ends_where_the_last_ones_say(log: Log) {
    const PARTITIONS: u32 = 12;
    let name = topic(&log, PARTITIONS).await;
    let two = (0..PARTITIONS).flat_map(|partition| ["a", "b"].map(|value| record(&name, partition, value)));
    log.append(two.collect()).await.unwrap();
    let mut reader = open(&log, &name, Sharing::All).await;
    let partitions = assigned(&mut reader, PARTITIONS as usize).await;
    start_all(&mut reader, partitions.clone()).await;
    for _ in 0..50 {
        for at in &partitions {
            reader.start(vec![(at.clone(), 0)]).await.unwrap();
            tokio::time::sleep(Duration::from_micros(300)).await;
        }
    }
    reader.start(partitions.iter().map(|at| (at.clone(), 1)).collect()).await.unwrap();
    let ends = values(&mut reader, PARTITIONS as usize).await;
    assert!(partitions.iter().all(|at| ends[at] == [(1, "b".to_owned())]), "{ends:?}");
}

pub async fn a_reader_waits_for_what_is_appended_later(log: Log) {
    let name = topic(&log, 1).await;
    let mut reader = open(&log, &name, Sharing::All).await;
    let partitions = assigned(&mut reader, 1).await;
    start_all(&mut reader, partitions.clone()).await;
    for number in 0..5 {
        append(&log, &name, 0, &[&number.to_string()]).await;
        assert_eq!(values(&mut reader, 1).await[&partitions[0]], [(number, number.to_string())]);
    }
}

pub async fn every_reader_of_all_gets_everything(log: Log) {
    let name = topic(&log, 2).await;
    let mut readers = [open(&log, &name, Sharing::All).await, open(&log, &name, Sharing::All).await];
    append(&log, &name, 0, &["a"]).await;
    append(&log, &name, 1, &["b"]).await;
    for reader in &mut readers {
        let partitions = assigned(reader, 2).await;
        start_all(reader, partitions).await;
        assert_eq!(values(reader, 2).await.len(), 2);
    }
}

pub async fn a_group_shares_the_partitions_and_hands_over(log: Log) {
    let name = topic(&log, 2).await;
    let group = format!("group{}", unique_suffix());
    let topic = Topic { base: name.clone(), mirrored: false };
    let mut first = log.read(topic.clone(), &group, Sharing::Group).await.unwrap();
    let partitions = assigned(&mut first, 2).await;
    start_all(&mut first, partitions).await;
    append(&log, &name, 0, &["a"]).await;
    values(&mut first, 1).await;
    drop(first);
    // The other begins where it says, whatever the first one read.
    let mut second = log.read(topic, &group, Sharing::Group).await.unwrap();
    let partitions = assigned(&mut second, 2).await;
    start_all(&mut second, partitions).await;
    append(&log, &name, 1, &["b"]).await;
    assert_eq!(values(&mut second, 2).await.len(), 2);
}

pub async fn mirrored_topics_are_read_too(log: Log) {
    let name = topic(&log, 1).await;
    let mirror = named(&log, format!("b.{name}"), 1).await;
    named(&log, format!("c.b.{name}"), 1).await;
    append(&log, &name, 0, &["local"]).await;
    append(&log, &mirror, 0, &["mirrored"]).await;
    for sharing in [Sharing::All, Sharing::Group] {
        let topic = Topic { base: name.clone(), mirrored: true };
        let mut reader = log.read(topic, &format!("group{}", unique_suffix()), sharing).await.unwrap();
        let mut seen = Vec::new();
        while seen.len() < 2 {
            match next(&mut reader).await {
                Event::Assigned(new) => start_all(&mut reader, new).await,
                Event::Records(records) => seen.extend(records.into_iter().map(|record| record.at.topic.to_string())),
                _ => {}
            }
        }
        seen.sort();
        assert_eq!(seen, [mirror.clone(), name.clone()]);
    }
}

pub async fn the_tail_is_the_last_records_of_each_partition(log: Log) {
    let name = topic(&log, 3).await;
    append(&log, &name, 0, &["a", "b", "c"]).await;
    append(&log, &name, 1, &["d"]).await;
    let mut tail: Vec<_> =
        log.tail(&name, 2).await.unwrap().into_iter().map(|record| (record.at.partition, record.offset)).collect();
    tail.sort_unstable();
    assert_eq!(tail, [(0, 1), (0, 2), (1, 0)]);
    let offsets = log.offsets(&name).await.unwrap();
    assert_eq!(offsets.values().map(|held| (held.start, held.end)).collect::<Vec<_>>(), [(0, 3), (0, 1), (0, 0)]);
}

pub async fn a_moment_has_its_offsets(log: Log) {
    let topic = topic(&log, 2).await;
    append(&log, &topic, 0, &["a", "b"]).await;
    let before = log.tail(&topic, 1).await.unwrap()[0].timestamp_ms;
    // Times have milliseconds.
    tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    append(&log, &topic, 0, &["c"]).await;
    assert_eq!(log.since(&topic, 0).await.unwrap(), BTreeMap::from([(0, 0), (1, 0)]));
    assert_eq!(log.since(&topic, before + 1).await.unwrap(), BTreeMap::from([(0, 2), (1, 0)]));
    assert_eq!(log.since(&topic, before + 3_600_000).await.unwrap(), BTreeMap::from([(0, 3), (1, 0)]));
}

pub async fn records_are_found_by_their_key(log: Log) {
    let name = topic(&log, 2).await;
    let keyed = |partition, key: &str| NewRecord { key: Some(key.into()), ..record(&name, partition, key) };
    log.append(vec![keyed(0, "a"), keyed(0, "b"), keyed(0, "a"), keyed(1, "a")]).await.unwrap();
    let at = TopicPartition::new(name.as_str(), 0);
    let offsets = async |key: &str, since| -> Vec<u64> {
        log.find(&at, key, since).await.unwrap().into_iter().map(|record| record.offset).collect()
    };
    assert_eq!(offsets("a", 0).await, [0, 2]);
    assert_eq!(offsets("c", 0).await, [0; 0]);
    assert_eq!(offsets("a", i64::MAX / 2).await, [0; 0]);
}

pub async fn a_position_beyond_the_end_is_said(log: Log) {
    let name = topic(&log, 1).await;
    append(&log, &name, 0, &["a"]).await;
    let mut reader = open(&log, &name, Sharing::All).await;
    let partitions = assigned(&mut reader, 1).await;
    reader.start(vec![(partitions[0].clone(), 1000)]).await.unwrap();
    let event = next(&mut reader).await;
    assert!(matches!(&event, Event::OutOfRange(at) if *at == partitions[0]), "{event:?}");
    start_all(&mut reader, partitions.clone()).await;
    assert_eq!(values(&mut reader, 1).await[&partitions[0]], [(0, "a".into())]);
}

pub async fn a_record_of_four_megabytes_passes(log: Log) {
    let name = topic(&log, 1).await;
    log.append(vec![record(&name, 0, vec![b'x'; 4 << 20]), record(&name, 0, "after")]).await.unwrap();
    let mut reader = open(&log, &name, Sharing::All).await;
    let partitions = assigned(&mut reader, 1).await;
    start_all(&mut reader, partitions.clone()).await;
    let seen = values(&mut reader, 2).await.remove(&partitions[0]).unwrap();
    assert_eq!((seen[0].1.len(), seen[1].1.as_str()), (4 << 20, "after"));
}

pub async fn who_follows_a_topic_is_told_when_all_was_read(log: Log) {
    let name = topic(&log, 1).await;
    append(&log, &name, 0, &["a", "b"]).await;
    let told = |begin| {
        let follow = Follow {
            log: log.clone(),
            topic: Topic { base: name.clone(), mirrored: false },
            mirrors: vec![format!("nowhere.{name}")],
            group: format!("group{}", unique_suffix()),
            begin,
        };
        let all = Arc::new(Mutex::new(Vec::new()));
        let seen = all.clone();
        let task = tokio::spawn(async move {
            let take = |told: Told<'_>| {
                let word = match told {
                    Told::Begins(_) => "begins".to_owned(),
                    Told::Record(record) => String::from_utf8(record.value.clone()).unwrap(),
                    Told::CaughtUp => "caught up".to_owned(),
                };
                seen.lock().unwrap().push(word);
            };
            follow.once(take).await
        });
        (all, task)
    };
    let (all, from_start) = told(Begin::Start);
    eventually!(*all.lock().unwrap() == ["begins", "a", "b", "caught up"], "{:?}", all.lock().unwrap());
    append(&log, &name, 0, &["c"]).await;
    eventually!(*all.lock().unwrap() == ["begins", "a", "b", "caught up", "c"], "{:?}", all.lock().unwrap());
    from_start.abort();
    let (all, from_last) = told(Begin::Last);
    eventually!(*all.lock().unwrap() == ["begins", "c", "caught up"], "{:?}", all.lock().unwrap());
    from_last.abort();
}
