//! Reconcile: list the source, compare with what is stored, append what differs.
//!
//! One routine for all occasions: a start without a checkpoint, an expired cursor, a new generation, a request,
//! and a slow round that never ends. It goes on after a kill with the chat after the last one that was done.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use contract::{Record, Row, Timestamp, Version};
use platform::health::Check;
use tokio::sync::watch;

use crate::agenda::{Agenda, SLOW};
use crate::append::Appender;
use crate::compare::{Difference, deletion, difference, is_living};
use crate::erase::Erase;
use crate::round::Round;
use crate::source::{ListAt, Listing, Outcome, Source, waits};
use crate::stored::{Stored, StoredError, has_all, patiently};
use crate::to_log::ToLog;
use crate::translate::{self, Kind};

/// How often it is looked whether the copy has what was appended before a round.
const LOOK: Duration = Duration::from_millis(200);
/// How often a page of a listing is asked for before its chat is left to the next round.
const TRIES: u32 = 8;
/// How long that next round waits, and how often that doubles: to about ten minutes.
const INCOMPLETE: Duration = Duration::from_secs(10);
const LONGEST: u32 = 6;
/// How many rows the source does not have any more are read and appended at once.
const DELETED_AT_ONCE: usize = 500;
/// How long a difference waits at most for polling to bring it, in rounds that are no gap's.
const POLLING: Duration = Duration::from_secs(30);
/// How often it is looked whether somebody asks for a round.
const REQUESTS: Duration = Duration::from_secs(2);

/// The routine.
pub struct Reconcile {
    pub source: Arc<dyn Source>,
    /// The same source within the slow rounds' own budget.
    pub slow_source: Arc<dyn Source>,
    pub stored: Arc<dyn Stored>,
    pub appender: Appender,
    pub erase: Arc<Erase>,
    pub to_log: ToLog,
    pub agenda: Arc<Agenda>,
    pub check: Check,
    pub source_name: String,
    /// When polling last asked for what the source answered whole.
    pub polled: watch::Receiver<Option<Instant>>,
    /// How long after one round the next one begins by itself.
    pub every: Duration,
}

impl Reconcile {
    /// Rounds for ever, and whoever asks for one is heard meanwhile.
    pub async fn run(&self) {
        tokio::join!(self.rounds(), self.look_for_requests());
    }

