//! One chat floods: what it costs those who write in others.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use anyhow::Context;
use futures::{SinkExt, StreamExt};
use serde_json::{Value, json};
use sqlx::PgPool;
use system_tests::pipeline::{Options, Pipeline};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_tungstenite::connect_async;
use tokio_tungstenite::tungstenite::Message as Frame;

use crate::figures::{Table, milliseconds};
use crate::straight::{Straight, partition_of};

/// Chats in which people write as ever, each ten messages a second.
const QUIET: usize = 12;
const BEAT: Duration = Duration::from_millis(100);
/// How long each part lasts.
const LASTS: Duration = Duration::from_secs(10);
/// How many messages a second flood, in parts of a hundredth of a second.
const FLOOD: usize = 10_000;
const SPLASH: Duration = Duration::from_millis(10);
/// How many watch the chat that floods.
const WATCHERS: usize = 10;
/// How often Postgres is looked at.
const LOOK: Duration = Duration::from_millis(10);
/// Past it something is lost.
const PATIENCE: Duration = Duration::from_secs(120);
const FLOODED: &str = "flooded";

/// By message.
type Times = HashMap<String, Instant>;

/// What those in the other chats waited, from the append: until the frame came, and until the row was stored.
struct Waited {
    pushed: Vec<(usize, Duration)>,
    stored: Vec<(usize, Duration)>,
}

pub async fn run() -> anyhow::Result<Table> {
    let fair = measured(None).await?;
    // So much that each chat has one turn.
    let first_in_first_out = measured(Some(u64::MAX.to_string())).await?;
    let mut rows = Vec::new();
    for (name, [clean, flooded]) in [("in turns", &fair), ("one chat after the other", &first_in_first_out)] {
        for (what, times) in
            [("to the frame", [&clean.pushed, &flooded.pushed]), ("to the row", [&clean.stored, &flooded.stored])]
        {
            let [clean, flooded] = times;
            let (before, during) = (p99(clean.iter()), p99(flooded.iter()));
            let ratio = during.as_secs_f64() / before.as_secs_f64();
            // Chats whose messages share a partition with the flood wait behind it: the log has one order a partition.
            let elsewhere = flooded.iter().filter(|(chat, _)| partition_of(&quiet(*chat)) != partition_of(FLOODED));
            rows.push((
                format!("{name}, {what}"),
                vec![
                    milliseconds(before),
                    milliseconds(during),
                    format!("{ratio:.1}x"),
                    milliseconds(p99(elsewhere)),
                    format!("{:.2}", jain(clean, flooded)),
                ],
            ));
        }
    }
    Ok(Table {
        name: "flood",
        what: format!(
            "{FLOOD} messages a second to one chat for {} s, appended to the log, with {WATCHERS} who watch it, while \
             people write 10 a second in each of {QUIET} other chats: milliseconds that those wait, from the append to \
             the frame at a client and to the row in Postgres (looked at every {} ms), p99, without and with the flood; \
             besides, of those that share no partition with it; and Jain's index of how much slower each chat became (1: \
             all alike).",
            LASTS.as_secs(),
            LOOK.as_millis(),
        ),
        columns: vec!["without", "with", "ratio", "other partitions", "Jain's index"],
        rows,
    })
}

/// Half of them sort before the one that floods, half behind it.
fn quiet(number: usize) -> String {
    format!("{}-quiet-{number}", if number.is_multiple_of(2) { "a" } else { "z" })
}

fn p99<'a>(times: impl Iterator<Item = &'a (usize, Duration)>) -> Duration {
    let mut times: Vec<Duration> = times.map(|(_, time)| *time).collect();
    times.sort_unstable();
    times.get(times.len() * 99 / 100).copied().unwrap_or_default()
}

/// (Σx)² / (n Σx²) of x, how many times faster each chat was without the flood (Jain, Chiu and Hawe, 1984).
fn jain(clean: &[(usize, Duration)], flooded: &[(usize, Duration)]) -> f64 {
    let of = |times: &[(usize, Duration)], chat| p99(times.iter().filter(|(number, _)| *number == chat)).as_secs_f64();
    let shares: Vec<f64> = (0..QUIET).map(|chat| of(clean, chat) / of(flooded, chat).max(1e-6)).collect();
    let (sum, squares) = (shares.iter().sum::<f64>(), shares.iter().map(|share| share * share).sum::<f64>());
    sum * sum / (QUIET as f64 * squares)
}

/// Without the flood, and with it.
async fn measured(quantum: Option<String>) -> anyhow::Result<[Waited; 2]> {
    let internal = quantum.map(|quantum| ("CHAT_SYNC_QUANTUM", quantum)).into_iter().collect();
    let mut pipeline = Pipeline::start(Options { internal, ..Options::default() }).await.context("the servers")?;
    let chats: Vec<String> = (0..QUIET).map(quiet).chain([FLOODED.to_owned()]).collect();
    let straight = Straight::begin(&mut pipeline, &chats).await?;
    let world = World { straight, pool: PgPool::connect(pipeline.database_url.expose()).await? };
    let clean = world.waited(false).await?;
    let flooded = world.waited(true).await?;
    Ok([clean, flooded])
}

struct World {
    straight: Straight,
    pool: PgPool,
}

