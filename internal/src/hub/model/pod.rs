//! A pod: its hub, and what `from_log` does with it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, RwLock};

use lru::LruCache;
use platform::event_log::TopicPartition;

use super::{CHAT, Entry, Protocol, Seen, Versions, count};
use crate::gate_suite::{fingerprint_at, row, version};
use crate::hub::fresh::Fresh;
use crate::hub::pushes::{Early, Given, Pushes};
use crate::hub::{Chats, Connection, ConnectionId, Hub, State, Subscription, Update};
use crate::ring::Item;
use crate::to_browser::Frame;

pub const REGION: &str = "a";

/// More than are explored; what is remembered is copied with every state.
const MESSAGES: NonZeroUsize = NonZeroUsize::MIN.saturating_add(9);

/// The one partition of the one topic.
pub fn partition() -> TopicPartition {
    TopicPartition::new("chat-changes", 0)
}

pub struct Pod {
    pub hub: Hub,
    /// The next record to read.
    pub next: usize,
    /// What comes before it is only remembered, not pushed.
    live_from: usize,
    /// What was read and not pushed yet.
    pub read: Option<Vec<Update>>,
}

impl Pod {
    /// As `FromLog::begin`: the ring's length before the end.
    pub fn start(protocol: &Protocol, end: usize) -> Self {
        let hub = Hub {
            region: REGION.into(),
            ring_capacity: protocol.ring,
            load_limit: 50,
            quantum: 1 << 20,
            erasures: RwLock::default(),
            state: Mutex::new(State {
                partitions: 1,
                rings: BTreeMap::new(),
                begun: BTreeSet::new(),
                published: BTreeMap::new(),
                fresh: Fresh::default(),
                pushes: Pushes::remembering(MESSAGES),
                given: Given::remembering(MESSAGES),
                early: Early::default(),
                chats: Chats::default(),
                erased: LruCache::new(MESSAGES),
                connections: HashMap::new(),
                next_connection: 0,
                rooms: HashMap::new(),
            }),
        };
        let next = end.saturating_sub(protocol.ring);
        hub.begin_partition(partition(), next as u64, end as u64);
        Self { hub, next, live_from: end, read: None }
    }

    /// As `FromLog::take`, up to the gate.
    pub fn read(&mut self, protocol: &Protocol, records: usize) {
        let (mut items, mut updates, mut earlier) = (Vec::new(), Vec::new(), Vec::new());
        for offset in self.next..self.next + records {
            let item = match protocol.log[offset] {
                Entry::Marker(name) => Item::Marker(name.into()),
                Entry::Row(id, number) => Item::Message(row(CHAT, id, &version(number))),
            };
            match &item {
                Item::Message(row) if offset >= self.live_from => {
                    updates.push(Update {
                        at: partition(),
                        offset: offset as u64,
                        row: row.clone(),
                        early: false,
                        answer: "",
                    });
                }
                Item::Message(row) => earlier.push(row.clone()),
                _ => {}
            }
            items.push((partition(), offset as u64, fingerprint_at(offset as u64), item));
        }
        self.next += records;
        self.hub.append(items);
        self.hub.remember(earlier);
        if updates.is_empty() {
            // Nobody is asked about nothing.
            self.push(updates);
        } else {
            self.read = Some(updates);
        }
    }

    /// As `FromLog::take`, from the gate on.
    pub fn publish(&mut self, gate: Option<&mut Versions>, seen: &Seen) {
        let mut updates = self.read.take().unwrap_or_default();
        if let Some(gate) = gate {
            for update in &mut updates {
                let own = number_of(&update.row.version);
                let known = gate.entry(update.row.id.clone()).or_default();
                if *known > own {
                    count(&seen.known_elsewhere);
                    update.replace(row(CHAT, &update.row.id, &version(*known)));
                }
                *known = own.max(*known);
            }
        }
        self.push(updates);
    }

    fn push(&self, updates: Vec<Update>) {
        self.hub.publish(updates, BTreeMap::from([(partition(), self.next as u64)]));
    }

