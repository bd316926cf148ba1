use std::collections::BTreeMap;
use std::sync::Arc;

use contract::Timestamp;
use contract::erasure::{Erasure, Scope};
use internal::access::Viewer;
use internal::copy::Snapshot;
use internal::gate_suite::{fingerprint_at, progress_to, row, version};
use internal::hub::{Hub, Loaded, Resumed, Update};
use internal::resume::{Position, Token};
use internal::ring::Item;
use internal::shown::ShownMessage;
use internal::to_browser::outbox::Outbox;
use platform::event_log::{Fingerprint, TopicPartition};
use serde_json::Value;

use crate::gate::settings;

/// A hub with one partition, and one browser.
pub struct World {
    pub hub: Hub,
    at: TopicPartition,
    outbox: Arc<Outbox>,
    pub browser: u64,
    next: u64,
}

pub fn anybody() -> Arc<Viewer> {
    Arc::new(Viewer::anybody())
}

pub fn world(ring: u64, start: u64) -> World {
    let hub = Hub::new(&internal::Settings { ring, ..settings(String::new()) });
    let at = TopicPartition::new("chat-changes", 0);
    hub.set_partitions(1);
    hub.begin_partition(at.clone(), start, start);
    let outbox = Arc::new(Outbox::default());
    let browser = hub.connect(outbox.clone(), anybody());
    outbox.take();
    World { hub, at, outbox, browser, next: start }
}

impl World {
    /// A record arrives: first the ring has it, later it is pushed.
    pub fn append(&mut self, row: &ShownMessage) -> Update {
        let offset = self.next;
        self.next += 1;
        self.hub.append([(self.at.clone(), offset, fingerprint_at(offset), Item::Message(row.clone()))]);
        Update { at: self.at.clone(), offset, row: row.clone(), early: false, answer: "" }
    }

    pub fn mark(&mut self, name: &str) {
        self.hub.append([(self.at.clone(), self.next, fingerprint_at(self.next), Item::Marker(name.into()))]);
        self.next += 1;
    }

    pub fn arrive(&mut self, row: &ShownMessage) {
        let update = self.append(row);
        self.push(update);
    }

    pub fn push(&self, update: Update) {
        let positions = BTreeMap::from([(self.at.clone(), update.offset + 1)]);
        self.hub.publish(vec![update], positions);
    }

    pub fn snapshot(&self, messages: &[&ShownMessage], applied: u64) -> Snapshot {
        Snapshot {
            messages: messages.iter().copied().cloned().collect(),
            progress: BTreeMap::from([(self.at.clone(), progress_to(applied))]),
        }
    }

    /// What the browser was sent since the last call: (type, versions, resume).
    pub fn sent(&self) -> Vec<(String, Vec<String>, Option<Token>)> {
        let frames = self.outbox.take().0;
        frames.iter().map(|frame| told(&serde_json::from_slice(frame.payload()).unwrap())).collect()
    }
}

fn told(frame: &Value) -> (String, Vec<String>, Option<Token>) {
    let rows = frame["messages"].as_array().into_iter().flatten();
    let versions = rows.map(|row| row["version"].as_str().unwrap().to_owned()).collect();
    let token = frame["resume"].as_str().and_then(Token::decode);
    (frame["type"].as_str().unwrap().to_owned(), versions, token)
}

pub fn versions(rows: &[&ShownMessage]) -> Vec<String> {
    rows.iter().map(|row| row.version.to_string()).collect()
}

#[test]
fn v1_a_load_has_what_the_log_has_beyond_the_store() {
    let mut world = world(100, 0);
    let (first, edit) = (row("c", "m", &version(1)), row("c", "m", &version(2)));
    world.arrive(&first);
    world.arrive(&edit);
    world.hub.begin_load(world.browser, "c");
    let snapshot = world.snapshot(&[&first], 1);
    assert_eq!(world.hub.finish_load(world.browser, "c", snapshot), Loaded::Complete);
    let sent = world.sent();
    assert_eq!((sent[0].0.as_str(), &sent[0].1), ("load", &versions(&[&edit])));
    assert_eq!(sent[0].2.as_ref().unwrap().positions["chat-changes"].offset, 2);
}

