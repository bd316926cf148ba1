//! The request budget: how often the source is asked, whoever asks, and how long it is left alone when it says so.

use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};

use crate::source::{ListAt, Listing, Outcome, Page, Source};

/// A source that is asked no more often than a budget allows; a token bucket that holds one second's worth.
pub struct Budgeted {
    source: Arc<dyn Source>,
    budget: DefaultDirectRateLimiter,
    polls: Pause,
    lists: Pause,
}

impl Budgeted {
    pub fn new(source: Arc<dyn Source>, requests_a_second: NonZeroU32) -> Self {
        let budget = RateLimiter::direct(Quota::per_second(requests_a_second));
        Self { source, budget, polls: Pause::default(), lists: Pause::default() }
    }
}

#[async_trait]
impl Source for Budgeted {
    async fn poll(&self, after: Option<&str>, wait: Duration) -> Outcome<Page> {
        if let Some(refusal) = self.polls.refusal() {
            return refusal;
        }
        self.budget.until_ready().await;
        self.polls.note(self.source.poll(after, wait).await)
    }

    async fn list(&self, at: &ListAt) -> Outcome<Listing> {
        if let Some(refusal) = self.lists.refusal() {
            return refusal;
        }
        self.budget.until_ready().await;
        self.lists.note(self.source.list(at).await)
    }
}

/// Until when the source wants to be left alone with requests of a kind, in which scope. Whoever asks before that
/// gets the source's answer without a request.
#[derive(Default)]
struct Pause(Mutex<Option<(Instant, String)>>);

impl Pause {
    fn refusal<T>(&self) -> Option<Outcome<T>> {
        let paused = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let (until, scope) = paused?;
        let retry_after = until.checked_duration_since(Instant::now())?;
        Some(Outcome::RateLimited { scope, retry_after })
    }

    fn note<T>(&self, outcome: Outcome<T>) -> Outcome<T> {
        if let Outcome::RateLimited { scope, retry_after } = &outcome {
            let until = Instant::now() + *retry_after;
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((until, scope.clone()));
        }
        outcome
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

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

    /// Wants to be left alone with polls.
    #[derive(Default)]
    struct Tired(Counting);

    #[async_trait]
    impl Source for Tired {
        async fn poll(&self, after: Option<&str>, wait: Duration) -> Outcome<Page> {
            self.0.poll(after, wait).await;
            Outcome::RateLimited { scope: "feed".into(), retry_after: Duration::from_secs(60) }
        }
        async fn list(&self, at: &ListAt) -> Outcome<Listing> {
            self.0.list(at).await
        }
    }

    #[tokio::test]
    async fn retry_after_holds_for_whoever_asks_next_and_for_that_kind_of_request() {
        let source = Arc::new(Tired::default());
        let budgeted = Budgeted::new(source.clone(), NonZeroU32::new(1000).unwrap());
        budgeted.poll(None, Duration::ZERO).await;
        let again = budgeted.poll(Some("another cursor"), Duration::ZERO).await;
        assert!(matches!(again, Outcome::RateLimited { scope, retry_after }
            if scope == "feed" && retry_after > Duration::from_secs(50)));
        assert_eq!(source.0.0.load(Ordering::SeqCst), 1, "it was not asked again");
        budgeted.list(&ListAt::Chats).await;
        assert_eq!(source.0.0.load(Ordering::SeqCst), 2);
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
