//! How far the source was read, kept in the log so that a new leader finds it at once.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use contract::Timestamp;
use serde::{Deserialize, Serialize};

/// How far back the cursors are remembered that a new leader starts from: rows that the source shows
/// late, behind its own cursor, are read again for so long.
pub const OVERLAP: Duration = Duration::from_secs(60);

/// What is stored under `source/region`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    pub source: String,
    pub region: String,
    pub leader: String,
    pub number: u64,
    pub cursor: Option<String>,
    pub settled: Option<String>,
    pub at: Timestamp,
}

impl Checkpoint {
    pub fn key(source: &str, region: &str) -> String {
        format!("{source}/{region}")
    }
}

/// The cursors of the last [`OVERLAP`], oldest first. Cursors are opaque: they can only be remembered.
#[derive(Debug)]
pub struct Remembered(VecDeque<(Instant, Option<String>)>);

impl Remembered {
    pub fn new(cursor: Option<String>, now: Instant) -> Self {
        Self(VecDeque::from([(now, cursor)]))
    }

    /// Where the leader is.
    pub fn cursor(&self) -> Option<&str> {
        self.0.back().and_then(|(_, cursor)| cursor.as_deref())
    }

    /// Where a new leader should start.
    pub fn settled(&self) -> Option<&str> {
        self.0.front().and_then(|(_, cursor)| cursor.as_deref())
    }

    pub fn advance(&mut self, cursor: String, now: Instant) {
        if self.cursor() != Some(&cursor) {
            self.0.push_back((now, Some(cursor)));
        }
        self.forget(now);
    }

    /// Forgets what was left before the overlap began.
    pub fn forget(&mut self, now: Instant) {
        while self.0.get(1).is_some_and(|(left, _)| now.duration_since(*left) >= OVERLAP) {
            self.0.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_leader_starts_where_this_one_was_a_minute_ago() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut remembered = Remembered::new(None, start);
        remembered.advance("1".into(), at(10));
        remembered.advance("2".into(), at(50));
        assert_eq!((remembered.settled(), remembered.cursor()), (None, Some("2")));
        remembered.advance("3".into(), at(71));
        assert_eq!((remembered.settled(), remembered.cursor()), (Some("1"), Some("3")));
        remembered.forget(at(110));
        assert_eq!(remembered.settled(), Some("2"));
        remembered.forget(at(1000));
        assert_eq!((remembered.settled(), remembered.cursor()), (Some("3"), Some("3")));
    }

    #[test]
    fn a_cursor_that_stays_is_remembered_once() {
        let start = Instant::now();
        let mut remembered = Remembered::new(Some("1".into()), start);
        for second in 0..1000 {
            remembered.advance("1".into(), start + Duration::from_secs(second));
        }
        assert_eq!(remembered.0.len(), 1);
    }
}
