//! How each real server starts: on a free port, in a temporary folder.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use crate::fetch;
use crate::ports::free_port;
use crate::process::{Server, root, step};

/// The uid and gid of `nobody` in Debian, under which Postgres runs where we are root.
const NOBODY: u32 = 65534;

pub fn kafka(folder: &Path) -> anyhow::Result<Server> {
    kafka_at(folder, free_port()?, free_port()?)
}

/// On what the folder holds already, if it was there before; so for the other servers that are told where.
pub fn kafka_at(folder: &Path, client: u16, controller: u16) -> anyhow::Result<Server> {
    let jars = fetch::kafka()?;
    let settings = std::fs::read_to_string(root().join("xtask/kafka/server.properties"))?
        .replace("@client@", &client.to_string())
        .replace("@controller@", &controller.to_string())
        .replace("@data@", &folder.join("kafka").display().to_string());
    let file = folder.join("server.properties");
    std::fs::write(&file, settings)?;
    if !folder.join("kafka").exists() {
        let mut format = java(&jars, 128);
        format.args(["kafka.tools.StorageTool", "format", "-t", "Y2hhdC1zeW5jLXRlc3RzLQ", "-c"]).arg(&file);
        step("format Kafka's storage", &folder.join("kafka-format.log"), &mut format)?;
    }
    let server = Server::start("kafka", client, folder, java(&jars, 384).arg("kafka.Kafka").arg(&file))?;
    Ok(server)
}

