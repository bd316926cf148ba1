//! The highest rate at which the whole stack on this machine keeps its lag under a second.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use anyhow::Context;
use sqlx::PgPool;
use system_tests::metrics;
use system_tests::pipeline::{Options, Pipeline};
use system_tests::process::ready;

use crate::figures::{Table, thousands};

/// How long each rate is held, in seconds.
const HELD: u64 = 20;
/// How often it is looked how far everything is.
const LOOK: Duration = Duration::from_millis(200);
const RATES: &[u64] = &[1_000, 2_000, 3_000, 4_000, 5_000, 7_500];

/// A log in which people write at this rate, in ten channels.
fn log(rate: u64) -> String {
    let mut text = String::new();
    for number in 0..rate * HELD {
        let micros = number * 1_000_000 / rate;
        let (second, micro) = (1_767_000_000 + rate * 10_000 + micros / 1_000_000, micros % 1_000_000);
        let _ = writeln!(
            text,
            r#"{{"type":"message","channel":"C{}","ts":"{second}.{micro:06}","user":"U{}","text":"message {number} as people write them, a line or so"}}"#,
            number % 10,
            number % 7,
        );
    }
    text
}

pub async fn run() -> anyhow::Result<Table> {
    let mut pipeline = Pipeline::start(Options::default()).await.context("the servers")?;
    pipeline.ready().await;
    let copy = PgPool::connect(pipeline.database_url.expose()).await?;
    let (mut rows, mut best, mut before) = (Vec::new(), 0, 0);
    for rate in RATES {
        let file = pipeline.folder.path().join(format!("rate-{rate}.jsonl"));
        std::fs::write(&file, log(*rate))?;
        pipeline.external.terminate().await;
        pipeline.external.set("CHAT_SYNC_EXTERNAL_REPLAY", &file.display().to_string());
        pipeline.external.set("CHAT_SYNC_EXTERNAL_SPEED", "1");
        pipeline.external.start_again();
        ready(&pipeline.vendor_address).await;
        let all = before + i64::try_from(rate * HELD)?;
        let (worst, took) = follow(&pipeline.vendor_address, &copy, before, all).await?;
        before = all;
        let written = (rate * HELD) as f64 / took.as_secs_f64();
        rows.push((
            format!("{} a second asked", thousands(*rate as f64)),
            vec![thousands(written), format!("{:.2} s", worst.as_secs_f64())],
        ));
        if worst >= Duration::from_secs(1) || written < 0.9 * *rate as f64 {
            break;
        }
        best = *rate;
    }
    rows.push(("highest that kept it under 1 s".into(), vec![thousands(best as f64), String::new()]));
    Ok(Table {
        name: "whole",
        what: format!(
            "Messages a second through everything on this machine, the simulated vendor included, \
             each rate held for {HELD} s; the lag is from a message at the vendor to its row in Postgres, looked at five \
             times a second."
        ),
        columns: vec!["written", "worst lag"],
        rows,
    })
}

/// Until all are stored: the worst lag, and how long the vendor took to write them.
async fn follow(vendor: &str, copy: &PgPool, before: i64, all: i64) -> anyhow::Result<(Duration, Duration)> {
    let begun = Instant::now();
    let mut looks: Vec<(Instant, i64)> = Vec::new();
    let (mut worst, mut first, mut written) = (Duration::ZERO, None, None);
    loop {
        // Its ten chats are changes too.
        let changes = metrics::value(vendor, "chat_sync_external_changes_total").await.unwrap_or(0.0) as i64 - 10;
        let now = Instant::now();
        looks.push((now, changes));
        if changes > before {
            first.get_or_insert(now);
        }
        if changes >= all {
            written.get_or_insert(now);
        }
        let stored: i64 = sqlx::query_scalar("SELECT count(*) FROM messages").fetch_one(copy).await?;
        // The oldest look whose messages are not all stored yet.
        if let Some((at, _)) = looks.iter().find(|(_, count)| *count > stored) {
            worst = worst.max(at.elapsed());
        }
        looks.retain(|(_, count)| *count > stored);
        if let (Some(first), Some(written)) = (first, written)
            && stored >= all
        {
            return Ok((worst, written - first));
        }
        anyhow::ensure!(begun.elapsed() < Duration::from_secs(180), "{stored} of {all} are stored after 3 min");
        tokio::time::sleep(LOOK).await;
    }
}
