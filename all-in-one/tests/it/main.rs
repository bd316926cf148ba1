//! The embedded parts pass the suites that the real servers pass.

mod gate;
mod log;
mod receipts;
mod store;

use all_in_one::embedded_log::EmbeddedLog;
use all_in_one::embedded_store::EmbeddedStore;
use platform::sqlite::Sqlite;
use tempfile::TempDir;
use writer::Store;

/// A file of its own, removed when the test ends.
pub struct World {
    pub db: Sqlite,
    pub log: EmbeddedLog,
    pub store: EmbeddedStore,
    _folder: TempDir,
}

pub async fn world() -> World {
    let folder = tempfile::tempdir().unwrap();
    let db = Sqlite::open(&folder.path().join("test.sqlite")).await.unwrap();
    let store = EmbeddedStore::new(db.clone());
    store.migrate().await.unwrap();
    let log = EmbeddedLog::open(db.clone()).await.unwrap();
    World { db, log, store, _folder: folder }
}
