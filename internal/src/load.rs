//! Brings a subscription up to date: by a resume where that is exact, else by a load.

use std::sync::Arc;
use std::time::Duration;

use platform::retry;

use crate::copy::{ChatCopy, Snapshot};
use crate::hub::{ConnectionId, Hub, Loaded, Resumed};
use crate::resume::Token;

/// How long a client, or a load, that has more than this pod has read waits for the pod.
const AHEAD: Duration = Duration::from_secs(2);
/// How long the store may take for one load.
const STORE: Duration = Duration::from_secs(5);
const AHEAD_STEP: Duration = Duration::from_millis(20);

/// Runs until the subscription is complete, or nobody waits for it any more.
pub async fn bring_up_to_date(
    hub: Arc<Hub>,
    copy: Arc<dyn ChatCopy>,
    connection: ConnectionId,
    chat: &str,
    resume: Option<String>,
) {
    if let Some(token) = resume.as_deref().and_then(Token::decode)
        && resumed(&hub, connection, chat, &token).await
    {
        metrics::counter!("chat_sync_resumes_total").increment(1);
        return;
    }
    metrics::counter!("chat_sync_loads_total").increment(1);
    hub.begin_load(connection, chat);
    let mut was_behind = false;
    for wait in retry::backoff(Duration::from_millis(100), Duration::from_secs(1)) {
        let mut snapshot = read(&*copy, chat, hub.load_limit(), was_behind).await;
        if !was_behind && !hub.reaches_back_to(chat, &snapshot) {
            // It may have been read for somebody else a while ago.
            snapshot = read(&*copy, chat, hub.load_limit(), true).await;
        }
        until_read(&hub, chat, &snapshot).await;
        match hub.finish_load(connection, chat, snapshot) {
            Loaded::Complete | Loaded::Gone => return,
            Loaded::Behind => {
                was_behind = true;
                tokio::time::sleep(wait).await;
            }
        }
    }
}

/// What the store is ahead of this pod, the pod reads in a moment; then it can tell that it is the same log.
pub async fn until_read(hub: &Hub, chat: &str, snapshot: &Snapshot) {
    in_a_moment(|| hub.has_read(chat, snapshot)).await;
}

/// A client may have been told by another pod what this one has not read yet. Gives whether it has now.
pub async fn until_reached(hub: &Hub, chat: &str, client: &Token) -> bool {
    in_a_moment(|| hub.has_reached(chat, client)).await
}

/// Waits until it is so, and gives whether it came to be.
async fn in_a_moment(is_so: impl Fn() -> bool) -> bool {
    let began = tokio::time::Instant::now();
    loop {
        if is_so() {
            return true;
        }
        if began.elapsed() > AHEAD {
            return false;
        }
        tokio::time::sleep(AHEAD_STEP).await;
    }
}

/// What the log has is better than nothing: without the store the load will say that it is behind.
async fn read(copy: &dyn ChatCopy, chat: &str, limit: u32, recent: bool) -> Snapshot {
    let reading = if recent { copy.recent_snapshot(chat, limit) } else { copy.snapshot(chat, limit) };
    let error = match tokio::time::timeout(STORE, reading).await {
        Ok(Ok(snapshot)) => return snapshot,
        Ok(Err(error)) => error.to_string(),
        Err(_) => "no answer in time".to_owned(),
    };
    tracing::warn!(chat.id = chat, error, "load without the store");
    Snapshot::default()
}

async fn resumed(hub: &Hub, connection: ConnectionId, chat: &str, token: &Token) -> bool {
    let started = tokio::time::Instant::now();
    loop {
        match hub.resume(connection, chat, token) {
            Resumed::Exactly => return true,
            Resumed::Impossible => return false,
            Resumed::Ahead if started.elapsed() > AHEAD => return false,
            Resumed::Ahead => tokio::time::sleep(AHEAD_STEP).await,
        }
    }
}
