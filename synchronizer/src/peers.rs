//! What the leaders of other regions say in their markers, as these come through the mirror. Pure: time is an input.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::time::{Duration, Instant};

use contract::{Marker, Timestamp};

/// A leader that was never heard of is believed to be a new one unless its markers are older than the newest of its
/// region by more than this: a mirror that lost its place repeats everything, leaders of last week among it.
const REPEATED: Duration = Duration::from_secs(60);
/// A pause that ends a series of markers; they come every second.
pub const BROKEN: Duration = Duration::from_secs(5);
/// How many markers may wait to be read in every partition.
const OPEN: usize = 1000;
/// Of how many leaders of a region it is remembered how far they were read. Each restart makes one.
const LEADERS: usize = 1000;

/// What became of a marker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heard {
    /// It was read before, or is older than what was.
    Repeated,
    New,
    /// It is new, and the one before it never came: the mirror has a hole.
    BehindAHole,
}

/// Markers of one region that came in every partition, one after another without a pause, by this process's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Series {
    pub first: Instant,
    pub last: Instant,
}

/// All other regions, by name.
#[derive(Debug, Default)]
pub struct Peers(BTreeMap<String, Peer>);

#[derive(Debug, Default)]
struct Peer {
    series: Option<Series>,
    /// By leader, by partition: the greatest number that was read.
    read: HashMap<String, BTreeMap<u32, u64>>,
    /// The leaders in the order in which they were first heard of.
    leaders: VecDeque<String>,
    /// Markers that were not read in every partition yet, and where they were, oldest first.
    open: VecDeque<(Marker, BTreeSet<u32>)>,
    /// The newest marker of all.
    newest: Option<Marker>,
    /// How many were read in every partition.
    so_many_whole: u64,
    /// The newest that was read in every partition: everything up to its cursor is in this region's log.
    whole: Option<Marker>,
    /// Up to when everything is in this region's log, by the markers that were read in every partition.
    complete_as_of: Option<Timestamp>,
}

impl Peers {
    /// A marker was read in this partition of the region's mirrored topic.
    pub fn hear(&mut self, partition: u32, marker: &Marker, now: Instant) -> Heard {
        self.0.entry(marker.region.clone()).or_default().hear(partition, marker, now)
    }

    /// Who was heard of, and when.
    pub fn series(&self) -> Vec<(String, Series)> {
        self.0.iter().filter_map(|(region, peer)| Some((region.clone(), peer.series?))).collect()
    }

    /// The newest marker that was read in every partition; the region that was heard of last counts.
    pub fn whole(&self) -> Option<&Marker> {
        let heard = self.0.values().filter(|peer| peer.whole.is_some());
        heard.max_by_key(|peer| peer.series.map(|series| series.last))?.whole.as_ref()
    }

    /// How many markers of this region were read in every partition.
    pub fn so_many_whole(&self, region: &str) -> u64 {
        self.0.get(region).map_or(0, |peer| peer.so_many_whole)
    }

    /// Up to when this region's log has everything that that one polled.
    pub fn complete_as_of(&self, region: &str) -> Option<Timestamp> {
        self.0.get(region)?.complete_as_of
    }

    /// This region goes on from there: only markers that come later are of interest.
    pub fn take_whole(&mut self) -> Option<Marker> {
        let newest = self.whole().cloned();
        self.0.values_mut().for_each(|peer| peer.whole = None);
        newest
    }
}

/// Whether a leader that was never heard of is one of long ago. Whoever follows the newest one is not, whatever its clock
/// says.
fn is_repeated(marker: &Marker, newest: &Marker) -> bool {
    newest.at.since(marker.at) > REPEATED && !follows(marker, newest)
}

/// Whether it is the first of the leader that came after that one.
fn follows(marker: &Marker, earlier: &Marker) -> bool {
    earlier.leader != marker.leader && marker.predecessor().is_some_and(|(leader, _)| leader == earlier.leader)
}

