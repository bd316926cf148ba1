//! The plainest shape of the same pipeline, to measure next to: poll, one produce awaited, then for each message one
//! upsert, one EVALSHA and one send.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use deadpool_redis::redis::Script;
use futures::{SinkExt, StreamExt};
use platform::config::Secret;
use platform::event_log::kafka::Kafka;
use platform::event_log::{Event, EventLog, NewRecord, Sharing, Topic, TopicSpec};
use platform::testing::{postgres_database, server, unique_suffix};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::broadcast;
use tokio::task::JoinSet;
use tokio_tungstenite::accept_async;
use tokio_tungstenite::tungstenite::Message;

/// A running plain pipeline; ends when it is dropped.
pub struct Plain {
    /// `host:port` of its WebSocket, which sends everything to everybody.
    pub address: String,
    _tasks: JoinSet<anyhow::Result<()>>,
}

impl Plain {
    pub async fn start(vendor: &str) -> anyhow::Result<Self> {
        let log = Arc::new(Kafka::new(&server("CHAT_SYNC_TEST_KAFKA").context("Kafka")?)?);
        let topic = format!("plain{}", unique_suffix());
        let spec = TopicSpec {
            name: topic.clone(),
            partitions: 1,
            compacted: false,
            retention_ms: 3_600_000,
            max_record_bytes: 1 << 20,
        };
        log.ensure_topics(&[spec]).await?;
        let (sender, _) = broadcast::channel(10_000);
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?.to_string();
        let mut tasks = JoinSet::new();
        tasks.spawn(produce(format!("http://{vendor}/api/changes"), log.clone(), topic.clone()));
        tasks.spawn(consume(log, topic, sender.clone()));
        tasks.spawn(serve(listener, sender));
        Ok(Self { address, _tasks: tasks })
    }
}

async fn produce(url: String, log: Arc<Kafka>, topic: String) -> anyhow::Result<()> {
    let client = system_tests::http::client();
    let mut after: Option<String> = None;
    loop {
        let mut query = vec![("wait", "1".to_owned()), ("limit", "500".to_owned())];
        query.extend(after.clone().map(|after| ("after", after)));
        let page: Value = client.get(&url).query(&query).send().await?.json().await?;
        for change in page["changes"].as_array().into_iter().flatten() {
            let record = NewRecord {
                topic: topic.as_str().into(),
                partition: 0,
                key: change["id"].as_str().map(str::to_owned),
                value: change.to_string().into_bytes(),
                headers: Vec::new(),
            };
            log.append(vec![record]).await?;
        }
        after = page["next"].as_str().map(str::to_owned);
    }
}

async fn consume(log: Arc<Kafka>, topic: String, sender: broadcast::Sender<String>) -> anyhow::Result<()> {
    let pool = platform::postgres::pool(&postgres_database().await.context("Postgres")?, 1, true)?;
    let table = "CREATE TABLE plain (id text PRIMARY KEY, body text NOT NULL, sequence bigint NOT NULL)";
    sqlx::raw_sql(table).execute(&pool).await?;
    let redis = Secret::new(server("CHAT_SYNC_TEST_REDIS").context("Redis")?);
    let mut redis =
        platform::redis::pool(&redis, &platform::redis::RedisTls::default(), 1, Duration::from_secs(5))?.get().await?;
    let script = Script::new(
        "local known = redis.call('GET', KEYS[1])
         if known and tonumber(known) >= tonumber(ARGV[1]) then return 0 end
         redis.call('SET', KEYS[1], ARGV[1], 'EX', 86400)
         return 1",
    );
    let group = topic.clone();
    let mut reader = log.read(Topic { base: topic, mirrored: false }, &group, Sharing::All).await?;
    loop {
        match reader.next().await? {
            Event::Assigned(partitions) => reader.start(partitions.into_iter().map(|at| (at, 0)).collect()).await?,
            Event::Records(records) => {
                for record in records {
                    let text = String::from_utf8_lossy(&record.value).into_owned();
                    let row: Value = serde_json::from_str(&text)?;
                    let (id, sequence) =
                        (row["id"].as_str().unwrap_or_default(), row["sequence"].as_i64().unwrap_or(0));
                    sqlx::query(
                        "INSERT INTO plain VALUES ($1, $2, $3) ON CONFLICT (id) DO UPDATE \
                         SET body = excluded.body, sequence = excluded.sequence WHERE excluded.sequence > plain.sequence",
                    )
                    .bind(id)
                    .bind(&text)
                    .bind(sequence)
                    .execute(&pool)
                    .await?;
                    let newer: i64 = script.key(format!("plain:{id}")).arg(sequence).invoke_async(&mut redis).await?;
                    if newer == 1 {
                        // Nobody may be listening yet.
                        let _ = sender.send(text);
                    }
                }
            }
            Event::Revoked(_) | Event::OutOfRange(_) => {}
        }
    }
}

async fn serve(listener: TcpListener, sender: broadcast::Sender<String>) -> anyhow::Result<()> {
    loop {
        let (stream, _) = listener.accept().await?;
        let mut messages = sender.subscribe();
        tokio::spawn(async move {
            let Ok(socket) = accept_async(stream).await else { return };
            let (mut sink, _stream) = socket.split();
            while let Ok(text) = messages.recv().await {
                if sink.send(Message::text(text)).await.is_err() {
                    return;
                }
            }
        });
    }
}
