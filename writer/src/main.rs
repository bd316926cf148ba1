use std::sync::Arc;

use platform::event_log::kafka::Kafka;
use platform::health::Health;
use platform::lifecycle::{DRAIN_BUDGET, Parts, Stop, stop_on_signals};
use writer::to_postgres::Postgres;
use writer::{Command, Config, Store};

#[tokio::main]
async fn main() -> std::process::ExitCode {
    let config: Config = platform::config::load().unwrap_or_else(|error| error.exit());
    platform::lifecycle::exit_code("writer", run(config).await)
}

async fn run(config: Config) -> anyhow::Result<()> {
    platform::telemetry::start_logging(&config.log)?;
    platform::telemetry::start_metrics();
    let store = Arc::new(Postgres::new(platform::postgres::pool(&config.database_url, 4, true)?));
    if let Some(Command::Migrate) = config.command {
        return Ok(store.migrate().await?);
    }
    let (stop, health, mut parts) = (Stop::new(), Health::new(), Parts::new());
    stop_on_signals(&stop)?;
    let listener = platform::http::listen(config.listen, "--listen").await?;
    parts.spawn("http", platform::http::serve(listener, platform::http::about(health.clone()), stop.clone()));
    let log = Arc::new(Kafka::reached_by(&config.kafka)?);
    parts.spawn("writer", writer::run(config.settings, log, store, health, stop.clone()));
    parts.join(&stop, DRAIN_BUDGET).await
}
