//! How far the source was read, kept in the log so that a new leader finds it at once.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use contract::Timestamp;
use serde::{Deserialize, Serialize};

use crate::agenda;

/// How many rows lie between the cursor that a new leader starts from and the last one, at most: of a very busy source, less than a minute is read again, and rows that
/// come later than that are found by the next reconcile.
pub const OVERLAP_ROWS: u64 = 200_000;

/// What is stored under `source/region`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    pub source: String,
    pub region: String,
    pub leader: String,
    pub number: u64,
    pub cursor: Option<String>,
    pub settled: Option<String>,
    /// The cursors behind `cursor`, oldest first, that are read again.
    #[serde(default)]
    pub earlier: Vec<Earlier>,
    /// The feed's generation, once it was served.
    #[serde(default)]
    pub generation: Option<u32>,
    /// Whether this region polled itself; else it stood by, and this is where another region's markers were.
    #[serde(default = "yes")]
    pub polls: bool,
    /// Rounds that are under way, or done.
    #[serde(default)]
    pub reconcile: agenda::State,
    pub at: Timestamp,
}

fn yes() -> bool {
    true
}

/// The last marker that every partition took.
#[derive(Debug, Clone, Default)]
pub struct Marked {
    /// 0 if none is known.
    pub number: u64,
    /// Whose it was, if not this term's own.
    pub leader: Option<String>,
}

impl Checkpoint {
    /// The marker that it was written with; of a region that stood by that is another region's, and none of this log.
    pub fn marked(&self) -> Marked {
        if !self.polls {
            return Marked::default();
        }
        Marked { number: self.number, leader: Some(self.leader.clone()) }
    }

    pub fn key(source: &str, region: &str) -> String {
        format!("{source}/{region}")
    }

    /// Since when was appended what the next leader reads again, in milliseconds since the Unix epoch.
    pub fn read_again_since(&self, overlap: Duration) -> i64 {
        let oldest = self.earlier.first().map_or(self.at, |oldest| oldest.at);
        let millis = |micros: u64| i64::try_from(micros / 1000).unwrap_or(i64::MAX);
        millis(oldest.micros()).min(millis(self.at.micros()) - i64::try_from(overlap.as_millis()).unwrap_or(i64::MAX))
    }

    /// What its leader remembered. One that an older leader wrote names the oldest cursor only: everything from there is
    /// read again.
    pub fn remembered(&self, overlap: Duration, now: Instant) -> Remembered {
        if self.earlier.is_empty() {
            return Remembered::new(self.settled.clone().or_else(|| self.cursor.clone()), overlap, now);
        }
        Remembered::resume(self.cursor.clone(), self.earlier.clone(), overlap, now)
    }
}

/// A cursor that a leader has left.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Earlier {
    pub cursor: String,
    /// For how long somebody has led since, in milliseconds.
    pub ago_ms: u64,
    /// How many rows were read since.
    pub rows: u64,
    /// When a leader came to it: what was read from there on was appended after that.
    pub at: Timestamp,
}

/// How many of them a checkpoint has at most.
const EARLIER: u32 = 16;

/// The cursors of the last seconds, oldest first: rows that the source shows late, behind its own cursor, are read
/// again for so long. Cursors are opaque: they can only be remembered.
#[derive(Debug)]
pub struct Remembered {
    cursors: VecDeque<Left>,
    overlap: Duration,
    /// Rows that were read, ever.
    rows: u64,
    /// Since when the source gives nothing, not even what is read again: that time does not count.
    stopped: Option<Instant>,
}

/// A cursor, when the leader came to it, and how many rows it had read by then.
#[derive(Debug)]
struct Left {
    at: Instant,
    by_clock: Timestamp,
    rows: u64,
    cursor: Option<String>,
}

impl Remembered {
    pub fn new(cursor: Option<String>, overlap: Duration, now: Instant) -> Self {
        Self {
            cursors: VecDeque::from([Left { at: now, by_clock: Timestamp::now(), rows: 0, cursor }]),
            overlap,
            rows: 0,
            stopped: None,
        }
    }

