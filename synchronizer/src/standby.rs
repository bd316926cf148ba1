//! What a standby keeps at hand, so that it polls at once when it is elected: the newest checkpoint, what was
//! appended lately, and an open connection to the source.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use contract::{Record, Timestamp};
use platform::event_log::{Event, LogError, LogRecord, Reader, TopicPartition};
use platform::retry;

use crate::checkpoint::{Checkpoint, OVERLAP};
use crate::leader::World;
use crate::seen::Seen;
use crate::source::Outcome;
use crate::to_log::CHECKPOINT_TAIL;

/// How far back the log is read: a new leader reads the source's last minute again, what was appended of it must be
/// known, and it was appended by somebody whose clock may be a minute wrong.
const BACK: Duration = OVERLAP.saturating_mul(2);
/// How often the source is asked, so that the connection stays open and `/readyz` says whether it answers. Clients
/// and servers close what was idle for a minute or more.
const ASK: Duration = Duration::from_secs(20);

/// Where the last leader was, and what it appended last.
pub struct Handover {
    pub checkpoint: Option<Checkpoint>,
    pub seen: Seen,
    pub elected: Instant,
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

/// Where to begin reading.
type Positions = BTreeMap<TopicPartition, u64>;

impl Standby {
    pub fn new(world: World) -> Self {
        Self { world, checkpoint: None, seen: Seen::default(), behind: None }
    }

    /// Follows the log for ever. May be dropped at any moment.
    pub async fn keep_warm(&mut self) {
        self.follow(|_| false).await;
    }

    /// What a leader goes on with: at once if this standby has caught up, else as soon as it has.
    pub async fn hand_over(mut self) -> Handover {
        let elected = Instant::now();
        if !self.has_caught_up() {
            self.follow(Self::has_caught_up).await;
        }
        Handover { checkpoint: self.checkpoint, seen: self.seen, elected }
    }

    fn has_caught_up(&self) -> bool {
        self.behind.as_ref().is_some_and(BTreeMap::is_empty)
    }

    /// Follows the log, however often it goes away.
    async fn follow(&mut self, enough: impl Fn(&Self) -> bool) {
        let mut waits = retry::reconnecting();
        while let Err(error) = self.follow_once(&enough).await {
            self.behind = None;
            self.world.log_check.waiting(error.to_string());
            tokio::time::sleep(waits.next().unwrap_or(Duration::from_secs(2))).await;
        }
    }

    async fn follow_once(&mut self, enough: &impl Fn(&Self) -> bool) -> Result<(), LogError> {
        let to_log = self.world.to_log.clone();
        let since_ms = chrono::Utc::now().timestamp_millis() - i64::try_from(BACK.as_millis()).unwrap_or_default();
        // First: what is written meanwhile is read from the end that is looked at now.
        let (checkpoint_ends, ends) = (to_log.checkpoint_ends().await?, to_log.ends().await?);
        let tail = |(at, end): (&TopicPartition, &u64)| (at.clone(), end.saturating_sub(CHECKPOINT_TAIL));
        let checkpoint_starts: Positions = checkpoint_ends.iter().map(tail).collect();
        let starts = to_log.since(since_ms).await?;
        self.checkpoint = to_log.checkpoint().await?;
        let unread = |(at, end): (TopicPartition, u64)| (starts.get(&at)? < &end).then_some((at, end));
        self.behind = Some(ends.into_iter().filter_map(unread).collect());
        let mut asks = tokio::time::interval(ASK);
        let (mut changes, mut checkpoints) = (to_log.read_changes().await?, to_log.read_checkpoints().await?);
        self.world.log_check.ready("follows it");
        while !enough(self) {
            tokio::select! {
                event = changes.next() => self.hear(&mut *changes, event?, &starts).await?,
                event = checkpoints.next() => self.hear(&mut *checkpoints, event?, &checkpoint_starts).await?,
                _ = asks.tick() => self.ask().await,
            }
        }
        Ok(())
    }

    async fn hear(&mut self, reader: &mut dyn Reader, event: Event, starts: &Positions) -> Result<(), LogError> {
        match event {
            Event::Assigned(partitions) => {
                let from = |at: TopicPartition| {
                    let start = starts.get(&at).copied().unwrap_or(0);
                    (at, start)
                };
                reader.start(partitions.into_iter().map(from).collect()).await
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
