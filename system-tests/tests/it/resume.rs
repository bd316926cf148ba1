//! V4 from the outside: whatever a browser comes back with, at whichever pod, it is told all that it missed, or to load.

use std::collections::BTreeSet;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use contract::{Topics, partition_of};
use futures::{SinkExt, StreamExt};
use platform::eventually;
use serde_json::{Value, json};
use system_tests::pipeline::{Options, Pipeline};
use system_tests::process::{free_port, ready};
use system_tests::reader::Reader;
use system_tests::vendor::Vendor;
use tokio_tungstenite::connect_async;
use tokio_tungstenite::tungstenite::Message;

/// How many records of a partition a pod keeps; a marker a second is among them.
const RING: u64 = 300;
/// How many messages a load brings.
const LOAD: usize = 50;

/// What somebody who came back was told until the last message was known.
#[derive(Debug)]
struct Told {
    loaded: bool,
    messages: BTreeSet<String>,
    /// The position that came with the last frame.
    resume: Option<String>,
}

/// Subscribes with this token and listens until `last` comes.
async fn come_back(pod: &str, chat: &str, token: Option<&str>, last: &str) -> Told {
    let (mut socket, _) = connect_async(format!("ws://{pod}/ws")).await.expect("a connection");
    let subscribe = json!({ "type": "subscribe", "chat": chat, "resume": token });
    socket.send(Message::text(subscribe.to_string())).await.expect("sent");
    let mut told = Told { loaded: false, messages: BTreeSet::new(), resume: None };
    let heard = async {
        while !(told.messages.contains(last) && told.resume.is_some()) {
            let Message::Text(text) = socket.next().await.expect("it lasts").expect("a frame") else { continue };
            let frame: Value = serde_json::from_str(&text).expect("JSON");
            if frame["chat"] != chat || !matches!(frame["type"].as_str(), Some("load" | "update")) {
                continue;
            }
            told.loaded |= frame["type"] == "load";
            let ids = frame["messages"].as_array().into_iter().flatten().filter_map(|message| message["id"].as_str());
            told.messages.extend(ids.map(str::to_owned));
            told.resume = frame["resume"].as_str().map(str::to_owned).or(told.resume.take());
        }
    };
    let in_time = tokio::time::timeout(platform::testing::PATIENCE, heard).await;
    assert!(in_time.is_ok(), "{pod}: the last message comes; told {told:?}");
    told
}

fn decoded(token: &str) -> Value {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(token).expect("base64")).expect("JSON")
}

fn encoded(token: &Value) -> String {
    URL_SAFE_NO_PAD.encode(token.to_string())
}

/// The same position with something changed in it.
fn changed(token: &str, change: impl FnOnce(&mut Value)) -> String {
    let mut token = decoded(token);
    change(&mut token);
    encoded(&token)
}

/// What only a load can answer, each with its name.
fn not_to_be_answered(token: &str, topic: &str, other: &str) -> Vec<(&'static str, String)> {
    let position = |change: fn(&mut Value)| changed(token, |token| change(&mut token["t"][topic]));
    let there = |marker: Value| {
        changed(token, |token| {
            token["r"] = "b".into();
            token["t"] = json!({ format!("a.{topic}"): { "o": 1, "m": marker } });
        })
    };
    vec![
        ("beyond the end", position(|position| position["o"] = (1_u64 << 40).into())),
        ("as far as numbers go", position(|position| position["o"] = u64::MAX.into())),
        ("before everything", position(|position| position["o"] = 0.into())),
        ("no number", position(|position| position["o"] = "12".into())),
        ("below zero", position(|position| position["o"] = (-1).into())),
        ("of another log", position(|position| position["m"] = "nobody/1".into())),
        ("without its marker", position(|position| position["m"] = Value::Null)),
        ("of another partition", changed(token, |token| token["p"] = 4711.into())),
        ("of another chat", other.to_owned()),
        ("of no topic", changed(token, |token| token["t"] = json!({}))),
        (
            "of a topic that nobody has",
            changed(token, |token| token["t"] = json!({ "nothing": { "o": 1, "m": null } })),
        ),
        ("of the other region, with a marker that nobody has seen", there("nobody/1".into())),
        ("of the other region, without a marker", there(Value::Null)),
        ("of a region that nobody knows", changed(token, |token| token["r"] = "nowhere".into())),
        ("cut", token[..token.len() / 2].to_owned()),
        ("not one at all", "!!!".to_owned()),
        ("empty", String::new()),
        ("too long", "A".repeat(5000)),
    ]
}

