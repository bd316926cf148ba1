use contract::record::{MAX_ID_BYTES, Marker, is_digest};
use contract::row::unstamped;
use contract::row::{Row, RowKey};
use contract::topic::{MAX_RECORD_BYTES, RETENTION_MS};
use contract::version::ERASED;
use contract::{Chat, Invalid, Message, Record, Rejected, Stamp, Timestamp, Topics, partition_of};
use xxhash_rust::xxh3::xxh3_64;

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn stamp(changed_at: Timestamp) -> Stamp {
    Stamp { epoch: 1, sequence: 7, changed_at, rev: 0, deleted: false }
}

pub fn message() -> Message {
    let created_at = at("2026-01-02T03:04:05Z");
    Message {
        chat_id: "c1".into(),
        id: "m1".into(),
        parent_id: None,
        author: Some("ada".into()),
        text: Some("hello".into()),
        created_at,
        edited_at: None,
        deleted_at: None,
        stamp: stamp(created_at),
        version: unstamped(),
    }
    .stamped()
}

pub fn chat() -> Chat {
    let created_at = at("2026-01-02T03:04:05Z");
    Chat {
        id: "c1".into(),
        title: Some("General".into()),
        created_at,
        edited_at: None,
        deleted_at: None,
        stamp: stamp(created_at),
        version: unstamped(),
    }
    .stamped()
}

fn reason(value: &[u8]) -> &'static str {
    Record::decode(value, at("2026-01-02T04:00:00Z")).unwrap_err().reason()
}

#[test]
fn a_record_is_read_back_as_it_was_written() {
    let records = [
        Record::Message(message()),
        Record::Chat(chat()),
        Record::Rejected(Rejected::new("vendor", "malformed", "no id", b"{}")),
    ];
    for record in records {
        assert_eq!(Record::decode(&record.encode(), Timestamp::now()).unwrap(), record);
    }
}

#[test]
fn a_version_that_does_not_match_its_fields_is_refused() {
    let mut forged = message();
    forged.stamp.sequence += 1;
    assert_eq!(reason(&Record::Message(forged).encode()), "version_mismatch");
    let mut forged = message();
    forged.text = Some("something else".into());
    assert_eq!(reason(&Record::Message(forged).encode()), "version_mismatch");
}

#[test]
fn a_time_that_is_not_the_latest_is_refused_unless_it_is_a_repair() {
    let mut edited = message();
    edited.edited_at = Some(at("2026-01-02T03:05:00Z"));
    assert_eq!(reason(&Record::Message(edited.clone().stamped()).encode()), "changed_at_mismatch");
    edited.stamp.rev = 1;
    let repaired = Record::Message(edited.stamped());
    assert!(Record::decode(&repaired.encode(), Timestamp::now()).is_ok());
}

#[test]
fn without_a_sequence_the_far_future_is_refused() {
    let mut row = message();
    row.stamp.sequence = 0;
    let value = Record::Message(row.stamped()).encode();
    assert!(Record::decode(&value, at("2026-01-01T03:04:05Z")).is_ok());
    let refused = Record::decode(&value, at("2026-01-01T03:04:04Z"));
    assert!(matches!(refused, Err(Invalid::FromTheFuture(_))), "{refused:?}");
}

#[test]
fn an_erased_row_is_a_record_without_content() {
    let erased = message().erased();
    assert!(erased.is_erased() && erased.author.is_none() && erased.text.is_none());
    assert_eq!(erased, erased.clone().erased(), "once is enough");
    assert!(erased.version > message().version);
    assert!(Record::decode(&Record::Message(erased).encode(), Timestamp::now()).is_ok());
}

#[test]
fn every_kind_of_garbage_has_its_own_reason() {
    assert_eq!(reason(b"\xff\xfe"), "bad_utf8");
    assert_eq!(reason(b""), "bad_json");
    assert_eq!(reason(b"{\"kind\":"), "bad_json");
    assert_eq!(reason("[".repeat(10_000).as_bytes()), "too_deep");
    let deep = format!("{{\"kind\":\"message\",\"text\":{}", "[".repeat(10_000));
    assert_eq!(reason(deep.as_bytes()), "too_deep");
    assert_eq!(reason(b"{\"kind\":\"poll\"}"), "unknown_kind");
    assert_eq!(reason(b"{}"), "unknown_kind");
    assert_eq!(reason(b"[1]"), "bad_shape");
    assert_eq!(reason(b"{\"kind\":\"message\",\"id\":7}"), "bad_shape");
    assert_eq!(reason(&vec![b' '; (4 << 20) + 1]), "too_large");
    let mut nul = message();
    nul.id = "x".repeat(513);
    assert_eq!(reason(&Record::Message(nul.clone().stamped()).encode()), "long_id");
    nul.id = "m1".into();
    nul.text = Some("a\0b".into());
    assert_eq!(reason(&Record::Message(nul.stamped()).encode()), "nul_character");
}

