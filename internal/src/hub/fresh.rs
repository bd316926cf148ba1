//! Since when the copy may be old, as far as this pod knows.

use std::collections::BTreeMap;

use contract::Timestamp;
use platform::event_log::TopicPartition;

/// Whether changes may be missing in this region, whatever markers say of the source.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Gap {
    /// Nobody has said it yet.
    #[default]
    Unknown,
    None,
    Since {
        /// Up to when nothing is missing; `None` if nobody knows that of any moment.
        complete_as_of: Option<Timestamp>,
        reason: String,
    },
}

/// When the source was last known to be read to its end.
#[derive(Debug, Clone, Default)]
pub(super) struct Fresh {
    /// By the newest marker of each partition.
    marked: BTreeMap<TopicPartition, Timestamp>,
    pub gap: Gap,
}

impl Fresh {
    /// A marker says how long ago the source was read to its end when it was made, and by whose clock is all that both times have in
    /// common. By this pod's clock that was so long before `now` at the latest; where the two clocks agree it was earlier, for the
    /// marker was under way. A clock that is ahead must not make the copy younger than it is.
    pub fn mark(&mut self, at: TopicPartition, made_at: Timestamp, fresh: Timestamp, now: Timestamp) {
        let fresh = fresh.min(now.minus(made_at.since(fresh)));
        let known = self.marked.entry(at).or_insert(fresh);
        *known = fresh.max(*known);
    }

    pub fn forget(&mut self, at: &TopicPartition) {
        self.marked.remove(at);
    }

    /// The newest topic counts, its slowest partition; and what a gap leaves of that.
    pub fn as_of<'a>(&self, partitions: impl Iterator<Item = &'a TopicPartition>) -> Option<Timestamp> {
        match self.gap {
            Gap::Unknown => None,
            Gap::None => self.marked(partitions),
            Gap::Since { complete_as_of, .. } => self.marked(partitions).min(complete_as_of),
        }
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

    /// A marker that was made at once and came at once.
    fn mark(fresh: &mut Fresh, partition: &TopicPartition, second: u64) {
        fresh.mark(partition.clone(), at(second), at(second), at(second));
    }

    #[test]
    fn a_clock_that_is_wrong_makes_no_copy_younger_than_it_is() {
        let [here, there] = ["chat-changes", "a.chat-changes"].map(|topic| TopicPartition::new(topic, 0));
        let mut fresh = Fresh { gap: Gap::None, ..Fresh::default() };
        fresh.mark(there.clone(), at(100), at(98), at(107));
        assert_eq!(fresh.as_of([&there].into_iter()), Some(at(98)), "the clocks agree: it was under way for a while");
        // An hour ahead, and two seconds old when it was made.
        fresh.mark(there.clone(), at(3700), at(3698), at(110));
        assert_eq!(fresh.as_of([&there].into_iter()), Some(at(108)));
        // That region is lost; this one's own markers count as soon as they are newer.
        fresh.mark(here.clone(), at(120), at(119), at(120));
        assert_eq!(fresh.as_of([&here, &there].into_iter()), Some(at(119)));
        // An hour behind: older than it is, at worst.
        let mut behind = Fresh { gap: Gap::None, ..Fresh::default() };
        behind.mark(there.clone(), at(100), at(99), at(3700));
        assert_eq!(behind.as_of([&there].into_iter()), Some(at(99)));
    }

    #[test]
    fn the_newest_topic_counts_by_its_slowest_partition() {
        let all = ["a.chat-changes", "chat-changes"]
            .map(|topic| [0, 1].map(|partition| TopicPartition::new(topic, partition)))
            .concat();
        let mut fresh = Fresh { gap: Gap::None, ..Fresh::default() };
        for (partition, second) in [(0, 9), (1, 5), (2, 30)] {
            mark(&mut fresh, &all[partition].clone(), second);
        }
        assert_eq!(fresh.as_of(all.iter()), Some(at(5)), "one partition of the other topic has no marker");
        mark(&mut fresh, &all[3].clone(), 20);
        assert_eq!(fresh.as_of(all.iter()), Some(at(20)));
        fresh.forget(&all[3]);
        assert_eq!(fresh.as_of(all.iter()), Some(at(5)));
    }

    #[test]
    fn a_region_with_a_gap_is_as_old_as_what_it_has_whole() {
        let all = [TopicPartition::new("a.chat-changes", 0)];
        let mut fresh = Fresh::default();
        mark(&mut fresh, &all[0], 5);
        let mut with = |complete_as_of: Option<Option<u64>>| {
            fresh.gap = complete_as_of.map_or(Gap::None, |complete_as_of| Gap::Since {
                complete_as_of: complete_as_of.map(at),
                reason: "a hole".into(),
            });
            fresh.as_of(all.iter())
        };
        assert_eq!(with(None), Some(at(5)));
        assert_eq!(with(Some(Some(2))), Some(at(2)));
        assert_eq!(with(Some(Some(7))), Some(at(5)), "what came to this pod counts as well");
        assert_eq!(with(Some(None)), None);
    }

    #[test]
    fn before_anybody_has_said_whether_there_is_a_gap_nobody_knows() {
        let all = [TopicPartition::new("a.chat-changes", 0)];
        let mut fresh = Fresh::default();
        mark(&mut fresh, &all[0], 5);
        assert_eq!(fresh.as_of(all.iter()), None);
    }
}
