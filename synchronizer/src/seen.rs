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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::value::RawValue;

    use super::*;
    use crate::translate::from_feed;

    /// A message of the vendor's; one without an id is rejected.
    fn record(id: &str, sequence: u64) -> Record {
        let item = serde_json::json!({
            "type": "message", "chat_id": "c", "id": id, "parent_id": null, "author": "ada", "text": "hello",
            "created_at": "2026-01-02T03:04:05Z", "edited_at": null, "deleted_at": null, "deleted": false, "sequence": sequence
        });
        let item = RawValue::from_string(item.to_string()).unwrap();
        from_feed("vendor", 3, &item, "2026-01-02T04:00:00Z".parse().unwrap())
    }

    #[test]
    fn a_version_of_a_message_is_known_from_its_append_on_and_no_other_one_with_it() {
        let (mut seen, now) = (Seen::default(), Instant::now());
        assert!(!seen.contains(&record("m", 7), None));
        seen.insert(&record("m", 7), now);
        assert!(seen.contains(&record("m", 7), None));
        assert!(!seen.contains(&record("m", 8), None), "another version");
        assert!(!seen.contains(&record("n", 7), None), "another message");
    }

    #[test]
    fn what_was_appended_before_a_moment_does_not_count_after_it() {
        let (mut seen, now) = (Seen::default(), Instant::now());
        seen.insert(&record("m", 7), now);
        assert!(seen.contains(&record("m", 7), Some(now)));
        assert!(!seen.contains(&record("m", 7), Some(now + Duration::from_nanos(1))));
    }

    #[test]
    fn what_was_rejected_is_known_by_its_text() {
        let mut seen = Seen::default();
        assert!(matches!(record("", 7), Record::Rejected(_)));
        seen.insert(&record("", 7), Instant::now());
        assert!(seen.contains(&record("", 7), None));
        assert!(!seen.contains(&record("", 8), None));
    }
}
