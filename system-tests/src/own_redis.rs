//! A Redis of a test's own, which it may kill, freeze, fill and wipe.

use std::process::{Child, Command, Stdio};

use platform::eventually;
use platform::testing::server;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use crate::process::{free_port, signal};

pub struct OwnRedis {
    /// `host:port`.
    pub address: String,
    port: u16,
    /// Further arguments.
    further: Vec<String>,
    environment: Vec<(&'static str, String)>,
    folder: TempDir,
    child: Option<Child>,
}

impl OwnRedis {
    /// `None`, said loudly, where the tests have no Redis.
    ///
    /// # Panics
    /// If it cannot be started.
    pub async fn start() -> Option<Self> {
        Self::start_with(Vec::new(), Vec::new()).await
    }

    /// With further arguments, and with this in its environment.
    ///
    /// # Panics
    /// If it cannot be started.
    pub async fn start_with(further: Vec<String>, environment: Vec<(&'static str, String)>) -> Option<Self> {
        server("CHAT_SYNC_TEST_REDIS")?;
        let port = free_port();
        let folder = tempfile::tempdir().expect("a folder");
        let mut redis = Self { address: format!("127.0.0.1:{port}"), port, further, environment, folder, child: None };
        redis.start_again().await;
        Some(redis)
    }

    /// Starts it, empty, and waits until it answers.
    ///
    /// # Panics
    /// If it does not start.
    pub async fn start_again(&mut self) {
        let mut command = Command::new("redis-server");
        command.args(["--port", &self.port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]);
        command.arg("--dir").arg(self.folder.path()).args(&self.further);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.envs(self.environment.iter().cloned());
        self.child = Some(command.spawn().expect("redis-server"));
        eventually!(self.ask("PING").await.is_some_and(|answer| answer == "+PONG"), "Redis answers");
    }

    /// An inline command; gives the answer's first line.
    pub async fn ask(&self, command: &str) -> Option<String> {
        let mut stream = BufReader::new(TcpStream::connect(("127.0.0.1", self.port)).await.ok()?);
        stream.write_all(format!("{command}\r\n").as_bytes()).await.ok()?;
        let mut line = String::new();
        stream.read_line(&mut line).await.ok()?;
        Some(line.trim_end().to_owned())
    }

    /// A command that must succeed.
    ///
    /// # Panics
    /// If it does not.
    pub async fn tell(&self, command: &str) {
        let answer = self.ask(command).await.expect("Redis answers");
        assert!(answer.starts_with('+') || answer.starts_with(':'), "{command}: {answer}");
    }

    /// `STOP` or `CONT`.
    pub fn signal(&self, name: &str) {
        signal(self.child.as_ref().expect("it is running").id(), name);
    }

    /// Ends it without warning.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("it can be killed");
            child.wait().expect("it ends");
        }
    }
}

impl Drop for OwnRedis {
    fn drop(&mut self) {
        self.kill();
    }
}
