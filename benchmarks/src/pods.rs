//! From the append to the frame, with several pods, and with clients that do not read.

use std::time::{Duration, Instant};

use anyhow::Context;
use futures::{SinkExt, StreamExt};
use serde_json::json;
use system_tests::pipeline::{Options, Pipeline};
use system_tests::process::{Process, free_port, ready};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

use crate::figures::{Table, percentiles};
use crate::straight::Straight;

const SOCKETS: usize = 200;
const MESSAGES: usize = 300;
/// Between two messages: 20 a second.
const BEAT: Duration = Duration::from_millis(50);
/// One in a hundred does not read.
const DEAF: usize = SOCKETS / 100;
/// How much a socket that is not read from holds: little, so that the server notices soon.
const SMALL: u32 = 4 << 10;
/// Large enough for their connections to be full within seconds.
const LARGE_TEXT: usize = 20_000;
/// Without and with those, one after the other.
const ROUNDS: usize = 3;
const CHAT: &str = "watched";

/// Each delivery's time.
type Times = Vec<Duration>;

pub async fn run() -> anyhow::Result<Table> {
    let mut rows = Vec::new();
    for pods in [1, 2, 4] {
        let world = World::begin(pods).await?;
        let [p50, p99, max] = percentiles(world.deliver("short", 0, 0).await?);
        rows.push((format!("{pods} pods"), vec![p50, p99, max]));
    }
    let world = World::begin(1).await?;
    // Whoever comes later loads what stands in the chat by then.
    world.deliver("first", 0, LARGE_TEXT).await?;
    let (mut all_read, mut some_deaf) = (Times::new(), Times::new());
    for round in 0..ROUNDS {
        all_read.extend(world.deliver(&format!("read{round}"), 0, LARGE_TEXT).await?);
        some_deaf.extend(world.deliver(&format!("deaf{round}"), DEAF, LARGE_TEXT).await?);
    }
    let ratio = p99(&some_deaf).as_secs_f64() / p99(&all_read).as_secs_f64();
    for (name, times) in [("texts of 20 kB", all_read), ("and 1 % of the clients do not read", some_deaf)] {
        rows.push((name.to_owned(), percentiles(times).to_vec()));
    }
    rows.push(("p99 next to that of all reading".into(), vec!["".into(), format!("{ratio:.2}x"), "".into()]));
    Ok(Table {
        name: "pods",
        what: format!(
            "{MESSAGES} messages, 20 a second, appended to the log; milliseconds from the append to the frame at each of \
             {SOCKETS} sockets, spread over the pods; then at one pod with larger texts, without and with {DEAF} sockets \
             more that subscribe and never read, in turn {ROUNDS} times."
        ),
        columns: vec!["p50", "p99", "max"],
        rows,
    })
}

fn p99(times: &Times) -> Duration {
    let mut times = times.clone();
    times.sort_unstable();
    times.get(times.len() * 99 / 100).copied().unwrap_or_default()
}

struct World {
    straight: Straight,
    addresses: Vec<String>,
    /// Ended when this is dropped.
    _pipeline: Pipeline,
    _pods: Vec<Process>,
}

impl World {
    async fn begin(pods: usize) -> anyhow::Result<Self> {
        let mut pipeline = Pipeline::start(Options::default()).await.context("the servers")?;
        let straight = Straight::begin(&mut pipeline, &[CHAT.to_owned()]).await?;
        let (mut addresses, mut more) = (vec![pipeline.internal_address.clone()], Vec::new());
        for number in 1..pods {
            let address = format!("127.0.0.1:{}", free_port());
            more.push(pipeline.another_internal(&address, &format!("internal-{number}"), Vec::new()));
            ready(&address).await;
            addresses.push(address);
        }
        Ok(Self { straight, addresses, _pipeline: pipeline, _pods: more })
    }

    /// Every delivery's time after its append; `text` bytes are added to what a message has.
    async fn deliver(&self, part: &str, deaf: usize, text: usize) -> anyhow::Result<Times> {
        let (watches, mut watching) = mpsc::channel(SOCKETS);
        let mut sockets = JoinSet::new();
        for number in 0..SOCKETS {
            let address = self.addresses[number % self.addresses.len()].clone();
            let (watches, part) = (watches.clone(), part.to_owned());
            sockets.spawn(async move { listen(subscribe(&address, None).await?, &part, watches).await });
        }
        for _ in 0..SOCKETS {
            watching.recv().await.context("a socket does not watch")?;
        }
        let mut never_read = Vec::new();
        for _ in 0..deaf {
            never_read.push(subscribe(&self.addresses[0], Some(SMALL)).await?);
        }
        let (log, mut ticks) = (self.straight.log().await?, tokio::time::interval(BEAT));
        let mut appended = Vec::with_capacity(MESSAGES);
        for number in 0..MESSAGES {
            ticks.tick().await;
            let message = self.straight.message_with(CHAT, &format!("{part}-{number:04}"), text);
            appended.push(Instant::now());
            log.append(vec![message]).await?;
        }
        let mut times = Times::with_capacity(SOCKETS * MESSAGES);
        while let Some(heard) = sockets.join_next().await {
            times.extend(
                heard??.iter().zip(&appended).map(|(heard, appended)| heard.saturating_duration_since(*appended)),
            );
        }
        Ok(times)
    }
}

async fn subscribe(address: &str, receive: Option<u32>) -> anyhow::Result<WebSocketStream<TcpStream>> {
    let socket = TcpSocket::new_v4()?;
    if let Some(bytes) = receive {
        socket.set_recv_buffer_size(bytes)?;
    }
    let stream = socket.connect(address.parse()?).await?;
    let (mut socket, _) = tokio_tungstenite::client_async(format!("ws://{address}/ws"), stream).await?;
    socket.send(Message::text(json!({ "type": "subscribe", "chat": CHAT }).to_string())).await?;
    Ok(socket)
}

/// When each message of this part came, in order.
async fn listen(
    mut socket: WebSocketStream<TcpStream>,
    part: &str,
    watches: mpsc::Sender<()>,
) -> anyhow::Result<Vec<Instant>> {
    let (mut times, begins) = (Vec::with_capacity(MESSAGES), format!("\"id\":\"{part}-"));
    while times.len() < MESSAGES {
        let Message::Text(text) = socket.next().await.context("the connection ended")?? else { continue };
        if text.starts_with("{\"type\":\"load\"") {
            watches.send(()).await?;
        } else if text.starts_with("{\"type\":\"update\"") && text.contains(&begins) {
            times.push(Instant::now());
        }
    }
    Ok(times)
}
