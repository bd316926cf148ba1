//! One browser's connection: JSON text frames both ways.

use std::collections::{BTreeSet, HashMap, VecDeque};
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

use crate::access::{Access, Still, Viewer};
use crate::copy::ChatCopy;
use crate::hub::{ConnectionId, Hub, Known};
use crate::load::bring_up_to_date;
use crate::outbox::{About, Outbox};
use crate::receipts::Acknowledged;
use crate::resume::Token;
use crate::shown::{ShownChat, ShownMessage};

/// How often a browser is told how old its copy is.
const HEARTBEAT: Duration = Duration::from_secs(2);
/// How long a closing frame may take.
const GOODBYE: Duration = Duration::from_secs(1);
/// Within how long browsers of a pod that stops come back, each at its own moment: not all to the next pod at once.
const COME_BACK: Duration = Duration::from_secs(5);
/// How often within a minute chats may be loaded anew because a browser was too slow for their updates.
const MAX_RELOADS: usize = 20;
const RELOADS_WITHIN: Duration = Duration::from_secs(60);

/// Why the server closes, besides 1001 when it stops and 1011 when it failed.
pub mod why {
    /// No word for [`super::Limits::silent`].
    pub const SILENT: u16 = 4000;
    /// Its token is not valid any more.
    pub const SIGNED_OUT: u16 = 4001;
    /// It does not keep up with what it watches.
    pub const SLOW: u16 = 4002;
    /// It watched nothing for [`super::Limits::idle`].
    pub const IDLE: u16 = 4003;
    /// Whoever let it in is to be asked again: it connects anew.
    pub const ASK_AGAIN: u16 = 4004;
}
/// How many chats one connection may watch at once.
const MAX_SUBSCRIPTIONS: usize = 100;
/// How often a page may say what it shows; half of what is asked of it.
const SHOWN_EVERY: Duration = Duration::from_millis(500);
/// How long a page's name for itself may be, in bytes.
const MAX_READER: usize = 64;
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
    /// How long it may watch nothing.
    pub idle: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            ping: Duration::from_secs(20),
            silent: Duration::from_secs(40),
            write: Duration::from_secs(20),
            idle: Duration::from_secs(600),
        }
    }
}

/// What a browser says.
#[derive(Debug, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
enum ClientFrame {
    Subscribe {
        chat: String,
        resume: Option<String>,
    },
    Unsubscribe {
        chat: String,
    },
    /// It has shown everything of these chats up to these positions, as they came with frames. `reader` names a page
    /// for its life; where people sign in, their names count.
    Shown {
        reader: String,
        positions: HashMap<String, String>,
    },
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

/// What browsers are served with.
#[derive(Clone)]
pub struct Served {
    pub hub: Arc<Hub>,
    pub copy: Arc<dyn ChatCopy>,
    pub access: Arc<Access>,
    pub receipts: Arc<Acknowledged>,
    pub limits: Limits,
    pub stop: Stop,
}

/// Serves a browser until it goes, or the stop signal. One task reads and one writes: what is pushed to a thousand
/// browsers wakes the thousand that write only.
pub async fn serve(socket: WebSocket, viewer: Viewer, served: Served) {
    let Served { hub, copy, access, receipts, limits, stop } = served;
    let (outbox, viewer) = (Arc::new(Outbox::default()), Arc::new(viewer));
    let id = hub.connect(outbox.clone(), viewer.clone());
    let (sink, stream) = socket.split();
    let (stale, reload) = mpsc::channel(1);
    let (close, closing) = mpsc::channel(1);
    let mut writing = JoinSet::new();
    let admitted = Admitted { access, viewer: viewer.clone() };
    let writer = Writer { sink, hub: hub.clone(), outbox: outbox.clone(), stale, limits, admitted };
    writing.spawn(writer.write(closing, stop));
    let browser = Browser {
        hub: hub.clone(),
        copy,
        receipts,
        id,
        viewer,
        outbox,
        loads: JoinSet::new(),
        watched: HashMap::new(),
        reloads: VecDeque::new(),
        reader: None,
    };
    let ended = tokio::select! {
        ended = browser.read(stream, reload, limits) => ended,
        _ = writing.join_next() => None,
    };
    hub.disconnect(id);
    if let Some(why) = ended
        && close.send(why).await.is_ok()
    {
        let _ = writing.join_next().await;
    }
}

/// Somebody who was admitted, and what is asked whether it still is.
struct Admitted {
    access: Arc<Access>,
    viewer: Arc<Viewer>,
}

/// The writing side of a connection.
struct Writer {
    sink: SplitSink<WebSocket, Message>,
    hub: Arc<Hub>,
    outbox: Arc<Outbox>,
    stale: mpsc::Sender<BTreeSet<String>>,
    limits: Limits,
    admitted: Admitted,
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
                    match self.admitted.access.still_admits(&self.admitted.viewer) {
                        Still::Yes => {}
                        Still::AskAgain => return self.close(closed(why::ASK_AGAIN, "connect again")).await,
                        Still::No => {
                            return self.close(closed(why::SIGNED_OUT, "the token is not valid any more")).await;
                        }
                    }
                    let beat = ServerFrame::Heartbeat { fresh_as_of: self.hub.fresh_as_of(), now: Timestamp::now() };
                    self.outbox.push(Arc::new(About::Heartbeat), beat.encode());
                    Ok(())
                }
                _ = pings.tick() => self.send(Message::Ping(Bytes::new()), self.limits.write).await,
                Some(why) = closing.recv() => return self.close(why).await,
                () = &mut stopped => return self.close(going_away()).await,
            };
            if written.is_err() {
                return count("gone");
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
        count(match why.code {
            why::SILENT => "silent",
            why::SIGNED_OUT => "signed_out",
            why::SLOW => "slow",
            why::IDLE => "idle",
            why::ASK_AGAIN => "ask_again",
            close_code::AWAY => "stop",
            _ => "error",
        });
        let _ = self.send(Message::Close(Some(why)), GOODBYE).await;
    }
}

