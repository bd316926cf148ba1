//! `cargo xtask services up --regions 2`: two whole regions and the vendor, to see what happens when one is lost.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};

use crate::ports::free_port;
use crate::process::{self, Server, root, signal, wait_for_end};
use crate::servers;

/// Where the vendor is, as in `deployment/`.
const VENDOR: u16 = 30001;
/// Each region's name and where its page is, as in `deployment/`; the synchronizer and the writer are at the next ports.
const REGIONS: [(&str, u16); 2] = [("a", 30002), ("b", 30012)];
/// What is mirrored.
const TOPICS: &str = "chat-changes,chat-sync-erasures,chat-sync-digests";

/// Everything that was started, and where.
#[derive(Debug, Serialize, Deserialize)]
pub struct Plan {
    folder: PathBuf,
    vendor: u32,
    regions: Vec<Region>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Region {
    name: String,
    folder: PathBuf,
    page: u16,
    kafka: u16,
    controller: u16,
    primary: u16,
    replica: u16,
    redis: u16,
    /// While it runs.
    pids: Vec<u32>,
}

impl Region {
    fn planned(folder: &Path, (name, page): (&str, u16)) -> anyhow::Result<Self> {
        let folder = folder.join(name);
        std::fs::create_dir_all(&folder)?;
        let [kafka, controller, primary, replica, redis] = {
            let ports: Vec<u16> = (0..5).map(|_| free_port()).collect::<std::io::Result<_>>()?;
            ports.try_into().map_err(|_| anyhow::anyhow!("five ports"))?
        };
        Ok(Self { name: name.into(), folder, page, kafka, controller, primary, replica, redis, pids: Vec::new() })
    }

    fn kafka_address(&self) -> String {
        format!("127.0.0.1:{}", self.kafka)
    }

    /// Starts what this region has, on what its folder holds already. What has started ends with an error.
    fn start(&mut self, other: &Self) -> anyhow::Result<()> {
        eprintln!("Region {}", self.name);
        let folder = &self.folder;
        let mut started = vec![
            servers::kafka_at(folder, self.kafka, self.controller)?,
            servers::postgres_at(folder, self.primary)?,
            servers::replica_at(folder, self.primary, self.replica)?,
            servers::redis_at(folder, self.redis)?,
        ];
        let source = (other.name.as_str(), other.kafka_address());
        started.push(servers::mirror(folder, &source, &(self.name.as_str(), self.kafka_address()), TOPICS)?);
        for (number, name) in (0..).zip(["internal", "synchronizer", "writer"]) {
            started.push(self.service(name, self.page + number)?);
        }
        self.pids = started.iter().filter_map(Server::pid).collect();
        started.into_iter().for_each(Server::detach);
        Ok(())
    }

    fn service(&self, name: &'static str, port: u16) -> anyhow::Result<Server> {
        let regions = REGIONS.map(|(name, page)| format!("{name}=http://127.0.0.1:{page}")).join(",");
        // Each finds the node that takes writes, and whoever reads alone keeps to another one while there is none: rows and progress
        // come in one snapshot.
        let nodes = match name {
            "writer" => [self.primary, self.replica],
            _ => [self.replica, self.primary],
        };
        let [first, second] = nodes.map(|port| format!("127.0.0.1:{port}"));
        let mut command = program(name);
        command
            .env(format!("CHAT_SYNC_{}_LISTEN", name.to_uppercase()), format!("127.0.0.1:{port}"))
            .env("CHAT_SYNC_KAFKA", self.kafka_address())
            .env("DATABASE_URL", format!("postgres://postgres@{first},{second}/postgres"))
            .env("REDIS_URL", format!("redis://127.0.0.1:{}", self.redis))
            .env("CHAT_SYNC_SOURCE_URL", format!("http://127.0.0.1:{VENDOR}"))
            .env("CHAT_SYNC_REGION", &self.name)
            .env("CHAT_SYNC_REGIONS", regions)
            .env_remove("CHAT_SYNC_LEASE");
        Server::start(name, port, &self.folder, &mut command)
    }

