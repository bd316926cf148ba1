//! `chat-sync verify`.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::process::ExitCode;
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use contract::Timestamp;
use contract::erasure::{Erasure, Scope};
use indicatif::{ProgressBar, ProgressStyle};
use platform::config::Secret;
use serde::Serialize;
use serde_json::json;
use synchronizer::budget::Budgeted;
use synchronizer::erase::letters_left;
use synchronizer::erasures::{Barred, Standing};
use synchronizer::postgres_stored::PostgresStored;
use synchronizer::verify::{Difference, How, Report, Verify};

use super::erase::{Kept, Remains, forgotten_by, remains};
use super::{World, reached};

#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// How long a change may be on its way before it counts as a difference.
    #[arg(long, default_value = "10s", value_parser = platform::config::duration)]
    allow_lag: Duration,
    /// How many requests a second the source gets.
    #[arg(long, default_value = "500")]
    budget: NonZeroU32,
    /// Another region's copy, compared in the same run: b=postgres://user:password@host:port/database, or b=FILE with that
    /// URL in it; may be given again.
    #[arg(long, value_name = "NAME=URL", conflicts_with = "erased")]
    also: Vec<Other>,
    /// Instead: look whether anything is left of what was erased; exits 1 if so.
    #[arg(long)]
    erased: bool,
    /// Print the whole report as JSON.
    #[arg(long)]
    json: bool,
}

/// How many differing rows of a chat are named.
const NAMED: usize = 20;

