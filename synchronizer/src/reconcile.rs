//! Reconcile: list the source, compare with what is stored, append what differs.
//!
//! One routine for all occasions: a start without a checkpoint, an expired cursor, a new generation, a request,
//! and a slow round that never ends. It goes on after a kill with the chat after the last one that was done.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use contract::{Record, Row, Timestamp};
use platform::health::Check;
use platform::retry;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use crate::append::Appender;
use crate::compare::{deletion, difference};
use crate::source::{ListAt, Listing, Outcome, Source, waits};
use crate::stored::{Request, Stored, StoredError};
use crate::to_log::ToLog;
use crate::translate;

/// How long a round waits for the copy to have what was appended before it. A writer that is further behind costs
/// repeats, which change nothing.
const WRITER: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_millis(200);
/// How often it is looked whether somebody asks for a round.
const REQUESTS: Duration = Duration::from_secs(2);

/// A round that is under way or waits for its turn.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Round {
    pub reason: String,
    /// Whether changes may be missing until it is done: then nobody may say that the copy is fresh.
    pub gap: bool,
    pub asked_at: Timestamp,
    /// The chats up to this id are done.
    pub after: Option<String>,
    pub chats_done: u64,
    pub chats: u64,
    /// How many records it appended.
    pub appended: u64,
}

/// A round that is done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finished {
    pub reason: String,
    pub began_at: Timestamp,
    pub finished_at: Timestamp,
    pub chats: u64,
    pub appended: u64,
}

/// What checkpoints carry of it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct State {
    pub round: Option<Round>,
    pub last: Option<Finished>,
    /// The newest request that was taken up.
    pub request: i64,
}

/// What the leader and the routine share.
#[derive(Default)]
pub struct Agenda {
    state: Mutex<(State, u64)>,
    changed: Notify,
}

impl Agenda {
    pub fn new(state: State) -> Self {
        Self { state: Mutex::new((state, 0)), changed: Notify::new() }
    }

    /// Asks for a round from the beginning; one that is under way begins anew.
    pub fn ask(&self, reason: &str, gap: bool) {
        tracing::info!(reason, "reconcile");
        let mut state = self.lock();
        // A gap stays one until a round has ended that began after it.
        let gap = gap || state.0.round.as_ref().is_some_and(|round| round.gap);
        let asked_at = Timestamp::now();
        let round = Round { reason: reason.into(), gap, asked_at, after: None, chats_done: 0, chats: 0, appended: 0 };
        state.0.round = Some(round);
        state.1 += 1;
        drop(state);
        self.changed.notify_one();
    }

    /// The gap's round, from the beginning.
    pub fn begin_anew(&self, reason: &str) {
        let under_way = self.lock().0.round.clone().filter(|round| round.gap);
        self.ask(under_way.as_ref().map_or(reason, |round| &round.reason), true);
    }

    fn take_up(&self, request: &Request) {
        if request.id > self.lock().0.request {
            self.ask(&request.reason, false);
            self.lock().0.request = request.id;
        }
    }

    /// What a checkpoint should carry.
    pub fn state(&self) -> State {
        self.lock().0.clone()
    }

    /// Whether changes may be missing.
    pub fn gap(&self) -> bool {
        self.lock().0.round.as_ref().is_some_and(|round| round.gap)
    }

    fn round(&self) -> (Option<Round>, u64) {
        let state = self.lock();
        (state.0.round.clone(), state.1)
    }

    /// Notes how far the round is; false if another one was asked for meanwhile.
    fn note(&self, round: &Round, number: u64) -> bool {
        let mut state = self.lock();
        if state.1 != number {
            return false;
        }
        state.0.round = Some(round.clone());
        metrics::gauge!("chat_sync_reconcile_chats_done").set(round.chats_done as f64);
        metrics::gauge!("chat_sync_reconcile_chats").set(round.chats as f64);
        true
    }

    fn finish(&self, round: &Round, number: u64) {
        let mut state = self.lock();
        if state.1 != number {
            return;
        }
        let Round { reason, asked_at, chats, appended, .. } = round.clone();
        let finished_at = Timestamp::now();
        tracing::info!(reason, chats, appended, "reconciled");
        state.0.last = Some(Finished { reason, began_at: asked_at, finished_at, chats, appended });
        state.0.round = None;
        metrics::gauge!("chat_sync_drift_messages").set(appended as f64);
        metrics::gauge!("chat_sync_verified_through").set(asked_at.micros() as f64 / 1e6);
    }

