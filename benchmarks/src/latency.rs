//! From a POST at the vendor to the frame at a client.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::Context;
use contract::{Timestamp, Topics};
use futures::{SinkExt, StreamExt};
use internal::hub::Pushed;
use platform::event_log::EventLog;
use platform::event_log::kafka::Kafka;
use platform::eventually;
use serde_json::{Value, json};
use system_tests::pipeline::{Options, Pipeline};
use system_tests::vendor::Vendor;
use tokio_tungstenite::connect_async;
use tokio_tungstenite::tungstenite::Message;

use crate::figures::{Table, percentiles};
use crate::plain::Plain;

/// Messages a second.
const RATE: u64 = 200;
const WARM_UP: usize = 3_000;
const MESSAGES: usize = 4_000;

/// When something happened to each message, by the one clock of this machine.
pub type Times = HashMap<String, Timestamp>;

/// When each message's frame came; says through `ready` that it watches.
pub async fn watch(
    url: String,
    subscribe: Option<String>,
    count: usize,
    ready: tokio::sync::oneshot::Sender<()>,
) -> anyhow::Result<Times> {
    let (mut socket, _) = connect_async(url).await?;
    let asked = subscribe.is_some();
    if let Some(chat) = subscribe {
        socket.send(Message::text(json!({ "type": "subscribe", "chat": chat }).to_string())).await?;
    }
    let (mut seen, mut ready) = (HashMap::new(), Some(ready));
    if !asked {
        ready.take().map(|ready| ready.send(()));
    }
    while seen.len() < count {
        let frame = socket.next().await.context("the connection ended")??;
        let now = Timestamp::now();
        let Message::Text(text) = frame else { continue };
        let frame: Value = serde_json::from_str(&text)?;
        if frame["type"] == "load" {
            ready.take().map(|ready| ready.send(()));
        }
        // The plain one sends the row itself.
        let rows = frame["messages"].as_array().cloned().unwrap_or_else(|| vec![frame.clone()]);
        for message in rows.iter().filter(|row| row["author"].is_string()) {
            seen.entry(message["id"].as_str().unwrap_or_default().to_owned()).or_insert(now);
        }
    }
    Ok(seen)
}

/// Posts while somebody watches: when each was posted, and when its frame came. The first ones warm up: a broker that
/// has just been started is slow.
async fn measure(vendor: &Vendor, chat: &str, url: String, subscribe: bool) -> anyhow::Result<(Times, Times)> {
    let (ready, watched) = tokio::sync::oneshot::channel();
    let subscribe = subscribe.then(|| chat.to_owned());
    let watching = tokio::spawn(watch(url, subscribe, WARM_UP + MESSAGES, ready));
    watched.await?;
    post(vendor, chat, WARM_UP, RATE).await;
    let posted = post(vendor, chat, MESSAGES, RATE).await;
    Ok((posted, watching.await??))
}

/// The percentiles of the time between the two.
pub fn between(from: &Times, to: &Times) -> [String; 3] {
    percentiles(from.iter().filter_map(|(id, at)| Some(to.get(id)?.since(*at))).collect())
}

/// The way of ours, stage by stage, from what the system keeps anyway.
async fn stages(pipeline: &Pipeline, chat: &str, posted: &Times, seen: &Times) -> anyhow::Result<[[String; 3]; 4]> {
    let topic = Topics::with_suffix(&pipeline.topic_suffix).changes;
    let (mut committed, mut polled, mut pushed) = (Times::new(), Times::new(), Times::new());
    for record in Kafka::new(&pipeline.kafka)?.tail(&topic, u64::MAX).await? {
        let Ok(contract::Record::Message(message)) = contract::Record::decode(&record.value, Timestamp::now()) else {
            continue;
        };
        let time = record.headers.iter().find(|(name, _)| name == "ce_time").and_then(|(_, time)| time.parse().ok());
        polled.insert(message.id.clone(), time.context("a record without ce_time")?);
        committed.insert(message.id, message.created_at);
    }
    let client = system_tests::http::client();
    for id in posted.keys() {
        let url = format!("http://{}/api/ops/pushes/{chat}/{id}", pipeline.internal_address);
        pushed.insert(id.clone(), client.get(url).send().await?.json::<Pushed>().await?.at);
    }
    let stages = [(posted, &committed), (&committed, &polled), (&polled, &pushed), (&pushed, seen)];
    Ok(stages.map(|(from, to)| between(from, to)))
}

