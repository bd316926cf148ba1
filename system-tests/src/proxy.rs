//! A connection that a test can cut, stall and spoil: a TCP relay between a client and a server.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// What is wrong with every connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Fault {
    #[default]
    None,
    /// Nothing comes through, and nothing ends.
    Stall,
    /// One byte at a time.
    Slow,
    /// What the client sends does not arrive.
    NothingThere,
    /// What the server answers does not arrive.
    NothingBack,
    /// What the server answers arrives that much later.
    Late(Duration),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Direction {
    There,
    Back,
}

impl Fault {
    fn holds(self, direction: Direction) -> bool {
        match self {
            Self::Stall => true,
            Self::NothingThere => direction == Direction::There,
            Self::NothingBack => direction == Direction::Back,
            Self::None | Self::Slow | Self::Late(_) => false,
        }
    }
}

/// What all connections are told.
struct Orders {
    whole: watch::Sender<bool>,
    /// Counted up: connections that began before end.
    resets: watch::Sender<u64>,
    fault: watch::Sender<Fault>,
    target: watch::Sender<String>,
}

/// Relays to one address until it is dropped.
pub struct Proxy {
    /// `host:port` to connect to instead.
    pub address: String,
    orders: Arc<Orders>,
    task: JoinHandle<()>,
}

impl Proxy {
    /// # Panics
    /// If no port can be taken.
    pub async fn to(target: &str) -> Self {
        let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.expect("a free port");
        let address = listener.local_addr().expect("its address").to_string();
        let orders = Arc::new(Orders {
            whole: watch::Sender::new(true),
            resets: watch::Sender::default(),
            fault: watch::Sender::default(),
            target: watch::Sender::new(target.to_owned()),
        });
        let task = tokio::spawn(accept(listener, orders.clone()));
        Self { address, orders, task }
    }

    /// Ends every connection, and refuses new ones.
    pub fn cut(&self) {
        self.orders.whole.send_replace(false);
    }

    pub fn restore(&self) {
        self.orders.whole.send_replace(true);
    }

    /// Ends every connection; new ones are as good as any.
    pub fn reset(&self) {
        self.orders.resets.send_modify(|resets| *resets += 1);
    }

    /// Ends every connection; new ones go to another server.
    pub fn redirect(&self, target: &str) {
        self.orders.target.send_replace(target.to_owned());
        self.reset();
    }

    /// From now on, until another fault or [`Fault::None`].
    pub fn misbehave(&self, fault: Fault) {
        self.orders.fault.send_replace(fault);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.cut();
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, orders: Arc<Orders>) {
    while let Ok((client, _)) = listener.accept().await {
        let (target, orders) = (orders.target.borrow().clone(), orders.clone());
        tokio::spawn(async move {
            let (mut whole, mut resets) = (orders.whole.subscribe(), orders.resets.subscribe());
            tokio::select! {
                () = relay(client, &target, &orders) => {}
                _ = whole.wait_for(|whole| !whole) => {}
                _ = resets.changed() => {}
            }
        });
    }
}

async fn relay(client: TcpStream, target: &str, orders: &Orders) {
    let Ok(server) = TcpStream::connect(target).await else { return };
    // Else the kernel would put single bytes together again.
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
    // How a connection ends is its two ends' affair.
    let _ = tokio::join!(
        pump(from_client, to_server, Direction::There, orders.fault.subscribe()),
        pump(from_server, to_client, Direction::Back, orders.fault.subscribe()),
    );
}

async fn pump(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    direction: Direction,
    mut fault: watch::Receiver<Fault>,
) -> std::io::Result<()> {
    let mut bytes = vec![0; 64 << 10];
    loop {
        let count = from.read(&mut bytes).await?;
        if count == 0 {
            return to.shutdown().await;
        }
        let mut rest = &bytes[..count];
        while !rest.is_empty() {
            // Gone with the proxy: then this connection ends too.
            let _ = fault.wait_for(|fault| !fault.holds(direction)).await;
            let wrong = *fault.borrow();
            if let (Fault::Late(by), Direction::Back) = (wrong, direction) {
                tokio::time::sleep(by).await;
            }
            let slow = wrong == Fault::Slow;
            let (now, later) = rest.split_at(if slow { 1 } else { rest.len() });
            to.write_all(now).await?;
            rest = later;
        }
    }
}
