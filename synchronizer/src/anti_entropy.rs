//! Anti-entropy between regions: each says all the time what its copy holds, chat by chat, and compares what the others say
//! with its own.
//!
//! That asks the source for nothing, so it finds what differs sooner than a slow round does. Which of the two is right only the
//! source can tell: the chats that differ are compared with it.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::iter::Peekable;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use contract::{Timestamp, Version};
use platform::event_log::{Event, LogError};
use platform::retry;
use tokio::time::MissedTickBehavior;

use crate::agenda::Agenda;
use crate::compare::{Sum, is_living};
use crate::differences::{AsOf, Compared, Differences, Digests, FORMAT, Told};
use crate::region::Region;
use crate::stored::{Stored, StoredError, has_all};
use crate::to_log::{Positions, ToLog};
use crate::world::World;

/// How many chats are told of at once, and how many rows.
const PAGE: usize = 100;
const PAGE_ROWS: u64 = 10_000;
/// How many rows are read a second at most to tell of them.
const ROWS_A_SECOND: u32 = 5000;
/// Into how many parts the time between two rounds is cut. One such part is how often those chats are told of again that are
/// suspected to differ, how long a difference must last, how old a row must be to count, and how far a copy may be behind.
const PARTS: u32 = 5;
/// How often it is looked whether the copy has what stands in the log.
const LOOK: Duration = Duration::from_millis(50);

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
    shared: Arc<Shared>,
    /// The number of what was told last.
    told: tokio::sync::Mutex<u64>,
}

/// What the leader and its anti-entropy share.
#[derive(Default)]
pub struct Shared {
    differences: Mutex<Differences>,
    /// The newest marker that this region's log has everything up to.
    log_as_of: Mutex<Option<AsOf>>,
}

