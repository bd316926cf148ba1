//! Pages of older messages, whatever the store has of them.

use contract::Timestamp;
use contract::erasure::{Erasure, Scope};
use internal::copy::Older;
use internal::gate_suite::{row, version};
use internal::hub::OlderPage;
use internal::resume::{Position, Token};
use internal::shown::ShownMessage;

use crate::hub::{World, versions, world};

/// Its text tells its version; created so many milliseconds after the beginning.
fn at(id: &str, number: u32, created: u64) -> ShownMessage {
    ShownMessage { created_at: Timestamp::from_micros(1000 * created).unwrap(), ..row("c", id, &version(number)) }
}

/// The stored ones before another, of a store that has the records before `applied`, and has older ones.
fn older(world: &World, stored: &[&ShownMessage], before: &ShownMessage, applied: u64) -> OlderPage {
    let before = Some((before.created_at, before.id.clone()));
    world.hub.older("c", Older { snapshot: world.snapshot(stored, applied), more: true, before }, 3)
}

#[test]
fn v1_a_page_of_older_messages_has_what_the_log_has_beyond_the_store() {
    let mut world = world(100, 0);
    let [oldest, first, second, newest] = [("a", 10), ("m", 20), ("n", 30), ("z", 40)].map(|(id, ms)| at(id, 1, ms));
    let (edit, late, before_it) = (at("m", 2, 20), at("late", 2, 25), at("b", 2, 15));
    let rows = [&oldest, &first, &second, &newest, &edit, &late, &before_it];
    rows.into_iter().for_each(|row| world.arrive(row));
    let page = older(&world, &[&first, &second], &newest, 4);
    assert_eq!(versions(&page.messages.iter().collect::<Vec<_>>()), versions(&[&edit, &late, &second]));
    assert_eq!((page.messages[1].id.as_str(), page.more, page.behind), ("late", true, false));
    world.hub.note_erasure(Erasure {
        chat_id: "c".into(),
        scope: Scope::Message { message_id: "m".into() },
        erased_at: Timestamp::default(),
    });
    assert_eq!(older(&world, &[&first, &second], &newest, 4).messages, [late, second], "but nothing to be erased");
}

#[test]
fn a_page_of_older_messages_begins_with_one_that_the_store_has() {
    let mut world = world(100, 0);
    let [first, second, newest] = [("m", 20), ("n", 30), ("z", 60)].map(|(id, ms)| at(id, 1, ms));
    let late = [22, 24, 40, 50].map(|ms| at(&format!("late{ms}"), 2, ms));
    late.iter().for_each(|row| world.arrive(row));
    let page = older(&world, &[&first, &second], &newest, 0);
    assert_eq!(page.messages, [second, late[2].clone(), late[3].clone()]);
    assert!(world.hub.has_read_of("c", &late[3].id) && !world.hub.has_read_of("c", "m"));
    let page = older(&world, &[&first], &late[2], 0);
    assert_eq!((page.messages, page.more), (vec![first, late[0].clone(), late[1].clone()], true));
}

#[test]
fn a_page_of_older_messages_says_when_the_store_is_further_behind_than_the_ring_reaches() {
    let mut world = world(2, 0);
    let [first, newest] = [("m", 20), ("z", 40)].map(|(id, ms)| at(id, 1, ms));
    (1..5).for_each(|number| world.arrive(&at("m", number, 20)));
    assert!(older(&world, &[&first], &newest, 1).behind);
    assert!(!older(&world, &[&first], &newest, 2).behind);
}

#[test]
fn a_pod_that_has_not_read_what_a_client_was_told_knows_it() {
    let mut world = world(100, 0);
    world.arrive(&at("m", 1, 20));
    let client = |region: &str, offset| {
        let positions = [("chat-changes".to_owned(), Position { offset, marker: None })].into();
        Token { region: region.into(), chat: "c".into(), partition: 0, positions }
    };
    assert!(world.hub.has_reached("c", &client("a", 1)) && !world.hub.has_reached("c", &client("a", 2)));
    assert!(world.hub.has_reached("c", &client("b", 2)), "offsets of another region are no offsets here");
}
