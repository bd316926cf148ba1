//! A few scripted people, so that a newcomer sees life at once: posts, replies, edits, deletions, a
//! burst, a silence.

use std::time::Duration;

use platform::lifecycle::Stop;
use rand::seq::IndexedRandom;

use crate::chat::{Chat, Message, Refusal, Vendor};

const PEOPLE: &[&str] = &["Ada", "Grace", "Edsger", "Barbara", "Donald", "Margaret"];
const CHATS: &[&str] = &["Support desk", "Release 4.2", "Coffee corner"];
const OPENINGS: &[&str] = &[
    "Good morning! Who is on call today?",
    "The export of yesterday's orders is stuck at 97 %.",
    "I can reproduce it: it only happens with more than one currency.",
    "Has anybody seen the new dashboards? The p99 finally fits on the page.",
    "Customer 4711 asks for the invoice again, as PDF this time.",
    "Build 1093 is green, going to staging now.",
    "Please do not merge into main until the migration is through.",
    "The coffee machine wants to be descaled. Again.",
    "I wrote down what we learned from last week's outage, comments welcome.",
    "Can somebody with access restart the importer?",
    "Lunch at half past twelve?",
    "Done. It was a time zone, of course it was a time zone.",
];
const REPLIES: &[&str] = &[
    "On it.",
    "Thank you, that helped!",
    "Same here, since about ten minutes ago.",
    "I would rather wait for the review.",
    "+1",
    "Could you send me the log?",
    "Fixed, please try again.",
];

/// Between two acts: slow enough to read along, quick enough that a newcomer need not wait.
const PAUSE_MILLIS: std::ops::Range<u64> = 700..2500;
/// Between two acts of a burst: several to one page of the feed.
const BURST_PAUSE: Duration = Duration::from_millis(80);
/// After a burst; long enough to see that the age of the copy stays small while nothing is written.
const SILENCE: Duration = Duration::from_secs(12);

/// Chats until the stop signal.
///
/// # Errors
/// If the database fails.
pub async fn run(vendor: Vendor, stop: Stop) -> anyhow::Result<()> {
    tokio::select! {
        () = stop.cancelled() => Ok(()),
        failure = live(&vendor) => failure,
    }
}

async fn live(vendor: &Vendor) -> anyhow::Result<()> {
    let chats = meet(vendor).await?;
    loop {
        for _ in 0..between(8, 16) {
            act(vendor, &chats).await?;
            tokio::time::sleep(Duration::from_millis(between(PAUSE_MILLIS.start, PAUSE_MILLIS.end))).await;
        }
        for _ in 0..12 {
            act(vendor, &chats).await?;
            tokio::time::sleep(BURST_PAUSE).await;
        }
        tokio::time::sleep(SILENCE).await;
    }
}

/// The chats of the script; those that are missing are made, with a first few words in each.
async fn meet(vendor: &Vendor) -> anyhow::Result<Vec<Chat>> {
    let known = vendor.chats().await?;
    let mut chats = Vec::new();
    for title in CHATS {
        match known.iter().find(|chat| chat.title == *title && !chat.deleted) {
            Some(chat) => chats.push(chat.clone()),
            None => {
                let chat = vendor.create_chat(title).await?;
                for _ in 0..3 {
                    vendor.post(&chat.id, pick(PEOPLE), pick(OPENINGS), None).await?;
                }
                chats.push(chat);
            }
        }
    }
    Ok(chats)
}

async fn act(vendor: &Vendor, chats: &[Chat]) -> anyhow::Result<()> {
    let Some(chat) = one_of(chats) else { return Ok(()) };
    match one_act(vendor, &chat.id).await {
        // Somebody at the page was faster.
        Err(Refusal::NotFound(_) | Refusal::Deleted(_) | Refusal::Invalid(_)) => Ok(()),
        outcome => Ok(outcome?),
    }
}

async fn one_act(vendor: &Vendor, chat: &str) -> Result<(), Refusal> {
    let (recent, _) = vendor.messages(chat, None, 12).await?;
    let living: Vec<&Message> = recent.iter().filter(|message| !message.deleted).collect();
    let target = one_of(&living);
    match (between(0, 100), target) {
        (0..20, Some(message)) => {
            let parent = message.parent_id.as_ref().unwrap_or(&message.id);
            vendor.post(chat, pick(PEOPLE), pick(REPLIES), Some(parent)).await?;
        }
        (20..34, Some(message)) => {
            let text = message.text.as_deref().unwrap_or_default().trim_end_matches(" (edited to be clearer)");
            vendor.edit(chat, &message.id, &format!("{text} (edited to be clearer)")).await?;
        }
        (34..40, Some(message)) => {
            vendor.delete(chat, &message.id).await?;
        }
        _ => {
            vendor.post(chat, pick(PEOPLE), pick(OPENINGS), None).await?;
        }
    }
    Ok(())
}

fn between(least: u64, below: u64) -> u64 {
    rand::random_range(least..below)
}

fn one_of<T>(from: &[T]) -> Option<&T> {
    from.choose(&mut rand::rng())
}

fn pick(from: &[&'static str]) -> &'static str {
    one_of(from).copied().unwrap_or_default()
}