    /// What was asked for at once, else a slow one now and then.
    async fn rounds(&self) {
        let mut slow = tokio::time::interval_at(tokio::time::Instant::now() + self.every, self.every);
        slow.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let (round, number) = self.agenda.round();
            if let Some(round) = round {
                self.check.ready(format!("under way: {}", round.reason));
                self.round(round, number).await;
                continue;
            }
            self.check.ready(self.agenda.state().last.map_or("none yet".to_owned(), |last| {
                format!("last {} ({}): {} appended", last.finished_at, last.reason, last.appended)
            }));
            self.look_at_what_differs(number).await;
            tokio::select! {
                () = self.agenda.changed() => {}
                _ = slow.tick() => self.agenda.ask(SLOW),
            }
        }
    }

    async fn look_for_requests(&self) {
        let mut looks = tokio::time::interval(REQUESTS);
        looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            looks.tick().await;
            match self.stored.request().await {
                Ok(Some(request)) => self.agenda.take_up(&request),
                Ok(None) => {}
                Err(error) => tracing::debug!(%error, "no look at what is asked for"),
            }
        }
    }

    async fn look_at_what_differs(&self, number: u64) {
        let chats = self.agenda.take_chats();
        if !chats.is_empty() {
            self.look_at(chats, number).await;
        }
    }

    /// Compares some chats, and the list of all, as slowly as a slow round does; until a round is to be done.
    async fn look_at(&self, chats: BTreeSet<String>, number: u64) {
        let Some(since) = self.everything_stored(number).await else { return };
        let pass = Pass { source: &self.slow_source, since, number, gap: false };
        let mut appended = 0;
        let Some(living) = self.chats(&pass, &mut appended).await else { return };
        for chat in living.iter().filter(|chat| chats.contains(*chat)) {
            if self.agenda.round().1 != number {
                return;
            }
            appended += self.chat(&pass, chat).await.unwrap_or(0);
        }
        tracing::info!(chats = chats.len(), appended, "reconciled chats that differ from another region's");
    }

    async fn round(&self, mut round: Round, number: u64) {
        let Some(since) = self.everything_stored(number).await else { return };
        if round.only.is_empty() {
            self.erase.all().await;
        }
        let source = if round.reason == SLOW { &self.slow_source } else { &self.source };
        let pass = Pass { source, since, number, gap: round.gap };
        let Some(chats) = self.chats(&pass, &mut round.appended).await else { return };
        let (chats, rest) = round.of(chats);
        round.chats = chats;
        for chat in rest {
            match self.chat(&pass, &chat).await {
                Some(appended) => round.appended += appended,
                None => round.leave(&chat),
            }
            round.chats_done += 1;
            round.after = Some(chat);
            if !self.agenda.note(&round, number) {
                return;
            }
        }
        if !self.agenda.finish(&round, number) && round.incomplete {
            self.wait_before_the_next(&round).await;
        }
    }

    /// Chats that cannot be compared now may be soon, or not for long; but what somebody asks for does not wait for them.
    async fn wait_before_the_next(&self, round: &Round) {
        let wait = INCOMPLETE * 2_u32.pow(round.tries.min(LONGEST));
        let Round { reason, left, .. } = round;
        tracing::warn!(reason, chats = ?left, ?wait, "some chats could not be compared; another round follows");
        metrics::counter!("chat_sync_reconcile_incomplete_total").increment(1);
        let (until, (_, number)) = (Instant::now() + wait, self.agenda.round());
        let asked_for = || {
            let (round, now) = self.agenda.round();
            now != number || round.is_some_and(|round| round.again)
        };
        while Instant::now() < until && !asked_for() {
            if !round.gap {
                self.look_at_what_differs(number).await;
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Waits until the copy has what stands in the log now; gives the moment after which records may still be under
    /// way to it. `None` if another round was begun meanwhile.
    async fn everything_stored(&self, number: u64) -> Option<Instant> {
        let since = Instant::now();
        let ends = loop {
            match self.to_log.ends().await {
                Ok(ends) => break ends,
                Err(error) => {
                    self.check.ready(format!("waiting: {error}"));
                    tokio::time::sleep(LOOK).await;
                }
            }
        };
        loop {
            let applied = self.patiently(|| self.stored.progress()).await;
            if has_all(&applied, &ends) {
                return Some(since);
            }
            self.check.ready("waiting until the writer has stored what was appended");
            tokio::time::sleep(LOOK).await;
            if self.agenda.round().1 != number {
                return None;
            }
        }
    }

    /// Compares the chats themselves, and counts the records that took; gives the living ones' ids, in order. `None` if another round was begun.
    async fn chats(&self, pass: &Pass<'_>, appended: &mut u64) -> Option<Vec<String>> {
        let mut stored = self.patiently(|| self.stored.chats()).await.readable("the chats");
        let versions: HashMap<_, _> = stored.iter().map(|(id, chat)| (id.clone(), chat.expected_version())).collect();
        let first = self.chats_listed(pass, &versions, &HashSet::new()).await?;
        *appended += first.appended;
        stored.retain(|id, chat| !chat.stamp.deleted && first.lacks(id));
        if !stored.is_empty() || !first.doubtful.is_empty() {
            let second = self.chats_listed(pass, &versions, &first.doubtful).await?;
            *appended += second.appended;
            stored.retain(|id, _| second.lacks(id));
        }
        let deletions = stored.into_values().filter_map(|chat| deletion(Row::Chat(chat)));
        *appended += self.append(pass, deletions.collect()).await;
        let mut living: Vec<String> = first.ids.into_iter().filter(|(_, living)| *living).map(|(id, _)| id).collect();
        living.sort();
        Some(living)
    }

    /// There is no going on without it. `None` if another round was begun.
    async fn chats_listed(
        &self,
        pass: &Pass<'_>,
        stored: &HashMap<String, Version>,
        doubtful: &HashSet<Version>,
    ) -> Option<Listed> {
        loop {
            let listed = self.listed(pass, ListAt::Chats, stored, doubtful).await;
            if listed.is_some() || self.agenda.round().1 != pass.number {
                return listed;
            }
        }
    }

    /// Compares a chat's messages; gives how many records that took, `None` if it could not be compared.
    async fn chat(&self, pass: &Pass<'_>, chat: &str) -> Option<u64> {
        // Before the source is asked: see decision 4.
        let stored = self.versions(chat).await?;
        let first = self.listed(pass, ListAt::messages(chat), &stored, &HashSet::new()).await?;
        let mut appended = first.appended;
        let absent = stored.iter().filter(|(id, version)| first.lacks(id) && is_living(version));
        let mut absent: Vec<String> = absent.map(|(id, _)| id.clone()).collect();
        if !absent.is_empty() || !first.doubtful.is_empty() {
            let second = self.listed(pass, ListAt::messages(chat), &stored, &first.doubtful).await?;
            appended += second.appended;
            absent.retain(|id| second.lacks(id));
        }
        for part in absent.chunks(DELETED_AT_ONCE) {
            let rows = self.patiently(|| self.stored.messages(chat, part)).await.readable(chat);
            // One that has changed since the listing is not what the source lacked.
            let unchanged = rows.into_iter().filter(|row| stored.get(&row.id) == Some(&row.expected_version()));
            let deletions = unchanged.filter_map(|row| deletion(Row::Message(row)));
            appended += self.append(pass, deletions.collect()).await;
        }
        Some(appended)
    }

    /// The versions of a chat's messages as they are stored; `None` if they cannot be had although the copy answers.
    async fn versions(&self, chat: &str) -> Option<HashMap<String, Version>> {
        for _ in 0..TRIES {
            match self.stored.versions(chat).await {
                Ok(rows) => return Some(rows.readable(chat)),
                Err(error) => self.check.ready(format!("waiting: chat {chat}: {error}")),
            }
            tokio::time::sleep(LOOK).await;
            // One that does not answer at all is no matter of this chat.
            self.patiently(|| self.stored.progress()).await;
        }
        tracing::warn!(chat, "what the copy has of a chat cannot be had");
        None
    }

    /// Lists chats or a chat's messages and appends what is newer than the copy. A repair is appended if it is one
    /// of the `doubtful` ones that an earlier listing asked for: one page that was served wrongly must neither empty
    /// a chat nor put old texts into it.
    async fn listed(
        &self,
        pass: &Pass<'_>,
        from: ListAt,
        stored: &HashMap<String, Version>,
        doubtful: &HashSet<Version>,
    ) -> Option<Listed> {
        let kind = if from == ListAt::Chats { Kind::Chat } else { Kind::Message };
        let (mut listed, mut at) = (Listed::default(), Some(from));
        while let Some(place) = at {
            let page = self.page(pass, &place).await?;
            metrics::counter!("chat_sync_rows_compared_total").increment(page.items.len() as u64);
            let mut differing = Vec::new();
            let records = translate::listing(&self.source_name, &page, kind, Timestamp::now());
            for (item, record) in page.items.iter().zip(records) {
                let row = match record {
                    Record::Chat(chat) => Row::Chat(chat),
                    Record::Message(message) => Row::Message(message),
                    // It is there all the same, and what is in it can be compared.
                    other => {
                        listed.note(translate::id(item), true);
                        differing.push(other);
                        continue;
                    }
                };
                let (id, living) = (row.id().to_owned(), is_living(row.version()));
                let known = stored.get(&id);
                listed.note(Some(id), living);
                match difference(row, known) {
                    Some(Difference::Newer(row)) => differing.push(row.into()),
                    Some(Difference::Repair(row)) if doubtful.contains(row.version()) => differing.push(row.into()),
                    Some(Difference::Repair(row)) => drop(listed.doubtful.insert(row.version().clone())),
                    None => {}
                }
            }
            listed.appended += self.append(pass, differing).await;
            at = page.next;
        }
        Some(listed)
    }

    /// Appends what is not under way already, nor a dead letter.
    async fn append(&self, pass: &Pass<'_>, mut records: Vec<Record>) -> u64 {
        if records.is_empty() {
            return 0;
        }
        let digests: Vec<String> = records.iter().map(Record::letter_digest).collect();
        let dead = self.patiently(|| self.stored.dead_letters(&digests)).await;
        let mut digests = digests.iter();
        records.retain(|_| digests.next().is_none_or(|digest| !dead.contains(digest)));
        if !pass.gap && !records.is_empty() {
            self.polled_after(Instant::now()).await;
        }
        let appended = self.appender.append_new(records, Some(pass.since)).await as u64;
        metrics::counter!("chat_sync_reconcile_appended_total").increment(appended);
        appended
    }

    /// Waits, not for ever, until polling has brought what the source had at that moment: that is no drift.
    async fn polled_after(&self, moment: Instant) {
        let mut polled = self.polled.clone();
        let enough = polled.wait_for(|asked| asked.is_some_and(|asked| asked >= moment));
        // Without an answer it is appended all the same: twice is harmless.
        let _ = tokio::time::timeout(POLLING, enough).await;
    }

    /// The page, if it can be had with some patience and no other round is begun meanwhile; a source that says how
    /// long to wait is waited for.
    async fn page(&self, pass: &Pass<'_>, at: &ListAt) -> Option<Listing> {
        let (mut waits, mut tries) = (waits(), 0);
        loop {
            let outcome = pass.source.list(at).await;
            match outcome {
                Outcome::Answered(page) => return Some(page),
                Outcome::RateLimited { .. } => {}
                _ => tries += 1,
            }
            let (why, wait) = outcome.reason_and_wait(&mut waits);
            self.check.ready(format!("waiting for the source: {why}"));
            self.agenda.waits(&why, pass.number);
            tokio::time::sleep(wait).await;
            if self.agenda.round().1 != pass.number {
                return None;
            }
            if tries >= TRIES || matches!(outcome, Outcome::Gone(_)) {
                tracing::warn!(why, "a page of the source's listing cannot be had");
                return None;
            }
        }
    }

    /// Asks the copy as long as it takes; polling goes on meanwhile.
    async fn patiently<T, F>(&self, ask: impl Fn() -> F) -> T
    where
        F: Future<Output = Result<T, StoredError>>,
    {
        patiently(ask, |error| self.check.ready(format!("waiting: {error}"))).await
    }
}

/// What one round works with.
struct Pass<'a> {
    source: &'a Arc<dyn Source>,
    /// What was appended after this moment may not be stored yet, and is no difference.
    since: Instant,
    number: u64,
    /// Whether it is there to find what is missing, rather than to see whether anything is.
    gap: bool,
}

/// What one listing said.
#[derive(Default)]
struct Listed {
    /// Which rows the source has, and whether they are alive there.
    ids: HashMap<String, bool>,
    /// Whether some item's id could not be read: it may be any of those that seem to be missing.
    unreadable: bool,
    /// The versions of the repairs that it asks for.
    doubtful: HashSet<Version>,
    appended: u64,
}

impl Listed {
    fn note(&mut self, id: Option<String>, living: bool) {
        match id {
            Some(id) => drop(self.ids.insert(id, living)),
            None => self.unreadable = true,
        }
    }

    fn lacks(&self, id: &str) -> bool {
        !self.unreadable && !self.ids.contains_key(id)
    }
}
