//! Decisions a second of the version gate.

use std::time::{Duration, Instant};

use anyhow::Context;
use clap::Parser;
use deadpool_redis::redis::Script;
use internal::gate::Gate;
use internal::redis_gate::RedisGate;
use internal::shown::ShownMessage;
use platform::config::Secret;
use platform::testing::server;

use crate::figures::{Table, rate, thousands};
use crate::rows::message;

const ROWS: usize = 40_000;
/// What one read of the log brings, of one chat.
const BATCH: usize = 200;
const SINGLE: usize = 10_000;

#[derive(Parser)]
struct Args {
    #[command(flatten)]
    settings: internal::Settings,
}

pub async fn run() -> anyhow::Result<Table> {
    let url = Secret::new(server("CHAT_SYNC_TEST_REDIS").context("Redis")?);
    let pool = platform::redis::pool(&url, &platform::redis::RedisTls::default(), 4, Duration::from_secs(5))?;
    let settings = Args::parse_from(["bench", "--gate-deadline", "10s"]).settings;
    let gate = RedisGate::new(pool.clone(), &settings);
    let rows: Vec<ShownMessage> = (0..ROWS).map(|n| ShownMessage::from(&message(n / BATCH, n, 1))).collect();
    let started = Instant::now();
    for part in rows.chunks(BATCH) {
        gate.judge(part).await?;
    }
    let ours = rate(ROWS, started.elapsed());

    let script = Script::new(
        "local known = redis.call('HGET', KEYS[1], 'v')
         if known and known >= ARGV[1] then return 0 end
         redis.call('HSET', KEYS[1], 'v', ARGV[1], 'row', ARGV[2])
         redis.call('EXPIRE', KEYS[1], 86400)
         return 1",
    );
    let mut connection = pool.get().await?;
    let started = Instant::now();
    for row in rows.iter().take(SINGLE) {
        let key = format!("plain:{}:{}", row.chat_id, row.id);
        let body = serde_json::to_string(row)?;
        let _: i64 = script.key(key).arg(row.version.as_str()).arg(body).invoke_async(&mut connection).await?;
    }
    let single = rate(SINGLE, started.elapsed());
    Ok(Table {
        name: "gate",
        what: format!("Decisions a second, {BATCH} messages of a chat at once, next to one awaited EVALSHA each."),
        columns: vec!["decisions/s"],
        rows: vec![
            ("gate".into(), vec![thousands(ours)]),
            ("one EVALSHA each".into(), vec![thousands(single)]),
            ("ratio".into(), vec![format!("{:.1}x", ours / single)]),
        ],
    })
}
