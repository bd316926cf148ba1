//! Whether changes may be missing in this region, as its own leader says with each checkpoint.
//!
//! A region that stands by shows what another one polled, and how fresh that is the other one's markers say. They do not say
//! what this region's mirror lost, or what is not in its copy yet: its own leader knows, and says it once a second. Before
//! anybody has said it, nobody knows.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use contract::{Timestamp, Topics};
use platform::event_log::{Event, EventLog, LogError, LogRecord, Sharing, Topic};
use platform::retry;
use serde::Deserialize;

use crate::config::Settings;
use crate::hub::{Gap, Hub};

/// Follows the checkpoints.
pub struct Gaps {
    log: Arc<dyn EventLog>,
    topic: String,
    group: String,
    region: String,
    hub: Arc<Hub>,
}

/// What of a checkpoint counts here.
#[derive(Deserialize)]
struct Checkpoint {
    region: String,
    #[serde(default)]
    reconcile: Reconcile,
}

#[derive(Default, Deserialize)]
struct Reconcile {
    round: Option<Round>,
}

#[derive(Deserialize)]
struct Round {
    gap: bool,
    reason: String,
    #[serde(default)]
    complete_as_of: Option<Timestamp>,
}

impl From<Option<Round>> for Gap {
    fn from(round: Option<Round>) -> Self {
        let missing = round.filter(|round| round.gap);
        missing.map_or(Self::None, |Round { reason, complete_as_of, .. }| Self::Since { complete_as_of, reason })
    }
}

impl Gaps {
    pub fn new(settings: &Settings, log: Arc<dyn EventLog>, hub: Arc<Hub>) -> Self {
        Self {
            log,
            topic: Topics::with_suffix(&settings.topic_suffix).checkpoints,
            group: format!("chat-sync-{}", settings.pod),
            region: settings.region.clone(),
            hub,
        }
    }

    /// For ever, however often the log goes away; what was said last holds meanwhile.
    pub async fn follow(&self) {
        let mut waits = retry::reconnecting();
        loop {
            let Err(error) = self.follow_once().await;
            tracing::debug!(%error, "following the checkpoints");
            tokio::time::sleep(waits.next().unwrap_or(Duration::from_secs(2))).await;
        }
    }

    async fn follow_once(&self) -> Result<Infallible, LogError> {
        let topic = Topic { base: self.topic.clone(), mirrored: false };
        let mut reader = self.log.read(topic, &self.group, Sharing::All).await?;
        loop {
            let assigned = match reader.next().await? {
                Event::Assigned(partitions) => partitions,
                Event::OutOfRange(at) => vec![at],
                Event::Records(records) => {
                    records.iter().for_each(|record| self.take(record));
                    continue;
                }
                Event::Revoked(_) => continue,
            };
            let offsets = self.log.offsets(&self.topic).await?;
            // The last one says how it is now.
            let mut positions = Vec::new();
            for at in assigned {
                let held = offsets.get(&at.partition);
                let start = held.map_or(0, |held| held.end.saturating_sub(1).max(held.start));
                positions.push((at, start));
            }
            reader.start(positions).await?;
        }
    }

    fn take(&self, record: &LogRecord) {
        let Ok(Checkpoint { region, reconcile }) = serde_json::from_slice(&record.value) else { return };
        if region == self.region {
            self.hub.note_gap(reconcile.round.into());
        }
    }
}
