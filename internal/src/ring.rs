//! The recent records of a partition. Pure: no I/O, no clock.

use std::collections::VecDeque;
use std::num::NonZeroUsize;
use std::sync::Arc;

use lru::LruCache;
use platform::event_log::{Fingerprint, Progress};

use crate::shown::ShownMessage;

/// How many bytes of rows one partition's ring keeps at most.
const MAX_BYTES: usize = 16 << 20;

/// Of how many leaders it is known which markers were read.
const LEADERS: NonZeroUsize = NonZeroUsize::new(64).unwrap();

/// A partition's recent records, without gaps from `start` to `end`.
#[derive(Debug, Clone)]
pub struct Ring {
    entries: VecDeque<Entry>,
    capacity: usize,
    bytes: usize,
    /// The next offset that is expected.
    end: u64,
    /// The log's end when reading began: what lies before it is not pushed.
    live_from: u64,
    /// The name of the last marker that was read, of those that came for the first time.
    marker: Option<Arc<str>>,
    /// The greatest number of each leader's markers. What a mirror repeats tells nobody where it stands: behind a marker that
    /// comes again there is nothing yet of what came behind it before.
    numbers: LruCache<String, u64>,
    /// Whether this process has read another log, or another part of it, in this one's place before.
    is_another: bool,
}

#[derive(Debug, Clone)]
struct Entry {
    offset: u64,
    /// The last marker at or before this record: what tells this log from another one.
    marker: Option<Arc<str>>,
    row: Option<ShownMessage>,
    fingerprint: Fingerprint,
}

/// What a record is to the ring.
#[derive(Debug, Clone)]
pub enum Item {
    Message(ShownMessage),
    Marker(Arc<str>),
    Other,
}

impl Ring {
    /// An empty ring whose first record will be the one at `start` or later; records before `live_from` are
    /// remembered, but nobody gets them pushed.
    pub fn new(capacity: usize, start: u64, live_from: u64) -> Self {
        Self {
            entries: VecDeque::new(),
            capacity,
            bytes: 0,
            end: start,
            live_from,
            marker: None,
            numbers: LruCache::new(LEADERS),
            is_another: false,
        }
    }

    /// It takes the place of another one.
    pub fn in_place_of_another(self) -> Self {
        Self { is_another: true, ..self }
    }

    /// Whether everything is here that the log ever held, and no marker is among it: as of a region that has never polled.
    pub fn is_whole_and_unmarked(&self) -> bool {
        !self.is_another && self.start() == 0 && self.marker.is_none()
    }

    /// Whether everything after the ring's end will be pushed.
    pub fn is_live(&self) -> bool {
        self.end >= self.live_from
    }

    pub fn push(&mut self, offset: u64, fingerprint: Fingerprint, item: Item) {
        let row = match item {
            Item::Message(message) => Some(message),
            Item::Marker(name) => {
                if self.is_new(&name) {
                    self.marker = Some(name);
                }
                None
            }
            Item::Other => None,
        };
        self.bytes += row.as_ref().map_or(0, ShownMessage::weight);
        self.entries.push_back(Entry { offset, marker: self.marker.clone(), row, fingerprint });
        self.end = offset + 1;
        while self.entries.len() > self.capacity || self.bytes > MAX_BYTES {
            let Some(entry) = self.entries.pop_front() else { break };
            self.bytes -= entry.row.as_ref().map_or(0, ShownMessage::weight);
        }
    }

    /// By its name, as leader/number.
    fn is_new(&mut self, marker: &str) -> bool {
        let Some((leader, number)) = marker.rsplit_once('/') else { return true };
        let Ok(number) = number.parse::<u64>() else { return true };
        if self.numbers.get(leader).is_some_and(|known| number <= *known) {
            return false;
        }
        self.numbers.put(leader.to_owned(), number);
        true
    }

