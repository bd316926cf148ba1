//! A Postgres of a test's own, which it may kill, stop, copy and start again; and one with a replica.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use platform::config::Secret;
use platform::eventually;
use platform::testing::server;
use tempfile::TempDir;

use crate::process::free_port;
use crate::proxy::Proxy;

/// The uid and gid of `nobody` in Debian: Postgres refuses to run as root.
const NOBODY: u32 = 65534;
/// Everybody may enter and look.
const OPEN: u32 = 0o055;

pub struct OwnPostgres {
    pub port: u16,
    /// Its data.
    pub data: PathBuf,
    programs: PathBuf,
    /// What its processes are told beside that.
    environment: Vec<(&'static str, String)>,
    folder: TempDir,
    child: Option<Child>,
}

impl OwnPostgres {
    /// A new, empty one; `None`, said loudly, without Postgres' programs.
    ///
    /// # Panics
    /// If it cannot be started.
    pub async fn start() -> Option<Self> {
        Self::start_in(&std::env::temp_dir()).await
    }

    /// The same, with its data below this folder.
    ///
    /// # Panics
    /// If it cannot be started.
    pub async fn start_in(parent: &Path) -> Option<Self> {
        Self::start_with(parent, &[]).await
    }

    async fn start_with(parent: &Path, environment: &[(&'static str, String)]) -> Option<Self> {
        let mut postgres = Self::prepare(parent, environment)?;
        let initialised = postgres.run("initdb", |command| {
            command.args([
                "-U",
                "postgres",
                "-A",
                "trust",
                "--locale=C.UTF-8",
                "--locale-provider=builtin",
                "--no-sync",
            ]);
        });
        assert!(initialised.status.success(), "{}", String::from_utf8_lossy(&initialised.stderr));
        postgres.start_again().await;
        Some(postgres)
    }

    /// A replica of this one that follows it through `through` (`host:port`), with its data beside this one's.
    ///
    /// # Panics
    /// If it cannot be made.
    pub async fn replica(&self, through: &str) -> Self {
        let beside = self.folder.path().parent().expect("it is in a folder");
        let mut replica = Self::prepare(beside, &self.environment).expect("Postgres' programs");
        replica.copies(through).await;
        replica
    }

    /// Follows whoever is there from now on, with a fresh copy of its data; it must not be running.
    async fn copies(&mut self, through: &str) {
        let (host, port) = through.rsplit_once(':').expect("host:port");
        let copied = self.run("pg_basebackup", |command| {
            command.args(["-h", host, "-p", port, "-U", "postgres", "-R", "-X", "stream", "-c", "fast"]);
        });
        assert!(copied.status.success(), "{}", String::from_utf8_lossy(&copied.stderr));
        self.start_again().await;
    }

    fn prepare(parent: &Path, environment: &[(&'static str, String)]) -> Option<Self> {
        let programs = PathBuf::from(server("CHAT_SYNC_TEST_POSTGRES_PROGRAMS")?);
        let mode = parent.metadata().expect("the folder").permissions().mode();
        if mode & OPEN != OPEN {
            std::fs::set_permissions(parent, std::fs::Permissions::from_mode(mode | OPEN)).expect("its mode");
        }
        let folder = tempfile::tempdir_in(parent).expect("a folder");
        let data = folder.path().join("data");
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).expect("its mode");
        let environment = environment.to_vec();
        let postgres = Self { port: free_port(), data, programs, environment, folder, child: None };
        postgres.an_empty_folder();
        Some(postgres)
    }

    fn an_empty_folder(&self) {
        std::fs::create_dir(&self.data).expect("a folder");
        self.give_away(&self.data);
    }

    /// Lets the one that Postgres runs as have this folder.
    fn give_away(&self, folder: &Path) {
        std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o700)).expect("its mode");
        if is_root(&self.folder) {
            let owned = Command::new("chown").args(["-R", "nobody:nogroup"]).arg(folder).status().expect("chown");
            assert!(owned.success(), "chown");
        }
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.programs.join(program));
        command.current_dir("/").stdin(Stdio::null()).envs(self.environment.iter().cloned());
        if is_root(&self.folder) {
            command.uid(NOBODY).gid(NOBODY);
        }
        command
    }

    fn run(&self, program: &str, arguments: impl FnOnce(&mut Command)) -> Output {
        let mut command = self.command(program);
        arguments(&mut command);
        command.arg("-D").arg(&self.data).output().expect("it runs")
    }

    /// `host:port`.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub fn url(&self) -> Secret {
        Secret::new(format!("postgres://postgres@{}/postgres", self.address()))
    }

