//! Commands that say what they do, and servers that end when they should.

use std::fs::{File, OpenOptions};
use std::net::{Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use signal_hook::consts::SIGINT;
use signal_hook::flag;

/// How long a server may take to answer, on a slow machine.
const START: Duration = Duration::from_secs(90);
const STOP: Duration = Duration::from_secs(15);

/// The repository's root.
pub fn root() -> PathBuf {
    // Cargo says it at every run; what was true when this was compiled may be another checkout that shares a target folder.
    let package =
        std::env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from);
    package.parent().map_or_else(|| PathBuf::from("."), Path::to_owned)
}

/// Whether somebody has pressed Ctrl-C.
static INTERRUPTED: LazyLock<Arc<AtomicBool>> = LazyLock::new(Arc::default);

/// Ctrl-C ends what was called, which makes this program end too, but not before it has stopped its servers. Pressed again, it
/// ends at once.
pub fn end_in_order() {
    let _ = flag::register_conditional_shutdown(SIGINT, 130, INTERRUPTED.clone());
    let _ = flag::register(SIGINT, INTERRUPTED.clone());
}

/// For who would take what was ended for something that failed by itself.
///
/// # Errors
/// If somebody has pressed Ctrl-C.
pub fn go_on() -> anyhow::Result<()> {
    ensure!(!INTERRUPTED.load(Ordering::Relaxed), "interrupted");
    Ok(())
}

/// Cargo in the repository, called as people call it.
pub fn cargo() -> Command {
    let mut command = Command::new("cargo");
    without_this_package(&mut command).current_dir(root());
    command
}

/// Takes out of the environment what cargo told this program of its own package: build scripts that watch such variables
/// (ring's does) would run again, and everything behind them would be built again.
pub fn without_this_package(command: &mut Command) -> &mut Command {
    let names = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    for name in names.filter(|name| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_")) {
        command.env_remove(name);
    }
    command
}

/// Says what is done, does it, says how long it took; its output goes to `log`.
pub fn step(what: &str, log: &Path, command: &mut Command) -> anyhow::Result<()> {
    eprintln!("… {what} (log: {})", log.display());
    let started = Instant::now();
    let output = OpenOptions::new().create(true).append(true).open(log)?;
    let status = command.stdout(output.try_clone()?).stderr(output).stdin(Stdio::null()).status();
    let status = status.with_context(|| format!("{what}: cannot run {:?}", command.get_program()))?;
    if !status.success() {
        bail!("{what} failed ({status}); the end of {}:\n{}", log.display(), last_lines(log, 15));
    }
    eprintln!("  done in {:.1} s", started.elapsed().as_secs_f64());
    Ok(())
}

/// Runs with the terminal's own output.
pub fn run(command: &mut Command) -> anyhow::Result<()> {
    let status = command.status().with_context(|| format!("cannot run {:?}", command.get_program()))?;
    if !status.success() {
        bail!("{:?} {:?} failed: {status}", command.get_program(), command.get_args().collect::<Vec<_>>());
    }
    Ok(())
}

/// What a command prints, trimmed.
pub fn output(command: &mut Command) -> anyhow::Result<String> {
    let output =
        command.stderr(Stdio::inherit()).output().with_context(|| format!("cannot run {:?}", command.get_program()))?;
    if !output.status.success() {
        bail!("{:?} {:?} failed: {}", command.get_program(), command.get_args().collect::<Vec<_>>(), output.status);
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Whether a program of this name can be run.
pub fn exists(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

pub fn last_lines(file: &Path, count: usize) -> String {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

/// A server that was started; it ends with this value.
pub struct Server {
    pub name: &'static str,
    pub port: u16,
    pub log: PathBuf,
    child: Option<Child>,
    stop_signal: &'static str,
}

impl Server {
    /// Starts it and waits until its port answers.
    pub fn start(name: &'static str, port: u16, folder: &Path, command: &mut Command) -> anyhow::Result<Self> {
        let started = Instant::now();
        let mut server = Self::spawn(name, folder, command)?;
        server.port = port;
        server.wait_for_port(started)?;
        eprintln!("  {name} answers on 127.0.0.1:{port} after {:.1} s", started.elapsed().as_secs_f64());
        Ok(server)
    }

    /// Starts one that listens nowhere.
    pub fn spawn(name: &'static str, folder: &Path, command: &mut Command) -> anyhow::Result<Self> {
        let log = folder.join(format!("{name}.log"));
        let file = File::create(&log)?;
        let child = command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file).spawn();
        let child = child.with_context(|| format!("{name}: cannot run {:?}", command.get_program()))?;
        Ok(Self { name, port: 0, log, child: Some(child), stop_signal: "TERM" })
    }

    /// Ends it with this signal instead of SIGTERM.
    pub fn stopped_by(mut self, signal: &'static str) -> Self {
        self.stop_signal = signal;
        self
    }

    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Lets it live on after this process.
    pub fn detach(mut self) {
        self.child = None;
    }

    fn wait_for_port(&mut self, started: Instant) -> anyhow::Result<()> {
        while TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).is_err() {
            let ended = self.child.as_mut().and_then(|child| child.try_wait().ok().flatten());
            if ended.is_some() || started.elapsed() > START {
                bail!("{} did not start; the end of {}:\n{}", self.name, self.log.display(), last_lines(&self.log, 15));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        signal(child.id(), self.stop_signal);
        let asked = Instant::now();
        while child.try_wait().ok().flatten().is_none() {
            if asked.elapsed() > STOP {
                let _ = child.kill();
                let _ = child.wait();
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Sends a signal; a process that is gone already is as good.
pub fn signal(pid: u32, name: &str) {
    let _ = Command::new("kill").arg(format!("-{name}")).arg(pid.to_string()).stderr(Stdio::null()).status();
}

/// Waits until a process that was told to end is gone; one that does not go is killed.
pub fn wait_for_end(pid: u32) {
    for attempt in 0..200 {
        if !Path::new(&format!("/proc/{pid}")).exists() {
            return;
        }
        if attempt == 150 {
            signal(pid, "KILL");
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}
