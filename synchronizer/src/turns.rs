//! Which region polls: one does, the others stand by. Pure: time is an input.
//!
//! It saves the source requests and the log repeats; it is not what keeps data safe (R3). Nobody compares clocks.

use std::time::{Duration, Instant};

use crate::peers::{BROKEN, Series};

/// How long the region that goes first listens at its very first start before it takes it that nobody polls. One that was
/// away listens for as long as it takes to take over: another polls by now, and its mirror takes a while to start.
const LISTEN: Duration = Duration::from_secs(5);

/// What a region goes by.
#[derive(Debug, Clone)]
pub struct Rules {
    pub region: String,
    /// The other regions' names; where there are none, this one polls.
    pub others: Vec<String>,
    /// The one that should poll whenever it can; without it, whoever polls goes on.
    pub preferred: Option<String>,
    /// How long nothing new may be heard of the others before this region polls.
    pub take_over_after: Duration,
    /// For how long another that goes before must have been heard before this region gives way.
    pub give_way_after: Duration,
    /// For how long the preferred region listens to another that polls before it takes its place.
    pub come_back_after: Duration,
}

/// Why a region, or its leader, begins to poll, or ceases to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// There is no other region.
    Alone,
    /// It polled until just now, by its own checkpoint, and nobody else does.
    Continues,
    /// Nobody was heard of since it listens.
    NobodyPolls,
    /// Whoever polled is not heard of any more.
    Silence,
    /// It is the preferred one and has listened for long enough.
    Preferred,
    /// Another polls that goes before it.
    GivesWay,
    /// Who polled for it does not lead there any more.
    Leaves,
}

impl Reason {
    /// A word for logs and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Alone => "alone",
            Self::Continues => "continues",
            Self::NobodyPolls => "nobody_polls",
            Self::Silence => "silence",
            Self::Preferred => "preferred",
            Self::GivesWay => "gives_way",
            Self::Leaves => "leaves",
        }
    }
}

/// What a region that stands by knows besides whom it has heard.
#[derive(Debug, Clone, Copy)]
pub struct Listening {
    /// Since when this process listens.
    pub since: Instant,
    pub before: Before,
}

/// What this region did before this process led in it, by its own checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Before {
    /// Nothing: there is no checkpoint.
    Nothing,
    /// It polled until just now.
    Polled,
    /// It stood by, or was away.
    Other,
}

impl Rules {
    /// Whether a region that stands by should poll now, and why.
    pub fn should_poll(&self, listening: Listening, heard: &[(String, Series)], now: Instant) -> Option<Reason> {
        let listened = now.duration_since(listening.since);
        if self.others.is_empty() {
            return Some(Reason::Alone);
        }
        let mut alive = heard.iter().filter(|(_, series)| now.duration_since(series.last) < self.take_over_after);
        if let Some((_, series)) = alive.next() {
            let long_enough = series.last.duration_since(series.first) >= self.come_back_after;
            let comes_back = self.preferred.as_ref() == Some(&self.region) && listened >= self.come_back_after;
            return (comes_back && long_enough).then_some(Reason::Preferred);
        }
        if !heard.is_empty() {
            return Some(Reason::Silence);
        }
        if listening.before == Before::Polled {
            return Some(Reason::Continues);
        }
        let is_first_start = self.goes_first() && listening.before == Before::Nothing;
        let patience = if is_first_start { LISTEN.min(self.take_over_after) } else { self.take_over_after };
        (listened >= patience).then_some(Reason::NobodyPolls)
    }

