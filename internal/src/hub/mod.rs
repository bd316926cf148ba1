//! What the pod knows, who watches, and the protocol between the two. No I/O and no async: every step is
//! one method under one lock, so that a load and the updates that race with it have one order.
//!
//! The protocol, for one subscription:
//! 1. [`Hub::begin_load`] registers it; from now on updates are kept for it;
//! 2. the caller reads rows and positions from the store in one snapshot;
//! 3. [`Hub::finish_load`] adds what the ring has beyond those positions, sends the load with its position,
//!    then what was kept, and the subscription is live.

mod chats;
mod erased;
mod fan_out;
mod fresh;
#[cfg(test)]
mod model;
mod older;
mod plan;
mod pushes;
mod turns;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use contract::erasure::ErasureSet;
use contract::{Chat, Marker, Timestamp, Version, partition_of};
use lru::LruCache;
use platform::event_log::{Fingerprint, TopicPartition};

use crate::access::Viewer;
use crate::config::Settings;
use crate::copy::Snapshot;
use crate::receipts::Positions;
use crate::resume::{Position, Token};
use crate::ring::{Item, Ring};
use crate::shown::{ShownChat, ShownMessage};
use crate::to_browser::ServerFrame;
use crate::to_browser::outbox::{About, Outbox};

use chats::Chats;
pub use chats::Known;
use fan_out::Framed;
use fresh::Fresh;
pub use fresh::Gap;
pub use older::OlderPage;
use plan::{judge_resume, plan_load};
pub use pushes::Pushed;
use pushes::{Early, Given, Name, Pushes, keep_newest, name_of};
pub use turns::QUANTUM;

pub type ConnectionId = u64;

/// The hub of one pod.
pub struct Hub {
    region: String,
    ring_capacity: usize,
    load_limit: u32,
    /// In bytes.
    quantum: usize,
    erasures: RwLock<ErasureSet>,
    state: Mutex<State>,
}

struct State {
    /// Of the changes topic; 0 until it is known.
    partitions: u32,
    rings: BTreeMap<TopicPartition, Ring>,
    /// The partitions of which there ever was a ring.
    begun: BTreeSet<TopicPartition>,
    /// The offsets up to which everything was pushed; the rings may be a batch ahead.
    published: BTreeMap<TopicPartition, u64>,
    fresh: Fresh,
    pushes: Pushes,
    given: Given,
    early: Early,
    chats: Chats,
    /// Erased lately: of these nothing is remembered, however late it comes.
    erased: LruCache<Name, ()>,
    connections: HashMap<ConnectionId, Connection>,
    next_connection: ConnectionId,
    rooms: HashMap<String, HashMap<ConnectionId, Subscription>>,
}

struct Connection {
    outbox: Arc<Outbox>,
    viewer: Arc<Viewer>,
}

/// How far a subscription is.
#[derive(Clone)]
enum Subscription {
    /// Updates are kept until the load is sent.
    Loading(Vec<Arc<Framed>>),
    Live,
}

/// A row to push, and the record that brought it.
#[derive(Debug, Clone)]
pub struct Update {
    pub at: TopicPartition,
    pub offset: u64,
    pub row: ShownMessage,
    /// Whether the row is newer than the record: somebody else knew it already.
    pub early: bool,
    /// The gate's word, for operators; empty if it was not asked.
    pub answer: &'static str,
}

impl Update {
    /// Somebody else knew a newer row.
    pub fn replace(&mut self, newer: ShownMessage) {
        self.row = newer;
        self.early = true;
    }
}

/// What became of a load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loaded {
    Complete,
    /// The store is further behind than the ring reaches back: a load was sent that says so; try again.
    Behind,
    /// Nobody waits for it any more.
    Gone,
}

/// What became of a resume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resumed {
    /// Everything that was missed was sent.
    Exactly,
    /// The client has seen more than this pod has.
    Ahead,
    /// Only a load can tell.
    Impossible,
}

impl Hub {
    pub fn new(settings: &Settings) -> Self {
        Self {
            region: settings.region.clone(),
            ring_capacity: usize::try_from(settings.ring).unwrap_or(usize::MAX),
            load_limit: settings.load,
            quantum: usize::try_from(settings.quantum).unwrap_or(usize::MAX),
            erasures: RwLock::default(),
            state: Mutex::new(State {
                partitions: 0,
                rings: BTreeMap::new(),
                begun: BTreeSet::new(),
                published: BTreeMap::new(),
                fresh: Fresh::default(),
                pushes: Pushes::new(),
                given: Given::new(),
                early: Early::default(),
                chats: Chats::default(),
                erased: LruCache::new(erased::LATELY),
                connections: HashMap::new(),
                next_connection: 0,
                rooms: HashMap::new(),
            }),
        }
    }

