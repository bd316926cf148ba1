//! A table of dead letters, for operators: what they are, and what is decided about them. Who fills it owns it.

use async_trait::async_trait;
use chrono::{DateTime, SecondsFormat, Utc};
use serde::Serialize;
use sqlx::PgPool;

/// The table cannot be used now, or holds what it cannot.
#[derive(Debug, thiserror::Error)]
#[error("the dead letters: {0}")]
pub struct LettersError(pub String);

impl From<sqlx::Error> for LettersError {
    fn from(error: sqlx::Error) -> Self {
        Self(error.to_string())
    }
}

/// What becomes of a dead letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    Open,
    /// Somebody asked that it be tried again.
    Retry,
    /// A later try was applied.
    Resolved,
    /// Somebody decided so; the note says why.
    Discarded,
}

impl State {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Retry => "retry",
            Self::Resolved => "resolved",
            Self::Discarded => "discarded",
        }
    }

    /// # Errors
    /// If it is none of the four words.
    pub fn parse(text: &str) -> Result<Self, LettersError> {
        [Self::Open, Self::Retry, Self::Resolved, Self::Discarded]
            .into_iter()
            .find(|state| state.as_str() == text)
            .ok_or_else(|| LettersError(format!("no such state: {text}")))
    }
}

/// Dead letters of one reason and state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Group {
    pub reason: String,
    pub state: State,
    pub count: u64,
    /// RFC 3339.
    pub oldest: String,
    pub newest: String,
}

/// A dead letter, whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Letter {
    pub digest: String,
    pub reason: String,
    pub detail: String,
    pub state: State,
    pub note: Option<String>,
    pub topic: String,
    pub partition: i64,
    pub offset: i64,
    pub key: Option<String>,
    /// Whether `raw` is an item of the source; else it is a record of the log.
    pub from_source: bool,
    /// Cut to 256 KiB.
    pub raw: String,
    /// Of the whole, in bytes.
    pub raw_length: i64,
    /// RFC 3339.
    pub dead_lettered_at: String,
}

/// Which letters are meant; every field narrows.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    pub reason: Option<String>,
    pub state: Option<State>,
    /// The beginning of the digest.
    pub digest: Option<String>,
    /// How many at most; the newest.
    pub limit: u32,
}

/// The table of dead letters.
#[async_trait]
pub trait DeadLetters: Send + Sync {
    /// By reason and state.
    async fn groups(&self) -> Result<Vec<Group>, LettersError>;

    /// Newest first.
    async fn letters(&self, filter: &Filter) -> Result<Vec<Letter>, LettersError>;

    /// Decides about a letter that is open or discarded, or waits for another try; false if it is resolved or not
    /// there.
    async fn decide(&self, digest: &str, state: State, note: Option<&str>) -> Result<bool, LettersError>;
}

/// A group's row: reason, state, count, oldest, newest (microseconds).
pub type GroupRow = (String, String, i64, i64, i64);

/// # Errors
/// If the row holds what no letter can.
pub fn group_from((reason, state, count, oldest, newest): GroupRow) -> Result<Group, LettersError> {
    let count = u64::try_from(count).unwrap_or_default();
    Ok(Group { reason, state: State::parse(&state)?, count, oldest: time(oldest)?, newest: time(newest)? })
}

/// A letter as it is stored.
#[derive(Debug, sqlx::FromRow)]
pub struct LetterRow {
    digest: String,
    reason: String,
    detail: String,
    state: String,
    note: Option<String>,
    topic: String,
    partition: i64,
    record_offset: i64,
    record_key: Option<String>,
    from_source: bool,
    raw: String,
    raw_length: i64,
    micros: i64,
}

impl TryFrom<LetterRow> for Letter {
    type Error = LettersError;

    fn try_from(row: LetterRow) -> Result<Self, LettersError> {
        Ok(Self {
            state: State::parse(&row.state)?,
            dead_lettered_at: time(row.micros)?,
            digest: row.digest,
            reason: row.reason,
            detail: row.detail,
            note: row.note,
            topic: row.topic,
            partition: row.partition,
            offset: row.record_offset,
            key: row.record_key,
            from_source: row.from_source,
            raw: row.raw,
            raw_length: row.raw_length,
        })
    }
}

fn time(micros: i64) -> Result<String, LettersError> {
    let time = DateTime::<Utc>::from_timestamp_micros(micros);
    let text = time.map(|time| time.to_rfc3339_opts(SecondsFormat::Micros, true));
    text.ok_or_else(|| LettersError(format!("no time: {micros}")))
}

/// The table in Postgres.
pub struct PostgresLetters {
    pool: PgPool,
}

impl PostgresLetters {
    pub fn new(pool: PgPool) -> Self {
        Self { pool }
    }
}

#[async_trait]
impl DeadLetters for PostgresLetters {
    async fn groups(&self) -> Result<Vec<Group>, LettersError> {
        let rows: Vec<GroupRow> =
            sqlx::query_as(include_str!("../queries/dead_letter_groups.sql")).fetch_all(&self.pool).await?;
        rows.into_iter().map(group_from).collect()
    }

    async fn letters(&self, filter: &Filter) -> Result<Vec<Letter>, LettersError> {
        let rows: Vec<LetterRow> = sqlx::query_as(include_str!("../queries/dead_letters.sql"))
            .bind(&filter.reason)
            .bind(filter.state.map(State::as_str))
            .bind(&filter.digest)
            .bind(i64::from(filter.limit))
            .fetch_all(&self.pool)
            .await?;
        rows.into_iter().map(Letter::try_from).collect()
    }

    async fn decide(&self, digest: &str, state: State, note: Option<&str>) -> Result<bool, LettersError> {
        let decided = sqlx::query(include_str!("../queries/decide_dead_letter.sql"))
            .bind(digest)
            .bind(state.as_str())
            .bind(note)
            .execute(&self.pool)
            .await?;
        Ok(decided.rows_affected() == 1)
    }
}
