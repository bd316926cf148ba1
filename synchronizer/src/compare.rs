//! Whether the copy has what the source has, and what makes it so. Pure: no I/O, no clock.
//!
//! What is stored must be read *before* the source is asked: the source is then at least as new as the copy, and a
//! difference is never one that time alone made.

use contract::version::{ERASED, VersionFields};
use contract::{Chat, Message, Record, Row, Stamp, Version};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// How many living rows there are, and which: the sum of their digests, whatever their order. Deleted rows are left
/// out, for a source may forget them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Sum {
    pub count: u64,
    pub digest: u64,
}

impl Sum {
    pub fn add(&mut self, id: &str, version: &Version) {
        let Some(fields) = version.fields().ok().filter(|_| is_living(version)) else { return };
        self.count += 1;
        self.digest = self.digest.wrapping_add(xxh3_64_with_seed(id.as_bytes(), fields.digest));
    }

    /// What this one has and the other one has not, modulo 2^64: the default if they are alike.
    #[must_use]
    pub fn minus(self, other: Self) -> Self {
        Self { count: self.count.wrapping_sub(other.count), digest: self.digest.wrapping_sub(other.digest) }
    }
}

/// Whether two versions are of the same content: that, and nothing else, is what readers see.
pub fn same(a: &Version, b: &Version) -> bool {
    match (a.fields(), b.fields()) {
        (Ok(a), Ok(b)) => (a.deleted, a.digest) == (b.deleted, b.digest),
        _ => a == b,
    }
}

/// Neither deleted nor erased.
pub fn is_living(version: &Version) -> bool {
    !version.is_erased() && version.fields().is_ok_and(|fields| !fields.deleted)
}

/// What a served row makes necessary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Difference {
    /// The row as the source has it, for its version is the greater one.
    Newer(Row),
    /// The source's content under the stored fields, `rev` one higher, so that the next real change still wins.
    Repair(Row),
}

/// What a served row makes necessary; `None` if the copy has it.
pub fn difference(served: Row, stored: Option<&Version>) -> Option<Difference> {
    let Some(stored_version) = stored else { return Some(Difference::Newer(served)) };
    // Unreadable versions cannot be stored.
    let stored = stored_version.fields().ok()?;
    let of_source = served.version().fields().ok()?;
    if stored.epoch == ERASED || same(stored_version, served.version()) {
        return None;
    }
    if beyond_content(&of_source) > beyond_content(&stored) {
        return Some(Difference::Newer(served));
    }
    let stamp = Stamp {
        epoch: stored.epoch,
        sequence: stored.sequence,
        changed_at: stored.changed_at,
        rev: stored.rev.saturating_add(1),
        deleted: of_source.deleted,
    };
    Some(Difference::Repair(stamped(served, stamp)))
}

/// What orders two versions of other content: two contents under one stamp are a disagreement, and none is newer.
fn beyond_content(fields: &VersionFields) -> VersionFields {
    VersionFields { digest: 0, ..*fields }
}

/// The deletion of a stored row that the source does not have any more; `None` if the copy agrees already.
pub fn deletion(stored: Row) -> Option<Record> {
    let stamp = *stored.stamp();
    if stamp.deleted || stamp.epoch == ERASED {
        return None;
    }
    let stamp = Stamp { rev: stamp.rev.saturating_add(1), deleted: true, ..stamp };
    let gone = match stored {
        Row::Message(message) => Row::Message(Message { text: None, ..message }),
        chat @ Row::Chat(_) => chat,
    };
    Some(stamped(gone, stamp).into())
}

fn stamped(row: Row, stamp: Stamp) -> Row {
    match row {
        Row::Chat(chat) => Row::Chat(Chat { stamp, ..chat }.stamped()),
        Row::Message(message) => Row::Message(Message { stamp, ..message }.stamped()),
    }
}

#[cfg(test)]
mod tests {
    use contract::Timestamp;
    use contract::row::unstamped;

    use super::*;

    fn message(epoch: u32, sequence: u64, text: &str) -> Message {
        let created_at: Timestamp = "2026-01-02T03:04:05Z".parse().unwrap();
        Message {
            chat_id: "c".into(),
            id: "m".into(),
            parent_id: None,
            author: Some("ada".into()),
            text: Some(text.into()),
            created_at,
            edited_at: None,
            deleted_at: None,
            stamp: Stamp { epoch, sequence, changed_at: created_at, rev: 0, deleted: false },
            version: unstamped(),
        }
        .stamped()
    }

    fn compared(served: &Message, stored: &Message) -> Option<Difference> {
        difference(Row::Message(served.clone()), Some(&stored.version))
    }

    fn repaired(served: &Message, stored: &Message) -> Message {
        match compared(served, stored) {
            Some(Difference::Repair(Row::Message(message))) => message,
            other => panic!("{other:?}"),
        }
    }

