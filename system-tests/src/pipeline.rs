//! The pipeline as four processes on the real servers, or as one process on the embedded parts.

use std::path::{Path, PathBuf};

use platform::config::Secret;
use platform::eventually;
use platform::testing::{postgres_database, server, unique_suffix};
use tempfile::TempDir;

use crate::process::{Process, free_port, ready};
use crate::vendor::Vendor;

/// Four processes with topics, a database and keys of their own.
pub struct Pipeline {
    pub external: Process,
    pub synchronizer: Process,
    pub writer: Process,
    pub internal: Process,
    /// `host:port` of each.
    pub vendor_address: String,
    pub internal_address: String,
    pub synchronizer_address: String,
    pub writer_address: String,
    pub database_url: Secret,
    /// What the processes are told instead of it.
    told_database: Secret,
    told_redis: String,
    pub topic_suffix: String,
    pub kafka: String,
    pub folder: TempDir,
}

/// What differs from one pipeline to another.
#[derive(Default)]
pub struct Options {
    /// Slack logs that the vendor plays as fast as it can.
    pub replay: Vec<PathBuf>,
    /// Where the vendor listens; none: anywhere.
    pub vendor_address: Option<String>,
    /// Another Kafka than the one that all tests share.
    pub kafka: Option<String>,
    /// Postgres and Redis are reached through these, as `host:port`.
    pub postgres_through: Option<String>,
    pub redis_through: Option<String>,
    /// A database of the test's own, with what the pipeline's processes are told instead of its URL.
    pub database: Option<(Secret, String)>,
    /// Further settings of the three services that reach Kafka.
    pub everywhere: Vec<(&'static str, String)>,
    /// Further settings of the vendor, of the synchronizer, of the writer, and of internal.
    pub external: Vec<(&'static str, String)>,
    pub synchronizer: Vec<(&'static str, String)>,
    pub writer: Vec<(&'static str, String)>,
    pub internal: Vec<(&'static str, String)>,
}

impl Pipeline {
    /// Starts all four; `None`, said loudly, without the servers.
    pub async fn start(options: Options) -> Option<Self> {
        let kafka = match &options.kafka {
            Some(own) => own.clone(),
            None => server("CHAT_SYNC_TEST_KAFKA")?,
        };
        let redis = through(server("CHAT_SYNC_TEST_REDIS")?, options.redis_through.as_deref());
        let (database_url, reached) = match options.database.clone() {
            Some((own, told)) => (own, Secret::new(told)),
            None => {
                let url = postgres_database().await?;
                let reached = through(url.expose().to_owned(), options.postgres_through.as_deref());
                (url, Secret::new(reached))
            }
        };
        let folder = tempfile::tempdir().expect("a folder");
        let topic_suffix = unique_suffix();
        let address = || format!("127.0.0.1:{}", free_port());
        let addresses = [address(), address(), address(), address()];
        let [mut vendor_address, synchronizer_address, writer_address, internal_address] = addresses;
        if let Some(address) = options.vendor_address {
            vendor_address = address;
        }
        let shared = |listen| {
            let mut variables = shared_variables(&kafka, &topic_suffix, listen);
            variables.extend(options.everywhere.clone());
            variables
        };
        let external = vendor(folder.path(), &vendor_address, &options.replay, options.external);
        let mut variables = shared(("CHAT_SYNC_SYNCHRONIZER_LISTEN", &synchronizer_address));
        variables.push(("CHAT_SYNC_SOURCE_URL", format!("http://{vendor_address}")));
        variables.push(("DATABASE_URL", reached.expose().to_owned()));
        variables.extend(options.synchronizer.clone());
        let synchronizer = Process::start("synchronizer", folder.path(), &variables);
        let mut variables = shared(("CHAT_SYNC_WRITER_LISTEN", &writer_address));
        variables.push(("CHAT_SYNC_WRITER_GROUP", format!("writer{topic_suffix}")));
        variables.push(("DATABASE_URL", reached.expose().to_owned()));
        variables.extend(options.writer.clone());
        let writer = Process::start("writer", folder.path(), &variables);
        let mut variables = shared(("CHAT_SYNC_INTERNAL_LISTEN", &internal_address));
        variables.push(("DATABASE_URL", reached.expose().to_owned()));
        variables.push(("REDIS_URL", redis.clone()));
        variables.extend(options.internal.clone());
        let internal = Process::start("internal", folder.path(), &variables);
        Some(Self {
            external,
            synchronizer,
            writer,
            internal,
            vendor_address,
            internal_address,
            synchronizer_address,
            writer_address,
            database_url,
            told_database: reached,
            told_redis: redis,
            topic_suffix,
            kafka,
            folder,
        })
    }

    pub async fn ready(&self) {
        for address in [&self.vendor_address, &self.synchronizer_address, &self.writer_address, &self.internal_address]
        {
            ready(address).await;
        }
    }

    /// One more synchronizer beside the pipeline's own.
    pub fn another_synchronizer(&self, address: &str, further: Vec<(&'static str, String)>) -> Process {
        let listen = ("CHAT_SYNC_SYNCHRONIZER_LISTEN", address);
        let mut variables = shared_variables(&self.kafka, &self.topic_suffix, listen);
        variables.push(("CHAT_SYNC_SOURCE_URL", format!("http://{}", self.vendor_address)));
        variables.push(("DATABASE_URL", self.told_database.expose().to_owned()));
        variables.extend(further);
        Process::start("synchronizer", self.folder.path(), &variables)
    }

    /// One more writer beside the pipeline's own, in its group.
    pub fn another_writer(&self, address: &str, further: Vec<(&'static str, String)>) -> Process {
        let mut variables = shared_variables(&self.kafka, &self.topic_suffix, ("CHAT_SYNC_WRITER_LISTEN", address));
        variables.push(("CHAT_SYNC_WRITER_GROUP", format!("writer{}", self.topic_suffix)));
        variables.push(("DATABASE_URL", self.told_database.expose().to_owned()));
        variables.extend(further);
        Process::start("writer", self.folder.path(), &variables)
    }

    /// One more pod of internal.
    pub fn another_internal(&self, address: &str, pod: &str, further: Vec<(&'static str, String)>) -> Process {
        let mut variables = shared_variables(&self.kafka, &self.topic_suffix, ("CHAT_SYNC_INTERNAL_LISTEN", address));
        variables.push(("CHAT_SYNC_POD", pod.to_owned()));
        variables.push(("DATABASE_URL", self.told_database.expose().to_owned()));
        variables.push(("REDIS_URL", self.told_redis.clone()));
        variables.extend(further);
        Process::start("internal", self.folder.path(), &variables)
    }

    pub fn vendor(&self) -> Vendor {
        Vendor::new(&self.vendor_address)
    }

    pub fn processes(&mut self) -> [&mut Process; 4] {
        [&mut self.external, &mut self.synchronizer, &mut self.writer, &mut self.internal]
    }
}

/// The same address with another `host:port`.
fn through(url: String, other: Option<&str>) -> String {
    match (other, host_and_port(&url)) {
        (Some(other), host) => url.replacen(host, other, 1),
        (None, _) => url,
    }
}

/// The `host:port` of `scheme://user@host:port/path`.
pub fn host_and_port(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = rest.split('/').next().unwrap_or(rest);
    authority.rsplit('@').next().unwrap_or(authority)
}

fn shared_variables(kafka: &str, topic_suffix: &str, listen: (&'static str, &str)) -> Vec<(&'static str, String)> {
    vec![
        ("CHAT_SYNC_KAFKA", kafka.to_owned()),
        ("CHAT_SYNC_TOPIC_SUFFIX", topic_suffix.to_owned()),
        ("CHAT_SYNC_LOG", "info".to_owned()),
        (listen.0, listen.1.to_owned()),
    ]
}

fn vendor(folder: &Path, address: &str, replay: &[PathBuf], further: Vec<(&'static str, String)>) -> Process {
    let mut variables = vec![
        ("CHAT_SYNC_EXTERNAL_LISTEN", address.to_owned()),
        ("CHAT_SYNC_EXTERNAL_DATABASE", folder.join("external.sqlite").display().to_string()),
        ("CHAT_SYNC_EXTERNAL_QUIET", "true".to_owned()),
        ("CHAT_SYNC_LOG", "info".to_owned()),
    ];
    variables.extend(replay_variables("CHAT_SYNC_EXTERNAL_REPLAY", "CHAT_SYNC_EXTERNAL_SPEED", replay));
    variables.extend(further);
    Process::start("external", folder, &variables)
}

fn replay_variables(files: &'static str, speed: &'static str, replay: &[PathBuf]) -> Vec<(&'static str, String)> {
    if replay.is_empty() {
        return Vec::new();
    }
    let list: Vec<String> = replay.iter().map(|file| file.display().to_string()).collect();
    vec![(files, list.join(",")), (speed, "max".to_owned())]
}

/// What the embedded mirrors of the tests take for their operator.
pub const OPERATOR_TOKEN: &str = "the operator's";

/// The embedded mirror as a process of its own.
pub struct Embedded {
    pub process: Process,
    pub vendor_address: String,
    pub internal_address: String,
    pub folder: TempDir,
}

impl Embedded {
    /// Nobody chats there by themselves.
    pub fn start(replay: &[PathBuf]) -> Self {
        Self::start_with(replay, true)
    }

    /// The scripted people chat.
    pub fn start_lively() -> Self {
        Self::start_with(&[], false)
    }

    fn start_with(replay: &[PathBuf], quiet: bool) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let (external, internal) = (free_port(), free_port());
        let mut variables = vec![
            ("CHAT_SYNC_DATA_DIR", folder.path().join("data").display().to_string()),
            ("CHAT_SYNC_EXTERNAL_PORT", external.to_string()),
            ("CHAT_SYNC_INTERNAL_PORT", internal.to_string()),
            ("CHAT_SYNC_QUIET", quiet.to_string()),
            ("CHAT_SYNC_OPERATOR_TOKEN", OPERATOR_TOKEN.to_owned()),
        ];
        variables.extend(replay_variables("CHAT_SYNC_REPLAY", "CHAT_SYNC_SPEED", replay));
        let process = Process::start("chat-sync", folder.path(), &variables);
        let address = |port| format!("127.0.0.1:{port}");
        Self { process, vendor_address: address(external), internal_address: address(internal), folder }
    }

    pub async fn ready(&self) {
        ready(&self.internal_address).await;
    }

    pub fn vendor(&self) -> Vendor {
        Vendor::new(&self.vendor_address)
    }

    pub fn file(&self) -> PathBuf {
        self.folder.path().join("data/chat-sync.sqlite")
    }

    /// Waits until the greeting is printed and gives it.
    pub async fn greeting(&self) -> String {
        eventually!(self.process.printed().contains("ready;"), "it says that it is ready");
        self.process.printed()
    }
}
