//! What a standby keeps at hand, so that it polls at once when it is elected: the newest checkpoint, what was
//! appended lately, and an open connection to the source.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use contract::{Record, Timestamp};
use platform::event_log::{Event, LogError, LogRecord, Reader, TopicPartition};
use platform::leadership::Leadership;
use platform::retry;
use tokio::sync::watch;

use crate::checkpoint::Checkpoint;
use crate::counted::Read;
use crate::seen::Seen;
use crate::source::Outcome;
use crate::world::World;

/// How much further back than the source the log is read: what was appended of what a new leader reads again must be
/// known, and it was appended by somebody whose clock may be a minute wrong.
const FURTHER: Duration = Duration::from_secs(60);
/// How often the source is asked, so that the connection stays open and `/readyz` says whether it answers. Clients
/// and servers close what was idle for a minute or more.
const ASK: Duration = Duration::from_secs(20);

/// Where the last leader was, and what it appended last.
pub struct Handover {
    pub checkpoint: Option<Checkpoint>,
    pub seen: Seen,
    /// The next offset to be read, by partition.
    pub next: BTreeMap<TopicPartition, u64>,
    /// What came through the mirrors.
    pub read: Read,
    pub elected: Instant,
}

/// Follows the log while another leads.
pub struct Standby {
    world: World,
    checkpoint: watch::Sender<Option<Checkpoint>>,
    seen: Seen,
    /// The next offset to be read, by partition.
    next: Positions,
    /// What came through the mirrors.
    read: Read,
    /// Where the log ended when this process was elected: what must be read before it knows what the last leader knew.
    ends: Positions,
    elected: Option<Instant>,
}

type Positions = BTreeMap<TopicPartition, u64>;

impl Standby {
    pub fn new(world: World) -> Self {
        Self {
            world,
            checkpoint: watch::Sender::default(),
            seen: Seen::default(),
            next: Positions::new(),
            read: Read::default(),
            ends: Positions::new(),
            elected: None,
        }
    }

    /// Follows the log until this process is elected and knows what stood in the log by then. May be dropped at any
    /// moment.
    pub async fn until_elected(mut self, mut leadership: Leadership) -> Handover {
        let (to_log, check) = (self.world.to_log.clone(), self.world.log_check.clone());
        // What the others say meanwhile cannot be heard, which is no silence.
        let region = self.world.region.clone();
        let asks = keep_connected(self.world.clone(), self.checkpoint.subscribe());
        tokio::select! {
            () = self.follow(&mut leadership) => {}
            () = asks => {}
            () = to_log.watch(check, || region.note_deaf()) => {}
        }
        let Self { checkpoint, seen, next, read, elected, .. } = self;
        let elected = elected.unwrap_or_else(Instant::now);
        Handover { checkpoint: checkpoint.borrow().clone(), seen, next, read, elected }
    }

    /// However often the log goes away.
    async fn follow(&mut self, leadership: &mut Leadership) {
        let mut waits = retry::reconnecting();
        while let Err(error) = self.follow_once(leadership).await {
            self.world.log_check.waiting(error.to_string());
            self.world.to_log.make_topics_again().await;
            tokio::time::sleep(waits.next().unwrap_or(Duration::from_secs(2))).await;
        }
    }

    async fn follow_once(&mut self, leadership: &mut Leadership) -> Result<(), LogError> {
        let to_log = self.world.to_log.clone();
        // The end first: a checkpoint that is written meanwhile is read from there.
        let checkpoint_ends = to_log.checkpoint_ends().await?;
        let checkpoint = to_log.checkpoint().await?;
        let overlap = self.world.settings.remembered_for();
        let now = chrono::Utc::now().timestamp_millis();
        let read_again = checkpoint.as_ref().map_or(now, |checkpoint| checkpoint.read_again_since(overlap)).min(now);
        let starts = to_log.since(read_again - i64::try_from(FURTHER.as_millis()).unwrap_or_default()).await?;
        (self.next, self.ends, self.read) = (starts.clone(), Positions::new(), Read::default());
        self.checkpoint.send_replace(checkpoint);
        let (mut changes, mut checkpoints) = (to_log.read_changes().await?, to_log.read_checkpoints().await?);
        loop {
            // Looked at once it is elected, and again if the log was away since.
            if self.elected.is_some() && self.ends.is_empty() {
                self.ends = to_log.ends().await?;
            }
            if self.elected.is_some() && self.has_caught_up() {
                return Ok(());
            }
            tokio::select! {
                event = changes.next() => self.hear(&mut *changes, event?, &starts).await?,
                event = checkpoints.next() => self.hear(&mut *checkpoints, event?, &checkpoint_ends).await?,
                () = leadership.elected(), if self.elected.is_none() => self.elected = Some(Instant::now()),
            }
        }
    }

    fn has_caught_up(&self) -> bool {
        self.ends.iter().all(|(at, end)| self.next.get(at).is_some_and(|next| next >= end))
    }

    async fn hear(&mut self, reader: &mut dyn Reader, event: Event, starts: &Positions) -> Result<(), LogError> {
        match event {
            Event::Assigned(partitions) => {
                let mut from = Vec::new();
                for at in partitions {
                    let start = match starts.get(&at) {
                        Some(start) => *start,
                        // A mirror that began only now.
                        None => self.world.to_log.start_of(&at).await?,
                    };
                    self.next.entry(at.clone()).or_insert(start);
                    from.push((at, start));
                }
                reader.start(from).await
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
            self.checkpoint.send_replace(Some(checkpoint));
        } else {
            let decoded = Record::decode(&record.value, Timestamp::now());
            if self.world.to_log.is_mirrored(&record.at.topic) {
                self.world.region.hear(&record.at, &decoded, &mut self.read);
            }
            if let Ok(row) = decoded {
                self.seen.insert(&row, Instant::now());
            }
        }
        if let Some(next) = self.next.get_mut(&record.at) {
            *next = record.offset + 1;
        }
    }
}

/// Polls now and then from where the leader is; nobody needs the answers. Never ends.
async fn keep_connected(world: World, checkpoint: watch::Receiver<Option<Checkpoint>>) {
    let mut asks = tokio::time::interval(ASK);
    loop {
        asks.tick().await;
        let cursor = checkpoint.borrow().as_ref().and_then(|checkpoint| checkpoint.cursor.clone());
        let Some(cursor) = cursor else { continue };
        match world.source.poll(Some(&cursor), Duration::ZERO).await {
            Outcome::Answered(_) => world.source_check.ready("answers; the leader polls"),
            other => {
                let (why, _) = other.reason_and_wait(&mut std::iter::empty());
                // It is the leader's to say that the source is away: this one is as ready as it can be.
                world.source_check.ready(format!("the leader polls; this one cannot: {why}"));
            }
        }
    }
}
