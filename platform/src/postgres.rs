//! Pools that find the node they need among several, and leave one that is not it any more.

use std::str::FromStr;
use std::time::Duration;

use anyhow::Context;
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use sqlx::{Connection, PgConnection};

use crate::config::Secret;

/// How long to wait for a connection before it counts as an outage.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(3);
/// How often it is looked whether the node is still the right one, where there are several.
const LOOK: Duration = Duration::from_secs(1);
/// How long a node may take to say what it is.
const ANSWER: Duration = Duration::from_secs(2);

/// A pool that connects when it is first used: a server that is away is met where it is needed.
///
/// The URL may name several nodes, as libpq's do: `postgres://user:password@host:port,host:port/database`. The pool
/// keeps to the first that answers, with `writable` to the first that can be written to, and looks for another one
/// when that ends. Connections to a node that has become read-only are thrown away when they are handed out: after a
/// failover a pool would otherwise keep a demoted node for ever.
///
/// # Errors
/// If the URL cannot be read; it names no secret.
pub fn pool(url: &Secret, connections: u32, writable: bool) -> anyhow::Result<PgPool> {
    let nodes = nodes(url)?;
    let first = nodes.first().context("DATABASE_URL names no host")?.clone();
    let mut pool =
        PgPoolOptions::new().max_connections(connections).acquire_timeout(ACQUIRE_TIMEOUT).test_before_acquire(false);
    if writable {
        pool = pool.before_acquire(|connection, _| Box::pin(async move { is_writable(connection).await }));
    } else {
        pool = pool.test_before_acquire(true);
    }
    let pool = pool.connect_lazy_with(first);
    if nodes.len() > 1 {
        tokio::spawn(choose(pool.clone(), nodes, writable));
    }
    Ok(pool)
}

async fn is_writable(connection: &mut PgConnection) -> sqlx::Result<bool> {
    let read_only: String = sqlx::query_scalar("SHOW transaction_read_only").fetch_one(connection).await?;
    Ok(read_only == "off")
}

/// One set of options a node.
fn nodes(url: &Secret) -> anyhow::Result<Vec<PgConnectOptions>> {
    let wrong = || anyhow::anyhow!("DATABASE_URL is no postgres:// URL");
    let (scheme, rest) = url.expose().split_once("://").ok_or_else(wrong)?;
    // The parser takes any scheme.
    if !["postgres", "postgresql"].contains(&scheme) {
        return Err(wrong());
    }
    let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    let (user, hosts) = authority.split_at(authority.rfind('@').map_or(0, |at| at + 1));
    let options = hosts.split(',').map(|host| {
        let options = PgConnectOptions::from_str(&format!("{scheme}://{user}{host}{path}")).map_err(|_| wrong())?;
        Ok(options.options([
            ("statement_timeout", "30s"),
            ("lock_timeout", "10s"),
            // Of a process that was frozen in the middle: it would hold its locks as long as it sleeps.
            ("idle_in_transaction_session_timeout", "10s"),
        ]))
    });
    options.collect()
}

/// Keeps the pool's new connections going to a node that is what it should be, until the pool is closed.
async fn choose(pool: PgPool, nodes: Vec<PgConnectOptions>, writable: bool) {
    let mut chosen = 0;
    while !pool.is_closed() {
        let order = (0..nodes.len()).map(|step| (chosen + step) % nodes.len());
        for candidate in order {
            if !serves(&nodes[candidate], writable).await {
                continue;
            }
            if candidate != chosen {
                let (host, port) = (nodes[candidate].get_host(), nodes[candidate].get_port());
                tracing::warn!(host, port, writable, "going on with another Postgres node");
                metrics::counter!("chat_sync_postgres_node_changes_total").increment(1);
                pool.set_connect_options(nodes[candidate].clone());
                chosen = candidate;
            }
            break;
        }
        tokio::time::sleep(LOOK).await;
    }
}

async fn serves(node: &PgConnectOptions, writable: bool) -> bool {
    let asked = async {
        let mut connection = PgConnection::connect_with(node).await?;
        let serves = !writable || is_writable(&mut connection).await?;
        connection.close().await?;
        Ok::<_, sqlx::Error>(serves)
    };
    matches!(tokio::time::timeout(ANSWER, asked).await, Ok(Ok(true)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts(url: &str) -> Option<Vec<(String, u16, Option<String>)>> {
        let nodes = nodes(&Secret::new(url)).ok()?;
        let told = nodes
            .iter()
            .map(|node| (node.get_host().to_owned(), node.get_port(), node.get_database().map(str::to_owned)));
        Some(told.collect())
    }

    #[test]
    fn a_url_may_name_several_nodes() {
        let node = |host: &str, port| (host.to_owned(), port, Some("d".to_owned()));
        assert_eq!(hosts("postgres://u:p@a:1,b:2,c/d"), Some(vec![node("a", 1), node("b", 2), node("c", 5432)]));
        assert_eq!(hosts("postgresql://u@a/d?sslmode=disable"), Some(vec![node("a", 5432)]));
        assert_eq!(hosts("mysql://u@a/d"), None);
        assert_eq!(hosts("a:1"), None);
    }
}
