//! In which chats the copies of two regions differ, by what each says of its own. Pure: no I/O, time is an input.
//!
//! Two copies are never looked at in the same moment, so one difference says nothing: an old row that was changed between the
//! two looks makes it. What came in between makes another difference each time, though, and a row that one of the two lacks for
//! good makes the same one again and again.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::ops::Bound;
use std::time::{Duration, Instant};

use contract::Timestamp;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use crate::compare::Sum;

/// What is summed up, and how. Two regions that do it differently cannot compare.
pub const FORMAT: u32 = 1;
/// How often the same difference must be seen, of the last looks that are remembered.
const TIMES: usize = 3;
const LOOKS: usize = 8;
/// Of how many leaders of a region it is remembered how far they were heard.
const LEADERS: usize = 16;
/// What differs where one of the two cannot read its rows.
const UNREADABLE: Sum = Sum { count: u64::MAX, digest: u64::MAX };

/// How far a copy is: it has everything up to this marker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AsOf {
    /// The region that polls.
    pub region: String,
    /// When its leader made the marker, by that leader's clock.
    pub at: Timestamp,
}

impl AsOf {
    /// Whether two copies are close enough for what changed some time before to be in both. Only one region's clock is asked; where
    /// both poll, nobody knows.
    pub fn is_near(&self, other: &Self, within: Duration) -> bool {
        self.region == other.region && self.at.since(other.at).max(other.at.since(self.at)) <= within
    }
}

/// What chats are told of for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Told {
    /// The whole copy, in parts.
    Round,
    /// The teller suspects that another region has something else.
    Suspected,
    /// Another region does.
    Answer,
}

/// What one region's copy holds of some chats, as its leader says it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Digests {
    pub format: u32,
    pub source: String,
    pub region: String,
    /// The leader's incarnation, and a number that counts up from 1 within it.
    pub leader: String,
    pub number: u64,
    pub told: Told,
    /// Of a round: which part this is, from 0, and whether it is the last one.
    pub part: u64,
    pub last: bool,
    pub as_of: AsOf,
    /// Of rows that changed before that moment, by the source's clock: what came later may be on its way.
    pub before: Timestamp,
    /// `null` of a chat that cannot be read.
    pub chats: BTreeMap<String, Option<Sum>>,
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
    peers: BTreeMap<String, Peer>,
    /// By chat, by region.
    chats: BTreeMap<String, HashMap<String, Suspicion>>,
    /// The last of them that [`Self::next`] gave, and [`Self::next_to_be_mended`].
    given: Option<String>,
    mended: Option<String>,
    /// Of which another region wants to hear.
    owed: BTreeSet<String>,
}

#[derive(Debug, Default)]
struct Suspicion {
    /// The last differences, and when each was seen.
    looks: VecDeque<(Sum, Instant)>,
    differs: bool,
}

/// How far another region was heard.
#[derive(Debug, Default)]
struct Peer {
    /// The last number of each of its last leaders.
    leaders: VecDeque<(String, u64)>,
    /// The round that was heard without a part missing, so far.
    round: Option<Round>,
    /// When each of its chats was compared last, by the hash of its id: there may be a million.
    compared: HashMap<u64, Timestamp>,
    /// Up to when all of them were.
    through: Option<Timestamp>,
}

#[derive(Debug)]
struct Round {
    leader: String,
    next: u64,
    began: Timestamp,
    chats: HashSet<u64>,
}

impl Peer {
    /// These chats were compared with what was said of them at `at`.
    fn note(&mut self, chats: &[&str], at: Timestamp) {
        self.compared.extend(chats.iter().map(|chat| (hash(chat), at)));
    }

    /// A part of a round was heard. Which of its chats were compared does not matter: what was not this time may have been the last time, and a
    /// copy that is always slower than the other one comes to all of them all the same.
    fn hear(&mut self, said: &Digests, now: Timestamp) {
        if said.part == 0 {
            self.round = Some(Round { leader: said.leader.clone(), next: 0, began: now, chats: HashSet::new() });
        }
        // Two may lead for a moment, and speak at once.
        let Some(round) = self.round.as_mut().filter(|round| round.leader == said.leader) else { return };
        if round.next != said.part {
            self.round = None;
            return;
        }
        round.next += 1;
        round.chats.extend(said.chats.keys().map(|chat| hash(chat)));
        if !said.last {
            return;
        }
        let Some(Round { chats, began, .. }) = self.round.take() else { return };
        self.compared.retain(|chat, _| chats.contains(chat));
        if self.compared.len() == chats.len() {
            // What was created since it began may be in none of its parts.
            self.through = self.compared.values().copied().chain([began]).min();
        }
    }
}

