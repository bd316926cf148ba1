//! How long a browser is put up with, over a real socket.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use futures::{SinkExt, StreamExt};
use internal::access::{Access, Viewer};
use internal::hub::Hub;
use internal::receipts::{Acknowledged, Readers, Receipts, ReceiptsError};
use internal::to_browser::{Limits, Served as ToBrowser, Upgrade, Writers, serve};
use platform::eventually;
use platform::lifecycle::Stop;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_tungstenite::connect_async;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_util::task::TaskTracker;

use crate::gate::settings;
use crate::shared_copy::Counted;

/// Nobody asks what was shown here.
struct Nowhere;

#[async_trait::async_trait]
impl Receipts for Nowhere {
    async fn put(&self, _: &str, _: &Readers) -> Result<(), ReceiptsError> {
        Ok(())
    }

    async fn of(&self, _: &str) -> Result<Readers, ReceiptsError> {
        Ok(Readers::new())
    }
}

struct Served {
    hub: Arc<Hub>,
    url: String,
    stop: Stop,
}

async fn served(limits: Limits) -> Served {
    let hub = Arc::new(Hub::new(&settings(String::new())));
    let (stop, copy) = (Stop::new(), Arc::new(Counted::default()));
    let served = Arc::new(ToBrowser {
        hub: hub.clone(),
        copy,
        access: Arc::new(Access::Off),
        receipts: Arc::new(Acknowledged::new(Arc::new(Nowhere))),
        writers: Writers::start(2),
        limits,
        browsers: TaskTracker::new(),
        stop: stop.clone(),
    });
    let route = get(move |upgrade: Upgrade| async move {
        upgrade.and_then(&served.browsers.clone(), move |socket| serve(socket, Arc::new(Viewer::anybody()), served))
    });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("ws://{}/ws", listener.local_addr().unwrap());
    tokio::spawn(async { axum::serve(listener, Router::new().route("/ws", route)).await.unwrap() });
    Served { hub, url, stop }
}

/// How a connection ended that was read all the time.
async fn read_to_its_end(url: String) -> Option<(u16, String)> {
    let (mut socket, _) = connect_async(&url).await.unwrap();
    while let Some(Ok(message)) = socket.next().await {
        if let Message::Close(Some(why)) = message {
            return Some((why.code.into(), why.reason.to_string()));
        }
    }
    None
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_answers_no_pings_is_given_up_and_who_answers_stays() {
    let limits = Limits { ping: Duration::from_millis(50), silent: Duration::from_secs(3), ..Limits::default() };
    let served = served(limits).await;
    let answers = tokio::spawn(read_to_its_end(served.url.clone()));
    eventually!(served.hub.browsers() == 1, "the one that answers is there");
    // Whoever does not read answers nothing.
    let (mut frozen, _) = connect_async(&served.url).await.unwrap();
    eventually!(served.hub.browsers() == 2, "both are there");
    eventually!(served.hub.browsers() == 1, "the frozen one is given up");
    // Read past the library, which would answer the pings now.
    let mut told = Vec::new();
    frozen.get_mut().read_to_end(&mut told).await.unwrap();
    let close = [0x88, 21, 0x0f, 0xa0]; // a closing frame: the code 4000 and 19 bytes of reason
    assert!(told.windows(close.len()).any(|part| part == close), "{}", String::from_utf8_lossy(&told));
    assert!(!answers.is_finished());
    served.stop.cancel();
    let (code, reason) = answers.await.unwrap().unwrap();
    assert_eq!(code, 1001);
    let wait: u64 = reason.strip_prefix("retry after ").unwrap().strip_suffix(" ms").unwrap().parse().unwrap();
    assert!(wait < 5000, "{wait}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_watches_nothing_is_told_to_go_and_who_watches_stays() {
    let limits = Limits { idle: Duration::from_secs(2), ..Limits::default() };
    let served = served(limits).await;
    let (mut watches, _) = connect_async(&served.url).await.unwrap();
    watches.send(Message::Text(r#"{"type":"subscribe","chat":"c"}"#.into())).await.unwrap();
    let (code, reason) = read_to_its_end(served.url.clone()).await.unwrap();
    assert_eq!((code, reason.as_str()), (4003, "it watches nothing"));
    assert_eq!(served.hub.browsers(), 1, "the other came before, and is there");
    watches.send(Message::Text(r#"{"type":"unsubscribe","chat":"c"}"#.into())).await.unwrap();
    eventually!(served.hub.browsers() == 0, "it has stopped watching");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_none_of_the_protocol_is_told_what_was_wrong() {
    let served = served(Limits::default()).await;
    let wrong: [(&[u8], u16); 3] = [
        // A text of 64 MiB, masked; its length says enough.
        (&[0x81, 0xff, 0, 0, 0, 0, 4, 0, 0, 0, 1, 2, 3, 4], 1009),
        // Not masked.
        (&[0x81, 1, b'a'], 1002),
        // Masked with zeros, and no UTF-8.
        (&[0x81, 0x81, 0, 0, 0, 0, 0xff], 1007),
    ];
    for (bytes, code) in wrong {
        let (mut socket, _) = connect_async(&served.url).await.unwrap();
        socket.get_mut().write_all(bytes).await.unwrap();
        let told = loop {
            match socket.next().await.unwrap().unwrap() {
                Message::Close(why) => break why.unwrap(),
                _ => continue,
            }
        };
        assert_eq!(u16::from(told.code), code, "{told}");
    }
    eventually!(served.hub.browsers() == 0, "all of them are gone");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_closes_is_answered_and_whoever_pings_too() {
    let served = served(Limits::default()).await;
    let (mut socket, _) = connect_async(&served.url).await.unwrap();
    socket.send(Message::Ping("are you there".into())).await.unwrap();
    while socket.next().await.unwrap().unwrap() != Message::Pong("are you there".into()) {}
    let why = CloseFrame { code: CloseCode::Normal, reason: "enough".into() };
    socket.close(Some(why.clone())).await.unwrap();
    while socket.next().await.unwrap().unwrap() != Message::Close(Some(why.clone())) {}
    assert!(socket.next().await.is_none(), "the connection ends");
}
