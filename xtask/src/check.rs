//! `cargo xtask check`: formatting, clippy, licences, and this repository's own rules.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail, ensure};
use serde_json::Value;

use crate::fetch;
use crate::process::{self, output, root, run as run_command};

/// Which of the workspace's packages each may use. Nobody uses a service but the two that put them together.
const ARROWS: &[(&str, &[&str])] = &[
    ("contract", &[]),
    ("platform", &[]),
    ("external", &["platform"]),
    ("synchronizer", &["contract", "platform"]),
    ("writer", &["contract", "platform"]),
    ("internal", &["contract", "platform"]),
    ("all-in-one", &["contract", "platform", "external", "synchronizer", "writer", "internal"]),
    ("system-tests", &["contract", "platform", "external", "synchronizer", "writer", "internal", "all-in-one"]),
    ("benchmarks", &["contract", "platform", "writer", "internal", "system-tests"]),
    ("xtask", &[]),
];

/// A file is one thing, and one can read it.
const MAX_LINES: usize = 500;
const MAX_MAIN_LINES: usize = 35;

pub fn run() -> anyhow::Result<()> {
    let cargo = |arguments: &[&str]| run_command(process::cargo().args(arguments));
    eprintln!("… formatting");
    cargo(&["fmt", "--all", "--check"])?;
    eprintln!("… clippy");
    cargo(&["clippy", "--workspace", "--all-targets", "--locked", "--quiet", "--", "-D", "warnings"])?;
    eprintln!("… licences, banned crates and sources");
    run_command(Command::new(fetch::cargo_deny()?).current_dir(root()).args(["check", "licenses", "bans", "sources"]))?;
    for (what, rule) in RULES {
        eprintln!("… {what}");
        rule().with_context(|| format!("the rule \"{what}\""))?;
    }
    eprintln!("All checks hold.");
    Ok(())
}

type Rule = fn() -> anyhow::Result<()>;

const RULES: &[(&str, Rule)] = &[
    ("packages use only what they may", dependency_arrows),
    ("the contract does no I/O", contract_is_pure),
    ("ARCHITECTURE.md names only what exists", architecture_names_exist),
    ("every Redis key has a time to live", redis_keys_expire),
    ("files are short enough to be read", files_are_short),
    ("the manifests name what the services read", manifests_name_settings),
    ("every service knows the others' settings", settings_are_listed),
    ("every guard is where its mutant looks for it", crate::mutants::all_are_there),
    ("docs/metrics.md names every metric, and no other", metrics_are_documented),
    ("alerts are of metrics that there are, fire when they should, and are explained", alerts_are_right),
];

fn alerts_are_right() -> anyhow::Result<()> {
    let folder = root().join("monitoring");
    let rules = std::fs::read_to_string(folder.join("alerts.yaml"))?;
    let [metrics, operations] =
        ["docs/metrics.md", "docs/operations.md"].map(|doc| std::fs::read_to_string(root().join(doc)));
    let (metrics, operations) = (metrics?, operations?);
    for name in rules.split(|c: char| !c.is_ascii_lowercase() && c != '_').filter(|name| name.starts_with("chat_sync_"))
    {
        let named = |end: char| metrics.contains(&format!("`{name}{end}"));
        ensure!(named('`') || named('{'), "monitoring/alerts.yaml asks for {name}, which nothing exports");
    }
    for alert in rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")) {
        ensure!(operations.contains(&format!("| `{alert}` |")), "docs/operations.md does not say what {alert} means");
    }
    let Some(promtool) = fetch::promtool()? else {
        eprintln!("  NOT RUN  promtool: it is taken out of Debian's package");
        return Ok(());
    };
    let promtool = |arguments: &[&str]| output(Command::new(&promtool).current_dir(&folder).args(arguments)).map(drop);
    promtool(&["check", "rules", "alerts.yaml"])?;
    promtool(&["test", "rules", "alerts-test.yaml"])
}

fn metrics_are_documented() -> anyhow::Result<()> {
    let names = |text: &str, before: &str| -> BTreeSet<String> {
        let found = text.split(before).skip(1).filter_map(|rest| {
            let end = rest.find(|c: char| !c.is_ascii_lowercase() && c != '_')?;
            Some(format!("chat_sync_{}", &rest[..end]))
        });
        found.collect()
    };
    let mut used = BTreeSet::new();
    for service in ["external", "synchronizer", "writer", "internal", "platform"] {
        for file in files(&format!("{service}/src"), &["rs"])? {
            used.extend(names(&std::fs::read_to_string(file)?, "\"chat_sync_"));
        }
    }
    let told = names(&std::fs::read_to_string(root().join("docs/metrics.md"))?, "`chat_sync_");
    let differing: Vec<_> = used.symmetric_difference(&told).collect();
    ensure!(differing.is_empty(), "in the code or in docs/metrics.md, but not in both: {differing:?}");
    Ok(())
}

