//! Who asks, and how a page signs in and out.

use std::net::SocketAddr;

use axum::Router;
use axum::extract::{ConnectInfo, FromRequestParts, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum_extra::extract::cookie::{Cookie, CookieJar, SameSite};
use platform::api::{Json, Problem};
use serde::Deserialize;
use serde_json::json;

use super::App;
use crate::access::{COOKIE, Refusal, Role, Viewer};

/// Browsers drop cookies of more than 4096 bytes, name and attributes included, without a word.
const MAX_COOKIE: usize = 3900;

pub(super) fn router() -> Router<App> {
    Router::new().route("/api/session", get(session).post(sign_in).delete(sign_out))
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        let code = match refusal {
            Refusal::NoToken => "no_token",
            Refusal::BadToken => "bad_token",
            Refusal::NoUser => "no_user",
        };
        Self::new(StatusCode::UNAUTHORIZED, code, refusal.to_string())
    }
}

impl FromRequestParts<App> for Viewer {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Response> {
        let ConnectInfo(from) =
            ConnectInfo::<SocketAddr>::from_request_parts(parts, app).await.map_err(IntoResponse::into_response)?;
        app.access
            .admit(&parts.headers, from.ip())
            .map_err(|refusal| ([(header::WWW_AUTHENTICATE, "Bearer")], Problem::from(refusal)).into_response())
    }
}

/// Somebody who may see the pipeline and the dead letters, of whatever chat.
pub(super) struct Operator;

impl FromRequestParts<App> for Operator {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Response> {
        match Viewer::from_request_parts(parts, app).await?.role {
            Role::Operator => Ok(Self),
            Role::Reader => {
                Err(Problem::new(StatusCode::FORBIDDEN, "operators_only", "only operators may see this")
                    .into_response())
            }
        }
    }
}

/// Who asks, and how that is decided.
async fn session(State(app): State<App>, viewer: Viewer) -> Response {
    told(&app, &viewer)
}

fn told(app: &App, viewer: &Viewer) -> Response {
    Json(json!({ "auth": app.access.mode(), "name": viewer.name, "role": viewer.role })).into_response()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SignIn {
    token: String,
}

/// A page cannot send a header with its WebSocket: it keeps its token in a cookie, which no script can read.
async fn sign_in(
    State(app): State<App>,
    headers: HeaderMap,
    shown: Result<Json<SignIn>, Problem>,
) -> Result<Response, Problem> {
    let token = shown?.0.token;
    if token.len() > MAX_COOKIE {
        let why = format!("a page can keep a token of at most {MAX_COOKIE} bytes; this one has {}", token.len());
        return Err(Problem::new(StatusCode::BAD_REQUEST, "token_too_long", why));
    }
    let viewer = app.access.admit_token(&token)?;
    let jar = CookieJar::new().add(cookie(token, &app, &headers));
    Ok((jar, told(&app, &viewer)).into_response())
}

async fn sign_out(State(app): State<App>, headers: HeaderMap) -> Response {
    let mut gone = cookie(String::new(), &app, &headers);
    gone.make_removal();
    (CookieJar::new().add(gone), StatusCode::NO_CONTENT).into_response()
}

/// Not sent with what other sites ask for; over TLS, only over TLS.
fn cookie(token: String, app: &App, headers: &HeaderMap) -> Cookie<'static> {
    let secure = app.over_tls || headers.get("x-forwarded-proto").is_some_and(|scheme| scheme == "https");
    Cookie::build((COOKIE, token)).path("/").http_only(true).same_site(SameSite::Strict).secure(secure).build()
}
