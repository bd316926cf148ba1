//! What it costs to prove a large copy complete.

use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::Value;
use system_tests::metrics;
use system_tests::pipeline::Pipeline;
use system_tests::tool;

use crate::figures::{Table, thousands};
use crate::replay;

const MESSAGES: u64 = 1_000_000;
const CHATS: u64 = 10_000;
/// How often it is looked how far everything is, and how much memory it takes.
const LOOK: Duration = Duration::from_millis(100);
/// Past it something is lost.
const PATIENCE: Duration = Duration::from_secs(1800);

/// A log in which everybody writes in every channel, one after the other.
fn log() -> String {
    let mut log = String::new();
    (0..MESSAGES).for_each(|number| replay::write(&mut log, number, number % CHATS, 1_000 * number));
    log
}

pub async fn run() -> anyhow::Result<Table> {
    let pipeline = replay::begin(log(), "max").await?;
    let begun = Instant::now();
    let stored = async || metrics::value(&pipeline.writer_address, "chat_sync_writer_rows_newer_total").await;
    while stored().await.unwrap_or(0.0) < (MESSAGES + CHATS) as f64 {
        anyhow::ensure!(begun.elapsed() < PATIENCE, "not everything came");
        tokio::time::sleep(LOOK).await;
    }
    let filled = begun.elapsed();
    let (took, peak, report) = verify(&pipeline, &[]).await?;
    let again = format!("again={}", pipeline.database_url.expose());
    let (took_two, peak_two, _) = verify(&pipeline, &["--also", &again]).await?;
    let count = |name: &str| report[name].as_u64().map_or_else(|| "?".to_owned(), |count| thousands(count as f64));
    let differing = report["differing"].as_object().map_or(0, serde_json::Map::len);
    let rows = [
        ("messages that were compared", count("messages")),
        ("chats", count("chats")),
        ("chats that differ", differing.to_string()),
        ("s", format!("{:.1}", took.as_secs_f64())),
        ("messages a second", thousands(MESSAGES as f64 / took.as_secs_f64())),
        ("MB of memory at most", format!("{:.0}", peak as f64 / 1024.0)),
        ("s, with `--also` the same copy once more", format!("{:.1}", took_two.as_secs_f64())),
        ("MB of memory at most, with that", format!("{:.0}", peak_two as f64 / 1024.0)),
        ("s until all of it was in the copy, from an empty one", format!("{:.0}", filled.as_secs_f64())),
    ];
    Ok(Table {
        name: "verify",
        what: format!(
            "`chat-sync verify` over {} messages in {} chats, source and copy on this machine, nobody writing.",
            thousands(MESSAGES as f64),
            thousands(CHATS as f64),
        ),
        columns: vec![""],
        rows: rows.into_iter().map(|(name, figure)| (name.to_owned(), vec![figure])).collect(),
    })
}

/// How long it took, the most memory in kB that was seen, and what it reported.
async fn verify(pipeline: &Pipeline, further: &[&str]) -> anyhow::Result<(Duration, u64, Value)> {
    let mut command = tool::command(pipeline, &[], &[&["verify", "--json"], further].concat());
    let begun = Instant::now();
    let mut child = command.stdout(Stdio::piped()).spawn()?;
    let mut peak = 0;
    while child.try_wait()?.is_none() {
        let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
        let resident = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB"));
        peak = peak.max(resident.and_then(|kilobytes| kilobytes.parse().ok()).unwrap_or(0));
        tokio::time::sleep(LOOK).await;
    }
    let took = begun.elapsed();
    let report = serde_json::from_slice(&child.wait_with_output()?.stdout)?;
    Ok((took, peak, report))
}
