//! The vendor's REST API, its change feed, and its page.

use std::convert::Infallible;
use std::time::Duration;

use axum::Router;
use axum::extract::{DefaultBodyLimit, FromRequestParts, State};
use axum::http::request::Parts;
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, patch, post};
use platform::api::{Json, Path, Problem, Query, asset};
use platform::lifecycle::Stop;
use serde::{Deserialize, Serialize};
use serde_json::json;
use serde_json::value::RawValue;

use crate::chat::{Refusal, Vendor};
use crate::feed::BadCursor;
use crate::misbehaviour::{Fault, Scope, Switches};
use crate::store;

/// The greatest request body, in bytes: 16 MiB.
const MAX_BODY: usize = 16 << 20;
const MAX_WAIT: Duration = Duration::from_secs(60);
const MAX_LIMIT: u32 = 1000;
/// About how large a page of the feed gets, in bytes.
const MAX_PAGE_BYTES: usize = 8 << 20;

#[derive(Clone)]
struct App {
    vendor: Vendor,
    stop: Stop,
}

/// Everything under `/api/`, and the page.
pub fn router(vendor: Vendor, stop: Stop) -> Router {
    Router::new()
        .route("/api/chats", post(create_chat).get(list_chats))
        .route("/api/chats/{chat}", get(get_chat).patch(rename_chat).delete(delete_chat))
        .route("/api/chats/{chat}/messages", post(post_message).get(list_messages))
        .route("/api/chats/{chat}/messages/{message}", patch(edit_message).delete(delete_message))
        .route("/api/changes", get(changes))
        .route("/api/misbehaviour", get(get_misbehaviour).put(put_misbehaviour))
        .route("/api/misbehaviour/restore", post(restore))
        .route("/", get(|| async { asset("text/html; charset=utf-8", include_str!("../web/index.html")) }))
        .route("/app.js", get(|| async { asset("text/javascript; charset=utf-8", include_str!("../web/app.js")) }))
        .route(
            "/misbehave.js",
            get(|| async { asset("text/javascript; charset=utf-8", include_str!("../web/misbehave.js")) }),
        )
        .route("/style.css", get(|| async { asset("text/css; charset=utf-8", include_str!("../web/style.css")) }))
        .fallback(|uri: Uri| async move {
            Problem::new(StatusCode::NOT_FOUND, "not_found", format!("there is no {}", uri.path()))
        })
        .method_not_allowed_fallback(|| async {
            Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "not with this method")
        })
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(App { vendor, stop })
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        let message = refusal.to_string();
        match refusal {
            Refusal::NotFound(_) => Self::new(StatusCode::NOT_FOUND, "not_found", message),
            Refusal::Deleted(_) => Self::new(StatusCode::GONE, "deleted", message),
            Refusal::Invalid(_) => Self::new(StatusCode::BAD_REQUEST, "bad_request", message),
            Refusal::Database(error) => {
                tracing::error!(%error, "the vendor's database");
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", "the database cannot be used now")
            }
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Title {
    title: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewMessage {
    author: String,
    text: String,
    parent_id: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Text {
    text: String,
}

type Answer = Result<Response, Problem>;

/// Who asks: this vendor's own page, which it treats well, or a client like any other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Caller {
    Page,
    Client,
}

impl<S: Sync> FromRequestParts<S> for Caller {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(if parts.headers.contains_key("x-vendor-page") { Self::Page } else { Self::Client })
    }
}

impl Caller {
    /// Answers a read; a client gets it as this vendor was told to answer.
    fn page<T: Serialize>(self, app: &App, scope: Scope, page: impl FnOnce(bool) -> T) -> Answer {
        let misbehaviour = &app.vendor.misbehaviour;
        if self == Self::Page {
            return ok(page(false));
        }
        let route = if scope == Scope::Feed { "feed" } else { "listings" };
        metrics::counter!("chat_sync_external_reads_total", "route" => route).increment(1);
        if let Some(refusal) = misbehaviour.refusal(scope) {
            return Ok(refusal);
        }
        let json =
            serde_json::to_string(&page(true)).map_err(|error| Refusal::Database(sqlx::Error::Decode(error.into())))?;
        Ok(misbehaviour.answer(scope, json))
    }
}

#[derive(Serialize)]
struct Chats {
    generation: u32,
    chats: Vec<Box<RawValue>>,
}

#[derive(Serialize)]
struct Messages {
    generation: u32,
    messages: Vec<Box<RawValue>>,
    more: bool,
}

#[derive(Serialize)]
struct Changes {
    generation: u32,
    changes: Vec<Box<RawValue>>,
    next: String,
    more: bool,
}

/// Rows as JSON; with `rude`, their texts may be strange.
fn served<T: Serialize>(app: &App, rude: bool, rows: &[T]) -> Vec<Box<RawValue>> {
    let json = rows.iter().filter_map(|row| serde_json::to_string(row).ok());
    json.map(|row| if rude { app.vendor.misbehaviour.strange(row) } else { row }).filter_map(raw).collect()
}

fn raw(json: String) -> Option<Box<RawValue>> {
    RawValue::from_string(json).inspect_err(|error| tracing::error!(%error, "a row that is no JSON")).ok()
}

fn created(row: impl serde::Serialize) -> Answer {
    Ok((StatusCode::CREATED, Json(row)).into_response())
}

fn ok(row: impl serde::Serialize) -> Answer {
    Ok(Json(row).into_response())
}

async fn create_chat(State(app): State<App>, Json(body): Json<Title>) -> Answer {
    created(app.vendor.create_chat(&body.title).await?)
}

async fn list_chats(State(app): State<App>, caller: Caller) -> Answer {
    let generation = app.vendor.feed().generation;
    let rows = app.vendor.chats().await?;
    caller.page(&app, Scope::Listings, |rude| Chats { generation, chats: served(&app, rude, &rows) })
}

async fn get_chat(State(app): State<App>, Path(chat): Path<String>) -> Answer {
    ok(app.vendor.chat(&chat).await?)
}

async fn rename_chat(State(app): State<App>, Path(chat): Path<String>, Json(body): Json<Title>) -> Answer {
    ok(app.vendor.rename_chat(&chat, &body.title).await?)
}

async fn delete_chat(State(app): State<App>, Path(chat): Path<String>) -> Answer {
    ok(app.vendor.delete_chat(&chat).await?)
}

async fn post_message(State(app): State<App>, Path(chat): Path<String>, Json(body): Json<NewMessage>) -> Answer {
    created(app.vendor.post(&chat, &body.author, &body.text, body.parent_id.as_deref()).await?)
}

async fn edit_message(
    State(app): State<App>,
    Path((chat, message)): Path<(String, String)>,
    Json(body): Json<Text>,
) -> Answer {
    ok(app.vendor.edit(&chat, &message, &body.text).await?)
}

async fn delete_message(State(app): State<App>, Path((chat, message)): Path<(String, String)>) -> Answer {
    ok(app.vendor.delete(&chat, &message).await?)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Page {
    before: Option<String>,
    limit: Option<u32>,
}

async fn list_messages(
    State(app): State<App>,
    Path(chat): Path<String>,
    Query(page): Query<Page>,
    caller: Caller,
) -> Answer {
    let limit = bounded(page.limit, 100)?;
    let generation = app.vendor.feed().generation;
    let (rows, more) = app.vendor.messages(&chat, page.before.as_deref(), limit).await?;
    caller.page(&app, Scope::Listings, |rude| Messages { generation, messages: served(&app, rude, &rows), more })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Poll {
    after: Option<String>,
    wait: Option<u64>,
    limit: Option<u32>,
}

/// The long poll: answers at once when there is something behind the cursor, else after `wait` seconds.
async fn changes(State(app): State<App>, Query(poll): Query<Poll>, caller: Caller) -> Answer {
    let limit = bounded(poll.limit, 500)?;
    let wait = Duration::from_secs(poll.wait.unwrap_or(0)).min(MAX_WAIT);
    let vendor = &app.vendor;
    let rude = caller == Caller::Client;
    if rude && poll.after.is_some() && vendor.misbehaviour.strikes(Fault::ExpiredCursors, Scope::Feed).is_some() {
        return Err(bad_cursor(BadCursor::Expired));
    }
    let mut latest = vendor.latest.subscribe();
    let after = place(vendor, poll.after.as_deref()).await?;
    if *latest.borrow() <= after {
        let waiting = metrics::gauge!("chat_sync_external_waiting_polls");
        waiting.increment(1.0);
        tokio::select! {
            _ = latest.wait_for(|latest| *latest > after) => {}
            () = tokio::time::sleep(wait) => {}
            () = app.stop.cancelled() => {}
        }
        waiting.decrement(1.0);
    }
    let (mut rows, oldest) = store::changes(&vendor.db, after, limit + 1).await.map_err(Refusal::from)?;
    if oldest.is_some_and(|oldest| oldest > after + 1) {
        // Forgotten while this poll waited.
        return Err(bad_cursor(BadCursor::Expired));
    }
    if poll.after.is_some() {
        // Or restored from a backup.
        place(vendor, poll.after.as_deref()).await?;
    }
    let more = rows.len() > limit as usize;
    rows.truncate(limit as usize);
    let (kept, more) = match fitting(&rows) {
        kept if kept < rows.len() => (kept, true),
        kept => (kept, more),
    };
    rows.truncate(kept);
    let feed = vendor.feed();
    let next = feed.cursor(rows.last().map_or(after, |(sequence, _)| *sequence));
    caller.page(&app, Scope::Feed, |rude| {
        let rows = if rude { vendor.misbehaviour.feed_page(rows) } else { rows.into_iter().map(|row| row.1).collect() };
        Changes { generation: feed.generation, changes: rows.into_iter().filter_map(raw).collect(), next, more }
    })
}

/// The sequence that a cursor stands behind; without one, the one before the oldest that is kept.
async fn place(vendor: &Vendor, cursor: Option<&str>) -> Result<i64, Problem> {
    let (oldest, last) = store::ends(&vendor.db).await.map_err(Refusal::from)?;
    match cursor {
        None => Ok(oldest.map_or(last, |oldest| oldest - 1)),
        Some(cursor) => vendor.feed().sequence(cursor, oldest, last).map_err(bad_cursor),
    }
}

/// How many of these rows fit into one page; one does, however large it is.
fn fitting(rows: &[(i64, String)]) -> usize {
    let mut bytes = 0;
    let fits = |row: &&(i64, String)| {
        bytes += row.1.len();
        bytes <= MAX_PAGE_BYTES
    };
    rows.iter().take_while(fits).count().max(rows.len().min(1))
}

async fn get_misbehaviour(State(app): State<App>) -> Answer {
    ok(app.vendor.misbehaviour.switches())
}

async fn put_misbehaviour(State(app): State<App>, Json(switches): Json<Switches>) -> Answer {
    let refused = Problem::bad_request;
    app.vendor.misbehaviour.set(switches).map_err(refused)?;
    ok(app.vendor.misbehaviour.switches())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Restore {
    #[serde(default)]
    lose: u32,
}

/// Everything comes back from a backup, without the last messages.
async fn restore(State(app): State<App>, Json(body): Json<Restore>) -> Answer {
    ok(json!({ "generation": app.vendor.restore_from_backup(body.lose).await? }))
}

fn bad_cursor(bad: BadCursor) -> Problem {
    match bad {
        BadCursor::Expired => {
            Problem::new(StatusCode::GONE, "cursor_expired", "this cursor is too old; list everything, then begin anew")
        }
        BadCursor::Foreign => Problem::new(StatusCode::BAD_REQUEST, "bad_cursor", "this is no cursor of this feed"),
    }
}

fn bounded(limit: Option<u32>, default: u32) -> Result<u32, Problem> {
    match limit.unwrap_or(default) {
        limit @ 1..=MAX_LIMIT => Ok(limit),
        _ => Err(Problem::bad_request(format!("limit is from 1 to {MAX_LIMIT}"))),
    }
}