#[test]
fn what_is_asked_to_be_erased_is_in_no_load_wherever_it_stands() {
    let mut world = world(100, 0);
    let (stored, in_ring, other) = (row("c", "m", &version(1)), row("c", "m", &version(2)), row("c", "n", &version(3)));
    world.arrive(&in_ring);
    world.arrive(&other);
    let erasure = |message: &str, chat: &str| Erasure {
        chat_id: chat.into(),
        scope: Scope::Message { message_id: message.into() },
        erased_at: Timestamp::default(),
    };
    world.hub.note_erasure(erasure("n", "another"));
    world.hub.note_erasure(erasure("m", "c"));
    world.hub.begin_load(world.browser, "c");
    let snapshot = world.snapshot(&[&stored], 0);
    assert_eq!(world.hub.finish_load(world.browser, "c", snapshot), Loaded::Complete);
    assert_eq!(world.sent().last().unwrap().1, versions(&[&other]));
    let gone = ShownMessage { version: format!("ffffffff{}", &version(1)[8..]).parse().unwrap(), ..stored };
    assert!(
        world.hub.hides(&in_ring) && !world.hub.hides(&other) && !world.hub.hides(&gone),
        "that it was may be said"
    );
}

#[test]
fn v2_an_update_between_subscribe_and_load_comes_after_the_load() {
    let mut world = world(100, 0);
    let (first, second) = (row("c", "m", &version(1)), row("c", "n", &version(2)));
    world.arrive(&first);
    world.hub.begin_load(world.browser, "c");
    world.arrive(&second);
    assert!(world.sent().is_empty(), "nothing before the load");
    // The store has both; the second one lies outside of the load's window.
    let snapshot = world.snapshot(&[&first], 2);
    world.hub.finish_load(world.browser, "c", snapshot);
    let kinds: Vec<_> = world.sent().into_iter().map(|(kind, versions, _)| (kind, versions)).collect();
    assert_eq!(kinds[0], ("load".into(), versions(&[&first])));
    assert_eq!(kinds[1], ("update".into(), versions(&[&second])));
}

/// Another pod has read the second version, and the gate gives it in place of the first one.
fn known_elsewhere(world: &mut World) -> (ShownMessage, ShownMessage) {
    let (first, second) = (row("c", "m", &version(1)), row("c", "m", &version(2)));
    let mut update = world.append(&first);
    update.replace(second.clone());
    world.push(update);
    (first, second)
}

#[test]
fn v2_what_another_pod_knew_first_is_in_loads_before_its_record_comes() {
    let mut world = world(100, 0);
    let (first, second) = known_elsewhere(&mut world);
    world.hub.begin_load(world.browser, "c");
    let snapshot = world.snapshot(&[&first], 1);
    world.hub.finish_load(world.browser, "c", snapshot);
    assert_eq!(world.sent()[0].1, versions(&[&second]));
    // Its record is no news to anybody.
    world.arrive(&second);
    assert!(world.sent().is_empty());
}

#[test]
fn v2_what_another_pod_knew_first_comes_with_a_resume_before_its_record_comes() {
    let mut world = world(100, 0);
    let (_, second) = known_elsewhere(&mut world);
    let position = Position { offset: 1, marker: None };
    let positions = BTreeMap::from([("chat-changes".to_owned(), position)]);
    let token = Token { region: "a".into(), chat: "c".into(), partition: 0, positions };
    assert_eq!(world.hub.resume(world.browser, "c", &token), Resumed::Exactly);
    assert_eq!(world.sent()[0].1, versions(&[&second]));
    world.arrive(&second);
    assert!(world.sent().is_empty());
}

