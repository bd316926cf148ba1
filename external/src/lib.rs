//! The stranger: a simulated chat vendor with a page, a REST API and a change feed that is polled.
//!
//! It speaks its own language and knows nothing of the copy that others keep of it.

pub mod actors;
pub mod chat;
pub mod config;
pub mod feed;
pub mod http_api;
pub mod misbehaviour;
pub mod replay;
mod slack_log;
mod store;

use anyhow::Context;
use platform::health::Health;
use platform::lifecycle::{DRAIN_BUDGET, Parts, Stop};
use platform::sqlite::Sqlite;
use platform::tls::Files;
use tokio::net::TcpListener;

pub use chat::Vendor;
pub use config::Config;

/// Serves the vendor until the stop signal.
///
/// # Errors
/// If the database cannot be used, or a part fails.
pub async fn run(config: Config, db: Sqlite, health: Health, listener: TcpListener, stop: Stop) -> anyhow::Result<()> {
    let names = ["CHAT_SYNC_EXTERNAL_TLS_CERT", "CHAT_SYNC_EXTERNAL_TLS_KEY"];
    let tls = Files::both(names, config.tls_cert, config.tls_key)?;
    let database = health.check("sqlite");
    let vendor = Vendor::open(db, config.keep_changes).await.context("the vendor's database")?;
    database.ready("open");
    let mut parts = Parts::new();
    let router = http_api::router(vendor.clone(), stop.clone()).merge(platform::http::about(health));
    parts.spawn("http", platform::http::serve_with(listener, tls, router, stop.clone()));
    if !config.replay.is_empty() {
        parts.spawn("replay", replay::run(vendor.clone(), config.replay, config.speed, stop.clone()));
    } else if !config.quiet {
        parts.spawn("actors", actors::run(vendor, stop.clone()));
    }
    parts.join(&stop, DRAIN_BUDGET).await
}
