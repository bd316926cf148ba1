//! The gate in memory, for one pod.

use std::num::NonZeroUsize;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use internal::gate::{Answer, Gate, GateError};
use internal::shown::ShownMessage;
use lru::LruCache;

const ROWS: NonZeroUsize = NonZeroUsize::new(50_000).unwrap();

/// The newest row of each message, by (chat, id), and when it is forgotten.
type Known = LruCache<(String, String), (Instant, ShownMessage)>;

/// The gate in memory.
pub struct EmbeddedGate {
    ttl: Duration,
    known: Mutex<Known>,
}

impl EmbeddedGate {
    pub fn new(ttl: Duration) -> Self {
        Self { ttl, known: Mutex::new(LruCache::new(ROWS)) }
    }
}

#[async_trait]
impl Gate for EmbeddedGate {
    async fn judge(&self, rows: &[ShownMessage]) -> Result<Vec<Answer>, GateError> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(rows.iter().map(|row| judge(&mut known, row, self.ttl)).collect())
    }
}

fn judge(known: &mut Known, row: &ShownMessage, ttl: Duration) -> Answer {
    let (key, now) = ((row.chat_id.clone(), row.id.clone()), Instant::now());
    let answer = match known.get(&key).filter(|(forget_at, _)| *forget_at > now) {
        None => Answer::Absent,
        Some((_, stored)) if row.version > stored.version => Answer::Newer,
        Some((_, stored)) if row.version == stored.version => return Answer::Equal,
        Some((_, stored)) => return Answer::Older(Box::new(stored.clone())),
    };
    known.put(key, (now + ttl, row.clone()));
    answer
}
