//! `chat-sync verify`.

use std::num::NonZeroU32;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use indicatif::{ProgressBar, ProgressStyle};
use synchronizer::budget::Budgeted;
use synchronizer::verify::{Difference, How, Report, Verify};

use super::World;

#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// How long a change may be on its way before it counts as a difference.
    #[arg(long, default_value = "10s", value_parser = platform::config::duration)]
    allow_lag: Duration,
    /// How many requests a second the source gets.
    #[arg(long, default_value = "500")]
    budget: NonZeroU32,
    /// Print the whole report as JSON.
    #[arg(long)]
    json: bool,
}

/// How many differing rows of a chat are named.
const NAMED: usize = 20;

pub async fn run(world: &World, args: Args) -> anyhow::Result<ExitCode> {
    let started = Instant::now();
    let bar = bar("chats");
    let shown = bar.clone();
    let verify = Verify {
        source: Arc::new(Budgeted::new(world.source.clone(), args.budget)),
        stored: world.stored.clone(),
        source_name: world.settings.source.clone(),
        lag: args.allow_lag,
        progress: Arc::new(move |done, all| {
            shown.set_length(all);
            shown.set_position(done);
        }),
    };
    let report = verify.run().await.with_context(|| {
        format!("cannot compare with the source at {} (--source-url names another)", world.settings.source_url)
    })?;
    bar.finish_and_clear();
    if args.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print(&report, started.elapsed());
    }
    Ok(if report.differing.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// A bar on a terminal; nothing elsewhere.
pub fn bar(what: &str) -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} {msg}  {elapsed}");
    let bar = ProgressBar::new(0).with_message(what.to_owned());
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar
}

fn print(report: &Report, took: Duration) {
    for (chat, compared) in &report.differing {
        let title = compared.title.as_deref().unwrap_or_default();
        println!("chat {chat} {title:?}");
        for (name, sum) in [("source", compared.source), ("copy", compared.copy)] {
            println!("  {name:<6} {:>8} messages, digest {:016x}", sum.count, sum.digest);
        }
        for difference in compared.differences.iter().take(NAMED) {
            println!("  {}", sentence(difference));
        }
        if compared.differences.len() > NAMED {
            println!("  … and {} more (--json names all)", compared.differences.len() - NAMED);
        }
    }
    let (chats, messages) = (report.chats, report.messages);
    let seconds = took.as_secs_f64();
    println!("compared {chats} chats with {messages} messages in {seconds:.1} s");
    if report.explained > 0 {
        println!("{} rows are explained by dead letters (`chat-sync dead-letters list`)", report.explained);
    }
    match report.differing.len() {
        0 if report.explained > 0 => println!("the copy has everything else that the source has"),
        0 => println!("the copy has everything that the source has"),
        1 => println!("1 chat DIFFERS"),
        count => println!("{count} chats DIFFER"),
    }
}

fn sentence(difference: &Difference) -> String {
    let what = difference.message.as_deref().map_or("the chat itself".to_owned(), |id| format!("message {id}"));
    match difference.how {
        How::MissingInTheCopy => format!("{what} is missing in the copy"),
        How::OtherContent => format!("{what} has another content in the copy"),
        How::NotAtTheSource => format!("{what} is not at the source any more"),
        How::NotUnderstood => format!("{what} cannot be understood, and no dead letter says so"),
    }
}
