//! Thousands who watch: what each costs while nothing happens, and how soon all are right again after a pod's death.

use std::time::{Duration, Instant};

use anyhow::Context;
use futures::{SinkExt, StreamExt};
use platform::eventually;
use serde_json::{Value, json};
use sqlx::PgPool;
use system_tests::pipeline::{Options, Pipeline};
use system_tests::process::{free_port, ready};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_tungstenite::connect_async;
use tokio_tungstenite::tungstenite::Message;

use crate::figures::{Table, thousands};
use crate::straight::Straight;

/// Connections that do nothing.
const IDLE: usize = 8_000;
/// Clients that reconnect at once.
const RECONNECT: usize = 5_000;
const CHATS: usize = 50;
/// How many connect at once: a server's queue of connections to accept is not endless.
const ABREAST: usize = 100;
/// An idle session of Postgres tells what it has read after ten seconds (PGSTAT_IDLE_INTERVAL in its source).
const STATISTICS: Duration = Duration::from_secs(12);
const LAST: &str = "the-last-one";

pub async fn run() -> anyhow::Result<Table> {
    let room = vec![("CHAT_SYNC_CONNECTIONS_PER_ADDRESS", (2 * IDLE).to_string())];
    let options = Options { internal: room.clone(), ..Options::default() };
    let mut pipeline = Pipeline::start(options).await.context("the servers")?;
    let chats: Vec<String> = (0..CHATS).map(|number| format!("chat-{number}")).collect();
    let straight = Straight::begin(&mut pipeline, &chats).await?;
    let log = straight.log().await?;
    for chat in &chats {
        log.append((0..60).map(|number| straight.message(chat, &format!("m{number}"))).collect()).await?;
    }
    let (idle, subscribed) = idle(&pipeline, &chats).await?;
    let mut rows = vec![
        (format!("bytes a connection of {IDLE}, connected"), thousands(idle)),
        ("and subscribed to one chat, its load sent".into(), thousands(subscribed)),
    ];
    let pool = PgPool::connect(pipeline.database_url.expose()).await?;
    for (what, positions) in [("with the positions that they had", true), ("with none", false)] {
        let address = format!("127.0.0.1:{}", free_port());
        let mut next = pipeline.another_internal(&address, "internal-1", room.clone());
        ready(&address).await;
        let from = pipeline.internal_address.clone();
        let (took, queries) = reconnect(&mut pipeline, &straight, [from, address], &chats, positions, &pool).await?;
        rows.push((format!("s until {RECONNECT} are right again, {what}"), format!("{:.1}", took.as_secs_f64())));
        rows.push((format!("readings of Postgres for it, {CHATS} chats"), thousands(queries)));
        pipeline.internal.start_again();
        ready(&pipeline.internal_address).await;
        next.kill();
    }
    Ok(Table {
        name: "crowd",
        what: format!(
            "Resident memory of one pod a connection, {IDLE} of them; then {RECONNECT} clients of {CHATS} chats whose pod is \
             killed: seconds until each has what was written since, at another pod."
        ),
        columns: vec![""],
        rows: rows.into_iter().map(|(name, figure)| (name, vec![figure])).collect(),
    })
}

/// Bytes a connection: connected, and subscribed.
async fn idle(pipeline: &Pipeline, chats: &[String]) -> anyhow::Result<(f64, f64)> {
    let before = pipeline.internal.memory();
    let url = format!("ws://{}/ws", pipeline.internal_address);
    let mut sockets = Vec::with_capacity(IDLE);
    while sockets.len() < IDLE {
        let more = futures::future::try_join_all((0..ABREAST).map(|_| connect_async(&url))).await?;
        for (mut socket, _) in more {
            // The list of chats.
            socket.next().await.context("the connection ended")??;
            sockets.push(socket);
        }
    }
    let connected = pipeline.internal.memory().saturating_sub(before) as f64 / IDLE as f64;
    for (number, socket) in sockets.iter_mut().enumerate() {
        let subscribe = json!({ "type": "subscribe", "chat": chats[number % chats.len()] });
        socket.send(Message::text(subscribe.to_string())).await?;
    }
    for socket in &mut sockets {
        while !socket.next().await.context("the connection ended")??.into_text()?.starts_with("{\"type\":\"load\"") {}
    }
    Ok((connected, pipeline.internal.memory().saturating_sub(before) as f64 / IDLE as f64))
}

/// How long until all are right again, and how often Postgres was read for a load.
async fn reconnect(
    pipeline: &mut Pipeline,
    straight: &Straight,
    pods: [String; 2],
    chats: &[String],
    positions: bool,
    pool: &PgPool,
) -> anyhow::Result<(Duration, f64)> {
    let (events, mut heard) = mpsc::channel(RECONNECT);
    let mut clients = JoinSet::new();
    let last = format!("{LAST}-{positions}");
    for begin in (0..RECONNECT).step_by(ABREAST) {
        for number in begin..begin + ABREAST {
            let client = Client { pods: pods.clone(), chat: chats[number % chats.len()].clone(), positions };
            clients.spawn(client.follow(last.clone(), events.clone()));
        }
        for _ in 0..ABREAST {
            heard.recv().await.context("a client watches")?;
        }
    }
    tokio::time::sleep(STATISTICS).await;
    let before = readings(pool).await?;
    let killed = Instant::now();
    pipeline.internal.kill();
    let records = chats.iter().map(|chat| straight.message(chat, &last)).collect();
    straight.log().await?.append(records).await?;
    for _ in 0..RECONNECT {
        heard.recv().await.context("a client is right again")?;
    }
    let took = killed.elapsed();
    tokio::time::sleep(STATISTICS).await;
    Ok((took, readings(pool).await? - before))
}

/// Every load reads this index once.
async fn readings(pool: &PgPool) -> anyhow::Result<f64> {
    let scans = "SELECT idx_scan::float8 FROM pg_stat_user_indexes WHERE indexrelname = 'messages_by_time'";
    Ok(eventually!(sqlx::query_scalar::<_, f64>(scans).fetch_one(pool).await.ok(), "Postgres counts"))
}

struct Client {
    pods: [String; 2],
    chat: String,
    /// Whether it says where it was.
    positions: bool,
}

impl Client {
    /// Says when it watches, and when it has the last message.
    async fn follow(self, last: String, events: mpsc::Sender<()>) {
        let (mut resume, mut watched) = (None, false);
        let last = format!("\"id\":\"{last}\"");
        for pod in self.pods.iter().cycle() {
            let Ok((mut socket, _)) = connect_async(format!("ws://{pod}/ws")).await else {
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            };
            let resume_there = resume.clone().filter(|_| self.positions);
            let subscribe = json!({ "type": "subscribe", "chat": self.chat, "resume": resume_there });
            if socket.send(Message::text(subscribe.to_string())).await.is_err() {
                continue;
            }
            while let Some(Ok(frame)) = socket.next().await {
                let Message::Text(text) = frame else { continue };
                let Ok(frame) = serde_json::from_str::<Value>(&text) else { continue };
                if frame["behind"] != true
                    && let Some(position) = frame["resume"].as_str()
                {
                    resume = Some(position.to_owned());
                    if !std::mem::replace(&mut watched, true) {
                        let _ = events.send(()).await;
                    }
                }
                if text.contains(&last) {
                    let _ = events.send(()).await;
                    return;
                }
            }
        }
    }
}