pub async fn run(world: &World, args: Args) -> anyhow::Result<ExitCode> {
    let erasures = Standing::read(&*world.log, &world.settings).await.context("what was erased");
    if args.erased {
        return erased(world, &erasures?, args.json).await;
    }
    let erasures = erasures.unwrap_or_else(|error| {
        eprintln!("{error:#}; whatever was erased counts as missing");
        Standing::default()
    });
    let (mut names, mut copies) = (vec![world.settings.region.clone()], vec![world.stored.clone()]);
    for other in args.also {
        ensure!(!names.contains(&other.name), "--also: two copies called {}; --region names the first", other.name);
        let pool = reached(&other.url).await.with_context(|| format!("copy {} (--also)", other.name))?;
        names.push(other.name);
        copies.push(Arc::new(PostgresStored::new(pool)));
    }
    let started = Instant::now();
    let bar = bar("chats");
    let shown = bar.clone();
    let verify = Verify {
        source: Arc::new(Budgeted::new(world.source.clone(), args.budget)),
        copies,
        source_name: world.settings.source.clone(),
        erasures: erasures.set,
        lag: args.allow_lag,
        progress: Arc::new(move |done, all| {
            shown.set_length(all);
            shown.set_position(done);
        }),
    };
    let reports = verify.run().await.with_context(|| {
        format!("cannot compare with the source at {} (--source-url names another)", world.settings.source_url)
    })?;
    bar.finish_and_clear();
    let equal = reports.iter().all(|report| report.differing.is_empty());
    let named = || names.iter().map(String::as_str).zip(&reports);
    match &reports[..] {
        [report] if args.json => println!("{}", serde_json::to_string_pretty(report)?),
        _ if args.json => println!("{}", serde_json::to_string_pretty(&BTreeMap::from_iter(named()))?),
        [report] => print(&[("the copy".to_owned(), report)], started.elapsed()),
        _ => {
            let named: Vec<_> = named().map(|(name, report)| (format!("copy {name}"), report)).collect();
            print(&named, started.elapsed());
        }
    }
    Ok(if equal { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Another region's copy.
#[derive(Debug, Clone)]
struct Other {
    name: String,
    url: Secret,
}

impl FromStr for Other {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (name, place) = text
            .split_once('=')
            .filter(|(name, place)| !name.is_empty() && !place.is_empty())
            .ok_or("no copy; write b=postgres://user:password@host:port/database, or b=FILE with that URL in it")?;
        let url = if place.starts_with("postgres") && place.contains("://") {
            place.to_owned()
        } else {
            std::fs::read_to_string(place).map_err(|error| format!("{place}: {error}"))?.trim().to_owned()
        };
        Ok(Self { name: name.to_owned(), url: Secret::new(url) })
    }
}

/// What became of an erasure.
#[derive(Serialize)]
struct Erased<'a> {
    #[serde(flatten)]
    erasure: &'a Erasure,
    #[serde(flatten)]
    left: Remains,
    /// When the log has forgotten what was appended before all regions knew of it; `null` while one has not said so, where the
    /// log deletes nothing because of its age, and where nobody can tell.
    log_forgets_by: Option<Timestamp>,
    /// The regions whose logs do not say so.
    not_heard_in: Vec<String>,
}

async fn erased(world: &World, erasures: &Standing, json: bool) -> anyhow::Result<ExitCode> {
    let asked_for: Vec<Erasure> = erasures.set.iter().cloned().collect();
    let letters = letters_left(&*world.stored, &asked_for).await?;
    let kept = Kept::of(world).await;
    let mut all = Vec::new();
    for (number, erasure) in asked_for.iter().enumerate() {
        let of_it = letters.iter().filter(|(_, about)| about.contains(&number)).count() as u64;
        let left = remains(&*world.stored, erasure, of_it).await?;
        let Barred { since, not_in } = erasures.barred(erasure);
        let log_forgets_by = match kept {
            Kept::For(kept) if not_in.is_empty() => Some(forgotten_by(since, kept)),
            _ => None,
        };
        all.push(Erased { erasure, left, log_forgets_by, not_heard_in: not_in });
    }
    all.sort_by_key(|erased| (erased.erasure.erased_at, erased.erasure.key()));
    let versions = world.stored.erased_versions().await?;
    let clean = versions == 0 && all.iter().all(|erased| erased.left == Remains::default());
    if json {
        println!("{}", serde_json::to_string_pretty(&json!({ "erasures": all, "versions_left": versions }))?);
    } else {
        all.iter().for_each(|erased| print_erased(erased, &kept));
        if versions > 0 {
            println!("{versions} versions of erased messages are LEFT in the history");
        }
        let left = if clean { "nothing is left of them in this copy" } else { "something is LEFT" };
        match all.len() {
            0 => println!("no erasure was asked for, as far as this log tells"),
            1 => println!("1 erasure; {left}"),
            count => println!("{count} erasures; {left}"),
        }
    }
    Ok(if clean { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn print_erased(erased: &Erased<'_>, kept: &Kept) {
    let Erased { erasure, left, log_forgets_by, not_heard_in } = erased;
    let what = match &erasure.scope {
        Scope::Chat => String::new(),
        Scope::Message { message_id } => format!(", message {message_id}"),
        Scope::Author { author_hash } => format!(", author {}…", &author_hash[..author_hash.len().min(12)]),
    };
    println!("{} chat {}{what}", erasure.erased_at, erasure.chat_id);
    let log = match log_forgets_by {
        Some(by) if *by > Timestamp::now() => format!("the log may hold it until {by}"),
        Some(_) => "the log has forgotten it".to_owned(),
        None if not_heard_in.is_empty() => kept.to_string(),
        None => format!(
            "region {} has NOT SAID that it knows of it: the log may be given more of it there; of what it is given, {kept}",
            not_heard_in.join(", "),
        ),
    };
    let words = if left.is_nothing() { "no row left".to_owned() } else { format!("{left} LEFT") };
    println!("  {words}; {log}");
    if left.unreadable > 0 {
        println!("  {} rows of the chat CANNOT BE READ, and may be of it", left.unreadable);
    }
}

/// A bar on a terminal; nothing elsewhere.
pub fn bar(what: &str) -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} {msg}  {elapsed}");
    let bar = ProgressBar::new(0).with_message(what.to_owned());
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar
}

/// Each copy with what it is called in sentences.
fn print(reports: &[(String, &Report)], took: Duration) {
    for (copy, report) in reports {
        print_differing(copy, report);
    }
    // The source was read once for all.
    if let Some((_, report)) = reports.first() {
        let (chats, messages, seconds) = (report.chats, report.messages, took.as_secs_f64());
        println!("compared {chats} chats with {messages} messages in {seconds:.1} s");
    }
    for (copy, report) in reports {
        if report.explained > 0 {
            let explained = report.explained;
            println!("{explained} rows are explained by dead letters of {copy} (`chat-sync dead-letters list`)");
        }
        match report.differing.len() {
            0 if report.explained > 0 => println!("{copy} has everything else that the source has"),
            0 => println!("{copy} has everything that the source has"),
            1 => println!("1 chat DIFFERS in {copy}"),
            count => println!("{count} chats DIFFER in {copy}"),
        }
    }
}

fn print_differing(copy: &str, report: &Report) {
    for (chat, compared) in &report.differing {
        let title = compared.title.as_deref().unwrap_or_default();
        println!("chat {chat} {title:?} in {copy}");
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
}

fn sentence(difference: &Difference) -> String {
    let what = difference.message.as_deref().map_or("the chat itself".to_owned(), |id| format!("message {id}"));
    match difference.how {
        How::MissingInTheCopy => format!("{what} is missing in the copy"),
        How::OtherContent => format!("{what} has another content in the copy"),
        How::NotAtTheSource => format!("{what} is not at the source any more"),
        How::NotErased => format!("{what} was to be erased and is in the copy"),
        How::NotUnderstood => format!("{what} cannot be understood, and no dead letter says so"),
    }
}
