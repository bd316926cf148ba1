//! Whether changes may be missing in this region, as its own leader says with each checkpoint.
//!
//! A region that stands by shows what another one polled, and how fresh that is the other one's markers say. They do not say
//! what this region's mirror lost, or what is not in its copy yet: its own leader knows, and says it once a second. Before
//! anybody has said it, nobody knows.

use std::sync::Arc;
use std::time::Duration;

use contract::{Timestamp, Topics};
use platform::event_log::follow::{Begin, Follow, Told};
use platform::event_log::{EventLog, Topic};
use platform::retry;
use serde::Deserialize;

use crate::config::Settings;
use crate::hub::{Gap, Hub};

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

/// Follows the checkpoints, however often the log goes away; what was said last holds meanwhile. Never ends.
pub async fn follow(settings: &Settings, log: Arc<dyn EventLog>, hub: &Hub) {
    let follow = Follow {
        log,
        topic: Topic { base: Topics::with_suffix(&settings.topic_suffix).checkpoints, mirrored: false },
        mirrors: Vec::new(),
        group: format!("chat-sync-{}", settings.pod),
        begin: Begin::Last,
    };
    let mut waits = retry::reconnecting();
    loop {
        let Err(error) = follow.once(|told| take(told, &settings.region, hub)).await;
        tracing::debug!(%error, "following the checkpoints");
        tokio::time::sleep(waits.next().unwrap_or(Duration::from_secs(2))).await;
    }
}

fn take(told: Told<'_>, here: &str, hub: &Hub) {
    let Told::Record(record) = told else { return };
    let Ok(Checkpoint { region, reconcile }) = serde_json::from_slice(&record.value) else { return };
    if region == here {
        hub.note_gap(reconcile.round.into());
    }
}
