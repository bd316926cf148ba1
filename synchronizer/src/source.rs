//! What a source must be able to do, and everything that may come of it.

use std::time::Duration;

use async_trait::async_trait;
use serde_json::value::RawValue;

/// A chat service that is read from.
#[async_trait]
pub trait Source: Send + Sync {
    /// The changes behind the cursor; `None` begins with the oldest that the source still has. Where there is
    /// none, the source may keep the request open for `wait`.
    async fn poll(&self, after: Option<&str>, wait: Duration) -> Outcome<Page>;

    /// Rows as they are now, a page at a time.
    async fn list(&self, at: &ListAt) -> Outcome<Listing>;
}

/// What came of a request; each is handled another way.
#[derive(Debug)]
pub enum Outcome<T> {
    Answered(T),
    RateLimited {
        scope: String,
        retry_after: Duration,
    },
    /// The cursor is too old, or of an earlier generation, or not known any more.
    CursorExpired(String),
    /// What was asked for is not there, or not any more.
    Gone(String),
    Unauthorized(String),
    /// Anything that may pass by itself.
    Unavailable(String),
}

impl<T> Outcome<T> {
    /// Another answer, and everything else as it is.
    pub fn map<U>(self, change: impl FnOnce(T) -> U) -> Outcome<U> {
        self.and_then(|answer| Outcome::Answered(change(answer)))
    }

    /// What comes of the answer, and everything else as it is.
    pub fn and_then<U>(self, next: impl FnOnce(T) -> Outcome<U>) -> Outcome<U> {
        match self {
            Self::Answered(answer) => next(answer),
            Self::RateLimited { scope, retry_after } => Outcome::RateLimited { scope, retry_after },
            Self::CursorExpired(why) => Outcome::CursorExpired(why),
            Self::Gone(why) => Outcome::Gone(why),
            Self::Unauthorized(why) => Outcome::Unauthorized(why),
            Self::Unavailable(why) => Outcome::Unavailable(why),
        }
    }

    /// A word for metrics.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Answered(_) => "answered",
            Self::RateLimited { .. } => "rate_limited",
            Self::CursorExpired(_) => "cursor_expired",
            Self::Gone(_) => "gone",
            Self::Unauthorized(_) => "unauthorized",
            Self::Unavailable(_) => "unavailable",
        }
    }

    /// Why the source is waited for, and how long.
    pub fn reason_and_wait(&self, waits: &mut impl Iterator<Item = Duration>) -> (String, Duration) {
        let wait = waits.next().unwrap_or(LONGEST_WAIT);
        match self {
            Self::RateLimited { scope, retry_after } => {
                let wait = wait.max(*retry_after);
                (format!("rate-limited ({scope}), waiting {} s", wait.as_secs()), wait)
            }
            Self::Unauthorized(why) => (format!("not allowed: {why}"), LONGEST_WAIT),
            Self::Unavailable(why) | Self::CursorExpired(why) | Self::Gone(why) => (why.clone(), wait),
            Self::Answered(_) => ("answers".into(), Duration::ZERO),
        }
    }
}

/// How long a source that does not answer is left alone at most, unless it says so itself.
const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// The waits for a source that does not answer.
pub fn waits() -> impl Iterator<Item = Duration> + Send {
    platform::retry::backoff(Duration::from_millis(200), LONGEST_WAIT)
}

/// A page of the feed. The items are read one by one later: one that cannot be understood spoils no other.
#[derive(Debug)]
pub struct Page {
    /// The feed's generation, which is every row's epoch.
    pub generation: u32,
    pub items: Vec<Box<RawValue>>,
    pub next: String,
    /// Whether there is more behind `next` already.
    pub more: bool,
}

/// A page of a listing.
#[derive(Debug)]
pub struct Listing {
    pub generation: u32,
    pub items: Vec<Box<RawValue>>,
    /// Where to go on; `None` at the end.
    pub next: Option<ListAt>,
}

/// Which rows are listed, and from where on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListAt {
    Chats,
    /// A chat's messages, newest first; those before the message `before`.
    Messages {
        chat: String,
        before: Option<String>,
    },
}

impl ListAt {
    pub fn messages(chat: &str) -> Self {
        Self::Messages { chat: chat.to_owned(), before: None }
    }
}