fn hash(chat: &str) -> u64 {
    xxh3_64(chat.as_bytes())
}

impl Suspicion {
    /// Notes a difference; whether it was seen often enough, for as long.
    fn look(&mut self, difference: Sum, now: Instant, settle: Duration) -> bool {
        self.looks.push_back((difference, now));
        if self.looks.len() > LOOKS {
            self.looks.pop_front();
        }
        let mut same = self.looks.iter().filter(|(seen, _)| *seen == difference);
        let first = same.next().map_or(now, |(_, at)| *at);
        same.count() + 1 >= TIMES && now.duration_since(first) >= settle
    }

    fn is_readable(&self) -> bool {
        self.looks.back().is_none_or(|(last, _)| *last != UNREADABLE)
    }
}

impl Differences {
    /// Of this region and these.
    pub fn with(others: &[String]) -> Self {
        Self { peers: others.iter().map(|other| (other.clone(), Peer::default())).collect(), ..Self::default() }
    }

    /// Another region says something; whether it was not heard before. A mirror that begins again repeats it.
    pub fn is_new(&mut self, said: &Digests) -> bool {
        let Some(peer) = self.peers.get_mut(&said.region) else { return false };
        if let Some((_, last)) = peer.leaders.iter_mut().find(|(known, _)| *known == said.leader) {
            let new = said.number > *last;
            *last = said.number.max(*last);
            return new;
        }
        peer.leaders.push_back((said.leader.clone(), said.number));
        if peer.leaders.len() > LEADERS {
            peer.leaders.pop_front();
        }
        true
    }

