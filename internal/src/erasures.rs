//! What must not be shown, as it is asked for here and in the other regions.
//!
//! The copy is without it once the record that erases a row is stored. Until then, and while a lost region is filled again from
//! another one's log, the copy holds the text, and the log brings it: a pod passes it over.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use contract::Topics;
use contract::erasure::Erasure;
use platform::event_log::follow::{Begin, Follow, Told};
use platform::event_log::{EventLog, Topic};
use platform::health::Check;
use platform::retry;

use crate::config::Settings;
use crate::hub::Hub;

/// Follows the erasures, however often the log goes away; what is known stays known. Never ends.
pub async fn follow(settings: &Settings, log: Arc<dyn EventLog>, hub: &Hub, check: Check) {
    let base = Topics::with_suffix(&settings.topic_suffix).erasures;
    let others = settings.regions.iter().filter(|region| region.name != settings.region);
    let follow = Follow {
        log,
        mirrors: others.map(|other| format!("{}.{base}", other.name)).collect(),
        topic: Topic { base, mirrored: true },
        group: format!("chat-sync-{}", settings.pod),
        begin: Begin::Start,
    };
    check.waiting("not read yet");
    let (mut waits, known) = (retry::reconnecting(), AtomicBool::new(false));
    loop {
        let take = |told: Told<'_>| {
            known.fetch_or(matches!(told, Told::CaughtUp), Ordering::Relaxed);
            take(&told, hub, &check);
        };
        let Err(error) = follow.once(take).await;
        tracing::debug!(%error, "following the erasures");
        if !known.load(Ordering::Relaxed) {
            check.waiting(error.to_string());
        }
        tokio::time::sleep(waits.next().unwrap_or(Duration::from_secs(2))).await;
    }
}

fn take(told: &Told<'_>, hub: &Hub, check: &Check) {
    match told {
        Told::Begins(_) => {}
        // One that cannot be read the synchronizer tells of.
        Told::Record(record) => drop(Erasure::decode(&record.value).map(|erasure| hub.note_erasure(erasure))),
        Told::CaughtUp => check.ready("known"),
    }
}
