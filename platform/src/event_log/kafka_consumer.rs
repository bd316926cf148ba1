//! A consumer that tells what its group gives and takes, and reads none of it by itself.

use std::sync::{Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};

use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaRespErr;
use rdkafka::{ClientContext, TopicPartitionList};

use super::kafka::unavailable;
use super::{Event, LogError, Sharing, Topic, TopicPartition};

/// How long an assignment is waited for within a group's callback, where nothing can be polled: its stops take less than a
/// millisecond.
const SETTLING_UNPOLLED: Duration = Duration::from_millis(100);

/// Which consumer is to be made.
pub(super) struct Wanted {
    pub config: ClientConfig,
    pub topic: Topic,
    pub sharing: Sharing,
    pub rebalanced: mpsc::Sender<Event>,
}

impl Wanted {
    /// Makes it; it connects in the background.
    ///
    /// # Errors
    /// If librdkafka refuses the settings.
    pub fn consumer(&self) -> Result<BaseConsumer<Context>, LogError> {
        let context = Context { rebalanced: self.rebalanced.clone(), settling: Mutex::default() };
        let consumer: BaseConsumer<Context> = self.config.create_with_context(context).map_err(unavailable)?;
        if self.sharing == Sharing::Group {
            let base = &self.topic.base;
            let pattern = if self.topic.mirrored {
                format!("^([a-z0-9-]+\\.)?{}$", base.replace('.', "\\."))
            } else {
                base.clone()
            };
            consumer.subscribe(&[&pattern]).map_err(unavailable)?;
        }
        Ok(consumer)
    }
}

/// Collects what librdkafka calls back with while it is polled.
pub(super) struct Context {
    rebalanced: mpsc::Sender<Event>,
    /// Since when an assignment is under way that has not shown yet that it works.
    settling: Mutex<Option<Instant>>,
}

impl Context {
    pub fn settling(&self) -> Option<Instant> {
        *self.settling.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn set_settling(&self, since: Option<Instant>) {
        *self.settling.lock().unwrap_or_else(PoisonError::into_inner) = since;
    }
}

impl ClientContext for Context {
    fn log(&self, _: rdkafka::config::RDKafkaLogLevel, facility: &str, message: &str) {
        tracing::debug!(facility, message, "librdkafka");
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(%error, reason, "librdkafka");
    }
}

impl ConsumerContext for Context {
    /// Accepts or gives up partitions. None is read yet: where to begin is asked outside of this callback.
    fn rebalance(&self, consumer: &BaseConsumer<Self>, code: RDKafkaRespErr, list: &mut TopicPartitionList) {
        if let Some(since) = self.settling() {
            std::thread::sleep(SETTLING_UNPOLLED.saturating_sub(since.elapsed()));
            self.set_settling(None);
        }
        let event = if code == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS {
            if let Err(error) = consumer.assign(&TopicPartitionList::new()) {
                tracing::warn!(%error, "cannot take the assigned partitions");
            }
            Event::Assigned(names(list))
        } else {
            if let Err(error) = consumer.unassign() {
                tracing::warn!(%error, "cannot give up the partitions");
            }
            Event::Revoked(names(list))
        };
        // The receiver lives as long as the thread that polls.
        let _ = self.rebalanced.send(event);
    }
}

fn names(list: &TopicPartitionList) -> Vec<TopicPartition> {
    list.elements()
        .iter()
        .map(|element| TopicPartition::new(element.topic(), u32::try_from(element.partition()).unwrap_or_default()))
        .collect()
}
