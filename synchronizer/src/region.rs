//! Whether this region polls or stands by: what it hears of the others, and what follows from that.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use contract::{Marker, Record, Timestamp};
use platform::event_log::TopicPartition;
use platform::health::Check;

use crate::counted::Read;
use crate::peers::{Heard, Peers, Series};
use crate::turns::{Before, Listening, Reason, Rules};

/// How often it is looked whether the turn changes.
const LOOK: Duration = Duration::from_millis(200);
/// Longer than a leader takes to hear what stands in the log, and to note that it looks for what is missing.
const LATELY: Duration = Duration::from_secs(60);

/// Longer than it takes to ask the log again that did not answer, and to wait for it in vain.
const BETWEEN_QUESTIONS: Duration = Duration::from_secs(15);

/// One for the whole life of a process, whoever leads.
pub struct Region {
    rules: Rules,
    check: Check,
    since: Instant,
    shared: Mutex<Shared>,
}

#[derive(Default)]
struct Shared {
    peers: Peers,
    polls: bool,
    /// That nobody has looked for yet.
    hole: Option<Hole>,
    /// When this region's own log last did not answer: what the others said meanwhile could not be heard.
    deaf: Option<Deaf>,
}

#[derive(Debug, Clone, Copy)]
struct Deaf {
    since: Instant,
    until: Instant,
}

/// Records that a region's mirror lacks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hole {
    pub region: String,
    /// Up to when nothing is missing.
    pub complete_as_of: Option<Timestamp>,
    heard: Instant,
}

impl Shared {
    /// A hole is as old as the oldest that nobody has looked for.
    fn note_hole(&mut self, region: &str, complete_as_of: Option<Timestamp>) {
        let earlier = self.hole.as_ref().map_or(complete_as_of, |hole| hole.complete_as_of);
        let complete_as_of = complete_as_of.min(earlier);
        self.hole = Some(Hole { region: region.to_owned(), complete_as_of, heard: Instant::now() });
    }

    fn note_deaf(&mut self, now: Instant) {
        let goes_on = self.deaf.filter(|deaf| now.duration_since(deaf.until) <= BETWEEN_QUESTIONS);
        self.deaf = Some(Deaf { since: goes_on.map_or(now, |deaf| deaf.since), until: now });
    }

    /// Who was heard of, and when; while this region was deaf, nobody fell silent who had not `fallen_silent` before.
    fn series_to_wait_for(&self, fallen_silent: Duration) -> Vec<(String, Series)> {
        let mut all = self.peers.series();
        let Some(deaf) = self.deaf else { return all };
        for (_, series) in &mut all {
            if deaf.since.saturating_duration_since(series.last) < fallen_silent {
                series.last = series.last.max(deaf.until);
            }
        }
        all
    }
}

impl Region {
    pub fn new(rules: Rules, check: Check) -> Self {
        check.ready("stands by: another leads here");
        let region = Self { rules, check, since: Instant::now(), shared: Mutex::default() };
        region.tell(false);
        for other in region.others() {
            // One of whom nothing is ever heard is silent too.
            heard_whole(other).absolute(0);
        }
        region
    }

    /// Whether there are others.
    pub fn is_alone(&self) -> bool {
        self.rules.others.is_empty()
    }

    /// Their names.
    pub fn others(&self) -> &[String] {
        &self.rules.others
    }

    /// A record came through the mirror; `read` is what came before it.
    pub fn hear<E>(&self, at: &TopicPartition, record: &Result<Record, E>, read: &mut Read) {
        match record {
            Ok(Record::Marker(marker)) => self.hear_marker(at.partition, marker, read.marker(at, marker)),
            _ => read.record(at),
        }
    }

    fn hear_marker(&self, partition: u32, marker: &Marker, lacks: bool) {
        let mut shared = self.lock();
        // Before this marker: it tells of what comes behind the hole.
        let complete_as_of = shared.peers.complete_as_of(&marker.region);
        let before = shared.peers.so_many_whole(&marker.region);
        let heard = shared.peers.hear(partition, marker, Instant::now());
        if heard == Heard::Repeated {
            return;
        }
        let after = shared.peers.so_many_whole(&marker.region);
        heard_whole(&marker.region).absolute(after);
        if shared.polls {
            metrics::counter!("chat_sync_both_poll_markers_total").increment(after - before);
        }
        if heard == Heard::BehindAHole || lacks {
            metrics::counter!("chat_sync_mirror_holes_total", "region" => marker.region.clone()).increment(1);
            tracing::error!(
                region = marker.region,
                kafka.partition = partition,
                leader = marker.leader,
                number = marker.number,
                "the mirror has a hole: the marker before this one, or records in between, never came"
            );
            shared.note_hole(&marker.region, complete_as_of);
        }
    }

    /// The newest marker of another region that came through in every partition.
    pub fn whole(&self) -> Option<Marker> {
        self.lock().peers.whole().cloned()
    }

    /// The same, for a region that goes on from there.
    pub fn take_whole(&self) -> Option<Marker> {
        self.lock().peers.take_whole()
    }

    /// What was heard so far says nothing any more of where this region is, nor of what its log lacks: somebody led here until
    /// so long ago, and has looked for what was heard before that.
    pub fn forget(&self, led_until: Duration) {
        let mut shared = self.lock();
        shared.peers.take_whole();
        shared.hole.take_if(|hole| hole.heard.elapsed() > led_until + LATELY);
    }