    /// Goes on where another leader was. The time in which nobody led does not count: what the source showed late before
    /// it is read again as if it had not been. A leader that knew nothing but its oldest cursor would begin the minute
    /// anew, and leaders that all end within a minute would read from ever further back.
    pub fn resume(cursor: Option<String>, earlier: Vec<Earlier>, overlap: Duration, now: Instant) -> Self {
        let rows = earlier.iter().map(|earlier| earlier.rows).max().unwrap_or(0);
        let left = |earlier: Earlier| Left {
            at: now.checked_sub(Duration::from_millis(earlier.ago_ms)).unwrap_or(now),
            by_clock: earlier.at,
            rows: rows - earlier.rows,
            cursor: Some(earlier.cursor),
        };
        let mut cursors: VecDeque<Left> = earlier.into_iter().map(left).collect();
        cursors.push_back(Left { at: now, by_clock: Timestamp::now(), rows, cursor });
        Self { cursors, overlap, rows, stopped: None }
    }

    /// The cursors behind the present one, thinned out; the oldest is [`Self::settled`].
    pub fn earlier(&self, now: Instant) -> Vec<Earlier> {
        let now = self.stopped.unwrap_or(now);
        let behind = self.cursors.range(..self.cursors.len().saturating_sub(1));
        let (mut earlier, mut next) = (Vec::new(), None);
        for Left { at, by_clock, rows, cursor } in behind {
            let is_wanted = next.is_none_or(|next| *at >= next);
            let Some(cursor) = cursor.clone().filter(|_| is_wanted) else { continue };
            let ago_ms = u64::try_from(now.duration_since(*at).as_millis()).unwrap_or(u64::MAX);
            earlier.push(Earlier { cursor, ago_ms, rows: self.rows - rows, at: *by_clock });
            next = Some(*at + self.overlap / EARLIER);
        }
        earlier
    }

    /// Where the leader is.
    pub fn cursor(&self) -> Option<&str> {
        self.cursors.back().and_then(|left| left.cursor.as_deref())
    }

    /// Where a new leader should start, and where to read again from: the oldest cursor, but never the feed's beginning,
    /// which may be far.
    pub fn settled(&self) -> Option<&str> {
        self.cursors.iter().find_map(|left| left.cursor.as_deref())
    }

    /// How many rows were read since the oldest cursor.
    pub fn rows(&self) -> u64 {
        self.rows - self.cursors.front().map_or(self.rows, |left| left.rows)
    }

    /// The source gives nothing since then, until [`Self::go_on`].
    pub fn stop(&mut self, since: Instant) {
        self.stopped.get_or_insert(since);
    }

    /// The source gave what it was asked for at that time.
    pub fn go_on(&mut self, asked: Instant) {
        if let Some(since) = self.stopped.take() {
            let stood = asked.saturating_duration_since(since);
            self.cursors.iter_mut().for_each(|left| left.at += stood);
        }
    }

    /// Moves on behind a page of `rows` rows.
    pub fn advance(&mut self, cursor: String, rows: u64, now: Instant) {
        self.rows += rows;
        if self.cursor() != Some(&cursor) {
            let (rows, cursor) = (self.rows, Some(cursor));
            self.cursors.push_back(Left { at: now, by_clock: Timestamp::now(), rows, cursor });
        }
        self.forget(now);
    }

