//! The settings of the embedded mirror, and what they mean for each of its parts.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use external::config::Speed;
use internal::access::origins::Origin;
use platform::config::Secret;

use crate::tools::{Tool, Where};

/// A live mirror of a chat service, all in one process: a simulated vendor to write in, and the copy to read.
#[derive(Debug, Clone, clap::Parser)]
#[command(name = "chat-sync", version)]
pub struct Config {
    /// One of the operator's tools; without it, the live mirror.
    #[command(subcommand)]
    pub tool: Option<Tool>,
    #[command(flatten)]
    pub place: Where,
    /// The folder that holds everything; made if it is missing.
    #[arg(long, env = "CHAT_SYNC_DATA_DIR", default_value = "./.chat-sync", global = true)]
    pub data_dir: PathBuf,
    /// The port of the simulated vendor's page and API; 0 takes a free one.
    #[arg(long, env = "CHAT_SYNC_EXTERNAL_PORT", default_value_t = 30001)]
    pub external_port: u16,
    /// The port of the copy's page and API; 0 takes a free one.
    #[arg(long, env = "CHAT_SYNC_INTERNAL_PORT", default_value_t = 30002)]
    pub internal_port: u16,
    /// Let nobody chat by themselves.
    #[arg(long, env = "CHAT_SYNC_QUIET", value_parser = clap::builder::BoolishValueParser::new())]
    pub quiet: bool,
    /// Play these Slack event logs (JSON lines), in this order, instead of the scripted people;
    /// in the environment separated by commas.
    #[arg(long, env = "CHAT_SYNC_REPLAY", num_args = 1.., value_delimiter = ',')]
    pub replay: Vec<PathBuf>,
    /// How many times faster than life the log is played, or `max`.
    #[arg(long, env = "CHAT_SYNC_SPEED", default_value = "60")]
    pub speed: Speed,
    /// Whoever shows this token may decide about dead letters at /ops; without it, nobody may.
    #[arg(long, env = "CHAT_SYNC_OPERATOR_TOKEN", hide_env_values = true)]
    pub operator_token: Option<Secret>,
    /// The pages that may connect to the copy, as https://chat.example.org, separated by commas; without it only its own.
    #[arg(long, env = "CHAT_SYNC_ORIGINS", value_delimiter = ',')]
    pub origins: Vec<Origin>,
    /// What is logged, as for `tracing_subscriber::EnvFilter`.
    #[arg(long, env = "CHAT_SYNC_LOG", default_value = "warn")]
    pub log: String,
}

impl Config {
    /// The one file.
    pub fn file(&self) -> PathBuf {
        self.data_dir.join("chat-sync.sqlite")
    }

    pub(crate) fn vendor(&self, listen: SocketAddr) -> external::Config {
        external::Config {
            listen,
            tls_cert: None,
            tls_key: None,
            database: self.file(),
            keep_changes: 1_000_000,
            replay: self.replay.clone(),
            speed: self.speed,
            quiet: self.quiet,
            log: self.log.clone(),
        }
    }

    pub(crate) fn synchronizer(&self, source: SocketAddr) -> synchronizer::Settings {
        synchronizer::Settings {
            source_url: format!("http://{source}"),
            source_ca: None,
            source_cert: None,
            source_key: None,
            source: "external".into(),
            region: "a".into(),
            turns: synchronizer::config::TurnSettings::default(),
            topic_suffix: String::new(),
            poll_wait: Duration::from_secs(1),
            poll_limit: 500,
            marker_every: Duration::from_secs(1),
            source_budget: NonZeroU32::new(200).unwrap_or(NonZeroU32::MIN),
            overlap: Duration::from_secs(60),
            read_again_every: Duration::from_secs(15),
            reconcile_every: Duration::from_secs(60),
            reconcile_budget: NonZeroU32::new(5).unwrap_or(NonZeroU32::MIN),
            compare_regions_every: Duration::from_secs(300),
        }
    }

    pub(crate) fn writer(&self) -> writer::Settings {
        writer::Settings { topic_suffix: String::new(), group: "chat-sync-writer".into() }
    }

    pub(crate) fn internal(&self) -> internal::Settings {
        internal::Settings {
            region: "a".into(),
            regions: Vec::new(),
            topic_suffix: String::new(),
            pod: "internal-0".into(),
            ring: 2_000,
            load: 50,
            gate_ttl: Duration::from_secs(24 * 3600),
            gate_deadline: Duration::from_millis(20),
            quantum: internal::hub::QUANTUM,
            operator_token: self.operator_token.clone(),
        }
    }
}
