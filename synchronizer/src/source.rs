//! What a source must be able to do, and everything that may come of it.

use std::time::Duration;

use async_trait::async_trait;
use serde_json::value::RawValue;

/// A chat service that is read from.
#[async_trait]
pub trait Source: Send + Sync {
    /// The changes behind the cursor; `None` begins with the oldest that the source still has.
    async fn poll(&self, after: Option<&str>) -> Outcome<Page>;

    /// All rows as they are now, a page at a time; `None` begins.
    async fn list(&self, at: Option<ListCursor>) -> Outcome<Listing>;
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
    pub items: Vec<(ItemKind, Box<RawValue>)>,
    /// Where to go on; `None` at the end.
    pub next: Option<ListCursor>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ItemKind {
    Chat,
    Message,
}

/// Where a listing stands: the chats that are still to be listed, and the message to go on before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListCursor {
    pub chats: Vec<String>,
    pub before: Option<String>,
}
