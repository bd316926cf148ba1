//! What waits to be written to one browser: bounded and conflating. Of a message only the newest version is
//! worth sending, so a slow browser costs no more than what is on its screen.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::task::Waker;

use axum::body::Bytes;
use metrics::Gauge;
use smallvec::SmallVec;

use super::frame::Frame;

/// How many bytes may wait for one browser.
const MAX_BYTES: usize = 1 << 20;
/// So many are looked through one after the other; that one waits is the rule.
const FEW: usize = 8;

/// What a frame is about: a later one of the same takes its place.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum About {
    Update {
        chat: String,
        message: String,
    },
    Load {
        chat: String,
    },
    Chats,
    Heartbeat,
    Error {
        code: &'static str,
        chat: String,
    },
    Ping,
    /// What the WebSocket layer says by itself: of many pings the last is answered (RFC 6455, section 5.5.3).
    Answer,
    Close,
}

/// One browser's outgoing frames.
#[derive(Debug)]
pub struct Outbox {
    waiting: Mutex<Waiting>,
    /// Woken whenever there is something to take.
    taker: Waker,
}

impl Default for Outbox {
    /// Nobody is woken.
    fn default() -> Self {
        Self::new(Waker::noop().clone())
    }
}

#[derive(Debug, Clone, Default)]
struct Waiting {
    /// In order; none where a later one took its place.
    frames: SmallVec<[(Arc<About>, Option<Frame>); 1]>,
    /// Where in `frames`, as soon as these are not [`FEW`] any more.
    places: HashMap<Arc<About>, usize>,
    /// Whether the last frame is a closing one.
    closed: bool,
    /// How many are not replaced.
    count: usize,
    bytes: usize,
    /// What all of them together were told of that.
    counted: usize,
    /// Chats whose updates were dropped: they must be loaded anew, and until then no update of theirs is taken,
    /// for its position would claim what was dropped.
    stale: BTreeSet<String>,
    /// Those of them that nobody was told of yet.
    reload: BTreeSet<String>,
}

impl Outbox {
    pub fn new(taker: Waker) -> Self {
        Self { waiting: Mutex::default(), taker }
    }

    /// Adds a frame at the end. An earlier one about the same is taken away, not replaced in its place: its
    /// resume position holds for everything before it only.
    pub fn push(&self, about: Arc<About>, frame: Frame) {
        self.push_all([(about, frame)]);
    }

    /// The same for several, in order, with one wake-up.
    pub fn push_all(&self, frames: impl IntoIterator<Item = (Arc<About>, Frame)>) {
        let mut waiting = self.lock();
        for (about, frame) in frames {
            waiting.push(about, frame);
        }
        drop(waiting);
        self.taker.wake_by_ref();
    }

    /// What waits of this chat is of no use any more: it must be loaded anew.
    pub fn invalidate(&self, chat: &str) {
        let mut waiting = self.lock();
        waiting.drop_chat(chat);
        drop(waiting);
        self.taker.wake_by_ref();
    }

    /// Whether updates of this chat were dropped, and no load has come since.
    pub fn lacks(&self, chat: &str) -> bool {
        self.lock().stale.contains(chat)
    }

    /// Takes everything: the frames in order, and the chats that must be loaded anew.
    pub fn take(&self) -> (Vec<Frame>, BTreeSet<String>) {
        let mut waiting = self.lock();
        (waiting.take().collect(), std::mem::take(&mut waiting.reload))
    }

    /// The same; the frames, as they go to a socket, come behind those that are there.
    pub fn take_into(&self, there: &mut SmallVec<[Bytes; 1]>) -> BTreeSet<String> {
        let mut waiting = self.lock();
        there.extend(waiting.take().map(Frame::into_bytes));
        waiting.shrink();
        std::mem::take(&mut waiting.reload)
    }

    /// Whether there is nothing to take.
    pub fn is_empty(&self) -> bool {
        let waiting = self.lock();
        waiting.count == 0 && waiting.reload.is_empty()
    }

    /// Takes note of how much waits, for the gauge of all.
    pub fn count(&self) {
        self.lock().recount();
    }