    /// Forgets what was left before the overlap began.
    pub fn forget(&mut self, now: Instant) {
        let old = |left: &Left| now.duration_since(left.at) >= self.overlap || self.rows - left.rows >= OVERLAP_ROWS;
        while self.cursors.get(1).is_some_and(old) {
            self.cursors.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OVERLAP: Duration = Duration::from_secs(60);

    /// Of a leader of before, without what was added since.
    fn checkpoint(further: serde_json::Value) -> Checkpoint {
        let mut all = serde_json::json!({
            "source": "vendor", "region": "a", "leader": "pod-1", "number": 7, "cursor": "c9", "settled": "c5",
            "at": "2026-01-02T03:04:05.500Z"
        });
        all.as_object_mut().unwrap().extend(further.as_object().unwrap().clone());
        serde_json::from_value(all).unwrap()
    }

    fn millis(time: &str) -> i64 {
        (time.parse::<Timestamp>().unwrap().micros() / 1000).try_into().unwrap()
    }

    #[test]
    fn a_checkpoint_counts_for_its_own_region_and_names_its_marker_if_that_polled() {
        assert_eq!(Checkpoint::key("vendor", "a"), "vendor/a");
        let polled = checkpoint(serde_json::json!({}));
        assert!(polled.polls, "one of before there were regions");
        assert_eq!((polled.marked().number, polled.marked().leader.as_deref()), (7, Some("pod-1")));
        let stood_by = checkpoint(serde_json::json!({ "polls": false })).marked();
        assert_eq!((stood_by.number, stood_by.leader), (0, None));
    }

    #[test]
    fn what_is_read_again_was_appended_within_the_overlap_or_since_the_oldest_cursor() {
        let overlap = Duration::from_secs(60);
        let alone = checkpoint(serde_json::json!({}));
        assert_eq!(alone.read_again_since(overlap), millis("2026-01-02T03:03:05.500Z"));
        let since =
            |at| checkpoint(serde_json::json!({ "earlier": [{ "cursor": "c5", "ago_ms": 1, "rows": 1, "at": at }] }));
        let longer = "2026-01-02T03:01:00.250Z";
        assert_eq!(since(longer).read_again_since(overlap), millis(longer));
        assert_eq!(since("2026-01-02T03:04:00Z").read_again_since(overlap), millis("2026-01-02T03:03:05.500Z"));
    }

    #[test]
    fn a_new_leader_starts_where_this_one_was_a_minute_ago() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut remembered = Remembered::new(None, OVERLAP, start);
        remembered.advance("1".into(), 1, at(10));
        remembered.advance("2".into(), 1, at(50));
        assert_eq!((remembered.settled(), remembered.cursor()), (Some("1"), Some("2")));
        remembered.advance("3".into(), 1, at(71));
        assert_eq!((remembered.settled(), remembered.cursor()), (Some("1"), Some("3")));
        remembered.forget(at(110));
        assert_eq!(remembered.settled(), Some("2"));
        remembered.forget(at(1000));
        assert_eq!((remembered.settled(), remembered.cursor()), (Some("3"), Some("3")));
    }

    #[test]
    fn of_a_busy_source_fewer_cursors_are_remembered() {
        let start = Instant::now();
        let mut remembered = Remembered::new(None, OVERLAP, start);
        for page in 1..=10 {
            remembered.advance(page.to_string(), OVERLAP_ROWS / 4, start);
        }
        assert_eq!((remembered.settled(), remembered.cursor()), (Some("6"), Some("10")));
        assert_eq!(remembered.rows(), OVERLAP_ROWS);
    }

    #[test]
    fn the_time_in_which_the_source_gave_nothing_does_not_count() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut remembered = Remembered::new(Some("1".into()), OVERLAP, start);
        remembered.advance("2".into(), 1, at(50));
        remembered.stop(at(52));
        remembered.stop(at(300));
        // Whoever leads next must not take it for older either.
        assert_eq!(remembered.earlier(at(500))[0].ago_ms, 52_000);
        remembered.go_on(at(552));
        remembered.advance("3".into(), 1, at(552));
        remembered.advance("4".into(), 1, at(555));
        assert_eq!(remembered.settled(), Some("1"), "55 s of reading");
        remembered.forget(at(611));
        assert_eq!(remembered.settled(), Some("2"));
    }

    #[test]
    fn leaders_that_end_soon_do_not_read_from_ever_further_back() {
        let mut now = Instant::now();
        let mut remembered = Remembered::new(Some("0".into()), OVERLAP, now);
        for term in 0..20 {
            for second in 1..=10 {
                now += Duration::from_secs(1);
                remembered.advance((term * 10 + second).to_string(), 100, now);
            }
            let (cursor, earlier) = (remembered.cursor().map(str::to_owned), remembered.earlier(now));
            assert!(earlier.len() <= 17, "{}", earlier.len());
            assert_eq!(earlier.first().map(|earlier| earlier.cursor.as_str()), remembered.settled());
            // Nobody leads for a while.
            now += Duration::from_secs(30);
            let next = Remembered::resume(cursor.clone(), earlier, OVERLAP, now);
            assert_eq!(next.cursor(), cursor.as_deref());
            assert_eq!((next.settled(), next.rows()), (remembered.settled(), remembered.rows()));
            remembered = next;
        }
        let settled: u64 = remembered.settled().unwrap().parse().unwrap();
        assert!((130..=140).contains(&settled), "a minute of leading behind 200, and no less: {settled}");
    }

    #[test]
    fn the_first_leaders_only_cursor_is_told_to_the_next() {
        let now = Instant::now();
        let next = Remembered::resume(Some("7".into()), Vec::new(), OVERLAP, now);
        assert_eq!((next.settled(), next.cursor(), next.rows()), (Some("7"), Some("7"), 0));
        assert!(next.earlier(now).is_empty());
    }

    #[test]
    fn a_cursor_that_stays_is_remembered_once() {
        let start = Instant::now();
        let mut remembered = Remembered::new(Some("1".into()), OVERLAP, start);
        for second in 0..1000 {
            remembered.advance("1".into(), 0, start + Duration::from_secs(second));
        }
        assert_eq!(remembered.cursors.len(), 1);
    }
}