    /// Nothing of some messages may be left, but that they were erased.
    pub fn erase(&mut self, are_meant: impl Fn(&ShownMessage) -> bool) {
        let is_it = |row: &ShownMessage| !row.version.is_erased() && are_meant(row);
        for entry in self.entries.iter_mut().filter(|entry| entry.row.as_ref().is_some_and(is_it)) {
            self.bytes -= entry.row.take().map_or(0, |row| row.weight());
        }
    }

    /// A newer version of the row that stands at `offset` was pushed in its place: whoever reads it here must have that.
    pub fn renew(&mut self, offset: u64, newer: &ShownMessage) {
        let at = self.entries.partition_point(|entry| entry.offset < offset);
        let Some(entry) = self.entries.get_mut(at).filter(|entry| entry.offset == offset) else { return };
        if let Some(row) = entry.row.as_mut().filter(|row| row.version < newer.version) {
            self.bytes = self.bytes + newer.weight() - row.weight();
            *row = newer.clone();
        }
    }

    /// Below which offset the store has this log's records; 0 without progress. `None` if its progress is beyond what was
    /// read here, or of another log, which this one has replaced: both look alike until they are read.
    pub fn stored_below(&self, progress: Option<&Progress>) -> Option<u64> {
        let Some(progress) = progress else { return Some(0) };
        if progress.next_offset > self.end {
            return None;
        }
        let Some(last) = progress.next_offset.checked_sub(1) else { return Some(0) };
        let at = self.entries.partition_point(|entry| entry.offset < last);
        let entry = self.entries.get(at).filter(|entry| entry.offset == last);
        // Where a store begins behind what a log holds, it has read no record that could be compared.
        let is_of_this_log = |entry: &Entry| [entry.fingerprint, Fingerprint::default()].contains(&progress.last);
        entry.is_none_or(is_of_this_log).then_some(progress.next_offset)
    }

    /// From which offset on the store may lack records: also from below its progress, where it begins behind what was here.
    pub fn unstored_from(&self, progress: Option<&Progress>) -> u64 {
        let has_begun_behind = progress.is_some_and(|progress| progress.last == Fingerprint::default());
        self.stored_below(progress).filter(|_| !has_begun_behind).unwrap_or(0)
    }

    /// The first offset from which the ring has every record.
    pub fn start(&self) -> u64 {
        self.entries.front().map_or(self.end, |entry| entry.offset)
    }

    /// The offset after the last record.
    pub fn end(&self) -> u64 {
        self.end
    }

    /// The last marker before `offset`, as far as the ring reaches back.
    pub fn marker_before(&self, offset: u64) -> Option<Arc<str>> {
        if offset >= self.end {
            return self.marker.clone();
        }
        let count = self.entries.partition_point(|entry| entry.offset < offset);
        self.entries.get(count.checked_sub(1)?).and_then(|entry| entry.marker.clone())
    }

    /// Where the newest record of a message stands, as far as the ring reaches back.
    pub fn last_of(&self, chat: &str, message: &str) -> Option<u64> {
        let is_it = |row: &ShownMessage| row.chat_id == chat && row.id == message;
        self.entries.iter().rev().find(|entry| entry.row.as_ref().is_some_and(is_it)).map(|entry| entry.offset)
    }

    /// The offset behind a marker, if the ring has it.
    pub fn behind_marker(&self, name: &str) -> Option<u64> {
        let is_it = |entry: &Entry| entry.marker.as_deref() == Some(name);
        let first = self.entries.iter().position(is_it)?;
        // Of the first entry one cannot tell: the marker itself may be cut off, and what came behind it too.
        (first > 0).then(|| self.entries[first].offset + 1)
    }

