use std::sync::Arc;

use platform::event_log::kafka::Kafka;
use platform::health::Health;
use platform::lifecycle::{DRAIN_BUDGET, Parts, Stop, stop_on_signals};
use synchronizer::Config;
use synchronizer::postgres_stored::PostgresStored;
use synchronizer::vendor::Vendor;

#[tokio::main]
async fn main() -> std::process::ExitCode {
    let config: Config = platform::config::load().unwrap_or_else(|error| error.exit());
    platform::lifecycle::exit_code("synchronizer", run(config).await)
}

async fn run(config: Config) -> anyhow::Result<()> {
    platform::telemetry::start_logging(&config.log)?;
    platform::telemetry::start_metrics();
    let (stop, health, mut parts) = (Stop::new(), Health::new(), Parts::new());
    stop_on_signals(&stop)?;
    let listener = platform::http::listen(config.listen, "--listen").await?;
    parts.spawn("http", platform::http::serve(listener, platform::http::about(health.clone()), stop.clone()));
    let leadership = config.leadership(&mut parts, &stop).await?;
    let source = Arc::new(Vendor::new(&config.settings)?);
    let log = Arc::new(Kafka::reached_by(&config.kafka)?);
    let stored = Arc::new(PostgresStored::new(platform::postgres::pool(&config.database_url, 4, false)?));
    let run = synchronizer::run(config.settings, source, stored, log, leadership, health, stop.clone());
    parts.spawn("synchronizer", run);
    parts.join(&stop, DRAIN_BUDGET).await
}
