//! The proof of completeness: the source and one copy or several, chat by chat, by count and digest, and row by row where
//! they differ.
//!
//! What the source has is read first, once for all copies, then the copies once more, so that a row which is merely on its
//! way is not called a difference; what still differs is looked at again until the lag that is allowed has passed.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use contract::erasure::ErasureSet;
use contract::{Chat, Record, Timestamp, Version};
use futures::StreamExt;
use futures::future::try_join_all;
use futures::stream;
use serde::Serialize;

use crate::compare::{Sum, is_living, same};
use crate::source::{ListAt, Listing, Outcome, Source, waits};
use crate::stored::{Rows, Stored};
use crate::translate::{self, Kind};

/// How many chats are compared at once.
const AT_ONCE: usize = 16;
/// How long a difference is left alone before it is looked at again.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// How a row differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum How {
    MissingInTheCopy,
    OtherContent,
    NotAtTheSource,
    /// It cannot be understood, and no dead letter says so.
    NotUnderstood,
    /// It was to be erased, and is in the copy.
    NotErased,
}

/// A row that differs; the chat itself where there is no message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    pub message: Option<String>,
    pub how: How,
    /// The versions, where there are any.
    pub source: Option<Version>,
    pub copy: Option<Version>,
}

/// A chat next to its copy.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Compared {
    pub title: Option<String>,
    pub source: Sum,
    pub copy: Sum,
    /// Rows that a dead letter explains.
    pub explained: Vec<String>,
    pub differences: Vec<Difference>,
}

/// What came of it in one copy.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Report {
    pub chats: u64,
    /// At the source, in chats that are not deleted.
    pub messages: u64,
    pub explained: u64,
    /// The chats that differ, by id.
    pub differing: BTreeMap<String, Compared>,
}

/// What is compared with what.
#[derive(Clone)]
pub struct Verify {
    pub source: Arc<dyn Source>,
    /// At least one.
    pub copies: Vec<Arc<dyn Stored>>,
    pub source_name: String,
    /// What is not to be in a copy.
    pub erasures: ErasureSet,
    /// How long a change may be on its way.
    pub lag: Duration,
    /// Called with the chats that are done and all.
    pub progress: Arc<dyn Fn(u64, u64) + Send + Sync>,
}

impl Verify {
    /// Compares everything; gives a report for each copy.
    ///
    /// # Errors
    /// If the source or a copy does not answer within the lag that is allowed.
    pub async fn run(&self) -> anyhow::Result<Vec<Report>> {
        let (mut reports, living) = self.all_chats().await?;
        let (mut done, all) = (0, living.len() as u64);
        let mut compared = stream::iter(living.iter()).map(|chat| self.patiently(chat)).buffer_unordered(AT_ONCE);
        while let Some(chat) = compared.next().await {
            let (id, compared) = chat?;
            for (report, compared) in reports.iter_mut().zip(compared) {
                report.take(&id, compared);
            }
            done += 1;
            (self.progress)(done, all);
        }
        Ok(reports)
    }

