//! `cargo xtask test`: everything against the real servers, which are started here and stopped here.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::bail;

use crate::faults;
use crate::fetch;
use crate::process::{self, Server, root};
use crate::servers::{self, Kubernetes};

/// The servers of one run, and what could not be started.
pub struct World {
    pub variables: Vec<(&'static str, String)>,
    missing: Vec<String>,
    servers: Vec<Server>,
    kubernetes: Option<Kubernetes>,
}

type Start = fn(&Path) -> anyhow::Result<Server>;

/// The variable that tells the tests where a server is, how it is started, and its address.
const SERVERS: &[(&str, Start, &str)] = &[
    ("CHAT_SYNC_TEST_KAFKA", servers::kafka, "127.0.0.1:PORT"),
    ("CHAT_SYNC_TEST_POSTGRES", servers::postgres, "postgres://postgres@127.0.0.1:PORT/postgres"),
    ("CHAT_SYNC_TEST_REDIS", servers::redis, "redis://127.0.0.1:PORT"),
    ("CHAT_SYNC_TEST_CHROMEDRIVER", servers::chromedriver, "http://127.0.0.1:PORT"),
];

/// `long`: what takes minutes too, and the table of faults becomes docs/faults.md.
pub fn run(name: Option<&str>, long: bool) -> anyhow::Result<()> {
    let started = Instant::now();
    build()?;
    let folder = tempfile::Builder::new().prefix("chat-sync-test-").tempdir()?;
    eprintln!("Starting the real servers in {}", folder.path().display());
    let world = start(folder.path())?;
    let skipped = folder.path().join("skipped.txt");
    faults::forget()?;
    let outcome = run_tests(name, long, &world, &skipped);
    report(&world, &skipped, started);
    drop(world);
    let whole = outcome.is_ok() && name == Some("faults");
    faults::report(whole, long)?;
    outcome
}

/// One build for all: the processes that the tests start, and the tests themselves.
pub fn build() -> anyhow::Result<()> {
    eprintln!("Building everything");
    let started = Instant::now();
    process::run(process::cargo().args(["build", "--workspace", "--bins", "--tests", "--locked"]))?;
    eprintln!("  built in {:.0} s", started.elapsed().as_secs_f64());
    Ok(())
}

/// Starts the real servers, or takes those that the environment names.
pub fn start(folder: &Path) -> anyhow::Result<World> {
    let (mut variables, mut missing, mut started) = (Vec::new(), Vec::new(), Vec::new());
    for (variable, start, address) in SERVERS {
        // One that the environment names is used as it is, and not ended.
        if let Ok(given) = std::env::var(variable) {
            eprintln!("  using {variable}={given}");
            variables.push((*variable, given));
            continue;
        }
        let server = start(folder)?;
        variables.push((*variable, address.replace("PORT", &server.port.to_string())));
        started.push(server);
    }
    // For tests that stop and start a Kafka of their own, and for what is run in the browser.
    variables.push(("CHAT_SYNC_TEST_KAFKA_JARS", fetch::kafka()?.display().to_string()));
    variables.push(("CHAT_SYNC_TEST_POSTGRES_PROGRAMS", fetch::postgres()?.display().to_string()));
    variables.push(("CHAT_SYNC_TEST_AXE", fetch::axe()?.display().to_string()));
    match servers::kubernetes_node() {
        Some(tool) => variables.push(("CHAT_SYNC_TEST_KUBERNETES_NODE", tool.display().to_string())),
        None => missing.push("Kubernetes APIs of a test's own: ../shared/kubernetes-node is not there".to_owned()),
    }
    let kubernetes = servers::kubernetes(folder)?;
    match &kubernetes {
        Some(kubernetes) => variables.push(("CHAT_SYNC_TEST_KUBECONFIG", kubernetes.kubeconfig.display().to_string())),
        None => missing.push("a Kubernetes API: KUBECONFIG names none, and none can be started here".to_owned()),
    }
    let slack_log = root().join("../shared/data/slack-log");
    if slack_log.is_dir() {
        variables.push(("CHAT_SYNC_TEST_SLACK_LOG", slack_log.display().to_string()));
    } else {
        missing.push("the real Slack log: ../shared/data/slack-log is not there".to_owned());
    }
    Ok(World { variables, missing, servers: started, kubernetes })
}

fn run_tests(name: Option<&str>, long: bool, world: &World, skipped: &Path) -> anyhow::Result<()> {
    let required: Vec<&str> = world.variables.iter().map(|(variable, _)| *variable).collect();
    let mut command = process::cargo();
    command.args(["test", "--workspace", "--locked", "--no-fail-fast"]);
    match name {
        Some(binary @ ("faults" | "outages")) => command.args(["--test", binary]),
        Some(name) => command.arg(name),
        None => &mut command,
    };
    command.envs(world.variables.iter().map(|(variable, value)| (variable, value)));
    command.env("CHAT_SYNC_TEST_REQUIRE", required.join(",")).env("CHAT_SYNC_TEST_SKIPPED", skipped);
    command.env("CHAT_SYNC_TEST_SCREENSHOTS", screenshots()?);
    command.env("CHAT_SYNC_TEST_FAULTS", faults::folder()).env("CHAT_SYNC_TEST_LONG", long.to_string());
    match command.status()? {
        status if status.success() => Ok(()),
        status => bail!("tests failed: {status}"),
    }
}

fn screenshots() -> anyhow::Result<PathBuf> {
    let folder = root().join("target/screenshots");
    std::fs::create_dir_all(&folder)?;
    Ok(folder)
}

fn report(world: &World, skipped: &Path, started: Instant) {
    eprintln!("Started for this run: {}.", started_names(world));
    for missing in &world.missing {
        eprintln!("NOT THERE  {missing}");
    }
    eprint!("{}", std::fs::read_to_string(skipped).unwrap_or_default());
    eprintln!("Screenshots: target/screenshots. All of it took {:.0} s.", started.elapsed().as_secs_f64());
}

fn started_names(world: &World) -> String {
    let mut names: Vec<&str> = world.servers.iter().map(|server| server.name).collect();
    if world.kubernetes.is_some() {
        names.push("a Kubernetes API");
    }
    names.join(", ")
}
