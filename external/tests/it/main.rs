//! The vendor, through its API.

mod api;
mod replay;

use std::net::SocketAddr;

use external::Config;
use platform::health::Health;
use platform::lifecycle::Stop;
use platform::sqlite::Sqlite;
use reqwest::{Client, Method, StatusCode};
use serde_json::Value;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// A vendor in this process, on a file of its own.
pub struct World {
    pub address: SocketAddr,
    pub client: Client,
    pub folder: TempDir,
    stop: Stop,
    task: JoinHandle<anyhow::Result<()>>,
}

pub async fn vendor(further: &[&str]) -> World {
    open(tempfile::tempdir().unwrap(), further).await
}

async fn open(folder: TempDir, further: &[&str]) -> World {
    let config: Config = clap::Parser::parse_from(["external", "--quiet"].iter().chain(further));
    let db = Sqlite::open(&folder.path().join("vendor.sqlite")).await.unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let stop = Stop::new();
    let task = tokio::spawn(external::run(config, db, Health::new(), listener, stop.clone()));
    platform::tls::provide();
    World { address, client: Client::new(), folder, stop, task }
}

impl World {
    /// A request; gives the status and the body as JSON.
    pub async fn ask(&self, method: Method, path: &str, body: impl Into<Option<Value>>) -> (StatusCode, Value) {
        let mut request = self.client.request(method, format!("http://{}{path}", self.address));
        if let Some(body) = body.into() {
            request = request.json(&body);
        }
        let response = request.send().await.unwrap();
        (response.status(), response.json().await.unwrap())
    }

    pub async fn get(&self, path: &str) -> Value {
        let (status, body) = self.ask(Method::GET, path, None).await;
        assert_eq!(status, StatusCode::OK, "{path}: {body}");
        body
    }

    /// Ends it and opens another on the same file.
    pub async fn restarted(self) -> Self {
        self.stop.cancel();
        self.task.await.unwrap().unwrap();
        open(self.folder, &[]).await
    }
}
