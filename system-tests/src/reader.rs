//! A WebSocket client that behaves as the page does, and remembers if anything went backwards.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use contract::{Timestamp, Version};
use futures::{SinkExt, StreamExt};
use internal::shown::ShownMessage;
use platform::eventually;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio_tungstenite::connect_async;
use tokio_tungstenite::tungstenite::Message;

/// Without a word for so long a connection is lost: the page's rule.
const SILENCE: Duration = Duration::from_secs(5);

/// A version that a frame brought.
#[derive(Debug, Clone)]
pub struct Heard {
    pub at: Timestamp,
    /// `load` or `update`; `page` is what was fetched by scrolling.
    pub frame: &'static str,
    pub chat: String,
    pub message: String,
    pub version: Version,
}

impl Heard {
    /// Of which message.
    pub fn name(&self) -> String {
        format!("{}/{}", self.chat, self.message)
    }
}

impl std::fmt::Display for Heard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {} {} {}", self.at, self.frame, self.name(), self.version)
    }
}

/// What a reader knows.
#[derive(Debug, Default, Clone)]
pub struct Screen {
    /// By chat, by message.
    pub messages: BTreeMap<String, BTreeMap<String, ShownMessage>>,
    /// Titles by chat, as last told.
    pub chats: BTreeMap<String, Option<String>>,
    /// Every update that brought an older version than was shown before, with all that was heard of its message.
    /// Merging hides them from a screen; they are counted all the same.
    pub backwards: Vec<String>,
    /// Everything that it was ever told of messages, in order.
    pub heard: Vec<Heard>,
    pub heartbeats: Vec<Value>,
    pub errors: Vec<Value>,
    pub loads: u64,
    /// What became of its last try to connect, and when it was last told anything.
    connection: String,
    last_word: Option<Timestamp>,
    /// By chat and message, the newest version that was told; since it came to this region, where it goes from one to another.
    told: BTreeMap<(String, String), Version>,
    resume: BTreeMap<String, String>,
    behind: BTreeSet<String>,
}

/// Watches every chat that there is, reconnects by itself, resumes.
pub struct Reader {
    screen: Arc<Mutex<Screen>>,
    address: String,
    task: JoinHandle<()>,
}

impl Reader {
    pub fn watch(address: &str) -> Self {
        Self::begin(vec![address.to_owned()], None, false)
    }

    /// Watches only this chat.
    pub fn watch_chat(address: &str, chat: &str) -> Self {
        Self::begin(vec![address.to_owned()], Some(chat.to_owned()), false)
    }

    /// Watches only this chat, and goes to the next of these pods whenever its connection ends.
    pub fn watch_at_any(pods: Vec<String>, chat: &str) -> Self {
        Self::begin(pods, Some(chat.to_owned()), false)
    }

    /// The same with pods of different regions: one may be behind what another has shown, and the page merges that (V3).
    pub fn watch_in_any_region(pods: Vec<String>, chat: &str) -> Self {
        Self::begin(pods, Some(chat.to_owned()), true)
    }

    fn begin(pods: Vec<String>, only: Option<String>, regions: bool) -> Self {
        let screen = Arc::new(Mutex::new(Screen::default()));
        let address = pods[0].clone();
        let task = tokio::spawn(follow(pods, only, regions, screen.clone()));
        Self { screen, address, task }
    }

    /// What is on the screen now.
    pub fn screen(&self) -> Screen {
        self.screen.lock().expect("the screen").clone()
    }

    /// How many loads it got, of all chats.
    pub fn loads(&self) -> u64 {
        self.screen.lock().expect("the screen").loads
    }

    /// How it is connected, for people.
    pub fn state(&self) -> String {
        let screen = self.screen();
        let word = screen.last_word.map(|at| Timestamp::now().since(at));
        let (chats, complete, heartbeat) = (screen.chats.len(), screen.resume.len(), screen.heartbeats.last());
        format!("{}; last word {word:?} ago; {complete} of {chats} chats complete; {heartbeat:?}", screen.connection)
    }

    /// How many chats it has as whole as the store and the log have them: a load that lacks something is followed by another.
    pub fn complete(&self) -> usize {
        self.screen.lock().expect("the screen").resume.len()
    }

    /// The text of a message, if it is on the screen: `Some(None)` when it was deleted.
    pub fn text(&self, chat: &str, message: &str) -> Option<Option<String>> {
        let screen = self.screen.lock().expect("the screen");
        Some(screen.messages.get(chat)?.get(message)?.text.clone())
    }

    /// Fetches what lies before the loads, as a page does that is scrolled to its top.
    pub async fn scroll_to_the_beginning(&self) {
        let chats: Vec<String> = self.screen().messages.into_keys().collect();
        for chat in chats {
            let mut before: Option<String> = None;
            loop {
                let mut url = format!("http://{}/api/chats/{chat}/messages?limit=200", self.address);
                url.extend(before.iter().flat_map(|before| ["&before=", before]));
                // The store may know the chat, or the message, a moment later than the screen.
                let page = eventually!(page(&url).await, "{url} is answered");
                let messages: Vec<ShownMessage> = serde_json::from_value(page["messages"].clone()).expect("messages");
                before = messages.first().map(|oldest| oldest.id.clone());
                // What is read back from the store may be behind the screen: that is no step backwards.
                self.screen.lock().expect("the screen").merge(&chat, messages, "page");
                if page["more"] != true {
                    break;
                }
            }
        }
    }
}

