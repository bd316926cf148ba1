//! Erases: for every row of the copy that an erasure covers, the record that nothing is left of it.
//!
//! An erasure bars its rows from the log first; what was appended before that is in the copy once the writer has come to
//! where the log ends then. So one look at the copy after that finds all of them.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use contract::erasure::{Erasure, Scope};
use contract::{Record, Rejected};
use platform::event_log::{LogError, still_held};
use platform::retry;

use crate::append::Appender;
use crate::erasures::Erasures;
use crate::region::Region;
use crate::stored::{Rows, Stored, StoredError, Unreadable, has_all, patiently};
use crate::to_log::{Positions, ToLog};

/// How many rows are read and appended at once.
const PAGE: u32 = 1000;
/// How many dead letters, which may be long.
const LETTERS: u32 = 20;
/// How often it is looked whether the copy has what was appended before.
const LOOK: Duration = Duration::from_millis(200);
/// After how many of these it is looked whether the log still has it.
const LOOKS: u32 = 25;
/// How long a region that stands by leaves the work to the one that polls: what that one appends comes through the mirror.
const LEAVE: Duration = Duration::from_secs(30);

/// The routine.
pub struct Erase {
    pub source: String,
    pub stored: Arc<dyn Stored>,
    pub appender: Appender,
    pub to_log: ToLog,
    pub erasures: Arc<Erasures>,
    pub region: Arc<Region>,
}

impl Erase {
    /// Every erasure once, and those that come while this process leads. Never ends.
    pub async fn run(&self) {
        let (mut changes, mut done) = (self.erasures.changes(), HashSet::new());
        loop {
            self.keep_here().await;
            let all: Vec<Erasure> = self.erasures.set().iter().cloned().collect();
            let open: Vec<Erasure> = all.into_iter().filter(|erasure| !done.contains(erasure)).collect();
            if open.is_empty() {
                if changes.changed().await.is_err() {
                    return std::future::pending().await;
                }
                continue;
            }
            if !self.region.polls() && !self.region.is_alone() {
                tokio::time::sleep(LEAVE).await;
            }
            self.everything_stored().await;
            for erasure in &open {
                let rows = self.erase(erasure).await;
                tracing::info!(chat = erasure.chat_id, scope = ?erasure.scope, rows, "erased");
            }
            patiently(|| self.empty_letters(&open), waits_for_the_copy).await;
            done.extend(open);
        }
    }

    /// Takes what was asked for in another region into this one's log too: whichever region is lost, no erasure is. Two that take
    /// them from each other end when both have them.
    async fn keep_here(&self) {
        let elsewhere_only = self.erasures.elsewhere_only();
        if elsewhere_only.is_empty() {
            return;
        }
        // When it is taken tells when nothing more of it is appended.
        self.appender.finish().await;
        for erasure in elsewhere_only {
            until_taken(|| self.to_log.ask_to_erase(&erasure)).await;
            self.erasures.note_here(erasure);
        }
    }

    /// All of them once more: the store may have gone back in time.
    pub async fn all(&self) {
        let all: Vec<Erasure> = self.erasures.set().iter().cloned().collect();
        for erasure in &all {
            let rows = self.erase(erasure).await;
            if rows > 0 {
                tracing::warn!(chat = erasure.chat_id, rows, "erased once more");
            }
        }
        // Whoever waits for a comparison does not wait for these.
        if let Err(error) = self.empty_letters(&all).await {
            tracing::warn!(%error, "dead letters are not looked through for what was erased; the next round does it");
        }
    }

    /// Of the dead letters that hold something of it nothing is left but that they were there.
    async fn empty_letters(&self, erasures: &[Erasure]) -> Result<(), StoredError> {
        for (digest, _) in letters_left(&*self.stored, erasures).await? {
            let gone = Record::Rejected(Rejected::erased(&self.source));
            until_taken(|| self.to_log.append_retry(&gone, &digest)).await;
            metrics::counter!("chat_sync_erased_letters_total").increment(1);
        }
        Ok(())
    }

    async fn try_to_erase(&self, erasure: &Erasure) -> Result<usize, StoredError> {
        let mut erased = 0;
        let mut left = Left::of(&*self.stored, erasure);
        while let Some(rows) = left.next().await? {
            erased += rows.len();
            // That the same was appended before says nothing of a store that has it no more.
            self.appender.append_new(rows, Some(Instant::now())).await;
        }
        // Whether they are covered nobody can tell; `verify --erased` names them too.
        Rows { readable: (), unreadable: left.unreadable }.readable(&erasure.chat_id);
        metrics::counter!("chat_sync_erased_rows_total").increment(erased as u64);
        Ok(erased)
    }

