//! Tells a reader that is deaf from one that there is nothing for.

use std::collections::BTreeMap;

use super::TopicPartition;

/// Where each partition stood when it was last looked at.
#[derive(Debug, Default)]
pub(super) struct Silence {
    last: BTreeMap<TopicPartition, Stood>,
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
    /// since the last look.
    ///
    /// # Errors
    /// What `end` says; then nothing is known, and the next look is the first one.
    pub(super) fn look<E>(
        &mut self,
        positions: &BTreeMap<TopicPartition, u64>,
        mut end: impl FnMut(&TopicPartition) -> Result<u64, E>,
    ) -> Result<Option<TopicPartition>, E> {
        let last = std::mem::take(&mut self.last);
        let mut deaf = None;
        for (at, &position) in positions {
            let before = last.get(at).filter(|before| before.position == position);
            let elsewhere = before.is_some() && end(at)? != position;
            if elsewhere && before.is_some_and(|before| before.elsewhere) {
                deaf = Some(at.clone());
            }
            self.last.insert(at.clone(), Stood { position, elsewhere });
        }
        Ok(deaf)
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
        silence.look(&positions, |at| Ok::<_, ()>(ends[at.partition as usize])).expect("an answer")
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
            let positions = [(at(0), step)].into();
            let asked = silence.look(&positions, |_| Err("asked"));
            assert_eq!(asked, Ok(None));
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
        assert_eq!(silence.look(&[(at(1), 5)].into(), |_| Err("away")), Err("away"));
        again(&mut silence);
        silence.forget();
        again(&mut silence);
        assert_eq!(look(&mut silence, [5, 5], [5, 9]), Some(at(1)));
    }
}
