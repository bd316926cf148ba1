//! Which version of each message browsers have, so that none is sent an older one (V3).

use std::collections::HashMap;
use std::num::NonZeroUsize;

use contract::{Timestamp, Version};
use lru::LruCache;
use serde::{Deserialize, Serialize};

use crate::shown::ShownMessage;

/// Of how many messages a version is remembered.
const REMEMBERED: NonZeroUsize = NonZeroUsize::new(200_000).unwrap();

/// A message as it was pushed last, for operators.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pushed {
    pub version: Version,
    /// The gate's word; empty if it was not asked.
    pub answer: std::borrow::Cow<'static, str>,
    /// How many connections watched its chat.
    pub connections: u64,
    pub at: Timestamp,
}

/// A message of a chat.
pub type Name = (String, String);

pub fn name_of(row: &ShownMessage) -> Name {
    (row.chat_id.clone(), row.id.clone())
}

/// The newest version of each message that was sent to anybody.
pub struct Pushes {
    /// By pushing it to everybody who watches the chat.
    pushed: LruCache<Name, Pushed>,
    /// By a load or a resume, which may have what the log's reader has not pushed yet: it will come.
    ahead: LruCache<Name, Version>,
}

impl Pushes {
    pub fn new() -> Self {
        Self { pushed: LruCache::new(REMEMBERED), ahead: LruCache::new(REMEMBERED) }
    }

    /// Whether a version is worth pushing: it is not if it was pushed, nor if somebody has a newer one that will be.
    pub fn is_news(&mut self, name: &Name, version: &Version) -> bool {
        self.pushed.get(name).is_none_or(|pushed| pushed.version < *version)
            && self.ahead.get(name).is_none_or(|ahead| ahead <= version)
    }

    pub fn put(&mut self, name: Name, pushed: Pushed) {
        self.ahead.pop(&name);
        self.pushed.put(name, pushed);
    }

    /// Takes note of rows that one connection was sent.
    pub fn run_ahead(&mut self, rows: impl IntoIterator<Item = (Name, Version)>) {
        for (name, version) in rows {
            if self.newest(&name).is_none_or(|newest| *newest < version) {
                self.ahead.put(name, version);
            }
        }
    }

    /// Whether somebody was sent a newer version.
    pub fn has_newer(&self, name: &Name, version: &Version) -> bool {
        self.newest(name).is_some_and(|newest| newest > version)
    }

    fn newest(&self, name: &Name) -> Option<&Version> {
        self.pushed.peek(name).map(|pushed| &pushed.version).max(self.ahead.peek(name))
    }

    pub fn get(&self, name: &Name) -> Option<&Pushed> {
        self.pushed.peek(name)
    }
}

/// Of several versions of a message only the newest, once: whoever resumes may have seen it before.
pub fn keep_newest(rows: &mut Vec<&ShownMessage>) {
    let mut newest: HashMap<&str, &Version> = HashMap::new();
    for row in rows.iter() {
        let known = newest.entry(&row.id).or_insert(&row.version);
        *known = (*known).max(&row.version);
    }
    rows.retain(|row| newest.get(row.id.as_str()) == Some(&&row.version) && newest.remove(row.id.as_str()).is_some());
}
