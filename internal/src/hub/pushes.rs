//! Which version of each message browsers have, so that none is sent an older one (V3).

use std::collections::{BTreeMap, HashMap};
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

/// The newest version of each message that was pushed to everybody who watches its chat.
pub struct Pushes(LruCache<Name, Pushed>);

impl Pushes {
    pub fn new() -> Self {
        Self(LruCache::new(REMEMBERED))
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

    pub fn get(&self, name: &Name) -> Option<&Pushed> {
        self.0.peek(name)
    }
}

/// What one connection was sent before everybody got it: a load has what the store has, and a resume what the ring has,
/// and this pod may not have pushed that yet. Nothing older is for this connection any more.
#[derive(Debug)]
pub struct Ahead {
    /// By message.
    versions: HashMap<String, Version>,
    /// By topic: when everything before these offsets was pushed, nothing is ahead any more.
    until: BTreeMap<String, u64>,
}

impl Ahead {
    /// What of these rows was not pushed yet; `None` if all of it was.
    pub fn of<'a>(
        rows: impl Iterator<Item = &'a ShownMessage>,
        pushes: &Pushes,
        until: BTreeMap<String, u64>,
    ) -> Option<Box<Self>> {
        let ahead = rows.filter(|row| pushes.get(&name_of(row)).is_none_or(|pushed| pushed.version < row.version));
        let versions: HashMap<_, _> = ahead.map(|row| (row.id.clone(), row.version.clone())).collect();
        (!versions.is_empty()).then(|| Box::new(Self { versions, until }))
    }

    pub fn has_newer(&self, message: &str, version: &Version) -> bool {
        self.versions.get(message).is_some_and(|ahead| ahead > version)
    }

    /// Whether everything was pushed by now; `published` gives a topic's offset.
    pub fn is_over(&self, published: impl Fn(&str) -> u64) -> bool {
        self.until.iter().all(|(topic, until)| published(topic) >= *until)
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
