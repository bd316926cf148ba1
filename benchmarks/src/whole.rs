//! The highest rate at which the whole stack on this machine keeps its lag under a second.

use std::time::{Duration, Instant};

use system_tests::metrics;

use crate::figures::{Table, percentiles, thousands};
use crate::replay;

/// How long each rate is held, in seconds.
const HELD: u64 = 60;
/// How often it is looked how far everything is.
const LOOK: Duration = Duration::from_millis(200);
/// The first one is not counted: connections are opened and plans are made.
const RATES: &[u64] = &[1_000, 2_000, 3_000, 4_000, 5_000, 6_000];
/// The log's channels; its first lines make the chats, which are changes too.
const CHANNELS: u64 = 10;

/// A log in which people write in ten channels, at one rate after another.
fn log() -> String {
    let (mut log, mut number, mut begun) = (String::new(), 0, 0);
    for rate in RATES {
        for of in 0..rate * HELD {
            replay::write(&mut log, number, number % CHANNELS, begun + of * 1_000_000 / rate);
            number += 1;
        }
        begun += HELD * 1_000_000;
    }
    log
}

pub async fn run() -> anyhow::Result<Table> {
    let pipeline = replay::begin(log(), "1").await?;
    let (mut rows, mut best, mut before) = (Vec::new(), 0, i64::try_from(CHANNELS)?);
    for (number, rate) in RATES.iter().enumerate() {
        let all = before + i64::try_from(rate * HELD)?;
        let (lags, took) = follow(&pipeline.vendor_address, &pipeline.writer_address, before, all).await?;
        before = all;
        let written = (rate * HELD) as f64 / took.as_secs_f64();
        let worst = lags.iter().max().copied().unwrap_or_default();
        if number > 0 {
            let figures = percentiles(lags).map(|lag| format!("{lag} ms"));
            rows.push((
                format!("{} a second asked", thousands(*rate as f64)),
                [vec![thousands(written)], figures.to_vec()].concat(),
            ));
        }
        if worst >= Duration::from_secs(1) || written < 0.9 * *rate as f64 {
            break;
        }
        best = *rate;
    }
    rows.push(("highest that kept it under 1 s".into(), vec![thousands(best as f64), "".into(), "".into(), "".into()]));
    Ok(Table {
        name: "whole",
        what: format!(
            "Messages a second through everything on this machine, the simulated vendor included, one rate after \
             another, each held for {HELD} s; the lag is from a message at the vendor to its row in Postgres, looked at \
             five times a second."
        ),
        columns: vec!["written", "p50", "p99", "worst lag"],
        rows,
    })
}

/// Until the vendor has written them all: the lags that were seen, and how long it took.
///
/// What is stored is asked of the writer: to count the rows would cost the database more than storing them.
async fn follow(vendor: &str, writer: &str, before: i64, all: i64) -> anyhow::Result<(Vec<Duration>, Duration)> {
    let begun = Instant::now();
    let mut looks: Vec<(Instant, i64)> = Vec::new();
    let (mut lags, mut first) = (Vec::new(), None);
    loop {
        let changes = metrics::value(vendor, "chat_sync_external_changes_total").await.unwrap_or(0.0) as i64;
        let now = Instant::now();
        looks.push((now, changes));
        if changes > before {
            first.get_or_insert(now);
        }
        let stored = metrics::value(writer, "chat_sync_writer_rows_newer_total").await.unwrap_or(0.0) as i64;
        looks.retain(|(_, count)| *count > stored);
        // The oldest look whose messages are not all stored yet.
        lags.push(looks.first().map_or(Duration::ZERO, |(at, _)| at.elapsed()));
        if let Some(first) = first
            && changes >= all
        {
            return Ok((lags, now - first));
        }
        anyhow::ensure!(begun.elapsed() < Duration::from_secs(4 * HELD), "{changes} of {all} are written");
        tokio::time::sleep(LOOK).await;
    }
}
