use all_in_one::{AllInOne, Config, tools};
use platform::lifecycle::{Stop, stop_on_signals};

#[tokio::main]
async fn main() -> std::process::ExitCode {
    let config: Config = platform::config::load().unwrap_or_else(|error| error.exit());
    match config.tool.clone() {
        None => platform::lifecycle::exit_code("chat-sync", run(config).await),
        Some(tool) => tools::run(tool, &config).await.unwrap_or_else(|error| {
            eprintln!("chat-sync: {error:#}");
            std::process::ExitCode::from(2)
        }),
    }
}

async fn run(config: Config) -> anyhow::Result<()> {
    platform::telemetry::start_logging(&config.log)?;
    platform::telemetry::start_metrics();
    let stop = Stop::new();
    stop_on_signals(&stop)?;
    let file = config.file();
    let mirror = AllInOne::open(config).await?;
    let addresses = mirror.addresses()?;
    println!("chat-sync {}: everything in this process, on this machine only", env!("CARGO_PKG_VERSION"));
    println!("  write  http://{}  the simulated vendor", addresses.external);
    println!("  read   http://{}  its live copy", addresses.internal);
    println!("  watch  http://{}/ops  how the copy is doing", addresses.internal);
    println!("  data   {}", file.display());
    println!("ready; Ctrl-C stops");
    mirror.run(stop).await
}
