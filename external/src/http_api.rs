//! The vendor's REST API, its change feed, and its page.

use std::time::Duration;

use axum::extract::rejection::{JsonRejection, PathRejection, QueryRejection};
use axum::extract::{DefaultBodyLimit, FromRequest, FromRequestParts, State};
use axum::http::{StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, patch, post};
use axum::{Json as AxumJson, Router};
use platform::lifecycle::Stop;
use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;

use crate::chat::{Refusal, Vendor};
use crate::feed::BadCursor;
use crate::store;

/// The greatest request body, in bytes: 16 MiB.
const MAX_BODY: usize = 16 << 20;
const MAX_WAIT: Duration = Duration::from_secs(60);
const MAX_LIMIT: u32 = 1000;

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
        .route("/", get(|| async { asset("text/html; charset=utf-8", include_str!("../web/index.html")) }))
        .route("/app.js", get(|| async { asset("text/javascript; charset=utf-8", include_str!("../web/app.js")) }))
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

fn asset(content_type: &'static str, body: &'static str) -> Response {
    let headers = [
        (header::CONTENT_TYPE, content_type),
        (header::CACHE_CONTROL, "no-cache"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (
            header::CONTENT_SECURITY_POLICY,
            "default-src 'self'; img-src 'self' data:; base-uri 'none'; frame-ancestors 'self'; form-action 'self'",
        ),
    ];
    (headers, body).into_response()
}

/// An error as every route tells it: `{"error":{"code","message"}}`.
struct Problem {
    status: StatusCode,
    code: &'static str,
    message: String,
}

impl Problem {
    fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into() }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let body = json!({ "error": { "code": self.code, "message": self.message } });
        (self.status, AxumJson(body)).into_response()
    }
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

impl From<JsonRejection> for Problem {
    fn from(rejection: JsonRejection) -> Self {
        Self::new(rejection.status(), "bad_request", rejection.body_text())
    }
}

impl From<QueryRejection> for Problem {
    fn from(rejection: QueryRejection) -> Self {
        Self::new(rejection.status(), "bad_request", rejection.body_text())
    }
}

impl From<PathRejection> for Problem {
    fn from(rejection: PathRejection) -> Self {
        Self::new(rejection.status(), "bad_request", rejection.body_text())
    }
}

#[derive(FromRequestParts)]
#[from_request(via(axum::extract::Path), rejection(Problem))]
struct Path<T>(T);

#[derive(FromRequest)]
#[from_request(via(AxumJson), rejection(Problem))]
struct Json<T>(T);

#[derive(FromRequestParts)]
#[from_request(via(axum::extract::Query), rejection(Problem))]
struct Query<T>(T);

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

fn created(row: impl serde::Serialize) -> Answer {
    Ok((StatusCode::CREATED, AxumJson(row)).into_response())
}

fn ok(row: impl serde::Serialize) -> Answer {
    Ok(AxumJson(row).into_response())
}

async fn create_chat(State(app): State<App>, Json(body): Json<Title>) -> Answer {
    created(app.vendor.create_chat(&body.title).await?)
}

async fn list_chats(State(app): State<App>) -> Answer {
    ok(json!({ "generation": app.vendor.feed.generation, "chats": app.vendor.chats().await? }))
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

async fn list_messages(State(app): State<App>, Path(chat): Path<String>, Query(page): Query<Page>) -> Answer {
    let limit = bounded(page.limit, 100)?;
    let (messages, more) = app.vendor.messages(&chat, page.before.as_deref(), limit).await?;
    ok(json!({ "generation": app.vendor.feed.generation, "messages": messages, "more": more }))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Poll {
    after: Option<String>,
    wait: Option<u64>,
    limit: Option<u32>,
}

/// The long poll: answers at once when there is something behind the cursor, else after `wait` seconds.
async fn changes(State(app): State<App>, Query(poll): Query<Poll>) -> Answer {
    let limit = bounded(poll.limit, 500)?;
    let wait = Duration::from_secs(poll.wait.unwrap_or(0)).min(MAX_WAIT);
    let vendor = &app.vendor;
    let mut latest = vendor.latest.subscribe();
    let (oldest, last) = store::ends(&vendor.db).await.map_err(Refusal::from)?;
    let after = match &poll.after {
        None => oldest.map_or(last, |oldest| oldest - 1),
        Some(cursor) => vendor.feed.sequence(cursor, oldest, last).map_err(bad_cursor)?,
    };
    if *latest.borrow() <= after && last <= after {
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
    let more = rows.len() > limit as usize;
    rows.truncate(limit as usize);
    let next = vendor.feed.cursor(rows.last().map_or(after, |(sequence, _)| *sequence));
    let changes = rows.into_iter().map(|(_, body)| RawValue::from_string(body)).collect::<Result<Vec<_>, _>>();
    let changes = changes.map_err(|error| Refusal::Database(sqlx::Error::Decode(error.into())))?;
    #[derive(serde::Serialize)]
    struct Changes {
        generation: u32,
        changes: Vec<Box<RawValue>>,
        next: String,
        more: bool,
    }
    ok(Changes { generation: vendor.feed.generation, changes, next, more })
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
        _ => Err(Problem::new(StatusCode::BAD_REQUEST, "bad_request", format!("limit is from 1 to {MAX_LIMIT}"))),
    }
}
