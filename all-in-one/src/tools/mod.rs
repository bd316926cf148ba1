//! The operator's tools: the subcommands of `chat-sync`.

mod dead_letters;
mod erase;
mod reconcile;
mod trace;
mod verify;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, ensure};
use platform::config::Secret;
use platform::dead_letters::{DeadLetters, PostgresLetters};
use platform::event_log::EventLog;
use platform::event_log::kafka::Kafka;
use platform::event_log::kafka_settings::KafkaSettings;
use platform::regions::Region;
use platform::sqlite::Sqlite;
use sqlx::PgPool;
use synchronizer::config::TurnSettings;
use synchronizer::postgres_stored::PostgresStored;
use synchronizer::source::Source;
use synchronizer::stored::Stored;
use synchronizer::vendor::Vendor;
use writer::Store;
use writer::to_postgres::Postgres;

use crate::config::Config;
use crate::embedded_log::EmbeddedLog;
use crate::embedded_store::EmbeddedStore;

/// What an operator can do. Without DATABASE_URL these look at the embedded mirror in the data folder.
#[derive(Debug, Clone, clap::Subcommand)]
pub enum Tool {
    /// Compare the copy with the source, chat by chat; exits 1 if they differ.
    Verify(verify::Args),
    /// Compare with the source now and append what differs; waits until it is done.
    Reconcile(reconcile::Args),
    /// Erase a chat, a message, or what an author has written, from the copies of all regions, for good.
    Erase(erase::Args),
    /// Records and items that could not be applied: look at them, try them again, discard them.
    DeadLetters {
        #[command(subcommand)]
        action: dead_letters::Action,
    },
    /// Tell one message's way from the vendor to the browsers.
    Trace(trace::Args),
}

/// Where things are, for the tools.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Where the tools look")]
pub struct Where {
    /// The copy's database, as postgres://user:password@host:port/database; without it, the embedded one in the data
    /// folder. Also from the file that DATABASE_URL_FILE names.
    #[arg(long, env = "DATABASE_URL", hide_env_values = true, global = true)]
    pub database_url: Option<Secret>,
    /// The source's base URL.
    #[arg(long, env = "CHAT_SYNC_SOURCE_URL", default_value = "http://127.0.0.1:30001", global = true)]
    pub source_url: String,
    /// What the source is called in records and checkpoints.
    #[arg(long, env = "CHAT_SYNC_SOURCE", default_value = "external", global = true)]
    pub source: String,
    /// The region whose log is looked at.
    #[arg(long, env = "CHAT_SYNC_REGION", default_value = "a", global = true)]
    pub region: String,
    /// All regions, as the services have them; only their names count here.
    #[arg(long, env = "CHAT_SYNC_REGIONS", value_delimiter = ',', global = true)]
    pub regions: Vec<Region>,
    #[command(flatten)]
    pub kafka: KafkaSettings,
    /// What is added to every topic's name.
    #[arg(long, env = "CHAT_SYNC_TOPIC_SUFFIX", default_value = "", global = true)]
    pub topic_suffix: String,
    /// internal's address, which knows what was pushed.
    #[arg(long, env = "CHAT_SYNC_INTERNAL_URL", default_value = "http://127.0.0.1:30002", global = true)]
    pub internal_url: String,
}

/// What the tools work on.
struct World {
    source: Arc<dyn Source>,
    stored: Arc<dyn Stored>,
    store: Arc<dyn Store>,
    letters: Arc<dyn DeadLetters>,
    log: Arc<dyn EventLog>,
    settings: synchronizer::Settings,
    internal_url: String,
}

/// # Errors
/// A sentence for people.
pub async fn run(tool: Tool, config: &Config) -> anyhow::Result<ExitCode> {
    let world = World::open(config).await?;
    match tool {
        Tool::Verify(args) => verify::run(&world, args).await,
        Tool::Reconcile(args) => reconcile::run(&world, args).await,
        Tool::Erase(args) => erase::run(&world, args).await,
        Tool::DeadLetters { action } => dead_letters::run(&world, action).await,
        Tool::Trace(args) => trace::run(&world, args).await,
    }
}

impl World {
    async fn open(config: &Config) -> anyhow::Result<Self> {
        let place = &config.place;
        let settings = synchronizer::Settings {
            source_url: place.source_url.clone(),
            source: place.source.clone(),
            region: place.region.clone(),
            topic_suffix: place.topic_suffix.clone(),
            turns: TurnSettings { regions: place.regions.clone(), ..TurnSettings::default() },
            ..config.synchronizer(([127, 0, 0, 1], config.external_port).into())
        };
        let source = Arc::new(Vendor::new(&settings)?);
        let internal_url = place.internal_url.clone();
        let Some(url) = &place.database_url else {
            let (store, log) = embedded(config.file()).await?;
            let (stored, letters) = (store.clone(), store.clone());
            return Ok(Self { source, stored, store, letters, log, settings, internal_url });
        };
        let pool = reached(url).await.context("the copy (DATABASE_URL)")?;
        let store = Arc::new(Postgres::new(pool.clone()));
        let (stored, letters) = (Arc::new(PostgresStored::new(pool.clone())), Arc::new(PostgresLetters::new(pool)));
        let log = Arc::new(Kafka::reached_by(&place.kafka)?);
        Ok(Self { source, stored, store, letters, log, settings, internal_url })
    }
}

/// A copy's database, asked once: an address that is wrong is an error and not a wait.
async fn reached(url: &Secret) -> anyhow::Result<PgPool> {
    let pool = platform::postgres::pool(url, 8, false)?;
    sqlx::query("SELECT 1 FROM progress LIMIT 1").execute(&pool).await?;
    Ok(pool)
}

async fn embedded(file: PathBuf) -> anyhow::Result<(Arc<EmbeddedStore>, Arc<EmbeddedLog>)> {
    let missing = format!("there is no embedded mirror in {}; name a --data-dir, or a DATABASE_URL", file.display());
    ensure!(file.is_file(), missing);
    let db = Sqlite::open(&file).await.with_context(|| format!("cannot use {}", file.display()))?;
    Ok((Arc::new(EmbeddedStore::new(db.clone())), Arc::new(EmbeddedLog::open(db).await?)))
}
