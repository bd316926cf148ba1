//! The copy in SQLite, as the synchronizer reads it.

use std::collections::{BTreeMap, HashMap, HashSet};

use async_trait::async_trait;
use contract::{Chat, Message, Version};
use platform::event_log::TopicPartition;
use synchronizer::postgres_stored::{
    ChatRow, MessageRow, RetryRow, chat_from, message_from, request_from, retry_from, versions_from,
};
use synchronizer::stored::{HeldLetter, Request, Retry, Rows, Stored, StoredError};

use crate::embedded_store::EmbeddedStore;

#[async_trait]
impl Stored for EmbeddedStore {
    async fn chats(&self) -> Result<Rows<BTreeMap<String, Chat>>, StoredError> {
        let rows: Vec<ChatRow> =
            sqlx::query_as("SELECT id, title, created_at, edited_at, deleted_at, version FROM chats")
                .fetch_all(&self.db.read)
                .await?;
        Ok(rows.into_iter().map(|row| chat_from(row).map(|chat| (chat.id.clone(), chat))).collect())
    }

    async fn chat_ids(&self) -> Result<Vec<String>, StoredError> {
        Ok(sqlx::query_scalar("SELECT id FROM chats ORDER BY id").fetch_all(&self.db.read).await?)
    }

    async fn versions(&self, chat: &str) -> Result<Rows<HashMap<String, Version>>, StoredError> {
        let rows = sqlx::query_as(
            "SELECT chat_id, id, parent_id, author, text, created_at, edited_at, deleted_at, version \
             FROM messages WHERE chat_id = ?",
        )
        .bind(chat)
        .fetch(&self.db.read);
        versions_from(rows).await
    }

    async fn messages(&self, chat: &str, ids: &[String]) -> Result<Rows<Vec<Message>>, StoredError> {
        let rows: Vec<MessageRow> = sqlx::query_as(
            "SELECT chat_id, id, parent_id, author, text, created_at, edited_at, deleted_at, version \
             FROM messages WHERE chat_id = ? AND id IN (SELECT value FROM json_each(?))",
        )
        .bind(chat)
        .bind(serde_json::json!(ids).to_string())
        .fetch_all(&self.db.read)
        .await?;
        Ok(rows.into_iter().map(message_from).collect())
    }

    async fn chat(&self, chat: &str) -> Result<Option<Chat>, StoredError> {
        let query = "SELECT id, title, created_at, edited_at, deleted_at, version FROM chats WHERE id = ?";
        let row = sqlx::query_as(query).bind(chat).fetch_optional(&self.db.read).await?;
        Ok(row.map(chat_from).transpose()?)
    }

    async fn unerased(&self, chat: &str, after: &str, limit: u32) -> Result<Rows<Vec<Message>>, StoredError> {
        let rows: Vec<MessageRow> = sqlx::query_as(
            "SELECT chat_id, id, parent_id, author, NULL, created_at, NULL, NULL, version FROM messages \
             WHERE chat_id = ? AND id > ? AND (version < 'ffffffff' OR text IS NOT NULL OR author IS NOT NULL) ORDER BY id LIMIT ?",
        )
        .bind(chat)
        .bind(after)
        .bind(limit)
        .fetch_all(&self.db.read)
        .await?;
        Ok(rows.into_iter().map(message_from).collect())
    }

    async fn erased_versions(&self) -> Result<u64, StoredError> {
        let query = "SELECT count(*) FROM messages JOIN message_versions USING (chat_id, id) \
                     WHERE messages.version >= 'ffffffff'";
        let count: i64 = sqlx::query_scalar(query).fetch_one(&self.db.read).await?;
        Ok(u64::try_from(count).unwrap_or_default())
    }

    async fn dead_letters(&self, digests: &[String]) -> Result<HashSet<String>, StoredError> {
        let known: Vec<String> = sqlx::query_scalar(
            "SELECT digest FROM dead_letters WHERE digest IN (SELECT value FROM json_each(?)) AND state <> 'resolved'",
        )
        .bind(serde_json::json!(digests).to_string())
        .fetch_all(&self.db.read)
        .await?;
        Ok(known.into_iter().collect())
    }

    async fn held_letters(&self, after: &str, limit: u32) -> Result<Vec<HeldLetter>, StoredError> {
        let query = "SELECT digest, record_key, raw FROM dead_letters WHERE raw <> '' AND digest > ? \
                     ORDER BY digest LIMIT ?";
        Ok(sqlx::query_as(query).bind(after).bind(limit).fetch_all(&self.db.read).await?)
    }

    async fn progress(&self) -> Result<BTreeMap<TopicPartition, u64>, StoredError> {
        let rows: Vec<(String, i32, i64)> =
            sqlx::query_as("SELECT topic, partition, next_offset FROM progress").fetch_all(&self.db.read).await?;
        Ok(rows.into_iter().map(TopicPartition::position).collect())
    }

    async fn retries(&self) -> Result<Vec<Retry>, StoredError> {
        let rows: Vec<RetryRow> = sqlx::query_as(
            "SELECT digest, state_changed_at, from_source, generation, raw FROM dead_letters WHERE state = 'retry' ORDER BY digest LIMIT 100",
        )
        .fetch_all(&self.db.read)
        .await?;
        Ok(rows.into_iter().map(retry_from).collect())
    }

    async fn request(&self) -> Result<Option<Request>, StoredError> {
        let row = sqlx::query_as("SELECT id, gap, reason FROM reconcile_requests ORDER BY asked_at DESC LIMIT 1")
            .fetch_optional(&self.db.read)
            .await?;
        Ok(row.map(request_from))
    }
}