    fn newer(message: Message) -> Option<Difference> {
        Some(Difference::Newer(Row::Message(message)))
    }

    #[test]
    fn what_is_missing_is_appended_as_it_is() {
        let served = message(1, 7, "hello");
        assert_eq!(difference(Row::Message(served.clone()), None), newer(served));
    }

    #[test]
    fn the_same_content_is_no_difference_whatever_its_version() {
        assert_eq!(compared(&message(2, 1, "hello"), &message(1, 7, "hello")), None);
        assert_eq!(compared(&message(1, 6, "hello"), &message(1, 7, "hello")), None);
    }

    #[test]
    fn a_newer_row_of_the_source_is_appended_as_it_is() {
        let served = message(1, 8, "edited");
        assert_eq!(compared(&served, &message(1, 7, "hello")), newer(served));
    }

    #[test]
    fn an_older_row_with_other_content_becomes_a_repair_that_the_next_change_beats() {
        let (served, stored) = (message(1, 7, "as the source has it"), message(1, 9, "wrong"));
        let repair = repaired(&served, &stored);
        assert_eq!((repair.text.as_deref(), repair.stamp.rev), (Some("as the source has it"), 1));
        assert!(repair.version > stored.version);
        assert!(message(1, 10, "next").version > repair.version);
        assert_eq!(compared(&served, &repair), None, "once is enough");
        Record::Message(repair).check("2026-01-02T03:04:06Z".parse().unwrap()).unwrap();
    }

    #[test]
    fn a_chat_is_repaired_and_deleted_as_a_message_is() {
        let created_at: Timestamp = "2026-01-02T03:04:05Z".parse().unwrap();
        let chat = |sequence, title: &str| {
            let stamp = Stamp { epoch: 1, sequence, changed_at: created_at, rev: 0, deleted: false };
            let (edited_at, deleted_at, version) = (None, None, unstamped());
            Chat { id: "c".into(), title: Some(title.into()), created_at, edited_at, deleted_at, stamp, version }
                .stamped()
        };
        let (served, stored) = (chat(7, "as the source has it"), chat(9, "wrong"));
        let Some(Difference::Repair(Row::Chat(repair))) = difference(Row::Chat(served), Some(&stored.version)) else {
            panic!("a repair")
        };
        assert_eq!((repair.title.as_deref(), repair.stamp.rev), (Some("as the source has it"), 1));
        assert_eq!(repair.version, repair.expected_version());
        let Some(Record::Chat(gone)) = deletion(Row::Chat(stored.clone())) else { panic!("a deletion") };
        assert!(gone.stamp.deleted && gone.version > stored.version);
    }

    #[test]
    fn another_content_under_the_same_stamp_is_repaired_whichever_digest_is_greater() {
        let (a, b) = (message(1, 7, "a"), message(1, 7, "b"));
        assert_eq!(repaired(&a, &b).text.as_deref(), Some("a"));
        assert_eq!(repaired(&b, &a).text.as_deref(), Some("b"));
    }

    #[test]
    fn what_the_source_does_not_have_is_deleted_and_may_come_back() {
        let stored = message(1, 7, "hello");
        let Some(Record::Message(gone)) = deletion(Row::Message(stored.clone())) else { panic!("a deletion") };
        assert!(gone.stamp.deleted && gone.text.is_none() && gone.version > stored.version);
        assert_eq!(gone.stamp.rev, 1);
        assert_eq!(deletion(Row::Message(gone.clone())), None);
        let back = repaired(&stored, &gone);
        assert!(!back.stamp.deleted && back.version > gone.version && back.text.as_deref() == Some("hello"));
    }

    #[test]
    fn a_sum_knows_every_living_row_in_whatever_order() {
        let sum = |rows: &[&Message]| {
            let mut sum = Sum::default();
            rows.iter().for_each(|row| sum.add(&row.id, &row.version));
            sum
        };
        let (a, mut b) = (message(1, 7, "a"), message(1, 8, "b"));
        b.id = "n".into();
        let b = b.stamped();
        assert_eq!(sum(&[&a, &b]), sum(&[&b, &a]));
        assert_eq!((sum(&[]).count, sum(&[&a]).count, sum(&[&a, &b]).count), (0, 1, 2));
        assert_ne!(sum(&[&a, &b]), sum(&[&a]));
        assert_ne!(sum(&[&a]).digest, sum(&[&message(1, 7, "other")]).digest);
        let Some(Record::Message(gone)) = deletion(Row::Message(b)) else { panic!("a deletion") };
        assert_eq!(sum(&[&a, &gone]), sum(&[&a]));
    }

    #[test]
    fn what_was_erased_stays_erased() {
        let mut erased = message(1, 7, "");
        erased.stamp.epoch = ERASED;
        erased.text = None;
        let erased = erased.stamped();
        assert_eq!(compared(&message(2, 9, "again"), &erased), None);
        assert_eq!(deletion(Row::Message(erased)), None);
    }
}
