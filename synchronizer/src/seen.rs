//! What was appended lately, so that repeats are not appended again. Only a hint: forgetting costs
//! duplicates, which the versions make harmless.

use std::num::NonZeroUsize;

use contract::Record;
use lru::LruCache;
use xxhash_rust::xxh3::xxh3_128;

/// How many (key, version) pairs are remembered: 16 bytes each and the cache's own.
const CAPACITY: NonZeroUsize = NonZeroUsize::new(200_000).unwrap();

/// The (key, version) pairs that were appended last.
pub struct Seen(LruCache<u128, ()>);

impl Default for Seen {
    fn default() -> Self {
        Self(LruCache::new(CAPACITY))
    }
}

impl Seen {
    pub fn contains(&mut self, record: &Record) -> bool {
        fingerprint(record).is_some_and(|fingerprint| self.0.get(&fingerprint).is_some())
    }

    /// Call it after the acks only.
    pub fn insert(&mut self, record: &Record) {
        if let Some(fingerprint) = fingerprint(record) {
            self.0.put(fingerprint, ());
        }
    }
}

fn fingerprint(record: &Record) -> Option<u128> {
    let version = match record {
        Record::Message(message) => message.version.as_str(),
        Record::Chat(chat) => chat.version.as_str(),
        Record::Rejected(_) => "rejected",
        Record::Marker(_) => return None,
    };
    Some(xxh3_128(format!("{version} {}", record.key()?).as_bytes()))
}
