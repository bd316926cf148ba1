//! The gate in Redis: one Lua script a chat, all chats of a batch in flight at once.

use std::sync::LazyLock;
use std::time::Duration;

use async_trait::async_trait;
use deadpool_redis::Pool;
use deadpool_redis::redis::{RedisError, Script, aio::ConnectionLike};

use crate::config::Settings;
use crate::gate::{Answer, Gate, GateError};
use crate::shown::ShownMessage;

static JUDGE: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("../redis-scripts/judge.lua")));

/// How many rows one call of the script judges at most: Redis does nothing else meanwhile.
const ROWS: usize = 200;

/// The gate in Redis.
pub struct RedisGate {
    pool: Pool,
    prefix: String,
    ttl: Duration,
    deadline: Duration,
}

impl RedisGate {
    pub fn new(pool: Pool, settings: &Settings) -> Self {
        Self {
            pool,
            prefix: format!("chat-sync{}", settings.topic_suffix),
            ttl: settings.gate_ttl,
            deadline: settings.gate_deadline,
        }
    }

    /// The key of a message; the braces keep a chat's keys on one node of a cluster.
    pub fn key(&self, row: &ShownMessage) -> String {
        format!("{}:{{{}}}:m:{}", self.prefix, row.chat_id, row.id)
    }

    async fn judge_all(&self, rows: &[ShownMessage]) -> Result<Vec<Answer>, GateError> {
        let mut connection = self.pool.get().await.map_err(|error| GateError(error.to_string()))?;
        let mut answers = Vec::with_capacity(rows.len());
        for chat in rows.chunk_by(|a, b| a.chat_id == b.chat_id) {
            for part in chat.chunks(ROWS) {
                match self.judge_part(&mut connection, part).await {
                    Ok(judged) => answers.extend(judged),
                    Err(error) => {
                        // A connection to a node that was demoted or is loading is of no use any more.
                        drop(deadpool_redis::Connection::take(connection));
                        return Err(error);
                    }
                }
            }
        }
        Ok(answers)
    }

    async fn judge_part(
        &self,
        connection: &mut (impl ConnectionLike + Send),
        rows: &[ShownMessage],
    ) -> Result<Vec<Answer>, GateError> {
        let mut call = JUDGE.prepare_invoke();
        call.arg(self.ttl.as_secs().max(1));
        for row in rows {
            call.key(self.key(row));
            let json = serde_json::to_string(row).map_err(|error| GateError(error.to_string()))?;
            call.arg(row.version.as_str()).arg(json);
        }
        let answers: Vec<String> =
            call.invoke_async(connection).await.map_err(|error: RedisError| GateError(error.to_string()))?;
        if answers.len() != rows.len() {
            return Err(GateError(format!("{} answers to {} rows", answers.len(), rows.len())));
        }
        answers.into_iter().map(answer).collect()
    }
}

fn answer(text: String) -> Result<Answer, GateError> {
    Ok(match text.as_str() {
        "newer" => Answer::Newer,
        "equal" => Answer::Equal,
        "absent" => Answer::Absent,
        row => Answer::Older(Box::new(serde_json::from_str(row).map_err(|error| GateError(error.to_string()))?)),
    })
}

#[async_trait]
impl Gate for RedisGate {
    async fn judge(&self, rows: &[ShownMessage]) -> Result<Vec<Answer>, GateError> {
        match tokio::time::timeout(self.deadline, self.judge_all(rows)).await {
            Ok(judged) => judged,
            Err(_) => Err(GateError(format!("no answer within {:?}", self.deadline))),
        }
    }
}
