//! Plays a Slack event log into the vendor, at a chosen speed, and goes on after a restart where it was.

use std::collections::{BTreeMap, HashMap};
use std::io::IsTerminal;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Context;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use platform::lifecycle::Stop;

use crate::chat::{self, Message, Micros, Vendor};
use crate::config::Speed;
use crate::slack_log::{self, Action, Content, Step, Unused};
use crate::store;

/// How many lines that are due are played in one transaction at most. As fast as it goes everything is due: then a
/// few, so that whoever reads sees it grow.
const AT_ONCE: usize = 500;
const AT_ONCE_AT_MAX: usize = 20;

/// Plays the files, then waits for the stop signal.
///
/// # Errors
/// If a file cannot be read, or the database fails.
pub async fn run(vendor: Vendor, files: Vec<PathBuf>, speed: Speed, stop: Stop) -> anyhow::Result<()> {
    let lines = read_lines(&files)?;
    let name = files.iter().map(|file| file.display().to_string()).collect::<Vec<_>>().join(",");
    tokio::select! {
        () = stop.cancelled() => return Ok(()),
        played = play(&vendor, &name, &lines, speed) => report(&played?, lines.len()),
    }
    stop.cancelled().await;
    Ok(())
}

/// The lines of these files, in order.
///
/// # Errors
/// If a file cannot be read; it is named.
pub fn read_lines(files: &[PathBuf]) -> anyhow::Result<Vec<Vec<u8>>> {
    let mut lines = Vec::new();
    for file in files {
        let bytes = std::fs::read(file).with_context(|| format!("--replay {}", file.display()))?;
        lines.extend(bytes.split(|byte| *byte == b'\n').map(<[u8]>::to_vec));
        // A file that ends with a newline has no empty last line.
        if lines.last().is_some_and(Vec::is_empty) {
            lines.pop();
        }
    }
    Ok(lines)
}

/// What was done, and what was passed over by reason.
#[derive(Debug, Default)]
struct Played {
    used: u64,
    unused: BTreeMap<Unused, u64>,
}

async fn play(vendor: &Vendor, name: &str, lines: &[Vec<u8>], speed: Speed) -> anyhow::Result<Played> {
    let done = usize::try_from(store::replayed(&vendor.db, name).await?).unwrap_or(0).min(lines.len());
    let bar = progress_bar(lines.len() as u64);
    let (mut played, mut due) = (Played::default(), Vec::new());
    let mut clock = None;
    let at_once = if matches!(speed, Speed::Times(_)) { AT_ONCE } else { AT_ONCE_AT_MAX };
    for (number, line) in lines.iter().enumerate().skip(done) {
        bar.set_position(number as u64);
        let step = slack_log::read(line);
        let wait = step.as_ref().map_or(Duration::ZERO, |step| until(speed, &mut clock, step.at));
        if !wait.is_zero() || due.len() == at_once {
            apply(vendor, name, number, std::mem::take(&mut due), &mut played).await?;
            tokio::time::sleep(wait).await;
        }
        due.push(step);
    }
    apply(vendor, name, lines.len(), due, &mut played).await?;
    bar.finish_and_clear();
    Ok(played)
}

/// How long until it is this line's turn: as long after the first one as it was, divided by the speed. From the first
/// and not from the last: short sleeps are never as short as they should be, and that would add up.
fn until(speed: Speed, clock: &mut Option<(Instant, Micros)>, at: Micros) -> Duration {
    let (began, first) = *clock.get_or_insert_with(|| (Instant::now(), at));
    let Speed::Times(times) = speed else { return Duration::ZERO };
    let since = Duration::from_micros(at.0.saturating_sub(first.0).max(0).cast_unsigned());
    let due = Duration::try_from_secs_f64(since.as_secs_f64() / times).unwrap_or(Duration::MAX);
    due.saturating_sub(began.elapsed())
}

