//! A point in time, in microseconds since the Unix epoch, written as RFC 3339.

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Microseconds since 1970-01-01T00:00:00Z by the clock of whoever made it.
///
/// On every wire it is RFC 3339 with six decimals (`2026-01-02T03:04:05.000006Z`). Any RFC 3339
/// offset is read; finer digits than microseconds are cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(u64);

/// 9999-12-31T23:59:59.999999Z, the last instant that RFC 3339 can write.
const LAST: u64 = 253_402_300_799_999_999;

/// Why a text is not a [`Timestamp`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadTimestamp {
    #[error("not an RFC 3339 time: {0}")]
    Unreadable(String),
    #[error("outside the years 1970 to 9999")]
    OutOfRange,
}

impl Timestamp {
    /// # Errors
    /// [`BadTimestamp::OutOfRange`] past the year 9999.
    pub fn from_micros(micros: u64) -> Result<Self, BadTimestamp> {
        if micros > LAST { Err(BadTimestamp::OutOfRange) } else { Ok(Self(micros)) }
    }

    pub fn now() -> Self {
        Self::from(Utc::now())
    }

    pub fn micros(self) -> u64 {
        self.0
    }

    /// Seconds since the Unix epoch, as Prometheus has times.
    pub fn seconds(self) -> f64 {
        self.0 as f64 / 1e6
    }

    /// So much earlier; the beginning of 1970 at the earliest.
    #[must_use]
    pub fn minus(self, by: std::time::Duration) -> Self {
        Self(self.0.saturating_sub(u64::try_from(by.as_micros()).unwrap_or(u64::MAX)))
    }

    /// The distance to an earlier time; zero if `earlier` is the later one.
    pub fn since(self, earlier: Self) -> std::time::Duration {
        std::time::Duration::from_micros(self.0.saturating_sub(earlier.0))
    }
}

impl From<DateTime<Utc>> for Timestamp {
    /// Times outside the years 1970 to 9999 are brought to the nearer end.
    fn from(time: DateTime<Utc>) -> Self {
        Self(u64::try_from(time.timestamp_micros()).unwrap_or(0).min(LAST))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let micros = i64::try_from(self.0).map_err(|_| fmt::Error)?;
        let time = DateTime::<Utc>::from_timestamp_micros(micros).ok_or(fmt::Error)?;
        f.write_str(&time.to_rfc3339_opts(SecondsFormat::Micros, true))
    }
}

impl FromStr for Timestamp {
    type Err = BadTimestamp;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let time = DateTime::parse_from_rfc3339(text).map_err(|error| BadTimestamp::Unreadable(error.to_string()))?;
        let micros = u64::try_from(time.timestamp_micros()).map_err(|_| BadTimestamp::OutOfRange)?;
        Self::from_micros(micros)
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mixed_formats_of_one_instant_are_equal() {
        let zulu: Timestamp = "2026-01-02T03:04:05Z".parse().unwrap();
        let offset: Timestamp = "2026-01-02T05:04:05.000000+02:00".parse().unwrap();
        assert_eq!(zulu, offset);
        assert_eq!(zulu.to_string(), "2026-01-02T03:04:05.000000Z");
    }

    #[test]
    fn a_time_is_microseconds_or_seconds_since_the_epoch() {
        let time: Timestamp = "1970-01-01T00:01:00.500000Z".parse().unwrap();
        assert_eq!((time.micros(), time.seconds()), (60_500_000, 60.5));
    }

    #[test]
    fn times_that_no_reader_could_write_back_are_refused() {
        assert!("1969-12-31T23:59:59Z".parse::<Timestamp>().is_err());
        assert!("yesterday".parse::<Timestamp>().is_err());
        assert!(Timestamp::from_micros(LAST + 1).is_err());
        assert_eq!(Timestamp::from_micros(LAST).unwrap().to_string(), "9999-12-31T23:59:59.999999Z");
    }
}
