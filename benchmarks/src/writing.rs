//! Rows a second into Postgres.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::Context;
use contract::Message;
use platform::event_log::{Progress, TopicPartition};
use platform::testing::postgres_database;
use sqlx::PgPool;
use writer::Store;
use writer::batch::collapse;
use writer::to_postgres::Postgres;

use crate::figures::{Table, rate, thousands};
use crate::rows::{fated, message};
use crate::stores::{self, Rates};

pub const ROWS: usize = 60_000;
pub const BATCH: usize = 2_000;
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
    let whole = measure(&pool, &store, &fresh, &updates, &mut position).await?;
    sqlx::raw_sql("DROP INDEX messages_by_words").execute(&pool).await?;
    let plain = measure(&pool, &store, &fresh, &updates, &mut position).await?;
    let through_the_log = stores::measure([&fresh, &updates, &fresh]).await?;
    let rates = |rates: &[f64]| rates.iter().map(|rate| thousands(*rate)).collect::<Vec<_>>();
    let mut rows = Vec::new();
    for (note, figures) in [("", &whole), (", without the search index", &plain)] {
        let ratios = (0..3).map(|at| format!("{:.0}x", figures.ours[at] / figures.single[at])).collect();
        let nothing = || "-".to_owned();
        rows.push((format!("writer{note}"), rates(&figures.ours)));
        rows.push((format!("one row a statement, {SINGLE} rows{note}"), rates(&figures.single)));
        rows.push((format!("raw COPY into that table{note}"), vec![thousands(figures.copy), nothing(), nothing()]));
        rows.push((format!("writer next to one row a statement{note}"), ratios));
        let ratio = format!("{:.2}x", figures.ours[0] / figures.copy);
        rows.push((format!("writer next to COPY{note}"), vec![ratio, nothing(), nothing()]));
    }
    let Rates { writer, sink } = &through_the_log;
    rows.push(("the writer's process, from the log".into(), rates(writer)));
    rows.push(("Debezium's JDBC sink, from the log".into(), rates(sink)));
    let ratios = writer.iter().zip(sink).map(|(ours, theirs)| format!("{:.1}x", ours / theirs)).collect();
    rows.push(("writer next to the sink".into(), ratios));
    Ok(Table {
        name: "writer",
        what: format!(
            "Rows a second into Postgres, durable commits, {ROWS} rows of 500 chats; ours is from records in memory: \
             collapse, rows, every version, position, one transaction for {BATCH} records; COPY fills one table. From the \
             log, processes read what was appended before; the sink (one task, upserts in batches of {BATCH}) compares \
             no versions and keeps none; its table has the same indexes."
        ),
        columns: vec!["fresh", "updates", "stale replays"],
        rows,
    })
}

struct Figures {
    ours: Vec<f64>,
    single: Vec<f64>,
    copy: f64,
}

async fn measure(
    pool: &PgPool,
    store: &Postgres,
    fresh: &[Message],
    updates: &[Message],
    position: &mut u64,
) -> anyhow::Result<Figures> {
    const EMPTY: &str = "TRUNCATE messages, message_versions";
    sqlx::raw_sql(EMPTY).execute(pool).await?;
    let (mut ours, mut single) = (Vec::new(), Vec::new());
    for rows in [fresh, updates, fresh] {
        ours.push(rate(ROWS, through_the_writer(store, rows, position).await?));
    }
    sqlx::raw_sql(EMPTY).execute(pool).await?;
    for rows in [fresh, updates, fresh] {
        single.push(rate(SINGLE, one_a_statement(pool, &rows[..SINGLE]).await?));
    }
    sqlx::raw_sql(EMPTY).execute(pool).await?;
    let copy = rate(ROWS, raw_copy(pool, fresh).await?);
    Ok(Figures { ours, single, copy })
}

async fn through_the_writer(store: &Postgres, rows: &[Message], position: &mut u64) -> anyhow::Result<Duration> {
    let records: Vec<_> = rows
        .chunks(BATCH)
        .map(|part| {
            let records = fated(part, *position);
            *position += part.len() as u64;
            records
        })
        .collect();
    let started = Instant::now();
    for part in &records {
        let from = store.progress().await?;
        let from: BTreeMap<TopicPartition, Progress> = from.into_iter().collect();
        let batch = collapse(part, &from);
        store.apply(&batch).await?;
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
