//! Anti-entropy between regions: each says all the time what its copy holds, chat by chat, and compares what the others say
//! with its own.
//!
//! It asks the source for nothing, so it finds what differs sooner than a slow round does; which of the two is right only the
//! source can tell, so what differs is reconciled with it.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use contract::{Timestamp, Version};
use platform::event_log::{Event, LogError};
use platform::retry;
use tokio::time::MissedTickBehavior;

use crate::agenda::{Agenda, SLOW};
use crate::compare::{Sum, is_living};
use crate::differences::{Compared, Differences, Digests};
use crate::region::Region;
use crate::stored::{Stored, StoredError, patiently};
use crate::to_log::{Positions, ToLog};
use crate::world::World;

/// How many chats are told of at once.
const PAGE: usize = 100;
/// How many rows are read a second at most: a copy of a million takes three minutes, and no Postgres feels it.
const ROWS_A_SECOND: u32 = 5000;
/// Into how many parts the time between two sweeps is cut. One such part is how often those chats are told of again that are
/// suspected to differ, how long a difference must last, and how old a row must be to count.
const PARTS: u32 = 5;

/// One term's.
pub struct AntiEntropy {
    source: String,
    /// This region, and this term's leader.
    here: String,
    leader: String,
    every: Duration,
    stored: Arc<dyn Stored>,
    to_log: ToLog,
    region: Arc<Region>,
    agenda: Arc<Agenda>,
    differences: Arc<Mutex<Differences>>,
    /// The number of what was told last.
    told: tokio::sync::Mutex<u64>,
}

