//! One reading of a chat for all who want it at the same moment: when a pod has died, everybody reconnects at once.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use moka::future::Cache;
use platform::event_log::{Progress, TopicPartition};

use crate::copy::{ChatCopy, CopyError, Page, Snapshot};
use crate::shown::{ShownChat, ShownMessage};

/// How long a snapshot serves others. A load adds what the log has beyond its positions, so it may be of any age as long
/// as the ring reaches back to it; a short one keeps that part small.
const SHARED: Duration = Duration::from_millis(500);
/// How long a reading may take. Shorter than anybody waits for it: all get the error at once, and nobody gives up a
/// reading that others wait for.
const READING: Duration = Duration::from_secs(3);
/// How many bytes of texts are kept at most.
const MAX_BYTES: u64 = 64 << 20;

/// A copy whose snapshots are shared.
pub struct SharedCopy {
    copy: Arc<dyn ChatCopy>,
    snapshots: Cache<(String, u32), Arc<Snapshot>>,
}

impl SharedCopy {
    pub fn new(copy: Arc<dyn ChatCopy>) -> Self {
        let snapshots = Cache::builder()
            .weigher(|_, snapshot: &Arc<Snapshot>| u32::try_from(bytes(snapshot)).unwrap_or(u32::MAX))
            .max_capacity(MAX_BYTES)
            .time_to_live(SHARED)
            .build();
        Self { copy, snapshots }
    }
}

fn bytes(snapshot: &Snapshot) -> usize {
    let texts = snapshot.messages.iter().map(|message| message.text.as_ref().map_or(0, String::len) + 500);
    texts.sum::<usize>() + 500
}

#[async_trait]
impl ChatCopy for SharedCopy {
    async fn chats(&self) -> Result<Vec<ShownChat>, CopyError> {
        self.copy.chats().await
    }

    async fn snapshot(&self, chat: &str, limit: u32) -> Result<Snapshot, CopyError> {
        let read = async {
            let snapshot = tokio::time::timeout(READING, self.copy.snapshot(chat, limit)).await;
            snapshot.unwrap_or_else(|_| Err(CopyError(format!("no answer within {READING:?}")))).map(Arc::new)
        };
        match self.snapshots.try_get_with((chat.to_owned(), limit), read).await {
            Ok(snapshot) => Ok(Snapshot::clone(&snapshot)),
            Err(error) => Err(CopyError(error.0.clone())),
        }
    }

    async fn messages(&self, chat: &str, before: Option<&str>, limit: u32) -> Result<Page, CopyError> {
        self.copy.messages(chat, before, limit).await
    }

    async fn progress(&self) -> Result<BTreeMap<TopicPartition, Progress>, CopyError> {
        self.copy.progress().await
    }

    async fn stored(&self, wanted: &[(String, String)]) -> Result<Vec<ShownMessage>, CopyError> {
        self.copy.stored(wanted).await
    }
}
