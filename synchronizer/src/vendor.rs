//! The simulated vendor as a source, over its REST API.

use std::time::Duration;

use async_trait::async_trait;
use reqwest::{Client, Response, StatusCode, header};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use crate::config::Settings;
use crate::source::{ItemKind, ListCursor, Listing, Outcome, Page, Source};

/// How long an answer may take beyond the wait that was asked for.
const PATIENCE: Duration = Duration::from_secs(10);
/// What is waited where the vendor says 429 but not how long.
const DEFAULT_RETRY_AFTER: Duration = Duration::from_secs(5);
/// The longest Retry-After that is believed.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(600);

/// The vendor's API.
pub struct Vendor {
    client: Client,
    base: reqwest::Url,
    wait: Duration,
    limit: u32,
}

#[derive(Deserialize)]
struct Feed {
    generation: u32,
    changes: Vec<Box<RawValue>>,
    next: String,
    more: bool,
}

#[derive(Deserialize)]
struct Chats {
    generation: u32,
    chats: Vec<Box<RawValue>>,
}

#[derive(Deserialize)]
struct Messages {
    generation: u32,
    messages: Vec<Box<RawValue>>,
    more: bool,
}

#[derive(Deserialize)]
struct Id {
    id: String,
}

impl Vendor {
    /// # Errors
    /// If the URL cannot be read.
    pub fn new(settings: &Settings) -> anyhow::Result<Self> {
        let base = reqwest::Url::parse(&settings.source_url)
            .map_err(|error| anyhow::anyhow!("CHAT_SYNC_SOURCE_URL: {error}: {}", settings.source_url))?;
        let client = Client::builder().connect_timeout(Duration::from_secs(3)).tcp_nodelay(true).build()?;
        Ok(Self { client, base, wait: settings.poll_wait, limit: settings.poll_limit })
    }

    async fn get<T: DeserializeOwned>(
        &self,
        path: &[&str],
        query: &[(&str, String)],
        patience: Duration,
    ) -> Outcome<T> {
        let mut url = self.base.clone();
        match url.path_segments_mut() {
            Ok(mut segments) => drop(segments.pop_if_empty().push("api").extend(path)),
            Err(()) => return Outcome::Unavailable("the source's URL cannot have a path".into()),
        }
        let request = self.client.get(url).query(query).timeout(patience);
        match request.send().await {
            Ok(response) => read(response).await,
            Err(error) => Outcome::Unavailable(chain(&error)),
        }
    }

    async fn list_chats(&self) -> Outcome<Listing> {
        match self.get::<Chats>(&["chats"], &[], PATIENCE).await {
            Outcome::Answered(page) => {
                let ids = page.chats.iter().filter_map(|chat| serde_json::from_str::<Id>(chat.get()).ok());
                let next = ListCursor { chats: ids.map(|chat| chat.id).collect(), before: None };
                let items = page.chats.into_iter().map(|chat| (ItemKind::Chat, chat)).collect();
                Outcome::Answered(Listing { generation: page.generation, items, next: next.begun() })
            }
            other => other.without_answer(),
        }
    }

    async fn list_messages(&self, at: ListCursor) -> Outcome<Listing> {
        let Some(chat) = at.chats.last().cloned() else {
            return Outcome::Answered(Listing { generation: 0, items: Vec::new(), next: None });
        };
        let mut query = vec![("limit", self.limit.to_string())];
        query.extend(at.before.clone().map(|before| ("before", before)));
        match self.get::<Messages>(&["chats", &chat, "messages"], &query, PATIENCE).await {
            Outcome::Answered(page) => {
                let mut ids = page.messages.iter().filter_map(|message| serde_json::from_str::<Id>(message.get()).ok());
                // The oldest whose id can be read: a page may begin with a malformed item.
                let oldest = ids.next();
                let next = match oldest.filter(|_| page.more) {
                    Some(oldest) => Some(ListCursor { before: Some(oldest.id), ..at }),
                    None => at.next_chat(),
                };
                let items = page.messages.into_iter().map(|message| (ItemKind::Message, message)).collect();
                Outcome::Answered(Listing { generation: page.generation, items, next })
            }
            Outcome::Gone(why) => {
                // It vanished between the list of chats and now.
                tracing::warn!(chat.id = chat, why, "a chat cannot be listed; passing on");
                Outcome::Answered(Listing { generation: 0, items: Vec::new(), next: at.next_chat() })
            }
            other => other.without_answer(),
        }
    }
}

