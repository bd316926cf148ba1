//! Pushes rows to everybody who watches their chats: a row is framed once, whoever gets it, and a browser is woken once
//! a turn, whatever the turn brings.

use std::collections::BTreeMap;
use std::sync::Arc;

use contract::{Timestamp, Version};
use platform::event_log::TopicPartition;

use super::pushes::{Pushed, name_of};
use super::turns::in_turns;
use super::{Hub, State, Subscription, Update};
use crate::to_browser::outbox::About;
use crate::to_browser::{Frame, ServerFrame};

/// An update as it goes to everybody.
#[derive(Debug)]
pub(super) struct Framed {
    pub about: Arc<About>,
    pub frame: Frame,
    pub version: Version,
}

impl Framed {
    pub fn message(&self) -> &str {
        match &*self.about {
            About::Update { message, .. } => message,
            _ => "",
        }
    }
}

impl Hub {
    /// Pushes rows that are newer than what was pushed before; gives how many rows and how many deliveries.
    /// Afterwards everything up to `positions` was pushed. Between the turns of two chats others may take the lock.
    pub fn publish(&self, updates: Vec<Update>, positions: BTreeMap<TopicPartition, u64>) -> (u64, u64) {
        let (mut rows, mut deliveries) = (0, 0);
        for turn in in_turns(updates, self.quantum) {
            let mut state = self.lock();
            let news = state.take_news(turn);
            rows += news.len() as u64;
            deliveries += self.push(&mut state, &news);
        }
        self.lock().published.extend(positions);
        (rows, deliveries)
    }

    /// Rows of one chat, to everybody who watches it.
    fn push(&self, state: &mut State, news: &[Update]) -> u64 {
        let Some(Update { row, .. }) = news.first() else { return 0 };
        if !state.rooms.contains_key(&row.chat_id) {
            return 0;
        }
        let frames: Vec<Arc<Framed>> = news.iter().map(|update| Arc::new(self.framed(state, update))).collect();
        let State { rooms, connections, .. } = state;
        let mut watching = 0;
        for (connection, subscription) in rooms.get_mut(&row.chat_id).into_iter().flatten() {
            watching += 1;
            match subscription {
                Subscription::Loading(kept) => kept.extend(frames.iter().cloned()),
                Subscription::Live => {
                    if let Some(connection) = connections.get(connection) {
                        let frames = frames.iter().map(|framed| (framed.about.clone(), framed.frame.clone()));
                        connection.outbox.push_all(frames);
                    }
                }
            }
        }
        watching * news.len() as u64
    }

    fn framed(&self, state: &State, update: &Update) -> Framed {
        let Update { at, offset, row, .. } = update;
        let chat = &row.chat_id;
        let resume = Some(self.token(state, chat, at, offset + 1));
        let frame = ServerFrame::Update { chat, messages: std::slice::from_ref(row), resume }.encode();
        let about = Arc::new(About::Update { chat: chat.clone(), message: row.id.clone() });
        Framed { about, frame, version: row.version.clone() }
    }
}

impl State {
    /// What of these rows of one chat is newer than what was pushed, noted as pushed.
    fn take_news(&mut self, turn: Vec<Update>) -> Vec<Update> {
        let mut news = Vec::with_capacity(turn.len());
        for update in turn {
            if let Some(ring) = self.rings.get_mut(&update.at) {
                ring.renew(update.offset, &update.row);
            }
            if !update.early {
                self.early.read(&update.row);
            }
            let name = name_of(&update.row);
            let version = &update.row.version;
            if !self.pushes.is_news(&name, version) || self.given.has_newer(&name, version) {
                continue;
            }
            self.given.forget(&name);
            let connections = self.rooms.get(&update.row.chat_id).map_or(0, |room| room.len() as u64);
            let (version, answer, at) = (update.row.version.clone(), update.answer.into(), Timestamp::now());
            self.pushes.put(name, Pushed { version, answer, connections, at });
            if update.early {
                self.early.put(&update.row, &mut self.pushes);
            }
            news.push(update);
        }
        news
    }
}
