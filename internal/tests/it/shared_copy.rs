use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use futures::future::join_all;
use internal::copy::{ChatCopy, CopyError, Page, Snapshot};
use internal::gate_suite::{row, version};
use internal::shared_copy::SharedCopy;
use internal::shown::{ShownChat, ShownMessage};
use platform::event_log::{Progress, TopicPartition};
use platform::eventually;

/// Counts how often it is read; fails the first time, if it is told to.
#[derive(Default)]
pub struct Counted {
    reads: AtomicU32,
    fails_first: bool,
    /// How long a chat of this name takes.
    slow: Option<(&'static str, Duration)>,
}

#[async_trait]
impl ChatCopy for Counted {
    async fn chats(&self) -> Result<Vec<ShownChat>, CopyError> {
        Ok(Vec::new())
    }
    async fn snapshot(&self, chat: &str, _: u32) -> Result<Snapshot, CopyError> {
        let reads = self.reads.fetch_add(1, Ordering::SeqCst) + 1;
        tokio::task::yield_now().await;
        if let Some((_, long)) = self.slow.filter(|(slow, _)| *slow == chat) {
            tokio::time::sleep(long).await;
        }
        if self.fails_first && reads == 1 {
            return Err(CopyError("away".into()));
        }
        Ok(Snapshot { messages: vec![row(chat, "m", &version(reads))], progress: BTreeMap::new() })
    }
    async fn messages(&self, _: &str, _: Option<&str>, _: u32) -> Result<Page, CopyError> {
        Ok(Page::NoChat)
    }
    async fn progress(&self) -> Result<BTreeMap<TopicPartition, Progress>, CopyError> {
        Ok(BTreeMap::new())
    }
    async fn stored(&self, _: &[(String, String)]) -> Result<Vec<ShownMessage>, CopyError> {
        Ok(Vec::new())
    }
}

#[tokio::test]
async fn everybody_who_comes_at_once_shares_one_reading_of_a_chat() {
    let copy = Arc::new(Counted::default());
    let shared = SharedCopy::new(copy.clone());
    let chats = ["a", "b", "c"];
    let all = join_all((0..999).map(|number| shared.snapshot(chats[number % 3], 50))).await;
    for (number, snapshot) in all.into_iter().enumerate() {
        assert_eq!(snapshot.unwrap().messages[0].chat_id, chats[number % 3]);
    }
    assert_eq!(copy.reads.load(Ordering::SeqCst), 3);
    eventually!(
        shared.snapshot("a", 50).await.unwrap().messages[0].version.to_string() == version(4),
        "it is read again after a while"
    );
}

#[tokio::test]
async fn for_whom_it_was_too_old_a_chat_is_read_again_soon_and_not_for_each_of_them() {
    let copy = Arc::new(Counted::default());
    let shared = SharedCopy::new(copy.clone());
    let first = shared.snapshot("a", 50).await.unwrap().messages[0].version.to_string();
    let again = async || shared.recent_snapshot("a", 50).await.unwrap().messages[0].version.to_string();
    eventually!(again().await != first, "it is read again");
    join_all((0..999).map(|_| again())).await;
    let reads = copy.reads.load(Ordering::SeqCst);
    assert!(reads < 10, "read {reads} times for all of them");
}

#[tokio::test]
async fn what_took_long_to_read_serves_for_longer() {
    let copy = Arc::new(Counted { slow: Some(("slow", Duration::from_millis(500))), ..Counted::default() });
    let shared = SharedCopy::new(copy.clone());
    let version_of = async |chat| shared.snapshot(chat, 50).await.unwrap().messages[0].version.to_string();
    let (slow, quick) = (version_of("slow").await, version_of("quick").await);
    eventually!(version_of("quick").await != quick, "what is read quickly is read again");
    assert_eq!(version_of("slow").await, slow, "the other still serves");
}

#[tokio::test]
async fn a_reading_that_failed_serves_nobody_later() {
    let copy = Arc::new(Counted { fails_first: true, ..Counted::default() });
    let shared = SharedCopy::new(copy);
    assert!(shared.snapshot("a", 50).await.is_err());
    assert!(shared.snapshot("a", 50).await.is_ok());
}
