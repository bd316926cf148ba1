//! The dead letters, for operators: what they are, and what is decided about them.

use async_trait::async_trait;
use contract::Timestamp;
use serde::Serialize;

use crate::failure::StoreError;

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
    pub fn parse(text: &str) -> Result<Self, StoreError> {
        [Self::Open, Self::Retry, Self::Resolved, Self::Discarded]
            .into_iter()
            .find(|state| state.as_str() == text)
            .ok_or_else(|| StoreError::Data(format!("no state of a dead letter: {text}")))
    }
}

/// Dead letters of one reason and state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Group {
    pub reason: String,
    pub state: State,
    pub count: u64,
    pub oldest: Timestamp,
    pub newest: Timestamp,
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
    pub dead_lettered_at: Timestamp,
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
    async fn groups(&self) -> Result<Vec<Group>, StoreError>;

    /// Newest first.
    async fn letters(&self, filter: &Filter) -> Result<Vec<Letter>, StoreError>;

    /// Decides about a letter that is open or discarded, or waits for another try; false if it is resolved or not
    /// there.
    async fn decide(&self, digest: &str, state: State, note: Option<&str>) -> Result<bool, StoreError>;
}

/// A group's row: reason, state, count, oldest, newest (microseconds).
pub type GroupRow = (String, String, i64, i64, i64);

/// # Errors
/// If the row holds what no letter can.
pub fn group_from((reason, state, count, oldest, newest): GroupRow) -> Result<Group, StoreError> {
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
    type Error = StoreError;

    fn try_from(row: LetterRow) -> Result<Self, StoreError> {
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

fn time(micros: i64) -> Result<Timestamp, StoreError> {
    let wrong = || StoreError::Data(format!("no time: {micros}"));
    Timestamp::from_micros(u64::try_from(micros).map_err(|_| wrong())?).map_err(|_| wrong())
}
