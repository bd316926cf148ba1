use std::sync::Arc;
use std::time::Duration;

use platform::event_log::kafka::Kafka;
use platform::event_log::{EventLog, TopicSpec};
use platform::eventually;
use platform::testing::{server, unique_suffix};

fn kafka() -> Option<Arc<dyn EventLog>> {
    Some(Arc::new(Kafka::new(&server("CHAT_SYNC_TEST_KAFKA")?).unwrap()))
}

platform::event_log_suite!(kafka());

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
