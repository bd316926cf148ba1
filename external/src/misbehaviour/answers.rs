//! Answers that go wrong on their way, as HTTP.

use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{HeaderName, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures::stream;
use rand::seq::IndexedRandom;

use super::{Fault, Misbehaviour, Scope};

/// What a 429 is about; other requests may go on.
const SCOPE: HeaderName = HeaderName::from_static("x-ratelimit-scope");
/// In how many pieces a slow body comes.
const PIECES: u32 = 10;

impl Misbehaviour {
    /// What is answered instead of anything else, if a fault strikes.
    pub fn refusal(&self, scope: Scope) -> Option<Response> {
        if let Some(switch) = self.strikes(Fault::RateLimited, scope) {
            let seconds = switch.delay.unwrap_or(1.0).ceil().to_string();
            let about = if scope == Scope::Feed { "feed" } else { "listings" };
            let headers = [(header::RETRY_AFTER, seconds.as_str()), (SCOPE, about)];
            let body = error("rate_limited", "too many requests; see Retry-After");
            return Some((StatusCode::TOO_MANY_REQUESTS, headers, body).into_response());
        }
        self.strikes(Fault::ServerError, scope)?;
        let answers = [
            (StatusCode::INTERNAL_SERVER_ERROR, error("internal", "something went wrong")),
            (StatusCode::BAD_GATEWAY, "<html><body>502 Bad Gateway</body></html>".to_owned()),
            (StatusCode::SERVICE_UNAVAILABLE, error("unavailable", "come back later")),
        ];
        answers.choose(&mut rand::rng()).cloned().map(IntoResponse::into_response)
    }

    /// An answer with this JSON, whole or not.
    pub fn answer(&self, scope: Scope, json: String) -> Response {
        let headers = |length: usize| {
            [(header::CONTENT_TYPE, "application/json".to_owned()), (header::CONTENT_LENGTH, length.to_string())]
        };
        let bytes = Bytes::from(json);
        let length = bytes.len();
        if self.strikes(Fault::HalfJson, scope).is_some() {
            return (headers(length / 2), bytes.slice(..length / 2)).into_response();
        }
        if self.strikes(Fault::CutBody, scope).is_some() {
            let pieces = [Ok(bytes.slice(..length / 2)), Err(std::io::Error::other("cut"))];
            return (headers(length), Body::from_stream(stream::iter(pieces))).into_response();
        }
        if let Some(switch) = self.strikes(Fault::SlowBody, scope) {
            let pause = Duration::from_secs_f64(switch.delay.unwrap_or(5.0)) / PIECES;
            return (headers(length), Body::from_stream(slowly(bytes, pause))).into_response();
        }
        (headers(length), bytes).into_response()
    }
}

fn slowly(bytes: Bytes, pause: Duration) -> impl stream::Stream<Item = std::io::Result<Bytes>> {
    let size = bytes.len().div_ceil(PIECES as usize).max(1);
    stream::unfold(bytes, move |mut rest| async move {
        if rest.is_empty() {
            return None;
        }
        tokio::time::sleep(pause).await;
        let piece = rest.split_to(size.min(rest.len()));
        Some((Ok(piece), rest))
    })
}

fn error(code: &str, message: &str) -> String {
    serde_json::json!({ "error": { "code": code, "message": message } }).to_string()
}