/// The browser cannot be written to any more.
struct Gone;

/// A connection that this side ended.
fn count(reason: &'static str) {
    metrics::counter!("chat_sync_browsers_closed_total", "reason" => reason).increment(1);
}

fn closed(code: u16, reason: &'static str) -> CloseFrame {
    CloseFrame { code, reason: reason.into() }
}

fn going_away() -> CloseFrame {
    let wait = rand::random_range(0..COME_BACK.as_millis());
    CloseFrame { code: close_code::AWAY, reason: format!("retry after {wait} ms").into() }
}

/// The reading side of a connection.
struct Browser {
    hub: Arc<Hub>,
    copy: Arc<dyn ChatCopy>,
    receipts: Arc<Acknowledged>,
    id: ConnectionId,
    viewer: Arc<Viewer>,
    outbox: Arc<Outbox>,
    loads: JoinSet<()>,
    /// The chats that are watched, each with its load while that is under way.
    watched: HashMap<String, tokio::task::AbortHandle>,
    /// When chats were loaded anew because it was too slow.
    reloads: VecDeque<Instant>,
    /// What it calls itself, and when it said last what it shows.
    reader: Option<(String, Instant)>,
}

impl Browser {
    /// Hears until the browser goes, or is not put up with any longer: then it gives what to say to it. `reload` brings
    /// chats of which updates were dropped.
    async fn read(
        mut self,
        mut stream: SplitStream<WebSocket>,
        mut reload: mpsc::Receiver<BTreeSet<String>>,
        limits: Limits,
    ) -> Option<CloseFrame> {
        let mut given_up = pin!(tokio::time::sleep(limits.silent));
        let mut idle = pin!(tokio::time::sleep(limits.idle));
        loop {
            if !self.watched.is_empty() {
                idle.as_mut().reset(Instant::now() + limits.idle);
            }
            tokio::select! {
                said = stream.next() => {
                    match said {
                        Some(Ok(Message::Text(text))) => self.hear(&text),
                        Some(Ok(Message::Binary(_))) => self.complain("bad_frame", "frames are JSON text".into(), None),
                        Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                        Some(Ok(Message::Close(_)) | Err(_)) | None => return None,
                    }
                    given_up.as_mut().reset(Instant::now() + limits.silent);
                }
                () = &mut given_up => return Some(closed(why::SILENT, "it answers no pings")),
                () = &mut idle, if self.watched.is_empty() => return Some(closed(why::IDLE, "it watches nothing")),
                Some(chats) = reload.recv() => {
                    if self.is_too_slow() {
                        return Some(closed(why::SLOW, "it is too slow for what it watches"));
                    }
                    for chat in chats.into_iter().filter(|chat| self.watched.contains_key(chat)).collect::<Vec<_>>() {
                        self.watch(chat, None);
                    }
                }
                Some(ended) = self.loads.join_next() => if ended.is_err_and(|error| error.is_panic()) {
                    // Its subscription would wait for ever: the browser begins again.
                    return Some(closed(close_code::ERROR, "a load failed"));
                },
            }
        }
    }

    /// Whether one more reload is one too many.
    fn is_too_slow(&mut self) -> bool {
        let now = Instant::now();
        self.reloads.push_back(now);
        while self.reloads.front().is_some_and(|at| now - *at > RELOADS_WITHIN) {
            self.reloads.pop_front();
        }
        self.reloads.len() > MAX_RELOADS
    }

    fn hear(&mut self, text: &str) {
        match serde_json::from_str(text) {
            Ok(ClientFrame::Subscribe { chat, resume }) => self.subscribe(chat, resume),
            Ok(ClientFrame::Unsubscribe { chat }) => self.unwatch(&chat),
            Ok(ClientFrame::Shown { reader, .. }) if reader.is_empty() || reader.len() > MAX_READER => {
                self.complain("bad_frame", format!("reader has 1 to {MAX_READER} bytes"), None);
            }
            Ok(ClientFrame::Shown { reader, positions }) => self.shown(&reader, &positions),
            Err(error) => self.complain("bad_frame", error.to_string(), None),
        }
    }

    fn subscribe(&mut self, chat: String, resume: Option<String>) {
        match self.hub.known(&chat, &self.viewer) {
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

    /// Positions that are none, or of chats that it does not watch, say nothing; nor does what comes too soon, or under
    /// another name than before.
    fn shown(&mut self, reader: &str, positions: &HashMap<String, String>) {
        let now = Instant::now();
        if self.reader.as_ref().is_some_and(|(known, last)| known != reader || now - *last < SHOWN_EVERY) {
            return;
        }
        self.reader = Some((reader.to_owned(), now));
        let reader = if self.viewer.name.is_empty() { reader } else { &self.viewer.name };
        for (chat, token) in positions.iter().filter(|(chat, _)| self.watched.contains_key(*chat)) {
            if let Some(positions) = Token::decode(token).and_then(|token| self.hub.positions(chat, &token)) {
                self.receipts.take_note(chat, reader, &positions);
            }
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
