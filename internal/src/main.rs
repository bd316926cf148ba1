use std::sync::Arc;
use std::time::Duration;

use internal::postgres_copy::PostgresCopy;
use internal::redis_gate::RedisGate;
use internal::{Config, World};
use platform::dead_letters::PostgresLetters;
use platform::event_log::kafka::Kafka;
use platform::health::Health;
use platform::lifecycle::{Stop, stop_on_signals};

#[tokio::main]
async fn main() -> std::process::ExitCode {
    let config: Config = platform::config::load().unwrap_or_else(|error| error.exit());
    platform::lifecycle::exit_code("internal", run(config).await)
}

async fn run(config: Config) -> anyhow::Result<()> {
    platform::telemetry::start_logging(&config.log)?;
    platform::telemetry::start_metrics();
    let stop = Stop::new();
    stop_on_signals(&stop)?;
    let listener = platform::http::listen(config.listen, "--listen").await?;
    let pool = platform::postgres::pool(&config.database_url, 8, false)?;
    let copy = Arc::new(PostgresCopy::new(pool.clone()));
    let redis = platform::redis::pool(&config.redis_url, 4, Duration::from_millis(500))?;
    let world = World {
        log: Arc::new(Kafka::new(&config.kafka)?),
        copy: copy.clone(),
        history: copy,
        letters: Arc::new(PostgresLetters::new(pool)),
        gate: Arc::new(RedisGate::new(redis, &config.settings)),
    };
    internal::run(config.settings, world, Health::new(), listener, stop).await
}