    /// What a mirror lacks, once.
    pub fn take_hole(&self) -> Option<Hole> {
        self.lock().hole.take()
    }

    /// This region's own log does not answer.
    pub fn note_deaf(&self) {
        self.lock().note_deaf(Instant::now());
    }

    pub fn polls(&self) -> bool {
        self.lock().polls
    }

    /// Waits until this region should poll, and says why. From then on it polls.
    pub async fn until_it_should_poll(&self, before: Before) -> Reason {
        let mut looks = tokio::time::interval(LOOK);
        loop {
            let (series, deaf) = {
                let shared = self.lock();
                (shared.series_to_wait_for(self.rules.take_over_after), shared.deaf)
            };
            let since = deaf.map_or(self.since, |deaf| deaf.until.max(self.since));
            let listening = Listening { since, before };
            if let Some(reason) = self.rules.should_poll(listening, &series, Instant::now()) {
                self.turn(true, reason, String::new());
                return reason;
            }
            let newest = series.iter().max_by_key(|(_, series)| series.last);
            self.check.ready(
                newest.map_or("stands by: it listens whether another region polls".to_owned(), |newest| {
                    format!("stands by: region {} polls", newest.0)
                }),
            );
            looks.tick().await;
        }
    }

    /// Waits until another region that polls goes before this one. From then on this one stands by.
    pub async fn until_it_should_give_way(&self) {
        let mut looks = tokio::time::interval(LOOK);
        loop {
            let series = self.lock().peers.series();
            if let Some(other) = self.rules.should_give_way(&series, Instant::now()) {
                self.turn(false, Reason::GivesWay, format!(" to region {other}"));
                return;
            }
            looks.tick().await;
        }
    }

    /// Nobody leads here any more, or not this process.
    pub fn leave(&self) {
        if self.polls() {
            self.turn(false, Reason::Leaves, String::new());
        }
        self.check.ready("stands by: another leads here");
    }

    fn tell(&self, polls: bool) {
        let gauge = metrics::gauge!("chat_sync_region_polls", "region" => self.rules.region.clone());
        gauge.set(f64::from(u8::from(polls)));
    }

    /// Every change is one line and one metric.
    fn turn(&self, polls: bool, reason: Reason, more: String) {
        self.lock().polls = polls;
        let to = if polls { "polls" } else { "stands_by" };
        self.tell(polls);
        metrics::counter!("chat_sync_region_turns_total", "to" => to, "reason" => reason.name()).increment(1);
        let reason = reason.name();
        tracing::info!(region = self.rules.region, to, reason, "the region's turn{more}");
        self.check.ready(format!("{} since {} ({reason}{more})", to.replace('_', " "), Timestamp::now()));
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Markers of this region that came in every partition.
fn heard_whole(region: &str) -> metrics::Counter {
    metrics::counter!("chat_sync_peer_markers_total", "region" => region.to_owned())
}

#[cfg(test)]
mod tests {
    use platform::health::Health;

    use super::*;
    use crate::peers::tests::marker;
    use crate::turns::tests::rules;

    #[test]
    fn while_a_region_is_deaf_nobody_falls_silent_but_who_was_silent_before() {
        let (mut shared, now) = (Shared::default(), Instant::now());
        let after = |s| now + Duration::from_secs(s);
        let quiet = Duration::from_secs(20);
        shared.peers.hear(0, &Marker { partitions: 1, ..marker("x", 1) }, now);
        let last = |shared: &Shared| shared.series_to_wait_for(quiet)[0].1.last;
        assert_eq!(last(&shared), now);
        (10..60).step_by(5).for_each(|s| shared.note_deaf(after(s)));
        assert_eq!(last(&shared), after(55), "it was alive when the log went away");
        shared.note_deaf(after(3600));
        assert_eq!(last(&shared), now, "an hour later it was not");
    }

    #[test]
    fn a_hole_that_a_standby_heard_of_is_looked_for_by_the_leader_that_it_becomes() {
        let region = Region::new(rules("b", None), Health::new().check("region"));
        let (at, mut read) = (TopicPartition::new("a.chat-changes", 0), Read::default());
        let mut hear = |marker: Marker| region.hear(&at, &Ok::<_, ()>(Record::Marker(marker)), &mut read);
        let fresh = |number| Marker { partitions: 1, fresh_as_of: Some(marker("x", number).at), ..marker("x", number) };
        hear(fresh(1));
        hear(Marker { records: 1, ..fresh(2) });
        hear(Marker { records: 1, ..fresh(3) });
        region.forget(Duration::ZERO);
        let hole = region.take_hole().expect("a hole");
        assert_eq!((hole.region.as_str(), hole.complete_as_of), ("a", fresh(1).fresh_as_of), "the first of the two");
        assert_eq!(region.take_hole(), None, "once");
        region.lock().hole = Some(Hole { heard: Instant::now() - 2 * LATELY, ..hole });
        region.forget(2 * LATELY);
        let hole = region.take_hole().expect("nobody led when it was heard of");
        region.lock().hole = Some(hole);
        region.forget(Duration::ZERO);
        assert_eq!(region.take_hole(), None, "whoever led then has looked for one of long ago");
    }
}