#[test]
fn a_rejected_item_is_kept_raw_but_bounded() {
    let raw = "x".repeat(300 << 10);
    let rejected = Rejected::new("vendor", "too_large", "", raw.as_bytes());
    assert_eq!((rejected.raw.len(), rejected.raw_length), (256 << 10, 300 << 10));
    assert_eq!(rejected.raw_digest.len(), 16);
    let chatty = Rejected::new("vendor", "malformed", "ä".repeat(5000), b"{}");
    assert_eq!(chatty.detail.len(), 1024);
    let odd = Rejected::new("vendor", "malformed", "", b"\xff\0");
    assert!(!odd.raw.contains('\0'));
}

#[test]
fn all_records_of_a_chat_share_a_partition() {
    let (message, chat) = (Record::Message(message()), Record::Chat(chat()));
    assert_eq!(message.partition(12), chat.partition(12));
    // Pinned: a changed hash would move every chat on every running installation.
    assert_eq!(partition_of("c1", 12), PINNED_C1);
    assert_eq!(partition_of("C03S1L9DN", 12), PINNED_SLACK);
}

const PINNED_C1: u32 = 6;
const PINNED_SLACK: u32 = 2;

#[test]
fn headers_are_cloud_events() {
    let headers = Record::Message(message()).headers("vendor", at("2026-01-02T03:04:05Z"));
    let get = |name: &str| headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
    assert_eq!(get("ce_specversion"), Some("1.0"));
    assert_eq!(get("ce_type"), Some("chat-sync.message.v1"));
    assert_eq!(get("ce_source"), Some("vendor"));
    assert_eq!(get("ce_time"), Some("2026-01-02T03:04:05.000000Z"));
    assert_eq!(get("ce_id"), Some(message().version.as_str()));
}

#[test]
fn a_suffix_keeps_installations_apart() {
    assert_eq!(Topics::default().changes, "chat-changes");
    assert_eq!(Topics::with_suffix("-x1").checkpoints, "chat-sync-checkpoints-x1");
}

#[test]
fn a_record_goes_by_its_key_to_its_partition() {
    let rejected = Rejected::new("vendor", "malformed", "no id", b"{}");
    let marker: Record = serde_json::from_str(
        r#"{"kind":"marker","source":"external","region":"a","leader":"a-1","number":1,"cursor":null,"settled":null,
            "partitions":12,"at":"2026-01-02T03:04:05Z","fresh_as_of":null}"#,
    )
    .unwrap();
    let digest = rejected.raw_digest.clone();
    assert_eq!(digest, format!("{:016x}", xxh3_64(b"{}")));
    for (record, key, partition) in [
        (Record::Message(message()), Some("c1/m1".to_owned()), Some(partition_of("c1", 12))),
        (Record::Chat(chat()), Some("c1".to_owned()), Some(partition_of("c1", 12))),
        (Record::Rejected(rejected), Some(digest), Some(u32::try_from(xxh3_64(b"{}") % 12).unwrap())),
        (marker, None, None),
    ] {
        assert_eq!((record.key(), record.partition(12)), (key, partition));
    }
}

#[test]
fn the_same_content_is_one_letter() {
    let rejected = Rejected::new("vendor", "malformed", "no id", b"{}");
    assert_eq!(Record::Rejected(rejected.clone()).letter_digest(), rejected.raw_digest);
    let record = Record::Message(message());
    assert_eq!(record.letter_digest(), format!("{:016x}", xxh3_64(&record.encode())));
    assert!(is_digest(&record.letter_digest()));
    for wrong in ["", "0123456789abcde", "0123456789abcdef0", "0123456789ABCDEF", "0123456789abcdeg"] {
        assert!(!is_digest(wrong), "{wrong}");
    }
}

