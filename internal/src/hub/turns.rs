//! In which order the rows of a batch are pushed, so that a chat that floods does not hold up the others. Pure.

use std::collections::{HashMap, VecDeque};

use super::Update;

/// How many bytes of one chat are pushed before the other chats have their turn: some fifty messages.
pub const QUANTUM: u64 = 32 << 10;
/// What a row costs besides its text.
const ROW: usize = 400;

/// Deficit round robin between chats (Shreedhar and Varghese, "Efficient fair queueing using deficit round robin",
/// 1996), each turn with rows of one chat, in order. A chat gets `quantum` bytes a round, and keeps what a large row did
/// not let it use.
pub fn in_turns(updates: Vec<Update>, quantum: usize) -> Vec<Vec<Update>> {
    let (mut queues, mut places) = (VecDeque::<Queue>::new(), HashMap::new());
    for update in updates {
        let place = *places.entry(update.row.chat_id.clone()).or_insert(queues.len());
        if place == queues.len() {
            queues.push_back(Queue::default());
        }
        queues[place].rows.push_back(update);
    }
    let mut turns = Vec::with_capacity(queues.len());
    while let Some(mut queue) = queues.pop_front() {
        queue.deficit = queue.deficit.saturating_add(quantum.max(1));
        let turn = queue.turn();
        if !turn.is_empty() {
            turns.push(turn);
        }
        if !queue.rows.is_empty() {
            queues.push_back(queue);
        }
    }
    turns
}

/// The rows of one chat that wait for their turn, and how many bytes it may push.
#[derive(Default)]
struct Queue {
    rows: VecDeque<Update>,
    deficit: usize,
}

impl Queue {
    fn turn(&mut self) -> Vec<Update> {
        let mut turn = Vec::new();
        while let Some(row) = self.rows.pop_front_if(|row| cost(row) <= self.deficit) {
            self.deficit -= cost(&row);
            turn.push(row);
        }
        turn
    }
}

fn cost(update: &Update) -> usize {
    ROW + update.row.text.as_ref().map_or(0, String::len)
}

#[cfg(test)]
mod tests {
    use platform::event_log::TopicPartition;

    use super::*;
    use crate::gate_suite::{row, version};

    fn updates(chats: &str) -> Vec<Update> {
        let at = TopicPartition::new("t", 0);
        let update = |(offset, chat): (usize, char)| {
            let number = u32::try_from(offset).unwrap();
            let mut row = row(&chat.to_string(), &format!("m{offset}"), &version(number));
            row.text = Some(String::new());
            Update { at: at.clone(), offset: offset as u64, row, early: false, answer: "" }
        };
        chats.chars().enumerate().map(update).collect()
    }

    /// Each turn's chat and offsets.
    fn turns(updates: Vec<Update>, quantum: usize) -> Vec<(String, Vec<u64>)> {
        let told = |turn: Vec<Update>| {
            assert!(turn.iter().all(|update| update.row.chat_id == turn[0].row.chat_id), "one chat a turn");
            (turn[0].row.chat_id.clone(), turn.iter().map(|update| update.offset).collect())
        };
        in_turns(updates, quantum).into_iter().map(told).collect()
    }

    fn turn(chat: &str, offsets: &[u64]) -> (String, Vec<u64>) {
        (chat.to_owned(), offsets.to_vec())
    }

    #[test]
    fn a_chat_that_floods_waits_for_the_others_and_each_keeps_its_order() {
        assert_eq!(
            turns(updates("aaaaaabca"), 2 * ROW),
            [
                turn("a", &[0, 1]),
                turn("b", &[6]),
                turn("c", &[7]),
                turn("a", &[2, 3]),
                turn("a", &[4, 5]),
                turn("a", &[8])
            ]
        );
    }

    #[test]
    fn without_a_quantum_to_speak_of_each_chat_has_one_turn() {
        assert_eq!(turns(updates("aba"), usize::MAX), [turn("a", &[0, 2]), turn("b", &[1])]);
        assert!(in_turns(Vec::new(), 1).is_empty());
    }

    #[test]
    fn a_large_row_waits_until_its_chat_has_saved_up_for_it() {
        let mut rows = updates("abbb");
        rows[0].row.text = Some("x".repeat(2 * ROW));
        let order: Vec<String> = turns(rows, ROW).into_iter().map(|(chat, _)| chat).collect();
        assert_eq!(order, ["b", "b", "a", "b"]);
    }
}
