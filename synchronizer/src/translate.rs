//! From the vendor's language to the contract's. Pure: no I/O, no clock.

use std::collections::BTreeMap;

use contract::row::{latest, unstamped};
use contract::topic::MAX_RECORD_BYTES;
use contract::{Chat, Message, Record, Rejected, Stamp, Timestamp};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::source::Listing;

/// What an item of a listing is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Chat,
    Message,
}

#[derive(Deserialize)]
struct VendorChat {
    id: String,
    title: Option<String>,
    created_at: Timestamp,
    edited_at: Option<Timestamp>,
    deleted_at: Option<Timestamp>,
    #[serde(default)]
    deleted: bool,
    sequence: u64,
}

#[derive(Deserialize)]
struct VendorMessage {
    chat_id: String,
    id: String,
    parent_id: Option<String>,
    author: Option<String>,
    text: Option<String>,
    created_at: Timestamp,
    edited_at: Option<Timestamp>,
    deleted_at: Option<Timestamp>,
    #[serde(default)]
    deleted: bool,
    sequence: u64,
}

/// The record of an item of the feed, or a `rejected` record that keeps it with its reason.
///
/// `now` is when the record will be appended; a source's time is judged by it only where the source
/// has no sequence.
pub fn from_feed(source: &str, generation: u32, item: &RawValue, now: Timestamp) -> Record {
    #[derive(Deserialize)]
    struct Type {
        r#type: String,
    }
    match serde_json::from_str::<Type>(item.get()) {
        Ok(Type { r#type }) if r#type == "chat" => from_listing(source, generation, Kind::Chat, item, now),
        Ok(Type { r#type }) if r#type == "message" => from_listing(source, generation, Kind::Message, item, now),
        Ok(Type { r#type }) => reject(source, generation, "unknown_type", format!("type {:?}", r#type), item),
        Err(error) => reject(source, generation, "malformed", error.to_string(), item),
    }
}

/// As [`from_feed`], for an item of which it is not known whether it came in the feed or in a listing, where an
/// item does not say what it is.
pub fn from_anywhere(source: &str, generation: u32, item: &RawValue, now: Timestamp) -> Record {
    #[derive(Deserialize)]
    struct Shape {
        r#type: Option<String>,
        chat_id: Option<String>,
    }
    match serde_json::from_str::<Shape>(item.get()) {
        Ok(Shape { r#type: None, chat_id: Some(_) }) => from_listing(source, generation, Kind::Message, item, now),
        Ok(Shape { r#type: None, chat_id: None }) => from_listing(source, generation, Kind::Chat, item, now),
        _ => from_feed(source, generation, item, now),
    }
}

/// As [`from_feed`], for an item of a listing, whose kind is known.
pub fn from_listing(source: &str, generation: u32, kind: Kind, item: &RawValue, now: Timestamp) -> Record {
    let record = match kind {
        Kind::Chat => serde_json::from_str(item.get()).map(|row| Record::Chat(chat(generation, row))),
        Kind::Message => serde_json::from_str(item.get()).map(|row| Record::Message(message(generation, row))),
    };
    let record = match record {
        Ok(record) => record,
        Err(error) => return reject(source, generation, "malformed", error.to_string(), item),
    };
    if record.key().is_some_and(|key| key.is_empty() || key.starts_with('/') || key.ends_with('/')) {
        return reject(source, generation, "malformed", "an empty id".into(), item);
    }
    if let Err(invalid) = record.check(now) {
        return reject(source, generation, invalid.reason(), invalid.to_string(), item);
    }
    // Escapes make JSON longer than its texts, so only the encoded length decides.
    let length = record.encode().len();
    if length > MAX_RECORD_BYTES {
        return reject(source, generation, "too_large", format!("{length} bytes"), item);
    }
    record
}

/// Every item of a page of a listing, in its order.
pub fn listing(source: &str, page: &Listing, kind: Kind, now: Timestamp) -> Vec<Record> {
    page.items.iter().map(|item| from_listing(source, page.generation, kind, item, now)).collect()
}

/// The item's id, whatever else cannot be understood.
pub fn id(item: &RawValue) -> Option<String> {
    #[derive(Deserialize)]
    struct Id {
        id: String,
    }
    serde_json::from_str::<Id>(item.get()).ok().map(|item| item.id)
}

fn reject(source: &str, generation: u32, reason: &str, detail: String, item: &RawValue) -> Record {
    let canonical = canonical(item).unwrap_or_else(|| item.get().to_owned());
    let rejected = Rejected::known_as(canonical.as_bytes(), source, reason, detail, item.get().as_bytes());
    Record::Rejected(Rejected { generation: Some(generation), ..rejected })
}

/// A row is one item whether the feed brings it or a listing: without its type, its fields in order.
fn canonical(item: &RawValue) -> Option<String> {
    let mut fields: BTreeMap<String, &RawValue> = serde_json::from_str(item.get()).ok()?;
    fields.remove("type");
    serde_json::to_string(&fields).ok()
}

fn chat(epoch: u32, row: VendorChat) -> Chat {
    let changed_at = latest(row.created_at, row.edited_at, row.deleted_at);
    Chat {
        id: row.id,
        title: row.title,
        created_at: row.created_at,
        edited_at: row.edited_at,
        deleted_at: row.deleted_at,
        stamp: Stamp { epoch, sequence: row.sequence, changed_at, rev: 0, deleted: row.deleted },
        version: unstamped(),
    }
    .stamped()
}

fn message(epoch: u32, row: VendorMessage) -> Message {
    let changed_at = latest(row.created_at, row.edited_at, row.deleted_at);
    Message {
        chat_id: row.chat_id,
        id: row.id,
        parent_id: row.parent_id,
        author: row.author,
        text: row.text.filter(|_| !row.deleted),
        created_at: row.created_at,
        edited_at: row.edited_at,
        deleted_at: row.deleted_at,
        stamp: Stamp { epoch, sequence: row.sequence, changed_at, rev: 0, deleted: row.deleted },
        version: unstamped(),
    }
    .stamped()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: &str = "2026-01-02T04:00:00Z";

    fn translated(item: &str) -> Record {
        let item = RawValue::from_string(item.to_owned()).unwrap();
        from_feed("vendor", 3, &item, NOW.parse().unwrap())
    }

    fn reason(item: &str) -> String {
        match translated(item) {
            Record::Rejected(rejected) => rejected.reason,
            other => panic!("not rejected: {other:?}"),
        }
    }

    fn item(change: impl FnOnce(&mut serde_json::Value)) -> String {
        let mut item = serde_json::json!({
            "type": "message", "chat_id": "c", "id": "m", "parent_id": null, "author": "ada", "text": "hello",
            "created_at": "2026-01-02T03:04:05.000001Z", "edited_at": null, "deleted_at": null, "deleted": false,
            "sequence": 7, "something_new": [1]
        });
        change(&mut item);
        item.to_string()
    }

    #[test]
    fn a_message_carries_its_version_and_passes_the_contract() {
        let record = translated(&item(|_| ()));
        let Record::Message(message) = &record else { panic!("{record:?}") };
        let fields = message.version.fields().unwrap();
        assert_eq!((fields.epoch, fields.sequence, fields.rev, fields.deleted), (3, 7, 0, false));
        assert_eq!(fields.changed_at, message.created_at);
        assert_eq!(Record::decode(&record.encode(), NOW.parse().unwrap()).unwrap(), record);
    }

    fn raw(item: &str) -> Box<RawValue> {
        RawValue::from_string(item.to_owned()).unwrap()
    }

    const CHAT: &str = r#"{"id":"c","title":"A","created_at":"2026-01-02T03:04:05Z","sequence":7}"#;

    #[test]
    fn an_item_is_a_chat_or_a_message_by_its_type_or_else_by_its_shape() {
        let now = NOW.parse().unwrap();
        let typed = translated(&CHAT.replacen('{', r#"{"type":"chat","#, 1));
        assert!(matches!(&typed, Record::Chat(chat) if chat.title.as_deref() == Some("A") && chat.stamp.epoch == 3));
        assert_eq!(from_anywhere("vendor", 3, &raw(CHAT), now), typed);
        let untyped = item(|item| drop(item.as_object_mut().unwrap().remove("type")));
        assert_eq!(from_anywhere("vendor", 3, &raw(&untyped), now), translated(&item(|_| ())));
        assert_eq!(from_anywhere("vendor", 3, &raw(&item(|_| ())), now), translated(&item(|_| ())));
    }

    #[test]
    fn a_page_of_a_listing_is_translated_in_its_order_and_keeps_its_generation() {
        let broken = r#"{"id":"d","title":7}"#;
        let page = Listing { generation: 5, items: vec![raw(CHAT), raw(broken)], next: None };
        let records = listing("vendor", &page, Kind::Chat, NOW.parse().unwrap());
        let [Record::Chat(chat), Record::Rejected(rejected)] = &records[..] else { panic!("{records:?}") };
        assert_eq!((chat.id.as_str(), chat.stamp.epoch, rejected.generation), ("c", 5, Some(5)));
        assert_eq!((id(&raw(broken)).as_deref(), id(&raw("7"))), (Some("d"), None));
    }

    #[test]
    fn a_record_may_be_as_long_as_the_log_takes_and_no_longer() {
        let of_length = |text: usize| translated(&item(|item| item["text"] = "x".repeat(text).into()));
        let longest = MAX_RECORD_BYTES - (of_length(1).encode().len() - 1);
        assert_eq!(of_length(longest).encode().len(), MAX_RECORD_BYTES);
        assert!(matches!(of_length(longest + 1), Record::Rejected(rejected) if rejected.reason == "too_large"));
    }

    #[test]
    fn an_edit_whose_time_was_cut_to_seconds_does_not_fall_behind_its_post() {
        let record = translated(&item(|item| item["edited_at"] = "2026-01-02T03:04:05Z".into()));
        let Record::Message(message) = record else { panic!("rejected") };
        assert_eq!(message.stamp.changed_at, message.created_at);
    }

    #[test]
    fn a_deleted_message_keeps_no_text() {
        let record = translated(&item(|item| item["deleted"] = true.into()));
        assert!(matches!(record, Record::Message(message) if message.text.is_none() && message.stamp.deleted));
    }

    #[test]
    fn an_item_is_known_by_the_same_digest_from_the_feed_and_from_a_listing() {
        let digest = |record| match record {
            Record::Rejected(rejected) => rejected.raw_digest,
            other => panic!("not rejected: {other:?}"),
        };
        let listed = RawValue::from_string(r#"{"id": "m", "chat_id": "c", "text": "\ud800"}"#.to_owned()).unwrap();
        let listed = from_listing("vendor", 3, Kind::Message, &listed, NOW.parse().unwrap());
        let served = translated(r#"{"chat_id":"c","id":"m","text":"\ud800","type":"message"}"#);
        assert_eq!(digest(listed), digest(served));
    }

    #[test]
    fn what_cannot_be_understood_is_kept_with_its_reason() {
        assert_eq!(reason("7"), "malformed");
        assert_eq!(reason("{\"type\":\"poll\"}"), "unknown_type");
        assert_eq!(reason(&item(|item| item["sequence"] = "7".into())), "malformed");
        assert_eq!(reason(&item(|item| item["created_at"] = "today".into())), "malformed");
        assert_eq!(reason(&item(|item| item["id"] = "".into())), "malformed");
        assert_eq!(reason(&item(|item| item["chat_id"] = "".into())), "malformed");
        assert_eq!(reason(&CHAT.replacen("{\"id\":\"c\"", r#"{"type":"chat","id":"""#, 1)), "malformed");
        assert_eq!(reason(&item(|item| item["text"] = "a\0b".into())), "nul_character");
        assert_eq!(reason(&item(|item| item["text"] = "x".repeat(5 << 20).into())), "too_large");
        let lone = item(|item| item["text"] = "SURROGATE".into()).replace("SURROGATE", "\\ud800");
        assert_eq!(reason(&lone), "malformed");
        let deep = item(|item| item["text"] = "DEEP".into()).replace("\"DEEP\"", &"[".repeat(10_000));
        assert!(RawValue::from_string(deep).is_err(), "such a page cannot be read at all");
    }
}
