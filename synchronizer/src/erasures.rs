//! What must never be appended again, as far as this process has read it: here and from the other regions.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

use contract::erasure::{Erasure, ErasureSet};
use contract::{Timestamp, Topics};
use platform::event_log::follow::Told;
use platform::event_log::{EventLog, LogError, LogRecord};
use platform::retry;
use tokio::sync::watch;

use crate::config::{Settings, mirrored};
use crate::to_log::ToLog;

/// The erasures, kept up to date by [`Erasures::follow`].
#[derive(Debug)]
pub struct Erasures {
    set: RwLock<ErasureSet>,
    /// Those of them that stand in this region's own topic.
    here: RwLock<ErasureSet>,
    /// Those that stand in other regions' topics, by topic.
    there: RwLock<BTreeMap<Arc<str>, ErasureSet>>,
    /// Whether all of that was read.
    here_is_known: AtomicBool,
    /// Whether everything was read that stood in the topics when reading began.
    loaded: watch::Sender<bool>,
    changed: watch::Sender<()>,
}

/// All that stand in the log now, here and from the other regions.
#[derive(Debug, Default)]
pub struct Standing {
    pub set: ErasureSet,
    /// Of every region, by an erasure's key.
    taken: BTreeMap<String, HashMap<String, Taken>>,
}

/// What a region's own log has of an erasure.
#[derive(Debug, Clone, Copy)]
struct Taken {
    /// Up to when it covers what an author has written.
    erased_at: Timestamp,
    /// When it was appended there, by that region's clock.
    at: Timestamp,
}

/// Since when nothing of an erasure is appended any more.
#[derive(Debug, PartialEq, Eq)]
pub struct Barred {
    /// When the last one of those regions took it whose logs have it.
    pub since: Timestamp,
    /// The regions that have not said that they know of it: they may go on.
    pub not_in: Vec<String>,
}

impl Standing {
    /// # Errors
    /// [`LogError`]; also if an erasure cannot be read.
    pub async fn read(log: &dyn EventLog, settings: &Settings) -> Result<Self, LogError> {
        let own = Topics::with_suffix(&settings.topic_suffix).erasures;
        let others = settings.others().map(|region| (region.to_owned(), mirrored(region, &own)));
        let mut all = Self::default();
        for (region, topic) in std::iter::once((settings.region.clone(), own.clone())).chain(others) {
            let taken = all.taken.entry(region).or_default();
            if log.partitions(&topic).await?.is_none() {
                continue;
            }
            for record in log.tail(&topic, u64::MAX).await? {
                let unreadable = |error| LogError::Unavailable(format!("{}@{}: {error}", record.at, record.offset));
                let erasure = Erasure::decode(&record.value).map_err(unreadable)?;
                let at = u64::try_from(record.timestamp_ms).ok().filter(|at| *at > 0);
                let at = at.and_then(|at| Timestamp::from_micros(at * 1000).ok()).unwrap_or_else(Timestamp::now);
                let (erased_at, key) = (erasure.erased_at, erasure.key());
                // A mirror that begins anew brings older ones behind newer ones.
                let known = taken.get(&key).is_some_and(|known| known.erased_at > erased_at);
                if !known {
                    taken.insert(key, Taken { erased_at, at });
                }
                all.set.insert(erasure);
            }
        }
        Ok(all)
    }

    /// Of one that stands there.
    pub fn barred(&self, erasure: &Erasure) -> Barred {
        let key = erasure.key();
        // An earlier one of the same author does not bar what was written since.
        let of = |taken: &HashMap<String, Taken>| {
            taken.get(&key).filter(|taken| taken.erased_at >= erasure.erased_at).map(|taken| taken.at)
        };
        let not_in = self.taken.iter().filter(|(_, taken)| of(taken).is_none());
        Barred {
            since: self.taken.values().filter_map(of).max().unwrap_or(erasure.erased_at),
            not_in: not_in.map(|(region, _)| region.clone()).collect(),
        }
    }
}

impl Default for Erasures {
    fn default() -> Self {
        Self {
            set: RwLock::default(),
            here: RwLock::default(),
            there: RwLock::default(),
            here_is_known: AtomicBool::new(false),
            loaded: watch::Sender::new(false),
            changed: watch::Sender::default(),
        }
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
    /// Gives whether that is news.
    pub fn note_here(&self, erasure: Erasure) -> bool {
        self.here.write().unwrap_or_else(PoisonError::into_inner).insert(erasure)
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
            Told::Begins(at) => {
                self.there.write().unwrap_or_else(PoisonError::into_inner).remove(&at.topic);
            }
            Told::Record(record) => {
                if self.take(record, to_log.is_own_erasures(&record.at.topic)) {
                    self.tell_of_others(to_log);
                }
            }
            Told::CaughtUp => {
                self.here_is_known.store(true, Ordering::Relaxed);
                self.loaded.send_replace(true);
                // Something may be missing here.
                self.changed.send_replace(());
                self.tell_of_others(to_log);
            }
        }
    }

