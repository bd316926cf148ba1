//! Rows a second into Postgres.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::Context;
use contract::Message;
use platform::event_log::TopicPartition;
use platform::testing::postgres_database;
use sqlx::PgPool;
use writer::Store;
use writer::batch::collapse;
use writer::store::Progress;
use writer::to_postgres::Postgres;

use crate::figures::{Table, rate, thousands};
use crate::rows::{fated, message};

const ROWS: usize = 60_000;
const BATCH: usize = 2_000;
/// One row a statement is slow; fewer of them tell as much.
const SINGLE: usize = 1_500;

pub async fn run() -> anyhow::Result<Table> {
    let url = postgres_database().await.context("Postgres")?;
    let pool = platform::postgres::pool(&url, 4, true)?;
    let store = Postgres::new(pool.clone());
    store.migrate().await?;
    let fresh: Vec<Message> = (0..ROWS).map(|number| message(number % 500, number, 1)).collect();
    let updates: Vec<Message> = (0..ROWS).map(|number| message(number % 500, number, 2)).collect();
    let mut position = 0;
    let mut ours = Vec::new();
    for rows in [&fresh, &updates, &fresh] {
        ours.push(rate(ROWS, through_the_writer(&store, rows, &mut position).await?));
    }
    let mut single = Vec::new();
    sqlx::raw_sql("TRUNCATE messages").execute(&pool).await?;
    for rows in [&fresh, &updates, &fresh] {
        single.push(rate(SINGLE, one_a_statement(&pool, &rows[..SINGLE]).await?));
    }
    sqlx::raw_sql("TRUNCATE messages, message_versions").execute(&pool).await?;
    let copy = rate(ROWS, raw_copy(&pool, &fresh).await?);
    let figures = |rates: &[f64]| rates.iter().map(|rate| thousands(*rate)).collect::<Vec<_>>();
    let ratio = |at: usize| format!("{:.0}x", ours[at] / single[at]);
    Ok(Table {
        name: "writer",
        what: format!(
            "Rows a second into Postgres, durable commits, {ROWS} rows of 500 chats; ours is the whole path from read \
             records: collapse, rows, every version, position, one transaction for {BATCH} records."
        ),
        columns: vec!["fresh", "updates", "stale replays"],
        rows: vec![
            ("writer".into(), figures(&ours)),
            (format!("one row a statement, {SINGLE} rows"), figures(&single)),
            ("raw COPY into one table".into(), vec![thousands(copy), "-".into(), "-".into()]),
            ("writer next to one row a statement".into(), (0..3).map(ratio).collect()),
            ("writer next to COPY".into(), vec![format!("{:.2}x", ours[0] / copy), "-".into(), "-".into()]),
        ],
    })
}

async fn through_the_writer(store: &Postgres, rows: &[Message], position: &mut u64) -> anyhow::Result<Duration> {
    let started = Instant::now();
    for part in rows.chunks(BATCH) {
        let from = store.progress().await?;
        let from: BTreeMap<TopicPartition, Progress> = from.into_iter().collect();
        let batch = collapse(&fated(part, *position), &from);
        store.apply(&batch).await?;
        *position += part.len() as u64;
    }
    Ok(started.elapsed())
}

async fn one_a_statement(pool: &PgPool, rows: &[Message]) -> anyhow::Result<Duration> {
    let mut connection = pool.acquire().await?;
    let started = Instant::now();
    for row in rows {
        sqlx::query(
            "INSERT INTO messages AS stored (chat_id, id, author, text, created_at, deleted, version) \
             VALUES ($1, $2, $3, $4, to_micros($5), $6, $7) ON CONFLICT (chat_id, id) DO UPDATE \
             SET author = excluded.author, text = excluded.text, version = excluded.version \
             WHERE excluded.version > stored.version",
        )
        .bind(&row.chat_id)
        .bind(&row.id)
        .bind(&row.author)
        .bind(&row.text)
        .bind(i64::try_from(row.created_at.micros())?)
        .bind(row.stamp.deleted)
        .bind(row.version.as_str())
        .execute(&mut *connection)
        .await?;
    }
    Ok(started.elapsed())
}

async fn raw_copy(pool: &PgPool, rows: &[Message]) -> anyhow::Result<Duration> {
    let mut connection = pool.acquire().await?;
    let started = Instant::now();
    let columns = "COPY messages (chat_id, id, author, text, created_at, deleted, version) FROM STDIN";
    let mut copy = connection.copy_in_raw(columns).await?;
    for part in rows.chunks(BATCH) {
        let line = |row: &Message| {
            let (author, text) = (row.author.as_deref().unwrap_or(""), row.text.as_deref().unwrap_or(""));
            format!("{}\t{}\t{author}\t{text}\t{}\tf\t{}\n", row.chat_id, row.id, row.created_at, row.version)
        };
        copy.send(part.iter().map(line).collect::<String>().into_bytes()).await?;
    }
    copy.finish().await?;
    Ok(started.elapsed())
}
