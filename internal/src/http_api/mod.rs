//! The pages, their REST API and the WebSocket.

mod operators;
mod session;

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::{ConnectInfo, Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use platform::api::{Json, Path, Problem, Query, asset_that_reaches};
use platform::config::Secret;
use platform::dead_letters::DeadLetters;
use platform::health::Health;
use platform::regions::Region;
use serde::Deserialize;
use serde_json::json;
use tower_http::cors::{AllowOrigin, CorsLayer};

use crate::access::origins::Origins;
use crate::access::per_address::PerAddress;
use crate::access::{Access, Viewer};
use crate::copy::{ChatCopy, CopyError, Page};
use crate::history::{History, edits as count_edits, hit_from, versions_from, words};
use crate::hub::{Hub, OlderPage};
use crate::load::{until_reached, until_read};
use crate::ops::Ops;
use crate::receipts::Acknowledged;
use crate::resume::Token;
use crate::to_browser::{self, Served, Upgrade};

const MAX_LIMIT: u32 = 500;

/// What the routes work with.
#[derive(Clone)]
pub struct App {
    pub hub: Arc<Hub>,
    pub copy: Arc<dyn ChatCopy>,
    pub history: Arc<dyn History>,
    pub letters: Arc<dyn DeadLetters>,
    pub receipts: Arc<Acknowledged>,
    pub ops: Arc<Ops>,
    pub health: Health,
    pub operator_token: Option<Secret>,
    pub region: Arc<str>,
    /// All of them; none, if there is this one alone.
    pub regions: Arc<[Region]>,
    /// Whether TLS ends here.
    pub over_tls: bool,
    pub access: Arc<Access>,
    pub origins: Arc<Origins>,
    pub places: Arc<PerAddress>,
    pub served: Arc<Served>,
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
    ("/kept.js", SCRIPT, include_str!("../../web/kept.js")),
    ("/link.js", SCRIPT, include_str!("../../web/link.js")),
    ("/region.js", SCRIPT, include_str!("../../web/region.js")),
    ("/page.js", SCRIPT, include_str!("../../web/page.js")),
    ("/search.js", SCRIPT, include_str!("../../web/search.js")),
    ("/session.js", SCRIPT, include_str!("../../web/session.js")),
    ("/shown.js", SCRIPT, include_str!("../../web/shown.js")),
    ("/start.js", SCRIPT, include_str!("../../web/start.js")),
    ("/thread.js", SCRIPT, include_str!("../../web/thread.js")),
    ("/ops", HTML, include_str!("../../web/ops.html")),
    ("/ops.js", SCRIPT, include_str!("../../web/ops.js")),
    ("/metrics.md", "text/markdown; charset=utf-8", include_str!("../../../docs/metrics.md")),
    ("/style.css", "text/css; charset=utf-8", include_str!("../../web/style.css")),
    ("/ops.css", "text/css; charset=utf-8", include_str!("../../web/ops.css")),
];

/// The pages, everything under `/api/`, and `/ws`; with what the service tells about itself.
pub fn router(app: App, about: Router) -> Router {
    let regions: Arc<[String]> = app.origins.of_regions().into();
    let pages = ASSETS.iter().fold(Router::new(), |router, (path, content_type, body)| {
        let regions = regions.clone();
        router.route(path, get(move || std::future::ready(asset_that_reaches(&regions, content_type, body))))
    });
    pages
        .route("/api/chats", get(chats))
        .route("/api/chats/{chat}/messages", get(messages))
        .route("/api/chats/{chat}/messages/{message}/versions", get(versions))
        .route("/api/chats/{chat}/messages/{message}/receipts", get(receipts))
        .route("/api/chats/{chat}/edits", get(edits))
        .route("/api/search", get(search))
        .route("/api/regions", get(all_regions))
        .merge(operators::router())
        .merge(session::router())
        .route("/ws", get(web_socket))
        .fallback(|uri: Uri| async move {
            Problem::new(StatusCode::NOT_FOUND, "not_found", format!("there is no {}", uri.path()))
        })
        .method_not_allowed_fallback(|| async {
            Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "the copy is only read")
        })
        .with_state(app.clone())
        .merge(about)
        .layer(from_fn_with_state(app, known_host))
        .layer(for_pages_of(&regions))
}

