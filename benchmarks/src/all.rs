//! Which benchmarks there are.

use std::path::PathBuf;

use crate::figures::Table;
use crate::{crowd, fan_out, flood, gate, ingest, latency, pods, regions, verify, whole, writing};

#[derive(clap::Parser)]
pub struct Args {
    /// Only these: writer, gate, fan_out, crowd, pods, flood, latency, ingest, whole, regions, verify.
    only: Vec<String>,
    /// Where the JSON goes.
    #[arg(long, default_value = "target/benchmarks.json")]
    json: PathBuf,
}

/// No benchmark, but what `fan_out` starts to measure next to.
pub const RAW_SEND: &str = "raw-send";
const NAMES: [&str; 11] =
    ["writer", "gate", "fan_out", "crowd", "pods", "flood", "latency", "ingest", "whole", "regions", "verify"];

pub async fn run(args: Args) -> anyhow::Result<()> {
    if args.only == [RAW_SEND] {
        return fan_out::raw_send();
    }
    let unknown = args.only.iter().find(|only| !NAMES.contains(&only.as_str()));
    anyhow::ensure!(
        unknown.is_none(),
        "there is no benchmark {}; there are: {NAMES:?}",
        unknown.map_or("", |name| name)
    );
    let mut tables: Vec<Table> = Vec::new();
    for name in NAMES.into_iter().filter(|name| args.only.is_empty() || args.only.iter().any(|only| only == name)) {
        eprintln!("… {name}");
        let table = match name {
            "writer" => writing::run().await?,
            "gate" => gate::run().await?,
            "fan_out" => fan_out::run().await?,
            "crowd" => crowd::run().await?,
            "pods" => pods::run().await?,
            "flood" => flood::run().await?,
            "latency" => latency::run().await?,
            "ingest" => ingest::run().await?,
            "whole" => whole::run().await?,
            "regions" => regions::run().await?,
            _ => verify::run().await?,
        };
        println!("{table}");
        tables.push(table);
    }
    std::fs::write(&args.json, serde_json::to_string_pretty(&tables)?)?;
    eprintln!("as JSON: {}", args.json.display());
    Ok(())
}
