//! Whomever a proxy in front has asked who they are.

use std::net::IpAddr;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, ensure};
use axum::http::{HeaderMap, HeaderName};
use ipnet::IpNet;

use super::settings::AccessSettings;
use super::{By, Chats, Refusal, Role, Viewer, now};

/// How long a connection lives before its proxy is asked again: somebody may have signed out there.
const ASK_AGAIN: Duration = Duration::from_secs(600);

/// The proxies that are believed, and where they write what they know.
#[derive(Debug)]
pub struct Trusted {
    proxies: Vec<IpNet>,
    user: HeaderName,
    role: Option<HeaderName>,
    chats: Option<HeaderName>,
}

impl Trusted {
    /// # Errors
    /// If no proxy is named, or a header's name is none.
    pub fn new(settings: &AccessSettings) -> anyhow::Result<Self> {
        ensure!(!settings.auth_proxies.is_empty(), "trusted-header needs CHAT_SYNC_AUTH_PROXIES: whom to believe");
        let header = |setting, name: &str| {
            HeaderName::from_str(name).with_context(|| format!("{setting}: '{name}' is no header's name"))
        };
        let optional = |setting, name: &Option<String>| name.as_deref().map(|name| header(setting, name)).transpose();
        Ok(Self {
            proxies: settings.auth_proxies.clone(),
            user: header(
                "CHAT_SYNC_AUTH_USER_HEADER",
                settings.auth_user_header.as_deref().unwrap_or("x-forwarded-user"),
            )?,
            role: optional("CHAT_SYNC_AUTH_ROLE_HEADER", &settings.auth_role_header)?,
            chats: optional("CHAT_SYNC_AUTH_CHATS_HEADER", &settings.auth_chats_header)?,
        })
    }

    fn believes(&self, from: IpAddr) -> bool {
        // As an IPv4 address where it is one: a socket for both kinds shows it as ::ffff:10.0.0.1.
        let from = from.to_canonical();
        self.proxies.iter().any(|proxy| proxy.contains(&from))
    }

    /// What the nearest proxy says of where its client is; further ones may be the client's invention.
    pub(super) fn address(&self, headers: &HeaderMap, from: IpAddr) -> IpAddr {
        if !self.believes(from) {
            return from;
        }
        let told = headers.get_all("x-forwarded-for").iter().next_back().and_then(|value| value.to_str().ok());
        told.and_then(|told| told.rsplit(',').next()?.trim().parse().ok()).unwrap_or(from)
    }

    pub(super) fn admit(&self, headers: &HeaderMap, from: IpAddr) -> Result<Viewer, Refusal> {
        if !self.believes(from) {
            return Err(Refusal::NoUser);
        }
        let name = only_one(headers, &self.user).filter(|name| !name.is_empty()).ok_or(Refusal::NoUser)?;
        // A header that is configured and does not come gives nothing, rather than everything.
        let role = match &self.role {
            Some(header) if only_one(headers, header) == Some("operator") => Role::Operator,
            _ => Role::Reader,
        };
        let chats = match &self.chats {
            None => Chats::EVERY,
            Some(header) => chats(only_one(headers, header).unwrap_or_default()),
        };
        Ok(Viewer { name: name.to_owned(), role, chats, by: By::Proxy { until: now() + ASK_AGAIN.as_secs() } })
    }
}

/// A header that came twice may be the client's beside the proxy's: then it counts for nothing.
fn only_one<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (Some(value), None) => value.to_str().ok().map(str::trim),
        _ => None,
    }
}

fn chats(list: &str) -> Chats {
    if list == "*" {
        return Chats::EVERY;
    }
    Chats::Only(list.split(',').map(str::trim).filter(|chat| !chat.is_empty()).map(str::to_owned).collect())
}
