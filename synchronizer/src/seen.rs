//! What was appended lately, so that repeats are not appended again. Only a hint: forgetting costs
//! duplicates, which the versions make harmless.

use std::num::NonZeroUsize;
use std::time::Instant;

use contract::Record;
use lru::LruCache;
use xxhash_rust::xxh3::xxh3_128;

/// How many (key, version) pairs are remembered: about 100 bytes each. More than what is read again every few
/// seconds (`checkpoint::OVERLAP_ROWS`), else that would be appended again and again.
const CAPACITY: NonZeroUsize = NonZeroUsize::new(500_000).unwrap();

/// The (key, version) pairs that were appended last, and when.
pub struct Seen(LruCache<u128, Instant>);

impl Default for Seen {
    fn default() -> Self {
        Self(LruCache::new(CAPACITY))
    }
}

impl Seen {
    /// Whether the record was appended; with `since`, whether after that moment.
    pub fn contains(&mut self, record: &Record, since: Option<Instant>) -> bool {
        let known = fingerprint(record).and_then(|fingerprint| self.0.get(&fingerprint));
        known.is_some_and(|appended| since.is_none_or(|since| *appended >= since))
    }

    /// Call it after the acks only.
    pub fn insert(&mut self, record: &Record, now: Instant) {
        if let Some(fingerprint) = fingerprint(record) {
            self.0.put(fingerprint, now);
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
