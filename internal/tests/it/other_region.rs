//! Where somebody goes on who comes from another region.

use std::sync::Arc;

use internal::gate_suite::{fingerprint_at, row, version};
use internal::hub::Resumed;
use internal::resume::{Position, Token};
use internal::ring::Item;
use internal::to_browser::outbox::Outbox;
use platform::event_log::TopicPartition;

use crate::hub::{anybody, versions, world};

/// It stands by, and appends a repair now and then; its mirror in the other region has no marker either.
#[test]
fn v4_of_a_region_that_never_polled_a_resume_brings_all_that_it_has() {
    let mut world = world(3, 0);
    let mirror = TopicPartition::new("b.chat-changes", 0);
    world.hub.begin_partition(mirror.clone(), 0, 0);
    let [repair, last] = [1, 2].map(|number| row("c", "m", &version(number)));
    world.arrive(&repair);
    world.arrive(&last);
    let mirrored = |offset, item| world.hub.append([(mirror.clone(), offset, fingerprint_at(offset), item)]);
    mirrored(0, Item::Other);
    mirrored(1, Item::Marker("b/7".into()));
    let marker = |marker: Option<&str>| Position { offset: 9, marker: marker.map(str::to_owned) };
    let there = [("chat-changes".to_owned(), marker(Some("b/7"))), ("a.chat-changes".to_owned(), marker(None))];
    let token = Token { region: "b".into(), chat: "c".into(), partition: 0, positions: there.into() };
    assert_eq!(world.hub.resume(world.browser, "c", &token), Resumed::Exactly);
    assert_eq!(world.sent()[0].1, versions(&[&last]));
    world.hub.begin_partition(TopicPartition::new("chat-changes", 0), 0, 0);
    let later = world.hub.connect(Arc::new(Outbox::default()), anybody());
    let resumed = world.hub.resume(later, "c", &token);
    assert_eq!(resumed, Resumed::Impossible, "another log is in its place, and nobody knows what it lacks");
}

#[test]
fn v4_a_topic_that_is_not_found_yet_is_waited_for() {
    let world = world(3, 0);
    let position = |marker: Option<&str>| Position { offset: 9, marker: marker.map(str::to_owned) };
    let there = [("chat-changes".to_owned(), position(Some("b/7"))), ("a.chat-changes".to_owned(), position(None))];
    let token = Token { region: "b".into(), chat: "c".into(), partition: 0, positions: there.into() };
    assert_eq!(world.hub.resume(world.browser, "c", &token), Resumed::Ahead);
}

#[test]
fn v4_of_a_region_that_never_polled_and_has_much_of_a_chat_that_is_loaded() {
    let mut world = world(1000, 0);
    let there = [("a.chat-changes".to_owned(), Position { offset: 9, marker: None })];
    let token = Token { region: "b".into(), chat: "c".into(), partition: 0, positions: there.into() };
    (0..101).for_each(|number| world.arrive(&row("c", &format!("m{number}"), &version(1))));
    assert_eq!(world.hub.resume(world.browser, "c", &token), Resumed::Impossible);
}

#[test]
fn v4_a_resume_from_the_other_region_knows_nothing_of_a_log_whose_beginning_it_has_not_or_that_has_markers() {
    for (start, is_marked) in [(1, false), (0, true)] {
        let mut world = world(3, start);
        world.arrive(&row("c", "m", &version(1)));
        if is_marked {
            world.mark("a/1");
        }
        let there = [("a.chat-changes".to_owned(), Position { offset: 9, marker: None })];
        let token = Token { region: "b".into(), chat: "c".into(), partition: 0, positions: there.into() };
        assert_eq!(world.hub.resume(world.browser, "c", &token), Resumed::Impossible);
    }
}

#[test]
fn v4_a_resume_from_the_other_region_goes_by_markers() {
    let mut world = world(100, 0);
    let mirror = TopicPartition::new("b.chat-changes", 0);
    world.hub.begin_partition(mirror.clone(), 0, 0);
    let mirrored = |offset, item| world.hub.append([(mirror.clone(), offset, fingerprint_at(offset), item)]);
    let [before, behind, local] = [1, 2, 3].map(|number| row("c", &format!("m{number}"), &version(number)));
    mirrored(0, Item::Marker("b/6".into()));
    mirrored(1, Item::Message(before));
    mirrored(2, Item::Marker("b/7".into()));
    mirrored(3, Item::Message(behind.clone()));
    world.mark("a/2");
    world.mark("a/3");
    world.arrive(&local);
    // Offsets of that region are no offsets of this one.
    let position = |offset, marker: &str| Position { offset, marker: Some(marker.into()) };
    let there =
        [("chat-changes".to_owned(), position(9_000, "b/7")), ("a.chat-changes".to_owned(), position(7, "a/3"))];
    let token = Token { region: "b".into(), chat: "c".into(), partition: 0, positions: there.into() };
    assert_eq!(world.hub.resume(world.browser, "c", &token), Resumed::Exactly);
    let sent: Vec<_> = world.sent().into_iter().flat_map(|(_, versions, _)| versions).collect();
    assert_eq!(sent, versions(&[&behind, &local]), "what lies behind the markers, of both topics");
    // A position of this region comes even if nothing was missed.
    world.hub.append([(mirror.clone(), 4, fingerprint_at(4), Item::Marker("b/8".into()))]);
    world.mark("a/4");
    let last = [("chat-changes".to_owned(), position(9_100, "b/8")), ("a.chat-changes".to_owned(), position(8, "a/4"))];
    assert_eq!(
        world.hub.resume(world.browser, "c", &Token { positions: last.into(), ..token.clone() }),
        Resumed::Exactly
    );
    let (kind, rows, own) = world.sent().pop().unwrap();
    assert_eq!((kind.as_str(), rows.len(), own.unwrap().region.as_str()), ("update", 0, "a"));
    let with = |topic: &str, position: Option<Position>| {
        let mut other = token.clone();
        other.positions.remove(topic);
        other.positions.extend(position.map(|position| (topic.to_owned(), position)));
        world.hub.resume(world.browser, "c", &other)
    };
    assert_eq!(with("chat-changes", Some(position(9_000, "b/9"))), Resumed::Ahead, "not mirrored yet, or long gone");
    assert_eq!(with("chat-changes", None), Resumed::Impossible, "a topic that the other region did not have");
    assert_eq!(with("a.chat-changes", Some(Position { offset: 7, marker: None })), Resumed::Impossible);
}
