//! V3: what a browser is sent never gets older.

use std::sync::Arc;

use contract::Timestamp;
use contract::version::VersionFields;
use internal::gate_suite::{row, version};
use internal::hub::Resumed;
use internal::to_browser::outbox::Outbox;

use crate::hub::{anybody, versions, world};

#[test]
fn v3_what_was_kept_for_a_load_is_not_sent_after_something_newer() {
    let mut world = world(100, 0);
    world.hub.begin_load(world.browser, "c");
    world.arrive(&row("c", "m", &version(1)));
    // In the ring, and not pushed yet: the load has it.
    world.append(&row("c", "m", &version(2)));
    world.hub.finish_load(world.browser, "c", world.snapshot(&[], 0));
    let sent = world.sent();
    assert_eq!(sent.len(), 1, "the load alone");
    assert_eq!(sent[0].1, [version(2).to_string()]);
}

#[test]
fn v3_nobody_is_pushed_anything_older_than_a_load_or_a_resume_had() {
    let mut world = world(100, 0);
    world.hub.begin_load(world.browser, "c");
    // The store is ahead of what this pod has read, or the ring of what it has pushed.
    world.hub.finish_load(world.browser, "c", world.snapshot(&[&row("c", "m", &version(2))], 5));
    let mut token = world.sent().remove(0).2.unwrap();
    let other = Arc::new(Outbox::default());
    let another = world.hub.connect(other.clone(), anybody());
    world.hub.begin_load(another, "c");
    world.hub.finish_load(another, "c", world.snapshot(&[], 0));
    other.take();
    world.arrive(&row("c", "m", &version(1)));
    assert!(world.sent().is_empty(), "it has a newer one");
    assert_eq!(other.take().0.len(), 0, "the newer one is on its way to whoever has not");
    world.arrive(&row("c", "m", &version(2)));
    let sent: Vec<_> = world.sent().into_iter().flat_map(|(_, versions, _)| versions).collect();
    assert_eq!(sent, [version(2).to_string()], "for its position");
    assert_eq!(other.take().0.len(), 1);
    let pending = world.append(&row("c", "n", &version(3)));
    let newer = world.append(&row("c", "n", &version(5)));
    token.positions.get_mut("chat-changes").unwrap().offset = 5;
    assert_eq!(world.hub.resume(world.browser, "c", &token), Resumed::Ahead, "of a pod that is ahead of this one");
    for update in [pending, newer] {
        world.push(update);
    }
    world.sent();
    let pending = world.append(&row("c", "n", &version(6)));
    let newer = world.append(&row("c", "n", &version(7)));
    assert_eq!(world.hub.resume(world.browser, "c", &token), Resumed::Exactly);
    assert_eq!(world.sent().last().unwrap().1, [version(7).to_string()]);
    world.push(pending);
    assert!(world.sent().is_empty());
    world.push(newer);
    assert_eq!(world.sent()[0].1, [version(7).to_string()]);
    world.arrive(&row("c", "n", &version(8)));
    assert_eq!(world.sent()[0].1, [version(8).to_string()]);
}

/// The store has what stood in a log that is gone; another log in its place begins with what was read again.
#[test]
fn v3_a_log_that_begins_anew_pushes_nothing_older_than_a_load_had() {
    let mut world = world(100, 0);
    world.hub.begin_load(world.browser, "c");
    let of_today = |sequence| {
        let changed_at = Timestamp::now();
        VersionFields { epoch: 1, sequence, changed_at, rev: 0, deleted: false, digest: 0 }.encode().to_string()
    };
    world.hub.finish_load(world.browser, "c", world.snapshot(&[&row("c", "m", &of_today(4))], 0));
    world.sent();
    world.arrive(&row("c", "n", &of_today(1)));
    world.sent();
    world.arrive(&row("c", "m", &of_today(3)));
    assert!(world.sent().is_empty());
    let newest = of_today(5);
    world.arrive(&row("c", "m", &newest));
    assert_eq!(world.sent()[0].1, [newest]);
}

#[test]
fn v3_a_resume_brings_nothing_older_than_what_was_pushed() {
    let mut world = world(100, 0);
    world.hub.begin_load(world.browser, "c");
    world.hub.finish_load(world.browser, "c", world.snapshot(&[], 0));
    world.sent();
    world.arrive(&row("c", "m", &version(2)));
    let token = world.sent().remove(0).2.unwrap();
    // As a listing makes it, which is ahead of the feed.
    world.arrive(&row("c", "m", &version(1)));
    world.arrive(&row("c", "n", &version(3)));
    world.sent();
    assert_eq!(world.hub.resume(world.browser, "c", &token), Resumed::Exactly);
    let sent: Vec<_> = world.sent().into_iter().flat_map(|(_, versions, _)| versions).collect();
    assert_eq!(sent, [version(3).to_string()]);
}

#[test]
fn v3_an_older_version_is_not_pushed_after_a_newer_one() {
    let mut world = world(100, 0);
    world.hub.begin_load(world.browser, "c");
    world.hub.finish_load(world.browser, "c", world.snapshot(&[], 0));
    world.sent();
    let (first, second) = (row("c", "m", &version(1)), row("c", "m", &version(2)));
    world.arrive(&second);
    assert_eq!(world.sent().remove(0).1, versions(&[&second]));
    world.arrive(&first);
    world.arrive(&second);
    assert!(world.sent().is_empty());
}

#[test]
fn v3_nothing_older_is_pushed_than_what_was_in_the_log_before_the_pod_was_live() {
    let mut world = world(100, 0);
    world.hub.begin_load(world.browser, "c");
    world.hub.finish_load(world.browser, "c", world.snapshot(&[], 0));
    world.sent();
    let (first, second, third) = (row("c", "m", &version(1)), row("c", "m", &version(2)), row("c", "m", &version(3)));
    world.hub.remember([second, first.clone()]);
    // The gate is not asked here: it may have lost what it knew, or be away.
    world.arrive(&first);
    assert!(world.sent().is_empty());
    world.arrive(&third);
    assert_eq!(world.sent().remove(0).1, versions(&[&third]));
}
