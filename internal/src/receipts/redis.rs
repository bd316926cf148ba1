//! The receipts in Redis: a hash a chat, with a field for each reader and topic.

use std::sync::LazyLock;
use std::time::Duration;

use async_trait::async_trait;
use contract::Timestamp;
use deadpool_redis::Pool;
use deadpool_redis::redis::{AsyncTypedCommands, Script};

use super::{Readers, Receipts, ReceiptsError, further};
use crate::config::Settings;

static SHOWN: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("../../redis-scripts/shown.lua")));

/// How many readers one call of the script takes at most: Redis does nothing else meanwhile.
const READERS: usize = 200;
/// How long Redis may take.
const ANSWER: Duration = Duration::from_millis(500);

/// The receipts in Redis.
pub struct RedisReceipts {
    pool: Pool,
    prefix: String,
    horizon: Duration,
}

impl RedisReceipts {
    pub fn new(pool: Pool, settings: &Settings) -> Self {
        Self { pool, prefix: format!("chat-sync{}", settings.topic_suffix), horizon: settings.gate_ttl }
    }

    /// Beside the chat's rows on one node of a cluster.
    pub fn key(&self, chat: &str) -> String {
        format!("{}:{{{chat}}}:shown", self.prefix)
    }
}

fn failed(error: impl std::fmt::Display) -> ReceiptsError {
    ReceiptsError(error.to_string())
}

async fn in_time<T>(asked: impl Future<Output = Result<T, ReceiptsError>>) -> Result<T, ReceiptsError> {
    tokio::time::timeout(ANSWER, asked).await.map_err(|_| ReceiptsError("no answer in time".into()))?
}

#[async_trait]
impl Receipts for RedisReceipts {
    async fn put(&self, chat: &str, shown: &Readers) -> Result<(), ReceiptsError> {
        let rows: Vec<(&String, &String, u64)> = shown
            .iter()
            .flat_map(|(reader, positions)| positions.iter().map(move |(topic, offset)| (reader, topic, *offset)))
            .collect();
        let now = Timestamp::now().micros() / 1_000_000;
        for part in rows.chunks(READERS) {
            let mut call = SHOWN.prepare_invoke();
            call.key(self.key(chat)).arg(self.horizon.as_secs().max(1)).arg(now);
            for (reader, topic, offset) in part {
                call.arg(format!("{topic} {reader}")).arg(offset);
            }
            in_time(async {
                let mut connection = self.pool.get().await.map_err(failed)?;
                call.invoke_async::<()>(&mut connection).await.map_err(failed)
            })
            .await?;
        }
        Ok(())
    }

    async fn of(&self, chat: &str) -> Result<Readers, ReceiptsError> {
        let (key, now) = (self.key(chat), Timestamp::now().micros() / 1_000_000);
        let fields = in_time(async {
            let mut connection = self.pool.get().await.map_err(failed)?;
            connection.hgetall(&key).await.map_err(failed)
        })
        .await?;
        let (mut readers, mut gone) = (Readers::new(), Vec::new());
        for (field, value) in fields {
            let Some((topic, reader, offset, at)) = parsed(&field, &value) else { continue };
            if at + self.horizon.as_secs() < now {
                gone.push(field.clone());
            } else {
                further(readers.entry(reader.to_owned()).or_default(), &[(topic.to_owned(), offset)].into());
            }
        }
        if !gone.is_empty() {
            in_time(async {
                let mut connection = self.pool.get().await.map_err(failed)?;
                connection.hdel(&key, gone).await.map_err(failed)
            })
            .await?;
        }
        Ok(readers)
    }
}

/// `topic reader` and `offset second`; a topic's name has no space.
fn parsed<'a>(field: &'a str, value: &str) -> Option<(&'a str, &'a str, u64, u64)> {
    let ((topic, reader), (offset, at)) = (field.split_once(' ')?, value.split_once(' ')?);
    Some((topic, reader, offset.parse().ok()?, at.parse().ok()?))
}
