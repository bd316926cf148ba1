//! What is erased, and what is not.

use contract::erasure::{Erasure, ErasureSet, Scope, author_hash};
use contract::row::Row;
use contract::{Chat, Message, Record, Rejected, Timestamp};

use crate::records::{chat, message};

fn at(text: &str) -> Timestamp {
    text.parse().expect("a time")
}

fn erasure(chat: &str, scope: Scope, erased_at: &str) -> Erasure {
    Erasure { chat_id: chat.into(), scope, erased_at: at(erased_at) }
}

fn set(erasures: impl IntoIterator<Item = Erasure>) -> ErasureSet {
    let mut set = ErasureSet::default();
    for erasure in erasures {
        set.insert(erasure);
    }
    set
}

fn of_author(author: &str, erased_at: &str) -> Erasure {
    let chat = message().chat_id;
    erasure(&chat, Scope::Author { author_hash: author_hash(&chat, author) }, erased_at)
}

const LATER: &str = "2030-01-01T00:00:00Z";
const EARLIER: &str = "2020-01-01T00:00:00Z";

#[test]
fn a_chat_takes_everything_in_it_whenever_it_comes() {
    let (row, all) = (message(), set([erasure(&message().chat_id, Scope::Chat, EARLIER)]));
    assert!(all.bars(&Record::Message(row.clone())) && all.covers_chat(&row.chat_id));
    let chat = Chat { id: row.chat_id.clone(), ..chat() }.stamped();
    assert!(all.bars(&Record::Chat(chat.clone())));
    let mut elsewhere = row.clone();
    elsewhere.chat_id = "another".into();
    assert!(!all.bars(&Record::Message(elsewhere.stamped())));
    assert!(!all.bars(&Record::Message(row.erased())) && !all.bars(&Record::Chat(chat.erased())), "it is said");
}

#[test]
fn a_message_is_erased_alone() {
    let (row, scope) = (message(), Scope::Message { message_id: message().id });
    let all = set([erasure(&row.chat_id, scope, EARLIER)]);
    assert!(all.bars(&Record::Message(row.clone())) && !all.covers_chat(&row.chat_id));
    let mut other = row;
    other.id = "other".into();
    assert!(!all.bars(&Record::Message(other.stamped())));
}

#[test]
fn an_author_is_erased_up_to_that_moment() {
    let (row, record) = (message(), Record::Message(message()));
    let author = row.author.clone().expect("an author");
    assert!(set([of_author(&author, LATER)]).bars(&record));
    assert!(!set([of_author(&author, EARLIER)]).bars(&record), "what is written later is another matter");
    assert!(!set([of_author("somebody else", LATER)]).bars(&record));
    let encoded = String::from_utf8(of_author(&author, LATER).encode()).expect("JSON");
    assert!(!encoded.contains(&author), "{encoded}");
    assert_ne!(author_hash("a", &author), author_hash("b", &author));
}