    /// The chats themselves; gives those that are alive at the source, with their titles.
    async fn all_chats(&self) -> anyhow::Result<(Vec<Report>, Vec<(String, Option<String>)>)> {
        let until = Instant::now() + self.lag;
        loop {
            let before = self.chats().await?;
            let served = self.served_chats().await?;
            let after = self.chats().await?;
            let mut reports = Vec::new();
            for (copy, (before, after)) in self.copies.iter().zip(before.iter().zip(&after)) {
                reports.push(self.chats_of(&**copy, &served, before, after).await?);
            }
            if reports.iter().all(|report| report.differing.is_empty()) || Instant::now() >= until {
                let mut living: Vec<_> = served.into_iter().filter_map(living).collect();
                living.sort();
                return Ok((reports, living));
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// What each copy has of the chats themselves.
    async fn chats(&self) -> anyhow::Result<Vec<BTreeMap<String, Chat>>> {
        let chats = try_join_all(self.copies.iter().map(|copy| copy.chats())).await?;
        Ok(chats.into_iter().map(Rows::whole).collect::<Result<_, _>>()?)
    }

    /// The chats that were served next to what a copy had before, and after.
    async fn chats_of(
        &self,
        copy: &dyn Stored,
        served: &[(Option<String>, Record)],
        before: &BTreeMap<String, Chat>,
        after: &BTreeMap<String, Chat>,
    ) -> anyhow::Result<Report> {
        let mut report = Report::default();
        for (id, record) in served {
            let barred = self.erasures.bars(record);
            if let Record::Chat(chat) = record {
                let version = |chats: &BTreeMap<String, Chat>| chats.get(&chat.id).map(Chat::expected_version);
                let (earlier, later) = (version(before), version(after));
                if let Some(difference) = judge(None, &chat.version, earlier.as_ref(), later.as_ref(), barred) {
                    report.note(&chat.id, difference);
                }
            } else if !barred && explained(copy, std::slice::from_ref(record)).await?.is_empty() {
                let difference = Difference { message: None, how: How::NotUnderstood, source: None, copy: None };
                report.note(id.as_deref().unwrap_or("a chat without an id"), difference);
            }
        }
        let there: HashSet<_> = served.iter().filter_map(|(id, _)| id.as_ref()).collect();
        // Those that were in the copy before the source was asked.
        for chat in before.values().filter(|chat| !there.contains(&chat.id) && !chat.stamp.deleted) {
            let (how, copy) = (How::NotAtTheSource, Some(chat.version.clone()));
            report.note(&chat.id, Difference { message: None, how, source: None, copy });
        }
        Ok(report)
    }

    /// Compares a chat until it is equal, or a difference has lasted as long as a change may be on its way. A chat in
    /// which rows are always on their way, but none for so long, does not differ.
    async fn patiently(&self, chat: &(String, Option<String>)) -> anyhow::Result<(String, Vec<Compared>)> {
        let (id, title) = chat;
        let (started, mut since) = (Instant::now(), HashMap::new());
        loop {
            let late = started.elapsed() >= self.lag * 3;
            match self.chat(id).await {
                Ok(mut compared) => {
                    let now = Instant::now();
                    let before = std::mem::take(&mut since);
                    since = keys(&compared).map(|key| (key.clone(), *before.get(&key).unwrap_or(&now))).collect();
                    let lasting = |key: &Key| now.duration_since(since[key]) >= self.lag;
                    // Of each copy it is known: nothing differs, or something has for long enough.
                    let known = |copy| {
                        let mut of_it = since.keys().filter(|key| key.0 == copy).peekable();
                        of_it.peek().is_none() || of_it.any(lasting)
                    };
                    if (0..compared.len()).all(known) || late {
                        for (copy, compared) in compared.iter_mut().enumerate() {
                            compared.title.clone_from(title);
                            compared.differences.retain(|difference| lasting(&key(copy, difference)));
                        }
                        return Ok((id.clone(), compared));
                    }
                }
                Err(error) if late => return Err(error.context(format!("chat {id}"))),
                Err(_) => {}
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// A chat of the source next to each copy's.
    async fn chat(&self, chat: &str) -> anyhow::Result<Vec<Compared>> {
        let versions = try_join_all(self.copies.iter().map(|copy| copy.versions(chat))).await?;
        let mut sides =
            versions.into_iter().map(|rows| rows.whole().map(Side::new)).collect::<Result<Vec<Side>, _>>()?;
        let (mut there, mut at) = (HashSet::new(), Some(ListAt::messages(chat)));
        while let Some(place) = at {
            let page = self.page(&place).await?;
            for (id, record) in self.translated(&page, Kind::Message) {
                there.extend(id.clone());
                let barred = self.erasures.bars(&record);
                for side in &mut sides {
                    side.see(id.as_ref(), &record, barred);
                }
            }
            at = page.next;
        }
        let judged = self.copies.iter().zip(sides).map(|(copy, side)| self.judged(chat, &**copy, side, &there));
        try_join_all(judged).await
    }

    /// What differs in a copy, once what the source has was seen.
    async fn judged(
        &self,
        chat: &str,
        copy: &dyn Stored,
        side: Side,
        there: &HashSet<String>,
    ) -> anyhow::Result<Compared> {
        let Side { before, mut compared, suspects } = side;
        if compared.source == compared.copy && suspects.is_empty() {
            return Ok(compared);
        }
        let after = copy.versions(chat).await?.whole()?;
        let records: Vec<Record> = suspects.iter().map(|(_, record)| record.clone()).collect();
        let explained = explained(copy, &records).await?;
        for (id, record) in suspects {
            let barred = self.erasures.bars(&record);
            let difference = match &record {
                Record::Message(message) => {
                    let (earlier, later) = (before.get(&message.id), after.get(&message.id));
                    judge(Some(message.id.clone()), &message.version, earlier, later, barred)
                }
                _ if barred => None,
                _ => Some(Difference { message: id, how: How::NotUnderstood, source: None, copy: None }),
            };
            let Some(difference) = difference else { continue };
            if explained.contains(&record.letter_digest()) {
                compared.explained.push(difference.message.unwrap_or_else(|| record.letter_digest()));
            } else {
                compared.differences.push(difference);
            }
        }
        let gone = before.iter().filter(|(id, version)| !there.contains(*id) && is_living(version));
        compared.differences.extend(gone.map(|(id, version)| Difference {
            message: Some(id.clone()),
            how: How::NotAtTheSource,
            source: None,
            copy: Some(version.clone()),
        }));
        compared.differences.sort_by(|a, b| (&a.message, a.how).cmp(&(&b.message, b.how)));
        Ok(compared)
    }

    /// Every chat of the source, each with its id as far as that can be read.
    async fn served_chats(&self) -> anyhow::Result<Vec<(Option<String>, Record)>> {
        let (mut rows, mut at) = (Vec::new(), Some(ListAt::Chats));
        while let Some(place) = at {
            let page = self.page(&place).await?;
            rows.extend(self.translated(&page, Kind::Chat));
            at = page.next;
        }
        Ok(rows)
    }

    fn translated(&self, page: &Listing, kind: Kind) -> Vec<(Option<String>, Record)> {
        let ids = page.items.iter().map(|item| translate::id(item));
        ids.zip(translate::listing(&self.source_name, page, kind, Timestamp::now())).collect()
    }

    async fn page(&self, at: &ListAt) -> anyhow::Result<Listing> {
        let (mut waits, until) = (waits(), Instant::now() + self.lag.max(Duration::from_secs(10)));
        loop {
            let outcome = self.source.list(at).await;
            match outcome {
                Outcome::Answered(page) => return Ok(page),
                // The chat was deleted a moment ago.
                Outcome::Gone(_) if *at != ListAt::Chats => {
                    anyhow::bail!("the source does not have what it listed")
                }
                other => {
                    let (why, wait) = other.reason_and_wait(&mut waits);
                    anyhow::ensure!(Instant::now() + wait < until, "the source does not answer: {why}");
                    tokio::time::sleep(wait).await;
                }
            }
        }
    }
}

/// A served row next to what the copy had before it was served, and after; one that is `barred` is not to be there.
fn judge(
    message: Option<String>,
    source: &Version,
    before: Option<&Version>,
    after: Option<&Version>,
    barred: bool,
) -> Option<Difference> {
    let how = match after {
        None if barred => return None,
        Some(after) if barred && !after.is_erased() => How::NotErased,
        None => How::MissingInTheCopy,
        Some(after) if same(after, source) || after.is_erased() => return None,
        // It has changed since it was served.
        Some(after) if after > source && before != Some(after) => return None,
        Some(_) => How::OtherContent,
    };
    Some(Difference { message, how, source: Some(source.clone()), copy: after.cloned() })
}

/// Which of these records are dead letters in the copy, by digest.
async fn explained(copy: &dyn Stored, records: &[Record]) -> anyhow::Result<HashSet<String>> {
    let digests: Vec<String> = records.iter().map(Record::letter_digest).collect();
    Ok(if digests.is_empty() { HashSet::new() } else { copy.dead_letters(&digests).await? })
}

/// A chat that is there, with its title. One that cannot be understood is there all the same, and what is in it is compared.
fn living((id, record): (Option<String>, Record)) -> Option<(String, Option<String>)> {
    match record {
        Record::Chat(chat) => (!chat.stamp.deleted).then_some((chat.id, chat.title)),
        _ => id.map(|id| (id, None)),
    }
}

/// A difference, whenever it is looked at: the copy's number, the message, how.
type Key = (usize, Option<String>, How);

fn key(copy: usize, difference: &Difference) -> Key {
    (copy, difference.message.clone(), difference.how)
}

fn keys(compared: &[Compared]) -> impl Iterator<Item = Key> {
    let of =
        |(copy, compared): (usize, &Compared)| compared.differences.iter().map(move |one| key(copy, one)).collect();
    compared.iter().enumerate().flat_map(of as fn(_) -> Vec<Key>)
}

/// A chat of one copy, while what the source has of it comes page by page.
struct Side {
    /// What the copy had before the source was asked.
    before: HashMap<String, Version>,
    compared: Compared,
    /// What may differ.
    suspects: Vec<(Option<String>, Record)>,
}

impl Side {
    fn new(before: HashMap<String, Version>) -> Self {
        let mut compared = Compared::default();
        for (id, version) in &before {
            compared.copy.add(id, version);
        }
        Self { before, compared, suspects: Vec::new() }
    }

    fn see(&mut self, id: Option<&String>, record: &Record, barred: bool) {
        if let Record::Message(message) = record
            && !barred
        {
            self.compared.source.add(&message.id, &message.version);
            if self.before.get(&message.id).is_some_and(|stored| same(stored, &message.version)) {
                return;
            }
        }
        self.suspects.push((id.cloned(), record.clone()));
    }
}

impl Report {
    fn note(&mut self, chat: &str, difference: Difference) {
        self.differing.entry(chat.to_owned()).or_default().differences.push(difference);
    }

    /// Takes what came of a chat's messages.
    fn take(&mut self, id: &str, compared: Compared) {
        self.chats += 1;
        self.messages += compared.source.count;
        self.explained += compared.explained.len() as u64;
        if !compared.differences.is_empty() {
            let entry = self.differing.entry(id.to_owned()).or_default();
            let of_the_chat = std::mem::replace(entry, compared).differences;
            entry.differences.splice(0..0, of_the_chat);
        }
    }
}
