//! A client's position, as a token that it gives back after a reconnect. Opaque to the client.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

/// Everything of the chat below these positions was delivered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token {
    #[serde(rename = "r")]
    pub region: String,
    #[serde(rename = "c")]
    pub chat: String,
    #[serde(rename = "p")]
    pub partition: u32,
    /// By topic.
    #[serde(rename = "t")]
    pub positions: BTreeMap<String, Position>,
}

/// A position in one topic's partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// The next offset.
    #[serde(rename = "o")]
    pub offset: u64,
    /// The last marker before it.
    #[serde(rename = "m")]
    pub marker: Option<String>,
}

/// The longest token that is read, in characters.
const MAX_LENGTH: usize = 4096;

impl Token {
    pub fn encode(&self) -> String {
        // Strings, numbers and maps of them: it cannot fail.
        URL_SAFE_NO_PAD.encode(serde_json::to_vec(self).unwrap_or_default())
    }

    /// `None` for whatever is no token.
    pub fn decode(text: &str) -> Option<Self> {
        if text.len() > MAX_LENGTH {
            return None;
        }
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(text).ok()?).ok()
    }
}
