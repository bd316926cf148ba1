//! What it costs to tell thousands of sockets.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context;
use futures::future::{join_all, try_join_all};
use futures::{SinkExt, StreamExt};
use platform::eventually;
use platform::testing::server;
use serde_json::json;
use system_tests::pipeline::{Options, Pipeline};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_tungstenite::connect_async;
use tokio_tungstenite::tungstenite::Message;

use crate::all::RAW_SEND;
use crate::figures::{Table, milliseconds};

/// Who is told how much.
#[derive(Clone, Copy)]
struct Shape {
    sockets: usize,
    messages: usize,
    /// How many messages are written at once.
    burst: usize,
    /// Between two bursts.
    beat: Duration,
}

const THOUSAND: Shape = Shape { sockets: 1_000, messages: 300, burst: 1, beat: Duration::from_millis(50) };
/// As many messages, ten at once.
const BURSTS: Shape = Shape { burst: 10, beat: Duration::from_millis(500), ..THOUSAND };
/// As many deliveries a second as can be made and heard on two cores.
const THOUSANDS: Shape = Shape { sockets: 8_000, messages: 60, burst: 1, beat: Duration::from_millis(500) };
/// `/proc/<pid>/stat` counts in hundredths of a second on Linux (proc_pid_stat(5), sysconf(_SC_CLK_TCK)).
const TICK: Duration = Duration::from_millis(10);

/// How a server is talked to.
#[derive(Clone, Copy)]
enum Dialect {
    /// Subscribes to the chat, and gets updates beside heartbeats.
    ChatSync,
    /// Gets every line as a frame.
    Plain,
    /// Engine.IO 4 below Socket.IO 5: packets with their type in front.
    SocketIo,
}

/// CPU microseconds a delivery, and how long after the first socket a message reached the others: p50, p99.
#[derive(Clone, Copy)]
struct Cost {
    cpu: f64,
    spread: [Duration; 2],
}

pub async fn run() -> anyhow::Result<Table> {
    let mut rows = Vec::new();
    for (shape, what, with_peers) in [
        (THOUSAND, "1,000 sockets, one message after the other", true),
        (BURSTS, "1,000 sockets, ten messages at once", false),
        (THOUSANDS, "8,000 sockets, one message after the other", true),
    ] {
        eprintln!("… fan_out: {what}");
        rows.push((format!("**{what}**"), vec![String::new(); 4]));
        rows.extend(shape.compared(with_peers).await?);
    }
    Ok(Table {
        name: "fan_out",
        what: format!(
            "{} messages, 20 a second, to {} sockets; the same, ten at once; {} messages, 2 a second, to {} sockets. CPU \
             microseconds of the server's process a delivery, and milliseconds after the first socket until a message is at \
             the others. Ours is the whole `internal`: log, gate and heartbeats included. Raw send is one `send` a message \
             and socket.",
            THOUSAND.messages, THOUSAND.sockets, THOUSANDS.messages, THOUSANDS.sockets,
        ),
        columns: vec!["CPU µs", "next to raw send", "p50", "p99"],
        rows,
    })
}

type Row = (String, Vec<String>);

impl Shape {
    async fn compared(self, with_peers: bool) -> anyhow::Result<Vec<Row>> {
        let Ours { whole, alone, frame: line } = self.chat_sync().await?;
        let modules = server("CHAT_SYNC_BENCH_NODE").context("the folder of the Node packages")?;
        let script = |program: &str, script: &str| {
            let mut command = Command::new(program);
            command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("peers").join(script)).env("NODE_PATH", &modules);
            command
        };
        let mut raw = Command::new(std::env::current_exe()?);
        raw.arg(RAW_SEND);
        let raw = self.peer(raw, Dialect::Plain, "/", &line).await?;
        let mut costs = vec![("chat-sync", whole), ("of that, without log and gate", alone), ("raw send", raw)];
        if with_peers {
            let bun = format!("{modules}/@oven/bun-linux-x64/bin/bun");
            costs.push(("Bun's publish", self.peer(script(&bun, "bun.js"), Dialect::Plain, "/", &line).await?));
            costs.push(("ws", self.peer(script("node", "ws.js"), Dialect::Plain, "/", &line).await?));
            let path = "/socket.io/?EIO=4&transport=websocket";
            costs.push(("socket.io", self.peer(script("node", "socket.io.js"), Dialect::SocketIo, path, &line).await?));
        }
        let row = |(name, cost): (&str, Cost)| {
            let [p50, p99] = cost.spread.map(milliseconds);
            (name.to_owned(), vec![format!("{:.1}", cost.cpu), format!("{:.1}x", cost.cpu / raw.cpu), p50, p99])
        };
        Ok(costs.into_iter().map(row).collect())
    }
}

