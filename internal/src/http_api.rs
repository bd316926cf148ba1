//! The page, its REST API and its WebSocket.

use std::sync::Arc;

use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::{FromRequestParts, State, WebSocketUpgrade};
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use platform::lifecycle::Stop;
use serde::Deserialize;
use serde_json::json;

use crate::copy::{ChatCopy, CopyError, Page};
use crate::hub::Hub;
use crate::to_browser::{self, MAX_FRAME};

const MAX_LIMIT: u32 = 500;

#[derive(Clone)]
struct App {
    hub: Arc<Hub>,
    copy: Arc<dyn ChatCopy>,
    stop: Stop,
}

/// The page, everything under `/api/`, and `/ws`.
pub fn router(hub: Arc<Hub>, copy: Arc<dyn ChatCopy>, stop: Stop) -> Router {
    Router::new()
        .route("/api/chats", get(chats))
        .route("/api/chats/{chat}/messages", get(messages))
        .route("/api/ops/pushes/{chat}/{message}", get(pushed))
        .route("/ws", get(web_socket))
        .route("/", get(|| async { asset("text/html; charset=utf-8", include_str!("../web/index.html")) }))
        .route("/app.js", get(|| async { asset("text/javascript; charset=utf-8", include_str!("../web/app.js")) }))
        .route("/copy.js", get(|| async { asset("text/javascript; charset=utf-8", include_str!("../web/copy.js")) }))
        .route("/link.js", get(|| async { asset("text/javascript; charset=utf-8", include_str!("../web/link.js")) }))
        .route("/style.css", get(|| async { asset("text/css; charset=utf-8", include_str!("../web/style.css")) }))
        .fallback(|uri: Uri| async move {
            Problem(StatusCode::NOT_FOUND, "not_found", format!("there is no {}", uri.path()))
        })
        .method_not_allowed_fallback(|| async {
            Problem(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "the copy is only read".into())
        })
        .with_state(App { hub, copy, stop })
}

fn asset(content_type: &'static str, body: &'static str) -> Response {
    let headers = [
        (header::CONTENT_TYPE, content_type),
        (header::CACHE_CONTROL, "no-cache"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (
            header::CONTENT_SECURITY_POLICY,
            "default-src 'self'; img-src 'self' data:; base-uri 'none'; frame-ancestors 'self'; form-action 'none'",
        ),
    ];
    (headers, body).into_response()
}

/// An error as every route tells it: `{"error":{"code","message"}}`.
struct Problem(StatusCode, &'static str, String);

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let body = json!({ "error": { "code": self.1, "message": self.2 } });
        (self.0, Json(body)).into_response()
    }
}

impl From<CopyError> for Problem {
    fn from(error: CopyError) -> Self {
        tracing::warn!(%error, "the copy cannot be read");
        Self(StatusCode::SERVICE_UNAVAILABLE, "unavailable", "the copy cannot be read now".into())
    }
}

impl From<QueryRejection> for Problem {
    fn from(rejection: QueryRejection) -> Self {
        Self(rejection.status(), "bad_request", rejection.body_text())
    }
}

impl From<PathRejection> for Problem {
    fn from(rejection: PathRejection) -> Self {
        Self(rejection.status(), "bad_request", rejection.body_text())
    }
}

#[derive(FromRequestParts)]
#[from_request(via(axum::extract::Query), rejection(Problem))]
struct Query<T>(T);

#[derive(FromRequestParts)]
#[from_request(via(axum::extract::Path), rejection(Problem))]
struct Path<T>(T);

async fn chats(State(app): State<App>) -> Result<Response, Problem> {
    Ok(Json(json!({ "chats": app.copy.chats().await? })).into_response())
}

/// How this pod pushed a message last.
async fn pushed(State(app): State<App>, Path((chat, message)): Path<(String, String)>) -> Result<Response, Problem> {
    let why = "this pod has not pushed it since its start, or not lately";
    let pushed = app.hub.pushed(&chat, &message);
    pushed.map(|pushed| Json(pushed).into_response()).ok_or(Problem(StatusCode::NOT_FOUND, "not_pushed", why.into()))
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
        return Err(Problem(StatusCode::BAD_REQUEST, "bad_request", format!("limit is from 1 to {MAX_LIMIT}")));
    }
    match app.copy.messages(&chat, window.before.as_deref(), limit).await? {
        Page::Messages(messages, more) => Ok(Json(json!({ "messages": messages, "more": more })).into_response()),
        Page::NoChat => Err(Problem(StatusCode::NOT_FOUND, "chat_not_found", "there is no such chat".into())),
        Page::NoSuchPlace => {
            Err(Problem(StatusCode::BAD_REQUEST, "bad_request", "before names no message of this chat".into()))
        }
    }
}

/// The library's defaults are 64 MiB a message and no bound on what waits to be written.
async fn web_socket(
    State(app): State<App>,
    headers: HeaderMap,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, Problem> {
    let upgrade = upgrade.map_err(|why| Problem(StatusCode::BAD_REQUEST, "bad_request", why.body_text()))?;
    if !same_origin(&headers) {
        return Err(Problem(StatusCode::FORBIDDEN, "foreign_origin", "only this server's own page may connect".into()));
    }
    let upgraded = upgrade
        .max_message_size(MAX_FRAME)
        .max_frame_size(MAX_FRAME)
        .read_buffer_size(4 << 10)
        .write_buffer_size(16 << 10)
        .max_write_buffer_size(32 << 20)
        .on_upgrade(move |socket| to_browser::serve(socket, app.hub, app.copy, app.stop));
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
