use internal::Config;
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
    let door = config.door().await?;
    let world = config.world()?;
    internal::run(config.settings, world, Health::new(), door, stop).await
}
