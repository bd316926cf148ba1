//! Messages that are appended straight to the log, as nobody but a synchronizer does else.

use std::sync::Arc;

use contract::row::unstamped;
use contract::{Chat, Record, Timestamp, Topics};
use platform::event_log::kafka::Kafka;
use platform::event_log::{EventLog, NewRecord};
use platform::eventually;
use system_tests::pipeline::Pipeline;

use crate::rows::{message_of, stamp};

pub struct Straight {
    topic: Arc<str>,
    kafka: String,
    /// Where `internal` listens.
    pub internal: String,
}

impl Straight {
    /// A pipeline that has these chats, and whose synchronizer is gone: what is appended here the vendor knows nothing
    /// of, and nobody must compare.
    ///
    /// # Errors
    /// If the log cannot be written to.
    pub async fn begin(pipeline: &mut Pipeline, chats: &[String]) -> anyhow::Result<Self> {
        pipeline.ready().await;
        pipeline.synchronizer.kill();
        let topic = Topics::with_suffix(&pipeline.topic_suffix).changes.into();
        let straight = Self { topic, kafka: pipeline.kafka.clone(), internal: pipeline.internal_address.clone() };
        let records = chats.iter().map(|chat| straight.record(chat, Record::Chat(chat_row(chat)))).collect();
        straight.log().await?.append(records).await?;
        let url = format!("http://{}/api/chats", straight.internal);
        let last = format!("\"{}\"", chats.last().map_or("", String::as_str));
        eventually!(system_tests::http::get(&url).await?.text().await?.contains(&last), "the chats are there");
        Ok(straight)
    }

    /// A producer of one's own that has appended: the first append waits for the producer's number, half a second where
    /// its broker is not connected yet.
    ///
    /// # Errors
    /// If the log cannot be written to.
    pub async fn log(&self) -> anyhow::Result<Arc<dyn EventLog>> {
        let log = Arc::new(Kafka::new(&self.kafka)?);
        log.append(vec![self.message("nobody-watches", "the-first-of-a-producer")]).await?;
        Ok(log)
    }

    /// A new message with a text of 300 bytes.
    pub fn message(&self, chat: &str, id: &str) -> NewRecord {
        self.message_with(chat, id, 0)
    }

    /// The same with so many bytes more.
    pub fn message_with(&self, chat: &str, id: &str, more: usize) -> NewRecord {
        let text = ["what people write to each other, day in, day out. ".repeat(6), "x".repeat(more)].concat();
        let now = Timestamp::now();
        self.record(chat, Record::Message(message_of(chat.to_owned(), id.to_owned(), text, now, now.micros())))
    }

    fn record(&self, chat: &str, record: Record) -> NewRecord {
        NewRecord {
            topic: self.topic.clone(),
            partition: partition_of(chat),
            key: record.key(),
            value: record.encode(),
            headers: Vec::new(),
        }
    }
}

pub fn partition_of(chat: &str) -> u32 {
    contract::partition_of(chat, contract::topic::PARTITIONS)
}

fn chat_row(id: &str) -> Chat {
    let now = Timestamp::now();
    Chat {
        id: id.to_owned(),
        title: Some(id.to_owned()),
        created_at: now,
        edited_at: None,
        deleted_at: None,
        stamp: stamp(now, now.micros()),
        version: unstamped(),
    }
    .stamped()
}
