//! The version gate: the newest row of each message, shared by all pods.
//!
//! It is in no invariant. Without it every pod pushes what it reads, and the page's own merge keeps
//! screens from going backwards; with it, nothing older than what any pod has seen is pushed.

use async_trait::async_trait;

use crate::shown::ShownMessage;

/// What the gate says of a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// It is newer than what was stored, and stored now.
    Newer,
    /// Another pod was first with the very same.
    Equal,
    /// This one, which is newer, was stored before.
    Older(Box<ShownMessage>),
    /// Nothing was stored; it is now.
    Absent,
}

impl Answer {
    /// Its word, for metrics and for people.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Newer => "newer",
            Self::Equal => "equal",
            Self::Older(_) => "older",
            Self::Absent => "absent",
        }
    }
}

/// Why the gate did not answer.
#[derive(Debug, thiserror::Error)]
#[error("the gate does not answer: {0}")]
pub struct GateError(pub String);

/// The gate.
#[async_trait]
pub trait Gate: Send + Sync {
    /// Judges rows of any chats, in order; one answer each.
    async fn judge(&self, rows: &[ShownMessage]) -> Result<Vec<Answer>, GateError>;
}
