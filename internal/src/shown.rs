//! Rows as browsers see them.

use contract::erasure::Written;
use contract::{Chat, Message, Timestamp, Version};
use serde::{Deserialize, Serialize};

/// A message on the wire to a browser. A deleted one comes with `text` null.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShownMessage {
    pub id: String,
    pub chat_id: String,
    pub parent_id: Option<String>,
    pub author: Option<String>,
    pub text: Option<String>,
    pub created_at: Timestamp,
    pub edited_at: Option<Timestamp>,
    pub deleted: bool,
    pub version: Version,
}

/// A chat in the list of chats. Deleted ones are not in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShownChat {
    pub id: String,
    pub title: Option<String>,
    pub created_at: Timestamp,
    pub version: Version,
}

impl From<&Message> for ShownMessage {
    fn from(message: &Message) -> Self {
        Self {
            id: message.id.clone(),
            chat_id: message.chat_id.clone(),
            parent_id: message.parent_id.clone(),
            author: message.author.clone(),
            text: message.text.clone().filter(|_| !message.stamp.deleted),
            created_at: message.created_at,
            edited_at: message.edited_at,
            deleted: message.stamp.deleted,
            version: message.version.clone(),
        }
    }
}

impl From<&Chat> for ShownChat {
    fn from(chat: &Chat) -> Self {
        Self {
            id: chat.id.clone(),
            title: chat.title.clone(),
            created_at: chat.created_at,
            version: chat.version.clone(),
        }
    }
}

impl ShownMessage {
    /// About how many bytes it takes in memory.
    pub fn weight(&self) -> usize {
        200 + self.text.as_ref().map_or(0, String::len) + self.chat_id.len() + self.id.len()
    }

    /// What an erasure is judged by.
    pub fn written(&self) -> Written<'_> {
        Written { id: &self.id, author: self.author.as_deref(), created_at: self.created_at }
    }

    /// The order on a page: by time, then by id.
    pub fn place(&self) -> (Timestamp, &str) {
        (self.created_at, &self.id)
    }
}
