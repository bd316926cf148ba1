//! The copy in SQLite: the writer's store and internal's copy, for one process.

use std::collections::BTreeMap;

use async_trait::async_trait;
use contract::{Chat, Message, Timestamp};
use internal::copy::{ChatCopy, CopyError, Page, Snapshot};
use internal::postgres_copy::{LAST, MessageRow, chat_from, message_from, page_from, snapshot_from};
use internal::shown::{ShownChat, ShownMessage};
use platform::event_log::{Progress, ProgressRow, TopicPartition};
use platform::sqlite::Sqlite;
use sqlx::migrate::Migrator;
use sqlx::{Sqlite as Db, Transaction};
use writer::batch::{Batch, DeadLetter, Erased, Move, Retried};
use writer::failure::StoreError;
use writer::store::{Applied, Store};

/// The copy in a SQLite file.
#[derive(Clone)]
pub struct EmbeddedStore {
    pub(crate) db: Sqlite,
}

impl EmbeddedStore {
    pub fn new(db: Sqlite) -> Self {
        Self { db }
    }
}

fn micros(time: Timestamp) -> i64 {
    offset(time.micros())
}

fn offset(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

#[async_trait]
impl Store for EmbeddedStore {
    async fn migrate(&self) -> Result<(), StoreError> {
        let mut migrator: Migrator = sqlx::migrate!("./migrations");
        migrator.dangerous_set_table_name("copy_migrations");
        migrator.run(&self.db.write).await.map_err(|error| StoreError::Transient(error.to_string()))
    }

    async fn progress(&self) -> Result<BTreeMap<TopicPartition, Progress>, StoreError> {
        let rows: Vec<ProgressRow> = sqlx::query_as(PROGRESS).fetch_all(&self.db.read).await?;
        Ok(rows.into_iter().map(Progress::from_row).collect())
    }

    async fn ask_reconcile(&self, reason: &str, gap: bool) -> Result<i64, StoreError> {
        let id = rand::random::<i64>();
        sqlx::query("INSERT INTO reconcile_requests (id, reason, gap) VALUES (?, ?, ?)")
            .bind(id)
            .bind(reason)
            .bind(gap)
            .execute(&self.db.write)
            .await?;
        Ok(id)
    }

    async fn apply(&self, batch: &Batch) -> Result<Applied, StoreError> {
        let mut tx = self.db.write.begin().await?;
        for step in &batch.moves {
            if !move_progress(&mut tx, step).await? {
                tx.rollback().await?;
                return Ok(Applied::Missed);
            }
        }
        let mut newer = 0;
        for chat in &batch.chats {
            newer += upsert_chat(&mut tx, chat).await?;
        }
        for message in &batch.messages {
            newer += upsert_message(&mut tx, message).await?;
        }
        for message in &batch.versions {
            insert_version(&mut tx, message).await?;
        }
        for letter in &batch.dead_letters {
            insert_dead_letter(&mut tx, letter).await?;
        }
        for retried in &batch.retried {
            close_dead_letter(&mut tx, retried).await?;
        }
        for row in batch.erased() {
            forget(&mut tx, &row).await?;
        }
        tx.commit().await?;
        Ok(Applied::Whole { newer })
    }
}

/// Compare and set: false if the partition is somewhere else.
async fn move_progress(tx: &mut Transaction<'_, Db>, step: &Move) -> sqlx::Result<bool> {
    let query = match step.from {
        Some(from) => sqlx::query(
            "UPDATE progress SET next_offset = ?, last_timestamp = ?, last_key_hash = ? \
             WHERE topic = ? AND partition = ? AND next_offset = ?",
        )
        .bind(offset(step.to.next_offset))
        .bind(step.to.last.timestamp_ms)
        .bind(step.to.last.key_hash.cast_signed())
        .bind(&*step.at.topic)
        .bind(step.at.partition)
        .bind(offset(from)),
        None => sqlx::query("INSERT INTO progress VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING")
            .bind(&*step.at.topic)
            .bind(step.at.partition)
            .bind(offset(step.to.next_offset))
            .bind(step.to.last.timestamp_ms)
            .bind(step.to.last.key_hash.cast_signed()),
    };
    Ok(query.execute(&mut **tx).await?.rows_affected() == 1)
}

async fn upsert_chat(tx: &mut Transaction<'_, Db>, chat: &Chat) -> sqlx::Result<u64> {
    let done = sqlx::query(
        "INSERT INTO chats VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO UPDATE \
         SET title = excluded.title, created_at = excluded.created_at, edited_at = excluded.edited_at, \
             deleted_at = excluded.deleted_at, deleted = excluded.deleted, version = excluded.version \
         WHERE excluded.version > chats.version",
    )
    .bind(&chat.id)
    .bind(&chat.title)
    .bind(micros(chat.created_at))
    .bind(chat.edited_at.map(micros))
    .bind(chat.deleted_at.map(micros))
    .bind(chat.stamp.deleted)
    .bind(chat.version.as_str())
    .execute(&mut **tx)
    .await?;
    Ok(done.rows_affected())
}

/// Newer wins, as in Postgres.
pub const UPSERT_MESSAGE: &str = "INSERT INTO messages VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) \
     ON CONFLICT (chat_id, id) DO UPDATE \
     SET parent_id = excluded.parent_id, author = excluded.author, text = excluded.text, \
         created_at = excluded.created_at, edited_at = excluded.edited_at, deleted_at = excluded.deleted_at, \
         deleted = excluded.deleted, version = excluded.version \
     WHERE excluded.version > messages.version";

async fn upsert_message(tx: &mut Transaction<'_, Db>, message: &Message) -> sqlx::Result<u64> {
    let done = sqlx::query(UPSERT_MESSAGE)
        .bind(&message.chat_id)
        .bind(&message.id)
        .bind(&message.parent_id)
        .bind(&message.author)
        .bind(&message.text)
        .bind(micros(message.created_at))
        .bind(message.edited_at.map(micros))
        .bind(message.deleted_at.map(micros))
        .bind(message.stamp.deleted)
        .bind(message.version.as_str())
        .execute(&mut **tx)
        .await?;
    Ok(done.rows_affected())
}

async fn insert_version(tx: &mut Transaction<'_, Db>, message: &Message) -> sqlx::Result<()> {
    sqlx::query(
        "INSERT INTO message_versions SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7 WHERE NOT EXISTS \
         (SELECT 1 FROM messages WHERE chat_id = ?1 AND id = ?2 AND version >= 'ffffffff') ON CONFLICT DO NOTHING",
    )
    .bind(&message.chat_id)
    .bind(&message.id)
    .bind(message.version.as_str())
    .bind(&message.author)
    .bind(&message.text)
    .bind(message.edited_at.map(micros))
    .bind(message.stamp.deleted)
    .execute(&mut **tx)
    .await?;
    Ok(())
}

async fn insert_dead_letter(tx: &mut Transaction<'_, Db>, letter: &DeadLetter) -> sqlx::Result<()> {
    sqlx::query(
        "INSERT INTO dead_letters \
         (digest, reason, detail, topic, partition, \"offset\", record_key, raw, raw_length, from_source, generation) \
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) \
         ON CONFLICT (digest) DO UPDATE SET state = 'open' WHERE dead_letters.state = 'resolved'",
    )
    .bind(&letter.digest)
    .bind(&letter.reason)
    .bind(&letter.detail)
    .bind(&*letter.at.topic)
    .bind(letter.at.partition)
    .bind(offset(letter.offset))
    .bind(&letter.key)
    .bind(&letter.raw)
    .bind(offset(letter.raw_length))
    .bind(letter.from_source)
    .bind(letter.generation)
    .execute(&mut **tx)
    .await?;
    Ok(())
}

async fn close_dead_letter(tx: &mut Transaction<'_, Db>, retried: &Retried) -> sqlx::Result<()> {
    let sql = "UPDATE dead_letters SET state = ?1,
            raw = CASE WHEN ?4 THEN '' ELSE raw END, detail = CASE WHEN ?4 THEN '' ELSE detail END,
            note = CASE WHEN ?4 THEN ?2
            WHEN ?2 IS NULL OR substr(note, -length(?2)) = ?2 THEN note
            WHEN note IS NULL THEN ?2 ELSE note || '; ' || ?2 END
        WHERE digest = ?3";
    sqlx::query(sql)
        .bind(retried.state())
        .bind(&retried.failed)
        .bind(&retried.digest)
        .bind(retried.erased)
        .execute(&mut **tx)
        .await?;
    Ok(())
}

/// What is left of an erased row beside the row itself.
async fn forget(tx: &mut Transaction<'_, Db>, row: &Erased) -> sqlx::Result<()> {
    let (chat, message) = row.names();
    sqlx::query("DELETE FROM message_versions WHERE chat_id = ? AND id = ?")
        .bind(&row.chat_id)
        .bind(&row.id)
        .execute(&mut **tx)
        .await?;
    sqlx::query(
        "UPDATE dead_letters SET raw = '', detail = '', state = 'discarded', note = 'erased', \
                state_changed_at = CAST(unixepoch('subsec') * 1000000 AS INTEGER) \
         WHERE raw <> '' AND (record_key = ?1 OR instr(raw, ?2) > 0 AND (?3 IS NULL OR instr(raw, ?3) > 0))",
    )
    .bind(&row.key)
    .bind(chat)
    .bind(message)
    .execute(&mut **tx)
    .await?;
    Ok(())
}

const PROGRESS: &str = "SELECT topic, partition, next_offset, last_timestamp, last_key_hash FROM progress";

const LAST_MESSAGES: &str = "SELECT chat_id, id, parent_id, author, text, created_at, edited_at, deleted, version \
     FROM messages WHERE chat_id = ? AND (created_at, id) < (?, ?) ORDER BY created_at DESC, id DESC LIMIT ?";

async fn snapshot(
    tx: &mut Transaction<'_, Db>,
    chat: &str,
    before: Option<(i64, &str)>,
    limit: u32,
) -> Result<Snapshot, CopyError> {
    let (time, id) = before.unwrap_or(LAST);
    let rows: Vec<MessageRow> =
        sqlx::query_as(LAST_MESSAGES).bind(chat).bind(time).bind(id).bind(limit).fetch_all(&mut **tx).await?;
    let progress: Vec<ProgressRow> = sqlx::query_as(PROGRESS).fetch_all(&mut **tx).await?;
    snapshot_from(rows, progress)
}

#[async_trait]
impl ChatCopy for EmbeddedStore {
    async fn chats(&self) -> Result<Vec<ShownChat>, CopyError> {
        let rows: Vec<(String, Option<String>, i64, String)> = sqlx::query_as(
            "SELECT id, title, created_at, version FROM chats WHERE NOT deleted ORDER BY created_at, id",
        )
        .fetch_all(&self.db.read)
        .await?;
        rows.into_iter().map(|(id, title, created_at, version)| chat_from(id, title, created_at, &version)).collect()
    }

    async fn snapshot(&self, chat: &str, limit: u32) -> Result<Snapshot, CopyError> {
        // A transaction that reads sees one state of the file from its first statement on.
        let mut tx = self.db.read.begin().await?;
        let snapshot = snapshot(&mut tx, chat, None, limit).await?;
        tx.commit().await?;
        Ok(snapshot)
    }

    async fn messages(&self, chat: &str, before: Option<&str>, limit: u32) -> Result<Page, CopyError> {
        let mut tx = self.db.read.begin().await?;
        let deleted: Option<bool> =
            sqlx::query_scalar("SELECT deleted FROM chats WHERE id = ?").bind(chat).fetch_optional(&mut *tx).await?;
        if deleted != Some(false) {
            return Ok(Page::NoChat);
        }
        let before = match before {
            None => None,
            Some(id) => {
                let place: Option<i64> =
                    sqlx::query_scalar("SELECT created_at FROM messages WHERE chat_id = ? AND id = ?")
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
        let rows: Vec<ProgressRow> = sqlx::query_as(PROGRESS).fetch_all(&self.db.read).await?;
        Ok(rows.into_iter().map(Progress::from_row).collect())
    }

    async fn stored(&self, wanted: &[(String, String)]) -> Result<Vec<ShownMessage>, CopyError> {
        let mut stored = Vec::new();
        for (chat, id) in wanted {
            let row: Option<MessageRow> = sqlx::query_as(
                "SELECT chat_id, id, parent_id, author, text, created_at, edited_at, deleted, version \
                 FROM messages WHERE chat_id = ? AND id = ?",
            )
            .bind(chat)
            .bind(id)
            .fetch_optional(&self.db.read)
            .await?;
            stored.extend(row.map(message_from).transpose()?);
        }
        Ok(stored)
    }
}
