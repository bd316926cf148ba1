use std::sync::Arc;
use std::time::Duration;

use platform::event_log::kafka::Kafka;
use platform::event_log::{Event, EventLog, NewRecord, Sharing, Topic, TopicSpec};
use platform::eventually;
use platform::testing::{PATIENCE, server, unique_suffix};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions};

fn kafka() -> Option<Arc<dyn EventLog>> {
    Some(Arc::new(Kafka::new(&server("CHAT_SYNC_TEST_KAFKA")?).unwrap()))
}

platform::event_log_suite!(kafka());

/// As where a region's log is lost while its mirror, lost with it, cannot be made again. The mirror's name comes first.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_that_is_gone_does_not_hide_that_another_was_made_again() {
    let Some(log) = kafka() else { return };
    let base = format!("gone{}", unique_suffix());
    let [mirror, own] = [format!("a.{base}"), base.clone()].map(|name| TopicSpec {
        name,
        partitions: 1,
        compacted: false,
        retention_ms: 3_600_000,
        max_record_bytes: 1 << 20,
    });
    log.ensure_topics(&[mirror.clone(), own.clone()]).await.unwrap();
    let record = |topic: &TopicSpec| NewRecord {
        topic: topic.name.as_str().into(),
        partition: 0,
        key: None,
        value: b"x".to_vec(),
        headers: Vec::new(),
    };
    log.append(vec![record(&mirror), record(&own)]).await.unwrap();
    let mut reader = log.read(Topic { base: base.clone(), mirrored: true }, "gone", Sharing::All).await.unwrap();
    let mut read = 0;
    while read < 2 {
        match reader.next().await.unwrap() {
            Event::Assigned(all) => reader.start(all.into_iter().map(|at| (at, 0)).collect()).await.unwrap(),
            Event::Records(records) => read += records.len(),
            other => panic!("{other:?}"),
        }
    }
    let brokers = server("CHAT_SYNC_TEST_KAFKA").unwrap();
    let admin: AdminClient<_> = ClientConfig::new().set("bootstrap.servers", brokers).create().unwrap();
    let deleted = admin.delete_topics(&[&mirror.name, &own.name], &AdminOptions::new()).await.unwrap();
    assert!(deleted.iter().all(Result::is_ok), "{deleted:?}");
    eventually!(log.ensure_topics(std::slice::from_ref(&own)).await.is_ok(), "it is made again");
    let lost = async {
        loop {
            if let Event::OutOfRange(at) = reader.next().await.unwrap() {
                return at;
            }
        }
    };
    assert_eq!(*tokio::time::timeout(PATIENCE, lost).await.expect("it is told").topic, *own.name);
}

#[tokio::test]
async fn how_long_a_record_may_be_there_is_what_its_topic_says() {
    let Some(log) = kafka() else { return };
    let hour = Duration::from_secs(3600);
    let topic = |name: &str, compacted| TopicSpec {
        name: format!("kept-{name}{}", unique_suffix()),
        partitions: 1,
        compacted,
        retention_ms: 3_600_000,
        max_record_bytes: 1 << 20,
    };
    let (by_age, compacted) = (topic("by-age", false), topic("compacted", true));
    log.ensure_topics(&[by_age.clone(), compacted.clone()]).await.unwrap();
    // A segment takes records for a week, by default.
    let kept = async |topic: &TopicSpec| eventually!(log.kept(&topic.name).await.ok(), "the brokers know of it");
    assert_eq!(kept(&by_age).await, Some(hour + 7 * 24 * hour));
    assert_eq!(kept(&compacted).await, None, "the last record of a key stays");
    assert!(log.kept("kept-nowhere").await.is_err());
}
