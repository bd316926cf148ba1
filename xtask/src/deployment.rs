//! `cargo xtask test deployment`: the manifests, unmodified, on a real Kubernetes node.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::Context;

use crate::fetch;
use crate::ports::free_port;
use crate::process::{output, root, run as run_command, step, without_this_package};
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

/// The tag of the images that a region is rolled to.
const OTHER: &str = "other";

/// `before`: the commit whose images a region is rolled to.
pub fn run(before: Option<&str>) -> anyhow::Result<()> {
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
    let tested = build(&cluster, folder.path(), before, &log)
        .and_then(|()| apply_and_test(&cluster, &log))
        .and_then(|()| leaves_nothing(&cluster, &log));
    if tested.is_err() {
        describe(&cluster);
    }
    tested
}

/// Builds the programs and their images, and gives them to our own cluster.
fn build(cluster: &Cluster, folder: &Path, before: Option<&str>, log: &Path) -> anyhow::Result<()> {
    crate::test::build()?;
    let target = std::env::current_exe()?.parent().context("no folder of programs")?.to_owned();
    let programs = stripped(&target, &folder.join("programs"))?;
    let others = before.map_or(Ok(programs.clone()), |commit| programs_of(commit, folder, &target, log))?;
    let Cluster::Own(tool) = cluster else {
        images(&programs, "dev", None, log)?;
        return images(&others, OTHER, None, log);
    };
    step("build a Kubernetes node (minutes at the first time)", log, Command::new(tool).arg("build"))?;
    let host = output(Command::new(tool).args(["docker", "up"]))?;
    let (_, host) = host.split_once('=').context("the docker engine's address")?;
    let archive = folder.join("images.tar");
    let built = images(&programs, "dev", Some(host), log)
        .and_then(|()| images(&others, OTHER, Some(host), log))
        .and_then(|()| {
            let names = ["dev", OTHER].map(|tag| PROGRAMS.map(|program| format!("chat-sync/{program}:{tag}"))).concat();
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
    eprintln!("  not enforced: network policies (no plug-in here does); tests read them");
    Ok(())
}

/// The four programs without what a debugger needs.
fn stripped(from: &Path, to: &Path) -> anyhow::Result<PathBuf> {
    std::fs::create_dir(to)?;
    for program in PROGRAMS {
        run_command(Command::new("strip").arg("-o").arg(to.join(program)).arg(from.join(program)))?;
    }
    Ok(to.to_owned())
}

/// The programs of another commit.
fn programs_of(commit: &str, folder: &Path, target: &Path, log: &Path) -> anyhow::Result<PathBuf> {
    let (tree, target) = (folder.join("before"), target.join("before"));
    let git = |arguments: &[&str]| {
        let mut git = Command::new("git");
        git.current_dir(root()).args(arguments).arg(&tree);
        git
    };
    run_command(git(&["worktree", "add", "--quiet", "--detach"]).arg(commit))?;
    let mut cargo = Command::new("cargo");
    without_this_package(&mut cargo).current_dir(&tree).args(["build", "--locked", "--target-dir"]).arg(&target);
    cargo.args(PROGRAMS.iter().flat_map(|program| ["-p", program]));
    let built = step(&format!("build the programs of {commit}"), log, &mut cargo);
    run_command(&mut git(&["worktree", "remove", "--force"]))?;
    built?;
    stripped(&target.join("debug"), &folder.join("programs-before"))
}

/// What `build-images.sh` makes of them, by the engine at `host`, or the one that docker knows.
fn images(programs: &Path, tag: &str, host: Option<&str>, log: &Path) -> anyhow::Result<()> {
    let mut images = Command::new(root().join("build-images.sh"));
    images.arg("--binaries").arg(programs).env("CHAT_SYNC_IMAGE_TAG", tag);
    step(
        &format!("build the images :{tag} of the four services"),
        log,
        images.envs(host.map(|host| ("DOCKER_HOST", host))),
    )
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
    // What is deprecated, or would not be let in where the restricted profile warns only, is a warning.
    let apply_again = ["apply", "-Rf", "deployment", "--warnings-as-errors"];
    let again = output(cluster.command("kubectl").current_dir(root()).args(apply_again))?;
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
    tests.env("CHAT_SYNC_TEST_OTHER_IMAGES", OTHER);
    tests.env("CHAT_SYNC_TEST_CHROMEDRIVER", format!("http://127.0.0.1:{port}"));
    run_command(&mut tests)
}

/// Deletes what was applied, as it was applied, and looks for what is left of it; with its namespace goes whatever is in one.
fn leaves_nothing(cluster: &Cluster, log: &Path) -> anyhow::Result<()> {
    let mut delete = cluster.command("kubectl");
    delete.current_dir(root()).args(["delete", "-Rf", "deployment", "--ignore-not-found", "--timeout=300s"]);
    step("kubectl delete -Rf deployment", log, &mut delete)?;
    let kinds = output(cluster.command("kubectl").args(["api-resources", "--verbs=list", "-o", "name"]))?;
    // What happened stays for an hour, and a volume that nobody claims any more is the cluster's; two kinds are deprecated.
    let others = ["events", "events.events.k8s.io", "persistentvolumes", "endpoints", "componentstatuses"];
    let kinds: Vec<&str> = kinds.lines().filter(|kind| !others.contains(kind)).collect();
    let names = ["get", &kinds.join(","), "-A", "-o", "name", "--ignore-not-found"];
    let left = output(cluster.command("kubectl").args(names))?;
    let left: Vec<&str> = left.lines().filter(|name| name.contains("chat-sync")).collect();
    anyhow::ensure!(left.is_empty(), "deleting left {left:?}");
    Ok(())
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
