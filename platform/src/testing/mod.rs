//! What tests need: waiting for a state, names of their own, and the servers that were started for them.

use std::time::Duration;

pub use lease::OwnLease;

mod lease;

/// How long [`eventually!`](crate::eventually) waits: long enough for a slow, loaded machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until an expression of type `Option<T>` or `bool` holds, and gives its value; panics after
/// [`PATIENCE`] with the expression's text and a note of your own.
///
/// ```ignore
/// let row = eventually!(store.find("m1").await, "the message is stored");
/// ```
#[macro_export]
macro_rules! eventually {
    ($condition:expr, $($note:tt)+) => {{
        let started = std::time::Instant::now();
        loop {
            if let Some(value) = $crate::testing::Held::held($condition) {
                break value;
            }
            if started.elapsed() > $crate::testing::PATIENCE {
                panic!("waited {:?} in vain until {}: {}", $crate::testing::PATIENCE, format!($($note)+), stringify!($condition));
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    }};
}

/// What [`eventually!`](crate::eventually) can wait for.
pub trait Held {
    type Value;
    fn held(self) -> Option<Self::Value>;
}

impl Held for bool {
    type Value = ();
    fn held(self) -> Option<()> {
        self.then_some(())
    }
}

impl<T> Held for Option<T> {
    type Value = T;
    fn held(self) -> Option<T> {
        self
    }
}

/// A suffix that no other test has: `-` and twelve hex digits.
pub fn unique_suffix() -> String {
    format!("-{:012x}", rand::random::<u64>() >> 16)
}

/// The address of a server that `cargo xtask test` started, by the name of its variable
/// (`CHAT_SYNC_TEST_KAFKA`, `…_POSTGRES`, `…_REDIS`, `…_KUBECONFIG`, `…_CHROMEDRIVER`).
///
/// `None`, said loudly, where it is absent: a plain `cargo test` runs what needs no server.
///
/// # Panics
/// If it is absent and `CHAT_SYNC_TEST_REQUIRE` names it: then it should have been there.
pub fn server(variable: &str) -> Option<String> {
    if let Some(address) = std::env::var(variable).ok().filter(|address| !address.is_empty()) {
        return Some(address);
    }
    let required = std::env::var("CHAT_SYNC_TEST_REQUIRE").unwrap_or_default();
    assert!(!required.split(',').any(|name| name == variable), "{variable} is required but not set");
    skip(&format!("{variable} is not set; `cargo xtask test` starts the servers"));
    None
}

/// Says that a test did not run, and why, so that nobody takes it for passed.
pub fn skip(why: &str) {
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    let line = format!("NOT RUN  {test}: {why}\n");
    // Straight to the terminal: the test harness would swallow what a passing test prints.
    let _ = std::io::Write::write_all(&mut std::io::stderr(), line.as_bytes());
    if let Ok(path) = std::env::var("CHAT_SYNC_TEST_SKIPPED") {
        let file = std::fs::OpenOptions::new().create(true).append(true).open(path);
        let _ = file.and_then(|mut file| std::io::Write::write_all(&mut file, line.as_bytes()));
    }
}

/// A new, empty database on the Postgres that was started for the tests, by its URL.
///
/// # Panics
/// If it cannot be made.
pub async fn postgres_database() -> Option<crate::config::Secret> {
    let server = server("CHAT_SYNC_TEST_POSTGRES")?;
    let name = format!("test{}", unique_suffix().replace('-', "_"));
    let mut admin = <sqlx::PgConnection as sqlx::Connection>::connect(&server).await.expect("the test's Postgres");
    let create = sqlx::AssertSqlSafe(format!("CREATE DATABASE {name}"));
    sqlx::raw_sql(create).execute(&mut admin).await.expect("a database of its own");
    let (base, _) = server.rsplit_once('/').expect("a URL with a database");
    Some(crate::config::Secret::new(format!("{base}/{name}")))
}