/// What cannot be read or appended now.
#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error(transparent)]
    Log(#[from] LogError),
    #[error(transparent)]
    Stored(#[from] StoredError),
}

impl AntiEntropy {
    /// What is found goes into `differences`, and what follows from it into `agenda`.
    pub fn new(world: &World, leader: &str, agenda: Arc<Agenda>, differences: Arc<Mutex<Differences>>) -> Self {
        let settings = &world.settings;
        Self {
            source: settings.source.clone(),
            here: settings.region.clone(),
            leader: leader.to_owned(),
            every: settings.compare_regions_every,
            stored: world.stored.clone(),
            to_log: world.to_log.clone(),
            region: world.region.clone(),
            agenda,
            differences,
            told: tokio::sync::Mutex::default(),
        }
    }

    /// Tells and compares, where there are other regions. Never ends.
    pub async fn run(&self) {
        if self.region.is_alone() {
            std::future::pending::<()>().await;
        }
        tokio::join!(self.tell(), self.tell_again(), self.hear());
    }

    /// The whole copy now and then.
    async fn tell(&self) {
        let mut ticks = ticks(self.every);
        loop {
            ticks.tick().await;
            if let Err(error) = self.sweep().await {
                tracing::warn!(%error, "the other regions are not told what this copy holds; another try follows");
            }
        }
    }

    async fn sweep(&self) -> Result<(), Failed> {
        let began = Timestamp::now();
        let chats: Vec<String> = self.stored.chats().await?.into_keys().collect();
        // One that holds nothing says so too.
        let pages: Vec<&[String]> = if chats.is_empty() { vec![&[]] } else { chats.chunks(PAGE).collect() };
        let end = pages.len() - 1;
        for (number, page) in pages.into_iter().enumerate() {
            let digests = self.digests(began, page).await?;
            self.say(number, Digests { first: number == 0, last: number == end, ..digests }).await?;
        }
        Ok(())
    }

    /// What is suspected to differ, more often: until it is found alike, or known to differ.
    async fn tell_again(&self) {
        let mut ticks = ticks(self.part());
        loop {
            ticks.tick().await;
            let chats = self.differences().next(PAGE);
            if !chats.is_empty()
                && let Err(error) = self.say_again(&chats).await
            {
                tracing::warn!(%error, "what may differ is told later");
            }
        }
    }

    async fn say_again(&self, chats: &[String]) -> Result<(), Failed> {
        let digests = self.digests(Timestamp::now(), chats).await?;
        self.say("again", digests).await
    }

    async fn digests(&self, began: Timestamp, of: &[String]) -> Result<Digests, StoredError> {
        let before = Timestamp::now().minus(self.part());
        let mut chats = BTreeMap::new();
        for chat in of {
            chats.insert(chat.clone(), self.sum(chat, before).await?);
        }
        let (source, region, leader) = (self.source.clone(), self.here.clone(), self.leader.clone());
        Ok(Digests { source, region, leader, number: 0, began, first: false, last: false, before, chats })
    }

    /// What takes the same `place` later on covers this one.
    async fn say(&self, place: impl std::fmt::Display, digests: Digests) -> Result<(), Failed> {
        // Until it is appended: what is told stands in the log in the order of its numbers.
        let mut number = self.told.lock().await;
        *number += 1;
        Ok(self.to_log.tell(place, &Digests { number: *number, ..digests }).await?)
    }

    /// What this copy holds of a chat that lives, without what has changed since that moment, by the source's clock. The texts
    /// themselves are looked at, not the versions that stand beside them. Read no faster than `ROWS_A_SECOND`.
    async fn sum(&self, chat: &str, before: Timestamp) -> Result<Sum, StoredError> {
        let mut sum = Sum::default();
        let version = self.stored.chat(chat).await?.map(|row| row.expected_version());
        // In a chat that is gone the source lists nothing any more.
        let Some(version) = version.filter(is_living) else { return Ok(sum) };
        let messages = self.stored.versions(chat).await?;
        let rows = messages.iter().map(|(id, version)| (id.as_str(), version)).chain([("", &version)]);
        rows.filter(|(_, version)| is_settled(version, before)).for_each(|(id, version)| sum.add(id, version));
        let rows = u32::try_from(messages.len()).unwrap_or(u32::MAX).saturating_add(1);
        tokio::time::sleep(Duration::from_secs(1) / ROWS_A_SECOND * rows).await;
        Ok(sum)
    }

    fn part(&self) -> Duration {
        self.every / PARTS
    }

    /// Reads what the others say, however often the log goes away.
    async fn hear(&self) {
        let mut waits = retry::reconnecting();
        loop {
            let Err(error) = self.hear_once().await;
            tracing::debug!(%error, "following what other regions' copies hold");
            tokio::time::sleep(waits.next().unwrap_or(Duration::from_secs(2))).await;
        }
    }

    async fn hear_once(&self) -> Result<Infallible, LogError> {
        let mut reader = self.to_log.read_digests().await?;
        loop {
            let assigned = match reader.next().await? {
                Event::Assigned(partitions) => partitions,
                Event::OutOfRange(at) => vec![at],
                Event::Records(records) => {
                    for record in records {
                        match serde_json::from_slice(&record.value) {
                            Ok(digests) => self.compare(digests).await,
                            Err(error) => tracing::warn!(%error, at = %record.at, offset = record.offset, "no digests"),
                        }
                    }
                    continue;
                }
                Event::Revoked(_) => continue,
            };
            // Only what others say, from now on.
            let mut positions = Positions::new();
            for at in assigned.into_iter().filter(|at| self.to_log.is_mirrored_digests(&at.topic)) {
                let end = self.to_log.end_of(&at).await?;
                positions.insert(at, end);
            }
            reader.start(positions.into_iter().collect()).await?;
        }
    }

    async fn compare(&self, said: Digests) {
        if said.source != self.source || said.region == self.here || !self.differences().is_new(&said) {
            return;
        }
        let mut news = false;
        for (chat, there) in &said.chats {
            news |= self.is_news(&said, chat, *there).await;
        }
        metrics::counter!("chat_sync_regions_chats_compared_total").increment(said.chats.len() as u64);
        self.differences().compared(&said);
        self.report();
        // Once: if the source cannot make them alike, slow rounds go on trying.
        if news && self.agenda.state().round.is_none_or(|round| round.reason == SLOW) {
            self.agenda.ask(&format!("the copy differs from region {}'s", said.region), false);
        }
    }

    /// Whether a chat was found to differ for good which was not known to.
    async fn is_news(&self, said: &Digests, chat: &str, there: Sum) -> bool {
        let here =
            patiently(|| self.sum(chat, said.before), |error| tracing::debug!(%error, "comparing regions")).await;
        let compared = self.differences().compare(&said.region, chat, here, there, Instant::now(), self.part());
        if compared != Compared::Differ {
            return false;
        }
        let (region, rows_here, rows_there) = (&said.region, here.count, there.count);
        tracing::error!(region, chat, rows_here, rows_there, "the copies of two regions differ");
        metrics::counter!("chat_sync_regions_differences_total").increment(1);
        true
    }

    fn report(&self) {
        let differences = self.differences();
        metrics::gauge!("chat_sync_regions_differing_chats").set(differences.differing().unwrap_or_default() as f64);
        if let Some(through) = differences.compared_through() {
            metrics::gauge!("chat_sync_regions_compared_through").set(through.seconds());
        }
    }

    fn differences(&self) -> MutexGuard<'_, Differences> {
        self.differences.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_settled(version: &Version, before: Timestamp) -> bool {
    version.fields().is_ok_and(|fields| fields.changed_at < before)
}

fn ticks(every: Duration) -> tokio::time::Interval {
    let mut ticks = tokio::time::interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}
