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
    /// Chats whose updates were dropped: they must be loaded anew.
    reload: BTreeSet<String>,
}

impl Outbox {
    /// Adds a frame at the end. An earlier one about the same is taken away, not replaced in its place: its
    /// resume position holds for everything before it only.
    pub fn push(&self, about: About, frame: Utf8Bytes) {
        let mut waiting = self.lock();
        waiting.remove(&about);
        waiting.bytes += frame.len();
        let place = waiting.next;
        waiting.next += 1;
        waiting.places.insert(about.clone(), place);
        waiting.frames.insert(place, (about, frame));
        if waiting.bytes > MAX_BYTES {
            waiting.drop_updates();
        }
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
        let taken = std::mem::take(&mut *waiting);
        waiting.next = taken.next;
        (taken.frames.into_values().map(|(_, frame)| frame).collect(), taken.reload)
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
        }
    }

    fn drop_updates(&mut self) {
        let dropped: Vec<About> = self
            .places
            .keys()
            .filter(|about| matches!(about, About::Update { .. } | About::Load { .. }))
            .cloned()
            .collect();
        for about in dropped {
            self.remove(&about);
            if let About::Update { chat, .. } | About::Load { chat } = about {
                self.reload.insert(chat);
            }
        }
        metrics::counter!("chat_sync_browser_reloads_total").increment(1);
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
        assert_eq!(frames[0], "beat");
        assert_eq!(reload, BTreeSet::from(["c".to_owned()]));
    }
}
