//! The writer's settings.

use std::net::SocketAddr;

use platform::config::Secret;
use platform::event_log::kafka_settings::KafkaSettings;

/// Consumes the log and keeps the copy in Postgres.
#[derive(Debug, Clone, clap::Parser)]
#[command(name = "writer", version)]
pub struct Config {
    #[command(subcommand)]
    pub command: Option<Command>,
    #[command(flatten)]
    pub settings: Settings,
    /// The copy's database, as postgres://user:password@host:port/database; several nodes as host:port,host:port, of
    /// which the one that can be written to is taken. Also from the file that DATABASE_URL_FILE names.
    #[arg(long, env = "DATABASE_URL", hide_env_values = true)]
    pub database_url: Secret,
    #[command(flatten)]
    pub kafka: KafkaSettings,
    /// Where /livez, /readyz and /metrics are served.
    #[arg(long, env = "CHAT_SYNC_WRITER_LISTEN", default_value = "127.0.0.1:30004")]
    pub listen: SocketAddr,
    /// What is logged, as for `tracing_subscriber::EnvFilter`.
    #[arg(long, env = "CHAT_SYNC_LOG", default_value = "info")]
    pub log: String,
}

#[derive(Debug, Clone, clap::Subcommand)]
pub enum Command {
    /// Bring the database's tables up to date and exit; the service does so at its start, too.
    Migrate,
}

/// What writing depends on, wherever log and store are.
#[derive(Debug, Clone, clap::Args)]
pub struct Settings {
    /// What is added to every topic's name, to keep installations apart on one cluster.
    #[arg(long, env = "CHAT_SYNC_TOPIC_SUFFIX", default_value = "")]
    pub topic_suffix: String,
    /// The consumer group under which writers share the partitions.
    #[arg(long, env = "CHAT_SYNC_WRITER_GROUP", default_value = "chat-sync-writer")]
    pub group: String,
}
