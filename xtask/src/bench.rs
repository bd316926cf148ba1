//! `cargo xtask bench`: the benchmarks, on real servers that are started here and stopped here.

use std::process::Command;

use anyhow::Context;

use crate::process::{self, root, run as run_command};
use crate::{fetch, test};

pub fn run(only: &[String]) -> anyhow::Result<()> {
    eprintln!("Building everything for release (minutes at the first time)");
    run_command(process::cargo().args(["build", "--release", "--workspace", "--bins", "--locked"]))?;
    let folder = tempfile::Builder::new().prefix("chat-sync-bench-").tempdir()?;
    eprintln!("Starting the real servers in {}", folder.path().display());
    let world = test::start(folder.path())?;
    let own = std::env::current_exe()?;
    let target = own.ancestors().nth(2).context("no folder of programs")?;
    std::fs::create_dir_all(root().join("target"))?;
    let mut bench = Command::new(target.join("release/bench"));
    bench.current_dir(root()).args(only).envs(world.variables.iter().map(|(name, value)| (name, value)));
    let wanted = |name: &str| only.is_empty() || only.iter().any(|only| only == name);
    if wanted("writer") {
        bench.env("CHAT_SYNC_BENCH_SINK", fetch::sink()?);
    }
    if wanted("fan_out") {
        bench.env("CHAT_SYNC_BENCH_NODE", fetch::node_peers()?);
    }
    run_command(&mut bench)
}
