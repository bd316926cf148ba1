//! Benchmarks on real servers, each next to what people would use instead, in one run: on a machine that others use
//! too, ratios say more than figures. `cargo xtask bench` starts the servers and runs this.

mod figures;
mod gate;
mod ingest;
mod latency;
mod plain;
mod rows;
mod whole;
mod writing;

use std::path::PathBuf;

use clap::Parser;
use figures::Table;

#[derive(Parser)]
struct Args {
    /// Only these: writer, gate, latency, ingest, whole.
    only: Vec<String>,
    /// Where the JSON goes.
    #[arg(long, default_value = "target/benchmarks.json")]
    json: PathBuf,
}

#[tokio::main]
async fn main() -> std::process::ExitCode {
    platform::lifecycle::exit_code("bench", run(Args::parse()).await)
}

async fn run(args: Args) -> anyhow::Result<()> {
    let mut tables: Vec<Table> = Vec::new();
    let wanted = |name: &str| args.only.is_empty() || args.only.iter().any(|only| only == name);
    for name in ["writer", "gate", "latency", "ingest", "whole"].into_iter().filter(|name| wanted(name)) {
        eprintln!("… {name}");
        let table = match name {
            "writer" => writing::run().await?,
            "gate" => gate::run().await?,
            "latency" => latency::run().await?,
            "ingest" => ingest::run().await?,
            _ => whole::run().await?,
        };
        println!("{table}");
        tables.push(table);
    }
    std::fs::write(&args.json, serde_json::to_string_pretty(&tables)?)?;
    eprintln!("as JSON: {}", args.json.display());
    Ok(())
}
