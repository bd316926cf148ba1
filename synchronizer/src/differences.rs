//! In which chats the copies of two regions differ, by what each says of its own. Pure: no I/O, time is an input.
//!
//! Two copies are never looked at in the same moment, so one difference says nothing: an old row that was changed between the
//! two looks makes it. What came in between makes another difference each time, though, and a row that one of the two lacks for
//! good makes the same one again and again.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ops::Bound;
use std::time::{Duration, Instant};

use contract::Timestamp;
use serde::{Deserialize, Serialize};

use crate::compare::Sum;

/// How often the same difference must be seen.
const TIMES: u32 = 3;
/// Of how many leaders of a region it is remembered how far they were heard.
const LEADERS: usize = 16;

/// What one region's copy holds of some chats, as its leader says it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Digests {
    pub source: String,
    pub region: String,
    /// The leader's incarnation, and a number that counts up from 1 within it.
    pub leader: String,
    pub number: u64,
    /// When it began to go through the whole copy, by its clock.
    pub began: Timestamp,
    /// The beginning of the copy, and its end. What is told between two such rounds is neither.
    pub first: bool,
    pub last: bool,
    /// Of rows that changed before that moment, by the source's clock: what came later may be on its way.
    pub before: Timestamp,
    pub chats: BTreeMap<String, Sum>,
}

/// What became of one comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compared {
    Alike,
    /// They may only have been looked at in different moments.
    Suspected,
    /// They differ, which was not known before.
    Differ,
    /// They still differ.
    StillDiffer,
}

/// The copies of this region and of the others.
#[derive(Debug, Default)]
pub struct Differences {
    /// By chat, by region.
    chats: BTreeMap<String, HashMap<String, Suspicion>>,
    peers: HashMap<String, Peer>,
    /// The last chat that [`Self::next`] gave.
    given: Option<String>,
}

#[derive(Debug)]
struct Suspicion {
    difference: Sum,
    times: u32,
    since: Instant,
    differs: bool,
}

/// How far another region was heard.
#[derive(Debug, Default)]
struct Peer {
    /// The last number of each of its last leaders, the newest at the end.
    leaders: VecDeque<(String, u64)>,
    /// Whether nothing was missed since its present round began.
    whole: bool,
    /// When the last round began that was heard whole.
    through: Option<Timestamp>,
}

impl Peer {
    /// Notes a number; whether it is new, and whether it follows the last one that was heard.
    fn note(&mut self, leader: &str, number: u64) -> (bool, bool) {
        let newest = self.leaders.back().is_some_and(|(newest, _)| newest == leader);
        if let Some((_, last)) = self.leaders.iter_mut().find(|(known, _)| known == leader) {
            let (new, follows) = (number > *last, number == *last + 1);
            *last = number.max(*last);
            return (new, follows && newest);
        }
        self.leaders.push_back((leader.to_owned(), number));
        if self.leaders.len() > LEADERS {
            self.leaders.pop_front();
        }
        (true, false)
    }
}

impl Differences {
    /// Notes what a chat holds here and there. The same difference must last for `settle` at least.
    pub fn compare(
        &mut self,
        region: &str,
        chat: &str,
        here: Sum,
        there: Sum,
        now: Instant,
        settle: Duration,
    ) -> Compared {
        let difference = here.minus(there);
        if difference == Sum::default() {
            self.forget(region, chat);
            return Compared::Alike;
        }
        let suspicion = self.chats.entry(chat.to_owned()).or_default().entry(region.to_owned());
        let known = suspicion.or_insert(Suspicion { difference, times: 0, since: now, differs: false });
        if known.difference != difference {
            // Whether it differs for good is to be seen; that it was not found alike since is not.
            (known.difference, known.times, known.since) = (difference, 0, now);
        }
        known.times += 1;
        let lasts = known.times >= TIMES && now.duration_since(known.since) >= settle;
        match (known.differs, lasts) {
            (true, _) => Compared::StillDiffer,
            (false, false) => Compared::Suspected,
            (false, true) => {
                known.differs = true;
                Compared::Differ
            }
        }
    }

    fn forget(&mut self, region: &str, chat: &str) {
        if let Some(regions) = self.chats.get_mut(chat) {
            regions.remove(region);
            if regions.is_empty() {
                self.chats.remove(chat);
            }
        }
    }

    /// Another region says something; whether it is to be compared. A mirror that begins again repeats what was compared before.
    pub fn is_new(&mut self, said: &Digests) -> bool {
        let peer = self.peers.entry(said.region.clone()).or_default();
        let (new, follows) = peer.note(&said.leader, said.number);
        if new {
            peer.whole = said.first || (peer.whole && follows);
        }
        new
    }

    /// All of what it said was compared.
    pub fn compared(&mut self, said: &Digests) {
        if let Some(peer) = self.peers.get_mut(&said.region).filter(|peer| said.last && peer.whole) {
            peer.through = Some(said.began);
        }
    }

    /// Up to when all that the other regions had was compared; `None` until that was done once with each that is heard of.
    pub fn compared_through(&self) -> Option<Timestamp> {
        self.peers.values().map(|peer| peer.through).min().flatten()
    }

    /// In how many chats copies are known to differ; `None` if no other region was heard of.
    pub fn differing(&self) -> Option<u64> {
        let differs = |regions: &&HashMap<String, Suspicion>| regions.values().any(|suspicion| suspicion.differs);
        (!self.peers.is_empty()).then(|| self.chats.values().filter(differs).count() as u64)
    }

    /// How many chats are to be looked at again, those that differ among them.
    pub fn suspected(&self) -> usize {
        self.chats.len()
    }