/// It left the chat before it could be loaded anew, and comes back with the position that it had.
#[test]
fn v2_a_browser_whose_updates_were_dropped_is_told_to_load_whatever_its_position() {
    let mut world = world(100, 0);
    world.hub.begin_load(world.browser, "c");
    world.hub.finish_load(world.browser, "c", world.snapshot(&[], 0));
    let token = world.sent()[0].2.clone().unwrap();
    let large = |number: u32| {
        let mut row = row("c", &format!("m{number}"), &version(number));
        row.text = Some("x".repeat(600_000));
        row
    };
    (1..4).for_each(|number| world.arrive(&large(number)));
    assert!(world.outbox.take().1.contains("c"), "too much for it");
    world.hub.unsubscribe(world.browser, "c");
    assert_eq!(world.hub.resume(world.browser, "c", &token), Resumed::Impossible);
    world.hub.begin_load(world.browser, "c");
    world.hub.finish_load(world.browser, "c", world.snapshot(&[], 0));
    let loaded = world.sent().remove(0);
    world.arrive(&row("c", "last", &version(9)));
    assert_eq!(world.sent().len(), 1, "from there on it is live");
    world.hub.unsubscribe(world.browser, "c");
    assert_eq!(world.hub.resume(world.browser, "c", &loaded.2.unwrap()), Resumed::Exactly);
}

/// The gate knows a newer row than the record that is read.
#[test]
fn v2_what_is_pushed_in_a_records_place_is_in_loads_and_resumes_too() {
    let mut world = world(100, 0);
    world.hub.begin_load(world.browser, "c");
    world.hub.finish_load(world.browser, "c", world.snapshot(&[], 0));
    let token = world.sent().remove(0).2.unwrap();
    let update = world.append(&row("c", "m", &version(1)));
    world.push(Update { row: row("c", "m", &version(9)), ..update });
    world.sent();
    assert_eq!(world.hub.resume(world.browser, "c", &token), Resumed::Exactly);
    assert_eq!(world.sent()[0].1, [version(9).to_string()]);
    world.hub.begin_load(world.browser, "c");
    world.hub.finish_load(world.browser, "c", world.snapshot(&[], 0));
    assert_eq!(world.sent()[0].1, [version(9).to_string()]);
}

#[test]
fn v2_a_record_that_the_ring_has_but_that_is_not_pushed_yet_is_in_the_load() {
    let mut world = world(100, 0);
    let first = row("c", "m", &version(1));
    let update = world.append(&first);
    world.hub.begin_load(world.browser, "c");
    world.hub.finish_load(world.browser, "c", world.snapshot(&[], 0));
    world.push(update);
    let sent = world.sent();
    assert_eq!(sent[0].1, versions(&[&first]));
    assert_eq!(sent[1].0, "update");
}

#[test]
fn a_store_further_behind_than_the_ring_reaches_is_said_and_made_good() {
    let mut world = world(2, 0);
    let rows: Vec<_> = (1..=5).map(|number| row("c", &format!("m{number}"), &version(number))).collect();
    rows.iter().for_each(|row| world.arrive(row));
    world.hub.begin_load(world.browser, "c");
    assert_eq!(world.hub.finish_load(world.browser, "c", world.snapshot(&[], 0)), Loaded::Behind);
    let frame: Value = serde_json::from_slice(world.outbox.take().0[0].payload()).unwrap();
    assert_eq!(frame["behind"], true);
    let stored: Vec<&ShownMessage> = rows.iter().collect();
    let caught_up = world.snapshot(&stored, 5);
    assert_eq!(world.hub.finish_load(world.browser, "c", caught_up), Loaded::Complete);
    let frame: Value = serde_json::from_slice(world.outbox.take().0[0].payload()).unwrap();
    assert_eq!((frame["behind"].as_bool(), frame["messages"].as_array().unwrap().len()), (Some(false), 5));
}

#[test]
fn an_edit_of_a_message_before_the_window_comes_with_the_load() {
    let mut world = world(1000, 0);
    let shown: Vec<_> = (0..50)
        .map(|number| ShownMessage {
            created_at: contract::Timestamp::from_micros(1000 + number).unwrap(),
            ..row("c", &format!("m{number:02}"), &version(7))
        })
        .collect();
    let edit = row("c", "old", &version(9));
    world.arrive(&edit);
    world.hub.begin_load(world.browser, "c");
    let stored: Vec<&ShownMessage> = shown.iter().collect();
    world.hub.finish_load(world.browser, "c", world.snapshot(&stored, 0));
    let frame: Value = serde_json::from_slice(world.outbox.take().0[0].payload()).unwrap();
    assert_eq!((frame["messages"].as_array().unwrap().len(), frame["more"].as_bool()), (50, Some(true)));
    assert_eq!(frame["outside"][0]["version"], edit.version.as_str());
}

