//! A vendor into which a log of ours is played.

use std::fmt::Write as _;

use anyhow::Context;
use system_tests::pipeline::{Options, Pipeline};

/// Adds a line: somebody writes in a channel, so many microseconds after the log's beginning.
pub fn write(log: &mut String, number: u64, channel: u64, micros: u64) {
    let (second, micro) = (1_767_000_000 + micros / 1_000_000, micros % 1_000_000);
    let _ = writeln!(
        log,
        r#"{{"type":"message","channel":"C{channel}","ts":"{second}.{micro:06}","user":"U{}","text":"message {number} as people write them, a line or so"}}"#,
        number % 7,
    );
}

/// A pipeline whose vendor has just begun to play this log, so many times faster than life.
pub async fn begin(log: String, speed: &str) -> anyhow::Result<Pipeline> {
    let mut pipeline = Pipeline::start(Options::default()).await.context("the servers")?;
    pipeline.ready().await;
    let file = pipeline.folder.path().join("log.jsonl");
    std::fs::write(&file, log)?;
    pipeline.external.terminate().await;
    pipeline.external.set("CHAT_SYNC_EXTERNAL_REPLAY", &file.display().to_string());
    pipeline.external.set("CHAT_SYNC_EXTERNAL_SPEED", speed);
    pipeline.external.start_again();
    Ok(pipeline)
}