    /// The next of those, at most so many; after the last one the first again.
    pub fn next(&mut self, most: usize) -> Vec<String> {
        let after = self.given.take().map_or(Bound::Unbounded, Bound::Excluded);
        let mut next: Vec<String> =
            self.chats.range((after.clone(), Bound::Unbounded)).take(most).map(|(chat, _)| chat.clone()).collect();
        if next.len() < most {
            let missing = most - next.len();
            let first = self.chats.keys().take_while(|chat| match &after {
                Bound::Excluded(after) => *chat <= after,
                _ => false,
            });
            let first: Vec<String> = first.take(missing).cloned().collect();
            next.extend(first);
        }
        self.given = next.last().cloned();
        next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETTLE: Duration = Duration::from_secs(60);

    fn sum(count: u64, digest: u64) -> Sum {
        Sum { count, digest }
    }

    fn at(second: u64) -> Timestamp {
        Timestamp::from_micros(1_767_000_000_000_000 + second * 1_000_000).unwrap()
    }

    /// Of a leader of a region, its `number`th word; of the round that began at that second.
    fn said(leader: &str, number: u64, second: u64) -> Digests {
        let region = leader[..1].to_owned();
        let (source, leader, chats) = ("external".to_owned(), leader.to_owned(), BTreeMap::new());
        Digests {
            source,
            region,
            leader,
            number,
            began: at(second),
            first: false,
            last: false,
            before: at(second),
            chats,
        }
    }

    #[test]
    fn the_same_difference_again_and_again_is_one() {
        let (mut differences, start) = (Differences::default(), Instant::now());
        differences.is_new(&said("b1", 1, 0));
        let mut see = |seconds, here, there| {
            let now = start + Duration::from_secs(seconds);
            differences.compare("b", "c1", here, there, now, SETTLE)
        };
        assert_eq!(see(0, sum(3, 30), sum(2, 20)), Compared::Suspected);
        assert_eq!(see(30, sum(5, 70), sum(4, 60)), Compared::Suspected, "both have more, and the same is missing");
        assert_eq!(see(59, sum(5, 70), sum(4, 60)), Compared::Suspected, "it has not lasted");
        assert_eq!(see(60, sum(9, 5), sum(8, u64::MAX - 4)), Compared::Differ, "sums wrap");
        assert_eq!(see(61, sum(9, 6), sum(8, 0)), Compared::StillDiffer, "until they are found alike");
        assert_eq!(see(62, sum(9, 6), sum(9, 6)), Compared::Alike);
        assert_eq!((differences.differing(), differences.suspected()), (Some(0), 0));
    }

    #[test]
    fn what_changes_between_the_looks_is_none() {
        let (mut differences, start) = (Differences::default(), Instant::now());
        for second in 0..1000 {
            let (here, there) = (sum(second, second * second), sum(second, (second + 1) * (second + 1)));
            let now = start + Duration::from_secs(second);
            assert_eq!(differences.compare("b", "c1", here, there, now, SETTLE), Compared::Suspected);
        }
        assert_eq!(differences.differing(), None, "nobody was heard of");
        assert_eq!(differences.compare("c", "c1", sum(1, 1), sum(1, 1), start, SETTLE), Compared::Alike);
        assert_eq!(differences.suspected(), 1, "region b's is another matter");
    }

    #[test]
    fn a_copy_was_compared_once_every_part_of_it_was() {
        let mut differences = Differences::default();
        let mut hear = |word: Digests| {
            let new = differences.is_new(&word);
            differences.compared(&word);
            (new, differences.compared_through())
        };
        let first = |word| Digests { first: true, ..word };
        let last = |word| Digests { last: true, ..word };
        assert_eq!(hear(last(said("b1", 3, 0))), (true, None), "its beginning was not heard");
        assert_eq!(hear(first(said("b1", 4, 300))), (true, None));
        assert_eq!(hear(last(said("b1", 6, 300))), (true, None), "a part was not");
        hear(first(said("b1", 7, 600)));
        assert_eq!(hear(first(said("b1", 7, 600))), (false, None), "repeated");
        hear(said("b1", 8, 601));
        assert_eq!(hear(last(said("b1", 9, 600))), (true, Some(at(600))), "with what was told in between");
        hear(first(said("b1", 10, 900)));
        hear(first(said("b2", 1, 901)));
        assert_eq!(hear(last(said("b1", 11, 900))), (true, Some(at(600))), "two lead, and speak at once");
        hear(first(said("b2", 2, 1200)));
        assert_eq!(hear(last(said("b2", 3, 1200))), (true, Some(at(1200))));
        assert_eq!(
            hear(first(last(said("c1", 1, 1000)))),
            (true, Some(at(1000))),
            "the region that is furthest behind counts"
        );
        assert_eq!(hear(said("d1", 1, 2000)), (true, None), "nothing of this one is compared whole");
    }

    #[test]
    fn those_that_differ_have_turns() {
        let (mut differences, now) = (Differences::default(), Instant::now());
        for chat in ["a", "b", "c", "d", "e"] {
            differences.compare("b", chat, sum(1, 1), sum(0, 0), now, SETTLE);
        }
        assert_eq!(differences.next(2), ["a", "b"]);
        assert_eq!(differences.next(2), ["c", "d"]);
        assert_eq!(differences.next(2), ["e", "a"]);
        differences.compare("b", "b", sum(1, 1), sum(1, 1), now, SETTLE);
        assert_eq!(differences.next(9), ["c", "d", "e", "a"], "each once");
        assert!(Differences::default().next(2).is_empty());
    }
}
