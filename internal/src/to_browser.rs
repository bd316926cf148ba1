//! One browser's connection: JSON text frames both ways.

use std::collections::{BTreeSet, HashMap};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::ws::{CloseFrame, Message, Utf8Bytes, WebSocket, close_code};
use contract::Timestamp;
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt, StreamExt};
use platform::lifecycle::Stop;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::copy::ChatCopy;
use crate::hub::{ConnectionId, Hub, Known};
use crate::load::bring_up_to_date;
use crate::outbox::{About, Outbox};
use crate::shown::{ShownChat, ShownMessage};

/// How often a browser is told how old its copy is.
const HEARTBEAT: Duration = Duration::from_secs(2);
/// How long a closing frame may take.
const GOODBYE: Duration = Duration::from_secs(1);
/// Within how long browsers of a pod that stops come back, each at its own moment: not all to the next pod at once.
const COME_BACK: Duration = Duration::from_secs(5);
/// Why the server closes, besides 1001 when it stops.
const SILENT: u16 = 4000;
/// How many chats one connection may watch at once.
const MAX_SUBSCRIPTIONS: usize = 100;
/// The greatest frame that is read from a browser, in bytes.
pub const MAX_FRAME: usize = 16 << 10;

/// How long a browser is put up with.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// How often it is pinged; browsers answer by themselves.
    pub ping: Duration,
    /// Without a word from it for so long, answers to pings included, it is given up: its machine may be gone.
    pub silent: Duration,
    /// How long one write may take.
    pub write: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { ping: Duration::from_secs(20), silent: Duration::from_secs(40), write: Duration::from_secs(20) }
    }
}

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
pub async fn serve(socket: WebSocket, hub: Arc<Hub>, copy: Arc<dyn ChatCopy>, limits: Limits, stop: Stop) {
    let outbox = Arc::new(Outbox::default());
    let id = hub.connect(outbox.clone());
    let (sink, stream) = socket.split();
    let (stale, reload) = mpsc::channel(1);
    let (close, closing) = mpsc::channel(1);
    let mut writing = JoinSet::new();
    let writer = Writer { sink, hub: hub.clone(), outbox: outbox.clone(), stale, limits };
    writing.spawn(writer.write(closing, stop));
    let browser = Browser { hub: hub.clone(), copy, id, outbox, loads: JoinSet::new(), watched: HashMap::new() };
    let ended = tokio::select! {
        ended = browser.read(stream, reload, limits.silent) => ended,
        _ = writing.join_next() => None,
    };
    hub.disconnect(id);
    if let Some(why) = ended
        && close.send(why).await.is_ok()
    {
        let _ = writing.join_next().await;
    }
}

/// The writing side of a connection.
struct Writer {
    sink: SplitSink<WebSocket, Message>,
    hub: Arc<Hub>,
    outbox: Arc<Outbox>,
    stale: mpsc::Sender<BTreeSet<String>>,
    limits: Limits,
}

impl Writer {
    /// Writes what waits, heartbeats and pings; ends with the connection, with `closing`, or with the stop signal.
    async fn write(mut self, mut closing: mpsc::Receiver<CloseFrame>, stop: Stop) {
        let mut heartbeats = tokio::time::interval(HEARTBEAT);
        let mut pings = tokio::time::interval_at(Instant::now() + self.limits.ping, self.limits.ping);
        let mut stopped = pin!(stop.cancelled());
        loop {
            let written = tokio::select! {
                () = self.outbox.ready() => self.write_what_waits().await,
                _ = heartbeats.tick() => {
                    let beat = ServerFrame::Heartbeat { fresh_as_of: self.hub.fresh_as_of(), now: Timestamp::now() };
                    self.outbox.push(Arc::new(About::Heartbeat), beat.encode());
                    Ok(())
                }
                _ = pings.tick() => self.send(Message::Ping(Bytes::new()), self.limits.write).await,
                Some(why) = closing.recv() => return self.close(why).await,
                () = &mut stopped => return self.close(going_away()).await,
            };
            if written.is_err() {
                return;
            }
        }
    }

    async fn write_what_waits(&mut self) -> Result<(), Gone> {
        let (frames, reload) = self.outbox.take();
        let written = async {
            for frame in frames {
                self.sink.feed(Message::Text(frame)).await?;
            }
            self.sink.flush().await
        };
        tokio::time::timeout(self.limits.write, written).await.map_err(|_| Gone)?.map_err(|_| Gone)?;
        if reload.is_empty() {
            return Ok(());
        }
        // After what was written: a browser that is slow must not have the store read again and again.
        self.stale.send(reload).await.map_err(|_| Gone)
    }

    async fn send(&mut self, message: Message, limit: Duration) -> Result<(), Gone> {
        tokio::time::timeout(limit, self.sink.send(message)).await.map_err(|_| Gone)?.map_err(|_| Gone)
    }

    async fn close(&mut self, why: CloseFrame) {
        let _ = self.send(Message::Close(Some(why)), GOODBYE).await;
    }
}

/// The browser cannot be written to any more.
struct Gone;

fn going_away() -> CloseFrame {
    let wait = rand::random_range(0..COME_BACK.as_millis());
    CloseFrame { code: close_code::AWAY, reason: format!("retry after {wait} ms").into() }
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
    /// Hears until the browser goes, or until it was silent for so long: then it gives what to say to it. `reload` brings
    /// chats of which updates were dropped.
    async fn read(
        mut self,
        mut stream: SplitStream<WebSocket>,
        mut reload: mpsc::Receiver<BTreeSet<String>>,
        silent: Duration,
    ) -> Option<CloseFrame> {
        let mut given_up = pin!(tokio::time::sleep(silent));
        loop {
            tokio::select! {
                said = stream.next() => {
                    match said {
                        Some(Ok(Message::Text(text))) => self.hear(&text),
                        Some(Ok(Message::Binary(_))) => self.complain("bad_frame", "frames are JSON text".into(), None),
                        Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                        Some(Ok(Message::Close(_)) | Err(_)) | None => return None,
                    }
                    given_up.as_mut().reset(Instant::now() + silent);
                }
                () = &mut given_up => {
                    return Some(CloseFrame { code: SILENT, reason: "it answers no pings".into() });
                }
                Some(chats) = reload.recv() => {
                    for chat in chats.into_iter().filter(|chat| self.watched.contains_key(chat)).collect::<Vec<_>>() {
                        self.watch(chat, None);
                    }
                }
                Some(ended) = self.loads.join_next() => if ended.is_err_and(|error| error.is_panic()) {
                    // Its subscription would wait for ever: the browser begins again.
                    return Some(CloseFrame { code: close_code::ERROR, reason: "a load failed".into() });
                },
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
