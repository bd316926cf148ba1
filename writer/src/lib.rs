//! Consumes the log and keeps the copy: one transaction a batch, rows and progress together.

pub mod batch;
pub mod config;
pub mod failure;
pub mod from_log;
pub mod store;
pub mod suite;
pub mod to_postgres;

use std::sync::Arc;

use platform::event_log::EventLog;
use platform::health::Health;
use platform::lifecycle::Stop;

pub use config::{Command, Config, Settings};
pub use store::Store;

/// Applies the log to the store until the stop signal.
///
/// # Errors
/// None that may pass by itself; those are waited for.
pub async fn run(
    settings: Settings,
    log: Arc<dyn EventLog>,
    store: Arc<dyn Store>,
    health: Health,
    stop: Stop,
) -> anyhow::Result<()> {
    let (log_check, store_check) = (health.check("log"), health.check("store"));
    tokio::select! {
        () = stop.cancelled() => Ok(()),
        ended = from_log::FromLog::new(settings, log, store, log_check, store_check).run() => ended,
    }
}
