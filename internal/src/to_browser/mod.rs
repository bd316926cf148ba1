//! One browser's connection: JSON text frames both ways.

mod frame;
mod line;
pub mod outbox;
mod upgrade;

use std::collections::{HashMap, VecDeque};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use contract::Timestamp;
use futures::StreamExt;
use platform::lifecycle::Stop;
use serde::{Deserialize, Serialize};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::error::{Error, ProtocolError};
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, WebSocketConfig};
use tokio_util::task::TaskTracker;

use crate::access::{Access, Still, Viewer};
use crate::copy::ChatCopy;
use crate::hub::{ConnectionId, Hub, Known};
use crate::load::bring_up_to_date;
use crate::receipts::Acknowledged;
use crate::resume::Token;
use crate::shown::{ShownChat, ShownMessage};

pub use frame::Frame;
pub use line::Writers;
use line::{Line, News};
use outbox::About;
use upgrade::Hearing;
pub use upgrade::{Upgrade, Upgraded};

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
const MAX_FRAME: usize = 16 << 10;
/// How much is read at once, in bytes; most of what browsers say is shorter.
const READ_AT_ONCE: usize = 256;
/// RFC 6455, section 7.4.1.
const GOING_AWAY: u16 = 1001;

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
    pub fn encode(&self) -> Frame {
        // Strings, numbers and times: it cannot fail.
        Frame::text(&serde_json::to_string(self).unwrap_or_default())
    }
}

/// What browsers are served with.
pub struct Served {
    pub hub: Arc<Hub>,
    pub copy: Arc<dyn ChatCopy>,
    pub access: Arc<Access>,
    pub receipts: Arc<Acknowledged>,
    pub writers: Writers,
    pub limits: Limits,
    /// Everybody who is connected.
    pub browsers: TaskTracker,
    pub stop: Stop,
}

impl Served {
    /// After the stop signal, until everybody has been told, or has had long enough to hear it.
    pub async fn told_everybody(&self) {
        self.stop.cancelled().await;
        self.browsers.close();
        let _ = tokio::time::timeout(GOODBYE * 2, self.browsers.wait()).await;
    }
}

/// Serves a browser until it goes, or the stop signal. This reads; what is to be written is written by `writers`, so that
/// a push to a thousand browsers wakes none of the thousand tasks.
pub async fn serve(socket: Upgraded, viewer: Arc<Viewer>, served: Arc<Served>) {
    let (line, mut stream) = socket.open(&served.writers, config()).await;
    let id = served.hub.connect(line.outbox.clone(), viewer.clone());
    let mut browser = Browser {
        served: served.clone(),
        id,
        viewer,
        line: line.clone(),
        loads: JoinSet::new(),
        watched: HashMap::new(),
        reloads: VecDeque::new(),
        reader: None,
    };
    // By reference: a future keeps what it is given twice, and there are thousands of these.
    let ended = browser.read(&mut stream).await;
    drop(browser);
    // First: of a pod that stops, thousands are to hear it at once.
    if let Ended::Because(why) = ended {
        count(reason_of(u16::from(why.code)));
        line.end(Some(Frame::close(why)), GOODBYE).await;
        return served.hub.disconnect(id);
    }
    served.hub.disconnect(id);
    match ended {
        Ended::Stuck => count("gone"),
        Ended::ByIt => {
            // Asked once more, the layer answers it.
            let _ = stream.next().await;
            line.end(None, GOODBYE).await;
        }
        Ended::Gone | Ended::Because(_) => {}
    }
}

/// The library's defaults are 64 MiB a message, and 128 KiB to read into.
fn config() -> WebSocketConfig {
    WebSocketConfig::default()
        .max_message_size(Some(MAX_FRAME))
        .max_frame_size(Some(MAX_FRAME))
        .read_buffer_size(READ_AT_ONCE)
        .write_buffer_size(0)
}

/// How a connection ended.
enum Ended {
    /// The socket is of no use any more.
    Gone,
    /// It cannot be written to.
    Stuck,
    /// The browser closed it, and is to be answered.
    ByIt,
    Because(CloseFrame),
}

/// A connection that this side ended.
fn count(reason: &'static str) {
    metrics::counter!("chat_sync_browsers_closed_total", "reason" => reason).increment(1);
}

fn reason_of(code: u16) -> &'static str {
    match code {
        why::SILENT => "silent",
        why::SIGNED_OUT => "signed_out",
        why::SLOW => "slow",
        why::IDLE => "idle",
        why::ASK_AGAIN => "ask_again",
        GOING_AWAY => "stop",
        1002 | 1007 | 1009 => "protocol",
        _ => "error",
    }
}

fn closed(code: u16, reason: &'static str) -> Ended {
    Ended::Because(CloseFrame { code: code.into(), reason: reason.into() })
}

/// What it sent is none of the protocol (RFC 6455, section 7.4.1), or the socket failed.
fn failed(error: &Error) -> Ended {
    match error {
        Error::Capacity(_) => closed(CloseCode::Size.into(), "a frame is too large"),
        Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => Ended::Gone,
        Error::Protocol(_) => closed(CloseCode::Protocol.into(), "that is no WebSocket"),
        Error::Utf8(_) => closed(CloseCode::Invalid.into(), "text is UTF-8"),
        _ => Ended::Gone,
    }
}

fn going_away() -> Ended {
    let wait = rand::random_range(0..COME_BACK.as_millis());
    Ended::Because(CloseFrame { code: CloseCode::Away, reason: format!("retry after {wait} ms").into() })
}