    /// The frames that wait for this connection.
    pub fn waiting_for(&self, connection: ConnectionId) -> Vec<Frame> {
        let state = self.hub.lock();
        state.connections.get(&connection).map_or(Vec::new(), |known| known.outbox.fork().take().0)
    }

    /// Frames, or that a chat is to be loaded anew.
    pub fn has_something_for(&self, connection: ConnectionId) -> bool {
        self.hub.lock().connections.get(&connection).is_some_and(|known| !known.outbox.is_empty())
    }

    /// What the hub knows of a connection, and what waits for it.
    pub fn subscription(&self, connection: ConnectionId) -> String {
        let state = self.hub.lock();
        let subscription = match state.rooms.get(CHAT).and_then(|room| room.get(&connection)) {
            None => "not subscribed".to_owned(),
            Some(Subscription::Loading(kept)) => {
                format!("keeps {:?}", kept.iter().map(|kept| &kept.frame).collect::<Vec<_>>())
            }
            Some(Subscription::Live) => "live".to_owned(),
        };
        let lacks = state.connections.get(&connection).is_some_and(|known| known.outbox.lacks(CHAT));
        drop(state);
        let lacks = if lacks { ", lacks some" } else { "" };
        format!("{subscription}{lacks} {:?}", self.waiting_for(connection))
    }
}

/// Everything that tells one from another, but for its connections.
impl fmt::Debug for Pod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { hub, next, live_from, read } = self;
        let number = |update: &Update| (update.offset, number_of(&update.row.version), update.early);
        let read: Option<Vec<_>> = read.as_ref().map(|read| read.iter().map(number).collect());
        write!(f, "pod at {next} of {live_from}, has read {read:?}")?;
        let state = hub.lock();
        let pushed: BTreeMap<_, _> = state.pushes.all().map(|(name, version)| (name, number_of(version))).collect();
        write!(f, "; pushed {pushed:?} up to {:?}", state.published.values().collect::<Vec<_>>())?;
        let given: BTreeMap<_, _> = state.given.all().map(|(name, version)| (name, number_of(version))).collect();
        write!(f, "; given {given:?}")?;
        let early: BTreeMap<_, _> =
            state.early.rows(CHAT).map(|row| (row.id.as_str(), number_of(&row.version))).collect();
        write!(f, "; early {early:?}")?;
        for ring in state.rings.values() {
            let rows: Vec<_> = ring.rows(CHAT, 0).map(|row| (row.id.as_str(), number_of(&row.version))).collect();
            write!(f, "; ring {}..{} {rows:?} {:?}", ring.start(), ring.end(), ring.marker_before(ring.end()))?;
        }
        Ok(())
    }
}

/// Nothing is shared with the original.
impl Clone for Pod {
    fn clone(&self) -> Self {
        let state = self.hub.lock();
        let connection = |(id, known): (&ConnectionId, &Connection)| {
            (*id, Connection { outbox: Arc::new(known.outbox.fork()), viewer: known.viewer.clone() })
        };
        let copy = State {
            partitions: state.partitions,
            begun: state.begun.clone(),
            rings: state.rings.clone(),
            published: state.published.clone(),
            fresh: state.fresh.clone(),
            pushes: state.pushes.clone(),
            given: state.given.clone(),
            early: state.early.clone(),
            chats: state.chats.clone(),
            erased: state.erased.clone(),
            connections: state.connections.iter().map(connection).collect(),
            next_connection: state.next_connection,
            rooms: state.rooms.clone(),
        };
        let hub = Hub {
            region: self.hub.region.clone(),
            ring_capacity: self.hub.ring_capacity,
            load_limit: self.hub.load_limit,
            quantum: self.hub.quantum,
            erasures: RwLock::default(),
            state: Mutex::new(copy),
        };
        Self { hub, next: self.next, live_from: self.live_from, read: self.read.clone() }
    }
}

/// The number that a version was made of.
pub fn number_of(version: &contract::Version) -> u32 {
    u32::from_str_radix(&version.to_string()[58..66], 16).expect("a version of these tests")
}
