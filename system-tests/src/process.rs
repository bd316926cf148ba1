//! A process of the pipeline: started, killed, started again, never left behind.

use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use platform::eventually;

/// One of the workspace's programs with its arguments and settings.
pub struct Process {
    program: &'static str,
    variables: Vec<(String, String)>,
    log: PathBuf,
    child: Option<Child>,
}

/// Where cargo puts the programs: beside a program, and one folder above a test.
///
/// # Panics
/// If it is not built.
pub fn path_of(program: &str) -> PathBuf {
    let this = std::env::current_exe().expect("this program's own path");
    let found = this.ancestors().skip(1).take(2).map(|folder| folder.join(program)).find(|path| path.is_file());
    found.unwrap_or_else(|| panic!("{program} is not built; `cargo xtask test` builds it"))
}

impl Process {
    /// Starts the program; what it prints goes to `<folder>/<program>.log`.
    pub fn start(program: &'static str, folder: &Path, variables: &[(&str, String)]) -> Self {
        let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
        let mut process = Self { program, variables, log: folder.join(format!("{program}.log")), child: None };
        process.start_again();
        process
    }

    /// Starts it with the settings that it had; it must not be running.
    pub fn start_again(&mut self) {
        assert!(self.child.is_none(), "{} is running", self.program);
        let log = OpenOptions::new().create(true).append(true).open(&self.log).expect("a log file");
        let mut command = Command::new(path_of(self.program));
        command.env_clear().envs(self.variables.iter().cloned()).stdin(Stdio::null());
        command.stdout(log.try_clone().expect("the log file")).stderr(log);
        self.child = Some(command.spawn().expect("the program starts"));
    }

    /// Another value of a setting, from the next start on.
    pub fn set(&mut self, name: &str, value: &str) {
        self.variables.retain(|(known, _)| known != name);
        self.variables.push((name.to_owned(), value.to_owned()));
    }

    /// Ends it without warning, as `kill -9` does.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("it can be killed");
            child.wait().expect("it ends");
        }
    }

    /// Asks it to end and gives its status.
    pub async fn terminate(&mut self) -> ExitStatus {
        let mut child = self.child.take().expect("it is running");
        signal(child.id(), "TERM");
        eventually!(child.try_wait().expect("its status"), "{} ends after SIGTERM", self.program)
    }

    /// Sends a signal.
    pub fn signal(&self, name: &str) {
        signal(self.pid(), name);
    }

    /// Waits until it ends by itself.
    pub async fn ended(&mut self) -> ExitStatus {
        let mut child = self.child.take().expect("it is running");
        eventually!(child.try_wait().expect("its status"), "{} ends by itself", self.program)
    }

    pub fn is_running(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| child.try_wait().expect("its status").is_none())
    }

    /// # Panics
    /// If it is not running.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("it is running").id()
    }

    /// How much memory it holds, in bytes.
    ///
    /// # Panics
    /// If it is not running.
    pub fn memory(&self) -> u64 {
        let pid = self.pid();
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("its status");
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("its memory");
        resident.trim().trim_end_matches(" kB").parse::<u64>().expect("kilobytes") * 1024
    }

    /// Everything that it printed.
    pub fn printed(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            let printed = self.printed();
            let lines: Vec<&str> = printed.lines().collect();
            eprintln!("--- the end of {}'s log ---", self.program);
            for line in &lines[lines.len().saturating_sub(40)..] {
                eprintln!("{line}");
            }
        }
    }
}

pub fn signal(pid: u32, name: &str) {
    let sent = Command::new("kill").arg(format!("-{name}")).arg(pid.to_string()).status().expect("kill");
    assert!(sent.success(), "kill -{name} {pid}");
}

/// A port of 127.0.0.1 that is this process's own while it lives.
///
/// # Panics
/// If the system has none left.
pub fn free_port() -> u16 {
    crate::ports::free_port().expect("a free port")
}

/// Waits until `http://address/readyz` says 200.
pub async fn ready(address: &str) {
    let url = format!("http://{address}/readyz");
    let client = crate::http::client_within(Duration::from_secs(5));
    eventually!(
        client.get(&url).send().await.is_ok_and(|response| response.status().is_success()),
        "{url} says that it is ready"
    );
}
