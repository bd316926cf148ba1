//! Versions and search in SQLite.

use std::collections::BTreeSet;

use async_trait::async_trait;
use internal::copy::CopyError;
use internal::history::{History, HitRow, VersionRow};

use crate::embedded_store::EmbeddedStore;

#[async_trait]
impl History for EmbeddedStore {
    async fn versions(&self, chat: &str, message: &str) -> Result<Vec<VersionRow>, CopyError> {
        let query = sqlx::query_as(
            "SELECT v.version, v.text, v.deleted FROM message_versions AS v \
             JOIN messages AS m ON m.chat_id = v.chat_id AND m.id = v.id JOIN chats AS c ON c.id = m.chat_id \
             WHERE v.chat_id = ? AND v.id = ? AND NOT m.deleted AND NOT c.deleted AND m.version < 'ffffffff' ORDER BY v.version",
        );
        Ok(query.bind(chat).bind(message).fetch_all(&self.db.read).await?)
    }

    async fn all_versions(&self, chat: &str, messages: &[String]) -> Result<Vec<(String, String, i64)>, CopyError> {
        let query = sqlx::query_as(
            "SELECT id, max(version), count(DISTINCT text) FROM message_versions \
             WHERE chat_id = ? AND id IN (SELECT value FROM json_each(?)) AND NOT deleted GROUP BY id",
        );
        let ids = serde_json::json!(messages).to_string();
        Ok(query.bind(chat).bind(ids).fetch_all(&self.db.read).await?)
    }

    async fn search(
        &self,
        words: &[String],
        limit: u32,
        only: Option<&BTreeSet<String>>,
    ) -> Result<Vec<HitRow>, CopyError> {
        let query = words.iter().map(|word| format!("\"{word}\"*")).collect::<Vec<_>>().join(" AND ");
        let found = sqlx::query_as(
            "SELECT m.chat_id, m.id, m.author, m.created_at, \
                    snippet(message_words, 0, char(57344), char(57345), '…', 26) \
             FROM message_words JOIN messages AS m ON m.rowid = message_words.rowid JOIN chats AS c ON c.id = m.chat_id \
             WHERE message_words MATCH ?1 AND NOT m.deleted AND NOT c.deleted \
               AND (?3 IS NULL OR m.chat_id IN (SELECT value FROM json_each(?3))) \
             ORDER BY m.created_at DESC, m.id DESC LIMIT ?2",
        );
        let only = only.map(|chats| serde_json::json!(chats).to_string());
        Ok(found.bind(query).bind(limit).bind(only).fetch_all(&self.db.read).await?)
    }
}
