//! What a load consists of, and whether a resume can be exact. Pure.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::pushes::name_of;
use super::{Resumed, State, position};
use crate::copy::Snapshot;
use crate::resume::{Position, Token};
use crate::ring::Ring;
use crate::shown::ShownMessage;

/// How many bytes of texts one load brings at most.
const MAX_LOAD_BYTES: usize = 1 << 20;

/// What a load consists of.
pub(super) struct Plan {
    /// The chat's last messages, oldest first.
    pub window: Vec<ShownMessage>,
    /// Newer versions of messages before the window: the store may not have them yet when a page asks for them.
    pub outside: Vec<ShownMessage>,
    /// Whether there may be messages before the window.
    pub more: bool,
    pub positions: BTreeMap<String, Position>,
    pub behind: bool,
}

/// Whatever it `hides` is left out, but where the window begins it tells all the same.
pub(super) fn plan_load(
    state: &State,
    chat: &str,
    snapshot: Snapshot,
    limit: usize,
    hides: impl Fn(&ShownMessage) -> bool,
) -> Plan {
    let full = snapshot.messages.len() >= limit;
    let floor = snapshot.messages.first().map(|oldest| (oldest.created_at, oldest.id.clone())).filter(|_| full);
    let Known { rows: mut all, from_ring, behind } = known(state, chat, snapshot, hides);
    let positions = state.rings_of(chat).map(|(at, ring)| (at.topic.to_string(), position(ring, ring.end()))).collect();
    let before = match floor {
        Some((time, id)) => all.partition_point(|message| message.place() < (time, &id)),
        None => 0,
    };
    let mut window = all.split_off(before);
    let cut = window.len() - fitting(&window);
    let more = full || cut > 0;
    // Rows that the ring alone may have go along, so that a page which fetches older ones from the store has them.
    let cut: Vec<ShownMessage> = window.drain(..cut).filter(|row| from_ring.contains(row.id.as_str())).collect();
    let outside = all.into_iter().chain(cut).collect();
    Plan { window, outside, more, positions, behind }
}

/// What is known of a chat from a place on: the store's rows, and what the log has beyond them.
pub(super) struct Known<'a> {
    /// By place.
    pub rows: Vec<ShownMessage>,
    /// The messages of which the log has something beyond the store.
    pub from_ring: HashSet<&'a str>,
    /// Whether the log has more than that, and not within reach any more.
    pub behind: bool,
}

/// But for what is `left_out`.
pub(super) fn known<'a>(
    state: &'a State,
    chat: &'a str,
    snapshot: Snapshot,
    left_out: impl Fn(&ShownMessage) -> bool,
) -> Known<'a> {
    // What the store had may be older than an erasure whose record the ring does not reach back to.
    let is_erased_since =
        |message: &ShownMessage| !message.version.is_erased() && state.erased.contains(&name_of(message));
    let messages = snapshot.messages.into_iter().filter(|message| !is_erased_since(message) && !left_out(message));
    let mut rows: HashMap<String, ShownMessage> = messages.map(|message| (message.id.clone(), message)).collect();
    // Until the partitions are known, nothing is known to be complete.
    let mut behind = state.partitions == 0 || state.rings_of(chat).next().is_none();
    let mut from_ring: Vec<&ShownMessage> = Vec::new();
    for (at, ring) in state.rings_of(chat) {
        let progress = snapshot.progress.get(at);
        let stored = ring.stored_below(progress);
        behind |= stored.is_none_or(|stored| stored < ring.start()) || !ring.is_live();
        from_ring.extend(ring.rows(chat, ring.unstored_from(progress)));
    }
    from_ring.extend(state.early.rows(chat));
    from_ring.retain(|row| !left_out(row));
    for row in &from_ring {
        let newest = rows.entry(row.id.clone()).or_insert_with(|| (*row).clone());
        if row.version > newest.version {
            *newest = (*row).clone();
        }
    }
    let mut rows: Vec<ShownMessage> = rows.into_values().collect();
    rows.sort_by(|a, b| a.place().cmp(&b.place()));
    Known { rows, from_ring: from_ring.into_iter().map(|row| row.id.as_str()).collect(), behind }
}

/// How many of the last rows fit into one load.
fn fitting(rows: &[ShownMessage]) -> usize {
    let mut bytes = 0;
    let sizes = rows.iter().rev().map(|row| row.text.as_ref().map_or(0, String::len) + 500);
    // The newest goes along however large it is.
    sizes
        .take_while(|size| {
            bytes += size;
            bytes <= MAX_LOAD_BYTES
        })
        .count()
        .max(usize::from(!rows.is_empty()))
}

/// From where on, by topic, whoever has this token lacks records; or why that cannot be told.
pub(super) fn judge_resume(
    state: &State,
    region: &str,
    chat: &str,
    token: &Token,
) -> Result<BTreeMap<String, u64>, Resumed> {
    if token.chat != chat || token.partition != state.partition_of(chat) {
        return Err(Resumed::Impossible);
    }
    let is_own = token.region == region;
    let called = |topic: &str| if is_own { topic.to_owned() } else { there(topic, region, &token.region) };
    // A topic that this pod has not found yet may have what the client lacks.
    let here: HashSet<String> = state.rings_of(chat).map(|(at, _)| called(&at.topic)).collect();
    let (mut from, mut ahead) = (BTreeMap::new(), !token.positions.keys().all(|topic| here.contains(topic)));
    for (at, ring) in state.rings_of(chat) {
        let position = token.positions.get(&called(&at.topic));
        let offset = if is_own { own(ring, position) } else { other(ring, chat, position) };
        match offset {
            Ok(offset) => drop(from.insert(at.topic.to_string(), offset)),
            Err(Resumed::Ahead) => ahead = true,
            Err(why) => return Err(why),
        }
    }
    match (from.is_empty(), ahead) {
        (_, true) => Err(Resumed::Ahead),
        (true, false) => Err(Resumed::Impossible),
        (false, false) => Ok(from),
    }
}

/// By the offset, if this is the log that it was given for.
fn own(ring: &Ring, position: Option<&Position>) -> Result<u64, Resumed> {
    let Position { offset, marker } = position.ok_or(Resumed::Impossible)?;
    if *offset > ring.end() || !ring.is_live() {
        return Err(Resumed::Ahead);
    }
    if *offset < ring.start() || ring.marker_before(*offset).as_deref() != marker.as_deref() {
        return Err(Resumed::Impossible);
    }
    Ok(*offset)
}

/// How many rows of a chat a region that never polled may have for a resume to bring them all.
const MOST_UNMARKED: usize = 100;

/// By the marker: offsets differ between regions. Some records behind it the client has; they are newer to nobody. Nor are
/// those of a region that has never polled and has no marker therefore: all that it has is little.
fn other(ring: &Ring, chat: &str, position: Option<&Position>) -> Result<u64, Resumed> {
    if !ring.is_live() {
        return Err(Resumed::Ahead);
    }
    match position.and_then(|position| position.marker.as_deref()) {
        // One that is not there may not have come through the mirror yet.
        Some(marker) => ring.behind_marker(marker).ok_or(Resumed::Ahead),
        None if ring.is_whole_and_unmarked() && ring.rows(chat, 0).nth(MOST_UNMARKED).is_none() => Ok(0),
        None => Err(Resumed::Impossible),
    }
}

/// What a topic of this region is called in another one: each mirrors the other's under its name.
fn there(topic: &str, here: &str, there: &str) -> String {
    match topic.strip_prefix(there).and_then(|rest| rest.strip_prefix('.')) {
        Some(theirs) => theirs.to_owned(),
        None => format!("{here}.{topic}"),
    }
}