/// Pages that another region has lost may ask this one; no other site's may.
fn for_pages_of(regions: &[String]) -> CorsLayer {
    if regions.is_empty() {
        return CorsLayer::new();
    }
    let origins = regions.iter().filter_map(|origin| HeaderValue::from_str(origin).ok());
    CorsLayer::new()
        .allow_origin(AllowOrigin::list(origins))
        .allow_credentials(true)
        .allow_methods([Method::GET, Method::POST, Method::DELETE])
        .allow_headers([header::CONTENT_TYPE])
}

/// Where else a page may go. Whoever may not look needs it too: signing in moves along.
async fn all_regions(State(app): State<App>) -> Response {
    let regions: Vec<_> = app.regions.iter().map(|region| json!({ "name": region.name, "url": region.url })).collect();
    Json(json!({ "region": app.region, "regions": regions })).into_response()
}

/// Nobody is answered who asks for another server's name.
async fn known_host(State(app): State<App>, request: Request, next: Next) -> Response {
    if app.origins.knows_host(request.headers()) {
        return next.run(request).await;
    }
    let why = "this server listens on a loopback address and goes by such a name only; CHAT_SYNC_ORIGINS names others";
    Problem::new(StatusCode::MISDIRECTED_REQUEST, "foreign_host", why).into_response()
}

/// What somebody may not see is not there.
fn no_chat() -> Problem {
    Problem::new(StatusCode::NOT_FOUND, "chat_not_found", "there is no such chat")
}

fn visible(viewer: &Viewer, chat: &str) -> Result<(), Problem> {
    if viewer.may_see(chat) { Ok(()) } else { Err(no_chat()) }
}

impl From<CopyError> for Problem {
    fn from(error: CopyError) -> Self {
        tracing::warn!(%error, "the copy cannot be read");
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", "the copy cannot be read now")
    }
}

