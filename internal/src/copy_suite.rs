//! What every copy must do when it is read. The embedded copy is trusted because it passes what Postgres passes.

use contract::{Message, Record};
use platform::event_log::TopicPartition;

use crate::copy::{ChatCopy, Page};
use crate::shown::ShownMessage;

/// A message as the suite makes it, at this second of an hour.
pub fn at_second(message: Message, second: u32) -> Message {
    let mut message = message;
    message.created_at =
        format!("2026-01-02T03:{:02}:{:02}.000001Z", second / 60, second % 60).parse().expect("a time");
    message.stamp.changed_at = message.created_at;
    message.stamped()
}

/// Rows and positions come from one snapshot, rows in their order, times to the microsecond.
pub async fn a_snapshot_has_the_last_rows_and_the_positions(
    copy: &dyn ChatCopy,
    rows: &[Message],
    at: &TopicPartition,
) {
    let snapshot = copy.snapshot("c", 3).await.unwrap();
    let expected: Vec<ShownMessage> = rows[rows.len() - 3..].iter().map(ShownMessage::from).collect();
    assert_eq!(snapshot.messages, expected);
    assert_eq!(snapshot.progress.get(at), Some(&(rows.len() as u64 + 1)));
}

/// Pages go back to the first message without a gap.
pub async fn pages_go_back_to_the_beginning(copy: &dyn ChatCopy, rows: &[Message]) {
    let mut seen: Vec<ShownMessage> = Vec::new();
    loop {
        let before = seen.first().map(|oldest| oldest.id.clone());
        let Page::Messages(page, more) = copy.messages("c", before.as_deref(), 3).await.unwrap() else {
            panic!("there is such a chat");
        };
        seen.splice(0..0, page);
        if !more {
            break;
        }
    }
    assert_eq!(seen, rows.iter().map(ShownMessage::from).collect::<Vec<_>>());
    assert_eq!(copy.messages("c", Some("nobody"), 3).await.unwrap(), Page::NoSuchPlace);
    assert_eq!(copy.messages("nowhere", None, 3).await.unwrap(), Page::NoChat);
}

/// Stored rows are found by chat and id together.
pub async fn stored_rows_are_found(copy: &dyn ChatCopy, rows: &[Message]) {
    let wanted = [("c".to_owned(), rows[1].id.clone()), ("d".to_owned(), rows[1].id.clone())];
    assert_eq!(copy.stored(&wanted).await.unwrap(), [ShownMessage::from(&rows[1])]);
}

/// The records that the cases above read.
pub fn records(rows: &[Message], chat: contract::Chat) -> Vec<Record> {
    std::iter::once(Record::Chat(chat)).chain(rows.iter().cloned().map(Record::Message)).collect()
}