    /// Waits until the copy has what stands in the log now, and what is being appended; not for what the log has lost since.
    async fn everything_stored(&self) {
        self.appender.finish().await;
        let mut ends = self.ends().await;
        for look in 1_u32.. {
            if has_all(&patiently(|| self.stored.progress(), waits_for_the_copy).await, &ends) {
                return;
            }
            tokio::time::sleep(LOOK).await;
            if look.is_multiple_of(LOOKS) {
                ends = still_held(ends, &self.ends().await);
            }
        }
    }

    async fn ends(&self) -> Positions {
        let mut waits = retry::reconnecting();
        loop {
            match self.to_log.ends().await {
                Ok(ends) => return ends,
                Err(_) => tokio::time::sleep(waits.next().unwrap_or(LOOK)).await,
            }
        }
    }

    /// What the copy has of it goes, however long the copy takes to answer; gives how many rows that were.
    async fn erase(&self, erasure: &Erasure) -> usize {
        patiently(|| self.try_to_erase(erasure), waits_for_the_copy).await
    }
}

/// Tries until the log has it.
async fn until_taken<F>(append: impl Fn() -> F)
where
    F: Future<Output = Result<(), LogError>>,
{
    let mut waits = retry::reconnecting();
    while let Err(error) = append().await {
        tracing::warn!(%error, "an erasure waits for the log");
        tokio::time::sleep(waits.next().unwrap_or(LOOK)).await;
    }
}

fn waits_for_the_copy(error: StoredError) {
    tracing::debug!(%error, "erasing waits for the copy");
}

/// The dead letters that still hold something of these, by digest, each with which of them: what nobody understood never was a row.
///
/// # Errors
/// If the copy cannot be read.
pub async fn letters_left(stored: &dyn Stored, erasures: &[Erasure]) -> Result<Vec<(String, Vec<usize>)>, StoredError> {
    let (mut left, mut after) = (Vec::new(), String::new());
    if erasures.is_empty() {
        return Ok(left);
    }
    loop {
        let page = stored.held_letters(&after, LETTERS).await?;
        let Some(last) = page.last() else { return Ok(left) };
        after = last.digest.clone();
        for letter in page {
            let about: Vec<usize> = (0..erasures.len()).filter(|at| letter.is_about(&erasures[*at])).collect();
            if !about.is_empty() {
                left.push((letter.digest, about));
            }
            // Long letters and many erasures: others have work to do too.
            tokio::task::yield_now().await;
        }
    }
}

/// What the copy still has of an erasure's rows, page by page, as the records that erase them.
pub struct Left<'a> {
    stored: &'a dyn Stored,
    erasure: &'a Erasure,
    /// Whether the chat itself is still to be looked at.
    chat: bool,
    /// The last message that was looked at; `None` when there are no more.
    after: Option<String>,
    /// What could not be read so far.
    pub unreadable: Vec<Unreadable>,
}

impl<'a> Left<'a> {
    pub fn of(stored: &'a dyn Stored, erasure: &'a Erasure) -> Self {
        let (chat, after) = (erasure.scope == Scope::Chat, Some(String::new()));
        Self { stored, erasure, chat, after, unreadable: Vec::new() }
    }

    /// The next page, which may be empty; `None` after the last one.
    ///
    /// # Errors
    /// If the copy cannot be read; then the same page may be asked for again.
    pub async fn next(&mut self) -> Result<Option<Vec<Record>>, StoredError> {
        if self.chat {
            let row = match self.stored.chat(&self.erasure.chat_id).await {
                Err(StoredError::Row(row)) => {
                    self.unreadable.push(row);
                    None
                }
                other => other?,
            };
            self.chat = false;
            let row = row.filter(|chat| !chat.is_erased());
            return Ok(Some(row.map(|chat| Record::Chat(chat.erased())).into_iter().collect()));
        }
        let Some(after) = &self.after else { return Ok(None) };
        let rows = match &self.erasure.scope {
            Scope::Message { message_id } => {
                let rows = self.stored.messages(&self.erasure.chat_id, std::slice::from_ref(message_id)).await?;
                self.after = None;
                rows
            }
            Scope::Chat | Scope::Author { .. } => {
                let rows = self.stored.unerased(&self.erasure.chat_id, after, PAGE).await?;
                let ids = rows.readable.iter().map(|row| &row.id).chain(rows.unreadable.iter().map(|row| &row.id));
                self.after = ids.max().cloned();
                rows
            }
        };
        self.unreadable.extend(rows.unreadable);
        let (erased, rows): (Vec<_>, Vec<_>) = rows.readable.into_iter().partition(contract::Message::is_erased);
        // No record is newer than one that erases: what somebody wrote into such a row stays until somebody takes it away.
        let holds = erased.into_iter().filter(|row| row.author.is_some() || row.text.is_some());
        self.unreadable
            .extend(holds.map(|row| Unreadable { id: row.id, why: "erased, and holds something all the same".into() }));
        let covered = rows.into_iter().filter(|row| self.erasure.covers(row));
        Ok(Some(covered.map(|row| Record::Message(row.erased())).collect()))
    }
}
