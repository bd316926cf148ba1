//! What operators see and decide.

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use platform::api::{Json, Path, Problem, Query};
use platform::dead_letters::{Filter, State as LetterState};
use serde::Deserialize;
use serde_json::json;

use super::App;
use super::session::Operator;
use crate::access::Mode;
use crate::ops::Decisions;

pub(super) fn router() -> Router<App> {
    Router::new()
        .route("/api/ops", get(view))
        .route("/api/ops/pushes/{chat}/{message}", get(pushed))
        .route("/api/ops/dead-letters", get(letters))
        .route("/api/ops/dead-letters/{digest}", post(decide))
}

/// The pipeline, stage by stage.
async fn view(State(app): State<App>, _: Operator) -> Response {
    let decisions = match (app.access.mode(), &app.operator_token) {
        (Mode::Off, None) => Decisions::Nobody,
        (Mode::Off, Some(_)) => Decisions::OperatorToken,
        (Mode::Token | Mode::TrustedHeader, _) => Decisions::Operators,
    };
    Json(app.ops.view(&app.hub, &app.health, decisions)).into_response()
}

/// How this pod pushed a message last.
async fn pushed(
    State(app): State<App>,
    _: Operator,
    Path((chat, message)): Path<(String, String)>,
) -> Result<Response, Problem> {
    let why = "this pod has not pushed it since its start, or not lately";
    let pushed = app.hub.pushed(&chat, &message);
    pushed.map(|pushed| Json(pushed).into_response()).ok_or(Problem::new(StatusCode::NOT_FOUND, "not_pushed", why))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    reason: Option<String>,
    limit: Option<u32>,
}

async fn letters(State(app): State<App>, _: Operator, Query(wanted): Query<Wanted>) -> Result<Response, Problem> {
    let limit = wanted.limit.unwrap_or(50).clamp(1, 500);
    let filter = Filter { reason: wanted.reason, limit, ..Filter::default() };
    Ok(Json(json!({ "letters": app.letters.letters(&filter).await? })).into_response())
}

#[derive(Deserialize)]
#[serde(tag = "action", rename_all = "snake_case", deny_unknown_fields)]
enum Decision {
    Retry,
    Discard { note: String },
}

/// Only operators; where nobody is asked who they are, only whoever shows the operator's token.
async fn decide(
    State(app): State<App>,
    _: Operator,
    Path(digest): Path<String>,
    headers: HeaderMap,
    decision: Result<Json<Decision>, Problem>,
) -> Result<Response, Problem> {
    authorized(&app, &headers)?;
    let (state, note) = match decision?.0 {
        Decision::Retry => (LetterState::Retry, None),
        Decision::Discard { note } if note.trim().is_empty() => {
            return Err(Problem::bad_request("note says why; it is empty"));
        }
        Decision::Discard { note } => (LetterState::Discarded, Some(note)),
    };
    if app.letters.decide(&digest, state, note.as_deref()).await? {
        return Ok(Json(json!({ "state": state })).into_response());
    }
    Err(Problem::new(StatusCode::NOT_FOUND, "letter_not_found", "there is no such letter that is open"))
}

fn authorized(app: &App, headers: &HeaderMap) -> Result<(), Problem> {
    if app.access.mode() != Mode::Off {
        return Ok(());
    }
    let Some(token) = &app.operator_token else {
        let why = "nobody may decide here: CHAT_SYNC_OPERATOR_TOKEN is not set";
        return Err(Problem::new(StatusCode::FORBIDDEN, "no_operator_token", why));
    };
    let shown = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let shown = shown.and_then(|value| value.strip_prefix("Bearer "));
    if shown.is_some_and(|shown| same(shown.as_bytes(), token.expose().as_bytes())) {
        return Ok(());
    }
    Err(Problem::new(StatusCode::UNAUTHORIZED, "bad_operator_token", "this is not the operator's token"))
}

/// In a time that does not tell how much of it was right.
fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |differing, (a, b)| differing | (a ^ b)) == 0
}
