//! Shows the copy live: reads the log, asks the gate, pushes to browsers.

pub mod access;
pub mod breaker;
pub mod config;
pub mod copy;
pub mod erasures;
pub mod from_log;
pub mod gaps;
pub mod gate;
pub mod gate_suite;
pub mod history;
pub mod http_api;
pub mod hub;
pub mod load;
pub mod ops;
pub mod postgres_copy;
pub mod receipts;
pub mod redis_gate;
pub mod resume;
pub mod ring;
pub mod shared_copy;
pub mod shown;
pub mod to_browser;

use std::sync::Arc;

use contract::Topics;
use platform::dead_letters::DeadLetters;
use platform::event_log::EventLog;
use platform::health::Health;
use platform::lifecycle::{DRAIN_BUDGET, Parts, Stop};
use platform::tls::Files;
use tokio::net::TcpListener;
use tokio_util::task::TaskTracker;

use access::Access;
use access::origins::Origins;
use access::per_address::PerAddress;
use breaker::Breaker;
pub use config::{Config, Settings};
use copy::ChatCopy;
use from_log::FromLog;
use gate::Gate;
use history::History;
use hub::Hub;
use ops::{Ops, Watched};
use receipts::{Acknowledged, Receipts};
use shared_copy::SharedCopy;
use to_browser::{Limits, Served, Writers};

/// What it reads and asks.
#[derive(Clone)]
pub struct World {
    pub log: Arc<dyn EventLog>,
    pub copy: Arc<dyn ChatCopy>,
    pub history: Arc<dyn History>,
    pub letters: Arc<dyn DeadLetters>,
    pub gate: Arc<dyn Gate>,
    pub receipts: Arc<dyn Receipts>,
}

/// The way in.
pub struct Door {
    pub listener: TcpListener,
    /// Served over TLS with these.
    pub tls: Option<Files>,
    pub access: Access,
    pub origins: Origins,
    /// How many WebSockets one address may hold.
    pub per_address: usize,
}

/// Serves browsers until the stop signal.
///
/// # Errors
/// If a part fails.
pub async fn run(settings: Settings, world: World, health: Health, door: Door, stop: Stop) -> anyhow::Result<()> {
    let hub = Arc::new(Hub::new(&settings));
    let topic = Topics::with_suffix(&settings.topic_suffix).changes;
    let ops = Arc::new(Ops::new(&settings.region, &settings.pod, &topic));
    let world = World { gate: Arc::new(Breaker::new(world.gate)), ..world };
    let mut parts = Parts::new();
    let from_log = FromLog::new(&settings, &world, hub.clone(), ops.clone(), &health);
    let (consuming, watching) = (stop.clone(), ops.clone());
    let (log, copy, letters) = (world.log.clone(), world.copy.clone(), world.letters.clone());
    let watched = Watched { log, copy, letters, hub: hub.clone() };
    parts.spawn("log", async move {
        tokio::select! {
            () = consuming.cancelled() => Ok(()),
            () = watching.watch(watched) => Ok(()),
            ended = from_log.run() => ended,
        }
    });
    let (log, pod, following) = (world.log.clone(), hub.clone(), stop.clone());
    let (of_pod, erasures) = (settings.clone(), health.check("erasures"));
    parts.spawn("follow", async move {
        tokio::select! {
            () = following.cancelled() => {}
            () = gaps::follow(&of_pod, log.clone(), &pod) => {}
            () = erasures::follow(&of_pod, log.clone(), &pod, erasures) => {}
        }
        Ok(())
    });
    let receipts = Arc::new(Acknowledged::new(world.receipts));
    let (writing, until) = (receipts.clone(), stop.clone());
    parts.spawn("receipts", async move {
        writing.write(until).await;
        Ok(())
    });
    let served = Served {
        hub,
        copy: Arc::new(SharedCopy::new(world.copy)),
        access: Arc::new(door.access),
        receipts,
        writers: Writers::start(std::thread::available_parallelism().map_or(1, usize::from)),
        limits: Limits::default(),
        browsers: TaskTracker::new(),
        stop: stop.clone(),
    };
    let served = Arc::new(served);
    let browsers = served.clone();
    parts.spawn("browsers", async move {
        browsers.told_everybody().await;
        Ok(())
    });
    let app = http_api::App {
        hub: served.hub.clone(),
        receipts: served.receipts.clone(),
        copy: served.copy.clone(),
        history: world.history,
        letters: world.letters,
        ops,
        health: health.clone(),
        operator_token: settings.operator_token,
        region: settings.region.into(),
        regions: settings.regions.into(),
        over_tls: door.tls.is_some(),
        access: served.access.clone(),
        origins: Arc::new(door.origins),
        places: Arc::new(PerAddress::new(door.per_address)),
        served,
    };
    let router = http_api::router(app, platform::http::about(health));
    parts.spawn("http", platform::http::serve_with(door.listener, door.tls, router, stop.clone()));
    parts.join(&stop, DRAIN_BUDGET).await
}
