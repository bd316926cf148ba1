//! What a standby keeps at hand, so that it polls at once when it is elected: the newest checkpoint, what was
//! appended lately, and an open connection to the source.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use contract::{Record, Timestamp};
use platform::event_log::{Event, LogError, LogRecord, Reader, TopicPartition};
use platform::retry;

use crate::checkpoint::Checkpoint;
use crate::leader::World;
use crate::seen::Seen;
use crate::source::Outcome;
use crate::to_log::{CHECKPOINT_TAIL, TAIL};

/// How often the source is asked, so that the connection stays open and `/readyz` says whether it answers. Clients
/// and servers close what was idle for a minute or more.
const ASK: Duration = Duration::from_secs(20);

/// Where the last leader was, and what it appended last.
pub struct Handover {
    pub checkpoint: Option<Checkpoint>,
    pub seen: Seen,
}

/// Follows the log while another leads.
pub struct Standby {
    world: World,
    checkpoint: Option<Checkpoint>,
    seen: Seen,
    /// What must be read before this standby knows what the last leader knew, by partition; none before the log was
    /// reached.
    behind: Option<BTreeMap<TopicPartition, u64>>,
}

impl Standby {
    pub fn new(world: World) -> Self {
        Self { world, checkpoint: None, seen: Seen::default(), behind: None }
    }

    /// Follows the log for ever. May be dropped at any moment.
    pub async fn keep_warm(&mut self) {
        let mut waits = retry::reconnecting();
        loop {
            let began = Instant::now();
            if let Err(error) = self.follow().await {
                self.world.log_check.waiting(error.to_string());
            }
            self.behind = None;
            if began.elapsed() > ASK {
                waits = retry::reconnecting();
            }
            tokio::time::sleep(waits.next().unwrap_or(ASK)).await;
        }
    }

    /// What a leader goes on with; none if this standby has not caught up yet.
    pub fn hand_over(self) -> Option<Handover> {
        let caught_up = self.behind.is_some_and(|behind| behind.is_empty());
        caught_up.then_some(Handover { checkpoint: self.checkpoint, seen: self.seen })
    }

    async fn follow(&mut self) -> Result<(), LogError> {
        let to_log = self.world.to_log.clone();
        let (mut changes, mut checkpoints) = (to_log.read_changes().await?, to_log.read_checkpoints().await?);
        let mut behind = to_log.checkpoint_ends().await?;
        behind.extend(to_log.ends().await?);
        behind.retain(|_, end| *end > 0);
        self.behind = Some(behind);
        self.world.log_check.ready("follows it");
        let mut asks = tokio::time::interval(ASK);
        loop {
            tokio::select! {
                event = changes.next() => self.hear(&mut *changes, event?, TAIL).await?,
                event = checkpoints.next() => self.hear(&mut *checkpoints, event?, CHECKPOINT_TAIL).await?,
                _ = asks.tick() => self.ask().await,
            }
        }
    }

    async fn hear(&mut self, reader: &mut dyn Reader, event: Event, tail: u64) -> Result<(), LogError> {
        match event {
            Event::Assigned(partitions) => {
                let mut positions = Vec::new();
                for at in partitions {
                    let held = self.world.to_log.held(&at).await?;
                    positions.push((at, held.start.max(held.end.saturating_sub(tail))));
                }
                reader.start(positions).await
            }
            Event::Records(records) => {
                records.iter().for_each(|record| self.take(record));
                Ok(())
            }
            Event::OutOfRange(at) => Err(LogError::Unavailable(format!("{at} was cut or replaced"))),
            Event::Revoked(_) => Ok(()),
        }
    }

    fn take(&mut self, record: &LogRecord) {
        if let Some(checkpoint) = self.world.to_log.checkpoint_from(record) {
            self.checkpoint = Some(checkpoint);
        } else if let Ok(row) = Record::decode(&record.value, Timestamp::now()) {
            self.seen.insert(&row, Instant::now());
        }
        if let Some(behind) = &mut self.behind
            && behind.get(&record.at).is_some_and(|end| record.offset + 1 >= *end)
        {
            behind.remove(&record.at);
        }
    }

    /// A poll whose answer nobody needs, from where the leader is.
    async fn ask(&self) {
        let Some(cursor) = self.checkpoint.as_ref().and_then(|checkpoint| checkpoint.cursor.as_deref()) else { return };
        match self.world.source.poll(Some(cursor), Duration::ZERO).await {
            Outcome::Answered(_) => self.world.source_check.ready("answers; the leader polls"),
            other => {
                let (why, _) = other.reason_and_wait(&mut std::iter::empty());
                // It is the leader's to say that the source is away: this one is as ready as it can be.
                self.world.source_check.ready(format!("the leader polls; this one cannot: {why}"));
            }
        }
    }
}
