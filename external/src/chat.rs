//! Chats and messages as the vendor knows them, and everything that can be done to them.

use std::sync::{Arc, PoisonError, RwLock};

use chrono::{DateTime, SecondsFormat, Utc};
use platform::sqlite::Sqlite;
use serde::{Serialize, Serializer};
use tokio::sync::{Mutex, watch};

use crate::feed::Feed;
use crate::misbehaviour::Misbehaviour;
use crate::store;

/// Microseconds since the Unix epoch; on the wire RFC 3339 with six decimals.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Micros(pub i64);

impl Micros {
    pub fn now() -> Self {
        Self(Utc::now().timestamp_micros())
    }
}

impl Serialize for Micros {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let time = DateTime::<Utc>::from_timestamp_micros(self.0).unwrap_or_default();
        serializer.serialize_str(&time.to_rfc3339_opts(SecondsFormat::Micros, true))
    }
}

/// A chat; one with `deleted_at` is a tombstone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Chat {
    pub id: String,
    pub title: String,
    pub created_at: Micros,
    pub edited_at: Option<Micros>,
    pub deleted_at: Option<Micros>,
    pub deleted: bool,
    pub sequence: i64,
}

/// A message; one with `deleted_at` is a tombstone and has no text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Message {
    pub chat_id: String,
    pub id: String,
    pub parent_id: Option<String>,
    pub author: String,
    pub text: Option<String>,
    pub created_at: Micros,
    pub edited_at: Option<Micros>,
    pub deleted_at: Option<Micros>,
    pub deleted: bool,
    pub sequence: i64,
}

