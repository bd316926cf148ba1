//! Pages of older messages: what the store has, and what the log has beyond it.

use std::collections::HashSet;

use platform::event_log::TopicPartition;

use super::plan::{Known, known};
use super::{Hub, State};
use crate::copy::Older;
use crate::resume::Token;
use crate::ring::Ring;
use crate::shown::ShownMessage;

impl Hub {
    /// A page of older messages as they are now.
    pub fn older(&self, chat: &str, older: Older, limit: usize) -> OlderPage {
        plan_older(&self.lock(), chat, older, limit, |row| self.hides(row))
    }

    /// Whether this pod has read what a client was told in this region.
    pub fn has_reached(&self, chat: &str, client: &Token) -> bool {
        let state = self.lock();
        let reached = |at: &TopicPartition, ring: &Ring| {
            client.positions.get(&*at.topic).is_none_or(|told| told.offset <= ring.end())
        };
        client.region != self.region || client.chat != chat || state.rings_of(chat).all(|(at, ring)| reached(at, ring))
    }

    /// Whether the log has brought a message, as far as is remembered: the store may not have it yet.
    pub fn has_read_of(&self, chat: &str, message: &str) -> bool {
        let state = self.lock();
        state.pushes.get(&(chat.to_owned(), message.to_owned())).is_some()
            || state.rings_of(chat).any(|(_, ring)| ring.last_of(chat, message).is_some())
    }
}

/// Messages before a place, oldest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OlderPage {
    pub messages: Vec<ShownMessage>,
    /// Whether there are older ones.
    pub more: bool,
    /// Whether the log has more than the store, and not within reach any more: some may be missing, or be newer by now.
    pub behind: bool,
}

fn plan_older(
    state: &State,
    chat: &str,
    older: Older,
    limit: usize,
    hides: impl Fn(&ShownMessage) -> bool,
) -> OlderPage {
    let Older { snapshot, more, before } = older;
    let floor = snapshot.messages.first().map(|oldest| (oldest.created_at, oldest.id.clone())).filter(|_| more);
    let is_in_it = |row: &ShownMessage| {
        floor.as_ref().is_none_or(|(time, id)| row.place() >= (*time, id.as_str()))
            && before.as_ref().is_none_or(|(time, id)| row.place() < (*time, id.as_str()))
    };
    let stored: HashSet<String> = snapshot.messages.iter().map(|row| row.id.clone()).collect();
    let is_of_no_use = |row: &ShownMessage| hides(row) || !(is_in_it(row) || stored.contains(&row.id));
    let Known { rows: mut messages, behind, .. } = known(state, chat, snapshot, is_of_no_use);
    messages.retain(is_in_it);
    // Of what the store does not have it cannot be asked what comes before it.
    let cut = messages.len().saturating_sub(limit);
    let first = messages.iter().skip(cut).position(|row| stored.contains(&row.id)).unwrap_or(0);
    let cut = if cut > 0 { cut + first } else { 0 };
    messages.drain(..cut);
    OlderPage { messages, more: more || cut > 0, behind }
}
