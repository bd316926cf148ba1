//! Records that were polled and that the async side has no room for yet: partitions have turns, so that one with a
//! backlog does not hold up the others. Pure.

use std::collections::{BTreeMap, VecDeque};

use super::{LogRecord, TopicPartition};

/// How many records are handed over at once, and about how many bytes: 8 MiB.
pub(super) const BATCH: usize = 2000;
pub(super) const BATCH_BYTES: usize = 8 << 20;
/// How much may wait, in batches.
const ROOM: usize = 4;

/// By partition, each in its order.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    queues: BTreeMap<TopicPartition, VecDeque<LogRecord>>,
    records: usize,
    bytes: usize,
}

impl Waiting {
    pub fn is_empty(&self) -> bool {
        self.queues.is_empty()
    }

    /// Whether more may be polled.
    pub fn has_room(&self) -> bool {
        self.records < ROOM * BATCH && self.bytes < ROOM * BATCH_BYTES
    }

    pub fn push(&mut self, record: LogRecord) {
        self.records += 1;
        self.bytes += record.value.len();
        self.queues.entry(record.at.clone()).or_default().push_back(record);
    }

    /// A batch. Every partition of which something waits has a share of it; what some do not need the others get.
    pub fn take(&mut self) -> Vec<LogRecord> {
        let (mut batch, mut bytes) = (Vec::new(), 0);
        while !self.queues.is_empty() && batch.len() < BATCH && bytes < BATCH_BYTES {
            let share = (BATCH - batch.len()).div_ceil(self.queues.len());
            let share_bytes = (BATCH_BYTES - bytes).div_ceil(self.queues.len());
            for queue in self.queues.values_mut() {
                let mut given = 0;
                for _ in 0..share {
                    let Some(record) = queue.pop_front_if(|_| given < share_bytes) else { break };
                    given += record.value.len();
                    batch.push(record);
                }
                bytes += given;
            }
            self.queues.retain(|_, queue| !queue.is_empty());
        }
        self.records -= batch.len();
        self.bytes -= bytes;
        batch
    }

    /// Everything of one partition.
    pub fn take_of(&mut self, at: &TopicPartition) -> Vec<LogRecord> {
        let records: Vec<LogRecord> = self.queues.remove(at).unwrap_or_default().into();
        self.records -= records.len();
        self.bytes -= records.iter().map(|record| record.value.len()).sum::<usize>();
        records
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waiting(records: &[(u32, usize)], bytes: usize) -> Waiting {
        let mut waiting = Waiting::default();
        for (partition, count) in records {
            let at = TopicPartition::new("t", *partition);
            for offset in 0..*count as u64 {
                let (at, value) = (at.clone(), vec![0; bytes]);
                waiting.push(LogRecord { at, offset, timestamp_ms: 0, key: None, value, headers: Vec::new() });
            }
        }
        waiting
    }

    fn of(batch: &[LogRecord], partition: u32) -> Vec<u64> {
        batch.iter().filter(|record| record.at.partition == partition).map(|record| record.offset).collect()
    }

    #[test]
    fn a_partition_with_a_backlog_does_not_hold_up_the_others() {
        let mut waiting = waiting(&[(0, 5000), (1, 3), (2, 1500)], 1);
        let batch = waiting.take();
        assert_eq!(of(&batch, 1), [0, 1, 2], "all that it has, in order");
        assert!(of(&batch, 2).len().abs_diff(of(&batch, 0).len()) < 3, "of what is left, a half each");
        assert!((BATCH..BATCH + 3).contains(&batch.len()), "a whole batch: {}", batch.len());
        let (mut next, mut all) = (of(&batch, 0), batch.len());
        while !waiting.is_empty() {
            let batch = waiting.take();
            next.extend(of(&batch, 0));
            all += batch.len();
        }
        assert_eq!(next, (0..5000).collect::<Vec<_>>());
        assert_eq!((all, waiting.records, waiting.bytes), (6503, 0, 0));
    }

    #[test]
    fn large_records_fill_a_batch_and_all_room_by_their_bytes() {
        let mut waiting = waiting(&[(0, 18), (1, 18)], 1 << 20);
        assert!(!waiting.has_room());
        let batch = waiting.take();
        assert_eq!((of(&batch, 0).len(), of(&batch, 1).len()), (4, 4));
        assert!(waiting.has_room());
        assert_eq!(waiting.take_of(&TopicPartition::new("t", 0)).len(), 14);
        assert_eq!((waiting.records, waiting.bytes), (14, 14 << 20));
    }
}
