//! A MirrorMaker 2 of a test's own, which it may kill, freeze and start again.

use std::fs::OpenOptions;
use std::path::PathBuf;
use std::process::{Child, Stdio};

use platform::testing::server;
use tempfile::TempDir;

use crate::own_kafka::java;
use crate::process::signal;

/// One end of a mirror: the region's name, and its brokers as the mirror reaches them.
pub struct End<'a> {
    pub region: &'a str,
    pub brokers: &'a str,
}

/// The settings that it is started with everywhere; @…@ is filled in.
pub const OURS: &str = include_str!("../../xtask/kafka/mirror.properties");

pub struct OwnMirror {
    target: String,
    settings: PathBuf,
    jars: PathBuf,
    folder: TempDir,
    child: Option<Child>,
}

impl OwnMirror {
    /// Mirrors these topics, separated by commas, each as `<source>.<topic>`; `None`, said loudly, without Kafka's jars.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn start(source: &End<'_>, target: &End<'_>, topics: &str) -> Option<Self> {
        Self::start_with(OURS, source, target, topics)
    }

    /// The same with other settings.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn start_with(settings: &str, source: &End<'_>, target: &End<'_>, topics: &str) -> Option<Self> {
        let jars = PathBuf::from(server("CHAT_SYNC_TEST_KAFKA_JARS")?);
        let folder = tempfile::tempdir().expect("a folder");
        let settings = settings
            .replace("@source@", source.region)
            .replace("@target@", target.region)
            .replace("@source-brokers@", source.brokers)
            .replace("@target-brokers@", target.brokers)
            .replace("@topics@", topics);
        let file = folder.path().join("mirror.properties");
        std::fs::write(&file, settings).expect("its settings");
        let mut mirror = Self { target: target.region.to_owned(), settings: file, jars, folder, child: None };
        mirror.start_again();
        Some(mirror)
    }

    /// Starts it where it was; it must not be running. It may end by itself: if its target cannot be reached for a minute.
    ///
    /// # Panics
    /// If there is no Java.
    pub fn start_again(&mut self) {
        let log = OpenOptions::new().create(true).append(true).open(self.folder.path().join("mirror.log"));
        let log = log.expect("a log file");
        let mut command = java(&self.jars, 320);
        command.arg("org.apache.kafka.connect.mirror.MirrorMaker").arg(&self.settings);
        command.args(["--clusters", &self.target]).stdin(Stdio::null());
        command.stdout(log.try_clone().expect("the log file")).stderr(log);
        self.child = Some(command.spawn().expect("java"));
    }

    /// What supervises it does: one that ended by itself is started again.
    ///
    /// # Panics
    /// If there is no Java.
    pub fn start_again_if_it_ended(&mut self) {
        let ended = self.child.as_mut().is_some_and(|child| child.try_wait().is_ok_and(|ended| ended.is_some()));
        if ended {
            self.start_again();
        }
    }

    /// Ends it without warning.
    ///
    /// # Panics
    /// If it cannot be ended.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("it can be killed");
            child.wait().expect("it ends");
        }
    }

    /// Sends a signal.
    ///
    /// # Panics
    /// If it is not running.
    pub fn signal(&self, name: &str) {
        signal(self.child.as_ref().expect("it runs").id(), name);
    }
}

impl Drop for OwnMirror {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.folder.path().join("mirror.log")).unwrap_or_default();
            let end: Vec<&str> = log.lines().rev().take(20).collect();
            eprintln!("--- the end of the log of {}'s mirror ---", self.target);
            end.into_iter().rev().for_each(|line| eprintln!("{line}"));
        }
    }
}