async fn chats(State(app): State<App>, viewer: Viewer) -> Result<Response, Problem> {
    let mut chats = app.copy.chats().await?;
    chats.retain(|chat| viewer.may_see(&chat.id) && !app.hub.hides_chat(&chat.id));
    Ok(Json(json!({ "chats": chats })).into_response())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Window {
    before: Option<String>,
    limit: Option<u32>,
    /// The client's position: nothing that it was told before may be missing.
    resume: Option<String>,
}

async fn messages(
    State(app): State<App>,
    viewer: Viewer,
    Path(chat): Path<String>,
    Query(window): Query<Window>,
) -> Result<Response, Problem> {
    let limit = window.limit.unwrap_or(50);
    if !(1..=MAX_LIMIT).contains(&limit) {
        return Err(Problem::bad_request(format!("limit is from 1 to {MAX_LIMIT}")));
    }
    visible(&viewer, &chat)?;
    if app.hub.hides_chat(&chat) {
        return Err(no_chat());
    }
    let reached = match window.resume.as_deref().and_then(Token::decode) {
        Some(client) => until_reached(&app.hub, &chat, &client).await,
        None => true,
    };
    let (mut before, mut at_once, mut was_behind) = (window.before, limit, !reached);
    loop {
        let older = match app.copy.messages(&chat, before.as_deref(), at_once).await? {
            Page::Messages(older) => older,
            Page::NoChat => return Err(no_chat()),
            Page::NoSuchPlace => return Err(no_place(&app.hub, &chat, before.as_deref())),
        };
        until_read(&app.hub, &chat, &older.snapshot).await;
        let oldest = older.snapshot.messages.first().map(|row| row.id.clone());
        let OlderPage { messages, more, behind } = app.hub.older(&chat, older, limit as usize);
        was_behind |= behind;
        // A page of which nothing may be shown would tell nobody where the next one begins.
        if messages.is_empty() && more && oldest.is_some() {
            (before, at_once) = (oldest, MAX_LIMIT);
            continue;
        }
        return Ok(Json(json!({ "messages": messages, "more": more, "behind": was_behind })).into_response());
    }
}

/// The log may have brought what the store does not have yet.
fn no_place(hub: &Hub, chat: &str, before: Option<&str>) -> Problem {
    if before.is_some_and(|message| hub.has_read_of(chat, message)) {
        let why = "the copy has not stored this message yet; ask again";
        return Problem::new(StatusCode::SERVICE_UNAVAILABLE, "behind", why);
    }
    Problem::bad_request("before names no message of this chat")
}

/// A message's versions, oldest first; none of what was deleted.
async fn versions(
    State(app): State<App>,
    viewer: Viewer,
    Path((chat, message)): Path<(String, String)>,
) -> Result<Response, Problem> {
    let wanted = [(chat, message)];
    let [(chat, message)] = &wanted;
    let rows = if viewer.may_see(chat) { app.history.versions(chat, message).await? } else { Vec::new() };
    let mut versions = versions_from(rows)?;
    // Read after the versions: it may have been erased in between.
    if app.copy.stored(&wanted).await?.iter().any(|row| row.version.is_erased() || app.hub.hides(row)) {
        versions.clear();
    }
    if versions.is_empty() {
        return Err(no_message());
    }
    Ok(Json(json!({ "versions": versions })).into_response())
}

fn no_message() -> Problem {
    Problem::new(StatusCode::NOT_FOUND, "message_not_found", "there is no such message, or not any more")
}

/// How many readers have acknowledged a message as it is now.
async fn receipts(
    State(app): State<App>,
    viewer: Viewer,
    Path((chat, message)): Path<(String, String)>,
) -> Result<Response, Problem> {
    let wanted = [(chat, message)];
    let [(chat, message)] = &wanted;
    if !viewer.may_see(chat) || (app.hub.pushed(chat, message).is_none() && app.copy.stored(&wanted).await?.is_empty())
    {
        return Err(no_message());
    }
    let readers = app.receipts.count(chat, message, || app.hub.needed(chat, message)).await.map_err(|error| {
        tracing::debug!(%error, "receipts");
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", "the receipts cannot be read now")
    })?;
    Ok(Json(json!({ "readers": readers })).into_response())
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
    viewer: Viewer,
    Path(chat): Path<String>,
    Query(edited): Query<Edited>,
) -> Result<Response, Problem> {
    visible(&viewer, &chat)?;
    let ids: Vec<String> = edited.messages.split(',').take(MAX_LIMIT as usize).map(str::to_owned).collect();
    Ok(Json(json!({ "edits": count_edits(app.history.all_versions(&chat, &ids).await?) })).into_response())
}

/// How many messages are looked through for some that may be shown.
const MOST_SEARCHED: u32 = 4000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Search {
    q: String,
    limit: Option<u32>,
}

/// The newest messages that have all words of the query.
async fn search(State(app): State<App>, viewer: Viewer, Query(search): Query<Search>) -> Result<Response, Problem> {
    let limit = search.limit.unwrap_or(30);
    if !(1..=100).contains(&limit) {
        return Err(Problem::bad_request("limit is from 1 to 100"));
    }
    let words = words(&search.q);
    if words.is_empty() {
        return Err(Problem::bad_request("type a word to look for"));
    }
    let mut at_once = limit + 1;
    let (mut found, all) = loop {
        let rows = app.history.search(&words, at_once, viewer.only()).await?;
        let all = rows.len() < at_once as usize;
        let mut found = rows.into_iter().map(hit_from).collect::<Result<Vec<_>, _>>()?;
        found.retain(|hit| !app.hub.hides_of(&hit.chat_id, hit.written()));
        if all || found.len() > limit as usize || at_once > MOST_SEARCHED {
            break (found, all);
        }
        // The newest may all be erased, and not gone yet.
        at_once *= 4;
    };
    let more = !all || found.len() > limit as usize;
    found.truncate(limit as usize);
    Ok(Json(json!({ "found": found, "more": more })).into_response())
}

async fn web_socket(
    State(app): State<App>,
    ConnectInfo(from): ConnectInfo<SocketAddr>,
    viewer: Viewer,
    headers: HeaderMap,
    upgrade: Upgrade,
) -> Result<Response, Problem> {
    if !app.origins.admit(&headers) {
        let why = "only this server's own page, or those of CHAT_SYNC_ORIGINS, may connect";
        return Err(Problem::new(StatusCode::FORBIDDEN, "foreign_origin", why));
    }
    let Some(place) = app.places.enter(app.access.address(&headers, from.ip())) else {
        let why = "this address holds as many connections as it may";
        return Err(Problem::new(StatusCode::TOO_MANY_REQUESTS, "too_many_connections", why));
    };
    let (viewer, served) = (Arc::new(viewer), app.served);
    let browsers = served.browsers.clone();
    Ok(upgrade.and_then(&browsers, async move |socket| {
        to_browser::serve(socket, viewer, served).await;
        drop(place);
    }))
}
