//! The settings of internal.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use platform::config::{Secret, duration};
use platform::dead_letters::PostgresLetters;
use platform::event_log::kafka::Kafka;
use platform::event_log::kafka_settings::KafkaSettings;
use platform::redis::RedisTls;
use platform::regions::{self, Region};
use platform::tls::Files;

use crate::access::origins::{Origin, Origins};
use crate::access::{Access, AccessSettings, Mode};
use crate::hub::QUANTUM;
use crate::postgres_copy::PostgresCopy;
use crate::receipts::redis::RedisReceipts;
use crate::redis_gate::RedisGate;
use crate::{Door, World};

/// Shows the copy live in browsers.
#[derive(Debug, Clone, clap::Parser)]
#[command(name = "internal", version)]
pub struct Config {
    #[command(flatten)]
    pub settings: Settings,
    #[command(flatten)]
    pub access: AccessSettings,
    /// The copy's database, as postgres://user:password@host:port/database; only read. Several nodes as
    /// host:port,host:port: the first that answers. Also from the file that DATABASE_URL_FILE names.
    #[arg(long, env = "DATABASE_URL", hide_env_values = true)]
    pub database_url: Secret,
    /// Redis, as redis://host:port, or rediss:// over TLS; also from the file that REDIS_URL_FILE names.
    #[arg(long, env = "REDIS_URL", hide_env_values = true)]
    pub redis_url: Secret,
    #[command(flatten)]
    pub kafka: KafkaSettings,
    /// Where the page, the API and /livez, /readyz and /metrics are served.
    #[arg(long, env = "CHAT_SYNC_INTERNAL_LISTEN", default_value = "127.0.0.1:30002")]
    pub listen: SocketAddr,
    /// Served over TLS: the certificate, and its key, as PEM files; read again when they change.
    #[arg(long, env = "CHAT_SYNC_INTERNAL_TLS_CERT")]
    pub tls_cert: Option<PathBuf>,
    /// The certificate's key.
    #[arg(long, env = "CHAT_SYNC_INTERNAL_TLS_KEY")]
    pub tls_key: Option<PathBuf>,
    #[command(flatten)]
    pub redis_tls: RedisTls,
    /// The pages that may connect, as https://chat.example.org, separated by commas; without it only this server's own.
    #[arg(long, env = "CHAT_SYNC_ORIGINS", value_delimiter = ',')]
    pub origins: Vec<Origin>,
    /// How many WebSockets one address may hold.
    #[arg(long, env = "CHAT_SYNC_CONNECTIONS_PER_ADDRESS", default_value_t = 1_000)]
    pub connections_per_address: usize,
    /// What is logged, as for `tracing_subscriber::EnvFilter`.
    #[arg(long, env = "CHAT_SYNC_LOG", default_value = "info")]
    pub log: String,
}

/// What showing depends on, wherever log, copy and gate are.
#[derive(Debug, Clone, clap::Args)]
pub struct Settings {
    /// The region's name.
    #[arg(long, env = "CHAT_SYNC_REGION", default_value = "a")]
    pub region: String,
    /// All regions and where their pages are, as a=https://a.example.org,b=https://b.example.org: a page that is open
    /// moves to another one when its own goes silent. Without it there is this one alone.
    #[arg(long, env = "CHAT_SYNC_REGIONS", value_delimiter = ',')]
    pub regions: Vec<Region>,
    /// What is added to every topic's name, to keep installations apart on one cluster.
    #[arg(long, env = "CHAT_SYNC_TOPIC_SUFFIX", default_value = "")]
    pub topic_suffix: String,
    /// This pod's name; its position is committed under it, for people who look into Kafka.
    #[arg(long, env = "CHAT_SYNC_POD", default_value = "internal-0")]
    pub pod: String,
    /// How many records of each partition are kept for loads and resumes.
    #[arg(long, env = "CHAT_SYNC_RING", default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub ring: u64,
    /// How many messages a load brings.
    #[arg(long, env = "CHAT_SYNC_LOAD", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=500))]
    pub load: u32,
    /// How many bytes of one chat's messages are pushed before the other chats have their turn.
    #[arg(long, env = "CHAT_SYNC_QUANTUM", default_value_t = QUANTUM, value_parser = clap::value_parser!(u64).range(1..))]
    pub quantum: u64,
    /// How long the gate keeps the newest row of a message.
    #[arg(long, env = "CHAT_SYNC_GATE_TTL", default_value = "24h", value_parser = duration)]
    pub gate_ttl: Duration,
    /// How long the gate may take; past it the pod decides alone.
    #[arg(long, env = "CHAT_SYNC_GATE_DEADLINE", default_value = "20ms", value_parser = duration)]
    pub gate_deadline: Duration,
    /// Whoever shows this token may decide about dead letters at /ops; without it, nobody may. Also from the file that
    /// CHAT_SYNC_OPERATOR_TOKEN_FILE names.
    #[arg(long, env = "CHAT_SYNC_OPERATOR_TOKEN", hide_env_values = true)]
    pub operator_token: Option<Secret>,
}

/// How long a connection to Redis may take.
const REDIS: Duration = Duration::from_millis(500);

impl Config {
    /// What is read and asked; connected to when it is first used.
    ///
    /// # Errors
    /// A sentence that names the setting that is wrong.
    pub fn world(&self) -> anyhow::Result<World> {
        let pool = platform::postgres::pool(&self.database_url, 8, false)?;
        let copy = Arc::new(PostgresCopy::new(pool.clone()));
        let redis = |connections| platform::redis::pool(&self.redis_url, &self.redis_tls, connections, REDIS);
        Ok(World {
            log: Arc::new(Kafka::reached_by(&self.kafka)?),
            copy: copy.clone(),
            history: copy,
            letters: Arc::new(PostgresLetters::new(pool)),
            gate: Arc::new(RedisGate::new(redis(4)?, &self.settings)),
            // Connections of their own: the gate waits for nothing.
            receipts: Arc::new(RedisReceipts::new(redis(2)?, &self.settings)),
        })
    }

    /// The way in.
    ///
    /// # Errors
    /// A sentence that names the setting that is wrong or missing, or says that the port is taken.
    pub async fn door(&self) -> anyhow::Result<Door> {
        regions::others(&self.settings.regions, &self.settings.region)?;
        let names = ["CHAT_SYNC_INTERNAL_TLS_CERT", "CHAT_SYNC_INTERNAL_TLS_KEY"];
        Ok(Door {
            access: self.access()?,
            tls: Files::both(names, self.tls_cert.clone(), self.tls_key.clone())?,
            origins: Origins::new(self.origins.clone(), &self.settings.regions, self.listen.ip()),
            per_address: self.connections_per_address,
            listener: platform::http::listen(self.listen, "--listen").await?,
        })
    }

    /// Who may look.
    ///
    /// # Errors
    /// A sentence that names the setting that is wrong or missing.
    fn access(&self) -> anyhow::Result<Access> {
        let access = self.access.access(self.listen)?;
        anyhow::ensure!(
            self.settings.operator_token.is_none() || access.mode() == Mode::Off,
            "CHAT_SYNC_OPERATOR_TOKEN is for CHAT_SYNC_AUTH=off; else operators are those whose role it is"
        );
        Ok(access)
    }
}
