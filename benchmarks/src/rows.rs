//! Messages to measure with.

use contract::row::unstamped;
use contract::{Message, Record, Stamp, Timestamp};
use platform::event_log::{LogRecord, TopicPartition};
use writer::batch::{Fate, fate};

/// A message of some 120 bytes of text; `sequence` makes its version.
pub fn message(chat: usize, number: usize, sequence: u64) -> Message {
    let created_at = Timestamp::from_micros(1_767_000_000_000_000 + number as u64 * 1000).unwrap_or_default();
    let text = format!("{sequence} {}", "what people write to each other, day in, day out, ".repeat(2));
    message_of(format!("c{chat:06}"), format!("m{number:09}"), text, created_at, sequence)
}

/// A message that was written just then, and not changed since.
pub fn message_of(chat_id: String, id: String, text: String, created_at: Timestamp, sequence: u64) -> Message {
    Message {
        chat_id,
        id,
        parent_id: None,
        author: Some("Ada Lovelace".into()),
        text: Some(text),
        created_at,
        edited_at: None,
        deleted_at: None,
        stamp: stamp(created_at, sequence),
        version: unstamped(),
    }
    .stamped()
}

pub fn stamp(changed_at: Timestamp, sequence: u64) -> Stamp {
    Stamp { epoch: 1, sequence, changed_at, rev: 0, deleted: false }
}

/// The same as records of the log, read.
pub fn fated(messages: &[Message], first: u64) -> Vec<(LogRecord, Fate)> {
    let at = TopicPartition::new("chat-changes", 0);
    let record = |(number, message): (usize, &Message)| {
        let record = LogRecord {
            at: at.clone(),
            offset: first + number as u64,
            timestamp_ms: 1_767_000_000_000,
            key: Some(format!("{}/{}", message.chat_id, message.id).into_bytes()),
            value: Record::Message(message.clone()).encode(),
            headers: Vec::new(),
        };
        let fate = fate(&record);
        (record, fate)
    };
    messages.iter().enumerate().map(record).collect()
}
