//! Since when the copy may be old, as far as this pod knows.

use std::collections::BTreeMap;

use contract::Timestamp;
use platform::event_log::TopicPartition;

/// When the source was last known to be read to its end.
#[derive(Debug, Clone, Default)]
pub(super) struct Fresh {
    /// By the newest marker of each partition.
    marked: BTreeMap<TopicPartition, Timestamp>,
    /// While changes may be missing in this region: what was known before that.
    held: Option<Option<Timestamp>>,
}

impl Fresh {
    pub fn mark(&mut self, at: TopicPartition, fresh: Timestamp) {
        let known = self.marked.entry(at).or_insert(fresh);
        *known = fresh.max(*known);
    }

    pub fn forget(&mut self, at: &TopicPartition) {
        self.marked.remove(at);
    }

    /// Whatever markers say of the source, a region that knows of a gap is no fresher than it was before that.
    pub fn note_gap<'a>(&mut self, gap: bool, partitions: impl Iterator<Item = &'a TopicPartition>) {
        self.held = gap.then(|| self.held.unwrap_or_else(|| self.marked(partitions)));
    }

    /// The newest topic counts, its slowest partition.
    pub fn as_of<'a>(&self, partitions: impl Iterator<Item = &'a TopicPartition>) -> Option<Timestamp> {
        self.held.unwrap_or_else(|| self.marked(partitions))
    }

    fn marked<'a>(&self, partitions: impl Iterator<Item = &'a TopicPartition>) -> Option<Timestamp> {
        let mut topics: BTreeMap<&str, Option<Timestamp>> = BTreeMap::new();
        for at in partitions {
            let fresh = self.marked.get(at).copied();
            topics.entry(&at.topic).and_modify(|slowest| *slowest = (*slowest).min(fresh)).or_insert(fresh);
        }
        topics.into_values().flatten().max()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: u64) -> Timestamp {
        Timestamp::from_micros(1_767_000_000_000_000 + second * 1_000_000).unwrap()
    }

    #[test]
    fn the_newest_topic_counts_by_its_slowest_partition() {
        let all = ["a.chat-changes", "chat-changes"]
            .map(|topic| [0, 1].map(|partition| TopicPartition::new(topic, partition)))
            .concat();
        let mut fresh = Fresh::default();
        for (partition, second) in [(0, 9), (1, 5), (2, 30)] {
            fresh.mark(all[partition].clone(), at(second));
        }
        assert_eq!(fresh.as_of(all.iter()), Some(at(5)), "one partition of the other topic has no marker");
        fresh.mark(all[3].clone(), at(20));
        assert_eq!(fresh.as_of(all.iter()), Some(at(20)));
        fresh.forget(&all[3]);
        assert_eq!(fresh.as_of(all.iter()), Some(at(5)));
    }

    #[test]
    fn while_there_is_a_gap_nothing_is_fresher_than_it_was_before_that() {
        let all = [TopicPartition::new("a.chat-changes", 0)];
        let mut fresh = Fresh::default();
        fresh.mark(all[0].clone(), at(5));
        for second in 6..9 {
            fresh.note_gap(true, all.iter());
            fresh.mark(all[0].clone(), at(second));
            assert_eq!(fresh.as_of(all.iter()), Some(at(5)));
        }
        fresh.note_gap(false, all.iter());
        assert_eq!(fresh.as_of(all.iter()), Some(at(8)));
        let mut began_in_it = Fresh::default();
        began_in_it.note_gap(true, all.iter());
        began_in_it.mark(all[0].clone(), at(5));
        assert_eq!(began_in_it.as_of(all.iter()), None, "how old it is nobody knows");
    }
}
