//! Reconcile: list the source, compare with what is stored, append what differs.
//!
//! One routine for all occasions: a start without a checkpoint, an expired cursor, a new generation, a request,
//! and a slow round that never ends. It goes on after a kill with the chat after the last one that was done.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use contract::{Record, Row, Timestamp};
use platform::health::Check;
use platform::retry;

use crate::agenda::{Agenda, Round};
use crate::append::Appender;
use crate::compare::{deletion, difference, is_living};
use crate::source::{ListAt, Listing, Outcome, Source, waits};
use crate::stored::{Stored, StoredError};
use crate::to_log::ToLog;
use crate::translate;

/// How often it is looked whether the copy has what was appended before a round.
const LOOK: Duration = Duration::from_millis(200);
/// How often a page of a listing is asked for before its chat is left to the next round.
const TRIES: u32 = 8;
/// How long that next round waits.
const INCOMPLETE: Duration = Duration::from_secs(10);
/// How many rows the source does not have any more are read and appended at once.
const DELETED_AT_ONCE: usize = 500;
/// How often it is looked whether somebody asks for a round.
const REQUESTS: Duration = Duration::from_secs(2);

/// The routine.
pub struct Reconcile {
    pub source: Arc<dyn Source>,
    /// The same source within the slow rounds' own budget.
    pub slow_source: Arc<dyn Source>,
    pub stored: Arc<dyn Stored>,
    pub appender: Appender,
    pub to_log: ToLog,
    pub agenda: Arc<Agenda>,
    pub check: Check,
    pub source_name: String,
    /// How long after one round the next one begins by itself.
    pub every: Duration,
}

