//! The copy in Postgres.

use std::collections::BTreeMap;

use async_trait::async_trait;
use contract::{Chat, Message, Timestamp};
use platform::event_log::{Progress, TopicPartition};
use platform::fail_point::fail_point;
use sqlx::postgres::{PgPool, PgTransaction};

use crate::batch::{Batch, DeadLetter, Erased, Move, Retried};
use crate::failure::StoreError;
use crate::store::{Applied, Store};

/// The copy in a Postgres database.
#[derive(Clone)]
pub struct Postgres {
    pool: PgPool,
}

impl Postgres {
    pub fn new(pool: PgPool) -> Self {
        Self { pool }
    }
}

#[async_trait]
impl Store for Postgres {
    async fn migrate(&self) -> Result<(), StoreError> {
        sqlx::migrate!("./migrations").run(&self.pool).await.map_err(|error| StoreError::Transient(error.to_string()))
    }

    async fn progress(&self) -> Result<BTreeMap<TopicPartition, Progress>, StoreError> {
        let rows: Vec<(String, i32, i64, i64, i64)> =
            sqlx::query_as("SELECT topic, partition, next_offset, last_timestamp, last_key_hash FROM progress")
                .fetch_all(&self.pool)
                .await?;
        Ok(rows.into_iter().map(Progress::from_row).collect())
    }

    async fn ask_reconcile(&self, reason: &str, gap: bool) -> Result<i64, StoreError> {
        let id = rand::random::<i64>();
        sqlx::query("INSERT INTO reconcile_requests (id, reason, gap) VALUES ($1, $2, $3)")
            .bind(id)
            .bind(reason)
            .bind(gap)
            .execute(&self.pool)
            .await?;
        Ok(id)
    }

    async fn apply(&self, batch: &Batch) -> Result<Applied, StoreError> {
        // Where a batch has markers alone there is nothing that could be lost.
        let fail_point = |name| {
            if !batch.messages.is_empty() {
                fail_point(name)
            }
        };
        let mut tx = self.pool.begin().await?;
        fail_point("writer.begun");
        // Progress first: a batch that has no right to be stored is given up before any row is touched.
        if move_progress(&mut tx, &batch.moves).await? != batch.moves.len() as u64 {
            tx.rollback().await?;
            return Ok(Applied::Missed);
        }
        fail_point("writer.moved");
        let newer = upsert_chats(&mut tx, &batch.chats).await? + upsert_messages(&mut tx, &batch.messages).await?;
        fail_point("writer.upserted");
        insert_versions(&mut tx, &batch.versions).await?;
        insert_dead_letters(&mut tx, &batch.dead_letters).await?;
        close_dead_letters(&mut tx, &batch.retried).await?;
        forget(&mut tx, &batch.erased()).await?;
        fail_point("writer.committing");
        tx.commit().await?;
        fail_point("writer.committed");
        Ok(Applied::Whole { newer })
    }
}

