//! `chat-sync trace`: one message's way, from what the system keeps anyway.

use std::process::ExitCode;

use anyhow::bail;
use contract::{Message, Record, Timestamp, Topics, Version, partition_of};
use internal::hub::Pushed;
use platform::dead_letters::{Filter, Letter, State};
use platform::event_log::{LogRecord, TopicPartition};

use super::World;

#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// The message's id.
    message: String,
    /// The chat it is in; without it, every chat is searched.
    #[arg(long)]
    chat: Option<String>,
}

/// How many of the newest dead letters are looked into.
const LETTERS: u32 = 1000;
/// How much the vendor's clock and ours may differ: records are looked for from so long before the message was made.
const CLOCKS_MS: u64 = 3_600_000;

pub async fn run(world: &World, args: Args) -> anyhow::Result<ExitCode> {
    let Some((chat, stored)) = stored(world, &args).await? else {
        let letters = dead_letters(world, &args.message).await?;
        if letters.is_empty() {
            bail!("message {} is not in the copy; `chat-sync verify` tells whether it should be", args.message);
        }
        letters.iter().for_each(lettered);
        return Ok(ExitCode::SUCCESS);
    };
    vendor(&stored);
    let partition = partition_of(&chat, partitions(world).await?);
    let topic = Topics::with_suffix(&world.settings.topic_suffix).changes;
    let at = TopicPartition::new(topic, partition);
    let since = i64::try_from((stored.created_at.micros() / 1000).saturating_sub(CLOCKS_MS)).unwrap_or(0);
    let key = format!("{chat}/{}", stored.id);
    let mut records = world.log.find(&at, &key, since).await?;
    if records.is_empty() {
        // The vendor's clock may be far ahead of the log's.
        records = world.log.find(&at, &key, 0).await?;
    }
    let applied = world.store.progress().await?.get(&at).map_or(0, |progress| progress.next_offset);
    if records.is_empty() {
        println!("log      {at} has no record of it any more; it keeps 7 days");
    }
    for record in &records {
        logged(record, applied, &stored.version);
    }
    println!("stored   version {} ({})", stored.version, if stored.stamp.deleted { "deleted" } else { "alive" });
    pushed(world, &chat, &stored).await;
    // An edit that could not be understood, perhaps: then the stored row is older than the source's.
    let letters = dead_letters(world, &stored.id).await?;
    letters.iter().filter(|letter| letter.state != State::Resolved).for_each(lettered);
    Ok(ExitCode::SUCCESS)
}

async fn stored(world: &World, args: &Args) -> anyhow::Result<Option<(String, Message)>> {
    let chats = match &args.chat {
        Some(chat) => vec![chat.clone()],
        None => world.stored.chats().await?.whole()?.into_keys().collect(),
    };
    let id = std::slice::from_ref(&args.message);
    for chat in chats {
        if let Some(message) = world.stored.messages(&chat, id).await?.whole()?.pop() {
            return Ok(Some((chat, message)));
        }
    }
    Ok(None)
}

fn lettered(letter: &Letter) {
    let Letter { digest, reason, detail, state, topic, partition, offset, .. } = letter;
    println!("letter   a dead letter, {}: {reason}: {detail}", state.as_str());
    println!("         {topic}[{partition}]@{offset}; `chat-sync dead-letters show {digest}` shows it whole");
}

/// The letters that name the message.
async fn dead_letters(world: &World, message: &str) -> anyhow::Result<Vec<Letter>> {
    let letters = world.letters.letters(&Filter { limit: LETTERS, ..Filter::default() }).await?;
    // As JSON writes it; what cannot be understood cannot be looked into any better.
    let name = serde_json::to_string(message)?;
    Ok(letters.into_iter().filter(|letter| letter.raw.contains(&name)).collect())
}

async fn partitions(world: &World) -> anyhow::Result<u32> {
    let topic = Topics::with_suffix(&world.settings.topic_suffix).changes;
    match world.log.partitions(&topic).await? {
        Some(partitions) => Ok(partitions),
        None => bail!("there is no topic {topic}"),
    }
}

fn vendor(message: &Message) {
    println!(
        "message  {} in chat {}, by {}",
        message.id,
        message.chat_id,
        message.author.as_deref().unwrap_or("nobody")
    );
    println!("vendor   created {}", message.created_at);
    for (what, time) in [("edited", message.edited_at), ("deleted", message.deleted_at)] {
        if let Some(time) = time {
            println!("         {what:<7} {time}");
        }
    }
}

/// A record: when it was polled and appended, where, and what became of it.
fn logged(record: &LogRecord, applied: u64, stored: &Version) {
    let header = |name: &str| record.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str());
    let appended = u64::try_from(record.timestamp_ms).unwrap_or(0) * 1000;
    let appended = Timestamp::from_micros(appended).unwrap_or_default();
    println!("polled   {}", header("ce_time").unwrap_or("?"));
    println!("appended {appended}  {}@{}", record.at, record.offset);
    let fate = match Record::decode(&record.value, appended) {
        _ if record.offset >= applied => "not applied yet".to_owned(),
        Ok(Record::Message(message)) if message.version == *stored => "applied: it is the stored row".to_owned(),
        Ok(Record::Message(message)) if message.version < *stored => "superseded by a newer version".to_owned(),
        Ok(_) => "newer than the stored row: the store went back, ask for a reconcile".to_owned(),
        Err(invalid) => format!("a dead letter: {}", invalid.reason()),
    };
    println!("         {fate}");
}

async fn pushed(world: &World, chat: &str, stored: &Message) {
    let path = ["api", "ops", "pushes", chat, &stored.id];
    let answer = async {
        let mut url = reqwest::Url::parse(&world.internal_url).ok()?;
        url.path_segments_mut().ok()?.pop_if_empty().extend(path);
        platform::tls::provide();
        let response = reqwest::get(url).await.ok()?;
        if response.status().is_success() { response.json::<Pushed>().await.ok() } else { None }
    };
    match answer.await {
        None => println!("pushed   not by {} since its start, or it does not answer", world.internal_url),
        Some(pushed) => {
            let gate = if pushed.answer.is_empty() { "was not asked" } else { &pushed.answer };
            println!("gate     {gate}");
            let which = if pushed.version == stored.version { "" } else { " (another version)" };
            println!("pushed   {}  to {} browsers{which}", pushed.at, pushed.connections);
        }
    }
}