struct Ours {
    whole: Cost,
    /// Without what the same messages cost while nobody watches: log and gate.
    alone: Cost,
    /// What a frame looked like.
    frame: String,
}

impl Shape {
    async fn chat_sync(self) -> anyhow::Result<Ours> {
        // All of them come from one address.
        let internal = vec![("CHAT_SYNC_CONNECTIONS_PER_ADDRESS", (2 * self.sockets).to_string())];
        let pipeline = Pipeline::start(Options { internal, ..Options::default() }).await.context("the servers")?;
        pipeline.ready().await;
        let vendor = pipeline.vendor();
        let chat = vendor.create_chat("Fan-out").await;
        let url = format!("http://{}/api/chats", pipeline.internal_address);
        eventually!(system_tests::http::get(&url).await?.text().await?.contains(&chat), "the chat is mirrored");
        let post = async |chat: &str| {
            let mut beats = tokio::time::interval(self.beat);
            for burst in 0..self.messages / self.burst {
                beats.tick().await;
                let texts: Vec<String> =
                    (0..self.burst).map(|number| format!("message {:04}", burst * self.burst + number)).collect();
                join_all(texts.iter().map(|text| vendor.post(chat, text))).await;
            }
        };
        let pid = pipeline.internal.pid();
        let before = cpu_of(pid)?;
        post(&vendor.create_chat("Nobody watches").await).await;
        let unwatched = self.per_delivery(cpu_of(pid)? - before);
        let url = format!("ws://{}/ws", pipeline.internal_address);
        let mut clients = Clients::connect(self, &url, Dialect::ChatSync, Some(&chat)).await?;
        let before = cpu_of(pid)?;
        post(&chat).await;
        let spread = clients.all().await?;
        let whole = Cost { cpu: self.per_delivery(cpu_of(pid)? - before), spread };
        Ok(Ours { alone: Cost { cpu: whole.cpu - unwatched, ..whole }, whole, frame: clients.frame })
    }

    /// A program that sends every line of its input to every socket.
    async fn peer(self, mut command: Command, dialect: Dialect, path: &str, line: &str) -> anyhow::Result<Cost> {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let cost = self.measured(&mut child, dialect, path, line).await;
        child.kill()?;
        child.wait()?;
        cost
    }

    async fn measured(self, child: &mut Child, dialect: Dialect, path: &str, line: &str) -> anyhow::Result<Cost> {
        let mut port = String::new();
        BufReader::new(child.stdout.as_mut().context("its output")?).read_line(&mut port)?;
        let url = format!("ws://127.0.0.1:{}{path}", port.trim());
        let mut clients = Clients::connect(self, &url, dialect, None).await?;
        let before = cpu_of(child.id())?;
        let mut beats = tokio::time::interval(self.beat);
        let input: &mut ChildStdin = child.stdin.as_mut().context("its input")?;
        for _ in 0..self.messages / self.burst {
            beats.tick().await;
            input.write_all(format!("{line}\n").repeat(self.burst).as_bytes())?;
        }
        let spread = clients.all().await?;
        Ok(Cost { cpu: self.per_delivery(cpu_of(child.id())? - before), spread })
    }

    fn per_delivery(self, cpu: Duration) -> f64 {
        cpu.as_secs_f64() * 1e6 / (self.sockets * self.messages) as f64
    }
}

/// The CPU time of a process so far, its kernel's part included.
fn cpu_of(pid: u32) -> anyhow::Result<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // After the program's name in parentheses; utime and stime are the 14th and 15th field of all.
    let (_, fields) = stat.rsplit_once(')').context("a stat without a name")?;
    let ticks = fields.split_whitespace().skip(11).take(2).map(str::parse::<u32>).sum::<Result<u32, _>>()?;
    Ok(TICK * ticks)
}

/// Sockets, each counting.
struct Clients {
    shape: Shape,
    tasks: JoinSet<anyhow::Result<Vec<Instant>>>,
    frames: mpsc::Receiver<String>,
    frame: String,
}