    /// Starts it with the data that it had, and waits until it answers.
    ///
    /// # Panics
    /// If it does not.
    pub async fn start_again(&mut self) {
        // What a killed one leaves behind of a process that may have another's number by now.
        let _ = std::fs::remove_file(self.data.join("postmaster.pid"));
        let mut command = self.command("postgres");
        command.arg("-D").arg(&self.data).args(["-h", "127.0.0.1", "-k", "", "-p", &self.port.to_string()]);
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.folder.path().join("log"));
        let log = log.expect("a log");
        command.stdout(log.try_clone().expect("the log")).stderr(log);
        self.child = Some(command.spawn().expect("it starts"));
        eventually!(
            self.answers(),
            "Postgres answers; {}",
            std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
        );
    }

    /// Waits until it answers; starts it again if it has ended by itself.
    ///
    /// # Panics
    /// If it does not.
    pub async fn start_if_ended(&mut self) {
        eventually!(self.has_ended() || self.answers(), "it goes on, or has ended");
        if self.has_ended() {
            self.start_again().await;
        }
    }

    fn has_ended(&mut self) -> bool {
        self.child.as_mut().is_none_or(|child| child.try_wait().expect("its status").is_some())
    }

    fn answers(&self) -> bool {
        let port = self.port.to_string();
        let asked = self.command("pg_isready").args(["-q", "-h", "127.0.0.1", "-p", &port]).status();
        asked.is_ok_and(|status| status.success())
    }

    /// Ends it and all its processes without warning.
    ///
    /// # Panics
    /// If it is not running.
    pub async fn kill(&mut self) {
        let mut child = self.child.take().expect("it is running");
        child.kill().expect("it can be killed");
        child.wait().expect("it ends");
        // Its children notice by themselves; a new one would be refused while they hold the shared memory.
        let data = self.data.display().to_string();
        eventually!(!in_use(&data), "its children end");
    }

    /// Makes a replica a primary.
    ///
    /// # Panics
    /// If it cannot be made one.
    pub fn promote(&self) {
        let promoted = self.run("pg_ctl", |command| {
            command.args(["promote", "-w", "-t", "30"]);
        });
        assert!(promoted.status.success(), "{}", String::from_utf8_lossy(&promoted.stderr));
    }

    /// Takes a copy of its data while it runs.
    ///
    /// # Panics
    /// If it cannot be taken.
    pub fn back_up(&self) -> TempDir {
        let folder = tempfile::tempdir().expect("a folder");
        self.give_away(folder.path());
        let mut command = self.command("pg_basebackup");
        command.args(["-h", "127.0.0.1", "-p", &self.port.to_string(), "-U", "postgres", "-X", "stream", "-c", "fast"]);
        let copied = command.arg("-D").arg(folder.path()).output().expect("it runs");
        assert!(copied.status.success(), "{}", String::from_utf8_lossy(&copied.stderr));
        folder
    }

    /// Puts the copy in its data's place; it must not be running.
    ///
    /// # Panics
    /// If it cannot be put there.
    pub fn restore(&mut self, copy: &TempDir) {
        assert!(self.child.is_none(), "it is running");
        std::fs::remove_dir_all(&self.data).expect("the data goes");
        let copied = Command::new("cp").arg("-a").arg(copy.path()).arg(&self.data).status().expect("cp");
        assert!(copied.success(), "cp");
    }
}

/// A primary, and a streaming replica that follows it.
pub struct Replicated {
    pub primary: OwnPostgres,
    pub replica: OwnPostgres,
    /// What the replica follows the primary through.
    pub link: Proxy,
}

impl Replicated {
    /// New, empty ones, whose processes have this in their environment; `None`, said loudly, without Postgres' programs.
    ///
    /// # Panics
    /// If they cannot be started.
    pub async fn start(environment: &[(&'static str, String)]) -> Option<Self> {
        let primary = OwnPostgres::start_with(&std::env::temp_dir(), environment).await?;
        let link = Proxy::to(&primary.address()).await;
        let replica = primary.replica(&link.address).await;
        Some(Self { primary, replica, link })
    }

    /// What services are told: both, as an operator would name them.
    pub fn url(&self) -> Secret {
        Secret::new(format!("postgres://postgres@{},{}/postgres", self.primary.address(), self.replica.address()))
    }

    /// Ends both without warning.
    ///
    /// # Panics
    /// If one is not running.
    pub async fn kill(&mut self) {
        self.primary.kill().await;
        self.replica.kill().await;
    }

    /// Makes a replica that is not running anew, in the place of the old one: none follows a primary that is older than itself.
    ///
    /// # Panics
    /// If it cannot be made.
    pub async fn renew_the_replica(&mut self) {
        std::fs::remove_dir_all(&self.replica.data).expect("the data goes");
        self.replica.an_empty_folder();
        self.replica.copies(&self.link.address).await;
    }

    /// Starts both with the data that they had, and waits until they answer.
    ///
    /// # Panics
    /// If one does not.
    pub async fn start_again(&mut self) {
        self.primary.start_again().await;
        self.replica.start_again().await;
    }
}

impl Drop for OwnPostgres {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // An immediate end: nobody needs its data any more, and its children must not be left.
            let _ = Command::new("kill").args(["-QUIT", &child.id().to_string()]).status();
            let _ = child.wait();
        }
    }
}

fn is_root(folder: &TempDir) -> bool {
    use std::os::unix::fs::MetadataExt;
    folder.path().metadata().expect("the folder").uid() == 0
}

/// Whether a process works in this folder.
fn in_use(folder: &str) -> bool {
    let processes = std::fs::read_dir("/proc").expect("/proc");
    processes.flatten().any(|process| {
        std::fs::read_link(process.path().join("cwd")).is_ok_and(|cwd| cwd.display().to_string() == folder)
    })
}
