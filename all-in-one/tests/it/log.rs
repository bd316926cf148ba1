use std::collections::BTreeMap;
use std::sync::Arc;

use all_in_one::embedded_log::EmbeddedLog;
use async_trait::async_trait;
use platform::event_log::{
    EventLog, LogError, LogRecord, NewRecord, Offsets, Reader, Sharing, Topic, TopicPartition, TopicSpec,
};

use crate::{World, world};

/// Keeps the file as long as the log is used.
struct Kept(World);

#[async_trait]
impl EventLog for Kept {
    async fn ensure_topics(&self, topics: &[TopicSpec]) -> Result<(), LogError> {
        self.0.log.ensure_topics(topics).await
    }
    async fn partitions(&self, topic: &str) -> Result<Option<u32>, LogError> {
        self.0.log.partitions(topic).await
    }
    async fn append(&self, records: Vec<NewRecord>) -> Result<(), LogError> {
        self.0.log.append(records).await
    }
    async fn read(&self, topic: Topic, group: &str, sharing: Sharing) -> Result<Box<dyn Reader>, LogError> {
        self.0.log.read(topic, group, sharing).await
    }
    async fn offsets(&self, topic: &str) -> Result<BTreeMap<u32, Offsets>, LogError> {
        self.0.log.offsets(topic).await
    }
    async fn since(&self, topic: &str, since_ms: i64) -> Result<BTreeMap<u32, u64>, LogError> {
        self.0.log.since(topic, since_ms).await
    }

    async fn find(&self, at: &TopicPartition, key: &str, since_ms: i64) -> Result<Vec<LogRecord>, LogError> {
        self.0.log.find(at, key, since_ms).await
    }
    async fn tail(&self, topic: &str, per_partition: u64) -> Result<Vec<LogRecord>, LogError> {
        self.0.log.tail(topic, per_partition).await
    }
}

async fn embedded() -> Option<Arc<dyn EventLog>> {
    Some(Arc::new(Kept(world().await)))
}

platform::event_log_suite!(embedded().await);

fn spec(compacted: bool) -> TopicSpec {
    TopicSpec { name: "t".into(), partitions: 1, compacted, retention_ms: 1000, max_record_bytes: 1 << 20 }
}

fn record(key: &str) -> NewRecord {
    NewRecord { topic: "t".into(), partition: 0, key: Some(key.into()), value: b"v".to_vec(), headers: Vec::new() }
}

#[tokio::test]
async fn offsets_go_on_after_a_restart() {
    let world = world().await;
    world.log.ensure_topics(&[spec(false)]).await.unwrap();
    world.log.append(vec![record("a"), record("b")]).await.unwrap();
    let again = EmbeddedLog::open(world.db.clone()).await.unwrap();
    assert_eq!(again.offsets("t").await.unwrap()[&0], Offsets { start: 0, end: 2 });
    again.append(vec![record("c")]).await.unwrap();
    assert_eq!(again.tail("t", 1).await.unwrap()[0].offset, 2);
}

#[tokio::test]
async fn what_is_not_applied_yet_is_never_forgotten() {
    let world = world().await;
    world.log.ensure_topics(&[spec(false)]).await.unwrap();
    world.log.append((0..10).map(|_| record("a")).collect()).await.unwrap();
    let below = |offset| BTreeMap::from([(TopicPartition::new("t", 0), offset)]);
    world.log.forget(below(4), 2).await.unwrap();
    assert_eq!(world.log.offsets("t").await.unwrap()[&0].start, 4, "the rest is not applied");
    world.log.forget(below(10), 2).await.unwrap();
    assert_eq!(world.log.offsets("t").await.unwrap()[&0].start, 8, "some are kept for loads");
    assert_eq!(world.log.tail("t", 100).await.unwrap().len(), 2);
}

#[tokio::test]
async fn a_compacted_topic_keeps_the_last_of_each_key() {
    let world = world().await;
    world.log.ensure_topics(&[spec(true)]).await.unwrap();
    world.log.append(vec![record("a"), record("b"), record("a")]).await.unwrap();
    let offsets: Vec<u64> = world.log.tail("t", 100).await.unwrap().iter().map(|record| record.offset).collect();
    assert_eq!(offsets, [1, 2]);
}
