//! `cargo xtask services`: Kafka, Postgres and Redis for development.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail, ensure};
use serde_json::json;

use crate::process::{Server, root, signal, wait_for_end};
use crate::regions::{self, Plan};
use crate::servers;

type Start = fn(&Path) -> anyhow::Result<Server>;

/// The setting that says where a server is, how it is started, and its address.
const SERVERS: &[(&str, Start, &str)] = &[
    ("CHAT_SYNC_KAFKA", servers::kafka, "127.0.0.1:PORT"),
    ("DATABASE_URL", servers::postgres, "postgres://postgres@127.0.0.1:PORT/postgres"),
    ("REDIS_URL", servers::redis, "redis://127.0.0.1:PORT"),
];

fn state() -> PathBuf {
    root().join("target/services.json")
}

/// What compose.yaml publishes.
const CONTAINERS: &[&str] = &[
    "export CHAT_SYNC_KAFKA=127.0.0.1:9092",
    "export DATABASE_URL=postgres://postgres:postgres@127.0.0.1:5432/postgres",
    "export REDIS_URL=redis://127.0.0.1:6379",
];

fn refuse_twice() -> anyhow::Result<()> {
    if state().exists() || Plan::noted().is_some() {
        bail!("services are up already; `cargo xtask services down` stops them");
    }
    Ok(())
}

pub fn up_in_two_regions() -> anyhow::Result<()> {
    refuse_twice()?;
    regions::up()
}

fn compose(arguments: &[&str]) -> anyhow::Result<()> {
    // Its own words go where progress goes: standard output is for the shell.
    let status =
        Command::new("docker").current_dir(root()).arg("compose").args(arguments).stdout(std::io::stderr()).status();
    let status = status.context("cannot run docker")?;
    ensure!(status.success(), "docker compose {} failed; is there a docker engine?", arguments.join(" "));
    Ok(())
}

pub fn up_as_containers() -> anyhow::Result<()> {
    refuse_twice()?;
    compose(&["up", "--detach", "--wait"])?;
    std::fs::create_dir_all(root().join("target"))?;
    std::fs::write(state(), json!({ "compose": true }).to_string())?;
    CONTAINERS.iter().for_each(|export| println!("{export}"));
    Ok(())
}

pub fn up() -> anyhow::Result<()> {
    refuse_twice()?;
    // If one does not start, the others end and the folder goes.
    let folder = tempfile::Builder::new().prefix("chat-sync-services-").tempdir()?;
    eprintln!("Starting Kafka, Postgres and Redis in {}", folder.path().display());
    let (mut started, mut exports) = (Vec::new(), Vec::new());
    for (variable, start, address) in SERVERS {
        // One that the environment names is used as it is, and not ended by `down`.
        if let Ok(given) = std::env::var(variable) {
            exports.push(format!("export {variable}={given}"));
            continue;
        }
        let server: Server = start(folder.path())?;
        exports.push(format!("export {variable}={}", address.replace("PORT", &server.port.to_string())));
        started.push(server);
    }
    let pids: Vec<Option<u32>> = started.iter().map(Server::pid).collect();
    std::fs::create_dir_all(root().join("target"))?;
    std::fs::write(state(), json!({ "folder": folder.path(), "pids": pids }).to_string())?;
    let _ = folder.keep();
    exports.iter().for_each(|export| println!("{export}"));
    started.into_iter().for_each(Server::detach);
    eprintln!("Up. With these variables set, start external, synchronizer, writer and internal; see README.md.");
    Ok(())
}

pub fn down() -> anyhow::Result<()> {
    if let Some(plan) = Plan::noted() {
        return plan.end();
    }
    let text = std::fs::read_to_string(state()).context("nothing is up that `cargo xtask services up` started")?;
    let state_value: serde_json::Value = serde_json::from_str(&text)?;
    if state_value["compose"] == true {
        compose(&["down", "--volumes"])?;
        return Ok(std::fs::remove_file(state())?);
    }
    let folder = PathBuf::from(state_value["folder"].as_str().context("no folder in the state")?);
    for pid in state_value["pids"].as_array().into_iter().flatten().filter_map(serde_json::Value::as_u64) {
        let pid = u32::try_from(pid)?;
        signal(pid, "INT");
        wait_for_end(pid);
    }
    std::fs::remove_dir_all(&folder).with_context(|| format!("cannot remove {}", folder.display()))?;
    std::fs::remove_file(state())?;
    eprintln!("Down; {} is removed.", folder.display());
    Ok(())
}