    /// Each region says in its own topic what it has heard of: of whom too little is heard, either does not know of it or its
    /// mirror brings nothing.
    fn tell_of_others(&self, to_log: &ToLog) {
        if !self.here_is_known.load(Ordering::Relaxed) {
            return;
        }
        for (region, topic) in to_log.others_erasures() {
            let unheard = self.unheard_in(topic) as f64;
            metrics::gauge!("chat_sync_erasures_unheard", "region" => region.to_owned()).set(unheard);
        }
    }

    /// How many another region's topic does not have.
    fn unheard_in(&self, topic: &str) -> usize {
        let there = self.there.read().unwrap_or_else(PoisonError::into_inner);
        let has = |erasure: &Erasure| there.get(topic).is_some_and(|there| there.has(erasure));
        self.set().iter().filter(|erasure| !has(erasure)).count()
    }

    /// Gives whether it is news.
    fn take(&self, record: &LogRecord, here: bool) -> bool {
        match Erasure::decode(&record.value) {
            Ok(erasure) => {
                let of_topic = if here {
                    self.note_here(erasure.clone())
                } else {
                    let mut there = self.there.write().unwrap_or_else(PoisonError::into_inner);
                    there.entry(record.at.topic.clone()).or_default().insert(erasure.clone())
                };
                let of_all = self.set.write().unwrap_or_else(PoisonError::into_inner).insert(erasure);
                if of_all {
                    self.changed.send_replace(());
                }
                of_topic || of_all
            }
            Err(error) => {
                metrics::counter!("chat_sync_erasures_unreadable_total").increment(1);
                tracing::error!(%error, at = %record.at, offset = record.offset, "an erasure cannot be read");
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use contract::erasure::Scope;
    use platform::event_log::TopicPartition;

    use super::*;

    #[test]
    fn what_was_asked_for_in_one_region_is_barred_when_the_last_one_has_taken_it() {
        let at = |second: u64| Timestamp::from_micros(second * 1_000_000).expect("a time");
        let erasure = |chat: &str, second| Erasure { chat_id: chat.into(), scope: Scope::Chat, erased_at: at(second) };
        let (everywhere, in_a, once_more) = (erasure("1", 1), erasure("2", 1), erasure("3", 500));
        let taken = |all: &[(&Erasure, u64)]| {
            let taken = |(erasure, when): &(&Erasure, u64)| {
                (erasure.key(), Taken { erased_at: erasure.erased_at, at: at(*when) })
            };
            all.iter().map(taken).collect()
        };
        let standing = Standing {
            set: ErasureSet::default(),
            taken: BTreeMap::from([
                ("a".to_owned(), taken(&[(&everywhere, 2), (&in_a, 3), (&once_more, 501)])),
                ("b".to_owned(), taken(&[(&everywhere, 900), (&erasure("3", 1), 2)])),
            ]),
        };
        assert_eq!(standing.barred(&everywhere), Barred { since: at(900), not_in: Vec::new() });
        assert_eq!(standing.barred(&in_a), Barred { since: at(3), not_in: vec!["b".to_owned()] });
        let earlier = "what b has of the same was asked for before";
        assert_eq!(standing.barred(&once_more), Barred { since: at(501), not_in: vec!["b".to_owned()] }, "{earlier}");
    }

    #[test]
    fn what_another_region_has_not_said_that_it_knows_of_is_counted() {
        let erasures = Erasures::default();
        let record = |topic: &str, chat: &str| LogRecord {
            at: TopicPartition::new(topic, 0),
            offset: 0,
            timestamp_ms: 0,
            key: None,
            value: Erasure { chat_id: chat.into(), scope: Scope::Chat, erased_at: Timestamp::default() }.encode(),
            headers: Vec::new(),
        };
        erasures.take(&record("erasures", "1"), true);
        erasures.take(&record("erasures", "2"), true);
        erasures.take(&record("b.erasures", "2"), false);
        assert_eq!((erasures.unheard_in("b.erasures"), erasures.unheard_in("c.erasures")), (1, 2));
    }
}