async fn page(url: &str) -> Option<Value> {
    let answer = crate::http::get(url).await.ok()?;
    if answer.status().is_success() { answer.json().await.ok() } else { None }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Screen {
    fn merge(&mut self, chat: &str, messages: Vec<ShownMessage>, frame: &'static str) {
        let known = self.messages.entry(chat.to_owned()).or_default();
        for message in messages {
            let (of, id, version) = (chat.to_owned(), message.id.clone(), message.version.clone());
            self.heard.push(Heard { at: Timestamp::now(), frame, chat: of, message: id, version });
            let told =
                self.told.entry((chat.to_owned(), message.id.clone())).or_insert_with(|| message.version.clone());
            if *told > message.version && frame == "update" {
                let name = format!("{chat}/{}", message.id);
                let before = self.heard.iter().filter(|heard| heard.name() == name);
                self.backwards.push(before.map(Heard::to_string).collect::<Vec<_>>().join("; "));
            }
            if *told < message.version {
                told.clone_from(&message.version);
            }
            if known.get(&message.id).is_none_or(|shown| shown.version <= message.version) {
                known.insert(message.id.clone(), message);
            }
        }
    }

    /// Takes a frame; gives the chats to subscribe to.
    fn hear(&mut self, frame: Value) -> Vec<String> {
        self.last_word = Some(Timestamp::now());
        let chat = frame["chat"].as_str().unwrap_or_default().to_owned();
        let messages = || serde_json::from_value(frame["messages"].clone()).expect("messages");
        let resume = || frame["resume"].as_str().unwrap_or_default().to_owned();
        match frame["type"].as_str() {
            Some("chats") => {
                let chats = frame["chats"].as_array().expect("chats").iter();
                let titles = chats.map(|chat| {
                    (chat["id"].as_str().expect("an id").to_owned(), chat["title"].as_str().map(str::to_owned))
                });
                self.chats = titles.collect();
                return self.chats.keys().cloned().collect();
            }
            Some("load") => {
                self.loads += 1;
                // A load comes from the store and the ring: it may repeat older rows than were pushed.
                self.merge(&chat, messages(), "load");
                let outside = serde_json::from_value(frame["outside"].clone()).expect("messages");
                self.merge(&chat, outside, "load");
                if frame["behind"] == true {
                    self.behind.insert(chat.clone());
                    self.resume.remove(&chat);
                } else {
                    self.behind.remove(&chat);
                    self.resume.insert(chat, resume());
                }
            }
            Some("update") => {
                self.merge(&chat, messages(), "update");
                if frame["resume"].is_string() && !self.behind.contains(&chat) && self.resume.contains_key(&chat) {
                    self.resume.insert(chat, resume());
                }
            }
            Some("heartbeat") => self.heartbeats.push(frame),
            Some("error") => self.errors.push(frame),
            other => panic!("a frame of no known type: {other:?}"),
        }
        Vec::new()
    }
}

async fn follow(pods: Vec<String>, only: Option<String>, regions: bool, screen: Arc<Mutex<Screen>>) {
    for address in pods.iter().cycle() {
        if regions {
            screen.lock().expect("the screen").told.clear();
        }
        connection(address, only.as_deref(), &screen).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// One connection, until it ends.
async fn connection(address: &str, only: Option<&str>, screen: &Mutex<Screen>) {
    let note = |how: String| screen.lock().expect("the screen").connection = format!("{how}, {}", Timestamp::now());
    note(format!("connects to {address}"));
    // Whoever takes the call and says nothing is lost too.
    let answer = tokio::time::timeout(SILENCE, connect_async(format!("ws://{address}/ws"))).await;
    let mut socket = match answer {
        Ok(Ok((socket, _))) => socket,
        Ok(Err(error)) => return note(format!("refused: {error}")),
        Err(silence) => return note(format!("no answer: {silence}")),
    };
    note("connected".to_owned());
    let mut subscribed = BTreeSet::new();
    while let Ok(Some(Ok(message))) = tokio::time::timeout(SILENCE, socket.next()).await {
        let Message::Text(text) = message else { continue };
        let frame = serde_json::from_str(&text).expect("JSON");
        let chats = screen.lock().expect("the screen").hear(frame);
        for chat in chats.into_iter().filter(|chat| only.is_none_or(|only| only == chat)) {
            if !subscribed.insert(chat.clone()) {
                continue;
            }
            let resume = screen.lock().expect("the screen").resume.get(&chat).cloned();
            let frame = json!({ "type": "subscribe", "chat": chat, "resume": resume });
            if socket.send(Message::text(frame.to_string())).await.is_err() {
                return;
            }
        }
    }
}