impl Peer {
    fn hear(&mut self, partition: u32, marker: &Marker, now: Instant) -> Heard {
        let Some(partitions) = self.read.get(&marker.leader) else {
            if self.newest.as_ref().is_some_and(|newest| is_repeated(marker, newest)) {
                return Heard::Repeated;
            }
            let hole = self.lacks_what_came_before(partition, marker);
            self.meet(&marker.leader);
            return self.take(partition, marker, now, hole);
        };
        if partitions.get(&partition).is_some_and(|known| marker.number <= *known) {
            return Heard::Repeated;
        }
        let hole = self.lacks_what_came_before(partition, marker);
        self.take(partition, marker, now, hole)
    }

    /// A partition that is read from the middle on has no hole at its beginning.
    fn lacks_what_came_before(&self, partition: u32, marker: &Marker) -> bool {
        let read_here = self.read.values().any(|partitions| partitions.contains_key(&partition));
        let Some((leader, number)) = marker.predecessor().filter(|_| read_here) else { return false };
        let read = self.read.get(leader).and_then(|partitions| partitions.get(&partition));
        read.is_none_or(|read| *read < number)
    }

    fn meet(&mut self, leader: &str) {
        self.read.insert(leader.to_owned(), BTreeMap::new());
        self.leaders.push_back(leader.to_owned());
        if self.leaders.len() > LEADERS {
            self.leaders.pop_front().map(|oldest| self.read.remove(&oldest));
        }
    }

    fn take(&mut self, partition: u32, marker: &Marker, now: Instant, hole: bool) -> Heard {
        self.read.entry(marker.leader.clone()).or_default().insert(partition, marker.number);
        if self.newest.as_ref().is_none_or(|newest| self.is_newer(marker, newest)) {
            self.newest = Some(marker.clone());
        }
        if self.tick_off(partition, marker) {
            self.note_life(marker, now);
        }
        if hole { Heard::BehindAHole } else { Heard::New }
    }

    /// Whose leader comes after another's is newer, whatever its clock says: that may have been set right.
    fn is_newer(&self, marker: &Marker, newest: &Marker) -> bool {
        if marker.leader == newest.leader {
            return marker.number > newest.number;
        }
        let met = |leader: &String| self.leaders.iter().position(|known| known == leader);
        follows(marker, newest) || newest.at < marker.at && met(&marker.leader) > met(&newest.leader)
    }

    /// A marker was read in every partition: where one of them brings nothing any more, the region is not heard.
    fn note_life(&mut self, marker: &Marker, now: Instant) {
        self.so_many_whole += 1;
        // One that cannot reach the source does not poll, however loudly.
        if !marker.unreachable {
            let unbroken = self.series.filter(|series| now.duration_since(series.last) <= BROKEN);
            self.series = Some(Series { first: unbroken.map_or(now, |series| series.first), last: now });
        }
    }

