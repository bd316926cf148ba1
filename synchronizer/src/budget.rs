//! The request budget: how often the source is asked, whoever asks.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};

use crate::source::{ListAt, Listing, Outcome, Page, Source};

/// A source that is asked no more often than a budget allows; a token bucket that holds one second's worth.
pub struct Budgeted {
    source: Arc<dyn Source>,
    budget: DefaultDirectRateLimiter,
}

impl Budgeted {
    pub fn new(source: Arc<dyn Source>, requests_a_second: NonZeroU32) -> Self {
        Self { source, budget: RateLimiter::direct(Quota::per_second(requests_a_second)) }
    }
}

#[async_trait]
impl Source for Budgeted {
    async fn poll(&self, after: Option<&str>, wait: Duration) -> Outcome<Page> {
        self.budget.until_ready().await;
        self.source.poll(after, wait).await
    }

    async fn list(&self, at: &ListAt) -> Outcome<Listing> {
        self.budget.until_ready().await;
        self.source.list(at).await
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::time::Instant;

    use super::*;

    #[derive(Default)]
    struct Counting(AtomicU32);

    #[async_trait]
    impl Source for Counting {
        async fn poll(&self, _: Option<&str>, _: Duration) -> Outcome<Page> {
            self.0.fetch_add(1, Ordering::SeqCst);
            Outcome::Unavailable("empty".into())
        }
        async fn list(&self, _: &ListAt) -> Outcome<Listing> {
            self.0.fetch_add(1, Ordering::SeqCst);
            Outcome::Unavailable("empty".into())
        }
    }

    #[tokio::test]
    async fn polls_and_listings_share_one_budget() {
        let source = Arc::new(Counting::default());
        let budgeted = Budgeted::new(source.clone(), NonZeroU32::new(20).unwrap());
        let started = Instant::now();
        while started.elapsed() < Duration::from_secs(1) {
            budgeted.poll(None, Duration::ZERO).await;
            budgeted.list(&ListAt::Chats).await;
        }
        let allowed = 20.0 + 20.0 * started.elapsed().as_secs_f64() + 1.0;
        assert!(f64::from(source.0.load(Ordering::SeqCst)) <= allowed);
    }
}