impl World {
    async fn waited(&self, floods: bool) -> anyhow::Result<Waited> {
        let part = if floods { "with" } else { "without" };
        let beats = usize::try_from(LASTS.as_millis() / BEAT.as_millis())?;
        let (loaded, mut watches) = mpsc::channel(QUIET + WATCHERS);
        let mut watching = JoinSet::new();
        for number in 0..QUIET {
            watching.spawn(watch(self.straight.internal.clone(), quiet(number), part, beats, loaded.clone()));
        }
        let mut idle = JoinSet::new();
        for _ in 0..WATCHERS {
            let (internal, loaded) = (self.straight.internal.clone(), loaded.clone());
            // Ended when what is measured is over; whoever is sent away for being slow comes back.
            idle.spawn(async move {
                loop {
                    let _ = watch(internal.clone(), FLOODED.to_owned(), "", usize::MAX, loaded.clone()).await;
                }
            });
        }
        let looking = tokio::spawn(look(self.pool.clone(), part, beats * QUIET));
        for _ in 0..QUIET + WATCHERS {
            tokio::time::timeout(PATIENCE, watches.recv()).await?.context("a client does not watch")?;
        }
        let (appended, flooding) =
            tokio::join!(self.write(part, beats), async { if floods { self.flood().await } else { Ok(()) } });
        flooding?;
        let appended = appended?;
        let since = |(id, at): (&String, &Instant)| {
            let chat = id.split('/').nth(1)?.parse().ok()?;
            Some((chat, at.saturating_duration_since(*appended.get(id)?)))
        };
        let mut pushed = Vec::new();
        while let Some(times) = tokio::time::timeout(PATIENCE, watching.join_next()).await? {
            pushed.extend(times??.iter().filter_map(since));
        }
        let stored = tokio::time::timeout(PATIENCE, looking).await???.iter().filter_map(since).collect();
        Ok(Waited { pushed, stored })
    }

    /// People write as ever: when each message's append began.
    async fn write(&self, part: &str, beats: usize) -> anyhow::Result<Times> {
        let log = self.straight.log().await?;
        let (mut times, mut ticks) = (Times::new(), tokio::time::interval(BEAT));
        for beat in 0..beats {
            ticks.tick().await;
            let ids: Vec<String> = (0..QUIET).map(|number| format!("{part}/{number}/{beat}")).collect();
            let row = |(number, id): (usize, &String)| {
                let chat = quiet(number);
                self.straight.message(&chat, id)
            };
            let records = ids.iter().enumerate().map(row).collect();
            let now = Instant::now();
            times.extend(ids.iter().map(|id| (id.clone(), now)));
            log.append(records).await?;
        }
        Ok(times)
    }

    async fn flood(&self) -> anyhow::Result<()> {
        let log = self.straight.log().await?;
        let (mut ticks, mut appends) = (tokio::time::interval(SPLASH), JoinSet::new());
        let splashes = usize::try_from(LASTS.as_millis() / SPLASH.as_millis())?;
        for splash in 0..splashes {
            ticks.tick().await;
            let row = |number| self.straight.message(FLOODED, &format!("f/{splash}/{number}"));
            let records = (0..FLOOD * usize::try_from(SPLASH.as_millis())? / 1000).map(row).collect();
            let log = log.clone();
            // Whoever floods waits for nothing.
            appends.spawn(async move { log.append(records).await });
        }
        while let Some(appended) = appends.join_next().await {
            appended??;
        }
        Ok(())
    }
}

/// When each message of this part came, until there were so many; of all, none is looked at. Says when it watches.
async fn watch(
    internal: String,
    chat: String,
    part: &str,
    count: usize,
    loaded: mpsc::Sender<()>,
) -> anyhow::Result<Times> {
    let (mut socket, _) = connect_async(format!("ws://{internal}/ws")).await?;
    socket.send(Frame::text(json!({ "type": "subscribe", "chat": chat }).to_string())).await?;
    let (mut times, of_part) = (Times::new(), format!("{part}/"));
    while times.len() < count {
        let frame = socket.next().await.context("the connection ended")??;
        let now = Instant::now();
        let Frame::Text(text) = frame else { continue };
        if text.starts_with("{\"type\":\"load\"") {
            // Nobody counts those who load again later.
            let _ = loaded.try_send(());
        }
        if count == usize::MAX {
            continue;
        }
        let frame: Value = serde_json::from_str(&text)?;
        let ids = frame["messages"].as_array().into_iter().flatten().filter_map(|message| message["id"].as_str());
        for id in ids.filter(|id| id.starts_with(&of_part)) {
            times.entry(id.to_owned()).or_insert(now);
        }
    }
    Ok(times)
}

/// When each message's row was there, until there were so many.
async fn look(pool: PgPool, part: &str, count: usize) -> anyhow::Result<Times> {
    let (chats, like) = ((0..QUIET).map(quiet).collect::<Vec<_>>(), format!("{part}/%"));
    let mut times = Times::new();
    while times.len() < count {
        let rows: Vec<String> = sqlx::query_scalar("SELECT id FROM messages WHERE chat_id = ANY($1) AND id LIKE $2")
            .bind(&chats)
            .bind(&like)
            .fetch_all(&pool)
            .await?;
        let now = Instant::now();
        for id in rows {
            times.entry(id).or_insert(now);
        }
        tokio::time::sleep(LOOK).await;
    }
    Ok(times)
}