/// The reading half of a connection.
struct Browser {
    served: Arc<Served>,
    id: ConnectionId,
    viewer: Arc<Viewer>,
    line: Arc<Line>,
    /// Each gives the chat that it was for.
    loads: JoinSet<String>,
    /// The chats that are watched, each with its load while that is under way: a handle keeps a task's room.
    watched: HashMap<String, Option<AbortHandle>>,
    /// When chats were loaded anew because it was too slow.
    reloads: VecDeque<Instant>,
    /// What it calls itself, and when it said last what it shows.
    reader: Option<(String, Instant)>,
}

/// When something of a connection was last.
struct Last {
    word: Instant,
    ping: Instant,
    watching: Instant,
}

impl Browser {
    /// Hears until the browser goes, or is not put up with any longer.
    async fn read(&mut self, stream: &mut Hearing) -> Ended {
        let mut beats = tokio::time::interval(HEARTBEAT);
        beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let now = Instant::now();
        let mut last = Last { word: now, ping: now, watching: now };
        let (line, served) = (self.line.clone(), self.served.clone());
        let mut stopped = pin!(served.stop.cancelled());
        loop {
            tokio::select! {
                said = stream.next() => {
                    match said {
                        Some(Ok(Message::Text(text))) => self.hear(&text),
                        Some(Ok(Message::Close(_))) => return Ended::ByIt,
                        Some(Ok(Message::Binary(_))) => self.complain("bad_frame", "frames are JSON text".into(), None),
                        Some(Ok(_)) => {}
                        Some(Err(error)) => return failed(&error),
                        None => return Ended::Gone,
                    }
                    last.word = Instant::now();
                }
                news = line.news() => match news {
                    News::Gone => return Ended::Stuck,
                    News::Stale(_) if self.is_too_slow() => {
                        return closed(why::SLOW, "it is too slow for what it watches");
                    }
                    News::Stale(chats) => {
                        for chat in chats.into_iter().filter(|chat| self.watched.contains_key(chat)).collect::<Vec<_>>() {
                            self.watch(chat, None);
                        }
                    }
                },
                Some(ended) = self.loads.join_next() => match ended {
                    Ok(chat) => self.forget_load(&chat),
                    // Its subscription would wait for ever: the browser begins again.
                    Err(error) if error.is_panic() => return closed(CloseCode::Error.into(), "a load failed"),
                    Err(_) => {}
                },
                _ = beats.tick() => if let Some(ended) = self.beat(&mut last) {
                    return ended;
                },
                () = &mut stopped => return going_away(),
            }
        }
    }

    /// Tells how old the copy is, and looks whether the browser is still to be put up with.
    fn beat(&self, last: &mut Last) -> Option<Ended> {
        let (now, limits) = (Instant::now(), &self.served.limits);
        if !self.watched.is_empty() {
            last.watching = now;
        }
        match self.served.access.still_admits(&self.viewer) {
            Still::AskAgain => return Some(closed(why::ASK_AGAIN, "connect again")),
            Still::No => return Some(closed(why::SIGNED_OUT, "the token is not valid any more")),
            Still::Yes if self.line.stuck() > limits.write => return Some(Ended::Stuck),
            Still::Yes if now - last.word > limits.silent => return Some(closed(why::SILENT, "it answers no pings")),
            Still::Yes if now - last.watching > limits.idle => return Some(closed(why::IDLE, "it watches nothing")),
            Still::Yes => {}
        }
        self.line.outbox.count();
        if now - last.ping >= limits.ping {
            last.ping = now;
            self.line.outbox.push(Arc::new(About::Ping), Frame::ping());
        }
        let beat = ServerFrame::Heartbeat { fresh_as_of: self.served.hub.fresh_as_of(), now: Timestamp::now() };
        self.line.outbox.push(Arc::new(About::Heartbeat), beat.encode());
        None
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
        match self.served.hub.known(&chat, &self.viewer) {
            Known::No => self.complain("chat_not_found", "there is no such chat".into(), Some(&chat)),
            Known::NotHere => self.complain("chat_not_here", "this copy has no such chat".into(), Some(&chat)),
            Known::Deleted => self.complain("chat_deleted", "this chat was deleted".into(), Some(&chat)),
            Known::Yes if self.watched.len() >= MAX_SUBSCRIPTIONS && !self.watched.contains_key(&chat) => {
                let message = format!("one connection may watch {MAX_SUBSCRIPTIONS} chats");
                self.complain("too_many_subscriptions", message, Some(&chat));
            }
            Known::Yes => self.watch(chat, resume),
        }
    }

    fn watch(&mut self, chat: String, resume: Option<String>) {
        let (hub, copy, id, of) = (self.served.hub.clone(), self.served.copy.clone(), self.id, chat.clone());
        let handle = self.loads.spawn(async move {
            bring_up_to_date(hub, copy, id, &of, resume).await;
            of
        });
        if let Some(Some(earlier)) = self.watched.insert(chat, Some(handle)) {
            earlier.abort();
        }
    }

    /// One that has ended; another of the same chat may be under way.
    fn forget_load(&mut self, chat: &str) {
        if let Some(load) = self.watched.get_mut(chat) {
            load.take_if(|load| load.is_finished());
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
            if let Some(positions) = Token::decode(token).and_then(|token| self.served.hub.positions(chat, &token)) {
                self.served.receipts.take_note(chat, reader, &positions);
            }
        }
    }

    fn unwatch(&mut self, chat: &str) {
        if let Some(Some(load)) = self.watched.remove(chat) {
            load.abort();
        }
        self.served.hub.unsubscribe(self.id, chat);
    }

    fn complain(&self, code: &'static str, message: String, chat: Option<&str>) {
        let about = About::Error { code, chat: chat.unwrap_or_default().to_owned() };
        self.line.outbox.push(Arc::new(about), ServerFrame::Error { code, message, chat }.encode());
    }
}
