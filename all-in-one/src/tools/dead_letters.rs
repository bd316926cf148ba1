//! `chat-sync dead-letters`.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{bail, ensure};
use platform::dead_letters::{Filter, Letter, State};
use tokio::time::Instant;

use super::World;

#[derive(Debug, Clone, clap::Subcommand)]
pub enum Action {
    /// By reason, and the newest of each.
    List {
        /// Only this reason; then every letter is listed.
        #[arg(long)]
        reason: Option<String>,
        /// How many at most.
        #[arg(long, default_value_t = 50)]
        limit: u32,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// One letter, whole.
    Show {
        /// Its digest, or the beginning of it.
        digest: String,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Append what it holds once more, and wait for what becomes of it.
    Retry {
        #[command(flatten)]
        which: Which,
    },
    /// Decide that it need not be applied. It stays in the table, with the reason.
    Discard {
        #[command(flatten)]
        which: Which,
        /// Why; it is kept.
        #[arg(long)]
        note: String,
    },
}

/// Which letters are meant.
#[derive(Debug, Clone, clap::Args)]
#[group(required = true, multiple = false)]
pub struct Which {
    /// This one: its digest, or the beginning of it.
    digest: Option<String>,
    /// All open ones of this reason.
    #[arg(long)]
    reason: Option<String>,
    /// All open ones.
    #[arg(long)]
    all: bool,
}

/// How long a second try may take: the synchronizer looks every second, then the way is the usual one.
const PATIENCE: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(300);

pub async fn run(world: &World, action: Action) -> anyhow::Result<ExitCode> {
    match action {
        Action::List { reason: None, json, .. } => groups(world, json).await,
        Action::List { reason, limit, json } => list(world, reason, limit, json).await,
        Action::Show { digest, json } => show(&one(world, &digest).await?, json),
        Action::Retry { which } => retry(world, which).await,
        Action::Discard { which, note } => discard(world, which, &note).await,
    }
}

async fn groups(world: &World, json: bool) -> anyhow::Result<ExitCode> {
    let groups = world.letters.groups().await?;
    if json {
        println!("{}", serde_json::to_string_pretty(&groups)?);
        return Ok(ExitCode::SUCCESS);
    }
    if groups.is_empty() {
        println!("no dead letters");
        return Ok(ExitCode::SUCCESS);
    }
    println!("{:<20} {:<10} {:>7}  {:<27}  newest", "reason", "state", "count", "oldest");
    for group in groups {
        let (state, count) = (group.state.as_str(), group.count);
        println!("{:<20} {state:<10} {count:>7}  {}  {}", group.reason, group.oldest, group.newest);
    }
    println!("list --reason <reason> names each with its digest");
    Ok(ExitCode::SUCCESS)
}

async fn list(world: &World, reason: Option<String>, limit: u32, json: bool) -> anyhow::Result<ExitCode> {
    let letters = world.letters.letters(&Filter { reason, limit, ..Filter::default() }).await?;
    if json {
        println!("{}", serde_json::to_string_pretty(&letters)?);
        return Ok(ExitCode::SUCCESS);
    }
    for letter in &letters {
        let Letter { digest, state, dead_lettered_at, topic, partition, offset, detail, .. } = letter;
        println!("{digest}  {:<9}  {dead_lettered_at}  {topic}[{partition}]@{offset}  {detail}", state.as_str());
    }
    if letters.is_empty() {
        println!("no dead letters of that reason");
    }
    Ok(ExitCode::SUCCESS)
}

fn show(letter: &Letter, json: bool) -> anyhow::Result<ExitCode> {
    if json {
        println!("{}", serde_json::to_string_pretty(letter)?);
        return Ok(ExitCode::SUCCESS);
    }
    println!("digest   {}", letter.digest);
    println!("reason   {}: {}", letter.reason, letter.detail);
    println!("state    {}", letter.state.as_str());
    if let Some(note) = &letter.note {
        println!("note     {note}");
    }
    println!("since    {}", letter.dead_lettered_at);
    println!("record   {}[{}]@{}", letter.topic, letter.partition, letter.offset);
    println!("key      {}", letter.key.as_deref().unwrap_or("none"));
    let origin = if letter.from_source { "an item of the source" } else { "a record of the log" };
    println!("raw      {origin}, {} bytes:", letter.raw_length);
    println!("{}", letter.raw);
    if letter.raw_length > i64::try_from(letter.raw.len()).unwrap_or(i64::MAX) {
        println!("… (cut)");
    }
    Ok(ExitCode::SUCCESS)
}

/// The one letter whose digest begins so.
async fn one(world: &World, digest: &str) -> anyhow::Result<Letter> {
    let filter = Filter { digest: Some(digest.to_owned()), limit: 2, ..Filter::default() };
    let mut found = world.letters.letters(&filter).await?;
    match found.len() {
        1 => Ok(found.remove(0)),
        0 => bail!("no dead letter's digest begins with {digest}"),
        _ => bail!("several digests begin with {digest}; write more of it"),
    }
}

async fn meant(world: &World, which: Which) -> anyhow::Result<Vec<Letter>> {
    let everything = which.all;
    let letters = match which.digest {
        Some(digest) => vec![one(world, &digest).await?],
        None => {
            let filter = Filter { reason: which.reason, state: Some(State::Open), digest: None, limit: u32::MAX };
            world.letters.letters(&filter).await?
        }
    };
    ensure!(everything || !letters.is_empty(), "no open dead letters of that reason");
    if letters.is_empty() {
        println!("no open dead letters");
    }
    Ok(letters)
}

async fn discard(world: &World, which: Which, note: &str) -> anyhow::Result<ExitCode> {
    ensure!(!note.trim().is_empty(), "--note says why; it is empty");
    let letters = meant(world, which).await?;
    for letter in &letters {
        let decided = world.letters.decide(&letter.digest, State::Discarded, Some(note)).await?;
        ensure!(decided, "{} is resolved already", letter.digest);
        println!("{}  discarded", letter.digest);
    }
    Ok(ExitCode::SUCCESS)
}

async fn retry(world: &World, which: Which) -> anyhow::Result<ExitCode> {
    let letters = meant(world, which).await?;
    for letter in &letters {
        let decided = world.letters.decide(&letter.digest, State::Retry, None).await?;
        ensure!(decided, "{} is resolved already", letter.digest);
    }
    let (until, mut failed) = (Instant::now() + PATIENCE, 0);
    for letter in &letters {
        loop {
            let now = one(world, &letter.digest).await?;
            match now.state {
                State::Retry if Instant::now() < until => tokio::time::sleep(LOOK).await,
                State::Retry => bail!("nobody has tried {} within {PATIENCE:?}; does a synchronizer lead?", now.digest),
                State::Open => {
                    failed += 1;
                    println!("{}  still open: {}", now.digest, now.note.unwrap_or_default());
                    break;
                }
                state => {
                    println!("{}  {}", now.digest, state.as_str());
                    break;
                }
            }
        }
    }
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