impl Reconcile {
    /// Rounds for ever: what was asked for at once, else a slow one now and then.
    pub async fn run(&self) {
        let mut slow = tokio::time::interval_at(tokio::time::Instant::now() + self.every, self.every);
        slow.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut requests = tokio::time::interval(REQUESTS);
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
            tokio::select! {
                () = self.agenda.changed() => {}
                _ = slow.tick() => self.agenda.ask(SLOW, false),
                _ = requests.tick() => self.look_for_requests().await,
            }
        }
    }

    async fn look_for_requests(&self) {
        match self.stored.request().await {
            Ok(Some(request)) => self.agenda.take_up(&request),
            Ok(None) => {}
            Err(error) => tracing::debug!(%error, "no look at what is asked for"),
        }
    }

    async fn round(&self, mut round: Round, number: u64) {
        let Some(since) = self.everything_stored(number).await else { return };
        let source = if round.reason == SLOW { &self.slow_source } else { &self.source };
        let pass = Pass { source, since, number };
        let Some(chats) = self.chats(&pass, &mut round).await else { return };
        round.chats = chats.len() as u64;
        let after = round.after.clone();
        let rest = chats.into_iter().filter(|chat| after.as_ref().is_none_or(|after| chat > after));
        let mut looked = Instant::now();
        for chat in rest {
            match self.chat(&pass, &chat).await {
                Some(appended) => round.appended += appended,
                None => round.incomplete = true,
            }
            round.chats_done += 1;
            round.after = Some(chat);
            if looked.elapsed() > REQUESTS {
                self.look_for_requests().await;
                looked = Instant::now();
            }
            if !self.agenda.note(&round, number) {
                return;
            }
        }
        if !self.agenda.finish(&round, number) && round.incomplete {
            tracing::warn!(reason = round.reason, "some chats could not be compared; another round follows");
            tokio::time::sleep(INCOMPLETE).await;
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
            if ends.iter().all(|(at, end)| *end == 0 || applied.get(at).is_some_and(|applied| applied >= end)) {
                return Some(since);
            }
            self.check.ready("waiting until the writer has stored what was appended");
            tokio::time::sleep(LOOK).await;
            if self.agenda.round().1 != number {
                return None;
            }
        }
    }

    /// Compares the chats themselves; gives the living ones' ids, in order. `None` if another round was begun.
    async fn chats(&self, pass: &Pass<'_>, round: &mut Round) -> Option<Vec<String>> {
        let mut stored = self.patiently(|| self.stored.chats()).await;
        let served = self.all_chats(pass).await?;
        let (mut differing, mut living) = (Vec::new(), Vec::new());
        for (id, record) in &served {
            let Record::Chat(chat) = record else {
                // It is there all the same, and what is in it can be compared.
                differing.push(record.clone());
                living.extend(id.clone());
                continue;
            };
            if !chat.stamp.deleted {
                living.push(chat.id.clone());
            }
            let known = stored.get(&chat.id).map(|known| &known.version);
            differing.extend(difference(Row::Chat(chat.clone()), known));
        }
        let absent = |served: &[(Option<String>, Record)], chat: &str| {
            served.iter().all(|(id, _)| id.as_deref().is_some_and(|id| id != chat))
        };
        stored.retain(|id, chat| !chat.stamp.deleted && absent(&served, id));
        if !stored.is_empty() {
            // Deleting is asked for twice: one answer that was wrong must not empty the copy.
            let again = self.all_chats(pass).await?;
            stored.retain(|id, _| absent(&again, id));
        }
        differing.extend(stored.into_values().filter_map(|chat| deletion(Row::Chat(chat))));
        round.appended += self.append(pass, differing).await;
        living.sort();
        Some(living)
    }

    /// Every chat that the source lists, with its id as far as that can be read.
    async fn all_chats(&self, pass: &Pass<'_>) -> Option<Vec<(Option<String>, Record)>> {
        let (mut rows, mut at) = (Vec::new(), Some(ListAt::Chats));
        while let Some(place) = at {
            // There is no going on without it.
            let page = loop {
                match self.page(pass, &place).await {
                    Paged::Page(page) => break page,
                    Paged::Superseded => return None,
                    Paged::Not => {}
                }
            };
            let ids = page.items.iter().map(|item| translate::id(item));
            rows.extend(ids.zip(self.translated(&page, false)));
            at = page.next;
        }
        Some(rows)
    }

    /// Compares a chat's messages; gives how many records that took, `None` if it could not be compared.
    async fn chat(&self, pass: &Pass<'_>, chat: &str) -> Option<u64> {
        // Before the source is asked: see decision 4.
        let stored = self.patiently(|| self.stored.versions(chat)).await;
        let (mut served, mut appended) = (Served::default(), 0);
        let mut at = Some(ListAt::messages(chat));
        while let Some(place) = at {
            let Paged::Page(page) = self.page(pass, &place).await else { return None };
            metrics::counter!("chat_sync_rows_compared_total").increment(page.items.len() as u64);
            served.add(&page);
            let differing = self.translated(&page, true).into_iter().filter_map(|record| match record {
                Record::Message(message) => {
                    let known = stored.get(&message.id);
                    difference(Row::Message(message), known)
                }
                other => Some(other),
            });
            appended += self.append(pass, differing.collect()).await;
            at = page.next;
        }
        let mut absent: Vec<String> = stored
            .iter()
            .filter(|(id, version)| served.lack(id) && is_living(version))
            .map(|(id, _)| id.clone())
            .collect();
        if !absent.is_empty() {
            let again = self.listed(pass, chat).await?;
            absent.retain(|id| again.lack(id));
        }
        for part in absent.chunks(DELETED_AT_ONCE) {
            let rows = self.patiently(|| self.stored.messages(chat, part)).await;
            // One that has changed since the listing is not what the source lacked.
            let unchanged = rows.into_iter().filter(|row| stored.get(&row.id) == Some(&row.version));
            let deletions = unchanged.filter_map(|row| deletion(Row::Message(row)));
            appended += self.append(pass, deletions.collect()).await;
        }
        Some(appended)
    }

    /// What the source lists of a chat. Deleting is asked for twice: one page that was served wrongly must not empty
    /// a chat.
    async fn listed(&self, pass: &Pass<'_>, chat: &str) -> Option<Served> {
        let (mut served, mut at) = (Served::default(), Some(ListAt::messages(chat)));
        while let Some(place) = at {
            let Paged::Page(page) = self.page(pass, &place).await else { return None };
            served.add(&page);
            at = page.next;
        }
        Some(served)
    }

    /// Appends what is not under way already, nor a dead letter.
    async fn append(&self, pass: &Pass<'_>, mut records: Vec<Record>) -> u64 {
        let digests: Vec<String> = records.iter().map(Record::letter_digest).collect();
        if !digests.is_empty() {
            let dead = self.patiently(|| self.stored.dead_letters(&digests)).await;
            let mut digests = digests.iter();
            records.retain(|_| digests.next().is_none_or(|digest| !dead.contains(digest)));
        }
        let appended = self.appender.append_new(records, Some(pass.since)).await as u64;
        metrics::counter!("chat_sync_reconcile_appended_total").increment(appended);
        appended
    }

    fn translated(&self, page: &Listing, messages: bool) -> Vec<Record> {
        let kind = if messages { translate::Kind::Message } else { translate::Kind::Chat };
        translate::listing(&self.source_name, page, kind, Timestamp::now())
    }

    /// The page, if it can be had with some patience; a source that says how long to wait is waited for.
    async fn page(&self, pass: &Pass<'_>, at: &ListAt) -> Paged {
        let (mut waits, mut tries) = (waits(), 0);
        loop {
            let outcome = pass.source.list(at).await;
            match outcome {
                Outcome::Answered(page) => return Paged::Page(page),
                Outcome::RateLimited { .. } => {}
                _ => tries += 1,
            }
            let (why, wait) = outcome.reason_and_wait(&mut waits);
            self.check.ready(format!("waiting for the source: {why}"));
            tokio::time::sleep(wait).await;
            if self.agenda.round().1 != pass.number {
                return Paged::Superseded;
            }
            if tries >= TRIES || matches!(outcome, Outcome::Gone(_)) {
                tracing::warn!(why, "a page of the source's listing cannot be had");
                return Paged::Not;
            }
        }
    }

    /// Asks the copy as long as it takes; polling goes on meanwhile.
    async fn patiently<T, F>(&self, ask: impl Fn() -> F) -> T
    where
        F: Future<Output = Result<T, StoredError>>,
    {
        let mut waits = retry::reconnecting();
        loop {
            match ask().await {
                Ok(answer) => return answer,
                Err(error) => {
                    self.check.ready(format!("waiting: {error}"));
                    tokio::time::sleep(waits.next().unwrap_or(Duration::from_secs(2))).await;
                }
            }
        }
    }
}

/// What came of asking for a page of a listing.
enum Paged {
    Page(Listing),
    /// It is not there, or not for now.
    Not,
    /// Another round was begun meanwhile.
    Superseded,
}

/// What one round works with.
struct Pass<'a> {
    source: &'a Arc<dyn Source>,
    /// What was appended after this moment may not be stored yet, and is no difference.
    since: Instant,
    number: u64,
}

/// Which messages the source listed.
#[derive(Default)]
struct Served {
    ids: HashSet<String>,
    /// Whether some item's id could not be read: it may be any of those that seem to be missing.
    unreadable: bool,
}

impl Served {
    fn add(&mut self, page: &Listing) {
        for item in &page.items {
            match translate::id(item) {
                Some(id) => drop(self.ids.replace(id)),
                None => self.unreadable = true,
            }
        }
    }

    fn lack(&self, id: &str) -> bool {
        !self.unreadable && !self.ids.contains(id)
    }
}

/// The reason of rounds that nobody asked for.
const SLOW: &str = "slow";