#[test]
fn what_nobody_understands_is_barred_if_it_names_what_is_erased() {
    let rejected = |raw: &str| Record::Rejected(Rejected::new("external", "malformed", "7 is no text", raw.as_bytes()));
    let named = rejected(r#"{"chat_id":"c","id":"m","text":7}"#);
    let message = |id: &str| erasure("c", Scope::Message { message_id: id.into() }, LATER);
    assert!(set([message("m")]).bars(&named) && !set([message("n")]).bars(&named));
    assert!(set([erasure("c", Scope::Chat, LATER)]).bars(&named));
    assert!(!set([erasure("d", Scope::Chat, LATER)]).bars(&named));
}

#[test]
fn what_nobody_understands_is_an_authors_if_it_has_the_name_between_quotes() {
    let by_ada = Erasure { chat_id: "c".into(), ..of_author("ada", LATER) };
    let erased = Erasure { scope: Scope::Author { author_hash: author_hash("c", "ada \"x\"") }, ..by_ada };
    let names = |raw: &str| erased.is_named_in(raw, None);
    assert!(names(r#"{"chat_id":"c","id":"m","author":"ada \"x\"","text":7}"#));
    assert!(names(r#"{"chat_id":"c","author":"ada \"x\"","text":"cut in the mid"#), "it may be damaged");
    assert!(!names(r#"{"chat_id":"d","author":"ada \"x\""}"#), "another chat's");
    assert!(!names(r#"{"chat_id":"c","author":"bob","text":"ada \"x\""}"#), "it says who wrote it");
    assert!(!names(&r#"{"chat_id":"c","author":"bob","text":""#.repeat(9)), "nor is it there");
    let written = |at: &str| names(&format!(r#"{{"chat_id":"c","author":"ada \"x\"","created_at":"{at}"}}"#));
    assert!(written("2029-12-31T23:59:59Z") && !written("2030-01-01T00:00:01Z"), "who comes back is not silenced");
    let mentioned = |at: &str| names(&format!(r#"{{"chat_id":"c","author":7,"to":"ada \"x\"","created_at":"{at}"}}"#));
    assert!(mentioned("2029-12-31T23:59:59Z") && !mentioned("2030-01-01T00:00:01Z"), "nor does it matter who wrote it");
    let all = set([erased]);
    let bars = |raw: &str| all.bars(&Record::Rejected(Rejected::new("external", "malformed", "", raw.as_bytes())));
    assert!(bars(r#"{"chat_id":"c","author":"ada \"x\"","created_at":"2026-01-01T00:00:00Z","text":7}"#));
    assert!(!bars(r#"{"chat_id":"c","author":"ada \"x\"","created_at":7}"#), "nobody can tell when");
    assert!(!bars(r#"{"chat_id":"c","author":"ada \"x\"","text":"cut in the mid"#), "it may be a later one");
}

#[test]
fn what_cannot_be_read_is_known_by_its_key() {
    let of = |scope: Scope, key: &str| erasure("c", scope, LATER).is_named_in("garbage", Some(key));
    assert!(of(Scope::Chat, "c") && of(Scope::Chat, "c/m") && !of(Scope::Chat, "cc") && !of(Scope::Chat, "d/c"));
    let message = || Scope::Message { message_id: "m".into() };
    assert!(of(message(), "c/m") && !of(message(), "c") && !of(message(), "c/mm") && !of(message(), "d/m"));
}

#[test]
fn of_two_erasures_of_the_same_the_later_one_counts() {
    let (early, late) = (of_author("ada", EARLIER), of_author("ada", LATER));
    assert_eq!(early.key(), late.key());
    let mut set = ErasureSet::default();
    assert!(set.insert(early.clone()) && set.insert(late.clone()) && !set.insert(early));
    assert_eq!(set.iter().collect::<Vec<_>>(), [&late]);
}

#[test]
fn an_erasure_is_read_back_and_its_key_is_its_own() {
    let scopes = [Scope::Chat, Scope::Message { message_id: "m".into() }, Scope::Author { author_hash: "m".into() }];
    let all = scopes.map(|scope| erasure("a/b", scope, LATER));
    for erasure in &all {
        assert_eq!(Erasure::decode(&erasure.encode()).expect("JSON"), *erasure);
    }
    let split = erasure("a", Scope::Message { message_id: "b/m".into() }, LATER);
    let keys: std::collections::BTreeSet<String> = all.iter().chain([&split]).map(Erasure::key).collect();
    assert_eq!(keys.len(), 4, "{keys:?}");
    assert!(Erasure::decode(b"{\"chat_id\":\"c\"}").is_err());
}

#[test]
fn of_an_erased_row_only_its_place_is_left() {
    let before = message();
    let edited = Message { edited_at: Some(at(LATER)), deleted_at: Some(at(LATER)), ..before.clone() }.stamped();
    let erased = edited.clone().erased();
    let nothing = Message {
        author: None,
        text: None,
        edited_at: None,
        deleted_at: None,
        stamp: erased.stamp,
        version: erased.version.clone(),
        ..before
    };
    assert_eq!(erased, nothing);
    assert_eq!(erased, message().erased(), "the same whatever it was before");
    assert!(erased.version.is_erased() && !edited.version.is_erased() && erased.version > edited.version);
    assert!(Row::Message(erased).is_erased() && !Row::Message(edited).is_erased());

    let before = chat();
    let renamed = Chat { edited_at: Some(at(LATER)), deleted_at: Some(at(LATER)), ..before.clone() }.stamped();
    let erased = renamed.clone().erased();
    assert_eq!((&erased.title, erased.edited_at, erased.deleted_at), (&None, None, None));
    assert_eq!(erased, before.erased());
    assert!(Row::Chat(erased).is_erased() && !Row::Chat(renamed).is_erased());
}