    /// Without warning.
    fn kill(&mut self) {
        for pid in self.pids.drain(..) {
            signal(pid, "KILL");
            wait_for_end(pid);
        }
    }
}

fn program(name: &str) -> Command {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
    Command::new(target.join("debug").join(name))
}

fn state() -> PathBuf {
    root().join("target/regions.json")
}

impl Plan {
    /// What `up` has noted; `None` if two regions are not up.
    pub fn noted() -> Option<Self> {
        serde_json::from_str(&std::fs::read_to_string(state()).ok()?).ok()
    }

    fn note(&self) -> anyhow::Result<()> {
        std::fs::create_dir_all(root().join("target"))?;
        Ok(std::fs::write(state(), serde_json::to_string_pretty(self)?)?)
    }

    /// # Errors
    /// If there is no such region, or it does not start.
    fn pair(&mut self, name: &str) -> anyhow::Result<(&mut Region, Region)> {
        let other = self.regions.iter().find(|region| region.name != name).cloned().context("another region")?;
        let names: Vec<String> = self.regions.iter().map(|region| region.name.clone()).collect();
        let found = self.regions.iter_mut().find(|region| region.name == name);
        Ok((found.with_context(|| format!("there is no region {name}, but {}", names.join(" and ")))?, other))
    }

    /// Ends everything and removes its data.
    pub fn end(mut self) -> anyhow::Result<()> {
        self.regions.iter_mut().for_each(Region::kill);
        signal(self.vendor, "TERM");
        wait_for_end(self.vendor);
        std::fs::remove_dir_all(&self.folder).with_context(|| format!("cannot remove {}", self.folder.display()))?;
        std::fs::remove_file(state())?;
        eprintln!("Down; {} is removed.", self.folder.display());
        Ok(())
    }
}

pub fn up() -> anyhow::Result<()> {
    process::run(process::cargo().args(["build", "--workspace", "--bins", "--locked"]))?;
    let folder = tempfile::Builder::new().prefix("chat-sync-regions-").tempdir()?.keep();
    eprintln!("Starting the vendor and two regions in {}", folder.display());
    let mut vendor = program("external");
    vendor.env("CHAT_SYNC_EXTERNAL_LISTEN", format!("127.0.0.1:{VENDOR}"));
    vendor.env("CHAT_SYNC_EXTERNAL_DATABASE", folder.join("external.sqlite"));
    let vendor = Server::start("external", VENDOR, &folder, &mut vendor)?;
    let regions = REGIONS.iter().map(|region| Region::planned(&folder, *region)).collect::<anyhow::Result<Vec<_>>>()?;
    let mut plan = Plan { folder, vendor: vendor.pid().context("it runs")?, regions };
    vendor.detach();
    for name in REGIONS.map(|(name, _)| name) {
        let (region, other) = plan.pair(name)?;
        let started = region.start(&other);
        plan.note()?;
        if let Err(error) = started {
            plan.end()?;
            return Err(error);
        }
    }
    println!("vendor    http://127.0.0.1:{VENDOR}");
    for (name, page) in REGIONS {
        println!(
            "region {name}  http://127.0.0.1:{page}  operators /ops  synchronizer :{}  writer :{}",
            page + 1,
            page + 2
        );
    }
    eprintln!(
        "Up. `cargo xtask services kill a` takes region a away, `revive a` brings it back, `down` ends all of it."
    );
    Ok(())
}

/// A region is gone, whole and without warning.
pub fn kill(name: &str) -> anyhow::Result<()> {
    let mut plan =
        Plan::noted().context("two regions are not up; `cargo xtask services up --regions 2` starts them")?;
    let (region, _) = plan.pair(name)?;
    if region.pids.is_empty() {
        bail!("region {name} is gone already");
    }
    region.kill();
    plan.note()?;
    eprintln!("Region {name} is gone: Kafka and its mirror, Postgres and its replica, Redis, and all services.");
    Ok(())
}

/// It comes back with the data that it had.
pub fn revive(name: &str) -> anyhow::Result<()> {
    let mut plan =
        Plan::noted().context("two regions are not up; `cargo xtask services up --regions 2` starts them")?;
    let (region, other) = plan.pair(name)?;
    if !region.pids.is_empty() {
        bail!("region {name} is there");
    }
    region.start(&other)?;
    plan.note()?;
    eprintln!("Region {name} is back.");
    Ok(())
}