    fn lock(&self) -> MutexGuard<'_, (State, u64)> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

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
                () = self.agenda.changed.notified() => {}
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
        let pass = Pass {
            source: if round.reason == SLOW { &self.slow_source } else { &self.source },
            since: self.everything_stored().await,
        };
        let chats = self.chats(&pass, &mut round).await;
        round.chats = chats.len() as u64;
        let after = round.after.clone();
        let rest = chats.into_iter().filter(|chat| after.as_ref().is_none_or(|after| chat > after));
        for chat in rest {
            round.appended += self.chat(&pass, &chat).await;
            round.chats_done += 1;
            round.after = Some(chat);
            if !self.agenda.note(&round, number) {
                return;
            }
        }
        self.agenda.finish(&round, number);
    }

    /// Waits until the copy has what stands in the log now; gives the moment after which records may still be under
    /// way to it.
    async fn everything_stored(&self) -> Instant {
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
        while since.elapsed() < WRITER {
            let applied = self.patiently(|| self.stored.progress()).await;
            if ends.iter().all(|(at, end)| *end == 0 || applied.get(at).is_some_and(|applied| applied >= end)) {
                break;
            }
            tokio::time::sleep(LOOK).await;
        }
        since
    }

    /// Compares the chats themselves; gives the living ones' ids, in order.
    async fn chats(&self, pass: &Pass<'_>, round: &mut Round) -> Vec<String> {
        let mut stored = self.patiently(|| self.stored.chats()).await;
        let (mut at, mut differing, mut living) = (Some(ListAt::Chats), Vec::new(), Vec::new());
        while let Some(place) = at {
            let Some(page) = self.page(pass, &place).await else { break };
            for record in self.translated(&page, false) {
                let Record::Chat(chat) = record else {
                    differing.push(record);
                    continue;
                };
                if !chat.stamp.deleted {
                    living.push(chat.id.clone());
                }
                let known = stored.remove(&chat.id);
                differing.extend(difference(Row::Chat(chat), known.as_ref().map(|known| &known.version)));
            }
            // One that cannot be understood is there all the same.
            page.items.iter().filter_map(|item| translate::id(item)).for_each(|id| drop(stored.remove(&id)));
            at = page.next;
        }
        differing.extend(stored.into_values().filter_map(|chat| deletion(Row::Chat(chat))));
        round.appended += self.append(pass, differing).await;
        living.sort();
        living
    }

    /// Compares a chat's messages; gives how many records that took.
    async fn chat(&self, pass: &Pass<'_>, chat: &str) -> u64 {
        // Before the source is asked: see `compare`.
        let stored = self.patiently(|| self.stored.versions(chat)).await;
        let mut served = HashSet::new();
        let mut appended = 0;
        let mut at = Some(ListAt::messages(chat));
        while let Some(place) = at {
            // It vanished between the list of chats and now: the next round sees it.
            let Some(page) = self.page(pass, &place).await else { return appended };
            metrics::counter!("chat_sync_rows_compared_total").increment(page.items.len() as u64);
            served.extend(page.items.iter().filter_map(|item| translate::id(item)));
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
            .into_iter()
            .filter(|(id, version)| !served.contains(id) && version.fields().is_ok_and(|fields| !fields.deleted))
            .map(|(id, _)| id)
            .collect();
        if !absent.is_empty() {
            absent = self.still_absent(pass, chat, absent).await;
            let rows = self.patiently(|| self.stored.messages(chat, &absent)).await;
            appended +=
                self.append(pass, rows.into_iter().filter_map(|row| deletion(Row::Message(row))).collect()).await;
        }
        appended
    }

    /// Deleting is asked for twice: one page that was served wrongly must not empty a chat.
    async fn still_absent(&self, pass: &Pass<'_>, chat: &str, absent: Vec<String>) -> Vec<String> {
        let mut absent: HashSet<String> = absent.into_iter().collect();
        let mut at = Some(ListAt::messages(chat));
        while let Some(place) = at {
            let Some(page) = self.page(pass, &place).await else { return Vec::new() };
            for id in page.items.iter().filter_map(|item| translate::id(item)) {
                absent.remove(&id);
            }
            at = page.next;
        }
        absent.into_iter().collect()
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

    /// The page, as soon as it can be had; `None` if it is gone.
    async fn page(&self, pass: &Pass<'_>, at: &ListAt) -> Option<Listing> {
        let mut waits = waits();
        loop {
            match pass.source.list(at).await {
                Outcome::Answered(page) => return Some(page),
                Outcome::Gone(why) => {
                    tracing::warn!(why, "cannot be listed; passing on");
                    return None;
                }
                other => {
                    let (why, wait) = other.reason_and_wait(&mut waits);
                    self.check.ready(format!("waiting for the source: {why}"));
                    tokio::time::sleep(wait).await;
                }
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

/// What one round works with.
struct Pass<'a> {
    source: &'a Arc<dyn Source>,
    /// What was appended after this moment may not be stored yet, and is no difference.
    since: Instant,
}

/// The reason of rounds that nobody asked for.
const SLOW: &str = "slow";