#[test]
fn v4_a_resume_brings_exactly_what_was_missed() {
    let mut world = world(100, 0);
    world.hub.begin_load(world.browser, "c");
    world.hub.finish_load(world.browser, "c", world.snapshot(&[], 0));
    world.mark("x/1");
    world.arrive(&row("c", "m", &version(1)));
    let token = world.sent().pop().unwrap().2.unwrap();
    world.hub.unsubscribe(world.browser, "c");
    let missed = [row("c", "m", &version(2)), row("c", "n", &version(3))];
    // What was edited again since is worth nothing.
    world.arrive(&row("c", "n", &version(2)));
    missed.iter().for_each(|row| world.arrive(row));
    world.arrive(&row("other", "m", &version(4)));
    assert!(world.sent().is_empty());
    assert_eq!(world.hub.resume(world.browser, "c", &token), Resumed::Exactly);
    let sent: Vec<_> = world.sent().into_iter().flat_map(|(_, versions, _)| versions).collect();
    assert_eq!(sent, versions(&missed.iter().collect::<Vec<_>>()));
    world.arrive(&row("c", "n", &version(5)));
    assert_eq!(world.sent().len(), 1, "live again");
}

#[test]
fn v4_a_token_that_cannot_be_answered_exactly_is_not_answered() {
    let mut world = world(3, 10);
    for number in 0..3 {
        world.mark(&format!("x/{number}"));
    }
    world.hub.begin_load(world.browser, "c");
    world.hub.finish_load(world.browser, "c", world.snapshot(&[], 13));
    let token = world.sent().remove(0).2.unwrap();
    let resume = |token: &Token| world.hub.resume(world.browser, "c", token);
    assert_eq!(resume(&token), Resumed::Exactly);
    let at = |offset: u64, marker: Option<&str>| {
        let mut other = token.clone();
        let position = other.positions.get_mut("chat-changes").unwrap();
        (position.offset, position.marker) = (offset, marker.map(str::to_owned));
        other
    };
    assert_eq!(resume(&at(9, None)), Resumed::Impossible, "older than the ring");
    assert_eq!(resume(&at(13, Some("y/9"))), Resumed::Impossible, "of another log");
    assert_eq!(resume(&at(99, Some("x/9"))), Resumed::Ahead);
    assert_eq!(resume(&Token { region: "b".into(), ..token.clone() }), Resumed::Impossible);
    assert_eq!(resume(&Token { chat: "d".into(), ..token.clone() }), Resumed::Impossible);
    assert_eq!(resume(&Token { positions: BTreeMap::new(), ..token.clone() }), Resumed::Impossible);
    assert_eq!(Token::decode("forged"), None);
}

#[test]
fn v2_a_pod_that_has_not_caught_up_calls_no_load_complete() {
    let hub = Hub::new(&internal::Settings { ring: 100, ..settings(String::new()) });
    let at = TopicPartition::new("chat-changes", 0);
    hub.set_partitions(1);
    // What lies before offset 2 will not be pushed.
    hub.begin_partition(at.clone(), 0, 2);
    let outbox = Arc::new(Outbox::default());
    let mut world = World { hub, at, browser: 0, outbox, next: 0 };
    world.browser = world.hub.connect(world.outbox.clone(), anybody());
    world.hub.begin_load(world.browser, "c");
    assert_eq!(world.hub.finish_load(world.browser, "c", world.snapshot(&[], 0)), Loaded::Behind);
    let row = row("c", "m", &version(1));
    world.append(&row);
    world.append(&row);
    assert_eq!(world.hub.finish_load(world.browser, "c", world.snapshot(&[], 0)), Loaded::Complete);
    assert_eq!(world.sent().pop().unwrap().1, versions(&[&row]));
}

