//! How every API reads what it is asked, tells what was wrong with it, and gives its pages.

use axum::extract::rejection::{JsonRejection, PathRejection, QueryRejection};
use axum::extract::{FromRequest, FromRequestParts};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::json;

use crate::dead_letters::LettersError;

/// An error as every route tells it: `{"error":{"code","message"}}`.
#[derive(Debug)]
pub struct Problem {
    status: StatusCode,
    code: &'static str,
    message: String,
}

impl Problem {
    /// `code` is for programs, `message` for people.
    pub fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into() }
    }

    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad_request", message)
    }

    /// What was sent cannot be read. A body of another shape is a bad request as bad JSON is, and no 422.
    fn unread(status: StatusCode, message: String) -> Self {
        let status = if status == StatusCode::UNPROCESSABLE_ENTITY { StatusCode::BAD_REQUEST } else { status };
        Self::new(status, "bad_request", message)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let body = json!({ "error": { "code": self.code, "message": self.message } });
        (self.status, axum::Json(body)).into_response()
    }
}

impl From<LettersError> for Problem {
    fn from(error: LettersError) -> Self {
        tracing::warn!(%error, "the dead letters cannot be used");
        let message = "the dead letters cannot be read or changed now";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", message)
    }
}

impl From<JsonRejection> for Problem {
    fn from(rejection: JsonRejection) -> Self {
        Self::unread(rejection.status(), rejection.body_text())
    }
}

impl From<QueryRejection> for Problem {
    fn from(rejection: QueryRejection) -> Self {
        Self::unread(rejection.status(), rejection.body_text())
    }
}

impl From<PathRejection> for Problem {
    fn from(rejection: PathRejection) -> Self {
        Self::unread(rejection.status(), rejection.body_text())
    }
}

/// axum's, with our errors.
#[derive(FromRequestParts)]
#[from_request(via(axum::extract::Path), rejection(Problem))]
pub struct Path<T>(pub T);

/// axum's, with our errors.
#[derive(FromRequest)]
#[from_request(via(axum::Json), rejection(Problem))]
pub struct Json<T>(pub T);

impl<T: Serialize> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        axum::Json(self.0).into_response()
    }
}

/// axum's, with our errors.
#[derive(FromRequestParts)]
#[from_request(via(axum::extract::Query), rejection(Problem))]
pub struct Query<T>(pub T);

/// A file of a page, from the binary. The page may load nothing from elsewhere, nor be framed elsewhere.
pub fn asset(content_type: &'static str, body: &'static str) -> Response {
    asset_that_reaches(&[], content_type, body)
}

/// The same; but its scripts may also talk to these origins, as `https://b.example.org`.
pub fn asset_that_reaches(origins: &[String], content_type: &'static str, body: &'static str) -> Response {
    const POLICY: &str =
        "default-src 'self'; img-src 'self' data:; base-uri 'none'; frame-ancestors 'self'; form-action 'none'";
    let mut policy = POLICY.to_owned();
    if !origins.is_empty() {
        policy.push_str("; connect-src 'self'");
        for origin in origins {
            // A WebSocket's origin is one of its own: http becomes ws, https wss.
            let socket = origin.replacen("http", "ws", 1);
            policy.extend([" ", origin, " ", &socket]);
        }
    }
    let headers = [
        (header::CONTENT_TYPE, content_type.to_owned()),
        (header::CACHE_CONTROL, "no-cache".to_owned()),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff".to_owned()),
        (header::CONTENT_SECURITY_POLICY, policy),
    ];
    (headers, body).into_response()
}
