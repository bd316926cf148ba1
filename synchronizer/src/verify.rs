//! The proof of completeness: source and copy, chat by chat, by count and digest, and row by row where they differ.
//!
//! What the source has is read first, then the copy once more, so that a row which is merely on its way is not called
//! a difference; what still differs is looked at again until the lag that is allowed has passed.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use contract::erasure::ErasureSet;
use contract::{Chat, Record, Timestamp, Version};
use futures::StreamExt;
use futures::stream;
use serde::Serialize;

use crate::compare::{Sum, is_living, same};
use crate::source::{ListAt, Listing, Outcome, Source, waits};
use crate::stored::Stored;
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

/// What came of it.
#[derive(Debug, Default, Serialize)]
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
    pub stored: Arc<dyn Stored>,
    pub source_name: String,
    /// What is not to be in the copy.
    pub erasures: ErasureSet,
    /// How long a change may be on its way.
    pub lag: Duration,
    /// Called with the chats that are done and all.
    pub progress: Arc<dyn Fn(u64, u64) + Send + Sync>,
}

impl Verify {
    /// Compares everything.
    ///
    /// # Errors
    /// If source or copy do not answer within the lag that is allowed.
    pub async fn run(&self) -> anyhow::Result<Report> {
        let (mut report, living) = self.all_chats().await?;
        let all = living.len() as u64;
        let mut compared = stream::iter(living.iter()).map(|chat| self.patiently(chat)).buffer_unordered(AT_ONCE);
        while let Some(chat) = compared.next().await {
            let (id, compared) = chat?;
            report.chats += 1;
            report.messages += compared.source.count;
            report.explained += compared.explained.len() as u64;
            if !compared.differences.is_empty() {
                let entry = report.differing.entry(id).or_default();
                let of_the_chat = std::mem::take(&mut entry.differences);
                *entry = compared;
                entry.differences.splice(0..0, of_the_chat);
            }
            (self.progress)(report.chats, all);
        }
        Ok(report)
    }

    /// The chats themselves; gives those that are alive at the source, with their titles.
    async fn all_chats(&self) -> anyhow::Result<(Report, Vec<(String, Option<String>)>)> {
        let until = Instant::now() + self.lag;
        loop {
            let before = self.stored.chats().await?;
            let served = self.served_chats().await?;
            let after = self.stored.chats().await?;
            let (mut report, mut living, mut there) = (Report::default(), Vec::new(), HashSet::new());
            for (id, record) in &served {
                there.extend(id.clone());
                match record {
                    Record::Chat(chat) => {
                        if !chat.stamp.deleted {
                            living.push((chat.id.clone(), chat.title.clone()));
                        }
                        let version = |chats: &BTreeMap<String, Chat>| chats.get(&chat.id).map(Chat::expected_version);
                        let (earlier, later) = (version(&before), version(&after));
                        let barred = self.erasures.bars(record);
                        if let Some(difference) = judge(None, &chat.version, earlier.as_ref(), later.as_ref(), barred) {
                            note(&mut report, &chat.id, difference);
                        }
                    }
                    record => {
                        let how = How::NotUnderstood;
                        let explained = self.erasures.bars(record)
                            || !self.explained(std::slice::from_ref(record)).await?.is_empty();
                        let difference = Difference { message: None, how, source: None, copy: None };
                        // It is there all the same, and what is in it is compared.
                        living.extend(id.clone().map(|id| (id, None)));
                        if !explained {
                            note(&mut report, id.as_deref().unwrap_or("a chat without an id"), difference);
                        }
                    }
                }
            }
            // Those that were in the copy before the source was asked.
            for chat in before.into_values().filter(|chat| !there.contains(&chat.id) && !chat.stamp.deleted) {
                let (how, copy) = (How::NotAtTheSource, Some(chat.version));
                note(&mut report, &chat.id, Difference { message: None, how, source: None, copy });
            }
            if report.differing.is_empty() || Instant::now() >= until {
                living.sort();
                return Ok((report, living));
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// Compares a chat until it is equal, or a difference has lasted as long as a change may be on its way. A chat in
    /// which rows are always on their way, but none for so long, does not differ.
    async fn patiently(&self, chat: &(String, Option<String>)) -> anyhow::Result<(String, Compared)> {
        let (id, title) = chat;
        let (started, mut since) = (Instant::now(), HashMap::new());
        loop {
            let late = started.elapsed() >= self.lag * 3;
            match self.chat(id).await {
                Ok(mut compared) => {
                    let now = Instant::now();
                    let key = |difference: &Difference| (difference.message.clone(), difference.how);
                    let before = std::mem::take(&mut since);
                    since = compared
                        .differences
                        .iter()
                        .map(key)
                        .map(|key| (key.clone(), *before.get(&key).unwrap_or(&now)))
                        .collect();
                    let lasting = |difference: &Difference| now.duration_since(since[&key(difference)]) >= self.lag;
                    if compared.differences.is_empty() || compared.differences.iter().any(lasting) || late {
                        compared.differences.retain(lasting);
                        return Ok((id.clone(), Compared { title: title.clone(), ..compared }));
                    }
                }
                Err(error) if late => return Err(error.context(format!("chat {id}"))),
                Err(_) => {}
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    async fn chat(&self, chat: &str) -> anyhow::Result<Compared> {
        let before = self.stored.versions(chat).await?;
        let mut compared = Compared::default();
        for (id, version) in &before {
            compared.copy.add(id, version);
        }
        let (mut there, mut suspects, mut at) = (HashSet::new(), Vec::new(), Some(ListAt::messages(chat)));
        while let Some(place) = at {
            let page = self.page(&place).await?;
            for (id, record) in self.translated(&page, Kind::Message) {
                there.extend(id.clone());
                if let Record::Message(message) = &record
                    && !self.erasures.bars(&record)
                {
                    compared.source.add(&message.id, &message.version);
                    if before.get(&message.id).is_some_and(|stored| same(stored, &message.version)) {
                        continue;
                    }
                }
                suspects.push((id, record));
            }
            at = page.next;
        }
        if compared.source != compared.copy || !suspects.is_empty() {
            let after = self.stored.versions(chat).await?;
            self.judge_all(suspects, &before, &after, &mut compared).await?;
            let gone = before.iter().filter(|(id, version)| !there.contains(*id) && is_living(version));
            compared.differences.extend(gone.map(|(id, version)| Difference {
                message: Some(id.clone()),
                how: How::NotAtTheSource,
                source: None,
                copy: Some(version.clone()),
            }));
            compared.differences.sort_by(|a, b| (&a.message, a.how).cmp(&(&b.message, b.how)));
        }
        Ok(compared)
    }

    async fn judge_all(
        &self,
        suspects: Vec<(Option<String>, Record)>,
        before: &HashMap<String, Version>,
        after: &HashMap<String, Version>,
        compared: &mut Compared,
    ) -> anyhow::Result<()> {
        let records: Vec<Record> = suspects.iter().map(|(_, record)| record.clone()).collect();
        let explained = self.explained(&records).await?;
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
        Ok(())
    }

    async fn explained(&self, records: &[Record]) -> anyhow::Result<HashSet<String>> {
        let digests: Vec<String> = records.iter().map(Record::letter_digest).collect();
        Ok(if digests.is_empty() { HashSet::new() } else { self.stored.dead_letters(&digests).await? })
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

fn note(report: &mut Report, chat: &str, difference: Difference) {
    report.differing.entry(chat.to_owned()).or_default().differences.push(difference);
}
