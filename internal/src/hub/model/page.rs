//! A page: it merges what it gets by version, and keeps the last position that counts, as `copy.js` does.

use std::fmt;
use std::sync::Arc;

use contract::Version;
use serde::Deserialize;

use super::pod::{Pod, number_of, partition};
use super::{CHAT, Seen, Versions, count};
use crate::access::Viewer;
use crate::copy::Snapshot;
use crate::gate_suite::{progress_to, row, version};
use crate::hub::{ConnectionId, Loaded, Resumed};
use crate::resume::Token;
use crate::to_browser::outbox::Outbox;

#[derive(Debug, Clone)]
pub struct Page {
    /// How often it connects still.
    pub connects: u8,
    pub at: Option<At>,
    resume: Option<String>,
    /// No position counts until a load that is not.
    behind: bool,
    shown: Versions,
    /// A connection brought something older than it had brought before.
    pub went_backwards: bool,
}

/// Its connection.
#[derive(Clone)]
pub struct At {
    pub pod: usize,
    pub connection: ConnectionId,
    pub phase: Phase,
    /// What it has brought.
    brought: Versions,
}

/// Connections are numbered as they come, which tells nothing.
impl fmt::Debug for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}, brought {:?}", self.phase, self.brought)
    }
}

/// How far the pod's task that brings it up to date is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    Resuming,
    Loading,
    Live,
}

/// What a page hears.
#[derive(Debug, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Frame {
    Load { messages: Vec<Row>, outside: Vec<Row>, resume: String, behind: bool },
    Update { messages: Vec<Row>, resume: Option<String> },
    Chats {},
}

#[derive(Debug, Deserialize)]
struct Row {
    id: String,
    version: Version,
}

impl Page {
    pub fn new(connects: u8) -> Self {
        Self { connects, at: None, resume: None, behind: true, shown: Versions::new(), went_backwards: false }
    }

    /// The offset below which everything was shown, as its position says.
    pub fn position(&self) -> Option<usize> {
        let token = Token::decode(self.resume.as_deref()?).expect("a token of this hub's");
        let position = token.positions.get(&*partition().topic).expect("a position in the one topic");
        usize::try_from(position.offset).ok()
    }

    /// Whether it shows these, or newer ones.
    pub fn has(&self, rows: &Versions) -> bool {
        rows.iter().all(|(id, version)| self.has_at_least(id, *version))
    }

    pub fn has_at_least(&self, id: &str, version: u32) -> bool {
        self.shown.get(id).is_some_and(|shown| *shown >= version)
    }

    pub fn connect(&mut self, number: usize, pod: &Pod) {
        self.connects -= 1;
        let outbox = Arc::new(Outbox::default());
        let connection = pod.hub.connect(outbox.clone(), Arc::new(Viewer::anybody()));
        // The list of chats is no part of this.
        outbox.take();
        self.at = Some(At { pod: number, connection, phase: Phase::Resuming, brought: Versions::new() });
        if self.resume.is_none() {
            self.enter(Phase::Loading);
            pod.hub.begin_load(connection, CHAT);
        }
    }

    pub fn enter(&mut self, phase: Phase) {
        self.at.as_mut().expect("it is connected").phase = phase;
    }

    /// As `bring_up_to_date`.
    pub fn resume(&mut self, pods: &[Pod], seen: &Seen) {
        let at = self.at.as_mut().expect("it is connected");
        let token = Token::decode(self.resume.as_deref().expect("it has a position")).expect("a token");
        match pods[at.pod].hub.resume(at.connection, CHAT, &token) {
            Resumed::Exactly => {
                count(&seen.exact);
                at.phase = Phase::Live;
            }
            Resumed::Ahead => count(&seen.ahead),
            Resumed::Impossible => {
                count(&seen.impossible);
                self.begin_load(pods);
            }
        }
    }

    pub fn begin_load(&mut self, pods: &[Pod]) {
        let at = self.at.as_mut().expect("it is connected");
        at.phase = Phase::Loading;
        pods[at.pod].hub.begin_load(at.connection, CHAT);
    }

    /// With these rows, of so many applied records.
    pub fn load(&mut self, pods: &[Pod], applied: usize, rows: &Versions) -> Loaded {
        let at = self.at.as_mut().expect("it is connected");
        let messages = rows.iter().map(|(id, number)| row(CHAT, id, &version(*number))).collect();
        // A partition of which nothing was applied has no progress.
        let progress = (applied > 0).then(|| (partition(), progress_to(applied as u64))).into_iter().collect();
        let loaded = pods[at.pod].hub.finish_load(at.connection, CHAT, Snapshot { messages, progress });
        at.phase = if loaded == Loaded::Complete { Phase::Live } else { Phase::Loading };
        loaded
    }

    /// The first of the frames that wait; the others are lost. As `Line` and `Browser::read`: a chat of which something
    /// was dropped is loaded anew, once everything that was left is written.
    pub fn hear(&mut self, pods: &[Pod], frames: usize) {
        let (waiting, stale) = self.outbox(pods).take();
        for frame in waiting.into_iter().take(frames) {
            self.merge(serde_json::from_slice(frame.payload()).expect("a frame"));
        }
        if stale.contains(CHAT) {
            self.begin_load(pods);
        }
    }

    /// As an outbox that is full.
    pub fn overflow(&mut self, pods: &[Pod]) {
        self.outbox(pods).invalidate(CHAT);
    }

    fn outbox(&self, pods: &[Pod]) -> Arc<Outbox> {
        let at = self.at.as_ref().expect("it is connected");
        pods[at.pod].hub.lock().outbox(at.connection).expect("it is connected")
    }

    fn merge(&mut self, frame: Frame) {
        match frame {
            Frame::Load { messages, outside, resume, behind } => {
                // One that is behind says so, and another follows: the store that it comes from may lag further.
                self.show(messages.into_iter().chain(outside), !behind);
                self.behind = behind;
                self.resume = (!behind).then_some(resume);
            }
            Frame::Update { messages, resume } => {
                self.show(messages.into_iter(), true);
                if !self.behind && resume.is_some() {
                    self.resume = resume;
                }
            }
            Frame::Chats {} => {}
        }
    }

    fn show(&mut self, rows: impl Iterator<Item = Row>, counts: bool) {
        let brought = &mut self.at.as_mut().expect("it is connected").brought;
        for Row { id, version } in rows {
            let number = number_of(&version);
            if counts {
                let before = brought.entry(id.clone()).or_default();
                self.went_backwards |= number < *before;
                *before = number.max(*before);
            }
            let shown = self.shown.entry(id).or_default();
            *shown = number.max(*shown);
        }
    }

    pub fn leave(&mut self, pods: &[Pod]) {
        if let Some(at) = self.at.take() {
            pods[at.pod].hub.disconnect(at.connection);
        }
    }
}