/// Until the plain one has read what was there before: it shows what is posted now.
async fn caught_up(vendor: &Vendor, chat: &str, url: &str) -> anyhow::Result<()> {
    let (mut socket, _) = connect_async(url).await?;
    let id = vendor.post(chat, "the first one").await;
    loop {
        let frame = socket.next().await.context("the connection ended")??;
        if frame.to_text().is_ok_and(|text| text.contains(&id)) {
            return Ok(());
        }
    }
}

/// Posts so many a second; gives when each was posted.
pub async fn post(vendor: &Vendor, chat: &str, count: usize, rate: u64) -> Times {
    let mut beats = tokio::time::interval(Duration::from_micros(1_000_000 / rate));
    let mut posts = Vec::with_capacity(count);
    for number in 0..count {
        beats.tick().await;
        let (vendor, chat) = (vendor.clone(), chat.to_owned());
        posts.push(tokio::spawn(async move {
            let at = Timestamp::now();
            (vendor.post(&chat, &format!("message {number}")).await, at)
        }));
    }
    let mut posted = HashMap::new();
    for post in posts {
        posted.extend(post.await.ok());
    }
    posted
}

pub async fn run() -> anyhow::Result<Table> {
    // The plain shape has no budget.
    let synchronizer = vec![("CHAT_SYNC_SOURCE_BUDGET", "2000".to_owned())];
    let options = Options { synchronizer, ..Options::default() };
    let mut pipeline = Pipeline::start(options).await.context("the servers")?;
    pipeline.ready().await;
    let vendor = pipeline.vendor();
    let chat = vendor.create_chat("Latency").await;
    let url = format!("http://{}/api/chats", pipeline.internal_address);
    eventually!(system_tests::http::get(&url).await?.text().await?.contains(&chat), "the chat is mirrored");
    let (posted, seen) = measure(&vendor, &chat, format!("ws://{}/ws", pipeline.internal_address), true).await?;
    let ours = between(&posted, &seen);
    let [vendors, poll, log, socket] = stages(&pipeline, &chat, &posted, &seen).await?;
    for service in 1..4 {
        pipeline.processes()[service].terminate().await;
    }
    let plain = Plain::start(&pipeline.vendor_address).await?;
    let other = vendor.create_chat("The plain one").await;
    let url = format!("ws://{}", plain.address);
    caught_up(&vendor, &other, &url).await?;
    let (posted, seen) = measure(&vendor, &other, url, false).await?;
    let plainly = between(&posted, &seen);
    let ratio = |at: usize| -> String {
        let number = |text: &str| text.parse::<f64>().unwrap_or(f64::NAN);
        format!("{:.1}x", number(&plainly[at]) / number(&ours[at]))
    };
    Ok(Table {
        name: "latency",
        what: format!(
            "Milliseconds from the beginning of the POST at external to the frame at a WebSocket client, {MESSAGES} \
             messages at {RATE} a second after {WARM_UP} that warm up; the plain shape (one produce awaited, one upsert, one EVALSHA, one send a \
             message) after it in the same run, on the same servers."
        ),
        columns: vec!["p50", "p99", "max"],
        rows: vec![
            ("chat-sync".into(), ours.to_vec()),
            ("of that: POST to the vendor's commit".into(), vendors.to_vec()),
            ("commit to translated: the poll".into(), poll.to_vec()),
            ("translated to pushed: log and gate".into(), log.to_vec()),
            ("pushed to the frame: the socket".into(), socket.to_vec()),
            ("the plain shape".into(), plainly.to_vec()),
            ("the plain shape next to chat-sync".into(), (0..3).map(ratio).collect()),
        ],
    })
}
