//! What is done to this repository: start the real servers, test, check.

mod bench;
mod check;
mod deployment;
mod faults;
mod fetch;
mod mutants;
mod ports;
mod process;
mod regions;
mod servers;
mod services;
mod test;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "xtask")]
struct Args {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Start or stop a real Kafka, Postgres and Redis for development, or two whole regions.
    Services {
        #[command(subcommand)]
        action: Action,
    },
    /// Start the real servers, run all tests (or those whose name contains NAME), stop the servers.
    /// `test deployment` applies `deployment/` to a Kubernetes node instead; `test faults` kills, freezes, cuts off and
    /// fills up whatever can be, and makes docs/faults.md of what came of it.
    Test {
        name: Option<String>,
        /// The faults' long runs too (three quarters of an hour).
        #[arg(long)]
        long: bool,
        /// In a deployment: the commit whose images a region is rolled to and back, beside those of now; without it they are
        /// the same ones by another name.
        #[arg(long, value_name = "COMMIT")]
        before: Option<String>,
    },
    /// Release build, real servers, each figure next to what people would use instead; tables on the screen, JSON in
    /// target/. Without a name, all of them.
    Bench {
        /// Only these: writer, gate, fan_out, crowd, pods, flood, latency, ingest, whole, regions, verify
        only: Vec<String>,
    },
    /// Take away, one at a time, what a promise rests on, and show that a named test goes red (half an hour; what is
    /// committed counts).
    Mutants {
        /// Only guards whose name contains this.
        only: Option<String>,
    },
    /// Formatting, clippy, licences and this repository's own rules.
    Check,
}

#[derive(Subcommand)]
enum Action {
    /// Start them on free ports and say where they are.
    Up {
        /// Start them as containers instead (compose.yaml); needs a docker engine that can pull images.
        #[arg(long)]
        compose: bool,
        /// 2: everything twice, joined by MirrorMaker 2, with the vendor and chat-sync's own services, at the ports of
        /// `deployment/`.
        #[arg(long, value_parser = clap::value_parser!(u8).range(1..=2), default_value_t = 1, conflicts_with = "compose")]
        regions: u8,
    },
    /// Of two regions, end one whole and without warning.
    Kill { region: String },
    /// Start it again on the data that it had.
    Revive { region: String },
    /// Stop what `up` started and remove its data.
    Down,
}

fn services(action: Action) -> anyhow::Result<()> {
    match action {
        Action::Up { compose: true, .. } => services::up_as_containers(),
        Action::Up { regions: 2, .. } => services::up_in_two_regions(),
        Action::Up { .. } => services::up(),
        Action::Kill { region } => regions::kill(&region),
        Action::Revive { region } => regions::revive(&region),
        Action::Down => services::down(),
    }
}

fn main() -> ExitCode {
    process::end_in_order();
    let done = match Args::parse().task {
        Task::Services { action } => services(action),
        Task::Test { name: Some(name), before, .. } if name == "deployment" => deployment::run(before.as_deref()),
        Task::Test { name, long, .. } => test::run(name.as_deref(), long),
        Task::Bench { only } => bench::run(&only),
        Task::Mutants { only } => mutants::run(only.as_deref()),
        Task::Check => check::run(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}
