//! Tells a reader that is deaf from one that there is nothing for.

use std::collections::BTreeMap;

use super::TopicPartition;

/// Where each partition stood when it was last looked at.
#[derive(Debug, Default)]
pub(super) struct Silence {
    last: BTreeMap<TopicPartition, Stood>,
    /// Which partition is looked at first: one whose end cannot be asked must not hide the others.
    turn: usize,
}

#[derive(Debug, Clone, Copy)]
struct Stood {
    position: u64,
    /// Whether the log ended somewhere else.
    elsewhere: bool,
}

impl Silence {
    /// Forgets what was seen: nothing was read meanwhile for a reason that is known.
    pub(super) fn forget(&mut self) {
        self.last.clear();
    }

    /// Looks at the positions, each the offset that is read next. Gives a partition that has stood still since the last
    /// look although the log ended elsewhere then and does now. `end` is asked for a partition's end where nothing came
    /// since the last look; once it gives none, it is not asked for others in this look.
    pub(super) fn look(
        &mut self,
        positions: &BTreeMap<TopicPartition, u64>,
        mut end: impl FnMut(&TopicPartition) -> Option<u64>,
    ) -> Option<TopicPartition> {
        let last = std::mem::take(&mut self.last);
        let (mut deaf, mut answers) = (None, true);
        self.turn += 1;
        let order = positions.iter().cycle().skip(self.turn % positions.len().max(1)).take(positions.len());
        for (at, &position) in order {
            let before = last.get(at).filter(|before| before.position == position).copied();
            let stood = match before {
                Some(before) if answers => match end(at) {
                    Some(end) => {
                        if end != position && before.elsewhere {
                            deaf = Some(at.clone());
                        }
                        Stood { position, elsewhere: end != position }
                    }
                    None => {
                        answers = false;
                        Stood { position, elsewhere: false }
                    }
                },
                Some(before) => before,
                None => Stood { position, elsewhere: false },
            };
            self.last.insert(at.clone(), stood);
        }
        deaf
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(partition: u32) -> TopicPartition {
        TopicPartition::new("t", partition)
    }

    /// Looks once at two partitions, and tells which is deaf.
    fn look(silence: &mut Silence, positions: [u64; 2], ends: [u64; 2]) -> Option<TopicPartition> {
        let positions = [(at(0), positions[0]), (at(1), positions[1])].into();
        silence.look(&positions, |at| Some(ends[at.partition as usize]))
    }

    #[test]
    fn who_stands_still_while_the_log_goes_on_is_deaf() {
        let mut silence = Silence::default();
        assert_eq!(look(&mut silence, [5, 5], [5, 9]), None, "seen for the first time");
        assert_eq!(look(&mut silence, [5, 5], [5, 9]), None, "it may have come this moment");
        assert_eq!(look(&mut silence, [5, 5], [5, 12]), Some(at(1)));
    }

    #[test]
    fn who_stands_beyond_the_logs_end_is_deaf_too() {
        let mut silence = Silence::default();
        for expected in [None, None, Some(at(0))] {
            assert_eq!(look(&mut silence, [50, 0], [3, 0]), expected);
        }
    }

    #[test]
    fn who_moves_or_waits_at_the_end_is_not() {
        let mut silence = Silence::default();
        for step in 0..5 {
            assert_eq!(look(&mut silence, [step, 7], [1000, 7]), None);
        }
        // Something is appended at last, and comes a moment later.
        assert_eq!(look(&mut silence, [5, 7], [1000, 8]), None);
        assert_eq!(look(&mut silence, [6, 8], [1000, 8]), None);
    }

    #[test]
    fn nothing_is_asked_of_a_partition_that_moves() {
        let mut silence = Silence::default();
        for step in 0..3 {
            let mut asked = false;
            silence.look(&[(at(0), step)].into(), |_| {
                asked = true;
                None
            });
            assert!(!asked);
        }
    }

    #[test]
    fn after_an_error_or_a_pause_it_begins_again() {
        let mut silence = Silence::default();
        let again = |silence: &mut Silence| {
            assert_eq!(look(silence, [5, 5], [5, 9]), None);
            assert_eq!(look(silence, [5, 5], [5, 9]), None);
        };
        again(&mut silence);
        assert_eq!(silence.look(&[(at(1), 5)].into(), |_| None), None);
        assert_eq!(look(&mut silence, [5, 5], [5, 9]), None, "what was seen before the error does not count");
        silence.forget();
        again(&mut silence);
        assert_eq!(look(&mut silence, [5, 5], [5, 9]), Some(at(1)));
    }
    #[test]
    fn a_partition_whose_end_cannot_be_asked_does_not_hide_the_others() {
        let mut silence = Silence::default();
        let positions = [(at(0), 5), (at(1), 5)].into();
        let found = (0..6).find_map(|_| silence.look(&positions, |at| (at.partition == 1).then_some(9)));
        assert_eq!(found, Some(at(1)));
    }
}