/// What cannot be read or appended now.
#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error(transparent)]
    Log(#[from] LogError),
    #[error(transparent)]
    Stored(#[from] StoredError),
    #[error("the copy is behind the log, or the log behind the region that polls")]
    Behind,
}

impl Shared {
    /// This region's log has everything up to that marker.
    pub fn reaches(&self, region: &str, at: Timestamp) {
        *self.log_as_of.lock().unwrap_or_else(PoisonError::into_inner) = Some(AsOf { region: region.to_owned(), at });
    }

    fn log_as_of(&self) -> Option<AsOf> {
        self.log_as_of.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn differences(&self) -> MutexGuard<'_, Differences> {
        self.differences.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AntiEntropy {
    /// What is found goes into `shared`, and what follows from it into `agenda`.
    pub fn new(world: &World, leader: &str, agenda: Arc<Agenda>, shared: Arc<Shared>) -> Self {
        let settings = &world.settings;
        *shared.differences() = Differences::with(world.region.others());
        Self {
            source: settings.source.clone(),
            here: settings.region.clone(),
            leader: leader.to_owned(),
            every: settings.compare_regions_every,
            stored: world.stored.clone(),
            to_log: world.to_log.clone(),
            region: world.region.clone(),
            agenda,
            shared,
            told: tokio::sync::Mutex::default(),
        }
    }

    /// Tells and compares, where there are other regions. Never ends.
    pub async fn run(&self) {
        if self.region.is_alone() {
            std::future::pending::<()>().await;
        }
        // Of an earlier term of this process nothing counts, and nothing is older than this one.
        metrics::gauge!("chat_sync_regions_differing_chats").set(0.0);
        metrics::gauge!("chat_sync_regions_suspected_chats").set(0.0);
        metrics::gauge!("chat_sync_regions_compared_through").set(Timestamp::now().seconds());
        tokio::join!(self.tell(), self.hear());
    }

    /// The whole copy now and then; in between what is suspected to differ, here or elsewhere.
    async fn tell(&self) {
        let mut ticks = tokio::time::interval(self.part());
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut told, mut mended): (Option<Instant>, Option<Instant>) = (None, None);
        let is_due = |last: Option<Instant>| last.is_none_or(|last| last.elapsed() + self.part() / 2 >= self.every);
        loop {
            ticks.tick().await;
            let began = Instant::now();
            if is_due(mended) {
                // Those that could not be mended before too.
                self.mend();
                mended = Some(began);
            }
            let done = if is_due(told) {
                self.tell_all(&mut ticks).await.inspect(|()| told = Some(began))
            } else {
                self.tell_again().await
            };
            self.note(done).await;
        }
    }

    async fn note(&self, told: Result<(), Failed>) {
        match told {
            Ok(()) => {}
            Err(Failed::Behind) => count_not_compared("told_behind"),
            Err(error) => {
                tracing::warn!(%error, "the other regions are not told what this copy holds; another try follows");
                self.to_log.make_topics_again().await;
            }
        }
    }

    async fn tell_all(&self, ticks: &mut tokio::time::Interval) -> Result<(), Failed> {
        let mut chats = self.stored.chat_ids().await?.into_iter().peekable();
        for part in 0.. {
            let began = Instant::now();
            // One that holds nothing says so too.
            let (rows, last) = self.tell_some(part, Told::Round, &mut chats).await?;
            if last {
                return Ok(());
            }
            // Whoever compares does the same work, and must not fall behind.
            let pause = Duration::from_secs(1) / ROWS_A_SECOND * u32::try_from(rows).unwrap_or(u32::MAX);
            tokio::select! {
                () = tokio::time::sleep(pause.max(began.elapsed())) => {}
                _ = ticks.tick() => {
                    let again = self.tell_again().await;
                    self.note(again).await;
                }
            }
        }
        Ok(())
    }

    /// Until it is found alike. Whoever asks is answered: a chat that is found alike is suspected elsewhere until that is told.
    async fn tell_again(&self) -> Result<(), Failed> {
        let (suspected, owed) = {
            let mut differences = self.shared.differences();
            (differences.next(PAGE), differences.take_owed())
        };
        for (told, chats) in [(Told::Suspected, suspected), (Told::Answer, owed)] {
            let mut chats = chats.into_iter().peekable();
            while chats.peek().is_some() {
                self.tell_some(0, told, &mut chats).await?;
            }
        }
        Ok(())
    }

    /// As many chats as go into one record; how many rows they have, and whether they were the last.
    async fn tell_some(
        &self,
        part: u64,
        told: Told,
        chats: &mut Peekable<impl Iterator<Item = String>>,
    ) -> Result<(u64, bool), Failed> {
        let as_of = self.as_of().await?;
        let before = as_of.at.minus(self.part());
        let (mut held, mut rows, began) = (BTreeMap::new(), 0, Instant::now());
        // Ended by time too: it would be too old to be compared.
        while held.len() < PAGE && rows < PAGE_ROWS && began.elapsed() < self.part() / 4 {
            let Some(chat) = chats.next() else { break };
            // One that takes too long is left out, and holds up no other.
            let Some((sum, read)) = self.sum_if_it_can_be_had(&chat, before).await? else { continue };
            rows += read;
            held.insert(chat, sum);
        }
        let last = chats.peek().is_none();
        // What takes the same place later on covers this one.
        let place = if told == Told::Round { part.to_string() } else { format!("{told:?}").to_lowercase() };
        let (source, region, leader) = (self.source.clone(), self.here.clone(), self.leader.clone());
        // Until it is appended: what is told stands in the log in the order of its numbers.
        let mut number = self.told.lock().await;
        // One that may be there all the same must not be given twice.
        *number += 1;
        let words = Digests {
            format: FORMAT,
            source,
            region,
            leader,
            number: *number,
            told,
            part,
            last,
            as_of,
            before,
            chats: held,
        };
        self.to_log.tell(place, &words).await?;
        Ok((rows, last))
    }

    /// How far the copy is now: it has everything that the log had at that marker. The writer is waited for a while.
    async fn as_of(&self) -> Result<AsOf, Failed> {
        let as_of = self.shared.log_as_of().filter(|_| !self.agenda.gap()).ok_or(Failed::Behind)?;
        let ends = self.to_log.ends().await?;
        let began = Instant::now();
        while !has_all(&self.stored.progress().await?, &ends) {
            if began.elapsed() > self.part() {
                return Err(Failed::Behind);
            }
            tokio::time::sleep(LOOK).await;
        }
        Ok(as_of)
    }

    /// What a chat holds (nothing where a row of it cannot be read), and how many rows that took; `None` if it cannot be had
    /// although the store answers.
    async fn sum_if_it_can_be_had(
        &self,
        chat: &str,
        before: Timestamp,
    ) -> Result<Option<(Option<Sum>, u64)>, StoredError> {
        match self.sum(chat, before).await {
            Ok((sum, rows)) => Ok(Some((Some(sum), rows))),
            Err(StoredError::Row(why)) => {
                tracing::error!(chat, %why, "a row of the copy cannot be read");
                Ok(Some((None, 0)))
            }
            Err(StoredError::Away(why)) => {
                self.stored.progress().await?;
                tracing::warn!(chat, why, "a chat is not compared with other regions'");
                Ok(None)
            }
        }
    }

    /// What this copy holds of a chat that lives, without what has changed since that moment, by the source's clock; and how many
    /// rows were read. The texts themselves are looked at, not the versions that stand beside them.
    async fn sum(&self, chat: &str, before: Timestamp) -> Result<(Sum, u64), StoredError> {
        let mut sum = Sum::default();
        let version = self.stored.chat(chat).await?.map(|row| row.expected_version());
        // In a chat that is gone the source lists nothing any more.
        let Some(version) = version.filter(is_living) else { return Ok((sum, 1)) };
        let messages = self.stored.versions(chat).await?.whole()?;
        let rows = messages.iter().map(|(id, version)| (id.as_str(), version)).chain([("", &version)]);
        rows.filter(|(_, version)| is_settled(version, before)).for_each(|(id, version)| sum.add(id, version));
        Ok((sum, messages.len() as u64 + 1))
    }

    fn part(&self) -> Duration {
        self.every / PARTS
    }

    /// Reads what the others say, however often the log goes away.
    async fn hear(&self) {
        let mut waits = retry::reconnecting();
        loop {
            let Err(error) = self.hear_once().await;
            tracing::warn!(%error, "following what other regions' copies hold");
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
                            Ok(digests) => self.take(digests).await,
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

    async fn take(&self, said: Digests) {
        if said.format != FORMAT {
            return count_not_compared("format");
        }
        if said.source != self.source || !self.shared.differences().is_new(&said) {
            return;
        }
        // What changed since then does not count, and one of the two copies may be behind by as much.
        let through = Timestamp::now().minus(2 * self.part());
        let (compared, news) = match self.compare(&said).await {
            Ok(compared) => compared,
            Err(error) => {
                match error {
                    Failed::Behind => count_not_compared("heard_behind"),
                    error => tracing::warn!(%error, "what another region's copy holds is not compared"),
                }
                Default::default()
            }
        };
        let mut differences = self.shared.differences();
        differences.heard(&said, &compared, through);
        metrics::gauge!("chat_sync_regions_differing_chats").set(differences.differing().unwrap_or_default() as f64);
        metrics::gauge!("chat_sync_regions_suspected_chats").set(differences.suspected() as f64);
        if let Some(through) = differences.compared_through() {
            metrics::gauge!("chat_sync_regions_compared_through").set(through.seconds());
        }
        drop(differences);
        if news {
            self.mend();
        }
    }

    /// The chats that were compared, and whether one was found to differ for good which was not known to.
    async fn compare<'a>(&self, said: &'a Digests) -> Result<(Vec<&'a str>, bool), Failed> {
        // What is behind differs, and will not for long; what waited to be read is old, and is passed over at once.
        let reached = self.shared.log_as_of();
        let near = |as_of: &AsOf| as_of.is_near(&said.as_of, self.part());
        if !reached.as_ref().is_some_and(near) || !near(&self.as_of().await?) {
            return Err(Failed::Behind);
        }
        let (mut all, mut news) = (Vec::new(), false);
        for (chat, there) in &said.chats {
            // One that cannot be had here a line of the log tells of; it holds up no other.
            all.push(chat.as_str());
            let Some((here, _)) = self.sum_if_it_can_be_had(chat, said.before).await? else { continue };
            let looked = (here, *there);
            let compared = self.shared.differences().compare(&said.region, chat, looked, Instant::now(), self.part());
            if compared == Compared::Differ {
                let [rows_here, rows_there] = [here, *there].map(|sum| sum.map(|sum| sum.count));
                tracing::error!(said.region, chat, rows_here, rows_there, "the copies of two regions differ");
                metrics::counter!("chat_sync_regions_differences_total").increment(1);
                news = true;
            }
        }
        metrics::counter!("chat_sync_regions_chats_compared_total").increment(all.len() as u64);
        Ok((all, news))
    }

    /// The source tells which copy is right, if it was this one in vain.
    fn mend(&self) {
        let chats = self.shared.differences().next_to_be_mended(PAGE);
        if !chats.is_empty() {
            self.agenda.look_at(chats);
        }
    }
}

fn count_not_compared(why: &'static str) {
    metrics::counter!("chat_sync_regions_not_compared_total", "why" => why).increment(1);
}

fn is_settled(version: &Version, before: Timestamp) -> bool {
    version.fields().is_ok_and(|fields| fields.changed_at < before)
}