fn dependency_arrows() -> anyhow::Result<()> {
    let metadata = output(process::cargo().args(["metadata", "--no-deps", "--format-version=1", "--locked"]))?;
    let metadata: Value = serde_json::from_str(&metadata)?;
    let allowed: BTreeMap<&str, &[&str]> = ARROWS.iter().copied().collect();
    for package in metadata["packages"].as_array().context("packages")? {
        let name = package["name"].as_str().context("a name")?;
        let may = allowed.get(name).with_context(|| format!("{name} has no line in ARROWS"))?;
        for dependency in package["dependencies"].as_array().context("dependencies")? {
            let used = dependency["name"].as_str().context("a name")?;
            if allowed.contains_key(used) && !may.contains(&used) {
                bail!("{name} must not use {used}");
            }
        }
    }
    Ok(())
}

fn contract_is_pure() -> anyhow::Result<()> {
    for file in files("contract/src", &["rs"])? {
        let text = std::fs::read_to_string(&file)?;
        for word in ["std::fs", "std::net", "std::env", "tokio", "async fn"] {
            ensure!(!text.contains(word), "{} speaks of {word}", file.display());
        }
    }
    Ok(())
}

/// Test names, paths and types stand in backquotes there.
fn architecture_names_exist() -> anyhow::Result<()> {
    let text = std::fs::read_to_string(root().join("ARCHITECTURE.md"))?;
    let sources = files(".", &["rs", "js", "sql", "lua"])?;
    let code: String = sources.iter().map(|file| std::fs::read_to_string(file).unwrap_or_default()).collect();
    let mut tests = 0;
    for name in text.split('`').skip(1).step_by(2) {
        if name.contains(' ') || name.contains('<') || name.contains('%') {
            continue;
        }
        if name.contains('/') {
            ensure!(name.contains('*') || root().join(name).exists(), "there is no {name}");
        } else if name.contains('_') && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_') {
            ensure!(code.contains(&format!("fn {name}")) || code.contains(name), "there is no {name}");
            tests += usize::from(code.contains(&format!("fn {name}")));
        }
    }
    ensure!(tests >= 15, "only {tests} tests are named: each promise names the test that guards it");
    Ok(())
}

fn redis_keys_expire() -> anyhow::Result<()> {
    for file in files("internal/redis-scripts", &["lua"])? {
        let text = std::fs::read_to_string(&file)?;
        for (number, line) in text.lines().enumerate() {
            if line.contains("redis.call('SET'") {
                ensure!(line.contains("'EX'"), "{}:{}: a SET without EX", file.display(), number + 1);
            }
        }
    }
    Ok(())
}

fn files_are_short() -> anyhow::Result<()> {
    for file in files(".", &["rs"])? {
        let lines = std::fs::read_to_string(&file)?.lines().count();
        let most = if file.ends_with("src/main.rs") && !file.starts_with(root().join("xtask")) {
            MAX_MAIN_LINES
        } else {
            MAX_LINES
        };
        ensure!(lines <= most, "{} has {lines} lines; the limit is {most}", file.display());
    }
    Ok(())
}

/// A setting with a typing error would refuse to start, but only on the cluster.
fn manifests_name_settings() -> anyhow::Result<()> {
    let sources = files(".", &["rs"])?;
    let code: String = sources.iter().map(|file| std::fs::read_to_string(file).unwrap_or_default()).collect();
    for file in files("deployment", &["yaml"])? {
        let text = std::fs::read_to_string(&file)?;
        let names =
            text.split(|c: char| !c.is_ascii_uppercase() && c != '_').filter(|name| name.starts_with("CHAT_SYNC_"));
        for name in names {
            ensure!(code.contains(&format!("env = \"{name}\"")), "{} sets {name}, which nobody reads", file.display());
        }
    }
    Ok(())
}

/// Services may share an environment; a setting that one of them does not know would refuse to start.
fn settings_are_listed() -> anyhow::Result<()> {
    let list = std::fs::read_to_string(root().join("platform/src/config.rs"))?;
    for package in ["external", "synchronizer", "writer", "internal", "all-in-one"] {
        let file = root().join(package).join("src/config.rs");
        let text = std::fs::read_to_string(&file)?;
        for name in text.split("env = \"").skip(1).filter_map(|rest| rest.split('"').next()) {
            let listed = !name.starts_with("CHAT_SYNC_") || list.contains(&format!("    \"{name}\",\n"));
            ensure!(listed, "{} reads {name}, which is not in platform::config::SETTINGS", file.display());
        }
    }
    Ok(())
}

/// The tracked files below a folder with one of these endings.
fn files(folder: &str, endings: &[&str]) -> anyhow::Result<Vec<PathBuf>> {
    let listed = output(Command::new("git").current_dir(root()).args([
        "ls-files",
        "--cached",
        "--others",
        "--exclude-standard",
        folder,
    ]))?;
    let files = listed.lines().map(|line| root().join(line)).filter(|file| file.is_file());
    let wanted = |file: &PathBuf| {
        file.extension().is_some_and(|ending| endings.iter().any(|wanted| ending == Path::new(wanted)))
    };
    Ok(files.filter(wanted).collect())
}
