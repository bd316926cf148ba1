//! Follows what the other regions append, while this process leads in its own.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use contract::{Record, Timestamp};
use platform::event_log::{Event, LogError, Reader, TopicPartition};
use platform::retry;

use crate::append::Appender;
use crate::counted::Read;
use crate::region::Region;
use crate::to_log::ToLog;

pub struct Mirror {
    pub to_log: ToLog,
    pub region: Arc<Region>,
    pub appender: Appender,
    /// The next offset to be read, by partition.
    pub next: Mutex<BTreeMap<TopicPartition, u64>>,
    pub read: Mutex<Read>,
}

impl Mirror {
    /// For ever, however often the log goes away.
    pub async fn follow(&self) {
        if self.region.is_alone() {
            std::future::pending::<()>().await;
        }
        let mut waits = retry::reconnecting();
        loop {
            let Err(error) = self.follow_once().await;
            tracing::debug!(%error, "following the mirrors");
            tokio::time::sleep(waits.next().unwrap_or(Duration::from_secs(2))).await;
        }
    }

    async fn follow_once(&self) -> Result<std::convert::Infallible, LogError> {
        let mut reader = self.to_log.read_changes().await?;
        loop {
            match reader.next().await? {
                Event::Assigned(partitions) => self.begin(&mut *reader, partitions).await?,
                Event::Records(records) => {
                    for record in records {
                        let decoded = Record::decode(&record.value, Timestamp::now());
                        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
                        self.region.hear(&record.at, &decoded, &mut read);
                        // What cannot be decoded is the writer's to dead-letter.
                        if let Ok(row) = decoded {
                            self.appender.note(&row);
                        }
                        self.next().insert(record.at, record.offset + 1);
                    }
                }
                Event::OutOfRange(at) => {
                    // Cut, or another log in its place: what markers say tells whether something is missing.
                    let start = self.to_log.start_of(&at).await?;
                    self.next().insert(at.clone(), start);
                    reader.start(vec![(at, start)]).await?;
                }
                Event::Revoked(_) => {}
            }
        }
    }

    /// Only the others' topics: what stands in the own one is known.
    async fn begin(&self, reader: &mut dyn Reader, partitions: Vec<TopicPartition>) -> Result<(), LogError> {
        let mut positions = Vec::new();
        for at in partitions.into_iter().filter(|at| self.to_log.is_mirrored(&at.topic)) {
            let known = self.next().get(&at).copied();
            let next = match known {
                Some(next) => next,
                None => self.to_log.start_of(&at).await?,
            };
            positions.push((at, next));
        }
        reader.start(positions).await
    }

    fn next(&self) -> std::sync::MutexGuard<'_, BTreeMap<TopicPartition, u64>> {
        self.next.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
