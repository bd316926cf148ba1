//! One reading of a chat for all who want it at the same moment: when a pod has died, everybody reconnects at once.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use moka::Expiry;
use moka::future::Cache;
use platform::event_log::{Progress, TopicPartition};

use crate::copy::{ChatCopy, CopyError, Page, Snapshot};
use crate::shown::{ShownChat, ShownMessage};

/// How long a snapshot serves others at least, and at most. A load adds what the log has beyond its positions, so it may be of
/// any age as long as the ring reaches back to it. All who come back from a pod that died are there within this time.
const SHARED: Duration = Duration::from_secs(5);
const SHARED_AT_MOST: Duration = Duration::from_secs(10);
/// The least for those for whom the last one was too old.
const RECENT: Duration = Duration::from_millis(500);
/// In between it serves so many times as long as its reading took: the slower the store, the less often one chat is read. Else a
/// crowd that comes back at a busy store asks for more than it can answer, gets nothing in time, and asks again.
const SHARED_TIMES: u32 = 20;
/// How long a reading may take. Shorter than anybody waits for it: all get the error at once, and nobody gives up a
/// reading that others wait for.
const READING: Duration = Duration::from_secs(3);
/// How many bytes of texts are kept at most.
const MAX_BYTES: u64 = 64 << 20;

/// A copy whose snapshots are shared.
pub struct SharedCopy {
    copy: Arc<dyn ChatCopy>,
    snapshots: Cache<(String, u32), Arc<Taken>>,
}

/// A snapshot, and how long its reading took, waiting for a connection included.
struct Taken {
    snapshot: Snapshot,
    read_at: Instant,
    took: Duration,
}

struct Serves;

impl Expiry<(String, u32), Arc<Taken>> for Serves {
    fn expire_after_create(&self, _: &(String, u32), taken: &Arc<Taken>, _: Instant) -> Option<Duration> {
        Some(serves(taken.took))
    }
}

/// How long a snapshot serves whose reading took so long.
fn serves(took: Duration) -> Duration {
    (took * SHARED_TIMES).clamp(SHARED, SHARED_AT_MOST)
}

/// How old it may be, then, for those for whom the last one was too old.
fn recent(took: Duration) -> Duration {
    (took * SHARED_TIMES).clamp(RECENT, SHARED_AT_MOST)
}

impl SharedCopy {
    pub fn new(copy: Arc<dyn ChatCopy>) -> Self {
        let snapshots = Cache::builder()
            .weigher(|_, taken: &Arc<Taken>| u32::try_from(bytes(&taken.snapshot)).unwrap_or(u32::MAX))
            .max_capacity(MAX_BYTES)
            .expire_after(Serves)
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
            let began = Instant::now();
            let snapshot = tokio::time::timeout(READING, self.copy.snapshot(chat, limit)).await;
            let snapshot = snapshot.unwrap_or_else(|_| Err(CopyError(format!("no answer within {READING:?}"))))?;
            Ok::<_, CopyError>(Arc::new(Taken { snapshot, read_at: Instant::now(), took: began.elapsed() }))
        };
        match self.snapshots.try_get_with((chat.to_owned(), limit), read).await {
            Ok(taken) => Ok(taken.snapshot.clone()),
            Err(error) => Err(CopyError(error.0.clone())),
        }
    }

    async fn recent_snapshot(&self, chat: &str, limit: u32) -> Result<Snapshot, CopyError> {
        let key = (chat.to_owned(), limit);
        let is_old = |taken: Arc<Taken>| taken.read_at.elapsed() > recent(taken.took);
        if self.snapshots.get(&key).await.is_some_and(is_old) {
            self.snapshots.invalidate(&key).await;
        }
        self.snapshot(chat, limit).await
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slower_the_store_the_longer_a_snapshot_serves() {
        assert_eq!(serves(Duration::from_millis(2)), SHARED);
        assert_eq!(serves(Duration::from_millis(300)), Duration::from_secs(6));
        assert_eq!(serves(READING), SHARED_AT_MOST);
        assert_eq!(recent(Duration::from_millis(2)), RECENT);
        assert_eq!(recent(Duration::from_millis(100)), Duration::from_secs(2));
        assert_eq!(recent(READING), SHARED_AT_MOST);
    }
}
