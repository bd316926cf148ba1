//! The chats that this pod knows of.

use std::collections::HashMap;

use crate::access::Viewer;
use crate::shown::ShownChat;
use crate::to_browser::{Frame, ServerFrame};

/// Whether a chat may be subscribed to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Known {
    Yes,
    Deleted,
    /// Not here, but it would be this viewer's: another copy may have it.
    NotHere,
    /// To this viewer it is not there, whether it is or not.
    No,
}

#[derive(Clone, Default)]
pub(super) struct Chats {
    /// By id, with whether it is deleted.
    known: HashMap<String, (ShownChat, bool)>,
    /// Whether they were read from the store once.
    complete: bool,
    changed: bool,
}

impl Chats {
    pub fn put(&mut self, shown: ShownChat, deleted: bool) {
        if self.known.get(&shown.id).is_none_or(|(known, _)| known.version < shown.version) {
            self.known.insert(shown.id.clone(), (shown, deleted));
            self.changed = true;
        }
    }

    /// All that the store has.
    pub fn put_all(&mut self, chats: Vec<ShownChat>) {
        for shown in chats {
            self.put(shown, false);
        }
        // Told too: a page may wait for it to say that a chat is not there.
        self.changed |= !std::mem::replace(&mut self.complete, true);
    }

    /// As if it had never been read, until a record says that it was erased.
    pub fn hide(&mut self, chat: &str) {
        if self.known.get(chat).is_some_and(|(_, deleted)| !deleted) {
            self.known.remove(chat);
            self.changed = true;
        }
    }

    /// Whether the list has changed since this was asked last.
    pub fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    pub fn known(&self, chat: &str, viewer: &Viewer) -> Known {
        if !viewer.may_see(chat) {
            return Known::No;
        }
        match self.known.get(chat) {
            Some((_, true)) => Known::Deleted,
            Some(_) => Known::Yes,
            // The list may not have been read yet.
            None if !self.complete => Known::Yes,
            None => Known::NotHere,
        }
    }

    /// The list that this viewer may see.
    pub fn frame(&self, viewer: &Viewer) -> Frame {
        let living = |(shown, deleted): &(ShownChat, bool)| (!deleted).then(|| shown.clone());
        let mut chats: Vec<ShownChat> = match viewer.only() {
            None => self.known.values().filter_map(living).collect(),
            // Few of many, as a rule.
            Some(only) => only.iter().filter_map(|chat| living(self.known.get(chat)?)).collect(),
        };
        chats.sort_by(|a, b| (a.created_at, &a.id).cmp(&(b.created_at, &b.id)));
        ServerFrame::Chats { chats, complete: self.complete }.encode()
    }
}
