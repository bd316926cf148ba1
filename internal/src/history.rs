//! What readers look up: a message's earlier versions, and texts.

use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;
use contract::erasure::Written;
use contract::{Timestamp, Version};
use serde::Serialize;

use crate::copy::CopyError;

/// A version of a message as it was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ShownVersion {
    pub version: Version,
    pub text: Option<String>,
    pub deleted: bool,
    /// When the source made it.
    pub changed_at: Timestamp,
}

/// A message that was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Hit {
    pub chat_id: String,
    pub id: String,
    pub author: Option<String>,
    pub created_at: Timestamp,
    /// The text around the words, in pieces; those that were looked for are marked.
    pub snippet: Vec<Piece>,
}

impl Hit {
    /// What an erasure is judged by.
    pub fn written(&self) -> Written<'_> {
        Written { id: &self.id, author: self.author.as_deref(), created_at: self.created_at }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Piece {
    pub text: String,
    pub hit: bool,
}

/// The stored history, for reading.
#[async_trait]
pub trait History: Send + Sync {
    /// A message's versions, oldest first, as (version, text, deleted); none if there is no such message, or the
    /// message, or its chat, was deleted: what somebody deleted is not shown by its history.
    async fn versions(&self, chat: &str, message: &str) -> Result<Vec<VersionRow>, CopyError>;

    /// The same of several messages of a chat, without their texts, by message.
    async fn all_versions(&self, chat: &str, messages: &[String]) -> Result<Vec<(String, String, i64)>, CopyError>;

    /// The newest `limit` messages that have words which begin with each of these; in `only` these chats, if it names some.
    async fn search(
        &self,
        words: &[String],
        limit: u32,
        only: Option<&BTreeSet<String>>,
    ) -> Result<Vec<HitRow>, CopyError>;
}

/// Version, text, deleted.
pub type VersionRow = (String, Option<String>, bool);
/// Chat, message, author, created (microseconds), and the snippet with [`MARKS`] around each hit.
pub type HitRow = (String, String, Option<String>, i64, String);

/// Private-use characters that no text is expected to hold; those that do lose nothing but a mark.
pub const MARKS: [char; 2] = ['\u{e000}', '\u{e001}'];

/// How much of a piece is shown, in characters.
const MAX_PIECE: usize = 200;

/// The words of a query: letters and digits, in lower case, 16 at most.
pub fn words(query: &str) -> Vec<String> {
    let words = query.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty());
    words.map(str::to_lowercase).take(16).collect()
}

/// # Errors
/// If a row holds what no record could have brought.
pub fn versions_from(rows: Vec<VersionRow>) -> Result<Vec<ShownVersion>, CopyError> {
    let mut versions: Vec<ShownVersion> = Vec::new();
    for (version, text, deleted) in rows {
        let version: Version = version.parse().map_err(|_| CopyError("a stored version that is none".into()))?;
        let changed_at = version.fields().map_err(|error| CopyError(error.to_string()))?.changed_at;
        // A new generation of the feed gives a row another version and leaves it as it was.
        if versions.last().is_none_or(|last| (last.deleted, &last.text) != (deleted, &text)) {
            versions.push(ShownVersion { version, text, deleted, changed_at });
        }
    }
    Ok(versions)
}

/// How often each message was edited: its distinct contents, less the first.
pub fn edits(rows: Vec<(String, String, i64)>) -> BTreeMap<String, i64> {
    rows.into_iter().map(|(id, _, contents)| (id, (contents - 1).max(0))).collect()
}

/// # Errors
/// If a row holds what no record could have brought.
pub fn hit_from((chat_id, id, author, created_at, snippet): HitRow) -> Result<Hit, CopyError> {
    let created_at = u64::try_from(created_at).ok().and_then(|micros| Timestamp::from_micros(micros).ok());
    let created_at = created_at.ok_or_else(|| CopyError("a stored time that is none".into()))?;
    Ok(Hit { chat_id, id, author, created_at, snippet: pieces(&snippet) })
}

fn pieces(snippet: &str) -> Vec<Piece> {
    let mut pieces = Vec::new();
    for (number, part) in snippet.split(MARKS[0]).enumerate() {
        let (hit, rest) = match part.split_once(MARKS[1]) {
            Some((hit, rest)) if number > 0 => (hit, rest),
            _ => ("", part),
        };
        for (text, hit) in [(hit, true), (rest, false)] {
            if !text.is_empty() {
                pieces.push(Piece { text: cut(text), hit });
            }
        }
    }
    pieces
}

/// A snippet has some words, but a word may be as long as a text.
fn cut(text: &str) -> String {
    match text.char_indices().nth(MAX_PIECE) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_its_words() {
        assert_eq!(words("  Invoice, no. 4711! \"Ärger\" "), ["invoice", "no", "4711", "ärger"]);
        assert_eq!(words("!!! '); DROP"), ["drop"]);
        assert!(words("…").is_empty());
    }

    #[test]
    fn hits_are_marked_in_a_snippet() {
        let marked = |text: &str| pieces(text).into_iter().map(|piece| (piece.text, piece.hit)).collect::<Vec<_>>();
        assert_eq!(
            marked("the \u{e000}invoice\u{e001} of \u{e000}May\u{e001}"),
            [("the ".into(), false), ("invoice".into(), true), (" of ".into(), false), ("May".into(), true)]
        );
        assert_eq!(marked(&"x".repeat(1000))[0].0.chars().count(), MAX_PIECE + 1);
        assert_eq!(marked("a stray \u{e000} mark"), [("a stray ".to_owned(), false), (" mark".to_owned(), false)]);
    }

    #[test]
    fn versions_with_the_same_content_are_one() {
        let version = |sequence: u64| format!("{:08x}{sequence:016x}{:016x}{:08x}00{:016x}", 1, 5, 0, 7);
        let row = |sequence, text: &str| (version(sequence), Some(text.to_owned()), false);
        let versions = versions_from(vec![row(1, "a"), row(2, "a"), row(3, "b")]).unwrap();
        assert_eq!(versions.iter().map(|version| version.text.as_deref()).collect::<Vec<_>>(), [Some("a"), Some("b")]);
    }
}
