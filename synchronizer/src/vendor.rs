//! The simulated vendor as a source, over its REST API.

use std::time::Duration;

use anyhow::Context;
use async_trait::async_trait;
use platform::tls::{self, Files};
use reqwest::{Certificate, Client, ClientBuilder, Identity, Response, StatusCode, header};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use crate::config::Settings;
use crate::source::{ListAt, Listing, Outcome, Page, Source};

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

fn with_tls(mut client: ClientBuilder, settings: &Settings) -> anyhow::Result<ClientBuilder> {
    tls::provide();
    let given = settings.source_ca.is_some() || settings.source_cert.is_some() || settings.source_key.is_some();
    anyhow::ensure!(
        !given || settings.source_url.starts_with("https://"),
        "CHAT_SYNC_SOURCE_CA, _CERT and _KEY are for https:// URLs; CHAT_SYNC_SOURCE_URL is none"
    );
    if let Some(ca) = &settings.source_ca {
        let wrong = || format!("CHAT_SYNC_SOURCE_CA: {} holds no certificate", ca.display());
        let certificates = Certificate::from_pem_bundle(&tls::read(ca)?).with_context(wrong)?;
        anyhow::ensure!(!certificates.is_empty(), wrong());
        client = client.tls_certs_merge(certificates);
    }
    let names = ["CHAT_SYNC_SOURCE_CERT", "CHAT_SYNC_SOURCE_KEY"];
    let identity = Files::both(names, settings.source_cert.clone(), settings.source_key.clone())?;
    if let Some(Files { certificate, key }) = identity {
        let both = [tls::read(&certificate)?, tls::read(&key)?].concat();
        client = client.identity(Identity::from_pem(&both).context("CHAT_SYNC_SOURCE_CERT and CHAT_SYNC_SOURCE_KEY")?);
    }
    Ok(client)
}

impl Vendor {
    /// # Errors
    /// If the URL cannot be read.
    pub fn new(settings: &Settings) -> anyhow::Result<Self> {
        let base = reqwest::Url::parse(&settings.source_url)
            .map_err(|error| anyhow::anyhow!("CHAT_SYNC_SOURCE_URL: {error}: {}", settings.source_url))?;
        let client = Client::builder().connect_timeout(Duration::from_secs(3)).tcp_nodelay(true);
        let client = with_tls(client, settings)?.build()?;
        Ok(Self { client, base, limit: settings.poll_limit })
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
        let answer = self.get::<Chats>(&["chats"], &[], PATIENCE).await;
        answer.map(|page| Listing { generation: page.generation, items: page.chats, next: None })
    }

    async fn list_messages(&self, chat: &str, before: Option<&str>) -> Outcome<Listing> {
        let mut query = vec![("limit", self.limit.to_string())];
        query.extend(before.map(|before| ("before", before.to_owned())));
        let answer = self.get::<Messages>(&["chats", chat, "messages"], &query, PATIENCE).await;
        answer.and_then(|Messages { generation, messages: items, more }| {
            // The oldest whose id can be read: a page may begin with a malformed item.
            let oldest = items.iter().find_map(|item| serde_json::from_str::<Id>(item.get()).ok());
            let next = match (more, oldest) {
                (false, _) => None,
                (true, Some(oldest)) => Some(ListAt::Messages { chat: chat.to_owned(), before: Some(oldest.id) }),
                // The end of the listing it is not.
                (true, None) => return Outcome::Unavailable("there is more, but no id to go on from".into()),
            };
            Outcome::Answered(Listing { generation, items, next })
        })
    }
}

#[async_trait]
impl Source for Vendor {
    async fn poll(&self, after: Option<&str>, wait: Duration) -> Outcome<Page> {
        let mut query = vec![("wait", wait.as_secs().to_string()), ("limit", self.limit.to_string())];
        query.extend(after.map(|after| ("after", after.to_owned())));
        let answer = self.get::<Feed>(&["changes"], &query, wait + PATIENCE).await;
        answer.map(|Feed { generation, changes, next, more }| Page { generation, items: changes, next, more })
    }

    async fn list(&self, at: &ListAt) -> Outcome<Listing> {
        match at {
            ListAt::Chats => self.list_chats().await,
            ListAt::Messages { chat, before } => self.list_messages(chat, before.as_deref()).await,
        }
    }
}

async fn read<T: DeserializeOwned>(response: Response) -> Outcome<T> {
    let status = response.status();
    let (retry_after, scope) = (retry_after(&response), header_text(&response, "x-ratelimit-scope"));
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
    // A page is for people with a browser; it says what the status says.
    let why = if message.is_empty() || message.starts_with('<') {
        status.to_string()
    } else {
        format!("{status}: {message}")
    };
    match status {
        StatusCode::TOO_MANY_REQUESTS => Outcome::RateLimited { scope: scope.unwrap_or(code), retry_after },
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
    let value = header_text(response, header::RETRY_AFTER.as_str());
    let seconds = value.and_then(|value| value.trim().parse().ok()).map(Duration::from_secs);
    seconds.unwrap_or(DEFAULT_RETRY_AFTER).min(MAX_RETRY_AFTER)
}

fn header_text(response: &Response, name: &str) -> Option<String> {
    response.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned)
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