    /// Notes what a chat holds here and there; `None` where it cannot be read. The same difference must last for `settle` at least.
    pub fn compare(
        &mut self,
        region: &str,
        chat: &str,
        (here, there): (Option<Sum>, Option<Sum>),
        now: Instant,
        settle: Duration,
    ) -> Compared {
        let difference = here.zip(there).map_or(UNREADABLE, |(here, there)| here.minus(there));
        if difference == Sum::default() {
            self.forget(region, chat);
            return Compared::Alike;
        }
        let suspicion = self.chats.entry(chat.to_owned()).or_default().entry(region.to_owned()).or_default();
        let lasts = suspicion.look(difference, now, settle);
        match (suspicion.differs, lasts) {
            (true, _) => Compared::StillDiffer,
            (false, false) => Compared::Suspected,
            (false, true) => {
                suspicion.differs = true;
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

    /// What it said was dealt with, by the own clock: these of its chats were `compared`, none if one of the two copies is behind.
    pub fn heard(&mut self, said: &Digests, compared: &[&str], now: Timestamp) {
        if said.told == Told::Suspected {
            self.owed.extend(compared.iter().map(|chat| (*chat).to_owned()));
        }
        let Some(peer) = self.peers.get_mut(&said.region) else { return };
        peer.note(compared, now);
        if said.told == Told::Round {
            peer.hear(said, now);
        }
    }

    /// Up to when all that the other regions had was compared, by the own clock; `None` until that was done once with each.
    pub fn compared_through(&self) -> Option<Timestamp> {
        self.peers.values().map(|peer| peer.through).min().flatten()
    }

    /// In how many chats copies are known to differ; `None` where there is no other region.
    pub fn differing(&self) -> Option<u64> {
        let differs = |regions: &&HashMap<String, Suspicion>| regions.values().any(|suspicion| suspicion.differs);
        (!self.peers.is_empty()).then(|| self.chats.values().filter(differs).count() as u64)
    }

    /// The next of those, at most so many, as far as they can be read.
    pub fn next_to_be_mended(&mut self, most: usize) -> Vec<String> {
        let differs = |regions: &HashMap<String, Suspicion>| {
            regions.values().any(|suspicion| suspicion.differs && suspicion.is_readable())
        };
        in_turn(&self.chats, &mut self.mended, most, differs)
    }

    /// In how many chats copies may differ, those where they do among them.
    pub fn suspected(&self) -> usize {
        self.chats.len()
    }

    /// The next of those, at most so many; after the last one the first again.
    pub fn next(&mut self, most: usize) -> Vec<String> {
        in_turn(&self.chats, &mut self.given, most, |_| true)
    }

    /// The chats of which another region wants to hear, and that are not suspected here; once.
    pub fn take_owed(&mut self) -> Vec<String> {
        let owed = std::mem::take(&mut self.owed);
        owed.into_iter().filter(|chat| !self.chats.contains_key(chat)).collect()
    }
}

/// At most so many keys, behind the last one that was given.
fn in_turn<T>(
    map: &BTreeMap<String, T>,
    given: &mut Option<String>,
    most: usize,
    wanted: impl Fn(&T) -> bool,
) -> Vec<String> {
    let (after, up_to) = match given.take() {
        Some(last) => (Bound::Excluded(last.clone()), Bound::Included(last)),
        None => (Bound::Unbounded, Bound::Excluded(String::new())),
    };
    let all = map.range((after, Bound::Unbounded)).chain(map.range((Bound::Unbounded, up_to)));
    let next: Vec<String> = all.filter(|(_, value)| wanted(value)).take(most).map(|(key, _)| key.clone()).collect();
    *given = next.last().cloned();
    next
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETTLE: Duration = Duration::from_secs(60);

    fn sum(count: u64, digest: u64) -> Option<Sum> {
        Some(Sum { count, digest })
    }

    fn at(second: u64) -> Timestamp {
        Timestamp::from_micros(1_767_000_000_000_000 + second * 1_000_000).unwrap()
    }

    fn differences() -> Differences {
        Differences::with(&["b".to_owned(), "c".to_owned()])
    }

    /// The `number`th word of a leader, whose region its name begins with: a part of a round.
    fn said(leader: &str, number: u64, part: u64) -> Digests {
        Digests {
            format: FORMAT,
            source: "external".into(),
            region: leader[..1].into(),
            leader: leader.into(),
            number,
            told: Told::Round,
            part,
            last: part == 2,
            as_of: AsOf { region: "a".into(), at: at(0) },
            before: at(0),
            chats: BTreeMap::from([(format!("c{part}"), sum(1, 1))]),
        }
    }

    fn hear(differences: &mut Differences, word: &Digests, compared: bool, second: u64) {
        let chats: Vec<&str> = word.chats.keys().map(String::as_str).filter(|_| compared).collect();
        differences.heard(word, &chats, at(second));
    }

    #[test]
    fn the_same_difference_again_and_again_is_one() {
        let (mut differences, start) = (differences(), Instant::now());
        let mut see = |seconds, here, there| {
            let now = start + Duration::from_secs(seconds);
            differences.compare("b", "c1", (here, there), now, SETTLE)
        };
        assert_eq!(see(0, sum(3, 30), sum(2, 20)), Compared::Suspected);
        assert_eq!(see(30, sum(5, 70), sum(4, 60)), Compared::Suspected, "both have more, and the same is missing");
        assert_eq!(see(40, sum(5, 70), sum(5, 60)), Compared::Suspected, "another one");
        assert_eq!(see(59, sum(5, 70), sum(4, 60)), Compared::Suspected, "the first has not lasted");
        assert_eq!(see(60, sum(9, 5), sum(8, u64::MAX - 4)), Compared::Differ, "sums wrap");
        assert_eq!(see(61, sum(9, 6), sum(8, 0)), Compared::StillDiffer, "until they are found alike");
        assert_eq!(differences.next_to_be_mended(9), ["c1"]);
        assert_eq!(differences.compare("b", "c1", (sum(9, 6), sum(9, 6)), start, SETTLE), Compared::Alike);
        assert_eq!((differences.differing(), differences.suspected()), (Some(0), 0));
    }

    #[test]
    fn what_changes_between_the_looks_is_none() {
        let (mut differences, start) = (differences(), Instant::now());
        for second in 0..1000 {
            let (here, there) = (sum(second, second * second), sum(second, (second + 1) * (second + 1)));
            let now = start + Duration::from_secs(second);
            assert_eq!(differences.compare("b", "c1", (here, there), now, SETTLE), Compared::Suspected);
        }
        assert_eq!(differences.compare("c", "c1", (sum(1, 1), sum(1, 1)), start, SETTLE), Compared::Alike);
        assert_eq!((differences.differing(), differences.suspected()), (Some(0), 1), "region b's is another matter");
        assert_eq!(Differences::default().differing(), None, "there is no other region");
    }

    #[test]
    fn a_chat_that_cannot_be_read_differs_and_cannot_be_mended() {
        let (mut differences, start) = (differences(), Instant::now());
        for (seconds, came) in [(0, Compared::Suspected), (60, Compared::Suspected), (120, Compared::Differ)] {
            let now = start + Duration::from_secs(seconds);
            assert_eq!(differences.compare("b", "c1", (sum(1, 1), None), now, SETTLE), came);
        }
        assert_eq!(differences.differing(), Some(1));
        assert!(differences.next_to_be_mended(9).is_empty());
    }

    #[test]
    fn a_copy_was_compared_once_every_chat_of_it_was() {
        let mut differences = Differences::with(&["b".to_owned()]);
        let mut second = 0;
        let mut hear = |leader: &str, number, part, compared| {
            let word = said(leader, number, part);
            second += 1;
            let new = differences.is_new(&word);
            if new {
                hear(&mut differences, &word, compared, second);
            }
            (new, differences.compared_through())
        };
        hear("b1", 1, 0, false);
        hear("b1", 2, 1, true);
        assert_eq!(hear("b1", 3, 2, true), (true, None), "the first part was not compared");
        hear("b1", 4, 0, true);
        assert_eq!(hear("b1", 6, 2, true), (true, None), "a part was not heard");
        hear("b1", 7, 0, true);
        hear("b1", 8, 1, false);
        assert_eq!(hear("b1", 9, 2, true), (true, Some(at(2))), "that part was compared before");
        hear("b1", 10, 0, true);
        assert_eq!(hear("b1", 10, 0, true), (false, Some(at(2))), "repeated");
        hear("b0", 77, 1, true);
        hear("b1", 12, 1, true);
        assert_eq!(hear("b1", 13, 2, true), (true, Some(at(9))), "with what was told in between, and by another");
        hear("b2", 1, 0, true);
        hear("b1", 14, 0, true);
        hear("b2", 2, 1, true);
        assert_eq!(hear("b2", 3, 2, true), (true, Some(at(9))), "two spoke at once");
    }

    #[test]
    fn a_copy_that_comes_to_half_of_the_others_each_time_has_compared_all_in_the_end() {
        let mut differences = Differences::with(&["b".to_owned()]);
        let mut through = Vec::new();
        for round in 0..4 {
            for part in 0..3 {
                let word = said("b1", 3 * round + part + 1, part);
                hear(&mut differences, &word, (part + round) % 2 == 0, 3 * round + part);
            }
            through.push(differences.compared_through());
        }
        assert_eq!(through, [None, Some(at(0)), Some(at(4)), Some(at(6))]);
        // A chat that is there no more is not waited for.
        let word = Digests { last: true, ..said("b1", 99, 0) };
        hear(&mut differences, &word, true, 50);
        assert_eq!(differences.compared_through(), Some(at(50)));
    }

    #[test]
    fn no_region_is_left_out_of_what_was_compared() {
        let mut differences = differences();
        for part in 0..3 {
            hear(&mut differences, &said("b1", part + 1, part), true, part);
        }
        assert_eq!(differences.compared_through(), None, "c was never heard");
        for part in 0..3 {
            hear(&mut differences, &said("c1", part + 1, part), true, 10 + part);
        }
        assert_eq!(differences.compared_through(), Some(at(0)), "the one that is furthest behind counts");
        assert!(!differences.is_new(&said("x1", 1, 0)), "nobody knows that region");
    }

    #[test]
    fn those_that_differ_have_turns() {
        let (mut differences, now) = (differences(), Instant::now());
        for chat in ["a", "b", "c", "d", "e"] {
            differences.compare("b", chat, (sum(1, 1), sum(0, 0)), now, SETTLE);
        }
        assert_eq!(differences.next(2), ["a", "b"]);
        assert_eq!(differences.next(2), ["c", "d"]);
        assert_eq!(differences.next(2), ["e", "a"]);
        differences.compare("b", "b", (sum(1, 1), sum(1, 1)), now, SETTLE);
        assert_eq!(differences.next(9), ["c", "d", "e", "a"], "each once");
        assert!(Differences::default().next(2).is_empty());
    }

    #[test]
    fn who_suspects_a_chat_is_answered_once() {
        let (mut differences, now) = (differences(), Instant::now());
        let named = |number, told| {
            let chats = ["c1", "c2"].map(|chat| (chat.to_owned(), sum(1, 1))).into_iter().collect();
            Digests { told, chats, ..said("b1", number, 0) }
        };
        differences.compare("b", "c2", (sum(1, 2), sum(1, 1)), now, SETTLE);
        hear(&mut differences, &named(1, Told::Suspected), true, 0);
        assert_eq!(differences.take_owed(), ["c1"], "the other one is told of anyway");
        hear(&mut differences, &named(2, Told::Answer), true, 0);
        assert!(differences.take_owed().is_empty(), "nobody answers an answer");
    }

    #[test]
    fn copies_are_compared_that_are_near_each_other_by_one_clock() {
        let as_of = |region: &str, second| AsOf { region: region.into(), at: at(second) };
        assert!(as_of("a", 100).is_near(&as_of("a", 160), SETTLE) && as_of("a", 160).is_near(&as_of("a", 100), SETTLE));
        assert!(!as_of("a", 100).is_near(&as_of("a", 161), SETTLE), "one is behind");
        assert!(!as_of("a", 100).is_near(&as_of("b", 100), SETTLE), "both poll");
    }
}
