//! The table of faults: what was done, what should come of it, and what did.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::Command;

use serde::Deserialize;

use crate::process::{output, root};

#[derive(Deserialize)]
struct Row {
    number: String,
    fault: String,
    promise: String,
    expected: String,
    outcome: String,
    figure: String,
}

const HEAD: &str = "# Faults

What was killed, frozen, cut off, filled up or poisoned while 200 changes a second were written and people watched, and what came of
it. For every row besides what it expects: **lost 0, backwards 0**. A checker reads what the vendor accepted from its own table, the
log whole, Postgres with triggers that note every step backwards, and what clients were told; source = Postgres = screens, every
accepted change is a version in Postgres, every record of the log lies below its partition's progress, and the dead letters are
exactly the poison. A row that is here passed all of that; of 14, where the log itself is lost, source = Postgres and `chat-sync
verify`; 05 is about the lease alone, and 16 about what is stored. The two regions of 20a to 20k lie 40 ms apart each way; each has a
Postgres with a replica. The figures are of a shared machine with 2 cores: where one is not what was expected, the row says so.
";

/// Where the tests leave a row each.
pub fn folder() -> PathBuf {
    root().join("target/faults")
}

/// Forgets the rows of earlier runs.
pub fn forget() -> anyhow::Result<()> {
    let _ = std::fs::remove_dir_all(folder());
    Ok(std::fs::create_dir_all(folder())?)
}

/// Prints the table; with `write`, it becomes docs/faults.md.
pub fn report(write: bool, long: bool) -> anyhow::Result<()> {
    let mut rows: Vec<Row> = Vec::new();
    for file in std::fs::read_dir(folder())?.flatten() {
        rows.push(serde_json::from_str(&std::fs::read_to_string(file.path())?)?);
    }
    if rows.is_empty() {
        return Ok(());
    }
    rows.sort_by(|one, other| one.number.cmp(&other.number));
    let mut table =
        String::from("| # | fault | promise | expected besides | came of it |\n| --- | --- | --- | --- | --- |\n");
    for Row { number, fault, promise, expected, outcome, figure } in &rows {
        let figure = if outcome == "as expected" { figure.clone() } else { format!("**{outcome}**: {figure}") };
        writeln!(table, "| {number} | {fault} | {promise} | {expected} | {figure} |")?;
    }
    eprintln!("Faults (lost 0, backwards 0 in every row that passed):\n\n{table}");
    if write {
        let commit = output(Command::new("git").current_dir(root()).args(["rev-parse", "--short", "HEAD"]))?;
        let by = if long { "cargo xtask test faults --long" } else { "cargo xtask test faults" };
        let date = output(Command::new("date").arg("+%Y-%m-%d"))?;
        std::fs::write(
            root().join("docs/faults.md"),
            format!("{HEAD}\n{date}, commit {commit}, by `{by}`.\n\n{table}"),
        )?;
    }
    Ok(())
}
