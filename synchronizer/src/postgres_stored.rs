//! The copy in Postgres, as the synchronizer reads it.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use async_trait::async_trait;
use contract::row::Stamp;
use contract::{Chat, Message, Timestamp, Version};
use futures::{Stream, TryStreamExt};
use platform::event_log::TopicPartition;
use sqlx::PgPool;

use crate::stored::{HeldLetter, Request, Retry, Rows, Stored, StoredError, Unreadable};

/// How long one answer may take: longer than the server lets a statement run. One that went without a word would hold
/// up the comparison for ever.
const ANSWER: Duration = Duration::from_secs(35);

/// A copy in a Postgres database.
pub struct PostgresStored {
    pool: PgPool,
}

impl PostgresStored {
    pub fn new(pool: PgPool) -> Self {
        Self { pool }
    }
}

/// A chat's row: id, title, created, edited, deleted (microseconds), version.
pub type ChatRow = (String, Option<String>, i64, Option<i64>, Option<i64>, String);
/// A message's row: chat, id, parent, author, text, created, edited, deleted (microseconds), version.
pub type MessageRow =
    (String, String, Option<String>, Option<String>, Option<String>, i64, Option<i64>, Option<i64>, String);

/// # Errors
/// If the row holds what no record can.
pub fn chat_from(row: ChatRow) -> Result<Chat, Unreadable> {
    let (id, title, created_at, edited_at, deleted_at, version) = row;
    match (stamp(&version), times(created_at, edited_at, deleted_at)) {
        (Ok((version, stamp)), Ok((created_at, edited_at, deleted_at))) => {
            Ok(Chat { id, title, created_at, edited_at, deleted_at, stamp, version })
        }
        (Err(why), _) | (_, Err(why)) => Err(Unreadable { id, why }),
    }
}

/// # Errors
/// If the row holds what no record can.
pub fn message_from(row: MessageRow) -> Result<Message, Unreadable> {
    let (chat_id, id, parent_id, author, text, created_at, edited_at, deleted_at, version) = row;
    match (stamp(&version), times(created_at, edited_at, deleted_at)) {
        (Ok((version, stamp)), Ok((created_at, edited_at, deleted_at))) => {
            Ok(Message { chat_id, id, parent_id, author, text, created_at, edited_at, deleted_at, stamp, version })
        }
        (Err(why), _) | (_, Err(why)) => Err(Unreadable { id, why }),
    }
}

/// What [`Stored::versions`] gives.
///
/// # Errors
/// If the rows cannot be had.
pub async fn versions_from(
    mut rows: impl Stream<Item = sqlx::Result<MessageRow>> + Unpin,
) -> Result<Rows<HashMap<String, Version>>, StoredError> {
    let mut versions = Rows::default();
    while let Some(row) = rows.try_next().await? {
        let row = message_from(row).map(|message| (message.expected_version(), message.id));
        versions.extend([row.map(|(version, id)| (id, version))]);
    }
    Ok(versions)
}

/// A letter's row: digest, when its state changed (microseconds), whether it is of the source, generation, raw.
pub type RetryRow = (String, i64, bool, Option<i64>, String);

pub fn retry_from((digest, asked_at, from_source, generation, raw): RetryRow) -> Retry {
    let generation = generation.and_then(|generation| u32::try_from(generation).ok());
    Retry { digest, asked_at, from_source, generation, raw }
}

pub fn request_from((id, gap, reason): (i64, bool, String)) -> Request {
    Request { id, gap, reason }
}

fn stamp(text: &str) -> Result<(Version, Stamp), String> {
    let version: Version = text.parse().map_err(|error| format!("its version: {error}"))?;
    let fields = version.fields().map_err(|error| format!("its version: {error}"))?;
    let contract::VersionFields { epoch, sequence, changed_at, rev, deleted, digest: _ } = fields;
    Ok((version, Stamp { epoch, sequence, changed_at, rev, deleted }))
}

/// When it was created, edited and deleted.
type Times = (Timestamp, Option<Timestamp>, Option<Timestamp>);

fn times(created_at: i64, edited_at: Option<i64>, deleted_at: Option<i64>) -> Result<Times, String> {
    Ok((time(created_at)?, edited_at.map(time).transpose()?, deleted_at.map(time).transpose()?))
}

fn time(micros: i64) -> Result<Timestamp, String> {
    let micros = u64::try_from(micros).map_err(|_| "a time before 1970")?;
    Timestamp::from_micros(micros).map_err(|error| format!("a time: {error}"))
}

