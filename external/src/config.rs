//! The vendor's settings.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

/// A simulated chat vendor: a page to write in, a REST API, and a change feed to poll.
#[derive(Debug, Clone, clap::Parser)]
#[command(name = "external", version)]
pub struct Config {
    /// Where the page and the API are served.
    #[arg(long, env = "CHAT_SYNC_EXTERNAL_LISTEN", default_value = "127.0.0.1:30001")]
    pub listen: SocketAddr,
    /// Served over TLS: the certificate, and its key, as PEM files; read again when they change.
    #[arg(long, env = "CHAT_SYNC_EXTERNAL_TLS_CERT")]
    pub tls_cert: Option<PathBuf>,
    /// The certificate's key.
    #[arg(long, env = "CHAT_SYNC_EXTERNAL_TLS_KEY")]
    pub tls_key: Option<PathBuf>,
    /// The SQLite file that holds everything.
    #[arg(long, env = "CHAT_SYNC_EXTERNAL_DATABASE", default_value = "external.sqlite")]
    pub database: PathBuf,
    /// How many changes the feed keeps; an older cursor is answered with 410.
    #[arg(long, env = "CHAT_SYNC_EXTERNAL_KEEP_CHANGES", default_value_t = 1_000_000,
          value_parser = clap::value_parser!(u32).range(1..))]
    pub keep_changes: u32,
    /// Play these Slack event logs (JSON lines), in this order, instead of the scripted people;
    /// in the environment separated by commas.
    #[arg(long, env = "CHAT_SYNC_EXTERNAL_REPLAY", num_args = 1.., value_delimiter = ',')]
    pub replay: Vec<PathBuf>,
    /// How many times faster than life the log is played, or `max`.
    #[arg(long, env = "CHAT_SYNC_EXTERNAL_SPEED", default_value = "60")]
    pub speed: Speed,
    /// Let nobody chat by themselves.
    #[arg(long, env = "CHAT_SYNC_EXTERNAL_QUIET", value_parser = clap::builder::BoolishValueParser::new())]
    pub quiet: bool,
    /// What is logged, as for `tracing_subscriber::EnvFilter`.
    #[arg(long, env = "CHAT_SYNC_LOG", default_value = "info")]
    pub log: String,
}

/// How fast a log is played.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Speed {
    /// So many times faster than it happened.
    Times(f64),
    /// Without any pause.
    Max,
}

impl FromStr for Speed {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.parse::<f64>() {
            _ if text == "max" => Ok(Self::Max),
            Ok(times) if times.is_finite() && times > 0.0 => Ok(Self::Times(times)),
            _ => Err(format!("'{text}' is no speed; write a number above 0, or max")),
        }
    }
}

impl std::fmt::Display for Speed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Times(times) => write!(f, "{times}"),
            Self::Max => f.write_str("max"),
        }
    }
}