    /// Whether a region that polls should give way now, and to whom.
    pub fn should_give_way<'a>(&self, heard: &'a [(String, Series)], now: Instant) -> Option<&'a str> {
        let goes_on = |series: &Series| {
            now.duration_since(series.last) <= BROKEN && series.last.duration_since(series.first) >= self.give_way_after
        };
        let before = heard.iter().find(|(region, series)| self.goes_before(region) && goes_on(series));
        before.map(|(region, _)| region.as_str())
    }

    /// Where two poll, one must give way: the preferred one stays, else the first by name.
    fn goes_before(&self, other: &str) -> bool {
        match &self.preferred {
            Some(preferred) => preferred == other,
            None => other < self.region.as_str(),
        }
    }

    fn goes_first(&self) -> bool {
        match &self.preferred {
            Some(preferred) => *preferred == self.region,
            None => self.others.iter().all(|other| self.region < *other),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn rules(region: &str, preferred: Option<&str>) -> Rules {
        let others = ["a", "b"].into_iter().filter(|name| *name != region).map(str::to_owned).collect();
        Rules {
            region: region.into(),
            others,
            preferred: preferred.map(str::to_owned),
            take_over_after: Duration::from_secs(20),
            give_way_after: Duration::from_secs(10),
            come_back_after: Duration::from_secs(30),
        }
    }

    struct Clock(Instant);

    impl Clock {
        fn at(&self, seconds: u64) -> Instant {
            self.0 + Duration::from_secs(seconds)
        }

        fn listening(&self) -> Listening {
            Listening { since: self.0, before: Before::Nothing }
        }

        fn heard(&self, region: &str, first: u64, last: u64) -> Vec<(String, Series)> {
            vec![(region.to_owned(), Series { first: self.at(first), last: self.at(last) })]
        }
    }

    #[test]
    fn at_the_very_first_start_the_preferred_region_waits_least() {
        let clock = Clock(Instant::now());
        let polls = |region, preferred, seconds| {
            rules(region, preferred).should_poll(clock.listening(), &[], clock.at(seconds)).is_some()
        };
        assert!(polls("b", Some("b"), 5) && !polls("a", Some("b"), 5) && polls("a", Some("b"), 20));
        assert!(polls("a", None, 5) && !polls("b", None, 5) && polls("b", None, 20), "else the first by name");
    }

    #[test]
    fn every_reason_has_a_word_of_its_own() {
        use Reason::{Alone, Continues, GivesWay, Leaves, NobodyPolls, Preferred, Silence};
        let names = [Alone, Continues, NobodyPolls, Silence, Preferred, GivesWay, Leaves].map(Reason::name);
        assert_eq!(names, ["alone", "continues", "nobody_polls", "silence", "preferred", "gives_way", "leaves"]);
    }

    #[test]
    fn a_region_takes_over_when_nothing_new_was_heard_for_twenty_seconds() {
        let (clock, b) = (Clock(Instant::now()), rules("b", None));
        let heard = clock.heard("a", 0, 100);
        assert_eq!(b.should_poll(clock.listening(), &heard, clock.at(119)), None);
        assert_eq!(b.should_poll(clock.listening(), &heard, clock.at(120)), Some(Reason::Silence));
    }

    #[test]
    fn at_the_very_start_the_first_by_name_polls_and_the_other_waits_for_it() {
        let clock = Clock(Instant::now());
        let poll = |region, at| rules(region, None).should_poll(clock.listening(), &[], clock.at(at));
        assert_eq!((poll("a", 4), poll("a", 5)), (None, Some(Reason::NobodyPolls)));
        assert_eq!((poll("b", 19), poll("b", 20)), (None, Some(Reason::NobodyPolls)));
        let restarted = Listening { before: Before::Polled, ..clock.listening() };
        assert_eq!(rules("b", None).should_poll(restarted, &[], clock.at(0)), Some(Reason::Continues));
        let was_away = Listening { before: Before::Other, ..clock.listening() };
        let a = rules("a", None);
        assert_eq!(a.should_poll(was_away, &[], clock.at(19)), None, "b may poll by now");
        assert_eq!(a.should_poll(was_away, &[], clock.at(20)), Some(Reason::NobodyPolls));
        let alone = Rules { others: Vec::new(), ..rules("b", None) };
        assert_eq!(alone.should_poll(clock.listening(), &[], clock.at(0)), Some(Reason::Alone));
    }

    #[test]
    fn whoever_comes_back_stands_by_unless_it_is_preferred() {
        let clock = Clock(Instant::now());
        let heard = clock.heard("b", 0, 40);
        assert_eq!(rules("a", None).should_poll(clock.listening(), &heard, clock.at(40)), None);
        let preferred = rules("a", Some("a"));
        assert_eq!(preferred.should_poll(clock.listening(), &heard, clock.at(40)), Some(Reason::Preferred));
        let just_back = Listening { since: clock.at(20), ..clock.listening() };
        assert_eq!(preferred.should_poll(just_back, &heard, clock.at(40)), None);
        assert_eq!(
            preferred.should_poll(clock.listening(), &clock.heard("b", 38, 40), clock.at(40)),
            None,
            "it came and went"
        );
    }

    #[test]
    fn of_two_that_poll_one_gives_way_after_a_while() {
        let clock = Clock(Instant::now());
        let gives_way = |region, preferred, first, last, at| {
            let other = if region == "a" { "b" } else { "a" };
            let heard = clock.heard(other, first, last);
            rules(region, preferred).should_give_way(&heard, clock.at(at)).map(str::to_owned)
        };
        assert_eq!(gives_way("b", None, 0, 9, 9), None, "it may be a mirror that catches up");
        assert_eq!(gives_way("b", None, 0, 10, 10), Some("a".into()));
        assert_eq!(gives_way("b", None, 0, 10, 20), None, "it is silent again");
        assert_eq!(gives_way("a", None, 0, 10, 10), None);
        assert_eq!(gives_way("a", Some("b"), 0, 10, 10), Some("b".into()));
        assert_eq!(gives_way("b", Some("b"), 0, 10, 10), None);
    }
}
