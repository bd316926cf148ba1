//! One browser's connection: JSON text frames both ways.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::ws::{CloseFrame, Message, Utf8Bytes, WebSocket, close_code};
use contract::Timestamp;
use futures::{SinkExt, StreamExt};
use platform::lifecycle::Stop;
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;

use crate::copy::ChatCopy;
use crate::hub::{ConnectionId, Hub, Known};
use crate::load::bring_up_to_date;
use crate::outbox::{About, Outbox};
use crate::shown::{ShownChat, ShownMessage};

/// How often a browser is told how old its copy is.
const HEARTBEAT: Duration = Duration::from_secs(2);
/// How long one write may take before the browser is given up.
const PATIENCE: Duration = Duration::from_secs(20);
/// How many chats one connection may watch at once.
const MAX_SUBSCRIPTIONS: usize = 100;
/// The greatest frame that is read from a browser, in bytes.
pub const MAX_FRAME: usize = 16 << 10;

/// What a browser says.
#[derive(Debug, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
enum ClientFrame {
    Subscribe { chat: String, resume: Option<String> },
    Unsubscribe { chat: String },
}

/// What a browser is told.
#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ServerFrame<'a> {
    /// A chat's last messages, oldest first, without a hole; `more` says whether there may be older ones, and
    /// `outside` holds newer versions of some of those. With `behind`, it may lack some: another load follows, and
    /// no `resume` counts until it came.
    Load {
        chat: &'a str,
        messages: &'a [ShownMessage],
        outside: &'a [ShownMessage],
        more: bool,
        resume: String,
        behind: bool,
    },
    /// Newer versions. Without `resume`, the position stays what it was.
    Update { chat: &'a str, messages: &'a [ShownMessage], resume: Option<String> },
    /// All chats; at first and whenever the list changes.
    Chats { chats: Vec<ShownChat> },
    /// Every 2 s. `fresh_as_of` is when the source was last known to be read to its end; `now` is the server's
    /// clock, so that a browser need not trust its own.
    Heartbeat { fresh_as_of: Option<Timestamp>, now: Timestamp },
    /// `chat` is absent where the error is not about one.
    Error { code: &'static str, message: String, chat: Option<&'a str> },
}

impl ServerFrame<'_> {
    pub fn encode(&self) -> Utf8Bytes {
        // Strings, numbers and times: it cannot fail.
        serde_json::to_string(self).unwrap_or_default().into()
    }
}

struct Browser {
    hub: Arc<Hub>,
    copy: Arc<dyn ChatCopy>,
    id: ConnectionId,
    outbox: Arc<Outbox>,
    loads: JoinSet<()>,
    /// The chats that are watched, each with its load while that is under way.
    watched: HashMap<String, tokio::task::AbortHandle>,
}

/// Serves a browser until it goes, or the stop signal.
pub async fn serve(socket: WebSocket, hub: Arc<Hub>, copy: Arc<dyn ChatCopy>, stop: Stop) {
    let outbox = Arc::new(Outbox::default());
    let id = hub.connect(outbox.clone());
    let browser = Browser { hub: hub.clone(), copy, id, outbox, loads: JoinSet::new(), watched: HashMap::new() };
    browser.run(socket, stop).await;
    hub.disconnect(id);
}

impl Browser {
    async fn run(mut self, socket: WebSocket, stop: Stop) {
        let (mut sink, mut stream) = socket.split();
        let mut heartbeats = tokio::time::interval(HEARTBEAT);
        let outbox = self.outbox.clone();
        loop {
            tokio::select! {
                said = stream.next() => match said {
                    Some(Ok(Message::Text(text))) => self.hear(&text),
                    Some(Ok(Message::Binary(_))) => self.complain("bad_frame", "frames are JSON text".into(), None),
                    Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                    Some(Ok(Message::Close(_)) | Err(_)) | None => return,
                },
                () = outbox.ready() => {
                    let (frames, reload) = outbox.take();
                    for chat in reload.into_iter().filter(|chat| self.watched.contains_key(chat)).collect::<Vec<_>>() {
                        self.watch(chat, None);
                    }
                    let written = async {
                        for frame in frames {
                            sink.feed(Message::Text(frame)).await?;
                        }
                        sink.flush().await
                    };
                    if !matches!(tokio::time::timeout(PATIENCE, written).await, Ok(Ok(()))) {
                        return;
                    }
                }
                _ = heartbeats.tick() => self.beat(),
                Some(_) = self.loads.join_next() => {}
                () = stop.cancelled() => {
                    let going = CloseFrame { code: close_code::AWAY, reason: "going away".into() };
                    let _ = tokio::time::timeout(Duration::from_secs(1), sink.send(Message::Close(Some(going)))).await;
                    return;
                }
            }
        }
    }

    fn beat(&self) {
        let beat = ServerFrame::Heartbeat { fresh_as_of: self.hub.fresh_as_of(), now: Timestamp::now() };
        self.outbox.push(About::Heartbeat, beat.encode());
    }

    fn hear(&mut self, text: &str) {
        match serde_json::from_str(text) {
            Ok(ClientFrame::Subscribe { chat, resume }) => self.subscribe(chat, resume),
            Ok(ClientFrame::Unsubscribe { chat }) => self.unwatch(&chat),
            Err(error) => self.complain("bad_frame", error.to_string(), None),
        }
    }

    fn subscribe(&mut self, chat: String, resume: Option<String>) {
        match self.hub.known(&chat) {
            Known::No => self.complain("chat_not_found", "there is no such chat".into(), Some(&chat)),
            Known::Deleted => self.complain("chat_deleted", "this chat was deleted".into(), Some(&chat)),
            Known::Yes if self.watched.len() >= MAX_SUBSCRIPTIONS && !self.watched.contains_key(&chat) => {
                let message = format!("one connection may watch {MAX_SUBSCRIPTIONS} chats");
                self.complain("too_many_subscriptions", message, Some(&chat));
            }
            Known::Yes => self.watch(chat, resume),
        }
    }

    fn watch(&mut self, chat: String, resume: Option<String>) {
        let load = bring_up_to_date(self.hub.clone(), self.copy.clone(), self.id, chat.clone(), resume);
        let handle = self.loads.spawn(load);
        if let Some(earlier) = self.watched.insert(chat, handle) {
            earlier.abort();
        }
    }

    fn unwatch(&mut self, chat: &str) {
        if let Some(load) = self.watched.remove(chat) {
            load.abort();
        }
        self.hub.unsubscribe(self.id, chat);
    }

    fn complain(&self, code: &'static str, message: String, chat: Option<&str>) {
        let about = About::Error { code, chat: chat.unwrap_or_default().to_owned() };
        self.outbox.push(about, ServerFrame::Error { code, message, chat }.encode());
    }
}
