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
    /// The feed's generation, once it was served.
    #[serde(default)]
    pub generation: Option<u32>,
    /// Rounds that are under way, or done.
    #[serde(default)]
    pub reconcile: agenda::State,
    pub at: Timestamp,
}

impl Checkpoint {
    pub fn key(source: &str, region: &str) -> String {
        format!("{source}/{region}")
    }
}

/// The cursors of the last seconds, oldest first: rows that the source shows late, behind its own cursor, are read
/// again for so long. Cursors are opaque: they can only be remembered.
#[derive(Debug)]
pub struct Remembered {
    cursors: VecDeque<Left>,
    overlap: Duration,
    /// Rows that were read, ever.
    rows: u64,
}

/// A cursor, when the leader came to it, and how many rows it had read by then.
#[derive(Debug)]
struct Left {
    at: Instant,
    rows: u64,
    cursor: Option<String>,
}

impl Remembered {
    pub fn new(cursor: Option<String>, overlap: Duration, now: Instant) -> Self {
        Self { cursors: VecDeque::from([Left { at: now, rows: 0, cursor }]), overlap, rows: 0 }
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

    /// Moves on behind a page of `rows` rows.
    pub fn advance(&mut self, cursor: String, rows: u64, now: Instant) {
        self.rows += rows;
        if self.cursor() != Some(&cursor) {
            self.cursors.push_back(Left { at: now, rows: self.rows, cursor: Some(cursor) });
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
    fn a_cursor_that_stays_is_remembered_once() {
        let start = Instant::now();
        let mut remembered = Remembered::new(Some("1".into()), OVERLAP, start);
        for second in 0..1000 {
            remembered.advance("1".into(), 0, start + Duration::from_secs(second));
        }
        assert_eq!(remembered.cursors.len(), 1);
    }
}
