//! One SQLite file, shared by everything in a process.

use std::path::Path;
use std::time::Duration;

use sqlx::SqlitePool;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};

/// Two pools on one file. SQLite has one writer at a time, so writers queue for the one connection
/// here, in order, instead of polling a locked file; readers never wait for them (WAL).
#[derive(Debug, Clone)]
pub struct Sqlite {
    pub write: SqlitePool,
    pub read: SqlitePool,
}

impl Sqlite {
    /// Opens or creates the file.
    ///
    /// A killed process loses nothing; a power cut may lose the last moments, never the file's consistency
    /// (WAL with `synchronous=NORMAL`, see SQLite's documentation of that pragma).
    ///
    /// # Errors
    /// If the file cannot be opened, or is no database.
    pub async fn open(path: &Path) -> sqlx::Result<Self> {
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Normal)
            .busy_timeout(Duration::from_secs(10));
        let write = SqlitePoolOptions::new().max_connections(1).connect_with(options.clone()).await?;
        let read = SqlitePoolOptions::new().max_connections(4).connect_with(options.read_only(true)).await?;
        Ok(Self { write, read })
    }

    pub async fn close(&self) {
        self.read.close().await;
        self.write.close().await;
    }
}
