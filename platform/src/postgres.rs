//! Pools that find the node they need among several, and leave one that is not it any more.

use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

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
/// keeps to one that can be written to and looks for another when that ends; without `writable`, to one that answers
/// where none can be written to. With `writable`, connections to a node that has become read-only are thrown away
/// when they are handed out: after a failover a pool would otherwise keep a demoted node for ever.
///
/// # Errors
/// If the URL cannot be read; it names no secret.
pub fn pool(url: &Secret, connections: u32, writable: bool) -> anyhow::Result<PgPool> {
    let nodes = nodes(url)?;
    let first = nodes.first().context("DATABASE_URL names no host")?.clone();
    let mut pool =
        PgPoolOptions::new().max_connections(connections).acquire_timeout(ACQUIRE_TIMEOUT).test_before_acquire(false);
    let chosen_at = Arc::new(Mutex::new(Instant::now()));
    let since = chosen_at.clone();
    pool = pool.before_acquire(move |connection, meta| {
        // One of before goes to the node that was left.
        let of_this_node = meta.age <= since.lock().unwrap_or_else(PoisonError::into_inner).elapsed();
        Box::pin(async move { Ok(of_this_node && (is_writable(connection).await? || !writable)) })
    });
    let pool = pool.connect_lazy_with(first);
    if nodes.len() > 1 {
        tokio::spawn(choose(pool.clone(), nodes, writable, chosen_at));
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
        // The parser would take a default.
        anyhow::ensure!(!host.is_empty(), "DATABASE_URL names a host that is empty");
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
async fn choose(pool: PgPool, nodes: Vec<PgConnectOptions>, writable: bool, chosen_at: Arc<Mutex<Instant>>) {
    let mut chosen = 0;
    while !pool.is_closed() {
        let order: Vec<usize> = (0..nodes.len()).map(|step| (chosen + step) % nodes.len()).collect();
        let mut found = None;
        for candidate in order {
            match state(&nodes[candidate]).await {
                Some(State::Writable) => {
                    found = Some(candidate);
                    break;
                }
                // A demoted node may have stopped following; it is better than none to read from.
                Some(State::ReadOnly) if !writable => found = found.or(Some(candidate)),
                _ => {}
            }
        }
        if let Some(found) = found.filter(|found| *found != chosen) {
            let (host, port) = (nodes[found].get_host(), nodes[found].get_port());
            tracing::warn!(host, port, "going on with another Postgres node");
            metrics::counter!("chat_sync_postgres_node_changes_total").increment(1);
            pool.set_connect_options(nodes[found].clone());
            *chosen_at.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
            chosen = found;
        }
        tokio::time::sleep(LOOK).await;
    }
}

enum State {
    Writable,
    ReadOnly,
}

/// What a node is, if it says so in time.
async fn state(node: &PgConnectOptions) -> Option<State> {
    let asked = async {
        let mut connection = PgConnection::connect_with(node).await?;
        let writable = is_writable(&mut connection).await?;
        connection.close().await?;
        Ok::<_, sqlx::Error>(if writable { State::Writable } else { State::ReadOnly })
    };
    tokio::time::timeout(ANSWER, asked).await.ok()?.ok()
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