async fn in_time<T, E>(asked: impl Future<Output = Result<T, E>>) -> Result<T, StoredError>
where
    StoredError: From<E>,
{
    let answer = tokio::time::timeout(ANSWER, asked).await;
    Ok(answer.map_err(|_| StoredError::Away("Postgres does not answer in time".into()))??)
}

#[async_trait]
impl Stored for PostgresStored {
    async fn chats(&self) -> Result<Rows<BTreeMap<String, Chat>>, StoredError> {
        let rows: Vec<ChatRow> =
            in_time(sqlx::query_as(include_str!("../queries/chats.sql")).fetch_all(&self.pool)).await?;
        Ok(rows.into_iter().map(|row| chat_from(row).map(|chat| (chat.id.clone(), chat))).collect())
    }

    async fn chat_ids(&self) -> Result<Vec<String>, StoredError> {
        in_time(sqlx::query_scalar("SELECT id FROM chats ORDER BY id").fetch_all(&self.pool)).await
    }

    async fn versions(&self, chat: &str) -> Result<Rows<HashMap<String, Version>>, StoredError> {
        let rows = sqlx::query_as(include_str!("../queries/of_chat.sql")).bind(chat).fetch(&self.pool);
        in_time(versions_from(rows)).await
    }

    async fn messages(&self, chat: &str, ids: &[String]) -> Result<Rows<Vec<Message>>, StoredError> {
        let rows: Vec<MessageRow> =
            in_time(sqlx::query_as(include_str!("../queries/messages.sql")).bind(chat).bind(ids).fetch_all(&self.pool))
                .await?;
        Ok(rows.into_iter().map(message_from).collect())
    }

    async fn chat(&self, chat: &str) -> Result<Option<Chat>, StoredError> {
        let query = sqlx::query_as(include_str!("../queries/chat.sql")).bind(chat);
        Ok(in_time(query.fetch_optional(&self.pool)).await?.map(chat_from).transpose()?)
    }

    async fn unerased(&self, chat: &str, after: &str, limit: u32) -> Result<Rows<Vec<Message>>, StoredError> {
        let query = sqlx::query_as(include_str!("../queries/unerased.sql")).bind(chat).bind(after);
        let rows: Vec<MessageRow> = in_time(query.bind(i64::from(limit)).fetch_all(&self.pool)).await?;
        Ok(rows.into_iter().map(message_from).collect())
    }

    async fn erased_versions(&self) -> Result<u64, StoredError> {
        let query = "SELECT count(*) FROM messages JOIN message_versions USING (chat_id, id) \
                     WHERE messages.version >= 'ffffffff'";
        let count: i64 = in_time(sqlx::query_scalar(query).fetch_one(&self.pool)).await?;
        Ok(u64::try_from(count).unwrap_or_default())
    }

    async fn dead_letters(&self, digests: &[String]) -> Result<HashSet<String>, StoredError> {
        let query = "SELECT digest FROM dead_letters WHERE digest = ANY($1) AND state <> 'resolved'";
        let rows: Vec<String> = in_time(sqlx::query_scalar(query).bind(digests).fetch_all(&self.pool)).await?;
        Ok(rows.into_iter().collect())
    }

    async fn held_letters(&self, after: &str, limit: u32) -> Result<Vec<HeldLetter>, StoredError> {
        let query = "SELECT digest, record_key, raw FROM dead_letters WHERE raw <> '' AND digest > $1 \
                     ORDER BY digest LIMIT $2";
        in_time(sqlx::query_as(query).bind(after).bind(i64::from(limit)).fetch_all(&self.pool)).await
    }

    async fn progress(&self) -> Result<BTreeMap<TopicPartition, u64>, StoredError> {
        let rows: Vec<(String, i32, i64)> =
            in_time(sqlx::query_as("SELECT topic, partition, next_offset FROM progress").fetch_all(&self.pool)).await?;
        Ok(rows.into_iter().map(TopicPartition::position).collect())
    }

    async fn retries(&self) -> Result<Vec<Retry>, StoredError> {
        let query = "SELECT digest, from_micros(state_changed_at), from_source, generation, raw FROM dead_letters \
                     WHERE state = 'retry' ORDER BY digest LIMIT 100";
        let rows: Vec<RetryRow> = in_time(sqlx::query_as(query).fetch_all(&self.pool)).await?;
        Ok(rows.into_iter().map(retry_from).collect())
    }

    async fn request(&self) -> Result<Option<Request>, StoredError> {
        let query = "SELECT id, gap, reason FROM reconcile_requests ORDER BY asked_at DESC LIMIT 1";
        let row = in_time(sqlx::query_as(query).fetch_optional(&self.pool)).await?;
        Ok(row.map(request_from))
    }
}
