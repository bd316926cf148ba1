//! What must never be appended again, as far as this process has read it: here and from the other regions.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

use contract::Topics;
use contract::erasure::{Erasure, ErasureSet};
use platform::event_log::follow::Told;
use platform::event_log::{EventLog, LogError, LogRecord};
use platform::retry;
use tokio::sync::watch;

use crate::config::Settings;
use crate::to_log::ToLog;

/// The erasures, kept up to date by [`Erasures::follow`].
#[derive(Debug)]
pub struct Erasures {
    set: RwLock<ErasureSet>,
    /// Those of them that stand in this region's own topic.
    here: RwLock<ErasureSet>,
    /// Whether all of that was read.
    here_is_known: AtomicBool,
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
        let here_is_known = AtomicBool::new(false);
        Self { set, here, here_is_known, loaded: watch::Sender::new(false), changed: watch::Sender::default() }
    }
}

impl Erasures {
    /// All that are known.
    pub fn set(&self) -> RwLockReadGuard<'_, ErasureSet> {
        self.set.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Those that only other regions have: with one that is lost they would be lost too.
    pub fn elsewhere_only(&self) -> Vec<Erasure> {
        if !self.here_is_known.load(Ordering::Relaxed) {
            return Vec::new();
        }
        let here = self.here.read().unwrap_or_else(PoisonError::into_inner);
        self.set().iter().filter(|erasure| !here.has(erasure)).cloned().collect()
    }

    /// This one was appended to the own topic; that it is not read yet is no reason to do it again.
    pub fn note_here(&self, erasure: Erasure) {
        self.here.write().unwrap_or_else(PoisonError::into_inner).insert(erasure);
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
            let Err(error) = to_log.erasures().once(|told| self.hear(told, to_log)).await;
            tracing::warn!(%error, "following the erasures");
            // Without the own one nobody could ask.
            to_log.make_topics_again().await;
            tokio::time::sleep(waits.next().unwrap_or(Duration::from_secs(2))).await;
        }
    }

    fn hear(&self, told: Told<'_>, to_log: &ToLog) {
        match told {
            Told::Begins(at) if to_log.is_own_erasures(&at.topic) => {
                self.here_is_known.store(false, Ordering::Relaxed);
                *self.here.write().unwrap_or_else(PoisonError::into_inner) = ErasureSet::default();
            }
            Told::Begins(_) => {}
            Told::Record(record) => self.take(record, to_log.is_own_erasures(&record.at.topic)),
            Told::CaughtUp => {
                self.here_is_known.store(true, Ordering::Relaxed);
                self.loaded.send_replace(true);
                // Something may be missing here.
                self.changed.send_replace(());
            }
        }
    }

    fn take(&self, record: &LogRecord, here: bool) {
        match Erasure::decode(&record.value) {
            Ok(erasure) => {
                if here {
                    self.note_here(erasure.clone());
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
