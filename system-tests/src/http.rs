//! Asking over HTTP.

use std::time::Duration;

use reqwest::{Client, Response};

/// A client of this process; what it asks may take as long as it does.
///
/// # Panics
/// If none can be made.
pub fn client() -> Client {
    platform::tls::provide();
    Client::new()
}

/// One that gives up after so long.
///
/// # Panics
/// If none can be made.
pub fn client_within(limit: Duration) -> Client {
    platform::tls::provide();
    Client::builder().timeout(limit).build().expect("a client")
}

/// # Errors
/// As reqwest's own.
pub async fn get(url: impl reqwest::IntoUrl) -> reqwest::Result<Response> {
    client().get(url).send().await
}
