//! Shows the copy live: reads the log, asks the gate, pushes to browsers.

pub mod breaker;
pub mod config;
pub mod copy;
pub mod from_log;
pub mod gate;
pub mod gate_suite;
pub mod history;
pub mod http_api;
pub mod hub;
pub mod load;
pub mod ops;
pub mod outbox;
pub mod postgres_copy;
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
use tokio::net::TcpListener;

use breaker::Breaker;
pub use config::{Config, Settings};
use copy::ChatCopy;
use from_log::FromLog;
use gate::Gate;
use history::History;
use hub::Hub;
use ops::{Ops, Watched};
use shared_copy::SharedCopy;

/// What it reads and asks.
#[derive(Clone)]
pub struct World {
    pub log: Arc<dyn EventLog>,
    pub copy: Arc<dyn ChatCopy>,
    pub history: Arc<dyn History>,
    pub letters: Arc<dyn DeadLetters>,
    pub gate: Arc<dyn Gate>,
}

/// Serves browsers until the stop signal.
///
/// # Errors
/// If a part fails.
pub async fn run(
    settings: Settings,
    world: World,
    health: Health,
    listener: TcpListener,
    stop: Stop,
) -> anyhow::Result<()> {
    let hub = Arc::new(Hub::new(&settings));
    let topic = Topics::with_suffix(&settings.topic_suffix).changes;
    let ops = Arc::new(Ops::new(&settings.region, &settings.pod, &topic, settings.operator_token.is_some()));
    let world = World { gate: Arc::new(Breaker::new(world.gate)), ..world };
    let mut parts = Parts::new();
    let from_log = FromLog::new(&settings, &world, hub.clone(), ops.clone(), &health);
    let (consuming, watching) = (stop.clone(), ops.clone());
    let watched = Watched { log: world.log.clone(), copy: world.copy.clone(), letters: world.letters.clone() };
    parts.spawn("log", async move {
        tokio::select! {
            () = consuming.cancelled() => Ok(()),
            () = watching.watch(watched) => Ok(()),
            ended = from_log.run() => ended,
        }
    });
    let app = http_api::App {
        hub,
        copy: Arc::new(SharedCopy::new(world.copy)),
        history: world.history,
        letters: world.letters,
        ops,
        health: health.clone(),
        operator_token: settings.operator_token,
        stop: stop.clone(),
    };
    let router = http_api::router(app).merge(platform::http::about(health));
    parts.spawn("http", platform::http::serve(listener, router, stop.clone()));
    parts.join(&stop, DRAIN_BUDGET).await
}