    /// The same again, of its own.
    #[cfg(test)]
    pub fn fork(&self) -> Self {
        Self { waiting: Mutex::new(self.lock().clone()), taker: Waker::noop().clone() }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    fn take(&mut self) -> impl Iterator<Item = Frame> {
        if !self.places.is_empty() {
            self.places.clear();
        }
        (self.count, self.bytes) = (0, 0);
        self.frames.drain(..).filter_map(|(_, frame)| frame)
    }

    /// A burst must not cost its room for ever.
    fn shrink(&mut self) {
        self.frames.shrink_to_fit();
        self.places.shrink_to_fit();
    }

    fn recount(&mut self) {
        QUEUED.increment(self.bytes as f64 - self.counted as f64);
        self.counted = self.bytes;
    }

    fn push(&mut self, about: Arc<About>, frame: Frame) {
        // Nothing follows a closing frame (RFC 6455, section 5.5.1).
        if self.closed {
            return;
        }
        self.closed = *about == About::Close;
        // It has what those updates bring, but for messages before its window, which a page that shows them asks for again.
        // They came behind an earlier load, whose word that something is missing it takes away: their positions would
        // claim that.
        if let About::Load { chat } = &*about {
            self.take_away(chat);
        }
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

    fn add(&mut self, about: Arc<About>, frame: Frame) {
        self.remove(&about);
        self.count += 1;
        self.bytes += frame.len();
        self.frames.push((about, Some(frame)));
        match self.frames.len() {
            // One message that changes again and again must not cost a place each time.
            places if places > 64 + 2 * self.count => self.close_gaps(),
            places if places == FEW + 1 => self.index(0),
            places => self.index(places - 1),
        }
    }

    fn close_gaps(&mut self) {
        self.frames.retain(|(_, frame)| frame.is_some());
        self.places.clear();
        self.index(0);
    }

    /// From this place on.
    fn index(&mut self, from: usize) {
        if self.frames.len() > FEW {
            let places = self.frames.iter().enumerate().skip(from).filter(|(_, (_, frame))| frame.is_some());
            self.places.extend(places.map(|(place, (about, _))| (about.clone(), place)));
        }
    }

    fn remove(&mut self, about: &About) {
        let place = if self.frames.len() > FEW {
            self.places.remove(about)
        } else {
            self.frames.iter().position(|(known, frame)| frame.is_some() && **known == *about)
        };
        if let Some(frame) = place.and_then(|place| self.frames.get_mut(place)?.1.take()) {
            self.count -= 1;
            self.bytes -= frame.len();
        }
    }

    fn abouts(&self) -> impl Iterator<Item = &Arc<About>> {
        self.frames.iter().filter_map(|(about, frame)| frame.is_some().then_some(about))
    }

    fn drop_updates(&mut self) {
        let chats: BTreeSet<String> = self.abouts().filter_map(|about| about.chat()).map(str::to_owned).collect();
        for chat in chats {
            self.drop_chat(&chat);
        }
        metrics::counter!("chat_sync_browser_reloads_total").increment(1);
    }

    fn take_away(&mut self, chat: &str) {
        let waiting: Vec<Arc<About>> = self.abouts().filter(|about| about.chat() == Some(chat)).cloned().collect();
        for about in waiting {
            self.remove(&about);
        }
    }

    fn drop_chat(&mut self, chat: &str) {
        self.take_away(chat);
        self.stale.insert(chat.to_owned());
        self.reload.insert(chat.to_owned());
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        QUEUED.decrement(self.counted as f64);
    }
}

/// How many bytes wait for all browsers together, each counted now and then: with each frame, all threads
/// would write one cache line twice.
static QUEUED: LazyLock<Gauge> = LazyLock::new(|| metrics::gauge!("chat_sync_browser_queue_bytes"));

impl About {
    /// The chat whose updates or load this is.
    fn chat(&self) -> Option<&str> {
        match self {
            Self::Update { chat, .. } | Self::Load { chat } => Some(chat),
            _ => None,
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

    fn texts(frames: Vec<Frame>) -> Vec<String> {
        frames.iter().map(|frame| String::from_utf8(frame.payload().to_vec()).unwrap()).collect()
    }

    #[test]
    fn of_a_message_only_the_newest_waits_and_it_waits_at_the_end() {
        let outbox = Outbox::default();
        outbox.push(update("a"), Frame::text("a1"));
        outbox.push(update("b"), Frame::text("b1"));
        outbox.push(update("a"), Frame::text("a2"));
        assert_eq!(texts(outbox.take().0), ["b1", "a2"]);
        assert!(outbox.take().0.is_empty());
    }

    #[test]
    fn one_message_that_changes_again_and_again_takes_one_place() {
        let outbox = Outbox::default();
        outbox.push(update("a"), Frame::text("a"));
        for version in 0..1000 {
            outbox.push(update("b"), Frame::text(&version.to_string()));
            assert!(outbox.lock().frames.len() < 100);
        }
        outbox.push(update("c"), Frame::text("c"));
        outbox.push(update("a"), Frame::text("later"));
        assert_eq!(texts(outbox.take().0), ["999", "c", "later"]);
    }

    #[test]
    fn a_load_takes_the_place_of_what_waits_of_its_chat() {
        let outbox = Outbox::default();
        let frames =
            [(load("c"), "behind"), (update("a"), "a"), (load("d"), "d"), (load("c"), "complete"), (update("b"), "b")];
        outbox.push_all(frames.map(|(about, text)| (about, Frame::text(text))));
        assert_eq!(texts(outbox.take().0), ["d", "complete", "b"]);
    }

    #[test]
    fn nothing_follows_a_closing_frame() {
        let outbox = Outbox::default();
        outbox.push(update("a"), Frame::text("a"));
        outbox.push(Arc::new(About::Close), Frame::text("close"));
        outbox.push(update("b"), Frame::text("b"));
        assert_eq!(texts(outbox.take().0), ["a", "close"]);
        outbox.push(update("c"), Frame::text("c"));
        assert!(outbox.is_empty());
    }

    #[test]
    fn a_load_that_fits_in_place_of_its_chats_updates_costs_the_others_nothing() {
        let outbox = Outbox::default();
        outbox.push(update("a"), Frame::text(&"x".repeat(MAX_BYTES / 2)));
        let other = Arc::new(About::Update { chat: "d".into(), message: "b".into() });
        outbox.push(other, Frame::text("of another chat"));
        outbox.push(load("c"), Frame::text(&"y".repeat(MAX_BYTES / 2)));
        let (frames, reload) = outbox.take();
        assert_eq!((frames.len(), reload), (2, BTreeSet::new()));
    }

    #[test]
    fn past_its_bound_updates_are_dropped_and_their_chats_loaded_anew() {
        let outbox = Outbox::default();
        outbox.push(Arc::new(About::Heartbeat), Frame::text("beat"));
        for number in 0..100 {
            outbox.push(update(&number.to_string()), Frame::text(&"x".repeat(20_000)));
        }
        let (frames, reload) = outbox.take();
        assert!(frames.iter().map(|frame| frame.len()).sum::<usize>() <= MAX_BYTES);
        assert!(
            frames.len() == 1 && frames[0].payload() == b"beat",
            "an update after those that were dropped would claim them"
        );
        assert_eq!(reload, BTreeSet::from(["c".to_owned()]));
        outbox.push(load("c"), Frame::text("load"));
        outbox.push(update("1"), Frame::text("after"));
        assert_eq!(texts(outbox.take().0), ["load", "after"]);
    }

    #[test]
    fn a_frame_that_is_too_large_by_itself_is_sent_alone() {
        let outbox = Outbox::default();
        outbox.push(update("a"), Frame::text("small"));
        outbox.push(load("d"), Frame::text(&"x".repeat(MAX_BYTES + 1)));
        let (frames, reload) = outbox.take();
        assert_eq!((frames.len(), reload), (1, BTreeSet::from(["c".to_owned()])));
    }
}
