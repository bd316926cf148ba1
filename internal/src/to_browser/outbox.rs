//! What waits to be written to one browser: bounded and conflating. Of a message only the newest version is
//! worth sending, so a slow browser costs no more than what is on its screen.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};

use axum::extract::ws::Utf8Bytes;
use metrics::Gauge;
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

#[derive(Debug, Clone, Default)]
struct Waiting {
    /// In order; `None` where a later one took its place.
    frames: Vec<Option<Utf8Bytes>>,
    /// Where in `frames`.
    places: HashMap<Arc<About>, usize>,
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
    pub fn push(&self, about: Arc<About>, frame: Utf8Bytes) {
        self.push_all([(about, frame)]);
    }

    /// The same for several, in order, with one wake-up.
    pub fn push_all(&self, frames: impl IntoIterator<Item = (Arc<About>, Utf8Bytes)>) {
        let mut waiting = self.lock();
        for (about, frame) in frames {
            waiting.push(about, frame);
        }
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

    /// Whether updates of this chat were dropped, and no load has come since.
    pub fn lacks(&self, chat: &str) -> bool {
        self.lock().stale.contains(chat)
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
        QUEUED.decrement(waiting.bytes as f64);
        waiting.bytes = 0;
        let frames = waiting.frames.drain(..).flatten().collect();
        (frames, std::mem::take(&mut waiting.reload))
    }

    /// The same again, of its own.
    #[cfg(test)]
    pub fn fork(&self) -> Self {
        Self { waiting: Mutex::new(self.lock().clone()), wake: Notify::new() }
    }

    fn has_something(&self) -> bool {
        let waiting = self.lock();
        !waiting.places.is_empty() || !waiting.reload.is_empty()
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    fn push(&mut self, about: Arc<About>, frame: Utf8Bytes) {
        if self.bytes + frame.len() > MAX_BYTES {
            // A frame that is too large by itself is sent all the same, if nothing else of its chat was dropped.
            self.drop_updates();
            // Whoever asks for what is not there and reads no answer gets none.
            if matches!(&*about, About::Error { .. }) && self.bytes + frame.len() > MAX_BYTES {
                return;
            }
        }
        match &*about {
            About::Update { chat, .. } if self.stale.contains(chat) => return,
            About::Load { chat } => {
                self.stale.remove(chat);
                self.reload.remove(chat);
            }
            _ => {}
        }
        self.add(about, frame);
    }

    fn add(&mut self, about: Arc<About>, frame: Utf8Bytes) {
        self.bytes += frame.len();
        QUEUED.increment(frame.len() as f64);
        let earlier = self.places.insert(about, self.frames.len());
        self.frames.push(Some(frame));
        self.forget(earlier);
        if self.frames.len() > 64 + 2 * self.places.len() {
            self.close_gaps();
        }
    }

    /// One message that changes again and again must not cost a place each time.
    fn close_gaps(&mut self) {
        let mut next = 0;
        let place = |frame: &Option<Utf8Bytes>| {
            let place = next;
            next += usize::from(frame.is_some());
            place
        };
        let moved: Vec<usize> = self.frames.iter().map(place).collect();
        self.places.values_mut().for_each(|place| *place = moved[*place]);
        self.frames.retain(Option::is_some);
    }

    fn remove(&mut self, about: &About) {
        let place = self.places.remove(about);
        self.forget(place);
    }

    fn forget(&mut self, place: Option<usize>) {
        if let Some(frame) = place.and_then(|place| self.frames.get_mut(place)?.take()) {
            self.bytes -= frame.len();
            QUEUED.decrement(frame.len() as f64);
        }
    }

    fn drop_updates(&mut self) {
        let chats: BTreeSet<String> = self.places.keys().filter_map(|about| about.chat()).map(str::to_owned).collect();
        for chat in chats {
            self.drop_chat(&chat);
        }
        metrics::counter!("chat_sync_browser_reloads_total").increment(1);
    }

    fn drop_chat(&mut self, chat: &str) {
        let dropped: Vec<Arc<About>> = self.places.keys().filter(|about| about.chat() == Some(chat)).cloned().collect();
        for about in dropped {
            self.remove(&about);
        }
        self.stale.insert(chat.to_owned());
        self.reload.insert(chat.to_owned());
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        QUEUED.decrement(self.bytes as f64);
    }
}

/// How many bytes wait for all browsers together. Looked up once: there are two changes of it for each frame.
static QUEUED: LazyLock<Gauge> = LazyLock::new(|| metrics::gauge!("chat_sync_browser_queue_bytes"));

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

    fn update(message: &str) -> Arc<About> {
        Arc::new(About::Update { chat: "c".into(), message: message.into() })
    }

    fn load(chat: &str) -> Arc<About> {
        Arc::new(About::Load { chat: chat.into() })
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
    async fn one_message_that_changes_again_and_again_takes_one_place() {
        let outbox = Outbox::default();
        outbox.push(update("a"), "a".into());
        for version in 0..1000 {
            outbox.push(update("b"), version.to_string().into());
            assert!(outbox.lock().frames.len() < 100);
        }
        outbox.push(update("c"), "c".into());
        outbox.push(update("a"), "later".into());
        assert_eq!(outbox.take().0, ["999", "c", "later"]);
    }

    #[tokio::test]
    async fn past_its_bound_updates_are_dropped_and_their_chats_loaded_anew() {
        let outbox = Outbox::default();
        outbox.push(Arc::new(About::Heartbeat), "beat".into());
        for number in 0..100 {
            outbox.push(update(&number.to_string()), "x".repeat(20_000).into());
        }
        let (frames, reload) = outbox.take();
        assert!(frames.iter().map(|frame| frame.len()).sum::<usize>() <= MAX_BYTES);
        assert!(frames.len() == 1 && frames[0] == "beat", "an update after those that were dropped would claim them");
        assert_eq!(reload, BTreeSet::from(["c".to_owned()]));
        outbox.push(load("c"), "load".into());
        outbox.push(update("1"), "after".into());
        assert_eq!(outbox.take().0, ["load", "after"]);
    }

    #[tokio::test]
    async fn a_frame_that_is_too_large_by_itself_is_sent_alone() {
        let outbox = Outbox::default();
        outbox.push(update("a"), "small".into());
        outbox.push(load("d"), "x".repeat(MAX_BYTES + 1).into());
        let (frames, reload) = outbox.take();
        assert_eq!((frames.len(), reload), (1, BTreeSet::from(["c".to_owned()])));
    }
}
