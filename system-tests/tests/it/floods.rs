//! Browsers that send too much, and thousands that come at once.

use futures::{SinkExt, StreamExt};
use platform::eventually;
use serde_json::{Value, json};
use system_tests::compared::{at_the_vendor, screens_are};
use system_tests::flow::Flow;
use system_tests::pipeline::{Options, Pipeline};
use system_tests::reader::Reader;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::Frame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// Chats, and clients that each watch all of them: 10,000 subscriptions.
const CHATS: usize = 100;
const CLIENTS: usize = 100;
/// How many of the clients are looked at closely: each reads every chat to its beginning.
const LOOKED_AT: usize = 5;
/// Changes a second meanwhile.
const RATE: u64 = 50;

async fn socket(pipeline: &Pipeline) -> Socket {
    connect_async(format!("ws://{}/ws", pipeline.internal_address)).await.expect("a connection").0
}

/// The server ends the connection, however much still comes.
async fn is_ended(mut socket: Socket) {
    eventually!(
        matches!(socket.next().await, None | Some(Err(_) | Ok(Message::Close(_)))),
        "a client that sends too much is sent away"
    );
}

/// A load comes, whatever comes before it.
async fn is_served(socket: &mut Socket, chat: &str) -> Vec<Value> {
    let subscribe = json!({ "type": "subscribe", "chat": chat });
    socket.send(Message::text(subscribe.to_string())).await.expect("sent");
    let mut before = Vec::new();
    while let Some(Ok(frame)) = socket.next().await {
        let Message::Text(text) = frame else { continue };
        let frame: Value = serde_json::from_str(&text).expect("JSON");
        if frame["type"] == "load" && frame["chat"] == chat {
            return before;
        }
        before.push(frame);
    }
    panic!("the connection ended; it was told {before:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_client_that_floods_harms_nobody_else() {
    let Some(pipeline) = Pipeline::start(Options::default()).await else { return };
    pipeline.ready().await;
    let vendor = pipeline.vendor();
    let chat = vendor.create_chat("Calm").await;
    let reader = Reader::watch_chat(&pipeline.internal_address, &chat);
    let first = vendor.post(&chat, "before").await;
    eventually!(reader.text(&chat, &first).is_some(), "somebody watches");
    let before = pipeline.internal.memory();

    // One frame of 64 MB.
    let mut large = socket(&pipeline).await;
    let _ = large.send(Message::binary(vec![b'x'; 64 << 20])).await;
    is_ended(large).await;

    // A message of one byte a frame that does not end.
    let mut fragments = socket(&pipeline).await;
    let mut kind = OpCode::Data(Data::Text);
    for _ in 0..40_000 {
        let fragment = Frame::message(vec![b'x'], kind, false);
        if fragments.feed(Message::Frame(fragment)).await.is_err() {
            break;
        }
        kind = OpCode::Data(Data::Continue);
    }
    let _ = fragments.flush().await;
    is_ended(fragments).await;

    // Ten thousand subscriptions to what is not there: it is told so, and is served all the same.
    let mut greedy = socket(&pipeline).await;
    for number in 0..10_000 {
        let subscribe = json!({ "type": "subscribe", "chat": format!("nowhere-{number}") });
        greedy.feed(Message::text(subscribe.to_string())).await.expect("sent");
    }
    let told = is_served(&mut greedy, &chat).await;
    assert!(told.iter().any(|frame| frame["code"] == "chat_not_here"), "it is told");

    // Pings are answered, and cost nobody anything.
    let mut pinging = socket(&pipeline).await;
    for _ in 0..20_000 {
        pinging.feed(Message::Ping(vec![0; 100].into())).await.expect("sent");
    }
    is_served(&mut pinging, &chat).await;

    let last = vendor.post(&chat, "after").await;
    eventually!(reader.text(&chat, &last).is_some(), "who watches has noticed nothing");
    assert_eq!(reader.screen().loads, 1, "its connection lasted");
    let grown = pipeline.internal.memory().saturating_sub(before);
    assert!(grown < 32 << 20, "nothing of it was kept in memory: {grown} bytes more");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_subscribe_while_people_write() {
    let Some(pipeline) = Pipeline::start(Options::default()).await else { return };
    pipeline.ready().await;
    let vendor = pipeline.vendor();
    let mut chats = Vec::new();
    for number in 0..CHATS {
        chats.push(vendor.create_chat(&format!("Chat {number}")).await);
    }
    let first = Reader::watch(&pipeline.internal_address);
    eventually!(first.screen().chats.len() == CHATS, "all chats are mirrored");
    let flow = Flow::begin(&vendor, &chats, RATE);
    let readers: Vec<Reader> = (0..CLIENTS).map(|_| Reader::watch(&pipeline.internal_address)).collect();
    // However long that takes, as long as more and more of them are answered for good: a crowd that the store cannot answer in
    // time, and that asks again and again, would stand still here.
    let complete = || readers.iter().map(Reader::complete).sum::<usize>();
    while complete() < CHATS * CLIENTS {
        let before = complete();
        eventually!(complete() > before, "more of {} subscriptions are complete; {before} are", CHATS * CLIENTS);
    }
    flow.end().await;
    let expected = at_the_vendor(&vendor).await;
    // Each watches all of them; here each is asked for one.
    screens_are(&expected, &chats, &readers[..LOOKED_AT]).await;
}
