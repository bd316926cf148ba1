//! What waits to be written to one browser: bounded and conflating. Of a message only the newest version is
//! worth sending, so a slow browser costs no more than what is on its screen.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};

use axum::extract::ws::Utf8Bytes;
use tokio::sync::Notify;

/// How many bytes may wait for one browser.
const MAX_BYTES: usize = 1 << 20;

/// What a frame is about: a later one of the same takes its place.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum About {
    Update { chat: String, message: String },
    Load { chat: String },
    Chats,
    Heartbeat,
    Error { code: &'static str, chat: String },
}

/// One browser's outgoing frames.
#[derive(Debug, Default)]
pub struct Outbox {
    waiting: Mutex<Waiting>,
    wake: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    next: u64,
    frames: BTreeMap<u64, (About, Utf8Bytes)>,
    places: HashMap<About, u64>,
    bytes: usize,
    /// Chats whose updates were dropped: they must be loaded anew, and until then no update of theirs is taken,
    /// for its position would claim what was dropped.
    stale: BTreeSet<String>,
    /// Those of them that nobody was told of yet.
    reload: BTreeSet<String>,
}

impl Outbox {
    /// Adds a frame at the end. An earlier one about the same is taken away, not replaced in its place: its
    /// resume position holds for everything before it only.
    pub fn push(&self, about: About, frame: Utf8Bytes) {
        let mut waiting = self.lock();
        if waiting.bytes + frame.len() > MAX_BYTES {
            // A frame that is too large by itself is sent all the same, if nothing else of its chat was dropped.
            waiting.drop_updates();
        }
        match &about {
            About::Update { chat, .. } if waiting.stale.contains(chat) => {
                drop(waiting);
                self.wake.notify_one();
                return;
            }
            About::Load { chat } => {
                waiting.stale.remove(chat);
                waiting.reload.remove(chat);
            }
            _ => {}
        }
        waiting.remove(&about);
        waiting.bytes += frame.len();
        queued(frame.len());
        let place = waiting.next;
        waiting.next += 1;
        waiting.places.insert(about.clone(), place);
        waiting.frames.insert(place, (about, frame));
        drop(waiting);
        self.wake.notify_one();
    }

    /// What waits of this chat is of no use any more: it must be loaded anew.
    pub fn invalidate(&self, chat: &str) {
        let mut waiting = self.lock();
        waiting.drop_chat(chat);
        drop(waiting);
        self.wake.notify_one();
    }

    /// Waits until there is something to take.
    pub async fn ready(&self) {
        loop {
            let woken = self.wake.notified();
            if self.has_something() {
                return;
            }
            woken.await;
        }
    }

    /// Takes everything: the frames in order, and the chats that must be loaded anew.
    pub fn take(&self) -> (Vec<Utf8Bytes>, BTreeSet<String>) {
        let mut waiting = self.lock();
        waiting.places.clear();
        written(waiting.bytes);
        waiting.bytes = 0;
        let frames = std::mem::take(&mut waiting.frames);
        (frames.into_values().map(|(_, frame)| frame).collect(), std::mem::take(&mut waiting.reload))
    }

    fn has_something(&self) -> bool {
        let waiting = self.lock();
        !waiting.frames.is_empty() || !waiting.reload.is_empty()
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    fn remove(&mut self, about: &About) {
        if let Some(place) = self.places.remove(about)
            && let Some((_, frame)) = self.frames.remove(&place)
        {
            self.bytes -= frame.len();
            written(frame.len());
        }
    }

    fn drop_updates(&mut self) {
        let chats: BTreeSet<String> = self.places.keys().filter_map(About::chat).map(str::to_owned).collect();
        for chat in chats {
            self.drop_chat(&chat);
        }
        metrics::counter!("chat_sync_browser_reloads_total").increment(1);
    }

    fn drop_chat(&mut self, chat: &str) {
        let dropped: Vec<About> = self.places.keys().filter(|about| about.chat() == Some(chat)).cloned().collect();
        for about in dropped {
            self.remove(&about);
        }
        self.stale.insert(chat.to_owned());
        self.reload.insert(chat.to_owned());
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        written(self.bytes);
    }
}

/// How many bytes wait for all browsers together.
fn queued(bytes: usize) {
    metrics::gauge!("chat_sync_browser_queue_bytes").increment(bytes as f64);
}

fn written(bytes: usize) {
    metrics::gauge!("chat_sync_browser_queue_bytes").decrement(bytes as f64);
}

impl About {
    /// The chat whose updates or load this is.
    fn chat(&self) -> Option<&str> {
        match self {
            Self::Update { chat, .. } | Self::Load { chat } => Some(chat),
            Self::Chats | Self::Heartbeat | Self::Error { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn update(message: &str) -> About {
        About::Update { chat: "c".into(), message: message.into() }
    }

    #[tokio::test]
    async fn of_a_message_only_the_newest_waits_and_it_waits_at_the_end() {
        let outbox = Outbox::default();
        outbox.push(update("a"), "a1".into());
        outbox.push(update("b"), "b1".into());
        outbox.push(update("a"), "a2".into());
        outbox.ready().await;
        assert_eq!(outbox.take().0, ["b1", "a2"]);
        assert!(outbox.take().0.is_empty());
    }

    #[tokio::test]
    async fn past_its_bound_updates_are_dropped_and_their_chats_loaded_anew() {
        let outbox = Outbox::default();
        outbox.push(About::Heartbeat, "beat".into());
        for number in 0..100 {
            outbox.push(update(&number.to_string()), "x".repeat(20_000).into());
        }
        let (frames, reload) = outbox.take();
        assert!(frames.iter().map(|frame| frame.len()).sum::<usize>() <= MAX_BYTES);
        assert!(frames.len() == 1 && frames[0] == "beat", "an update after those that were dropped would claim them");
        assert_eq!(reload, BTreeSet::from(["c".to_owned()]));
        outbox.push(About::Load { chat: "c".into() }, "load".into());
        outbox.push(update("1"), "after".into());
        assert_eq!(outbox.take().0, ["load", "after"]);
    }

    #[tokio::test]
    async fn a_frame_that_is_too_large_by_itself_is_sent_alone() {
        let outbox = Outbox::default();
        outbox.push(update("a"), "small".into());
        outbox.push(About::Load { chat: "d".into() }, "x".repeat(MAX_BYTES + 1).into());
        let (frames, reload) = outbox.take();
        assert_eq!((frames.len(), reload), (1, BTreeSet::from(["c".to_owned()])));
    }
}
