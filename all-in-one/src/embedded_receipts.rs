//! The receipts in memory, for one pod.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use internal::receipts::{Positions, Readers, Receipts, ReceiptsError, further};

/// By reader, with when it was heard of last.
type HeardOf = HashMap<String, (Instant, Positions)>;

/// The receipts in memory. They end with the process.
pub struct EmbeddedReceipts {
    horizon: Duration,
    /// By chat.
    known: Mutex<HashMap<String, HeardOf>>,
}

impl EmbeddedReceipts {
    pub fn new(horizon: Duration) -> Self {
        Self { horizon, known: Mutex::default() }
    }
}

#[async_trait]
impl Receipts for EmbeddedReceipts {
    async fn put(&self, chat: &str, shown: &Readers) -> Result<(), ReceiptsError> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let known = known.entry(chat.to_owned()).or_default();
        let now = Instant::now();
        known.retain(|_, (last, _)| now.duration_since(*last) <= self.horizon);
        for (reader, positions) in shown {
            let (last, known) = known.entry(reader.clone()).or_insert_with(|| (now, Positions::new()));
            *last = now;
            further(known, positions);
        }
        Ok(())
    }

    async fn of(&self, chat: &str) -> Result<Readers, ReceiptsError> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let (readers, now) = (known.get(chat).into_iter().flatten(), Instant::now());
        let lately = readers.filter(|(_, (last, _))| now.duration_since(*last) <= self.horizon);
        Ok(lately.map(|(reader, (_, positions))| (reader.clone(), positions.clone())).collect())
    }
}
