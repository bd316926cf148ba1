//! Shows the copy live: reads the log, asks the gate, pushes to browsers.

pub mod config;
pub mod copy;
pub mod from_log;
pub mod gate;
pub mod gate_suite;
pub mod http_api;
pub mod hub;
pub mod load;
pub mod outbox;
pub mod postgres_copy;
pub mod redis_gate;
pub mod resume;
pub mod ring;
pub mod shown;
pub mod to_browser;

use std::sync::Arc;

use platform::event_log::EventLog;
use platform::health::Health;
use platform::lifecycle::{DRAIN_BUDGET, Parts, Stop};
use tokio::net::TcpListener;

pub use config::{Config, Settings};
use copy::ChatCopy;
use from_log::FromLog;
use gate::Gate;
use hub::Hub;

/// Serves browsers until the stop signal.
///
/// # Errors
/// If a part fails.
pub async fn run(
    settings: Settings,
    log: Arc<dyn EventLog>,
    copy: Arc<dyn ChatCopy>,
    gate: Arc<dyn Gate>,
    health: Health,
    listener: TcpListener,
    stop: Stop,
) -> anyhow::Result<()> {
    let hub = Arc::new(Hub::new(&settings));
    let mut parts = Parts::new();
    let from_log = FromLog::new(&settings, log, copy.clone(), gate, hub.clone(), &health);
    let consuming = stop.clone();
    parts.spawn("log", async move {
        tokio::select! {
            () = consuming.cancelled() => Ok(()),
            ended = from_log.run() => ended,
        }
    });
    let router = http_api::router(hub, copy, stop.clone()).merge(platform::http::about(health));
    parts.spawn("http", platform::http::serve(listener, router, stop.clone()));
    parts.join(&stop, DRAIN_BUDGET).await
}
