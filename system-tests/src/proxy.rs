//! A connection that a test can cut: a TCP relay between a client and a server.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Relays to one address until it is dropped.
pub struct Proxy {
    /// `host:port` to connect to instead.
    pub address: String,
    whole: Arc<watch::Sender<bool>>,
    task: JoinHandle<()>,
}

impl Proxy {
    /// # Panics
    /// If no port can be taken.
    pub async fn to(target: &str) -> Self {
        let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.expect("a free port");
        let address = listener.local_addr().expect("its address").to_string();
        let whole = Arc::new(watch::Sender::new(true));
        let task = tokio::spawn(accept(listener, target.to_owned(), whole.clone()));
        Self { address, whole, task }
    }

    /// Ends every connection, and refuses new ones.
    pub fn cut(&self) {
        self.whole.send_replace(false);
    }

    pub fn restore(&self) {
        self.whole.send_replace(true);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.cut();
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, target: String, whole: Arc<watch::Sender<bool>>) {
    while let Ok((client, _)) = listener.accept().await {
        let (target, mut whole) = (target.clone(), whole.subscribe());
        tokio::spawn(async move {
            tokio::select! {
                () = relay(client, &target) => {}
                _ = whole.wait_for(|whole| !whole) => {}
            }
        });
    }
}

async fn relay(mut client: TcpStream, target: &str) {
    let Ok(mut server) = TcpStream::connect(target).await else { return };
    // How a connection ends is its two ends' affair.
    let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
}
