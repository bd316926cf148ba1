//! From which pages browsers may come: any site may let a visitor's browser ask any other.

use std::net::IpAddr;
use std::str::FromStr;

use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderName, Uri, header};
use platform::regions::Region;

/// A page's origin, as `https://chat.example.org` or `http://localhost:8080`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin(String);

impl FromStr for Origin {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || format!("'{text}' is no origin; write https://chat.example.org, without a path");
        let uri: Uri = text.parse().map_err(|_| wrong())?;
        let bare = uri.path() == "/" && uri.query().is_none() && !text.ends_with('/');
        match (uri.scheme_str(), uri.authority()) {
            (Some("http" | "https"), Some(_)) if bare => Ok(Self(text.to_ascii_lowercase())),
            _ => Err(wrong()),
        }
    }
}

impl Origin {
    fn authority(&self) -> &str {
        self.0.split_once("://").map_or("", |(_, authority)| authority)
    }
}

/// Which pages may.
#[derive(Debug, Clone)]
pub struct Origins {
    /// These; if there are none, this server's own.
    listed: Vec<Origin>,
    /// Those of the regions, this one's among them: a page that was lost by one asks another.
    regions: Vec<Origin>,
    /// On a loopback address a server goes by a loopback name, or a listed one: any other that points there is of a site
    /// that lets a visitor's browser read what only this machine should (DNS rebinding).
    loopback: bool,
}

impl Origins {
    pub fn new(listed: Vec<Origin>, regions: &[Region], listen: IpAddr) -> Self {
        let regions = regions.iter().map(|region| Origin(region.url.to_ascii_lowercase())).collect();
        Self { listed, regions, loopback: listen.is_loopback() }
    }

    /// The regions', as browsers write them.
    pub fn of_regions(&self) -> Vec<String> {
        self.regions.iter().map(|origin| origin.0.clone()).collect()
    }

    /// Whether this server goes by the name that is asked for.
    pub fn knows_host(&self, headers: &HeaderMap) -> bool {
        let named = |host: &str| self.all().any(|origin| origin.authority().eq_ignore_ascii_case(host));
        !self.loopback || text(headers, &header::HOST).is_some_and(|host| is_loopback(host) || named(host))
    }

    /// Whether this page may open a WebSocket. Programs say nothing of a page.
    pub fn admit(&self, headers: &HeaderMap) -> bool {
        let Some(origin) = text(headers, &header::ORIGIN) else { return !headers.contains_key(header::ORIGIN) };
        let origin = origin.to_ascii_lowercase();
        let own = || origin.split_once("://").map(|(_, authority)| authority) == text(headers, &header::HOST);
        self.all().any(|one| one.0 == origin) || (self.listed.is_empty() && own())
    }

    fn all(&self) -> impl Iterator<Item = &Origin> {
        self.listed.iter().chain(&self.regions)
    }
}

fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

fn is_loopback(host: &str) -> bool {
    let Ok(authority) = host.parse::<Authority>() else { return false };
    let name = authority.host().trim_start_matches('[').trim_end_matches(']');
    let address = name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
    address || name == "localhost" || name.ends_with(".localhost")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(host: &str, origin: Option<&str>) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, host.parse().unwrap());
        if let Some(origin) = origin {
            headers.insert(header::ORIGIN, origin.parse().unwrap());
        }
        headers
    }

    #[test]
    fn only_this_servers_own_page_may_connect() {
        let own = Origins::new(Vec::new(), &[], "10.0.0.1".parse().unwrap());
        assert!(own.admit(&headers("chat.example", None)));
        assert!(own.admit(&headers("chat.example:81", Some("http://chat.example:81"))));
        for foreign in ["https://evil.example", "http://chat.example", "null", "chat.example:81"] {
            assert!(!own.admit(&headers("chat.example:81", Some(foreign))), "{foreign}");
        }
    }

    #[test]
    fn a_loopback_address_goes_by_a_loopback_name() {
        let own = Origins::new(Vec::new(), &[], "127.0.0.1".parse().unwrap());
        for host in ["localhost:30002", "127.0.0.1:1", "[::1]:30002", "a.localhost"] {
            assert!(own.knows_host(&headers(host, None)), "{host}");
        }
        for host in ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example:30002", "[::2]"] {
            assert!(!own.knows_host(&headers(host, None)), "{host}");
        }
        assert!(Origins::new(Vec::new(), &[], "0.0.0.0".parse().unwrap()).knows_host(&headers("chat.example", None)));
    }

    #[test]
    fn a_page_of_another_region_may_too() {
        let regions: Vec<Region> =
            ["a=https://a.example", "b=https://b.example:8443"].map(|text| text.parse().unwrap()).into();
        let origins = Origins::new(Vec::new(), &regions, "127.0.0.1".parse().unwrap());
        for may in ["https://a.example", "https://b.example:8443", "http://inner:1"] {
            assert!(origins.admit(&headers("inner:1", Some(may))), "{may}");
        }
        assert!(!origins.admit(&headers("inner:1", Some("https://b.example"))));
        assert!(origins.knows_host(&headers("b.example:8443", None)));
    }

    #[test]
    fn listed_pages_may_and_no_others() {
        let listed = vec!["https://chat.example".parse().unwrap(), "http://Other.example:81".parse().unwrap()];
        let listed = Origins::new(listed, &[], "127.0.0.1".parse().unwrap());
        assert!(listed.admit(&headers("inner:1", Some("https://chat.example"))));
        assert!(listed.admit(&headers("inner:1", Some("http://other.example:81"))));
        assert!(!listed.admit(&headers("inner:1", Some("http://inner:1"))), "not listed");
        assert!(
            listed.knows_host(&headers("other.example:81", None)) && listed.knows_host(&headers("localhost", None))
        );
        assert!(!listed.knows_host(&headers("evil.example", None)), "a listed page opens the door to no other name");
        for wrong in ["chat.example", "https://chat.example/", "https://chat.example/a", "ftp://a", "", "*"] {
            assert!(wrong.parse::<Origin>().is_err(), "{wrong}");
        }
    }
}