/// Why something was not done.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    #[error("there is no such {0}")]
    NotFound(&'static str),
    #[error("this {0} was deleted")]
    Deleted(&'static str),
    #[error("{0}")]
    Invalid(String),
    #[error("the database: {0}")]
    Database(#[from] sqlx::Error),
}

/// The vendor: everything behind its API. Clones share one state.
#[derive(Clone)]
pub struct Vendor {
    pub(crate) db: Sqlite,
    feed: Arc<RwLock<Feed>>,
    pub misbehaviour: Arc<Misbehaviour>,
    /// The last sequence given; long polls wait on it.
    pub(crate) latest: Arc<watch::Sender<i64>>,
    /// Held from reading a row to writing it: an edit must not bring back what was deleted meanwhile.
    pub(crate) turn: Arc<Mutex<()>>,
}

const MAX_NAME: usize = 200;

impl Vendor {
    /// Opens the vendor's tables in this file.
    ///
    /// # Errors
    /// If they cannot be made or read.
    pub async fn open(db: Sqlite, keep_changes: u32) -> anyhow::Result<Self> {
        store::migrate(&db).await?;
        let (feed, sequence) = store::feed(&db, keep_changes).await?;
        let latest = Arc::new(watch::Sender::new(sequence));
        Ok(Self { db, feed: Arc::new(RwLock::new(feed)), misbehaviour: Arc::default(), latest, turn: Arc::default() })
    }

    /// The feed as it is now: a restore begins another generation.
    pub(crate) fn feed(&self) -> Feed {
        self.feed.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What the clock says that rows are written by.
    fn now(&self) -> Micros {
        Micros(Micros::now().0 + self.misbehaviour.clock_error())
    }

    /// As after a disaster: everything comes back from a backup that lacks the last `lose` messages written, the
    /// feed begins a new generation, and sequences start again.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn restore_from_backup(&self, lose: u32) -> Result<u32, Refusal> {
        let _turn = self.turn.lock().await;
        let (generation, sequence) = store::restore(&self.db, lose).await?;
        self.feed.write().unwrap_or_else(PoisonError::into_inner).generation = generation;
        self.latest.send_replace(sequence);
        Ok(generation)
    }

    /// # Errors
    /// [`Refusal::Invalid`] if the title is empty or too long.
    pub async fn create_chat(&self, title: &str) -> Result<Chat, Refusal> {
        let title = name("title", title)?;
        self.put_chat(new_chat(unique_id("c"), title, self.now())).await
    }

    /// # Errors
    /// [`Refusal`] if there is no such chat, or the title cannot be.
    pub async fn rename_chat(&self, id: &str, title: &str) -> Result<Chat, Refusal> {
        let title = name("title", title)?;
        let _turn = self.turn.lock().await;
        let chat = self.living_chat(id).await?;
        self.put_chat(Chat { title, edited_at: Some(self.now()), ..chat }).await
    }

    /// # Errors
    /// [`Refusal`] if there is no such chat any more.
    pub async fn delete_chat(&self, id: &str) -> Result<Chat, Refusal> {
        let _turn = self.turn.lock().await;
        let chat = self.living_chat(id).await?;
        self.put_chat(Chat { deleted_at: Some(self.now()), deleted: true, ..chat }).await
    }

    /// # Errors
    /// [`Refusal`] if the chat is not there, or author, text or parent cannot be.
    pub async fn post(&self, chat: &str, author: &str, text: &str, parent: Option<&str>) -> Result<Message, Refusal> {
        let (author, text) = (name("author", author)?, words(text)?);
        let _turn = self.turn.lock().await;
        self.living_chat(chat).await?;
        if let Some(parent) = parent
            && store::message(&self.db, chat, parent).await?.is_none()
        {
            return Err(Refusal::Invalid("parent_id names no message of this chat".into()));
        }
        self.put_message(Message {
            chat_id: chat.to_owned(),
            id: unique_id("m"),
            parent_id: parent.map(str::to_owned),
            author,
            text: Some(text),
            created_at: self.now(),
            edited_at: None,
            deleted_at: None,
            deleted: false,
            sequence: 0,
        })
        .await
    }

    /// # Errors
    /// [`Refusal`] if the message is not there any more, or the text cannot be.
    pub async fn edit(&self, chat: &str, id: &str, text: &str) -> Result<Message, Refusal> {
        let text = words(text)?;
        let _turn = self.turn.lock().await;
        let message = self.living_message(chat, id).await?;
        self.put_message(Message { text: Some(text), edited_at: Some(self.now()), ..message }).await
    }

    /// # Errors
    /// [`Refusal`] if the message is not there any more.
    pub async fn delete(&self, chat: &str, id: &str) -> Result<Message, Refusal> {
        let _turn = self.turn.lock().await;
        let message = self.living_message(chat, id).await?;
        self.put_message(tombstone(message, self.now())).await
    }

    /// # Errors
    /// If the database fails.
    pub async fn chats(&self) -> Result<Vec<Chat>, Refusal> {
        Ok(store::chats(&self.db).await?)
    }

    /// # Errors
    /// [`Refusal::NotFound`]; a tombstone is found.
    pub async fn chat(&self, id: &str) -> Result<Chat, Refusal> {
        store::chat(&self.db, id).await?.ok_or(Refusal::NotFound("chat"))
    }

    /// The last `limit` messages before the message `before`, oldest first, and whether there are more.
    ///
    /// # Errors
    /// [`Refusal`] if the chat or `before` is not there.
    pub async fn messages(
        &self,
        chat: &str,
        before: Option<&str>,
        limit: u32,
    ) -> Result<(Vec<Message>, bool), Refusal> {
        self.chat(chat).await?;
        let before = match before {
            None => None,
            Some(id) => {
                let message = store::message(&self.db, chat, id).await?;
                let message = message.ok_or_else(|| Refusal::Invalid("before names no message of this chat".into()))?;
                Some((message.created_at, message.id))
            }
        };
        Ok(store::messages(&self.db, chat, before, limit).await?)
    }

    pub(crate) async fn put_chat(&self, chat: Chat) -> Result<Chat, Refusal> {
        let chat = store::put_chat(&self.db, &self.feed(), chat).await?;
        self.misbehaviour.written(chat.sequence, None);
        self.announce(chat.sequence);
        Ok(chat)
    }

    pub(crate) async fn put_message(&self, message: Message) -> Result<Message, Refusal> {
        let message = store::put_message(&self.db, &self.feed(), message).await?;
        self.misbehaviour.written(message.sequence, Some(&message.id));
        self.announce(message.sequence);
        Ok(message)
    }

    /// Wakes the long polls.
    pub(crate) fn announce(&self, sequence: i64) {
        self.latest.send_if_modified(|latest| {
            let newer = sequence > *latest;
            metrics::counter!("chat_sync_external_changes_total").absolute(sequence.max(*latest).cast_unsigned());
            *latest = sequence.max(*latest);
            newer
        });
    }

    async fn living_chat(&self, id: &str) -> Result<Chat, Refusal> {
        let chat = self.chat(id).await?;
        if chat.deleted { Err(Refusal::Deleted("chat")) } else { Ok(chat) }
    }

    async fn living_message(&self, chat: &str, id: &str) -> Result<Message, Refusal> {
        self.living_chat(chat).await?;
        let message = store::message(&self.db, chat, id).await?.ok_or(Refusal::NotFound("message"))?;
        if message.deleted { Err(Refusal::Deleted("message")) } else { Ok(message) }
    }
}

pub(crate) fn new_chat(id: String, title: String, created_at: Micros) -> Chat {
    Chat { id, title, created_at, edited_at: None, deleted_at: None, deleted: false, sequence: 0 }
}

pub(crate) fn tombstone(message: Message, deleted_at: Micros) -> Message {
    Message { text: None, deleted_at: Some(deleted_at), deleted: true, ..message }
}

fn unique_id(kind: &str) -> String {
    format!("{kind}{:016x}", rand::random::<u64>())
}

fn name(field: &str, value: &str) -> Result<String, Refusal> {
    let value = value.trim();
    match value.chars().count() {
        0 => Err(Refusal::Invalid(format!("{field} is empty"))),
        count if count > MAX_NAME => Err(Refusal::Invalid(format!("{field} is longer than {MAX_NAME} characters"))),
        _ => Ok(value.to_owned()),
    }
}

fn words(text: &str) -> Result<String, Refusal> {
    if text.trim().is_empty() { Err(Refusal::Invalid("text is empty".into())) } else { Ok(text.to_owned()) }
}