    pub fn load_limit(&self) -> u32 {
        self.load_limit
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    // --- the log's side ---

    pub fn set_partitions(&self, partitions: u32) {
        self.lock().partitions = partitions;
    }

    /// Begins a partition's ring anew, from this offset; what lies before `live_from` will not be pushed, so
    /// whoever watches a chat in it must load again.
    pub fn begin_partition(&self, at: TopicPartition, start: u64, live_from: u64) {
        let mut state = self.lock();
        for (chat, room) in state.rooms.iter().filter(|(chat, _)| state.partition_of(chat) == at.partition) {
            for connection in room.keys().filter_map(|connection| state.connections.get(connection)) {
                connection.outbox.invalidate(chat);
            }
        }
        state.published.insert(at.clone(), start);
        let ring = Ring::new(self.ring_capacity, start, live_from);
        let is_first = state.begun.insert(at.clone());
        state.rings.insert(at, if is_first { ring } else { ring.in_place_of_another() });
    }

    pub fn drop_partition(&self, at: &TopicPartition) {
        let mut state = self.lock();
        state.rings.remove(at);
        state.published.remove(at);
        state.fresh.forget(at);
    }

    /// Adds records to the rings. From now on loads contain them.
    pub fn append(&self, records: impl IntoIterator<Item = (TopicPartition, u64, Fingerprint, Item)>) {
        let mut state = self.lock();
        for (at, offset, fingerprint, item) in records {
            let item = state.without_erased(item);
            if let Some(ring) = state.rings.get_mut(&at) {
                ring.push(offset, fingerprint, item);
            }
        }
    }

    /// Takes note of a marker.
    pub fn mark(&self, at: TopicPartition, marker: &Marker) {
        if let Some(fresh) = marker.fresh_as_of {
            self.lock().fresh.mark(at, marker.at, fresh, Timestamp::now());
        }
    }

    /// Takes note of whether changes may be missing in this region.
    pub fn note_gap(&self, gap: Gap) {
        self.lock().fresh.gap = gap;
    }

    /// What was said last of whether changes may be missing in this region.
    pub fn gap(&self) -> Gap {
        self.lock().fresh.gap.clone()
    }

    /// Takes note of a chat's row.
    pub fn put_chat(&self, chat: &Chat) {
        let mut state = self.lock();
        if chat.is_erased() || !self.hides_chat(&chat.id) {
            state.chats.put(chat.into(), chat.stamp.deleted);
        }
    }

    /// Takes note of all chats that the store has.
    pub fn put_chats(&self, mut chats: Vec<ShownChat>) {
        let mut state = self.lock();
        chats.retain(|chat| !self.hides_chat(&chat.id));
        state.chats.put_all(chats);
    }

    /// Takes note of rows that were in the log before this pod was live: loads contain them, and nothing older than
    /// them is pushed later, whether the gate answers or not.
    pub fn remember(&self, rows: impl IntoIterator<Item = ShownMessage>) {
        let mut state = self.lock();
        for row in rows {
            state.early.read(&row);
            let name = name_of(&row);
            if state.pushes.is_news(&name, &row.version) {
                let (answer, at) = ("read before this pod was live".into(), Timestamp::now());
                state.pushes.put(name, Pushed { version: row.version, answer, connections: 0, at });
            }
        }
    }

    /// How a message was pushed last, if that is remembered.
    pub fn pushed(&self, chat: &str, message: &str) -> Option<Pushed> {
        self.lock().pushes.get(&(chat.to_owned(), message.to_owned())).cloned()
    }

    /// Sends the list of chats to everybody if it has changed since, to each what it may see.
    pub fn publish_chats(&self) {
        let mut state = self.lock();
        if !state.chats.take_changed() {
            return;
        }
        let (about, every) = (Arc::new(About::Chats), state.chats.frame(&Viewer::anybody()));
        for Connection { outbox, viewer } in state.connections.values() {
            let frame = if viewer.only().is_none() { every.clone() } else { state.chats.frame(viewer) };
            outbox.push(about.clone(), frame);
        }
    }

    /// The position of this chat behind an update: its own offset, and what was pushed of the other topics.
    fn token(&self, state: &State, chat: &str, own: &TopicPartition, offset: u64) -> String {
        let positions = state.rings_of(chat).map(|(at, ring)| {
            let pushed = || state.published.get(at).copied().unwrap_or_else(|| ring.start());
            let offset = if at == own { offset } else { pushed() };
            (at.topic.to_string(), position(ring, offset))
        });
        self.encode_token(chat, state.partition_of(chat), positions.collect())
    }

    fn encode_token(&self, chat: &str, partition: u32, positions: BTreeMap<String, Position>) -> String {
        Token { region: self.region.clone(), chat: chat.to_owned(), partition, positions }.encode()
    }

    // --- the browsers' side ---

    /// A new connection; it gets the list of the chats that its viewer may see at once.
    pub fn connect(&self, outbox: Arc<Outbox>, viewer: Arc<Viewer>) -> ConnectionId {
        let mut state = self.lock();
        let id = state.next_connection;
        state.next_connection += 1;
        outbox.push(Arc::new(About::Chats), state.chats.frame(&viewer));
        state.connections.insert(id, Connection { outbox, viewer });
        metrics::gauge!("chat_sync_browsers").set(state.connections.len() as f64);
        id
    }

    /// How many are connected.
    pub fn browsers(&self) -> usize {
        self.lock().connections.len()
    }

    pub fn disconnect(&self, connection: ConnectionId) {
        let mut state = self.lock();
        state.connections.remove(&connection);
        state.rooms.retain(|_, room| {
            room.remove(&connection);
            !room.is_empty()
        });
        metrics::gauge!("chat_sync_browsers").set(state.connections.len() as f64);
    }

    pub fn unsubscribe(&self, connection: ConnectionId, chat: &str) {
        let mut state = self.lock();
        if let Some(room) = state.rooms.get_mut(chat) {
            room.remove(&connection);
            if room.is_empty() {
                state.rooms.remove(chat);
            }
        }
    }

    pub fn known(&self, chat: &str, viewer: &Viewer) -> Known {
        let known = self.lock().chats.known(chat, viewer);
        // What was erased stays on no page.
        if known == Known::NotHere && self.hides_chat(chat) { Known::No } else { known }
    }

    /// Step 1: from now on updates are kept for this subscription.
    pub fn begin_load(&self, connection: ConnectionId, chat: &str) {
        let mut state = self.lock();
        if state.connections.contains_key(&connection) {
            state.rooms.entry(chat.to_owned()).or_default().insert(connection, Subscription::Loading(Vec::new()));
        }
    }

    /// Whether this pod has read of a chat what the store had, as far as one can tell.
    pub fn has_read(&self, chat: &str, snapshot: &Snapshot) -> bool {
        let state = self.lock();
        state.rings_of(chat).all(|(at, ring)| ring.stored_below(snapshot.progress.get(at)).is_some())
    }

    /// Whether the rings reach back to what the store had.
    pub fn reaches_back_to(&self, chat: &str, snapshot: &Snapshot) -> bool {
        let state = self.lock();
        state.rings_of(chat).all(|(at, ring)| {
            let stored = ring.stored_below(snapshot.progress.get(at));
            stored.is_some_and(|stored| stored >= ring.start())
        })
    }

    /// Step 3: the load, then what was kept, then live.
    pub fn finish_load(&self, connection: ConnectionId, chat: &str, snapshot: Snapshot) -> Loaded {
        let mut state = self.lock();
        let plan = plan_load(&state, chat, snapshot, self.load_limit as usize, |row| self.hides(row));
        let behind = plan.behind;
        let all_pushed = !behind && state.all_pushed(chat, &plan.positions);
        let resume = self.encode_token(chat, state.partition_of(chat), plan.positions);
        let Some(outbox) = state.outbox(connection) else { return Loaded::Gone };
        let Some(subscription) = state.rooms.get_mut(chat).and_then(|room| room.get_mut(&connection)) else {
            return Loaded::Gone;
        };
        let kept = match std::mem::replace(subscription, Subscription::Live) {
            Subscription::Loading(kept) => kept,
            Subscription::Live => Vec::new(),
        };
        let load =
            ServerFrame::Load { chat, messages: &plan.window, outside: &plan.outside, more: plan.more, resume, behind };
        outbox.push(Arc::new(About::Load { chat: chat.to_owned() }), load.encode());
        let rows = plan.window.iter().chain(&plan.outside);
        let loaded: HashMap<&str, &Version> = rows.map(|row| (row.id.as_str(), &row.version)).collect();
        // The load may have more than was pushed when they were kept.
        let is_news = |kept: &&Arc<Framed>| loaded.get(kept.message()).is_none_or(|loaded| **loaded < kept.version);
        outbox.push_all(kept.iter().filter(is_news).map(|kept| (kept.about.clone(), kept.frame.clone())));
        let State { given, pushes, .. } = &mut *state;
        given.note(plan.window.iter().chain(&plan.outside), pushes, all_pushed);
        if behind { Loaded::Behind } else { Loaded::Complete }
    }

    /// Sends what was missed since the token's position, if the rings reach back to it, and goes live. Not where updates
    /// were dropped since the last load: only another one makes up for them.
    pub fn resume(&self, connection: ConnectionId, chat: &str, token: &Token) -> Resumed {
        let mut state = self.lock();
        let from = match judge_resume(&state, &self.region, chat, token) {
            Ok(from) => from,
            Err(why) => return why,
        };
        let Some(outbox) = state.outbox(connection) else { return Resumed::Exactly };
        if outbox.lacks(chat) {
            return Resumed::Impossible;
        }
        let mut missed: Vec<&ShownMessage> = Vec::new();
        for (at, ring) in state.rings_of(chat) {
            missed.extend(from.get(&*at.topic).into_iter().flat_map(|from| ring.rows(chat, *from)));
        }
        missed.extend(state.early.rows(chat));
        keep_newest(&mut missed);
        // The log may hold an older version behind a newer one, which the client has.
        missed.retain(|row| {
            let name = name_of(row);
            !self.hides(row)
                && !state.pushes.has_newer(&name, &row.version)
                && !state.given.has_newer(&name, &row.version)
        });
        let missed: Vec<ShownMessage> = missed.into_iter().cloned().collect();
        let ends = state.rings_of(chat).map(|(at, ring)| (at.topic.to_string(), position(ring, ring.end()))).collect();
        let all_pushed = state.all_pushed(chat, &ends);
        let resume = self.encode_token(chat, state.partition_of(chat), ends);
        if missed.is_empty() && token.region != self.region {
            // Nothing was missed, but the client's position is of another region: the next time it is asked, it has ours.
            let about = About::Update { chat: chat.to_owned(), message: String::new() };
            let update = ServerFrame::Update { chat, messages: &[], resume: Some(resume.clone()) };
            outbox.push(Arc::new(about), update.encode());
        }
        for (number, row) in missed.iter().enumerate() {
            let about = About::Update { chat: chat.to_owned(), message: row.id.clone() };
            // Only the last one may claim all of them.
            let resume = (number + 1 == missed.len()).then(|| resume.clone());
            let update = ServerFrame::Update { chat, messages: std::slice::from_ref(row), resume };
            outbox.push(Arc::new(about), update.encode());
        }
        let State { given, pushes, rooms, .. } = &mut *state;
        given.note(missed.iter(), pushes, all_pushed);
        rooms.entry(chat.to_owned()).or_default().insert(connection, Subscription::Live);
        Resumed::Exactly
    }

    /// The positions that a client's token stands for; none of another region or chat, and none that this pod has not
    /// reached itself.
    pub fn positions(&self, chat: &str, token: &Token) -> Option<Positions> {
        let state = self.lock();
        if (&token.region, token.chat.as_str(), token.partition) != (&self.region, chat, state.partition_of(chat)) {
            return None;
        }
        let reached = state.rings_of(chat).filter_map(|(at, ring)| {
            let told = token.positions.get(&*at.topic)?;
            let is_of_another_log = (ring.start()..=ring.end()).contains(&told.offset)
                && ring.marker_before(told.offset).as_deref() != told.marker.as_deref();
            if is_of_another_log {
                return None;
            }
            Some((at.topic.to_string(), told.offset.min(ring.end())))
        });
        Some(reached.collect())
    }

    /// By topic, the position that whoever has reached was shown this message as it is now. One that the rings do not
    /// reach back to counts for everybody who has come as far as they do: it is in loads, and in the pages before them.
    pub fn needed(&self, chat: &str, message: &str) -> Positions {
        let state = self.lock();
        let in_rings: Positions = state
            .rings_of(chat)
            .filter_map(|(at, ring)| Some((at.topic.to_string(), ring.last_of(chat, message)? + 1)))
            .collect();
        if !in_rings.is_empty() {
            return in_rings;
        }
        state.rings_of(chat).map(|(at, ring)| (at.topic.to_string(), ring.start())).collect()
    }

    /// When the source was last known to be read to its end, and nothing was known to be missing.
    pub fn fresh_as_of(&self) -> Option<Timestamp> {
        let state = self.lock();
        state.fresh.as_of(state.rings.keys())
    }
}

impl State {
    /// Whether every record of a chat below these positions was pushed.
    fn all_pushed(&self, chat: &str, positions: &BTreeMap<String, Position>) -> bool {
        let pushed = |at: &TopicPartition| self.published.get(at).copied().unwrap_or_default();
        self.rings_of(chat).all(|(at, _)| positions.get(&*at.topic).is_none_or(|until| pushed(at) >= until.offset))
    }

    fn partition_of(&self, chat: &str) -> u32 {
        if self.partitions == 0 { 0 } else { partition_of(chat, self.partitions) }
    }

    fn rings_of(&self, chat: &str) -> impl Iterator<Item = (&TopicPartition, &Ring)> {
        let partition = self.partition_of(chat);
        self.rings.iter().filter(move |(at, _)| at.partition == partition)
    }

    fn outbox(&self, connection: ConnectionId) -> Option<Arc<Outbox>> {
        Some(self.connections.get(&connection)?.outbox.clone())
    }
}

fn position(ring: &Ring, offset: u64) -> Position {
    Position { offset, marker: ring.marker_before(offset).map(|name| name.to_string()) }
}
