//! The copy in Postgres, for reading; a replica serves as well, because rows and positions come in one snapshot.

use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;
use contract::{Timestamp, Version};
use platform::event_log::{Progress, ProgressRow, TopicPartition};
use sqlx::postgres::PgPool;

use crate::copy::{ChatCopy, CopyError, Older, Page, Snapshot};
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

    /// Everything that is read in it is of one moment.
    async fn begin(&self) -> sqlx::Result<sqlx::PgTransaction<'static>> {
        self.pool.begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await
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
        let mut tx = self.begin().await?;
        let snapshot = snapshot(&mut tx, chat, None, limit).await?;
        tx.commit().await?;
        Ok(snapshot)
    }

    async fn messages(&self, chat: &str, before: Option<&str>, limit: u32) -> Result<Page, CopyError> {
        let mut tx = self.begin().await?;
        let found: Option<(String, Option<String>, i64, String, bool)> =
            sqlx::query_as(include_str!("../queries/chat.sql")).bind(chat).fetch_optional(&mut *tx).await?;
        if found.is_none_or(|(.., deleted)| deleted) {
            return Ok(Page::NoChat);
        }
        let before = match before {
            None => None,
            Some(id) => {
                let place: Option<i64> = sqlx::query_scalar(include_str!("../queries/message_place.sql"))
                    .bind(chat)
                    .bind(id)
                    .fetch_optional(&mut *tx)
                    .await?;
                let Some(time) = place else { return Ok(Page::NoSuchPlace) };
                Some((time, id))
            }
        };
        let snapshot = snapshot(&mut tx, chat, before, limit.saturating_add(1)).await?;
        tx.commit().await?;
        page_from(snapshot, before, limit)
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

async fn snapshot(
    tx: &mut sqlx::PgTransaction<'_>,
    chat: &str,
    before: Option<(i64, &str)>,
    limit: u32,
) -> Result<Snapshot, CopyError> {
    let (time, id) = before.unwrap_or(LAST);
    let rows: Vec<MessageRow> = sqlx::query_as(include_str!("../queries/messages.sql"))
        .bind(chat)
        .bind(time)
        .bind(id)
        .bind(i64::from(limit))
        .fetch_all(&mut **tx)
        .await?;
    let progress: Vec<ProgressRow> =
        sqlx::query_as(include_str!("../queries/progress.sql")).fetch_all(&mut **tx).await?;
    snapshot_from(rows, progress)
}

/// Behind every place that a message can have: the year 10000, in microseconds, and an id.
pub const LAST: (i64, &str) = (253_402_300_800_000_000, "");

/// Rows newest first.
///
/// # Errors
/// If a row holds what no record could have brought.
pub fn snapshot_from(rows: Vec<MessageRow>, progress: Vec<ProgressRow>) -> Result<Snapshot, CopyError> {
    Ok(Snapshot {
        messages: rows.into_iter().rev().map(message_from).collect::<Result<_, _>>()?,
        progress: progress.into_iter().map(Progress::from_row).collect(),
    })
}

/// The snapshot has one message more than `limit` if there are more `before` that place.
///
/// # Errors
/// If the place is of no time.
pub fn page_from(mut snapshot: Snapshot, before: Option<(i64, &str)>, limit: u32) -> Result<Page, CopyError> {
    let too_many = snapshot.messages.len().saturating_sub(limit as usize);
    snapshot.messages.drain(..too_many);
    let before = before.map(|(time, id)| Ok::<_, CopyError>((time_from(time)?, id.to_owned()))).transpose()?;
    Ok(Page::Messages(Older { snapshot, more: too_many > 0, before }))
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
