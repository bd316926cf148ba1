//! `cargo xtask test deployment`: the manifests, unmodified, on a real Kubernetes node.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::Context;

use crate::fetch;
use crate::process::{free_port, output, root, run as run_command, step, without_this_package};
use crate::servers::kubernetes_node;

const REGIONS: [&str; 2] = ["chat-sync-a", "chat-sync-b"];
const PROGRAMS: [&str; 4] = ["external", "synchronizer", "writer", "internal"];

/// Where the manifests are applied.
enum Cluster {
    /// The one that KUBECONFIG names; the images were loaded into it before.
    Given,
    /// One of our own, made by this tool and ended with this value.
    Own(PathBuf),
}

pub fn run() -> anyhow::Result<()> {
    let folder = tempfile::Builder::new().prefix("chat-sync-deployment-").tempdir()?;
    let log = folder.path().join("deployment.log");
    let cluster = if std::env::var_os("KUBECONFIG").is_some() {
        Cluster::Given
    } else if let Some(tool) = kubernetes_node() {
        Cluster::Own(tool)
    } else {
        eprintln!("NOT RUN  the deployment: KUBECONFIG names no cluster, and none can be started here");
        return Ok(());
    };
    let tested = build(&cluster, folder.path(), &log).and_then(|()| apply_and_test(&cluster, &log));
    if tested.is_err() {
        describe(&cluster);
    }
    tested
}

/// Builds the programs and their images, and gives them to our own cluster.
fn build(cluster: &Cluster, folder: &Path, log: &Path) -> anyhow::Result<()> {
    let programs = folder.join("programs");
    std::fs::create_dir(&programs)?;
    crate::test::build()?;
    let target = std::env::current_exe()?.parent().context("no folder of programs")?.to_owned();
    for program in PROGRAMS {
        run_command(Command::new("strip").arg("-o").arg(programs.join(program)).arg(target.join(program)))?;
    }
    let mut images = Command::new(root().join("build-images.sh"));
    images.arg("--binaries").arg(&programs);
    let Cluster::Own(tool) = cluster else {
        return step("build the images and load them", log, &mut images);
    };
    step("build a Kubernetes node (minutes at the first time)", log, Command::new(tool).arg("build"))?;
    let host = output(Command::new(tool).args(["docker", "up"]))?;
    let (_, host) = host.split_once('=').context("the docker engine's address")?;
    let archive = folder.join("images.tar");
    let built = step("build the images of the four services", log, images.env("DOCKER_HOST", host)).and_then(|()| {
        let names = PROGRAMS.map(|program| format!("chat-sync/{program}:dev"));
        let mut save = Command::new("/usr/bin/docker");
        step("save them", log, save.env("DOCKER_HOST", host).args(["save", "-o"]).arg(&archive).args(names))?;
        step("build stand-ins for the images that cannot be pulled", log, Command::new(tool).arg("images"))
    });
    step("stop the docker engine", log, Command::new(tool).args(["docker", "down"]))?;
    built?;
    step("start the node", log, Command::new(tool).arg("up"))?;
    step("load the stand-ins", log, Command::new(tool).arg("images"))?;
    step("load our images", log, Command::new(tool).arg("load").arg(&archive))?;
    eprintln!(
        "  stand-ins on this node: Kafka (same version, on Java 17), Postgres 18, Redis 7.0 for Valkey, a page for KafkaUI"
    );
    eprintln!("  not run: the stage of the Dockerfile that compiles (this engine has no network)");
    Ok(())
}

fn apply_and_test(cluster: &Cluster, log: &Path) -> anyhow::Result<()> {
    let started = Instant::now();
    step(
        "kubectl apply -Rf deployment",
        log,
        cluster.command("kubectl").current_dir(root()).args(["apply", "-Rf", "deployment"]),
    )?;
    let of_a_region = [
        "statefulset/kafka",
        "statefulset/postgres",
        "statefulset/postgres-replica",
        "deployment/valkey",
        "deployment/mirror-maker",
        "deployment/synchronizer",
        "deployment/writer",
        "statefulset/internal",
    ];
    wait_for(cluster, "chat-sync-vendor", "statefulset/external", log)?;
    for namespace in REGIONS {
        for name in of_a_region {
            wait_for(cluster, namespace, name, log)?;
        }
    }
    wait_for(cluster, "chat-sync-operators", "deployment/kafka-ui", log)?;
    eprintln!("Everything is ready {:.0} s after the apply", started.elapsed().as_secs_f64());
    let again = output(cluster.command("kubectl").current_dir(root()).args(["apply", "-Rf", "deployment"]))?;
    // kubectl always sends a disruption budget's selector (its patch strategy is `replace`) and calls that "configured"; whether
    // the server changed anything its generation tells.
    let generations = ["get", "poddisruptionbudget", "-A", "-o", "jsonpath={.items[*].metadata.generation}"];
    let generations = output(cluster.command("kubectl").args(generations))?;
    anyhow::ensure!(generations.split(' ').all(|generation| generation == "1"), "disruption budgets: {generations}");
    let same = |line: &str| line.ends_with("unchanged") || line.starts_with("poddisruptionbudget.policy/");
    let changed: Vec<&str> = again.lines().filter(|line| !same(line)).collect();
    anyhow::ensure!(changed.is_empty(), "applied again, these changed: {changed:?}");
    fetch::chromium()?;
    let port = free_port()?;
    // The browser's driver has to be where the node's ports are.
    let script = "chromedriver --port=$0 >/dev/null 2>&1 & driver=$!; trap 'kill $driver' EXIT; \"$@\"";
    let mut tests = cluster.command("sh");
    without_this_package(&mut tests).current_dir(root()).args(["-c", script, &port.to_string()]);
    // The whole workspace: what was built for all tests is not built again.
    tests.args(["cargo", "test", "--locked", "--offline", "--workspace", "--test", "it", "--"]);
    tests.args(["deployment::", "--nocapture"]).env("CHAT_SYNC_TEST_DEPLOYMENT", "127.0.0.1");
    tests.env("CHAT_SYNC_TEST_CHROMEDRIVER", format!("http://127.0.0.1:{port}"));
    run_command(&mut tests)
}

fn wait_for(cluster: &Cluster, namespace: &str, name: &str, log: &Path) -> anyhow::Result<()> {
    let mut command = cluster.command("kubectl");
    command.args(["-n", namespace, "rollout", "status", name, "--timeout=300s"]);
    step(&format!("wait for {name} in {namespace}"), log, &mut command)
}

fn describe(cluster: &Cluster) {
    let kubectl = |arguments: &[&str]| drop(cluster.command("kubectl").args(arguments).status());
    kubectl(&["get", "pods", "-A", "-o", "wide"]);
    for namespace in REGIONS {
        kubectl(&["-n", namespace, "get", "events", "--sort-by=.lastTimestamp"]);
        kubectl(&["-n", namespace, "logs", "-l", "app", "--tail=8", "--prefix", "--all-containers"]);
    }
}

impl Cluster {
    /// A command that reaches the cluster and its node ports.
    fn command(&self, program: &str) -> Command {
        match self {
            Self::Given => Command::new(program),
            Self::Own(tool) => {
                let mut command = Command::new(tool);
                command.arg("in").arg(program);
                command
            }
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Self::Own(tool) = self {
            eprintln!("… stop the node");
            let _ = Command::new(tool).arg("down").status();
        }
    }
}
