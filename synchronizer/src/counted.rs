//! How many records lie between two markers, as their leader appended them and as another region reads them: records that a
//! mirror lost between two markers are missed by that alone. Pure: no I/O, no clock.

use std::collections::{BTreeMap, HashMap};

use contract::Marker;
use platform::event_log::TopicPartition;

/// How many leaders are remembered: a predecessor is one of the last.
const LEADERS: usize = 16;

/// What the log took of this process since its last marker, by partition. Records that were on their way while a marker was
/// are on neither side of it for sure, and do not count: fewer are claimed than there are, never more.
#[derive(Debug, Default)]
pub struct Appended {
    /// Another number between every two markers; `None` while one is on its way, and before the first term.
    between: Option<u64>,
    last: u64,
    records: BTreeMap<u32, u64>,
}

impl Appended {
    /// To be given to [`Self::taken`] by who appends from now on.
    pub fn begin(&self) -> Option<u64> {
        self.between
    }

    /// The log has taken these, in whose partitions.
    pub fn taken(&mut self, begun: Option<u64>, partitions: impl Iterator<Item = u32>) {
        if begun.is_some() && begun == self.between {
            partitions.for_each(|partition| *self.records.entry(partition).or_default() += 1);
        }
    }

    /// A term begins, behind the last leader's last marker.
    pub fn begin_term(&mut self) {
        self.records.clear();
        self.open();
    }

    /// A marker sets out: what lies between the last one and it.
    pub fn close(&mut self) -> BTreeMap<u32, u64> {
        self.between = None;
        std::mem::take(&mut self.records)
    }

    /// It has arrived. Where it has not, it may still arrive, before the next one: until that one has, nothing is counted.
    pub fn open(&mut self) {
        self.last += 1;
        self.between = Some(self.last);
    }
}

/// What is read of another region's records.
#[derive(Debug, Default)]
pub struct Read {
    records: HashMap<TopicPartition, u64>,
    /// The last marker of each of the last leaders.
    markers: HashMap<TopicPartition, Vec<Last>>,
}

#[derive(Debug)]
struct Last {
    leader: String,
    number: u64,
    /// How many records had been read by then.
    read: u64,
}

impl Read {
    /// A record that is no marker, whatever it is.
    pub fn record(&mut self, at: &TopicPartition) {
        *self.records.entry(at.clone()).or_default() += 1;
    }

    /// A marker; whether records are missing between the one before it and it. A mirror that begins again repeats markers, and
    /// records behind them: a marker counts where it was read first.
    pub fn marker(&mut self, at: &TopicPartition, marker: &Marker) -> bool {
        let read = self.records.get(at).copied().unwrap_or(0);
        let before = marker.predecessor().and_then(|(leader, number)| {
            self.markers.get(at)?.iter().find(|last| (&*last.leader, last.number) == (leader, number))
        });
        let lacks = before.is_some_and(|last| read - last.read < marker.records);
        let leaders = self.markers.entry(at.clone()).or_default();
        match leaders.iter_mut().find(|last| last.leader == marker.leader) {
            Some(last) if last.number < marker.number => (last.number, last.read) = (marker.number, read),
            Some(_) => {}
            None => leaders.push(Last { leader: marker.leader.clone(), number: marker.number, read }),
        }
        if leaders.len() > LEADERS {
            leaders.remove(0);
        }
        lacks
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peers::tests::marker;

    #[test]
    fn what_lies_between_two_markers_is_counted_and_nothing_that_may_not() {
        let mut appended = Appended::default();
        appended.taken(appended.begin(), [0].into_iter());
        assert!(appended.close().is_empty(), "where nobody leads nothing counts");
        let on_its_way = appended.begin();
        appended.open();
        appended.taken(on_its_way, [0].into_iter());
        appended.taken(appended.begin(), [1, 1, 2].into_iter());
        let late = appended.begin();
        assert_eq!(appended.close(), BTreeMap::from([(1, 2), (2, 1)]));
        appended.taken(late, [1].into_iter());
        appended.open();
        appended.taken(late, [1].into_iter());
        assert!(appended.close().is_empty());
        appended.begin_term();
        appended.taken(appended.begin(), [3].into_iter());
        appended.begin_term();
        appended.taken(appended.begin(), [4].into_iter());
        assert_eq!(
            appended.close(),
            BTreeMap::from([(4, 1)]),
            "a term counts what is its own, before its first marker too"
        );
    }

    #[test]
    fn records_that_were_lost_between_two_markers_are_missed() {
        let (mut read, at) = (Read::default(), TopicPartition::new("a.chat-changes", 0));
        let claims = |leader: &str, number, records| Marker { records, ..marker(leader, number) };
        assert!(!read.marker(&at, &claims("x", 5, 7)), "read from the middle on");
        read.record(&at);
        read.record(&at);
        assert!(!read.marker(&at, &claims("x", 6, 2)));
        read.record(&at);
        assert!(!read.marker(&at, &claims("y", 1, 0)), "another leader's");
        read.record(&at);
        assert!(!read.marker(&at, &claims("x", 7, 2)), "in between or not");
        assert!(!read.marker(&at, &claims("x", 5, 7)), "it is repeated");
        read.record(&at);
        assert!(!read.marker(&at, &claims("x", 8, 1)), "behind the last one that was read first");
        read.record(&TopicPartition::new("a.chat-changes", 1));
        assert!(read.marker(&at, &claims("x", 9, 1)), "that one was of another partition");
        let next = |number, previous| Marker { previous, previous_leader: Some("x".into()), ..claims("z", number, 1) };
        assert!(read.marker(&at, &next(1, 9)), "a new leader's, since the last one's last marker");
        read.record(&at);
        assert!(!read.marker(&at, &next(2, 9)));
        assert!(!read.marker(&at, &next(3, 8)), "the last leader went on after that");
    }
}
