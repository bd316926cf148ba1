//! Backoff with jitter, for what may come back.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};

/// Waits that double from `first` to `longest`, for ever, with jitter so that many do not come back at once.
pub fn backoff(first: Duration, longest: Duration) -> impl Iterator<Item = Duration> + Send {
    ExponentialBuilder::default()
        .with_min_delay(first)
        .with_max_delay(longest)
        .with_jitter()
        .without_max_times()
        .build()
}

/// The waits for a server that went away: from 50 ms to 2 s.
pub fn reconnecting() -> impl Iterator<Item = Duration> + Send {
    backoff(Duration::from_millis(50), Duration::from_secs(2))
}