#[test]
fn v4_of_several_missed_rows_only_the_last_moves_the_position() {
    let mut world = world(100, 0);
    world.hub.begin_load(world.browser, "c");
    world.hub.finish_load(world.browser, "c", world.snapshot(&[], 0));
    let token = world.sent().pop().unwrap().2.unwrap();
    world.hub.unsubscribe(world.browser, "c");
    (1..4).for_each(|number| world.arrive(&row("c", &format!("m{number}"), &version(number))));
    world.hub.resume(world.browser, "c", &token);
    let positions: Vec<_> = world.sent().into_iter().map(|(_, _, token)| token.is_some()).collect();
    assert_eq!(positions, [false, false, true]);
}

#[test]
fn v4_a_position_claims_nothing_that_another_topic_has_not_pushed_yet() {
    let mut world = world(100, 0);
    let mirror = TopicPartition::new("b.chat-changes", 0);
    world.hub.begin_partition(mirror.clone(), 0, 0);
    world.hub.begin_load(world.browser, "c");
    world.hub.finish_load(world.browser, "c", world.snapshot(&[], 0));
    world.sent();
    let local = world.append(&row("c", "m", &version(1)));
    let mirrored = Update { at: mirror.clone(), offset: 0, row: row("c", "n", &version(2)), early: false, answer: "" };
    world.hub.append([(mirror, 0, fingerprint_at(0), Item::Message(mirrored.row.clone()))]);
    world.push(local);
    let token = world.sent().pop().unwrap().2.unwrap();
    assert_eq!(token.positions["b.chat-changes"].offset, 0);
}

/// The topic was deleted and made again; the writer has not noticed yet.
#[test]
fn v1_progress_in_a_log_that_was_replaced_hides_nothing_of_the_new_one() {
    let mut world = world(100, 0);
    let new = row("c", "m", &version(1));
    world.arrive(&new);
    world.mark("x/1");
    let of_another = Fingerprint { timestamp_ms: 4711, key_hash: 4711 };
    for next_offset in [1, 2, 41] {
        let mut snapshot = world.snapshot(&[], next_offset);
        snapshot.progress.get_mut(&world.at).unwrap().last = of_another;
        world.hub.begin_load(world.browser, "c");
        assert_eq!(world.hub.finish_load(world.browser, "c", snapshot), Loaded::Behind);
        assert_eq!(world.sent().remove(0).1, versions(&[&new]), "what the log has is shown");
    }
    world.hub.begin_load(world.browser, "c");
    assert_eq!(world.hub.finish_load(world.browser, "c", world.snapshot(&[&new], 1)), Loaded::Complete);
}

#[test]
fn what_was_erased_is_in_no_load_however_late_another_log_brings_it() {
    let mut world = world(2, 0);
    let text = row("c", "m", &version(1));
    let erased = ShownMessage { text: None, ..row("c", "m", &format!("ffffffff{}", &version(1)[8..])) };
    let later = [row("c", "x", &version(3)), row("c", "y", &version(4))];
    for row in [&text, &erased, &later[0], &later[1]] {
        world.arrive(row);
    }
    // The ring has only what came last, and so has the load; the mirror was away.
    let mirrored = TopicPartition::new("b.chat-changes", 0);
    world.hub.begin_partition(mirrored.clone(), 0, 0);
    world.hub.append([(mirrored, 0, fingerprint_at(0), Item::Message(text))]);
    world.sent();
    world.hub.begin_load(world.browser, "c");
    let snapshot = world.snapshot(&[&later[0], &later[1]], 4);
    assert_eq!(world.hub.finish_load(world.browser, "c", snapshot), Loaded::Complete);
    assert_eq!(world.sent()[0].1, versions(&[&later[0], &later[1]]));
}

#[test]
fn a_partition_that_begins_anew_has_its_watchers_load_again() {
    let mut world = world(100, 0);
    world.hub.begin_load(world.browser, "c");
    world.hub.finish_load(world.browser, "c", world.snapshot(&[], 0));
    world.arrive(&row("c", "m", &version(1)));
    world.hub.begin_partition(world.at.clone(), 50, 60);
    let (frames, reload) = world.outbox.take();
    let texts: Vec<_> = frames.iter().map(|frame| String::from_utf8_lossy(frame.payload())).collect();
    assert!(!texts.iter().any(|text| text.contains("\"load\"") || text.contains("update")));
    assert_eq!(reload.into_iter().collect::<Vec<_>>(), ["c"]);
}
