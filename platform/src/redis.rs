//! A pool of Redis connections.

use std::time::Duration;

use deadpool_redis::{Config, Pool, PoolConfig, Runtime, Timeouts};

use crate::config::Secret;

/// A pool that connects when it is first used.
///
/// # Errors
/// If the URL cannot be read; the message names no secret.
pub fn pool(url: &Secret, connections: usize, deadline: Duration) -> anyhow::Result<Pool> {
    let mut config = Config::from_url(url.expose());
    let timeouts = Timeouts { wait: Some(deadline), create: Some(deadline), recycle: Some(deadline) };
    config.pool = Some(PoolConfig { max_size: connections, timeouts, ..PoolConfig::default() });
    config.create_pool(Some(Runtime::Tokio1)).map_err(|_| anyhow::anyhow!("REDIS_URL is no redis:// URL"))
}
