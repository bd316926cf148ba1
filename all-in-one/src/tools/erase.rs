//! `chat-sync erase`.

use std::fmt;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::bail;
use contract::erasure::{Erasure, Scope, author_hash};
use contract::{Record, Timestamp, Topics};
use platform::event_log::LogError;
use serde::Serialize;
use synchronizer::erase::{Left, letters_left};
use synchronizer::stored::Stored;
use synchronizer::to_log::ToLog;
use tokio::time::Instant;

use super::World;

#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// The chat's id; with nothing else, the whole chat is erased, and whatever is written in it later.
    #[arg(long)]
    chat: String,
    /// Only this message of it, by id.
    #[arg(long, conflicts_with = "author")]
    message: Option<String>,
    /// Only what this author has written in it until now.
    #[arg(long)]
    author: Option<String>,
    /// Only say what would be erased.
    #[arg(long)]
    dry_run: bool,
    /// Do not wait until it is done.
    #[arg(long)]
    no_wait: bool,
}

/// More than a leader may take to read what stands in its own log, and to finish what it appends.
const HEARD: Duration = Duration::from_secs(3600);
/// A thousand years: whatever is kept for longer is kept for ever.
const AGES: Duration = Duration::from_secs(1000 * 365 * 24 * 3600);
/// How often it is looked what is left.
const LOOK: Duration = Duration::from_millis(500);
/// How far the vendor's clock may be ahead of this one.
const AHEAD: Duration = Duration::from_secs(24 * 3600);
/// How long nothing may come of it.
const PATIENCE: Duration = Duration::from_secs(60);

pub async fn run(world: &World, args: Args) -> anyhow::Result<ExitCode> {
    let (dry_run, no_wait) = (args.dry_run, args.no_wait);
    let (what, mut erasure) = (what(&args), erasure(args));
    if matches!(erasure.scope, Scope::Author { .. }) {
        let (last, beyond) = last_written(&*world.stored, &erasure).await?;
        erasure.erased_at = erasure.erased_at.max(last);
        if beyond > 0 {
            println!("{} say that they were written more than a day from now, and are left", rows(beyond));
        }
    }
    let before = left(&*world.stored, &erasure).await?;
    if before.unreadable > 0 {
        let unreadable = rows(before.unreadable);
        println!("{unreadable} of this chat cannot be read, and may be of it: somebody wrote nonsense there");
    }
    if dry_run {
        println!("{what}: {before} would be erased; nothing was done");
        return Ok(ExitCode::SUCCESS);
    }
    let to_log = ToLog::open(&world.settings, world.log.clone()).await?;
    to_log.ask_to_erase(&erasure).await?;
    println!("{what}: asked for; no synchronizer that has read this appends any of it any more");
    if no_wait {
        println!("the leading synchronizer erases {before}; `chat-sync verify --erased` tells when that is done");
        return Ok(ExitCode::SUCCESS);
    }
    let (mut last, mut since) = (before, Instant::now());
    while !last.is_nothing() {
        tokio::time::sleep(LOOK).await;
        let now = left(&*world.stored, &erasure).await?;
        if now != last {
            (last, since) = (now, Instant::now());
        } else if since.elapsed() > PATIENCE {
            bail!(
                "{last} are still there and nothing has come of it for {PATIENCE:?}; it is done when a synchronizer leads and a writer stores"
            );
        }
    }
    if before.is_nothing() {
        println!("this copy has no row of it now; what comes from now on is kept out");
        println!("is the id right? An erasure cannot be taken back");
        return Ok(ExitCode::SUCCESS);
    }
    println!("erased {before} from this copy, with their history");
    match Kept::of(world).await {
        Kept::For(kept) => {
            println!("the log forgets what it holds of them by {}", forgotten_by(Timestamp::now(), kept))
        }
        other => println!("{other}"),
    }
    if world.settings.others().next().is_some() {
        println!("once the other regions know of it too: `chat-sync verify --erased` says whether and when");
    }
    Ok(ExitCode::SUCCESS)
}

/// How long the log keeps what is appended to it, here and from the other regions: a mirrored topic is set as the one that it
/// mirrors.
#[derive(Debug)]
pub enum Kept {
    For(Duration),
    ForEver,
    /// Why nobody can tell.
    Unknown(String),
}

impl Kept {
    pub async fn of(world: &World) -> Self {
        let own = Topics::with_suffix(&world.settings.topic_suffix).changes;
        let mut longest = Duration::ZERO;
        for topic in std::iter::once(own.clone()).chain(world.settings.mirrored(&own)) {
            match of_topic(world, &topic).await {
                Ok(Some(kept)) if kept < AGES => longest = longest.max(kept),
                Ok(_) => return Self::ForEver,
                Err(error) => return Self::Unknown(error.to_string()),
            }
        }
        Self::For(longest)
    }
}

