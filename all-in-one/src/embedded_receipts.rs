//! The receipts in memory, for one pod.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;
use internal::receipts::{Readers, Receipts, ReceiptsError, further};

/// The receipts in memory. They end with the process, as all who look do.
#[derive(Default)]
pub struct EmbeddedReceipts {
    /// By chat.
    known: Mutex<HashMap<String, Readers>>,
}

#[async_trait]
impl Receipts for EmbeddedReceipts {
    async fn put(&self, chat: &str, shown: &Readers) -> Result<(), ReceiptsError> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let known = known.entry(chat.to_owned()).or_default();
        for (reader, positions) in shown {
            further(known.entry(reader.clone()).or_default(), positions);
        }
        Ok(())
    }

    async fn of(&self, chat: &str) -> Result<Readers, ReceiptsError> {
        Ok(self.known.lock().unwrap_or_else(PoisonError::into_inner).get(chat).cloned().unwrap_or_default())
    }
}
