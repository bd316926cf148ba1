//! The whole mirror in one process, on one SQLite file: vendor, synchronizer, log, writer, store, gate and pages.

pub mod config;
pub mod embedded_gate;
mod embedded_history;
mod embedded_letters;
pub mod embedded_log;
pub mod embedded_receipts;
pub mod embedded_store;
mod embedded_stored;
pub mod tools;

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use internal::access::Access;
use internal::access::origins::Origins;
use platform::health::Health;
use platform::leadership::Leadership;
use platform::lifecycle::{DRAIN_BUDGET, Parts, Stop};
use platform::sqlite::Sqlite;
use synchronizer::vendor::Vendor;
use tokio::net::TcpListener;
use writer::Store;

pub use config::Config;
use embedded_gate::EmbeddedGate;
use embedded_log::EmbeddedLog;
use embedded_receipts::EmbeddedReceipts;
use embedded_store::EmbeddedStore;

/// How many records of each partition stay in the embedded log at least; what the store has applied beyond
/// that is forgotten.
const KEPT_RECORDS: u64 = 5_000;
const HOUSEKEEPING: Duration = Duration::from_secs(30);
/// How often it is looked whether a tool has appended something.
const TOOLS: Duration = Duration::from_secs(1);

/// What somebody who sets it believes in.
const PROTECTS: [&str; 3] = ["CHAT_SYNC_AUTH", "CHAT_SYNC_INTERNAL_TLS_CERT", "CHAT_SYNC_EXTERNAL_TLS_CERT"];

/// Where the two pages are served.
#[derive(Debug, Clone, Copy)]
pub struct Addresses {
    pub external: SocketAddr,
    pub internal: SocketAddr,
}

/// The embedded mirror, its ports taken and its file open.
pub struct AllInOne {
    config: Config,
    external: TcpListener,
    internal: TcpListener,
    db: Sqlite,
    log: EmbeddedLog,
    store: EmbeddedStore,
    /// Held as long as the process lives: two processes on one file would give one offset twice.
    _lock: File,
}

impl AllInOne {
    /// Takes the ports and opens the file.
    ///
    /// # Errors
    /// A sentence for people: a port is taken, a folder cannot be used.
    pub async fn open(config: Config) -> anyhow::Result<Self> {
        external::replay::read_lines(&config.replay)?;
        for name in PROTECTS {
            anyhow::ensure!(
                std::env::var_os(name).is_none(),
                "{name} is the four services': this mirror is open to whoever is on this machine, and to nobody else"
            );
        }
        let local = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let external = platform::http::listen(local(config.external_port), "--external-port").await?;
        let internal = platform::http::listen(local(config.internal_port), "--internal-port").await?;
        let lock = lock(&config.data_dir)?;
        let file = config.file();
        let db = Sqlite::open(&file).await.with_context(|| format!("cannot use {}", file.display()))?;
        let store = EmbeddedStore::new(db.clone());
        store.migrate().await.with_context(|| format!("cannot use {}", file.display()))?;
        let log = EmbeddedLog::open(db.clone()).await.context("the embedded log")?;
        Ok(Self { config, external, internal, db, log, store, _lock: lock })
    }

    /// # Errors
    /// If the operating system does not tell.
    pub fn addresses(&self) -> std::io::Result<Addresses> {
        Ok(Addresses { external: self.external.local_addr()?, internal: self.internal.local_addr()? })
    }

    /// Runs everything until the stop signal.
    ///
    /// # Errors
    /// If a part fails.
    pub async fn run(self, stop: Stop) -> anyhow::Result<()> {
        let addresses = self.addresses()?;
        let Self { config, external, internal, db, log, store, _lock } = self;
        let (log, store, health) = (Arc::new(log), Arc::new(store), Health::new());
        let mut parts = Parts::new();
        let vendor = external::run(
            config.vendor(addresses.external),
            db.clone(),
            health.part("external"),
            external,
            stop.clone(),
        );
        parts.spawn("external", vendor);
        let settings = config.synchronizer(addresses.external);
        let source = Arc::new(Vendor::new(&settings)?);
        let leadership = Leadership::always();
        let polling = synchronizer::run(
            settings,
            source,
            store.clone(),
            log.clone(),
            leadership,
            health.part("synchronizer"),
            stop.clone(),
        );
        parts.spawn("synchronizer", polling);
        let writing = writer::run(config.writer(), log.clone(), store.clone(), health.part("writer"), stop.clone());
        parts.spawn("writer", writing);
        let settings = config.internal();
        let world = internal::World {
            log: log.clone(),
            copy: store.clone(),
            history: store.clone(),
            letters: store.clone(),
            gate: Arc::new(EmbeddedGate::new(settings.gate_ttl)),
            receipts: Arc::new(EmbeddedReceipts::new(settings.gate_ttl)),
        };
        let door = internal::Door {
            access: Access::Off,
            origins: Origins::new(config.origins, &[], addresses.internal.ip()),
            per_address: 1_000,
            listener: internal,
            tls: None,
        };
        let showing = internal::run(settings, world, health.part("internal"), door, stop.clone());
        parts.spawn("internal", showing);
        parts.spawn("tools", follow_tools(log.clone(), stop.clone()));
        parts.spawn("housekeeping", keep_house(log, store, stop.clone()));
        let ended = parts.join(&stop, DRAIN_BUDGET).await;
        db.close().await;
        ended
    }
}

/// Makes the data folder and takes it for this process.
fn lock(folder: &Path) -> anyhow::Result<File> {
    std::fs::create_dir_all(folder).with_context(|| format!("cannot make {} (--data-dir)", folder.display()))?;
    let file = File::create(folder.join("lock")).with_context(|| format!("cannot use {}", folder.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => {
            anyhow::bail!("{} is in use by another chat-sync; choose another with --data-dir", folder.display())
        }
        Err(std::fs::TryLockError::Error(error)) => Err(error).context("cannot lock the data folder"),
    }
}

/// Forgets records of the log that the store has applied long ago.
async fn keep_house(log: Arc<EmbeddedLog>, store: Arc<EmbeddedStore>, stop: Stop) -> anyhow::Result<()> {
    loop {
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = tokio::time::sleep(HOUSEKEEPING) => {}
        }
        platform::telemetry::upkeep();
        if let Err(error) = forget(&log, &store).await {
            tracing::warn!(%error, "the embedded log could not be trimmed");
        }
    }
}

/// Takes note of what the operator's tools append.
async fn follow_tools(log: Arc<EmbeddedLog>, stop: Stop) -> anyhow::Result<()> {
    loop {
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = tokio::time::sleep(TOOLS) => {}
        }
        if let Err(error) = log.look_again().await {
            tracing::warn!(%error, "the embedded log could not be looked at");
        }
    }
}

async fn forget(log: &EmbeddedLog, store: &EmbeddedStore) -> anyhow::Result<()> {
    let applied = store.progress().await?.into_iter().map(|(at, progress)| (at, progress.next_offset));
    Ok(log.forget(applied.collect(), KEPT_RECORDS).await?)
}
