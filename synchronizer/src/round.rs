//! One reconcile from its beginning to its end, and the one that follows if it was not whole. Pure but for the time of its beginning.

use std::collections::BTreeSet;

use contract::Timestamp;
use serde::{Deserialize, Serialize};

/// How many chats are remembered that could not be compared: a checkpoint carries them. If there are more, the source was
/// away, and everything is compared again.
const LEFT: usize = 100;
/// Which one of the rounds that follow because of such a chat compares all again.
const ALL_AGAIN: u32 = 8;

/// Changes may be missing.
pub struct Gap {
    /// Up to when nothing is; `None` if nobody knows that of any moment.
    pub complete_as_of: Option<Timestamp>,
}

/// A round that is under way or waits for its turn.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Round {
    pub reason: String,
    /// Whether changes may be missing until it is done: then nobody may say that the copy is fresh.
    pub gap: bool,
    /// Of a gap: up to when nothing is missing; `None` if nobody knows that of any moment.
    #[serde(default)]
    pub complete_as_of: Option<Timestamp>,
    pub asked_at: Timestamp,
    /// The chats up to this id are done.
    pub after: Option<String>,
    pub chats_done: u64,
    pub chats: u64,
    /// How many records it appended.
    pub appended: u64,
    /// Why it does not go on just now.
    #[serde(default)]
    pub waiting: Option<String>,
    /// Whether there was another gap since it began: then another round follows.
    #[serde(default)]
    pub again: bool,
    /// Whether some chat could not be compared: then it is no whole round, and another one follows.
    #[serde(default)]
    pub incomplete: bool,
    /// Which, while they are few: the one that follows compares only them.
    #[serde(default)]
    pub left: BTreeSet<String>,
    /// The chats that it compares; all, if there is none.
    #[serde(default)]
    pub only: BTreeSet<String>,
    /// How many before it were not whole.
    #[serde(default)]
    pub tries: u32,
}

impl Round {
    /// One that begins from its beginning.
    pub fn new(reason: &str, gap: Option<Gap>) -> Self {
        Self {
            reason: reason.into(),
            gap: gap.is_some(),
            complete_as_of: gap.and_then(|gap| gap.complete_as_of),
            asked_at: Timestamp::now(),
            after: None,
            chats_done: 0,
            chats: 0,
            appended: 0,
            waiting: None,
            again: false,
            incomplete: false,
            left: BTreeSet::new(),
            only: BTreeSet::new(),
            tries: 0,
        }
    }

    /// How far it has come, by whoever does it, who does not know what was asked for meanwhile.
    #[must_use]
    pub fn now(&self, done: &Self) -> Self {
        Self { again: self.again, complete_as_of: self.complete_as_of, ..done.clone() }
    }

    /// The one that must follow this one, which has come to its end.
    pub fn next(&self) -> Option<Self> {
        if !self.incomplete && !self.again {
            return None;
        }
        let new = Self::new(&self.reason, self.gap.then_some(Gap { complete_as_of: self.complete_as_of }));
        if !self.incomplete {
            return Some(new);
        }
        let all = Self { tries: self.tries.saturating_add(1), appended: self.appended, ..new };
        // Now and then all: the others must not go unseen for ever because of one.
        if self.again || self.left.len() > LEFT || all.tries.is_multiple_of(ALL_AGAIN) {
            return Some(all);
        }
        // Together with this one it is a whole one.
        Some(Self { only: self.left.clone(), asked_at: self.asked_at, ..all })
    }
    /// Of these chats, in order: how many it compares, and those that are still to be done.
    pub fn of(&self, chats: Vec<String>) -> (u64, Vec<String>) {
        let mut mine = chats;
        mine.retain(|chat| self.only.is_empty() || self.only.contains(chat));
        let all = mine.len() as u64;
        mine.retain(|chat| self.after.as_ref().is_none_or(|after| chat > after));
        (all, mine)
    }

    /// This chat could not be compared.
    pub fn leave(&mut self, chat: &str) {
        self.incomplete = true;
        // One more than are remembered says that they are too many.
        if self.left.len() <= LEFT {
            self.left.insert(chat.to_owned());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(chats: &[&str]) -> Vec<String> {
        chats.iter().map(|chat| (*chat).to_owned()).collect()
    }

    #[test]
    fn what_could_not_be_compared_alone_is_compared_again_and_now_and_then_all() {
        let all = names(&["a", "b", "c", "d"]);
        let mut round = Round::new("a hole", None);
        let (began, mut compared) = (round.asked_at, Vec::new());
        for _ in 0..ALL_AGAIN {
            compared.push(round.of(all.clone()).1);
            assert_eq!(round.asked_at, began, "together they are one");
            round.appended += 1;
            round.leave("c");
            round = round.next().expect("another one");
        }
        assert_eq!(compared[0], all);
        assert_eq!(compared[1..], vec![names(&["c"]); ALL_AGAIN as usize - 1]);
        assert_eq!(round.of(all.clone()), (4, all.clone()));
        round.leave("c");
        let last = round.next().expect("another one");
        assert_eq!((last.of(all), last.appended, last.next()), ((1, names(&["c"])), u64::from(ALL_AGAIN), None));
    }

    #[test]
    fn where_hardly_any_could_be_compared_all_are_again() {
        let mut round = Round::new("a hole", None);
        (0..200).for_each(|chat| round.leave(&chat.to_string()));
        assert!(round.next().expect("another one").only.is_empty());
    }

    #[test]
    fn after_another_gap_all_are_compared() {
        let mut round = Round { again: true, ..Round::new("a hole", None) };
        assert!(round.next().expect("another one").only.is_empty());
        round.leave("c");
        assert!(round.next().expect("another one").only.is_empty());
    }

    #[test]
    fn one_that_was_begun_goes_on_behind_the_last_chat() {
        let round = |only: &[&str]| Round {
            after: Some("b".to_owned()),
            only: names(only).into_iter().collect(),
            ..Round::new("a hole", None)
        };
        let all = names(&["a", "b", "c", "d"]);
        assert_eq!(round(&[]).of(all.clone()), (4, names(&["c", "d"])));
        assert_eq!(round(&["a", "d"]).of(all), (2, names(&["d"])));
    }
}