impl ListCursor {
    fn begun(self) -> Option<Self> {
        (!self.chats.is_empty()).then_some(self)
    }

    fn next_chat(mut self) -> Option<Self> {
        self.chats.pop();
        self.before = None;
        self.begun()
    }
}

impl<T> Outcome<T> {
    /// Passes on everything that is not an answer.
    fn without_answer<U>(self) -> Outcome<U> {
        match self {
            Self::Answered(_) => Outcome::Unavailable("an answer where none was expected".into()),
            Self::RateLimited { scope, retry_after } => Outcome::RateLimited { scope, retry_after },
            Self::CursorExpired(why) => Outcome::CursorExpired(why),
            Self::Gone(why) => Outcome::Gone(why),
            Self::Unauthorized(why) => Outcome::Unauthorized(why),
            Self::Unavailable(why) => Outcome::Unavailable(why),
        }
    }
}

#[async_trait]
impl Source for Vendor {
    async fn poll(&self, after: Option<&str>) -> Outcome<Page> {
        let mut query = vec![("wait", self.wait.as_secs().to_string()), ("limit", self.limit.to_string())];
        query.extend(after.map(|after| ("after", after.to_owned())));
        match self.get::<Feed>(&["changes"], &query, self.wait + PATIENCE).await {
            Outcome::Answered(Feed { generation, changes, next, more }) => {
                Outcome::Answered(Page { generation, items: changes, next, more })
            }
            other => other.without_answer(),
        }
    }

    async fn list(&self, at: Option<ListCursor>) -> Outcome<Listing> {
        match at {
            None => self.list_chats().await,
            Some(at) => self.list_messages(at).await,
        }
    }
}

async fn read<T: DeserializeOwned>(response: Response) -> Outcome<T> {
    let status = response.status();
    let retry_after = retry_after(&response);
    let body = match response.bytes().await {
        Ok(body) => body,
        Err(error) => return Outcome::Unavailable(chain(&error)),
    };
    if status.is_success() {
        return match serde_json::from_slice(&body) {
            Ok(answer) => Outcome::Answered(answer),
            Err(error) => Outcome::Unavailable(format!("an answer that cannot be read: {error}")),
        };
    }
    let (code, message) = problem(&body);
    let why = format!("{status}: {message}");
    match status {
        StatusCode::TOO_MANY_REQUESTS => Outcome::RateLimited { scope: code, retry_after },
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Outcome::Unauthorized(why),
        _ if code == "cursor_expired" || code == "bad_cursor" => Outcome::CursorExpired(why),
        StatusCode::NOT_FOUND | StatusCode::GONE => Outcome::Gone(why),
        _ => Outcome::Unavailable(why),
    }
}

/// The `code` and `message` of the vendor's error, or the beginning of whatever it said.
fn problem(body: &[u8]) -> (String, String) {
    #[derive(Deserialize)]
    struct Body {
        error: Problem,
    }
    #[derive(Deserialize)]
    struct Problem {
        code: String,
        message: String,
    }
    match serde_json::from_slice::<Body>(body) {
        Ok(Body { error }) => (error.code, error.message),
        Err(_) => ("unknown".into(), String::from_utf8_lossy(&body[..body.len().min(200)]).into_owned()),
    }
}

/// Retry-After in seconds; its form with a date is not used by this vendor.
fn retry_after(response: &Response) -> Duration {
    let value = response.headers().get(header::RETRY_AFTER).and_then(|value| value.to_str().ok());
    let seconds = value.and_then(|value| value.trim().parse().ok()).map(Duration::from_secs);
    seconds.unwrap_or(DEFAULT_RETRY_AFTER).min(MAX_RETRY_AFTER)
}

/// The error with its causes, without the URL: that may hold a cursor.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string().split(" for url").next().unwrap_or_default().to_owned();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
