//! The dead letters in SQLite.

use async_trait::async_trait;
use platform::dead_letters::{
    DeadLetters, Filter, Group, GroupRow, Letter, LetterRow, LettersError, State, group_from,
};

use crate::embedded_store::EmbeddedStore;

#[async_trait]
impl DeadLetters for EmbeddedStore {
    async fn groups(&self) -> Result<Vec<Group>, LettersError> {
        let rows: Vec<GroupRow> = sqlx::query_as(
            "SELECT reason, state, count(*), min(dead_lettered_at), max(dead_lettered_at) FROM dead_letters \
             GROUP BY reason, state ORDER BY state, reason",
        )
        .fetch_all(&self.db.read)
        .await?;
        rows.into_iter().map(group_from).collect()
    }

    async fn letters(&self, filter: &Filter) -> Result<Vec<Letter>, LettersError> {
        let rows: Vec<LetterRow> = sqlx::query_as(
            "SELECT digest, reason, detail, state, note, topic, partition, \"offset\" AS record_offset, record_key, \
                    from_source, raw, raw_length, dead_lettered_at AS micros \
             FROM dead_letters \
             WHERE (?1 IS NULL OR reason = ?1) AND (?2 IS NULL OR state = ?2) \
               AND (?3 IS NULL OR substr(digest, 1, length(?3)) = ?3) \
             ORDER BY dead_lettered_at DESC, digest LIMIT ?4",
        )
        .bind(&filter.reason)
        .bind(filter.state.map(State::as_str))
        .bind(&filter.digest)
        .bind(filter.limit)
        .fetch_all(&self.db.read)
        .await?;
        rows.into_iter().map(Letter::try_from).collect()
    }

    async fn decide(&self, digest: &str, state: State, note: Option<&str>) -> Result<bool, LettersError> {
        let decided = sqlx::query(
            "UPDATE dead_letters SET state = ?2, note = coalesce(?3, note), \
                     state_changed_at = CAST(unixepoch('subsec') * 1000000 AS INTEGER) \
                 WHERE digest = ?1 AND state <> 'resolved'",
        )
        .bind(digest)
        .bind(state.as_str())
        .bind(note)
        .execute(&self.db.write)
        .await?;
        Ok(decided.rows_affected() == 1)
    }
}