#[test]
fn a_rejected_item_without_a_digest_or_a_reason_is_refused() {
    let good = Rejected::new("vendor", &"r".repeat(64), "no id", b"{}");
    let is_read = |rejected: Rejected| Record::decode(&Record::Rejected(rejected).encode(), Timestamp::now()).is_ok();
    assert!(is_read(good.clone()));
    for wrong in [
        Rejected { raw_digest: "no digest".into(), ..good.clone() },
        Rejected { reason: String::new(), ..good.clone() },
        Rejected { reason: "r".repeat(65), ..good.clone() },
        Rejected { detail: "a\0b".into(), ..good },
    ] {
        assert!(!is_read(wrong.clone()), "{wrong:?}");
    }
}

#[test]
fn a_chats_version_is_of_its_id_and_title() {
    assert_eq!(chat().digest(), xxh3_64(br#"["chat","c1","General"]"#));
    assert_eq!(
        reason(&Record::Chat(Chat { title: Some("a\0b".into()), ..chat() }.stamped()).encode()),
        "nul_character"
    );
    let long = |bytes: usize| Record::Chat(Chat { id: "i".repeat(bytes), ..chat() }.stamped());
    assert!(Record::decode(&long(MAX_ID_BYTES).encode(), Timestamp::now()).is_ok(), "the limit itself is no trespass");
    assert_eq!(reason(&long(MAX_ID_BYTES + 1).encode()), "long_id");
}

#[test]
fn a_record_of_the_greatest_size_is_read() {
    let bare = Record::Message(Message { text: Some(String::new()), ..message() }.stamped()).encode().len();
    let sized = |bytes: usize| {
        let text = Some("x".repeat(bytes - bare));
        Record::Message(Message { text, ..message() }.stamped()).encode()
    };
    assert_eq!(sized(MAX_RECORD_BYTES).len(), 4 << 20);
    assert!(Record::decode(&sized(MAX_RECORD_BYTES), Timestamp::now()).is_ok());
    assert_eq!(reason(&sized(MAX_RECORD_BYTES + 1)), "too_large");
}

#[test]
fn a_row_is_known_by_its_chat_and_its_id() {
    let (of_message, of_chat) = (Row::Message(message()), Row::Chat(Chat { id: "c2".into(), ..chat() }));
    assert_eq!((of_message.chat_id(), of_message.id()), ("c1", "m1"));
    assert_eq!((of_chat.chat_id(), of_chat.id()), ("c2", "c2"));
    assert_eq!(of_message.key(), RowKey::Message("c1".into(), "m1".into()));
    assert_eq!((of_message.key().chat_id(), of_chat.key().chat_id()), ("c1", "c2"));
    assert!(!message().is_erased());
    assert!(Message { stamp: Stamp { epoch: ERASED, ..stamp(Timestamp::default()) }, ..message() }.is_erased());
}

#[test]
fn a_week_is_kept_and_time_goes_on() {
    assert_eq!(RETENTION_MS, 604_800_000);
    let (before, after) = (at("2026-01-02T03:04:05Z"), Timestamp::now());
    assert!(after > before);
    assert_eq!(at("2026-01-02T03:04:07.5Z").since(before), std::time::Duration::from_millis(2500));
    assert_eq!(before.since(after), std::time::Duration::ZERO);
    assert_eq!(at("2026-01-02T03:04:07.5Z").minus(std::time::Duration::from_millis(2500)), before);
    assert_eq!(before.minus(std::time::Duration::MAX), Timestamp::default());
}

#[test]
fn a_marker_names_the_one_before_it_and_whose_that_was() {
    let marker = |more: &str| -> Marker {
        let known = r#""source":"s","region":"a","leader":"x","number":5,"cursor":null,"settled":null,"partitions":12"#;
        let text = format!(r#"{{{known},"at":"2026-01-02T03:04:05Z","fresh_as_of":null{more}}}"#);
        serde_json::from_str(&text).expect("a marker")
    };
    assert_eq!(marker("").predecessor(), None, "none is known");
    assert_eq!(marker(r#","previous":1"#).predecessor(), Some(("x", 1)));
    assert_eq!(marker(r#","previous":7,"previous_leader":"y""#).predecessor(), Some(("y", 7)));
    assert_eq!(marker(r#","previous_leader":"y""#).predecessor(), None);
}
