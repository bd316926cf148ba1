//! Who may look, and at which chats.

pub mod origins;
pub mod per_address;
pub mod settings;
mod tokens;
mod trusted;

use std::collections::BTreeSet;
use std::net::IpAddr;

use axum::http::{HeaderMap, header};
use axum_extra::extract::cookie::CookieJar;
use contract::Timestamp;
use serde::{Deserialize, Serialize};

pub use settings::{AccessSettings, Mode};
use tokens::Tokens;
use trusted::Trusted;

/// The cookie that a page's token is kept in.
pub const COOKIE: &str = "chat-sync-token";

/// What somebody may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    #[default]
    Reader,
    /// Sees the pipeline and the dead letters besides, and decides about these.
    Operator,
}

/// Which chats somebody may see: `"*"`, or a list of ids.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Chats {
    All(Star),
    Only(BTreeSet<String>),
}

/// `"*"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Star {
    #[serde(rename = "*")]
    Star,
}

impl Chats {
    pub const EVERY: Self = Self::All(Star::Star);
}

/// Somebody who may look.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Viewer {
    pub name: String,
    pub role: Role,
    pub chats: Chats,
    /// What admitted it, to be asked again while it stays.
    by: By,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum By {
    /// Nobody is asked.
    Itself,
    /// A proxy has asked; it is to be asked again then, in seconds since the Unix epoch.
    Proxy { until: u64 },
    /// A token that holds until then, in seconds since the Unix epoch.
    Signed { until: u64 },
    /// The token with this digest.
    Listed { sha256: String },
}

impl Viewer {
    /// Whoever comes where nobody is asked.
    pub fn anybody() -> Self {
        Self { name: String::new(), role: Role::Operator, chats: Chats::EVERY, by: By::Itself }
    }

    pub fn may_see(&self, chat: &str) -> bool {
        match &self.chats {
            Chats::All(_) => true,
            Chats::Only(chats) => chats.contains(chat),
        }
    }

    /// The chats that it is restricted to, if it is.
    pub fn only(&self) -> Option<&BTreeSet<String>> {
        match &self.chats {
            Chats::All(_) => None,
            Chats::Only(chats) => Some(chats),
        }
    }
}

/// Why somebody may not look.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("sign in with a token")]
    NoToken,
    /// What is wrong with it goes to the log: whoever guesses learns nothing.
    #[error("this token is not, or not any more, valid")]
    BadToken,
    #[error("only the configured proxies may ask, and they say for whom")]
    NoUser,
}

/// Whether somebody may go on looking.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Still {
    Yes,
    /// Whoever let it in must be asked again: it connects anew.
    AskAgain,
    No,
}

/// Seconds since the Unix epoch.
fn now() -> u64 {
    Timestamp::now().micros() / 1_000_000
}

/// Decides who may look.
#[derive(Debug)]
pub enum Access {
    /// Whoever reaches the page.
    Off,
    Token(Box<Tokens>),
    TrustedHeader(Trusted),
}

impl Access {
    pub fn mode(&self) -> Mode {
        match self {
            Self::Off => Mode::Off,
            Self::Token(_) => Mode::Token,
            Self::TrustedHeader(_) => Mode::TrustedHeader,
        }
    }

    /// Whoever asks with these headers, from this address.
    ///
    /// # Errors
    /// Why it may not look.
    pub fn admit(&self, headers: &HeaderMap, from: IpAddr) -> Result<Viewer, Refusal> {
        match self {
            Self::Off => Ok(Viewer::anybody()),
            Self::Token(tokens) => tokens.admit(&shown_token(headers).ok_or(Refusal::NoToken)?),
            Self::TrustedHeader(trusted) => trusted.admit(headers, from),
        }
    }

    /// Whoever shows this token; where tokens are no use, nobody.
    ///
    /// # Errors
    /// Why it may not look.
    pub fn admit_token(&self, token: &str) -> Result<Viewer, Refusal> {
        match self {
            Self::Token(tokens) => tokens.admit(token),
            Self::Off | Self::TrustedHeader(_) => Err(Refusal::BadToken),
        }
    }

    /// Where somebody asks from: behind a proxy that is believed, what that says.
    pub fn address(&self, headers: &HeaderMap, from: IpAddr) -> IpAddr {
        match self {
            Self::TrustedHeader(trusted) => trusted.address(headers, from),
            Self::Off | Self::Token(_) => from,
        }
    }

    /// Whether somebody who was admitted may go on looking, at the same chats.
    pub fn still_admits(&self, viewer: &Viewer) -> Still {
        let or = |holds, end| if holds { Still::Yes } else { end };
        match (&viewer.by, self) {
            (By::Itself, _) => Still::Yes,
            (By::Proxy { until }, _) => or(*until > now(), Still::AskAgain),
            (By::Signed { until }, _) => or(*until > now(), Still::No),
            (By::Listed { sha256 }, Self::Token(tokens)) => {
                or(tokens.listed(sha256).is_some_and(|listed| listed == *viewer), Still::No)
            }
            (By::Listed { .. }, _) => Still::No,
        }
    }
}

/// The token of a program (`Authorization: Bearer`), or of a page (the cookie).
fn shown_token(headers: &HeaderMap) -> Option<String> {
    // Another scheme is somebody else's: of a proxy in front, maybe.
    let authorization = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    if let Some((scheme, token)) = authorization.and_then(|value| value.split_once(' '))
        && scheme.eq_ignore_ascii_case("bearer")
    {
        return Some(token.trim().to_owned());
    }
    CookieJar::from_headers(headers).get(COOKIE).map(|cookie| cookie.value().to_owned())
}
