//! One browser's connection: JSON text frames both ways.

use std::collections::{BTreeSet, HashMap};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::ws::{CloseFrame, Message, Utf8Bytes, WebSocket, close_code};
use contract::Timestamp;
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt, StreamExt};
use platform::lifecycle::Stop;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
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
    /// All chats; at first and whenever the list changes. Not `complete` while the store has not been read yet: a chat
    /// that is not in it may be there all the same.
    Chats { chats: Vec<ShownChat>, complete: bool },
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

/// Serves a browser until it goes, or the stop signal. One task reads and one writes: what is pushed to a thousand
/// browsers wakes the thousand that write only.
pub async fn serve(socket: WebSocket, hub: Arc<Hub>, copy: Arc<dyn ChatCopy>, stop: Stop) {
    let outbox = Arc::new(Outbox::default());
    let id = hub.connect(outbox.clone());
    let (sink, stream) = socket.split();
    let (stale, reload) = mpsc::channel(1);
    let mut writing = JoinSet::new();
    writing.spawn(write(sink, hub.clone(), outbox.clone(), stale, stop));
    let browser = Browser { hub: hub.clone(), copy, id, outbox, loads: JoinSet::new(), watched: HashMap::new() };
    tokio::select! {
        () = browser.read(stream, reload) => {}
        _ = writing.join_next() => {}
    }
    hub.disconnect(id);
}

/// Writes what waits, and the heartbeats; ends with the connection, or with the stop signal.
async fn write(
    mut sink: SplitSink<WebSocket, Message>,
    hub: Arc<Hub>,
    outbox: Arc<Outbox>,
    stale: mpsc::Sender<BTreeSet<String>>,
    stop: Stop,
) {
    let mut heartbeats = tokio::time::interval(HEARTBEAT);
    let mut stopped = pin!(stop.cancelled());
    loop {
        tokio::select! {
            () = outbox.ready() => {
                let (frames, reload) = outbox.take();
                let written = async {
                    for frame in frames {
                        sink.feed(Message::Text(frame)).await?;
                    }
                    sink.flush().await
                };
                if !matches!(tokio::time::timeout(PATIENCE, written).await, Ok(Ok(()))) {
                    return;
                }
                // After what was written: a browser that is slow must not have the store read again and again.
                if !reload.is_empty() && stale.send(reload).await.is_err() {
                    return;
                }
            }
            _ = heartbeats.tick() => {
                let beat = ServerFrame::Heartbeat { fresh_as_of: hub.fresh_as_of(), now: Timestamp::now() };
                outbox.push(Arc::new(About::Heartbeat), beat.encode());
            }
            () = &mut stopped => {
                let going = CloseFrame { code: close_code::AWAY, reason: "going away".into() };
                let _ = tokio::time::timeout(Duration::from_secs(1), sink.send(Message::Close(Some(going)))).await;
                return;
            }
        }
    }
}

/// The reading side of a connection.
struct Browser {
    hub: Arc<Hub>,
    copy: Arc<dyn ChatCopy>,
    id: ConnectionId,
    outbox: Arc<Outbox>,
    loads: JoinSet<()>,
    /// The chats that are watched, each with its load while that is under way.
    watched: HashMap<String, tokio::task::AbortHandle>,
}

impl Browser {
    /// Hears until the browser goes; `reload` brings chats of which updates were dropped.
    async fn read(mut self, mut stream: SplitStream<WebSocket>, mut reload: mpsc::Receiver<BTreeSet<String>>) {
        loop {
            tokio::select! {
                said = stream.next() => match said {
                    Some(Ok(Message::Text(text))) => self.hear(&text),
                    Some(Ok(Message::Binary(_))) => self.complain("bad_frame", "frames are JSON text".into(), None),
                    Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                    Some(Ok(Message::Close(_)) | Err(_)) | None => return,
                },
                Some(chats) = reload.recv() => {
                    for chat in chats.into_iter().filter(|chat| self.watched.contains_key(chat)).collect::<Vec<_>>() {
                        self.watch(chat, None);
                    }
                }
                Some(_) = self.loads.join_next() => {}
            }
        }
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
        self.outbox.push(Arc::new(about), ServerFrame::Error { code, message, chat }.encode());
    }
}
