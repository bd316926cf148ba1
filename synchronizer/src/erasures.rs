//! What must never be appended again, as far as this process has read it: here and from the other regions.

use std::convert::Infallible;
use std::sync::{PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

use contract::Topics;
use contract::erasure::{Erasure, ErasureSet};
use platform::event_log::{Event, EventLog, LogError, LogRecord};
use platform::retry;
use tokio::sync::watch;

use crate::config::Settings;
use crate::to_log::{Positions, ToLog};

/// The erasures, kept up to date by [`Erasures::follow`].
#[derive(Debug)]
pub struct Erasures {
    set: RwLock<ErasureSet>,
    /// Those of them that stand in this region's own topic.
    here: RwLock<ErasureSet>,
    /// Whether everything was read that stood in the topics when reading began.
    loaded: watch::Sender<bool>,
    changed: watch::Sender<()>,
}

/// All that stand in the log now, here and from the other regions.
///
/// # Errors
/// [`LogError`]; also if one cannot be read.
pub async fn all(log: &dyn EventLog, settings: &Settings) -> Result<ErasureSet, LogError> {
    let own = Topics::with_suffix(&settings.topic_suffix).erasures;
    let mut set = ErasureSet::default();
    for topic in std::iter::once(own.clone()).chain(settings.mirrored(&own)) {
        if log.partitions(&topic).await?.is_none() {
            continue;
        }
        for record in log.tail(&topic, u64::MAX).await? {
            let unreadable = |error| LogError::Unavailable(format!("{}@{}: {error}", record.at, record.offset));
            set.insert(Erasure::decode(&record.value).map_err(unreadable)?);
        }
    }
    Ok(set)
}

impl Default for Erasures {
    fn default() -> Self {
        let (set, here) = (RwLock::default(), RwLock::default());
        Self { set, here, loaded: watch::Sender::new(false), changed: watch::Sender::default() }
    }
}

impl Erasures {
    /// All that are known.
    pub fn set(&self) -> RwLockReadGuard<'_, ErasureSet> {
        self.set.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Those that only other regions have: with one that is lost they would be lost too.
    pub fn elsewhere_only(&self) -> Vec<Erasure> {
        let here = self.here.read().unwrap_or_else(PoisonError::into_inner);
        self.set().iter().filter(|erasure| !here.has(erasure)).cloned().collect()
    }

    /// Waits until those that were there at the beginning are known. Nothing may be appended before that.
    pub async fn loaded(&self) {
        // The sender lives as long as this does.
        let _ = self.loaded.subscribe().wait_for(|loaded| *loaded).await;
    }

    /// Tells of changes from now on.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// Reads them for ever, however often the log goes away.
    pub async fn follow(&self, to_log: &ToLog) {
        let mut waits = retry::reconnecting();
        loop {
            let Err(error) = self.follow_once(to_log).await;
            tracing::warn!(%error, "following the erasures");
            tokio::time::sleep(waits.next().unwrap_or(Duration::from_secs(2))).await;
        }
    }

    async fn follow_once(&self, to_log: &ToLog) -> Result<Infallible, LogError> {
        let mut awaited = to_log.erasure_ends().await?;
        let mut reader = to_log.read_erasures().await?;
        loop {
            if awaited.is_empty() {
                self.loaded.send_replace(true);
            }
            let assigned = match reader.next().await? {
                Event::Assigned(partitions) => partitions,
                Event::OutOfRange(at) => vec![at],
                Event::Records(records) => {
                    for record in records {
                        awaited.retain(|at, end| *at != record.at || record.offset + 1 < *end);
                        self.take(&record, to_log.is_own_erasures(&record.at.topic));
                    }
                    continue;
                }
                Event::Revoked(_) => continue,
            };
            let mut positions = Positions::new();
            for at in assigned {
                let start = to_log.start_of(&at).await?;
                positions.insert(at, start);
            }
            reader.start(positions.into_iter().collect()).await?;
        }
    }

    fn take(&self, record: &LogRecord, here: bool) {
        match Erasure::decode(&record.value) {
            Ok(erasure) => {
                if here {
                    self.here.write().unwrap_or_else(PoisonError::into_inner).insert(erasure.clone());
                }
                if self.set.write().unwrap_or_else(PoisonError::into_inner).insert(erasure) {
                    self.changed.send_replace(());
                }
            }
            Err(error) => {
                metrics::counter!("chat_sync_erasures_unreadable_total").increment(1);
                tracing::error!(%error, at = %record.at, offset = record.offset, "an erasure cannot be read");
            }
        }
    }
}
