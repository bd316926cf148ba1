//! Many posts at once, and how soon all of them can be read.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use futures::{StreamExt, stream};
use platform::eventually;
use reqwest::{Client, Method};
use serde_json::{Value, json};
use system_tests::pipeline::{Options, Pipeline};
use tokio::sync::Mutex;

use crate::figures::{Table, milliseconds, percentiles, rate, thousands};

const POSTS: usize = 20_000;
const IN_FLIGHT: usize = 50;
const SENDERS: usize = 10;

pub async fn run() -> anyhow::Result<Table> {
    let pipeline = Pipeline::start(Options::default()).await.context("the servers")?;
    pipeline.ready().await;
    let vendor = pipeline.vendor();
    let mut chats = Vec::new();
    for number in 0..SENDERS {
        chats.push(vendor.create_chat(&format!("Sender {number}")).await);
    }
    let times = Arc::new(Mutex::new(Vec::with_capacity(POSTS)));
    let started = Instant::now();
    let failed: usize = stream::iter(0..POSTS)
        .map(|number| {
            let (vendor, chat, times) = (vendor.clone(), chats[number % SENDERS].clone(), times.clone());
            async move {
                let at = Instant::now();
                let body =
                    json!({ "author": format!("Sender {}", number % SENDERS), "text": format!("post {number}") });
                let (status, _) = vendor.ask(Method::POST, &format!("/chats/{chat}/messages"), Some(body)).await;
                times.lock().await.push(at.elapsed());
                usize::from(!status.is_success())
            }
        })
        .buffer_unordered(IN_FLIGHT)
        .fold(0, |failed, one| std::future::ready(failed + one))
        .await;
    let took = started.elapsed();
    let last = Instant::now();
    let client = system_tests::http::client();
    let mut looks = Vec::new();
    eventually!(
        {
            let readable = count(&client, &pipeline.internal_address, &chats).await;
            looks.push(format!("{readable} after {:.1} s", last.elapsed().as_secs_f64()));
            readable == POSTS
        },
        "all can be read"
    );
    let until = last.elapsed();
    let times = times.lock().await.clone();
    let (least, most) = (times.iter().min().copied(), times.iter().max().copied());
    let mean = times.iter().sum::<Duration>() / u32::try_from(POSTS)?;
    let [p50, p99, _] = percentiles(times);
    let milliseconds = |time: Duration| format!("{} ms", milliseconds(time));
    let row = |name: &str, value: String| (name.to_owned(), vec![value]);
    Ok(Table {
        name: "ingest",
        what: format!(
            "{POSTS} posts by {SENDERS} senders, {IN_FLIGHT} in flight, then how many can be read at :30002."
        ),
        columns: vec![""],
        rows: vec![
            row("total", thousands(POSTS as f64)),
            row("ok", thousands((POSTS - failed) as f64)),
            row("failed", failed.to_string()),
            row("mean", milliseconds(mean)),
            row("p50, p99", format!("{p50}, {p99} ms")),
            row("max", milliseconds(most.unwrap_or_default())),
            row("min", milliseconds(least.unwrap_or_default())),
            row("requests a second", thousands(rate(POSTS, took))),
            row("readable after the last post", looks.join("; ")),
            row("all readable after", format!("{:.1} s", until.as_secs_f64())),
        ],
    })
}

/// How many messages internal's API gives in all.
pub async fn count(client: &Client, address: &str, chats: &[String]) -> usize {
    let mut count = 0;
    for chat in chats {
        let mut before = String::new();
        loop {
            let url = format!("http://{address}/api/chats/{chat}/messages?limit=500{before}");
            let Ok(answer) = client.get(url).send().await else { return count };
            let Ok(page) = answer.json::<Value>().await else { return count };
            let Some(messages) = page["messages"].as_array() else { break };
            count += messages.len();
            if page["more"] != true {
                break;
            }
            before = format!("&before={}", messages[0]["id"].as_str().unwrap_or_default());
        }
    }
    count
}