    /// Notes where a marker was read, and says whether that is everywhere now; whatever came before one that was read
    /// everywhere is of no interest any more.
    fn tick_off(&mut self, partition: u32, marker: &Marker) -> bool {
        let is_it = |(open, _): &(Marker, _)| (&open.leader, open.number) == (&marker.leader, marker.number);
        let at = self.open.iter().position(is_it).unwrap_or_else(|| {
            self.open.push_back((marker.clone(), BTreeSet::new()));
            self.open.len() - 1
        });
        self.open[at].1.insert(partition);
        if self.open[at].1.len() == marker.partitions as usize {
            self.whole = self.open.drain(..=at).next_back().map(|(marker, _)| marker);
            self.complete_as_of = self.complete_as_of.max(marker.fresh_as_of);
            return true;
        }
        if self.open.len() > OPEN {
            self.open.pop_front();
        }
        false
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    const AT: u64 = 1_767_000_000_000_000;

    /// The marker of this number, made that many seconds after the first.
    pub(crate) fn marker(leader: &str, number: u64) -> Marker {
        let at = Timestamp::from_micros(AT + number * 1_000_000).unwrap();
        Marker {
            source: "external".into(),
            region: "a".into(),
            leader: leader.into(),
            number,
            cursor: Some(number.to_string()),
            settled: None,
            partitions: 2,
            at,
            fresh_as_of: None,
            waiting: None,
            leads_since: None,
            drift: None,
            verified_through: None,
            unreachable: false,
            previous: number - 1,
            previous_leader: None,
            generation: None,
            gap: false,
            differing: None,
            compared_through: None,
            records: 0,
        }
    }

    fn cursor(peers: &Peers) -> Option<&str> {
        peers.whole().and_then(|marker| marker.cursor.as_deref())
    }

    #[test]
    fn a_cursor_counts_once_its_marker_was_read_in_every_partition() {
        let (mut peers, now) = (Peers::default(), Instant::now());
        assert_eq!(peers.hear(0, &marker("x", 5), now), Heard::New);
        assert_eq!(cursor(&peers), None);
        peers.hear(0, &marker("x", 6), now);
        assert_eq!(peers.hear(1, &marker("x", 5), now), Heard::New);
        assert_eq!(cursor(&peers), Some("5"), "six is not in the other partition yet");
        peers.hear(1, &marker("x", 6), now);
        assert_eq!(cursor(&peers), Some("6"));
    }

    #[test]
    fn a_cursor_that_was_taken_up_counts_no_more() {
        let (mut peers, now) = (Peers::default(), Instant::now());
        for partition in 0..2 {
            peers.hear(partition, &marker("x", 5), now);
        }
        assert_eq!(peers.take_whole().and_then(|marker| marker.cursor).as_deref(), Some("5"));
        assert_eq!(cursor(&peers), None);
        assert!(peers.take_whole().is_none());
    }

    #[test]
    fn a_leader_that_was_never_heard_of_is_one_of_long_ago_after_a_minute() {
        let heard_at = |number| {
            let (mut peers, now) = (Peers::default(), Instant::now());
            peers.hear(0, &marker("x", 100), now);
            peers.hear(0, &marker("y", number), now)
        };
        assert_eq!(heard_at(39), Heard::Repeated);
        assert_ne!(heard_at(40), Heard::Repeated, "a minute may lie between two clocks");
        let (mut peers, now) = (Peers::default(), Instant::now());
        for number in [100, 200, 150] {
            peers.hear(0, &marker("x", number), now);
            peers.hear(1, &marker("x", number), now);
        }
        assert_eq!(peers.hear(0, &marker("y", 139), now), Heard::Repeated, "the newest counts");
    }

    #[test]
    fn a_thousand_markers_wait_to_be_read_everywhere() {
        let (mut peers, now) = (Peers::default(), Instant::now());
        let first = 100;
        let last = first + OPEN as u64;
        for number in first..last {
            peers.hear(0, &marker("x", number), now);
        }
        assert_eq!(peers.0["a"].open.len(), OPEN);
        peers.hear(0, &marker("x", last), now);
        assert_eq!(peers.0["a"].open.len(), OPEN);
        peers.hear(1, &marker("x", first + 1), now);
        assert_eq!(cursor(&peers), Some("101"), "the oldest alone was given up");
    }

    #[test]
    fn of_a_thousand_leaders_it_is_remembered_how_far_they_were_read() {
        let (mut peers, now) = (Peers::default(), Instant::now());
        let known = |peers: &Peers, leader: &str| peers.0["a"].read.contains_key(leader);
        for leader in 0..LEADERS {
            peers.hear(0, &marker(&leader.to_string(), 100), now);
        }
        assert!(known(&peers, "0") && known(&peers, "999"));
        peers.hear(0, &marker("one more", 100), now);
        assert!(!known(&peers, "0") && known(&peers, "1") && known(&peers, "one more"));
        assert_eq!(peers.0["a"].read.len(), LEADERS);
    }

    #[test]
    fn what_is_mirrored_again_is_no_sign_of_life() {
        let (mut peers, now) = (Peers::default(), Instant::now());
        let later = now + Duration::from_secs(3);
        for number in 100..105 {
            peers.hear(0, &marker("x", number), now);
            peers.hear(1, &marker("x", number), now);
        }
        for again in [marker("x", 100), marker("x", 104), marker("a week ago", 7)] {
            assert_eq!(peers.hear(0, &again, later), Heard::Repeated);
            assert_eq!(peers.hear(1, &again, later), Heard::Repeated);
        }
        assert_eq!(peers.series(), [("a".to_owned(), Series { first: now, last: now })]);
        assert_eq!(cursor(&peers), Some("104"));
        assert_eq!(peers.hear(0, &marker("y", 105), later), Heard::BehindAHole, "its first hundred are missing");
        assert_eq!(peers.series()[0].1.last, now, "in one partition it is none yet");
        assert_eq!(peers.hear(1, &marker("y", 105), later), Heard::BehindAHole);
        assert_eq!(peers.series()[0].1, Series { first: now, last: later });
        let much_later = later + BROKEN + Duration::from_secs(1);
        for partition in 0..2 {
            peers.hear(partition, &marker("x", 105), much_later);
        }
        assert_eq!(peers.series()[0].1, Series { first: much_later, last: much_later });
    }

    #[test]
    fn a_region_of_which_one_partition_brings_nothing_any_more_is_silent() {
        let (mut peers, now) = (Peers::default(), Instant::now());
        let after = |s| now + Duration::from_secs(s);
        for number in 1..=3 {
            peers.hear(0, &marker("x", number), after(number));
            peers.hear(1, &marker("x", number), after(number));
        }
        for number in 4..=40 {
            peers.hear(0, &marker("x", number), after(number));
        }
        assert_eq!((peers.series()[0].1.last, peers.so_many_whole("a")), (after(3), 3));
        for number in 4..=40 {
            peers.hear(1, &marker("x", number), after(41));
        }
        assert_eq!(
            (peers.series()[0].1.last, peers.so_many_whole("a")),
            (after(41), 40),
            "the partition has caught up"
        );
    }

    #[test]
    fn the_next_leader_is_heard_of_although_its_clock_is_an_hour_behind() {
        let (mut peers, now) = (Peers::default(), Instant::now());
        peers.hear(0, &marker("x", 4000), now);
        let next = Marker { previous: 4000, previous_leader: Some("x".into()), ..marker("y", 1) };
        assert_eq!(peers.hear(0, &next, now), Heard::New);
        assert_eq!(peers.hear(0, &marker("y", 2), now), Heard::New);
        assert_ne!(peers.hear(0, &marker("nobody knows whom", 3), now), Heard::Repeated, "nor is anybody after that");
        assert_eq!(peers.hear(1, &marker("x", 4000), now), Heard::New, "late in the other partition");
        assert_ne!(peers.hear(0, &marker("nor whom", 4), now), Heard::Repeated);
        let of_long_ago =
            Marker { at: Timestamp::from_micros(AT - 3_600_000_000).unwrap(), ..marker("of last week", 7) };
        assert_eq!(peers.hear(0, &of_long_ago, now), Heard::Repeated);
    }

    #[test]
    fn a_marker_whose_predecessor_never_came_stands_behind_a_hole() {
        let (mut peers, now) = (Peers::default(), Instant::now());
        assert_eq!(peers.hear(0, &marker("x", 5), now), Heard::New, "read from the middle on");
        assert_eq!(peers.hear(1, &marker("x", 6), now), Heard::New, "this one too");
        assert_eq!(peers.hear(0, &marker("x", 6), now), Heard::New);
        let after_a_failure = Marker { previous: 6, ..marker("x", 8) };
        assert_eq!(peers.hear(0, &after_a_failure, now), Heard::New, "seven was never taken by all");
        assert_eq!(peers.hear(1, &marker("x", 9), now), Heard::BehindAHole);
        assert_eq!(peers.hear(0, &marker("y", 1), now), Heard::New, "the next leader's first");
        let behind = |previous| Marker { previous, previous_leader: Some("x".into()), ..marker("z", 1) };
        assert_eq!(peers.hear(1, &behind(10), now), Heard::BehindAHole, "x had another one");
        assert_eq!(peers.hear(0, &behind(8), now), Heard::New);
    }

    #[test]
    fn a_region_that_cannot_reach_the_source_is_not_heard_of() {
        let (mut peers, now) = (Peers::default(), Instant::now());
        let unreachable = Marker { unreachable: true, ..marker("x", 5) };
        assert_eq!(peers.hear(0, &unreachable, now), Heard::New);
        peers.hear(1, &unreachable, now);
        assert!(peers.series().is_empty());
        assert_eq!(cursor(&peers), Some("5"), "from there another would go on");
        peers.hear(0, &marker("x", 6), now);
        peers.hear(1, &marker("x", 6), now);
        assert_eq!(peers.series().len(), 1);
    }
}