/// Posts so many; gives their ids, in order, when all of them are pushed.
async fn post(vendor: &Vendor, readers: &[Reader], chat: &str, count: usize) -> Vec<String> {
    let mut ids = Vec::new();
    for number in 0..count {
        ids.push(vendor.post(chat, &format!("message {number}")).await);
    }
    let seen = |reader: &Reader| ids.iter().all(|id| reader.text(chat, id).is_some());
    eventually!(readers.iter().all(seen), "all are pushed by every pod");
    ids
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn v4_whatever_a_browser_comes_back_with_it_is_told_all_or_to_load() {
    let ring = vec![("CHAT_SYNC_RING", RING.to_string())];
    let options = Options { internal: ring.clone(), ..Options::default() };
    let Some(pipeline) = Pipeline::start(options).await else { return };
    let second = format!("127.0.0.1:{}", free_port());
    let mut restarted = pipeline.another_internal(&second, "internal-1", ring);
    pipeline.ready().await;
    ready(&second).await;
    let topic = Topics::with_suffix(&pipeline.topic_suffix).changes;
    let (vendor, pods) = (pipeline.vendor(), [pipeline.internal_address.clone(), second]);
    let (chat, other) = (vendor.create_chat("A chat").await, vendor.create_chat("Another").await);
    let readers: Vec<Reader> = pods.iter().map(|pod| Reader::watch(pod)).collect();
    let elsewhere = post(&vendor, &readers, &other, 1).await.remove(0);

    let first = post(&vendor, &readers, &chat, 3).await;
    let last = first.last().expect("some").clone();
    let old = come_back(&pods[0], &chat, None, &last).await.resume.expect("a position");
    let many = post(&vendor, &readers, &chat, usize::try_from(RING).expect("small")).await;
    let last = many.last().expect("some").clone();
    // With a marker of later than all of them: what another region is told begins there.
    let marker = |token: &str| decoded(token)["t"][&topic]["m"].clone();
    let position = async || come_back(&pods[0], &chat, None, &last).await.resume.expect("a position");
    let before = marker(&position().await);
    let fresh = eventually!(Some(position().await).filter(|token| marker(token) != before), "a marker comes");
    let of_another = come_back(&pods[0], &other, None, &elsewhere).await.resume.expect("a position");
    assert_eq!(decoded(&fresh)["p"], partition_of(&chat, 12), "the tokens are as this test takes them to be");

    let missed = post(&vendor, &readers, &chat, 3).await;
    let last = missed.last().expect("some").clone();
    let missed = BTreeSet::from_iter(missed);
    let there = changed(&fresh, |token| {
        token["r"] = "b".into();
        token["t"] = json!({ format!("a.{topic}"): { "o": 1, "m": marker(&fresh) } });
    });
    let exact = async |pod: &str, what: &str, token: &str| {
        let told = come_back(pod, &chat, Some(token), &last).await;
        assert!(!told.loaded && missed.iter().eq(&told.messages), "{what} at {pod}: exactly what was missed: {told:?}");
    };
    for pod in &pods {
        exact(pod, "the position of a moment ago", &fresh).await;
        exact(pod, "the same, of the other region", &there).await;
        let mut wrong = not_to_be_answered(&fresh, &topic, &of_another);
        wrong.push(("too old", old.clone()));
        for (what, token) in wrong {
            let told = come_back(pod, &chat, Some(&token), &last).await;
            assert!(told.loaded && missed.iter().all(|id| told.messages.contains(id)), "{what} at {pod}: {told:?}");
            assert!(told.messages.len() >= LOAD, "{what} at {pod}: a whole load: {told:?}");
        }
    }
    restarted.kill();
    restarted.start_again();
    ready(&pods[1]).await;
    exact(&pods[1], "the position of a moment ago, at a pod that was killed since", &fresh).await;
}
