//! A pool that keeps to a writable Postgres.

use std::str::FromStr;
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};

use crate::config::Secret;

/// How long to wait for a connection before it counts as an outage.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(3);

/// A pool that connects when it is first used: a server that is away is met where it is needed.
///
/// With `writable`, connections to a node that has become read-only are thrown away when they are
/// handed out: after a failover a pool would otherwise keep a demoted node for ever.
///
/// # Errors
/// If the URL cannot be read; it names no secret.
pub fn pool(url: &Secret, connections: u32, writable: bool) -> anyhow::Result<PgPool> {
    let wrong = || anyhow::anyhow!("DATABASE_URL is no postgres:// URL");
    // The parser takes any scheme.
    if !["postgres://", "postgresql://"].iter().any(|scheme| url.expose().starts_with(scheme)) {
        return Err(wrong());
    }
    let options = PgConnectOptions::from_str(url.expose())
        .map_err(|_| wrong())?
        .options([("statement_timeout", "30s"), ("lock_timeout", "10s")]);
    let mut pool =
        PgPoolOptions::new().max_connections(connections).acquire_timeout(ACQUIRE_TIMEOUT).test_before_acquire(false);
    if writable {
        pool = pool.before_acquire(|connection, _| {
            Box::pin(async move {
                let read_only: String = sqlx::query_scalar("SHOW transaction_read_only").fetch_one(connection).await?;
                Ok(read_only == "off")
            })
        });
    } else {
        pool = pool.test_before_acquire(true);
    }
    Ok(pool.connect_lazy_with(options))
}
