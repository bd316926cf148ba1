//! `docs/protocols.md` against what the services really do.

use std::collections::{BTreeMap, BTreeSet};

use contract::erasure::Erasure;
use contract::{Record, Rejected, Timestamp};
use futures::SinkExt;
use platform::eventually;
use platform::testing::PATIENCE;
use serde_json::{Value, json};
use synchronizer::differences::Digests;
use system_tests::pipeline::Embedded;
use system_tests::reader::Reader;
use system_tests::socket::next_frame;
use tokio_tungstenite::connect_async;
use tokio_tungstenite::tungstenite::Message;

const DOCUMENT: &str = include_str!("../../../docs/protocols.md");

/// The examples of one sort, by name: `<!-- sort: name -->` and the block behind it.
fn examples(sort: &str) -> BTreeMap<String, Value> {
    let mut examples = BTreeMap::new();
    for part in DOCUMENT.split(&format!("<!-- {sort}: ")).skip(1) {
        let (name, rest) = part.split_once(" -->").unwrap();
        let block = rest.split("```json").nth(1).unwrap().split("```").next().unwrap();
        let example = serde_json::from_str(block).unwrap_or_else(|error| panic!("{sort} {name}: {error}"));
        examples.insert(name.to_owned(), example);
    }
    examples
}

/// The names of all fields, nested ones as paths.
fn fields(value: &Value, path: &str, all: &mut BTreeSet<String>) {
    match value {
        Value::Object(map) => {
            for (name, value) in map {
                let path = format!("{path}.{name}");
                fields(value, &path, all);
                all.insert(path);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| fields(item, &format!("{path}[]"), all)),
        _ => {}
    }
}

fn all_fields(value: &Value) -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    fields(value, "", &mut all);
    all
}

#[test]
fn the_digests_in_the_document_are_some() {
    let example = &examples("digests")["a part of a copy"];
    let digests: Digests = serde_json::from_value(example.clone()).unwrap();
    assert_eq!(serde_json::to_value(&digests).unwrap(), *example);
}

#[test]
fn the_erasure_in_the_document_is_one() {
    let example = &examples("erasure")["message"];
    let erasure = Erasure::decode(example.to_string().as_bytes()).unwrap();
    assert_eq!(serde_json::from_slice::<Value>(&erasure.encode()).unwrap(), *example);
}

#[test]
fn every_record_in_the_document_is_one() {
    let examples = examples("record");
    assert_eq!(examples.keys().collect::<Vec<_>>(), ["chat", "marker", "message", "rejected"]);
    for (name, example) in examples {
        let record = Record::decode(example.to_string().as_bytes(), Timestamp::now())
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(record.kind(), name);
        let written: Value = serde_json::from_slice(&record.encode()).unwrap();
        assert_eq!(written, example, "{name}");
        if let Record::Rejected(rejected) = record {
            let made = Rejected::new(&rejected.source, &rejected.reason, &*rejected.detail, rejected.raw.as_bytes());
            let made = Rejected { generation: rejected.generation, ..made };
            assert_eq!(made, rejected, "its digest and length are those of its raw text");
        }
    }
}

#[test]
fn every_reason_and_route_in_the_code_is_in_the_document() {
    let sources = [
        include_str!("../../../internal/src/http_api/mod.rs"),
        include_str!("../../../internal/src/http_api/operators.rs"),
        include_str!("../../../external/src/http_api.rs"),
        include_str!("../../../platform/src/http.rs"),
    ];
    for source in sources {
        for route in source.split(".route(\"").skip(1).map(|rest| rest.split('"').next().unwrap()) {
            let is_asset = route.ends_with(".js") || route.ends_with(".css");
            assert!(
                is_asset || DOCUMENT.contains(&format!("{route}`")) || DOCUMENT.contains(&format!("{route}?")),
                "{route}"
            );
        }
    }
    let record = include_str!("../../../contract/src/record.rs");
    let reasons = record.split("pub fn reason").nth(1).unwrap().split("\n    }\n}").next().unwrap();
    for reason in reasons.split('"').skip(1).step_by(2) {
        assert!(DOCUMENT.contains(&format!("`{reason}`")), "{reason}");
    }
}

/// Frames of every type from a running mirror.
async fn real_frames() -> BTreeMap<String, Value> {
    let mirror = Embedded::start(&[]);
    mirror.ready().await;
    let vendor = mirror.vendor();
    let chat = vendor.create_chat("Frames").await;
    let id = vendor.post(&chat, "loaded").await;
    let reader = Reader::watch(&mirror.internal_address);
    eventually!(reader.text(&chat, &id).is_some(), "the message is mirrored, so that a load has it");
    let (mut socket, _) = connect_async(format!("ws://{}/ws", mirror.internal_address)).await.unwrap();
    let mut frames = BTreeMap::new();
    socket.send(Message::text(json!({ "type": "subscribe", "chat": "nowhere" }).to_string())).await.unwrap();
    let mut asked = false;
    while frames.len() < 5 {
        let frame = tokio::time::timeout(PATIENCE, next_frame(&mut socket)).await.expect("every type in time");
        let kind = frame["type"].as_str().unwrap().to_owned();
        if kind == "chats" && !frame["chats"].as_array().unwrap().is_empty() && !asked {
            asked = true;
            socket.send(Message::text(json!({ "type": "subscribe", "chat": chat }).to_string())).await.unwrap();
        }
        let filled = |name: &str| frame[name].as_array().is_none_or(|items| !items.is_empty());
        if kind == "load" {
            vendor.post(&chat, "updated").await;
        }
        if filled("messages") && filled("chats") {
            frames.insert(kind, frame);
        }
    }
    frames
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_frame_in_the_document_has_the_fields_of_a_real_one() {
    let (documented, real) = (examples("server"), real_frames().await);
    assert_eq!(documented.keys().collect::<Vec<_>>(), real.keys().collect::<Vec<_>>());
    for (name, example) in &documented {
        assert_eq!(all_fields(example), all_fields(&real[name]), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_client_frame_in_the_document_is_understood() {
    let mirror = Embedded::start(&[]);
    mirror.ready().await;
    let (mut socket, _) = connect_async(format!("ws://{}/ws", mirror.internal_address)).await.unwrap();
    for example in examples("client").into_values() {
        socket.send(Message::text(example.to_string())).await.unwrap();
    }
    socket.send(Message::text("the last one")).await.unwrap();
    let mut codes = Vec::new();
    while codes.last().is_none_or(|code| code != "bad_frame") {
        let frame = tokio::time::timeout(PATIENCE, next_frame(&mut socket)).await.expect("an answer in time");
        codes.extend(frame["code"].as_str().map(str::to_owned));
    }
    // Only the last one was not understood; nobody knows the example's chat here, if the list was read already.
    assert_eq!(codes.iter().filter(|code| *code == "bad_frame").count(), 1, "{codes:?}");
}
