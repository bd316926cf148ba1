//! Reads a line of a Slack event log: what it asks to be done, or why it cannot be used.
//!
//! The traps: `ts` is the id (unique within a channel only) and the creation time; a change names its
//! message in `message.ts`, a deletion in `deleted_ts`; `edited.ts` is cut to whole seconds; replies
//! carry their thread in `thread_ts`; `message_replied` says nothing new.

use serde::Deserialize;

use crate::chat::Micros;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Step {
    pub channel: String,
    /// When it happened, which is when it is played.
    pub at: Micros,
    pub action: Action,
}

impl Step {
    /// The id of the message that it is about.
    pub fn message(&self) -> &str {
        match &self.action {
            Action::Say { content, .. } => &content.id,
            Action::Delete { id } => id,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Action {
    /// The message as it is now; a plain post and a change alike carry it whole.
    Say {
        content: Content,
        change: bool,
    },
    Delete {
        id: String,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Content {
    pub id: String,
    pub parent_id: Option<String>,
    pub author: String,
    pub text: String,
    pub created_at: Micros,
    pub edited_at: Option<Micros>,
}

/// Why a line is passed over.
pub(crate) type Unused = &'static str;

#[derive(Deserialize)]
struct Event {
    r#type: Option<String>,
    subtype: Option<String>,
    channel: Option<String>,
    ts: Option<String>,
    deleted_ts: Option<String>,
    message: Option<Body>,
    #[serde(flatten)]
    body: Rest,
}

#[derive(Deserialize)]
struct Body {
    ts: Option<String>,
    #[serde(flatten)]
    rest: Rest,
}

#[derive(Deserialize)]
struct Rest {
    thread_ts: Option<String>,
    user: Option<String>,
    bot_id: Option<String>,
    username: Option<String>,
    text: Option<String>,
    edited: Option<Edited>,
}

#[derive(Deserialize)]
struct Edited {
    ts: String,
}

pub(crate) fn read(line: &[u8]) -> Result<Step, Unused> {
    let text = std::str::from_utf8(line).map_err(|_| "not UTF-8")?;
    let value: serde_json::Value = serde_json::from_str(text).map_err(|_| "not JSON")?;
    let event: Event = serde_json::from_value(value).map_err(|_| "fields of other types")?;
    if event.r#type.as_deref() != Some("message") {
        return Err("not a message event");
    }
    let channel = event.channel.filter(|channel| !channel.is_empty()).ok_or("no channel")?;
    let ts = event.ts.ok_or("no ts")?;
    let at = micros(&ts).ok_or("unreadable ts")?;
    let action = match event.subtype.as_deref() {
        Some("message_changed") => {
            let body = event.message.ok_or("a change without its message")?;
            let id = body.ts.ok_or("a change without its message's ts")?;
            Action::Say { content: content(id, body.rest)?, change: true }
        }
        Some("message_deleted") => Action::Delete { id: event.deleted_ts.ok_or("a deletion without deleted_ts")? },
        Some("message_replied") => return Err("message_replied, which says nothing new"),
        _ => Action::Say { content: content(ts, event.body)?, change: false },
    };
    Ok(Step { channel, at, action })
}

fn content(id: String, rest: Rest) -> Result<Content, Unused> {
    let created_at = micros(&id).ok_or("unreadable ts")?;
    let edited_at = match rest.edited {
        None => None,
        Some(edited) => Some(micros(&edited.ts).ok_or("unreadable edited.ts")?),
    };
    Ok(Content {
        parent_id: rest.thread_ts.filter(|thread| *thread != id),
        author: rest.user.or(rest.bot_id).or(rest.username).ok_or("no author")?,
        text: rest.text.ok_or("no text")?,
        created_at,
        edited_at,
        id,
    })
}

/// `1517436010.000936`: seconds, a dot, six digits.
fn micros(ts: &str) -> Option<Micros> {
    let (seconds, fraction) = ts.split_once('.')?;
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if fraction.len() != 6 || seconds.is_empty() || !digits(seconds) || !digits(fraction) {
        return None;
    }
    let seconds: i64 = seconds.parse().ok()?;
    Some(Micros(seconds.checked_mul(1_000_000)?.checked_add(fraction.parse().ok()?)?))
}
