//! What is asked to be erased, and is not to be shown wherever it comes from.

use std::num::NonZeroUsize;
use std::sync::PoisonError;

use contract::erasure::{Erasure, Written};

use super::pushes::name_of;
use super::{Hub, State};
use crate::ring::Item;
use crate::shown::ShownMessage;

/// Of how many messages it is remembered that their rows said so: a row may be read before what asked for it.
pub(super) const LATELY: NonZeroUsize = NonZeroUsize::new(20_000).unwrap();

impl Hub {
    /// From now on nothing of it is shown, and nothing of it is remembered.
    pub fn note_erasure(&self, erasure: Erasure) {
        let chat = erasure.chat_id.clone();
        if !self.erasures.write().unwrap_or_else(PoisonError::into_inner).insert(erasure) {
            return;
        }
        let mut state = self.lock();
        if self.hides_chat(&chat) {
            state.chats.hide(&chat);
        }
        let partition = state.partition_of(&chat);
        for (_, ring) in state.rings.iter_mut().filter(|(at, _)| at.partition == partition) {
            ring.erase(|row| row.chat_id == chat && self.hides(row));
        }
    }

    /// Whether a row, as the copy or the log has it, must not be shown. What says that something was erased may be, always.
    pub fn hides(&self, row: &ShownMessage) -> bool {
        !row.version.is_erased() && self.hides_of(&row.chat_id, row.written())
    }

    /// The same, by what is known of it.
    pub fn hides_of(&self, chat: &str, message: Written<'_>) -> bool {
        self.erasures.read().unwrap_or_else(PoisonError::into_inner).covers(chat, message)
    }

    /// Whether a chat itself must not be shown.
    pub fn hides_chat(&self, chat: &str) -> bool {
        self.erasures.read().unwrap_or_else(PoisonError::into_inner).covers_chat(chat)
    }
}

impl State {
    /// The item as it is to be remembered. What was erased takes with it whatever is remembered of it.
    pub(super) fn without_erased(&mut self, item: Item) -> Item {
        let Item::Message(row) = &item else { return item };
        if row.version.is_erased() {
            let partition = self.partition_of(&row.chat_id);
            for (_, ring) in self.rings.iter_mut().filter(|(at, _)| at.partition == partition) {
                ring.erase(|held| (&held.chat_id, &held.id) == (&row.chat_id, &row.id));
            }
            self.erased.put(name_of(row), ());
        } else if !self.erased.is_empty() && self.erased.contains(&name_of(row)) {
            return Item::Other;
        }
        item
    }
}
