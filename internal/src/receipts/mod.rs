//! Who was shown what: browsers acknowledge positions, and these are kept for the horizon.
//!
//! Losing all of it costs nothing but a minute: pages repeat their positions.

pub mod redis;
pub mod suite;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use moka::future::Cache;
use platform::lifecycle::Stop;

/// By topic, the offset below which a reader was shown everything of a chat.
pub type Positions = BTreeMap<String, u64>;

/// Every reader of a chat.
pub type Readers = HashMap<String, Positions>;

/// Why the receipts could not be used.
#[derive(Debug, thiserror::Error)]
#[error("the receipts cannot be used now: {0}")]
pub struct ReceiptsError(pub String);

/// Where the receipts are kept.
#[async_trait]
pub trait Receipts: Send + Sync {
    /// Takes note of what readers of a chat were shown. What one was shown before is not taken back.
    async fn put(&self, chat: &str, shown: &Readers) -> Result<(), ReceiptsError>;

    /// The readers of a chat who were heard of within the horizon.
    async fn of(&self, chat: &str) -> Result<Readers, ReceiptsError>;
}

/// How often what was acknowledged is written, and how long what was read serves others.
const EVERY: Duration = Duration::from_secs(1);
/// How many positions may wait. A store that is away must not fill the memory; pages repeat theirs.
const MAX_WAITING: usize = 100_000;

/// The receipts as one pod takes and gives them.
pub struct Acknowledged {
    receipts: Arc<dyn Receipts>,
    /// By chat and reader.
    waiting: Mutex<HashMap<(String, String), Positions>>,
    read: Cache<String, Arc<Readers>>,
    /// By chat and message.
    counts: Cache<(String, String), usize>,
}

impl Acknowledged {
    pub fn new(receipts: Arc<dyn Receipts>) -> Self {
        let read = Cache::builder().max_capacity(1_000).time_to_live(EVERY).build();
        let counts = Cache::builder().max_capacity(10_000).time_to_live(EVERY).build();
        Self { receipts, waiting: Mutex::default(), read, counts }
    }

    /// A reader was shown everything of a chat below these positions.
    pub fn take_note(&self, chat: &str, reader: &str, positions: &Positions) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.len() >= MAX_WAITING {
            return;
        }
        further(waiting.entry((chat.to_owned(), reader.to_owned())).or_default(), positions);
        metrics::counter!("chat_sync_receipts_total").increment(1);
    }

    /// Writes what was acknowledged, until the stop signal, and once more then.
    pub async fn write(&self, stop: Stop) {
        while stop.run_until_cancelled(tokio::time::sleep(EVERY)).await.is_some() {
            self.write_what_waits().await;
        }
        self.write_what_waits().await;
    }

    async fn write_what_waits(&self) {
        let waiting = std::mem::take(&mut *self.waiting.lock().unwrap_or_else(PoisonError::into_inner));
        let mut by_chat: HashMap<String, Readers> = HashMap::new();
        for ((chat, reader), positions) in waiting {
            by_chat.entry(chat).or_default().insert(reader, positions);
        }
        for (chat, shown) in by_chat {
            if let Err(error) = self.receipts.put(&chat, &shown).await {
                // Not kept for another try: every page repeats its own within a minute.
                tracing::debug!(%error, "receipts are lost until they are repeated");
                return;
            }
        }
    }

    /// How many readers of a chat have come to where they must have been shown a message, as `needed` tells: in any topic
    /// that it names. Every page asks now and then: all who ask within a second get one answer.
    ///
    /// # Errors
    /// If the receipts cannot be read.
    pub async fn count(
        &self,
        chat: &str,
        message: &str,
        needed: impl FnOnce() -> Positions,
    ) -> Result<usize, ReceiptsError> {
        let counting = async {
            let reading = async { self.receipts.of(chat).await.map(Arc::new) };
            let readers = self.read.try_get_with(chat.to_owned(), reading).await.map_err(again)?;
            let needed = needed();
            let has = |shown: &&Positions| {
                needed.iter().any(|(topic, needed)| shown.get(topic).is_some_and(|offset| offset >= needed))
            };
            Ok::<_, ReceiptsError>(readers.values().filter(has).count())
        };
        let key = (chat.to_owned(), message.to_owned());
        self.counts.try_get_with(key, counting).await.map_err(again)
    }
}

/// One error for all who waited for one answer.
fn again(error: Arc<ReceiptsError>) -> ReceiptsError {
    ReceiptsError(error.0.clone())
}

/// Brings positions forward, never back.
pub fn further(known: &mut Positions, positions: &Positions) {
    for (topic, offset) in positions {
        let known = known.entry(topic.clone()).or_default();
        *known = (*known).max(*offset);
    }
}