/// Of a topic that is not there, no time at all.
async fn of_topic(world: &World, topic: &str) -> Result<Option<Duration>, LogError> {
    match world.log.partitions(topic).await? {
        Some(_) => world.log.kept(topic).await,
        None => Ok(Some(Duration::ZERO)),
    }
}

impl fmt::Display for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::For(kept) => write!(f, "the log may hold it for {} hours", kept.as_secs().div_ceil(3600)),
            Self::ForEver => f.write_str("the log may hold it for ever: it deletes nothing because of its age"),
            Self::Unknown(why) => write!(f, "nobody can tell how long the log holds it: {why}"),
        }
    }
}

/// When the log has forgotten what was appended before this was asked for or taken.
pub fn forgotten_by(taken: Timestamp, kept: Duration) -> Timestamp {
    let micros = u64::try_from(HEARD.saturating_add(kept).as_micros()).unwrap_or(u64::MAX);
    Timestamp::from_micros(taken.micros().saturating_add(micros)).unwrap_or(taken)
}

/// When the newest of what it may cover was written, by the vendor's clock, which may be ahead of this one.
/// And how many say that they are of later than any clock can be ahead: whoever covers these covers all until then.
async fn last_written(stored: &dyn Stored, erasure: &Erasure) -> anyhow::Result<(Timestamp, u64)> {
    let whenever = Erasure { erased_at: "9999-12-31T23:59:59Z".parse()?, ..erasure.clone() };
    let (mut left, mut last, mut beyond) = (Left::of(stored, &whenever), Timestamp::default(), 0);
    while let Some(page) = left.next().await? {
        let written = page.into_iter().filter_map(|record| match record {
            Record::Message(message) => Some(message.created_at),
            _ => None,
        });
        for at in written {
            // `since` is zero for what lies in the past.
            if at.since(erasure.erased_at) > AHEAD { beyond += 1 } else { last = last.max(at) }
        }
    }
    Ok((last, beyond))
}

fn what(args: &Args) -> String {
    let chat = &args.chat;
    match (&args.message, &args.author) {
        (Some(message), _) => format!("message {message} of chat {chat}"),
        (_, Some(author)) => format!("what {author} has written in chat {chat}"),
        _ => format!("chat {chat} and whatever is in it"),
    }
}

fn erasure(args: Args) -> Erasure {
    let scope = match (args.message, args.author) {
        (Some(message_id), _) => Scope::Message { message_id },
        (_, Some(author)) => Scope::Author { author_hash: author_hash(&args.chat, &author) },
        _ => Scope::Chat,
    };
    Erasure { chat_id: args.chat, scope, erased_at: Timestamp::now() }
}

/// What a copy still has of an erasure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Remains {
    #[serde(rename = "rows_left")]
    pub rows: u64,
    /// Dead letters that hold something of it.
    #[serde(rename = "letters_left")]
    pub letters: u64,
    /// Rows of the chat of which nobody can tell.
    pub unreadable: u64,
}

impl Remains {
    /// Whether nothing is left that a synchronizer could erase.
    pub fn is_nothing(&self) -> bool {
        (self.rows, self.letters) == (0, 0)
    }
}

fn rows(count: u64) -> String {
    format!("{count} row{}", if count == 1 { "" } else { "s" })
}

impl fmt::Display for Remains {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&rows(self.rows))?;
        if self.letters > 0 {
            write!(f, " and {} dead letter{}", self.letters, if self.letters == 1 { "" } else { "s" })?;
        }
        Ok(())
    }
}

/// What the copy still has.
///
/// # Errors
/// If the copy cannot be read.
async fn left(stored: &dyn Stored, erasure: &Erasure) -> anyhow::Result<Remains> {
    let letters = letters_left(stored, std::slice::from_ref(erasure)).await?.len() as u64;
    remains(stored, erasure, letters).await
}

/// The same, where it is known how many dead letters there are.
///
/// # Errors
/// If the copy cannot be read.
pub async fn remains(stored: &dyn Stored, erasure: &Erasure, letters: u64) -> anyhow::Result<Remains> {
    let (mut left, mut rows) = (Left::of(stored, erasure), 0);
    while let Some(page) = left.next().await? {
        rows += page.len() as u64;
    }
    Ok(Remains { rows, letters, unreadable: left.unreadable.len() as u64 })
}