/// Does the steps that are due and remembers that the first `done` lines are done, in one transaction.
async fn apply(
    vendor: &Vendor,
    name: &str,
    done: usize,
    steps: Vec<Result<Step, Unused>>,
    played: &mut Played,
) -> anyhow::Result<()> {
    let _turn = vendor.turn.lock().await;
    let ids: Vec<_> = steps.iter().flatten().map(|step| (step.channel.as_str(), step.message())).collect();
    let known = store::these_messages(&vendor.db, &ids).await?;
    let mut known: HashMap<_, _> = known.into_iter().map(|row| ((row.chat_id.clone(), row.id.clone()), row)).collect();
    let (mut chats, mut rows) = (Vec::new(), Vec::new());
    for step in steps {
        match step.and_then(|step| Ok((next_row(&known, &step)?, step))) {
            Ok((row, step)) => {
                if !chats.iter().any(|(channel, _)| *channel == row.chat_id) {
                    chats.push((row.chat_id.clone(), step.at));
                }
                known.insert((row.chat_id.clone(), row.id.clone()), row.clone());
                rows.push(row);
                played.used += 1;
            }
            Err(reason) => *played.unused.entry(reason).or_default() += 1,
        }
    }
    let mut new_chats = Vec::new();
    for (channel, at) in chats {
        if store::chat(&vendor.db, &channel).await?.is_none() {
            new_chats.push(chat::new_chat(channel.clone(), format!("#{channel}"), at));
        }
    }
    let mut tx = vendor.db.write.begin().await?;
    for chat in new_chats {
        store::put_chat_in(&mut tx, &vendor.feed(), chat).await?;
    }
    store::put_messages_in(&mut tx, &vendor.feed(), rows).await?;
    store::set_replayed(&mut tx, name, i64::try_from(done)?).await?;
    let latest: i64 = sqlx::query_scalar("SELECT sequence FROM vendor_feed").fetch_one(&mut *tx).await?;
    tx.commit().await?;
    vendor.announce(latest);
    Ok(())
}

/// The message as this step leaves it, or why there is nothing to do.
fn next_row(known: &HashMap<(String, String), Message>, step: &Step) -> Result<Message, Unused> {
    let stored = known.get(&(step.channel.clone(), step.message().to_owned()));
    match (&step.action, stored) {
        (Action::Delete { .. }, None) => Err("a deletion of a message never seen"),
        (Action::Delete { .. }, Some(message)) if message.deleted => Err("a deletion of a message deleted before"),
        (Action::Delete { .. }, Some(message)) => Ok(chat::tombstone(message.clone(), step.at)),
        (Action::Say { .. }, Some(message)) if message.deleted => Err("a change of a message deleted before"),
        (Action::Say { change: false, .. }, Some(_)) => Err("a post whose ts was used before"),
        (Action::Say { content, .. }, _) => Ok(message(&step.channel, content)),
    }
}

fn message(channel: &str, content: &Content) -> Message {
    Message {
        chat_id: channel.to_owned(),
        id: content.id.clone(),
        parent_id: content.parent_id.clone(),
        author: content.author.clone(),
        text: Some(content.text.clone()),
        created_at: content.created_at,
        edited_at: content.edited_at,
        deleted_at: None,
        deleted: false,
        sequence: 0,
    }
}

fn progress_bar(lines: u64) -> ProgressBar {
    let target =
        if std::io::stderr().is_terminal() { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    let style = ProgressStyle::with_template("replay {bar:40} {pos}/{len} lines, {eta} left")
        .unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::with_draw_target(Some(lines), target).with_style(style)
}

fn report(played: &Played, lines: usize) {
    let unused: u64 = played.unused.values().sum();
    let now = played.used + unused;
    eprintln!("replay: all {lines} lines are done, {now} of them now: {} used, {unused} not", played.used);
    for (reason, count) in &played.unused {
        eprintln!("replay: {count:>6}  {reason}");
    }
}
