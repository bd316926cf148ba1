//! A connection that a test can cut, stall and spoil: a TCP relay between a client and a server.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// How many pieces of 64 KiB may be on their way in one direction of a connection.
const ON_THE_WAY: usize = 256;

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
    distance: watch::Sender<Duration>,
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
            distance: watch::Sender::default(),
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

    /// What is sent arrives that much later, in each direction and whatever else is wrong.
    pub fn lies_apart(&self, by: Duration) {
        self.orders.distance.send_replace(by);
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
    let (there, back) = (Way::of(orders, Direction::There), Way::of(orders, Direction::Back));
    // How a connection ends is its two ends' affair.
    let _ = tokio::join!(there.pump(from_client, to_server), back.pump(from_server, to_client));
}

/// One direction of a connection.
struct Way {
    direction: Direction,
    fault: watch::Receiver<Fault>,
    distance: watch::Receiver<Duration>,
}

impl Way {
    fn of(orders: &Orders, direction: Direction) -> Self {
        Self { direction, fault: orders.fault.subscribe(), distance: orders.distance.subscribe() }
    }

    /// What is read is on its way while more is read, as over a long line.
    async fn pump(self, mut from: impl AsyncRead + Unpin, to: impl AsyncWrite + Unpin) -> std::io::Result<()> {
        // A reader that does not read is to be felt by the writer: nothing is held but what a distance holds.
        let pieces = if self.distance.borrow().is_zero() { 1 } else { ON_THE_WAY };
        let (send, on_its_way) = mpsc::channel(pieces);
        let (fault, distance, direction) = (self.fault.clone(), self.distance.clone(), self.direction);
        let late = move || match *fault.borrow() {
            Fault::Late(by) if direction == Direction::Back => by + *distance.borrow(),
            _ => *distance.borrow(),
        };
        let read = async move {
            let mut bytes = vec![0; 64 << 10];
            while let Ok(count) = from.read(&mut bytes).await {
                let sent = send.send((Instant::now() + late(), bytes[..count].to_vec())).await;
                if sent.is_err() || count == 0 {
                    return;
                }
            }
        };
        let mut deliver = pin!(self.deliver(on_its_way, to));
        tokio::select! {
            () = read => deliver.await,
            delivered = &mut deliver => delivered,
        }
    }

    /// Nothing is the end.
    async fn deliver(
        mut self,
        mut on_its_way: mpsc::Receiver<(Instant, Vec<u8>)>,
        mut to: impl AsyncWrite + Unpin,
    ) -> std::io::Result<()> {
        while let Some((arrives, bytes)) = on_its_way.recv().await {
            // The timer's least wait is a millisecond, which is far where nothing is.
            if arrives > Instant::now() {
                tokio::time::sleep_until(arrives).await;
            }
            if bytes.is_empty() {
                return to.shutdown().await;
            }
            let mut rest = bytes.as_slice();
            while !rest.is_empty() {
                // Gone with the proxy: then this connection ends too.
                let _ = self.fault.wait_for(|fault| !fault.holds(self.direction)).await;
                let slow = *self.fault.borrow() == Fault::Slow;
                let (now, later) = rest.split_at(if slow { 1 } else { rest.len() });
                to.write_all(now).await?;
                rest = later;
            }
        }
        Ok(())
    }
}
