//! The pages, their REST API and the WebSocket.

mod operators;

use std::sync::Arc;

use axum::Router;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::{State, WebSocketUpgrade};
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use platform::api::{Json, Path, Problem, Query, asset};
use platform::config::Secret;
use platform::dead_letters::DeadLetters;
use platform::health::Health;
use platform::lifecycle::Stop;
use serde::Deserialize;
use serde_json::json;

use crate::copy::{ChatCopy, CopyError, Page};
use crate::history::{History, edits as count_edits, hit_from, versions_from, words};
use crate::hub::Hub;
use crate::ops::Ops;
use crate::to_browser::{self, Limits, MAX_FRAME};

const MAX_LIMIT: u32 = 500;

/// What the routes work with.
#[derive(Clone)]
pub struct App {
    pub hub: Arc<Hub>,
    pub copy: Arc<dyn ChatCopy>,
    pub history: Arc<dyn History>,
    pub letters: Arc<dyn DeadLetters>,
    pub ops: Arc<Ops>,
    pub health: Health,
    pub operator_token: Option<Secret>,
    pub stop: Stop,
}

const HTML: &str = "text/html; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";

/// The pages, as they lie in the binary: path, type, content.
const ASSETS: &[(&str, &str, &str)] = &[
    ("/", HTML, include_str!("../../web/index.html")),
    ("/app.js", SCRIPT, include_str!("../../web/app.js")),
    ("/chats.js", SCRIPT, include_str!("../../web/chats.js")),
    ("/copy.js", SCRIPT, include_str!("../../web/copy.js")),
    ("/drawer.js", SCRIPT, include_str!("../../web/drawer.js")),
    ("/link.js", SCRIPT, include_str!("../../web/link.js")),
    ("/page.js", SCRIPT, include_str!("../../web/page.js")),
    ("/search.js", SCRIPT, include_str!("../../web/search.js")),
    ("/thread.js", SCRIPT, include_str!("../../web/thread.js")),
    ("/ops", HTML, include_str!("../../web/ops.html")),
    ("/ops.js", SCRIPT, include_str!("../../web/ops.js")),
    ("/metrics.md", "text/markdown; charset=utf-8", include_str!("../../../docs/metrics.md")),
    ("/style.css", "text/css; charset=utf-8", include_str!("../../web/style.css")),
    ("/ops.css", "text/css; charset=utf-8", include_str!("../../web/ops.css")),
];

/// The pages, everything under `/api/`, and `/ws`.
pub fn router(app: App) -> Router {
    let pages = ASSETS.iter().fold(Router::new(), |router, (path, content_type, body)| {
        router.route(path, get(move || std::future::ready(asset(content_type, body))))
    });
    pages
        .route("/api/chats", get(chats))
        .route("/api/chats/{chat}/messages", get(messages))
        .route("/api/chats/{chat}/messages/{message}/versions", get(versions))
        .route("/api/chats/{chat}/edits", get(edits))
        .route("/api/search", get(search))
        .merge(operators::router())
        .route("/ws", get(web_socket))
        .fallback(|uri: Uri| async move {
            Problem::new(StatusCode::NOT_FOUND, "not_found", format!("there is no {}", uri.path()))
        })
        .method_not_allowed_fallback(|| async {
            Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "the copy is only read")
        })
        .with_state(app)
}

impl From<CopyError> for Problem {
    fn from(error: CopyError) -> Self {
        tracing::warn!(%error, "the copy cannot be read");
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", "the copy cannot be read now")
    }
}

async fn chats(State(app): State<App>) -> Result<Response, Problem> {
    Ok(Json(json!({ "chats": app.copy.chats().await? })).into_response())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Window {
    before: Option<String>,
    limit: Option<u32>,
}

async fn messages(
    State(app): State<App>,
    Path(chat): Path<String>,
    Query(window): Query<Window>,
) -> Result<Response, Problem> {
    let limit = window.limit.unwrap_or(50);
    if !(1..=MAX_LIMIT).contains(&limit) {
        return Err(Problem::bad_request(format!("limit is from 1 to {MAX_LIMIT}")));
    }
    match app.copy.messages(&chat, window.before.as_deref(), limit).await? {
        Page::Messages(messages, more) => Ok(Json(json!({ "messages": messages, "more": more })).into_response()),
        Page::NoChat => Err(Problem::new(StatusCode::NOT_FOUND, "chat_not_found", "there is no such chat")),
        Page::NoSuchPlace => Err(Problem::bad_request("before names no message of this chat")),
    }
}

/// A message's versions, oldest first; none of what was deleted.
async fn versions(State(app): State<App>, Path((chat, message)): Path<(String, String)>) -> Result<Response, Problem> {
    let versions = versions_from(app.history.versions(&chat, &message).await?)?;
    if versions.is_empty() {
        let why = "there is no such message, or not any more";
        return Err(Problem::new(StatusCode::NOT_FOUND, "message_not_found", why));
    }
    Ok(Json(json!({ "versions": versions })).into_response())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Edited {
    /// Ids, separated by commas.
    messages: String,
}

/// How often messages of a chat were edited.
async fn edits(
    State(app): State<App>,
    Path(chat): Path<String>,
    Query(edited): Query<Edited>,
) -> Result<Response, Problem> {
    let ids: Vec<String> = edited.messages.split(',').take(MAX_LIMIT as usize).map(str::to_owned).collect();
    Ok(Json(json!({ "edits": count_edits(app.history.all_versions(&chat, &ids).await?) })).into_response())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Search {
    q: String,
    limit: Option<u32>,
}

/// The newest messages that have all words of the query.
async fn search(State(app): State<App>, Query(search): Query<Search>) -> Result<Response, Problem> {
    let limit = search.limit.unwrap_or(30);
    if !(1..=100).contains(&limit) {
        return Err(Problem::bad_request("limit is from 1 to 100"));
    }
    let words = words(&search.q);
    if words.is_empty() {
        return Err(Problem::bad_request("type a word to look for"));
    }
    let mut rows = app.history.search(&words, limit + 1).await?;
    let more = rows.len() > limit as usize;
    rows.truncate(limit as usize);
    let found = rows.into_iter().map(hit_from).collect::<Result<Vec<_>, _>>()?;
    Ok(Json(json!({ "found": found, "more": more })).into_response())
}

/// The library's defaults are 64 MiB a message and no bound on what waits to be written.
async fn web_socket(
    State(app): State<App>,
    headers: HeaderMap,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, Problem> {
    let upgrade = upgrade.map_err(|why| Problem::bad_request(why.body_text()))?;
    if !same_origin(&headers) {
        return Err(Problem::new(StatusCode::FORBIDDEN, "foreign_origin", "only this server's own page may connect"));
    }
    let upgraded = upgrade
        .max_message_size(MAX_FRAME)
        .max_frame_size(MAX_FRAME)
        .read_buffer_size(4 << 10)
        .write_buffer_size(16 << 10)
        .max_write_buffer_size(32 << 20)
        .on_upgrade(move |socket| to_browser::serve(socket, app.hub, app.copy, Limits::default(), app.stop));
    Ok(upgraded)
}

/// Browsers let any site open a WebSocket to any other and say which site it was; programs say nothing.
fn same_origin(headers: &HeaderMap) -> bool {
    let text = |name| headers.get(name).map(|value| value.to_str().unwrap_or_default());
    match text(header::ORIGIN) {
        None => true,
        Some(origin) => origin.split_once("://").map(|(_, authority)| authority) == text(header::HOST),
    }
}