impl Clients {
    async fn connect(shape: Shape, url: &str, dialect: Dialect, chat: Option<&str>) -> anyhow::Result<Self> {
        let (sender, frames) = mpsc::channel(1);
        let (ready, mut readies) = mpsc::channel(shape.sockets);
        let mut tasks = JoinSet::new();
        // In parts: a server's queue of connections to accept is not endless.
        for _ in 0..shape.sockets / 50 {
            let sockets = try_join_all((0..50).map(|_| connect_async(url))).await?;
            for (socket, _) in sockets {
                let (ready, sender, chat) = (ready.clone(), sender.clone(), chat.map(str::to_owned));
                tasks.spawn(async move { listen(socket, shape, dialect, chat, ready, sender).await });
            }
        }
        drop(ready);
        for _ in 0..shape.sockets {
            readies.recv().await.context("a socket is not ready")?;
        }
        Ok(Self { shape, tasks, frames, frame: String::new() })
    }

    /// Until everything is everywhere: p50 and p99 of the time after the first socket.
    async fn all(&mut self) -> anyhow::Result<[Duration; 2]> {
        let Shape { sockets, messages, .. } = self.shape;
        let mut times: Vec<Vec<Instant>> = Vec::with_capacity(sockets);
        while let Some(task) = self.tasks.join_next().await {
            times.push(task??);
        }
        self.frame = self.frames.recv().await.unwrap_or_default();
        let mut spread = Vec::with_capacity(sockets * messages);
        for message in 0..messages {
            let first = times.iter().map(|socket| socket[message]).min().context("no socket")?;
            spread.extend(times.iter().map(|socket| socket[message] - first));
        }
        spread.sort_unstable();
        Ok([spread[spread.len() / 2], spread[spread.len() * 99 / 100]])
    }
}

type Socket = tokio_tungstenite::WebSocketStream<tokio_tungstenite::MaybeTlsStream<tokio::net::TcpStream>>;

/// When each message came to this socket.
async fn listen(
    mut socket: Socket,
    shape: Shape,
    dialect: Dialect,
    chat: Option<String>,
    ready: mpsc::Sender<()>,
    sender: mpsc::Sender<String>,
) -> anyhow::Result<Vec<Instant>> {
    let (is_ready, begins) = match dialect {
        Dialect::ChatSync => ("{\"type\":\"load\"", "{\"type\":\"update\""),
        Dialect::Plain => ("", ""),
        Dialect::SocketIo => ("40", "42"),
    };
    match dialect {
        Dialect::ChatSync => {
            let subscribe = json!({ "type": "subscribe", "chat": chat });
            socket.send(Message::text(subscribe.to_string())).await?;
        }
        Dialect::SocketIo => socket.send(Message::text("40")).await?,
        Dialect::Plain => ready.send(()).await?,
    }
    let mut times = Vec::with_capacity(shape.messages);
    while times.len() < shape.messages {
        let frame = socket.next().await.context("the connection ended")??;
        let Message::Text(text) = frame else { continue };
        if text.starts_with(begins) {
            times.push(Instant::now());
            // One frame of one socket is enough.
            let _ = sender.try_send(text.to_string());
        } else if text.starts_with(is_ready) {
            ready.send(()).await?;
        } else if matches!(dialect, Dialect::SocketIo) && text == "2" {
            socket.send(Message::text("3")).await?;
        }
    }
    Ok(times)
}

/// The cheapest broadcast there is: one `send` of a frame that was made once, a socket after the other.
pub fn raw_send() -> anyhow::Result<()> {
    use std::sync::{Arc, Mutex};

    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    println!("{}", listener.local_addr()?.port());
    let sockets = Arc::new(Mutex::new(Vec::new()));
    let accepted = sockets.clone();
    std::thread::spawn(move || {
        while let Ok((stream, _)) = listener.accept() {
            // The lock before the handshake: whoever thinks that it is connected gets the next frame.
            let mut accepted = accepted.lock().expect("the sockets");
            let raw = stream.try_clone();
            // The handshake is all that the package does here.
            if let (Ok(raw), Ok(_)) = (raw, tokio_tungstenite::tungstenite::accept(stream)) {
                let _ = raw.set_nodelay(true);
                accepted.push(raw);
            }
        }
    });
    for line in std::io::stdin().lines() {
        let line = line?;
        // FIN and text; a length of 126 to 65,535 takes two further bytes (RFC 6455, section 5.2).
        let mut frame = vec![0x81, 126];
        frame.extend(u16::try_from(line.len())?.to_be_bytes());
        frame.extend(line.as_bytes());
        for mut socket in sockets.lock().expect("the sockets").iter() {
            socket.write_all(&frame)?;
        }
    }
    Ok(())
}
