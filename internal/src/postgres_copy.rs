//! The copy in Postgres, for reading; a replica serves as well, because rows and positions come in one snapshot.

use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;
use contract::{Timestamp, Version};
use platform::event_log::{Progress, ProgressRow, TopicPartition};
use sqlx::postgres::PgPool;

use crate::copy::{ChatCopy, CopyError, Page, Snapshot};
use crate::history::{History, HitRow, VersionRow};
use crate::shown::{ShownChat, ShownMessage};

/// Reads the tables that the writer owns.
pub struct PostgresCopy {
    pool: PgPool,
}

/// A message as the queries of the copy give it: chat, id, parent, author, text, created, edited, deleted, version;
/// times in microseconds since the Unix epoch.
pub type MessageRow = (String, String, Option<String>, Option<String>, Option<String>, i64, Option<i64>, bool, String);

impl PostgresCopy {
    pub fn new(pool: PgPool) -> Self {
        Self { pool }
    }
}

impl From<sqlx::Error> for CopyError {
    fn from(error: sqlx::Error) -> Self {
        Self(error.to_string())
    }
}

#[async_trait]
impl ChatCopy for PostgresCopy {
    async fn chats(&self) -> Result<Vec<ShownChat>, CopyError> {
        let rows: Vec<(String, Option<String>, i64, String)> =
            sqlx::query_as(include_str!("../queries/chats.sql")).fetch_all(&self.pool).await?;
        rows.into_iter().map(|(id, title, created_at, version)| chat_from(id, title, created_at, &version)).collect()
    }

    async fn snapshot(&self, chat: &str, limit: u32) -> Result<Snapshot, CopyError> {
        let mut tx = self.pool.begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await?;
        let rows: Vec<MessageRow> = sqlx::query_as(include_str!("../queries/messages.sql"))
            .bind(chat)
            .bind(LAST)
            .bind("")
            .bind(i64::from(limit))
            .fetch_all(&mut *tx)
            .await?;
        let progress: Vec<ProgressRow> =
            sqlx::query_as(include_str!("../queries/progress.sql")).fetch_all(&mut *tx).await?;
        tx.commit().await?;
        Ok(Snapshot {
            messages: rows.into_iter().rev().map(message_from).collect::<Result<_, _>>()?,
            progress: progress.into_iter().map(Progress::from_row).collect(),
        })
    }

    async fn messages(&self, chat: &str, before: Option<&str>, limit: u32) -> Result<Page, CopyError> {
        let found: Option<(String, Option<String>, i64, String, bool)> =
            sqlx::query_as(include_str!("../queries/chat.sql")).bind(chat).fetch_optional(&self.pool).await?;
        if found.is_none_or(|(.., deleted)| deleted) {
            return Ok(Page::NoChat);
        }
        let (time, id) = match before {
            None => (LAST, ""),
            Some(id) => {
                let place: Option<i64> = sqlx::query_scalar(include_str!("../queries/message_place.sql"))
                    .bind(chat)
                    .bind(id)
                    .fetch_optional(&self.pool)
                    .await?;
                let Some(time) = place else { return Ok(Page::NoSuchPlace) };
                (time, id)
            }
        };
        let rows: Vec<MessageRow> = sqlx::query_as(include_str!("../queries/messages.sql"))
            .bind(chat)
            .bind(time)
            .bind(id)
            .bind(i64::from(limit) + 1)
            .fetch_all(&self.pool)
            .await?;
        page_from(rows, limit)
    }

    async fn progress(&self) -> Result<BTreeMap<TopicPartition, Progress>, CopyError> {
        let rows: Vec<ProgressRow> =
            sqlx::query_as(include_str!("../queries/progress.sql")).fetch_all(&self.pool).await?;
        Ok(rows.into_iter().map(Progress::from_row).collect())
    }

    async fn stored(&self, wanted: &[(String, String)]) -> Result<Vec<ShownMessage>, CopyError> {
        let (chats, ids): (Vec<&str>, Vec<&str>) = wanted.iter().map(|(chat, id)| (chat.as_str(), id.as_str())).unzip();
        let rows: Vec<MessageRow> =
            sqlx::query_as(include_str!("../queries/stored.sql")).bind(chats).bind(ids).fetch_all(&self.pool).await?;
        rows.into_iter().map(message_from).collect()
    }
}

/// Behind every time that a message can have: the year 10000, in microseconds.
pub const LAST: i64 = 253_402_300_800_000_000;

/// Rows newest first, one more than `limit` if there are more.
///
/// # Errors
/// If a row holds what no record could have brought.
pub fn page_from(mut rows: Vec<MessageRow>, limit: u32) -> Result<Page, CopyError> {
    let more = rows.len() > limit as usize;
    rows.truncate(limit as usize);
    Ok(Page::Messages(rows.into_iter().rev().map(message_from).collect::<Result<_, _>>()?, more))
}

/// # Errors
/// If a row holds what no record could have brought.
pub fn message_from(row: MessageRow) -> Result<ShownMessage, CopyError> {
    let (chat_id, id, parent_id, author, text, created_at, edited_at, deleted, version) = row;
    Ok(ShownMessage {
        id,
        chat_id,
        parent_id,
        author,
        text: text.filter(|_| !deleted),
        created_at: time_from(created_at)?,
        edited_at: edited_at.map(time_from).transpose()?,
        deleted,
        version: version_from(&version)?,
    })
}

/// # Errors
/// If a row holds what no record could have brought.
pub fn chat_from(id: String, title: Option<String>, created_at: i64, version: &str) -> Result<ShownChat, CopyError> {
    Ok(ShownChat { id, title, created_at: time_from(created_at)?, version: version_from(version)? })
}

fn time_from(micros: i64) -> Result<Timestamp, CopyError> {
    let micros = u64::try_from(micros).map_err(|error| CopyError(format!("a time before 1970: {error}")))?;
    Timestamp::from_micros(micros).map_err(|error| CopyError(error.to_string()))
}

fn version_from(text: &str) -> Result<Version, CopyError> {
    text.parse().map_err(|error: contract::version::BadVersion| CopyError(error.to_string()))
}

#[async_trait]
impl History for PostgresCopy {
    async fn versions(&self, chat: &str, message: &str) -> Result<Vec<VersionRow>, CopyError> {
        let query = sqlx::query_as(include_str!("../queries/versions.sql")).bind(chat).bind(message);
        Ok(query.fetch_all(&self.pool).await?)
    }

    async fn all_versions(&self, chat: &str, messages: &[String]) -> Result<Vec<(String, String, i64)>, CopyError> {
        let query = sqlx::query_as(include_str!("../queries/edits.sql")).bind(chat).bind(messages);
        Ok(query.fetch_all(&self.pool).await?)
    }

    async fn search(
        &self,
        words: &[String],
        limit: u32,
        only: Option<&BTreeSet<String>>,
    ) -> Result<Vec<HitRow>, CopyError> {
        // Words are letters and digits only, so they need no quoting.
        let query = words.iter().map(|word| format!("{word}:*")).collect::<Vec<_>>().join(" & ");
        let only: Option<Vec<&str>> = only.map(|chats| chats.iter().map(String::as_str).collect());
        let query = sqlx::query_as(include_str!("../queries/search.sql")).bind(query).bind(i64::from(limit)).bind(only);
        Ok(query.fetch_all(&self.pool).await?)
    }
}