fn java(jars: &Path, megabytes: u32) -> Command {
    let mut command = Command::new("java");
    command.args(["-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]).arg(format!("-Xmx{megabytes}m"));
    let settings = root().join("xtask/kafka/log4j2.properties");
    command.arg(format!("-Dlog4j2.configurationFile={}", settings.display()));
    command.arg("-cp").arg(format!("{}/*", jars.display()));
    command
}

pub fn postgres(folder: &Path) -> anyhow::Result<Server> {
    postgres_at(folder, free_port()?)
}

/// A folder that Postgres may write to.
fn postgres_folder(folder: &Path, name: &str) -> anyhow::Result<PathBuf> {
    let data = folder.join(name);
    std::fs::create_dir_all(&data)?;
    if fetch::is_root() {
        // mktemp's folders are closed to others; Postgres must reach its own inside.
        for closed in folder.ancestors().filter(|folder| folder.starts_with(std::env::temp_dir())) {
            if closed != std::env::temp_dir() {
                std::fs::set_permissions(closed, std::fs::Permissions::from_mode(0o755))?;
            }
        }
        std::os::unix::fs::chown(&data, Some(NOBODY), Some(NOBODY))?;
    }
    std::fs::set_permissions(&data, std::fs::Permissions::from_mode(0o700))?;
    Ok(data)
}

pub fn postgres_at(folder: &Path, port: u16) -> anyhow::Result<Server> {
    let programs = fetch::postgres()?;
    let data = postgres_folder(folder, "postgres")?;
    if !data.join("PG_VERSION").exists() {
        initialise(&programs, folder, &data)?;
    }
    run_postgres("postgres", &programs, folder, &data, port)
}

/// A streaming replica of the primary at that port.
pub fn replica_at(folder: &Path, primary: u16, port: u16) -> anyhow::Result<Server> {
    let programs = fetch::postgres()?;
    let data = postgres_folder(folder, "replica")?;
    if !data.join("PG_VERSION").exists() {
        let mut copy = unprivileged(&programs.join("pg_basebackup"));
        copy.args([
            "-h",
            "127.0.0.1",
            "-U",
            "postgres",
            "-p",
            &primary.to_string(),
            "-X",
            "stream",
            "-R",
            "-c",
            "fast",
            "-D",
        ]);
        step("copy Postgres to its replica", &folder.join("replica-init.log"), copy.arg(&data))?;
    }
    run_postgres("replica", &programs, folder, &data, port)
}

fn initialise(programs: &Path, folder: &Path, data: &Path) -> anyhow::Result<()> {
    let mut initialise = unprivileged(&programs.join("initdb"));
    initialise.args([
        "-U",
        "postgres",
        "-A",
        "trust",
        "--locale=C.UTF-8",
        "--locale-provider=builtin",
        "--no-sync",
        "-D",
    ]);
    step("initialise Postgres", &folder.join("postgres-init.log"), initialise.arg(data))
}

fn run_postgres(name: &'static str, programs: &Path, folder: &Path, data: &Path, port: u16) -> anyhow::Result<Server> {
    let mut command = unprivileged(&programs.join("postgres"));
    command.arg("-D").arg(data).args([
        "-h",
        "127.0.0.1",
        "-k",
        "",
        "-p",
        &port.to_string(),
        "-c",
        "max_connections=300",
    ]);
    let server = Server::start(name, port, folder, &mut command)?.stopped_by("INT");
    wait_until_ready(&programs.join("pg_isready"), port)?;
    Ok(server)
}

fn unprivileged(program: &Path) -> Command {
    let mut command = Command::new(program);
    command.current_dir("/");
    if fetch::is_root() {
        command.uid(NOBODY).gid(NOBODY);
    }
    command
}

/// The port answers a moment before the server does.
fn wait_until_ready(program: &Path, port: u16) -> anyhow::Result<()> {
    let started = Instant::now();
    let mut command = Command::new(program);
    command.args(["-q", "-h", "127.0.0.1", "-p", &port.to_string()]).stdout(Stdio::null());
    while !command.status().is_ok_and(|status| status.success()) {
        if started.elapsed() > Duration::from_secs(30) {
            bail!("postgres listens on {port} but is not ready");
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

pub fn redis(folder: &Path) -> anyhow::Result<Server> {
    redis_at(folder, free_port()?)
}

/// MirrorMaker 2 beside its target; each end is a region's name and its brokers.
pub fn mirror(folder: &Path, source: &(&str, String), target: &(&str, String), topics: &str) -> anyhow::Result<Server> {
    let settings = std::fs::read_to_string(root().join("xtask/kafka/mirror.properties"))?
        .replace("@source@", source.0)
        .replace("@target@", target.0)
        .replace("@source-brokers@", &source.1)
        .replace("@target-brokers@", &target.1)
        .replace("@topics@", topics);
    let file = folder.join("mirror.properties");
    std::fs::write(&file, settings)?;
    let mut command = java(&fetch::kafka()?, 320);
    command.arg("org.apache.kafka.connect.mirror.MirrorMaker").arg(&file).args(["--clusters", target.0]);
    Server::spawn("mirror", folder, &mut supervised(&command))
}

/// It is started again whenever it ends, and ends with whoever does that, however that one ends.
fn supervised(command: &Command) -> Command {
    let mut supervisor = Command::new("sh");
    supervisor.args(["-c", "while :; do setpriv --pdeathsig KILL -- \"$@\"; sleep 2; done", "supervisor"]);
    supervisor.arg(command.get_program()).args(command.get_args());
    supervisor
}

pub fn redis_at(folder: &Path, port: u16) -> anyhow::Result<Server> {
    fetch::redis()?;
    let mut command = Command::new("redis-server");
    command.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]);
    Server::start("redis", port, folder, command.args(["--dir", &folder.display().to_string()]))
}

pub fn chromedriver(folder: &Path) -> anyhow::Result<Server> {
    fetch::chromium()?;
    let port = free_port()?;
    Server::start(
        "chromedriver",
        port,
        folder,
        Command::new("chromedriver").env("TMPDIR", folder).arg(format!("--port={port}")),
    )
}

/// A Kubernetes API: the one that the environment names, or one of the tool that stands beside this repository.
pub struct Kubernetes {
    pub kubeconfig: PathBuf,
    /// The tool and the folder to end it with, if it was started here.
    own: Option<(PathBuf, PathBuf)>,
}

/// Where the tool that makes Kubernetes APIs and nodes is looked for.
pub fn kubernetes_node() -> Option<PathBuf> {
    let tool = root().join("../shared/kubernetes-node/node");
    tool.is_file().then_some(tool)
}

pub fn kubernetes(folder: &Path) -> anyhow::Result<Option<Kubernetes>> {
    if let Some(kubeconfig) = std::env::var_os("KUBECONFIG") {
        return Ok(Some(Kubernetes { kubeconfig: kubeconfig.into(), own: None }));
    }
    let Some(tool) = kubernetes_node() else { return Ok(None) };
    let log = folder.join("kubernetes.log");
    step("build a Kubernetes API server (minutes at the first time)", &log, Command::new(&tool).arg("build"))?;
    let own = folder.join("kubernetes");
    let kubeconfig = crate::process::output(Command::new(&tool).args(["api", "up", "--dir"]).arg(&own));
    let kubeconfig = kubeconfig.context("the Kubernetes API server")?;
    eprintln!("  the Kubernetes API answers");
    Ok(Some(Kubernetes { kubeconfig: kubeconfig.into(), own: Some((tool, own)) }))
}

impl Drop for Kubernetes {
    fn drop(&mut self) {
        if let Some((tool, folder)) = &self.own {
            let _ = Command::new(tool).args(["api", "down", "--dir"]).arg(folder).status();
        }
    }
}
