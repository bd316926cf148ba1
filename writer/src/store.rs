//! What a store of the copy must be able to do.

use std::collections::BTreeMap;

use async_trait::async_trait;
use platform::event_log::{Progress, TopicPartition};

use crate::batch::Batch;
use crate::failure::StoreError;

/// What became of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Applied {
    /// All of it is stored.
    Whole {
        /// Rows that were newer than what was stored.
        newer: u64,
    },
    /// Nothing of it is: some partition's progress is not where the batch begins. Another writer has it, or
    /// the store went back in time.
    Missed,
}

/// The copy.
#[async_trait]
pub trait Store: Send + Sync {
    /// Brings the tables up to date.
    async fn migrate(&self) -> Result<(), StoreError>;

    /// How far each partition of these topics is applied; those without progress are absent.
    async fn progress(&self) -> Result<BTreeMap<TopicPartition, Progress>, StoreError>;

    /// Asks the synchronizers to compare the copy with the source; gives the request's number. With `gap`, changes
    /// may be missing until that is done.
    async fn ask_reconcile(&self, reason: &str, gap: bool) -> Result<i64, StoreError>;

    /// Stores rows, versions, dead letters and progress in ONE transaction, or nothing.
    async fn apply(&self, batch: &Batch) -> Result<Applied, StoreError>;
}
