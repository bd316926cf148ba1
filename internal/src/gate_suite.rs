//! What every gate must do. The embedded gate is trusted because it passes what Redis passes.

use std::sync::Arc;

use contract::{Timestamp, Version};
use platform::event_log::{Fingerprint, Progress};

use crate::gate::{Answer, Gate};
use crate::shown::ShownMessage;

/// Makes one test a case; `$gate` is an expression of type `Option<Arc<dyn Gate>>` in async context, empty.
#[macro_export]
macro_rules! gate_suite {
    ($gate:expr) => {
        $crate::gate_suite!(@cases $gate;
            the_first_is_absent_the_second_equal,
            newer_is_kept_and_older_gets_the_stored_row,
            a_deletion_is_a_version_too,
            one_batch_may_hold_a_message_twice,
            chats_do_not_share_ids,
            versions_are_judged_as_the_fixtures_say,
        );
    };
    (@cases $gate:expr; $($case:ident),* $(,)?) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                if let Some(gate) = $gate {
                    $crate::gate_suite::$case(gate).await;
                }
            }
        )*
    };
}

type Subject = Arc<dyn Gate>;

/// What tells the record at `offset` from the same one of another log.
pub fn fingerprint_at(offset: u64) -> Fingerprint {
    Fingerprint { timestamp_ms: offset.cast_signed(), key_hash: 1 }
}

/// Of a store that has the records before `next_offset`.
pub fn progress_to(next_offset: u64) -> Progress {
    Progress { next_offset, last: next_offset.checked_sub(1).map(fingerprint_at).unwrap_or_default() }
}

/// A row of this version, its text telling which it is.
pub fn row(chat: &str, id: &str, version: &str) -> ShownMessage {
    let version: Version = version.parse().expect("a version");
    ShownMessage {
        id: id.into(),
        chat_id: chat.into(),
        parent_id: None,
        author: Some("ada".into()),
        text: Some(format!("text of {version} with \"quotes\" and ünïcödé")),
        created_at: Timestamp::default(),
        edited_at: None,
        deleted: false,
        version,
    }
}

/// A version whose sequence is `number`.
pub fn version(number: u32) -> String {
    format!("{:066x}", u128::from(number))
}

async fn judge(gate: &Subject, row: &ShownMessage) -> Answer {
    gate.judge(std::slice::from_ref(row)).await.unwrap().remove(0)
}

pub async fn the_first_is_absent_the_second_equal(gate: Subject) {
    let row = row("c", "m", &version(1));
    assert_eq!(judge(&gate, &row).await, Answer::Absent);
    assert_eq!(judge(&gate, &row).await, Answer::Equal);
}

pub async fn newer_is_kept_and_older_gets_the_stored_row(gate: Subject) {
    let [first, second, third] = [1, 2, 3].map(|number| row("c", "m", &version(number)));
    assert_eq!(judge(&gate, &second).await, Answer::Absent);
    assert_eq!(judge(&gate, &first).await, Answer::Older(Box::new(second.clone())));
    assert_eq!(judge(&gate, &third).await, Answer::Newer);
    assert_eq!(judge(&gate, &second).await, Answer::Older(Box::new(third)));
}

pub async fn a_deletion_is_a_version_too(gate: Subject) {
    let post = row("c", "m", &version(1));
    let tombstone = ShownMessage { deleted: true, text: None, ..row("c", "m", &version(2)) };
    assert_eq!(judge(&gate, &tombstone).await, Answer::Absent);
    assert_eq!(judge(&gate, &post).await, Answer::Older(Box::new(tombstone)));
}

pub async fn one_batch_may_hold_a_message_twice(gate: Subject) {
    let [first, second] = [1, 2].map(|number| row("c", "m", &version(number)));
    let answers = gate.judge(&[first.clone(), second.clone(), first]).await.unwrap();
    assert_eq!(answers, [Answer::Absent, Answer::Newer, Answer::Older(Box::new(second))]);
}

pub async fn chats_do_not_share_ids(gate: Subject) {
    let rows = [row("c", "m", &version(1)), row("d", "m", &version(1)), row("c}x", "m", &version(1))];
    assert_eq!(gate.judge(&rows).await.unwrap(), [Answer::Absent, Answer::Absent, Answer::Absent]);
}

pub async fn versions_are_judged_as_the_fixtures_say(gate: Subject) {
    let cases: Vec<serde_json::Value> =
        serde_json::from_str(include_str!("../../contract/fixtures/versions.json")).unwrap();
    for (number, case) in cases.iter().enumerate() {
        let [stored, incoming] =
            ["stored", "incoming"].map(|side| row("c", &number.to_string(), case[side]["version"].as_str().unwrap()));
        judge(&gate, &stored).await;
        let said = match judge(&gate, &incoming).await {
            Answer::Newer => "newer",
            Answer::Equal => "equal",
            Answer::Older(_) => "older",
            Answer::Absent => "absent",
        };
        assert_eq!(said, case["incoming_is"], "{}", case["name"]);
    }
}
