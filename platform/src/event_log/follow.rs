//! Reads a small topic as long as the process lives, and knows when all that stood there was read.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use super::{Event, EventLog, LogError, LogRecord, Offsets, Reader, Sharing, Topic, TopicPartition, still_held};

/// How often it is looked whether the topic is still the one that was read.
const LOOK: Duration = Duration::from_secs(10);

/// Where reading begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Begin {
    Start,
    /// With the last record of each partition: it says how it is now.
    Last,
}

/// What comes, in this order for each partition.
#[derive(Debug)]
pub enum Told<'a> {
    /// It is read from where it begins, perhaps once more: the topic may have been made again.
    Begins(&'a TopicPartition),
    Record(&'a LogRecord),
    /// Everything that stood in the topics was read; also after a partition began once more.
    CaughtUp,
}

/// What is followed.
pub struct Follow {
    pub log: Arc<dyn EventLog>,
    pub topic: Topic,
    /// The mirrors that are waited for, where they are there, before all is called read.
    pub mirrors: Vec<String>,
    pub group: String,
    pub begin: Begin,
}

/// The next offset to be read, or where a partition ended; by partition.
type Positions = BTreeMap<TopicPartition, u64>;

impl Follow {
    /// Until the log goes away, or the topic does; then it is to be called again.
    ///
    /// # Errors
    /// [`LogError`].
    pub async fn once(&self, mut take: impl FnMut(Told<'_>) + Send) -> Result<Infallible, LogError> {
        let mut awaited = self.ends().await?;
        let (mut next, mut caught_up) = (Positions::new(), false);
        let mut reader = self.log.read(self.topic.clone(), &self.group, Sharing::All).await?;
        let mut looks = tokio::time::interval(LOOK);
        loop {
            if awaited.is_empty() && !std::mem::replace(&mut caught_up, true) {
                take(Told::CaughtUp);
            }
            let event = tokio::select! {
                event = reader.next() => event?,
                _ = looks.tick() => {
                    self.is_still_the_same(&next).await?;
                    if !awaited.is_empty() && let Ok(now) = self.ends().await {
                        awaited = still_held(awaited, &now);
                        awaited.retain(|at, end| next.get(at).is_none_or(|next| next < end));
                    }
                    continue;
                }
            };
            let assigned = match event {
                Event::Assigned(partitions) => partitions,
                Event::OutOfRange(at) => vec![at],
                Event::Revoked(partitions) => {
                    next.retain(|at, _| !partitions.contains(at));
                    continue;
                }
                Event::Records(records) => {
                    for record in &records {
                        next.insert(record.at.clone(), record.offset + 1);
                        awaited.retain(|at, end| *at != record.at || record.offset + 1 < *end);
                        take(Told::Record(record));
                    }
                    continue;
                }
            };
            for (at, held) in self.begin(&mut *reader, assigned).await? {
                take(Told::Begins(&at));
                let start = self.start(held);
                awaited.remove(&at);
                if start < held.end {
                    awaited.insert(at.clone(), held.end);
                }
                next.insert(at, start);
                // Told once more: what was known of it before does not count any more.
                caught_up = false;
            }
        }
    }

    async fn begin(
        &self,
        reader: &mut dyn Reader,
        assigned: Vec<TopicPartition>,
    ) -> Result<Vec<(TopicPartition, Offsets)>, LogError> {
        let mut begun = Vec::new();
        for at in assigned {
            let held = self.log.offsets(&at.topic).await?;
            let nothing = Offsets { start: 0, end: 0 };
            begun.push((at.clone(), held.get(&at.partition).copied().unwrap_or(nothing)));
        }
        reader.start(begun.iter().map(|(at, held)| (at.clone(), self.start(*held))).collect()).await?;
        Ok(begun)
    }

    fn start(&self, held: Offsets) -> u64 {
        match self.begin {
            Begin::Start => held.start,
            Begin::Last => held.end.saturating_sub(1).max(held.start),
        }
    }

    /// Where every partition ends that holds something. Before the topic is there nothing is known of it.
    async fn ends(&self) -> Result<Positions, LogError> {
        self.is_there().await?;
        let mut ends = Positions::new();
        for topic in std::iter::once(&self.topic.base).chain(&self.mirrors) {
            if self.log.partitions(topic).await?.is_some() {
                let held = self.log.offsets(topic).await?.into_iter().filter(|(_, held)| held.start < held.end);
                ends.extend(held.map(|(id, held)| (TopicPartition::new(topic.as_str(), id), held.end)));
            }
        }
        Ok(ends)
    }

    async fn is_there(&self) -> Result<(), LogError> {
        let base = &self.topic.base;
        let there = self.log.partitions(base).await?;
        there.map(drop).ok_or_else(|| LogError::Unavailable(format!("there is no topic {base}")))
    }

    async fn is_still_the_same(&self, next: &Positions) -> Result<(), LogError> {
        self.is_there().await?;
        let base = &self.topic.base;
        for (id, held) in self.log.offsets(base).await? {
            let at = TopicPartition::new(base.as_str(), id);
            if next.get(&at).is_some_and(|next| held.end < *next) {
                return Err(LogError::Unavailable(format!("{at} ends before what was read of it: it was made again")));
            }
        }
        Ok(())
    }
}
