//! A Kafka of a test's own, which it may kill and start again.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use platform::eventually;
use platform::testing::server;
use rdkafka::TopicPartitionList;
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::topic_partition_list::Offset;
use tempfile::TempDir;
use tokio::net::TcpStream;

use crate::process::{free_port, signal};
use crate::proxy::Proxy;

pub struct OwnKafka {
    /// `host:port`.
    pub address: String,
    port: u16,
    folder: TempDir,
    jars: PathBuf,
    /// Further variables of its processes.
    variables: Vec<(&'static str, String)>,
    child: Option<Child>,
}

impl OwnKafka {
    /// Formats its storage and starts it; `None`, said loudly, without Kafka's jars.
    ///
    /// # Panics
    /// If it cannot be started.
    pub async fn start() -> Option<Self> {
        Self::prepare(&[], |properties| properties).await
    }

    /// With a second way to it: who comes through the proxy stays there, for the broker tells such clients its address.
    /// Its process has these variables beside the test's own.
    ///
    /// # Panics
    /// If it cannot be started.
    pub async fn with_a_proxy(variables: &[(&'static str, String)]) -> Option<(Self, Proxy)> {
        let behind = free_port();
        let proxy = Proxy::to(&format!("127.0.0.1:{behind}")).await;
        let (_, told) = proxy.address.rsplit_once(':').expect("an address");
        let told = told.parse().expect("a port");
        let listens = |properties: String| listening(&properties, "PLAINTEXT", behind, told);
        let kafka = Self::prepare(variables, listens).await?;
        Some((kafka, proxy))
    }

    /// With a second way to it, over TLS: what it shows and whom it believes are PEM files. Whoever comes this way must
    /// show a certificate. Gives the way's address.
    ///
    /// # Panics
    /// If it cannot be started.
    pub async fn over_tls(certificate: &Path, key: &Path, ca: &Path) -> Option<(Self, String)> {
        let port = free_port();
        // Kafka takes the key and the certificate from one file.
        let store = certificate.with_extension("store");
        let both = [certificate, key].map(|file| std::fs::read_to_string(file).expect("PEM")).concat();
        std::fs::write(&store, both).expect("the file");
        let settings = [
            ("ssl.keystore.type", "PEM".to_owned()),
            ("ssl.keystore.location", store.display().to_string()),
            ("ssl.truststore.type", "PEM".to_owned()),
            ("ssl.truststore.location", ca.display().to_string()),
            ("ssl.client.auth", "required".to_owned()),
        ];
        let settings: String = settings.into_iter().map(|(name, value)| format!("{name}={value}\n")).collect();
        let listens = |properties: String| format!("{}\n{settings}", listening(&properties, "SSL", port, port));
        let kafka = Self::prepare(&[], listens).await?;
        Some((kafka, format!("127.0.0.1:{port}")))
    }

    async fn prepare(variables: &[(&'static str, String)], change: impl FnOnce(String) -> String) -> Option<Self> {
        let jars = PathBuf::from(server("CHAT_SYNC_TEST_KAFKA_JARS")?);
        let (folder, port) = (tempfile::tempdir().expect("a folder"), free_port());
        let settings = include_str!("../../xtask/kafka/server.properties")
            .replace("@client@", &port.to_string())
            .replace("@controller@", &free_port().to_string())
            .replace("@data@", &folder.path().join("data").display().to_string());
        let settings = change(settings);
        std::fs::write(folder.path().join("server.properties"), settings).expect("its settings");
        let address = format!("127.0.0.1:{port}");
        let mut kafka = Self { address, port, folder, jars, variables: variables.to_vec(), child: None };
        let mut format = kafka.java();
        format.args(["kafka.tools.StorageTool", "format", "-t", "Y2hhdC1zeW5jLXRlc3RzLQ", "-c"]);
        let formatted = format.arg(kafka.settings()).status().expect("java");
        assert!(formatted.success(), "Kafka's storage");
        kafka.start_again().await;
        Some(kafka)
    }

    fn settings(&self) -> PathBuf {
        self.folder.path().join("server.properties")
    }

    fn java(&self) -> Command {
        let mut command = java(&self.jars, 384);
        command.envs(self.variables.iter().cloned());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command
    }

    /// Starts it with the data that it had, and waits until it listens.
    ///
    /// # Panics
    /// If it does not start.
    pub async fn start_again(&mut self) {
        let mut command = self.java();
        self.child = Some(command.arg("kafka.Kafka").arg(self.settings()).spawn().expect("java"));
        eventually!(TcpStream::connect(("127.0.0.1", self.port)).await.is_ok(), "Kafka listens");
    }

    /// Sends a signal.
    ///
    /// # Panics
    /// If it is not running.
    pub fn signal(&self, name: &str) {
        signal(self.child.as_ref().expect("it runs").id(), name);
    }

    /// Ends it without warning.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("it can be killed");
            child.wait().expect("it ends");
        }
    }
}

/// Java with these jars and so much memory, quick to start.
pub(crate) fn java(jars: &Path, megabytes: u32) -> Command {
    let logging = Path::new(env!("CARGO_MANIFEST_DIR")).join("../xtask/kafka/log4j2.properties");
    let mut command = Command::new("java");
    command.args(["-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]).arg(format!("-Xmx{megabytes}m"));
    command.arg(format!("-Dlog4j2.configurationFile={}", logging.display()));
    command.arg("-cp").arg(format!("{}/*", jars.display()));
    command
}

/// One way more: it listens at a port, and clients that come this way are told to come to another.
fn listening(properties: &str, protocol: &str, port: u16, told: u16) -> String {
    properties
        .replace("\nlisteners=", &format!("\nlisteners=MORE://127.0.0.1:{port},"))
        .replace("\nadvertised.listeners=", &format!("\nadvertised.listeners=MORE://127.0.0.1:{told},"))
        .replace("protocol.map=", &format!("protocol.map=MORE:{protocol},"))
}

impl Drop for OwnKafka {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A client that administers a cluster, and how long it waits.
///
/// # Panics
/// If librdkafka refuses the settings.
pub fn admin(brokers: &str) -> (AdminClient<DefaultClientContext>, AdminOptions) {
    let client = ClientConfig::new().set("bootstrap.servers", brokers).create().expect("a client");
    (client, AdminOptions::new().operation_timeout(Some(Duration::from_secs(10))))
}

/// A topic is gone, with all that was in it.
///
/// # Panics
/// If it is not.
pub async fn delete_topic(brokers: &str, topic: &str) {
    let (admin, options) = admin(brokers);
    let deleted = admin.delete_topics(&[topic], &options).await.expect("the broker answers");
    assert!(deleted.iter().all(Result::is_ok), "{deleted:?}");
}

/// A topic like that of the changes is cut where it ends now: whoever did not read it yet never will.
///
/// # Panics
/// If it is not.
pub async fn cut_topic(brokers: &str, topic: &str) {
    let mut cut = TopicPartitionList::new();
    for partition in 0..i32::try_from(contract::topic::PARTITIONS).expect("few") {
        cut.add_partition_offset(topic, partition, Offset::End).expect("a partition");
    }
    let (admin, options) = admin(brokers);
    let cut = admin.delete_records(&cut, &options).await.expect("the broker answers");
    assert!(cut.elements().iter().all(|partition| partition.error().is_ok()), "{cut:?}");
}
