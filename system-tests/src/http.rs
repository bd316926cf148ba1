//! Asking over HTTP.

use std::time::Duration;

use reqwest::{Client, ClientBuilder, Response};

/// A client; what it asks may take as long as it does.
///
/// # Panics
/// If none can be made.
pub fn client() -> Client {
    builder().build().expect("a client")
}

/// One that gives up after so long.
///
/// # Panics
/// If none can be made.
pub fn client_within(limit: Duration) -> Client {
    builder().timeout(limit).build().expect("a client")
}

/// Without the machine's certificates: reading them takes longer than most of what is asked, and clients cannot be shared,
/// since a connection that is kept belongs to one test's runtime.
fn builder() -> ClientBuilder {
    platform::tls::provide();
    Client::builder().tls_certs_only([])
}

/// # Errors
/// As reqwest's own.
pub async fn get(url: impl reqwest::IntoUrl) -> reqwest::Result<Response> {
    client().get(url).send().await
}
