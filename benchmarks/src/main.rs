//! Benchmarks on real servers, each next to what people would use instead, in one run: on a machine that others use
//! too, ratios say more than figures. `cargo xtask bench` starts the servers and runs this.

mod all;
mod crowd;
mod fan_out;
mod figures;
mod flood;
mod gate;
mod ingest;
mod latency;
mod plain;
mod pods;
mod regions;
mod replay;
mod rows;
mod stores;
mod straight;
mod verify;
mod whole;
mod writing;

use clap::Parser;

#[tokio::main]
async fn main() -> std::process::ExitCode {
    platform::lifecycle::exit_code("bench", all::run(all::Args::parse()).await)
}