    /// The rows of a chat from `offset` on, in order.
    pub fn rows<'a>(&'a self, chat: &'a str, offset: u64) -> impl Iterator<Item = &'a ShownMessage> {
        let first = self.entries.partition_point(|entry| entry.offset < offset);
        self.entries.range(first..).filter_map(|entry| entry.row.as_ref()).filter(move |row| row.chat_id == chat)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gate_suite::{fingerprint_at as of, row, version};

    fn ring(capacity: usize) -> Ring {
        let mut ring = Ring::new(capacity, 10, 10);
        let items = [
            Item::Message(row("c", "a", &version(1))),
            Item::Marker("x/1".into()),
            Item::Message(row("d", "b", &version(1))),
            Item::Message(row("c", "c", &version(1))),
        ];
        for (offset, item) in (10..).zip(items) {
            ring.push(offset, of(offset), item);
        }
        ring
    }

    #[test]
    fn rows_of_a_chat_come_from_an_offset_on() {
        let ring = ring(10);
        let ids = |from| ring.rows("c", from).map(|row| row.id.as_str()).collect::<Vec<_>>();
        assert_eq!((ids(0), ids(11), ids(14)), (vec!["a", "c"], vec!["c"], vec![]));
        assert_eq!((ring.start(), ring.end()), (10, 14));
    }

    #[test]
    fn what_lies_behind_a_marker_is_known_while_the_marker_is_there() {
        assert_eq!(ring(10).behind_marker("x/1"), Some(12));
        assert_eq!(ring(10).behind_marker("x/2"), None);
        assert_eq!(ring(2).behind_marker("x/1"), None, "something behind it may be cut off");
    }

    #[test]
    fn a_marker_that_is_repeated_tells_of_no_place() {
        let mut ring = ring(3);
        let mut push = |offset, name: &str| ring.push(offset, of(offset), Item::Marker(name.into()));
        push(14, "x/2");
        push(15, "x/1");
        push(16, "y/1");
        assert_eq!((ring.behind_marker("x/1"), ring.behind_marker("y/1")), (None, Some(17)), "it is cut off");
        assert_eq!(ring.marker_before(16).as_deref(), Some("x/2"));
    }

    #[test]
    fn progress_counts_where_it_is_of_this_log() {
        let stored = |next_offset, last| ring(3).stored_below(Some(&Progress { next_offset, last }));
        assert_eq!(ring(3).stored_below(None), Some(0));
        assert_eq!((stored(14, of(13)), stored(12, of(11))), (Some(14), Some(12)));
        assert_eq!((stored(14, of(4711)), stored(12, of(4711))), (None, None), "of another one");
        assert_eq!(stored(11, of(4711)), Some(11), "what is not here any more cannot be compared");
        assert_eq!(stored(15, of(14)), None, "not read yet, or of a longer one");
        assert_eq!(stored(14, Fingerprint::default()), Some(14), "the log was emptied up to there");
        let unstored = |last| ring(3).unstored_from(Some(&Progress { next_offset: 14, last }));
        assert_eq!(
            (unstored(of(13)), unstored(Fingerprint::default())),
            (14, 0),
            "and what stood there was not stored"
        );
        assert_eq!((unstored(of(4711)), ring(3).unstored_from(None)), (0, 0));
    }

    #[test]
    fn nothing_is_left_of_what_was_erased_but_that_it_was() {
        let mut ring = ring(10);
        ring.push(14, of(14), Item::Message(row("c", "c", &version(2))));
        let erased = ShownMessage { text: None, ..row("c", "c", &format!("ffffffff{}", &version(1)[8..])) };
        ring.push(15, of(15), Item::Message(erased));
        let before = ring.bytes;
        ring.erase(|row| row.id == "c");
        let left = |from| ring.rows("c", from).map(|row| (row.id.as_str(), row.text.is_some())).collect::<Vec<_>>();
        assert_eq!(left(0), [("a", true), ("c", false)]);
        assert!(ring.bytes < before && (ring.start(), ring.end()) == (10, 16), "the offsets stay");
    }

    #[test]
    fn the_oldest_go_first() {
        let ring = ring(2);
        assert_eq!((ring.start(), ring.end()), (12, 14));
        assert_eq!(Ring::new(3, 7, 9).start(), 7);
        assert!(!Ring::new(3, 7, 9).is_live());
    }

    #[test]
    fn the_marker_before_an_offset_is_known() {
        let ring = ring(10);
        let before = |offset| ring.marker_before(offset).map(|name| name.to_string());
        assert_eq!((before(11), before(12), before(14)), (None, Some("x/1".into()), Some("x/1".into())));
    }
}