fn offset(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn column<'a, Row, Value>(rows: impl IntoIterator<Item = &'a Row>, value: impl Fn(&'a Row) -> Value) -> Vec<Value>
where
    Row: 'a,
{
    rows.into_iter().map(value).collect()
}

fn micros(time: Timestamp) -> i64 {
    offset(time.micros())
}

async fn move_progress(tx: &mut PgTransaction<'_>, moves: &[Move]) -> Result<u64, StoreError> {
    let (begun, moved): (Vec<&Move>, Vec<&Move>) = moves.iter().partition(|step| step.from.is_none());
    let mut changed = 0;
    if !moved.is_empty() {
        changed += sqlx::query(include_str!("../queries/move_progress.sql"))
            .bind(column(moved.iter().copied(), |step| step.at.topic.to_string()))
            .bind(column(moved.iter().copied(), |step| step.at.partition.cast_signed()))
            .bind(column(moved.iter().copied(), |step| offset(step.from.unwrap_or_default())))
            .bind(column(moved.iter().copied(), |step| offset(step.to.next_offset)))
            .bind(column(moved.iter().copied(), |step| step.to.last.timestamp_ms))
            .bind(column(moved.iter().copied(), |step| step.to.last.key_hash.cast_signed()))
            .execute(&mut **tx)
            .await?
            .rows_affected();
    }
    if !begun.is_empty() {
        changed += sqlx::query(include_str!("../queries/begin_progress.sql"))
            .bind(column(begun.iter().copied(), |step| step.at.topic.to_string()))
            .bind(column(begun.iter().copied(), |step| step.at.partition.cast_signed()))
            .bind(column(begun.iter().copied(), |step| offset(step.to.next_offset)))
            .bind(column(begun.iter().copied(), |step| step.to.last.timestamp_ms))
            .bind(column(begun.iter().copied(), |step| step.to.last.key_hash.cast_signed()))
            .execute(&mut **tx)
            .await?
            .rows_affected();
    }
    Ok(changed)
}

async fn upsert_chats(tx: &mut PgTransaction<'_>, chats: &[Chat]) -> Result<u64, StoreError> {
    if chats.is_empty() {
        return Ok(0);
    }
    let result = sqlx::query(include_str!("../queries/upsert_chats.sql"))
        .bind(column(chats, |chat| chat.id.as_str()))
        .bind(column(chats, |chat| chat.title.as_deref()))
        .bind(column(chats, |chat| micros(chat.created_at)))
        .bind(column(chats, |chat| chat.edited_at.map(micros)))
        .bind(column(chats, |chat| chat.deleted_at.map(micros)))
        .bind(column(chats, |chat| chat.stamp.deleted))
        .bind(column(chats, |chat| chat.version.as_str()))
        .execute(&mut **tx)
        .await?;
    Ok(result.rows_affected())
}

async fn upsert_messages(tx: &mut PgTransaction<'_>, messages: &[Message]) -> Result<u64, StoreError> {
    if messages.is_empty() {
        return Ok(0);
    }
    let result = sqlx::query(include_str!("../queries/upsert_messages.sql"))
        .bind(column(messages, |message| message.chat_id.as_str()))
        .bind(column(messages, |message| message.id.as_str()))
        .bind(column(messages, |message| message.parent_id.as_deref()))
        .bind(column(messages, |message| message.author.as_deref()))
        .bind(column(messages, |message| message.text.as_deref()))
        .bind(column(messages, |message| micros(message.created_at)))
        .bind(column(messages, |message| message.edited_at.map(micros)))
        .bind(column(messages, |message| message.deleted_at.map(micros)))
        .bind(column(messages, |message| message.stamp.deleted))
        .bind(column(messages, |message| message.version.as_str()))
        .execute(&mut **tx)
        .await?;
    Ok(result.rows_affected())
}

async fn insert_versions(tx: &mut PgTransaction<'_>, versions: &[Message]) -> Result<(), StoreError> {
    if versions.is_empty() {
        return Ok(());
    }
    sqlx::query(include_str!("../queries/insert_versions.sql"))
        .bind(column(versions, |message| message.chat_id.as_str()))
        .bind(column(versions, |message| message.id.as_str()))
        .bind(column(versions, |message| message.version.as_str()))
        .bind(column(versions, |message| message.author.as_deref()))
        .bind(column(versions, |message| message.text.as_deref()))
        .bind(column(versions, |message| message.edited_at.map(micros)))
        .bind(column(versions, |message| message.stamp.deleted))
        .execute(&mut **tx)
        .await?;
    Ok(())
}

async fn insert_dead_letters(tx: &mut PgTransaction<'_>, letters: &[DeadLetter]) -> Result<(), StoreError> {
    if letters.is_empty() {
        return Ok(());
    }
    sqlx::query(include_str!("../queries/insert_dead_letters.sql"))
        .bind(column(letters, |letter| letter.digest.as_str()))
        .bind(column(letters, |letter| letter.reason.as_str()))
        .bind(column(letters, |letter| letter.detail.as_str()))
        .bind(column(letters, |letter| letter.at.topic.to_string()))
        .bind(column(letters, |letter| letter.at.partition.cast_signed()))
        .bind(column(letters, |letter| offset(letter.offset)))
        .bind(column(letters, |letter| letter.key.as_deref()))
        .bind(column(letters, |letter| letter.raw.as_str()))
        .bind(column(letters, |letter| offset(letter.raw_length)))
        .bind(column(letters, |letter| letter.from_source))
        .bind(column(letters, |letter| letter.generation.map(i64::from)))
        .execute(&mut **tx)
        .await?;
    Ok(())
}

async fn close_dead_letters(tx: &mut PgTransaction<'_>, retried: &[Retried]) -> Result<(), StoreError> {
    if retried.is_empty() {
        return Ok(());
    }
    sqlx::query(include_str!("../queries/close_dead_letters.sql"))
        .bind(column(retried, |letter| letter.digest.as_str()))
        .bind(column(retried, Retried::state))
        .bind(column(retried, |letter| letter.failed.as_deref()))
        .bind(column(retried, |letter| letter.erased))
        .execute(&mut **tx)
        .await?;
    Ok(())
}

/// What is left of erased rows beside the rows themselves.
async fn forget(tx: &mut PgTransaction<'_>, erased: &[Erased]) -> Result<(), StoreError> {
    if erased.is_empty() {
        return Ok(());
    }
    sqlx::query(include_str!("../queries/delete_versions.sql"))
        .bind(column(erased, |row| row.chat_id.as_str()))
        .bind(column(erased, |row| row.id.as_deref()))
        .execute(&mut **tx)
        .await?;
    sqlx::query(include_str!("../queries/blank_dead_letters.sql"))
        .bind(column(erased, |row| row.key.as_str()))
        .bind(column(erased, |row| row.names().0))
        .bind(column(erased, |row| row.names().1))
        .execute(&mut **tx)
        .await?;
    Ok(())
}
