//! Which version of each message browsers have, so that none is sent an older one (V3).

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::time::Duration;

use contract::{Timestamp, Version};
use lru::LruCache;
use serde::{Deserialize, Serialize};

use crate::shown::ShownMessage;

/// Of how many messages a version is remembered.
const REMEMBERED: NonZeroUsize = NonZeroUsize::new(200_000).unwrap();

/// Of how many messages it is remembered that somebody was given a version that was not pushed.
const GIVEN: NonZeroUsize = NonZeroUsize::new(20_000).unwrap();

/// What a new leader, or a mirror, reads again is seldom older.
const LATELY: Duration = Duration::from_secs(3600);

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

/// The newest version of each message that was pushed to everybody who watches its chat.
#[derive(Clone)]
pub struct Pushes(LruCache<Name, Pushed>);

impl Pushes {
    pub fn new() -> Self {
        Self::remembering(REMEMBERED)
    }

    pub fn remembering(messages: NonZeroUsize) -> Self {
        Self(LruCache::new(messages))
    }

    #[cfg(test)]
    pub fn all(&self) -> impl Iterator<Item = (&Name, &Version)> {
        self.0.iter().map(|(name, pushed)| (name, &pushed.version))
    }

    /// Whether neither this version nor a newer one was pushed.
    pub fn is_news(&mut self, name: &Name, version: &Version) -> bool {
        self.0.get(name).is_none_or(|pushed| pushed.version < *version)
    }

    /// Whether a newer version was pushed.
    pub fn has_newer(&self, name: &Name, version: &Version) -> bool {
        self.0.peek(name).is_some_and(|pushed| pushed.version > *version)
    }

    pub fn put(&mut self, name: Name, pushed: Pushed) {
        self.0.put(name, pushed);
    }

    /// It may be pushed again, unless something newer was.
    fn forget(&mut self, row: &ShownMessage) {
        let name = name_of(row);
        if !self.has_newer(&name, &row.version) {
            self.0.pop(&name);
        }
    }

    pub fn get(&self, name: &Name) -> Option<&Pushed> {
        self.0.peek(name)
    }
}

/// How many bytes of rows may have been pushed early at once.
const MAX_EARLY: usize = 16 << 20;

/// Rows that were pushed before this pod has read their records: another pod has, and the gate said so in place of an
/// older one. Neither the store nor the ring need have them, and when their records come they are no news any more; so
/// whoever begins to watch in between must be given them.
#[derive(Debug, Clone, Default)]
pub struct Early {
    /// By chat, by message.
    rows: HashMap<String, HashMap<String, ShownMessage>>,
    bytes: usize,
}

impl Early {
    /// A row was pushed early.
    pub fn put(&mut self, row: &ShownMessage, pushes: &mut Pushes) {
        self.bytes += row.weight();
        let replaced = self.rows.entry(row.chat_id.clone()).or_default().insert(row.id.clone(), row.clone());
        self.bytes -= replaced.map_or(0, |row| row.weight());
        if self.bytes > MAX_EARLY {
            self.bytes = 0;
            // Their records will be news again.
            self.rows.drain().flat_map(|(_, rows)| rows.into_values()).for_each(|row| pushes.forget(&row));
        }
    }

    /// A record was read: from here on the ring has it.
    pub fn read(&mut self, row: &ShownMessage) {
        let Some(rows) = self.rows.get_mut(&row.chat_id) else { return };
        if rows.get(&row.id).is_some_and(|early| early.version <= row.version) {
            self.bytes -= rows.remove(&row.id).map_or(0, |early| early.weight());
        }
        if rows.is_empty() {
            self.rows.remove(&row.chat_id);
        }
    }

    pub fn rows(&self, chat: &str) -> impl Iterator<Item = &ShownMessage> {
        self.rows.get(chat).into_iter().flat_map(HashMap::values)
    }
}

/// What loads and resumes gave that is newer than what was pushed: a load has what the store has, a resume what the ring
/// has. Nothing older is pushed any more, to anybody: whoever was not given it gets it when its own record comes.
#[derive(Clone)]
pub struct Given(LruCache<Name, Version>);

impl Given {
    pub fn new() -> Self {
        Self::remembering(GIVEN)
    }

    pub fn remembering(messages: NonZeroUsize) -> Self {
        Self(LruCache::new(messages))
    }

    /// Somebody was given these rows. Where `all_pushed`, records up to them were, and only what was changed lately is
    /// remembered: that may be read again.
    pub fn note<'a>(&mut self, rows: impl Iterator<Item = &'a ShownMessage>, pushes: &Pushes, all_pushed: bool) {
        let now = Timestamp::now();
        let lately = |row: &ShownMessage| {
            let changed_at = row.version.fields().map_or(row.created_at, |fields| fields.changed_at);
            now.since(changed_at) < LATELY
        };
        for row in rows.filter(|row| !all_pushed || lately(row)) {
            let name = name_of(row);
            if pushes.get(&name).is_none_or(|pushed| pushed.version < row.version)
                && !self.has_newer(&name, &row.version)
            {
                self.0.put(name, row.version.clone());
            }
        }
    }

    /// Whether somebody was given a newer version.
    pub fn has_newer(&self, name: &Name, version: &Version) -> bool {
        self.0.peek(name).is_some_and(|given| given > version)
    }

    /// What was pushed now is as new: from here on that is remembered instead.
    pub fn forget(&mut self, name: &Name) {
        self.0.pop(name);
    }

    #[cfg(test)]
    pub fn all(&self) -> impl Iterator<Item = (&Name, &Version)> {
        self.0.iter()
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
