//! Servers go away and services are killed while people write and watch. On its own, because it takes both cores.

use std::time::{Duration, Instant};

use contract::Timestamp;
use platform::eventually;
use platform::testing::server;
use serde_json::Value;
use sqlx::PgPool;
use system_tests::compared::{at_the_vendor, dead_letters, in_the_copy, screens_are};
use system_tests::flow::Flow;
use system_tests::metrics;
use system_tests::own_kafka::OwnKafka;
use system_tests::pipeline::{Options, Pipeline, host_and_port};
use system_tests::proxy::Proxy;
use system_tests::reader::Reader;
use system_tests::tool::verifies;
use system_tests::vendor::Vendor;

const CHATS: usize = 10;
const READERS: usize = 50;
/// Messages a second.
const RATE: u64 = 200;
/// How long each server stays away.
const AWAY: Duration = Duration::from_secs(60);
/// Kafka is killed and started again.
const KAFKA_AWAY: Duration = Duration::from_secs(10);
/// How many changes are made while a service that was killed stays away: a few seconds' worth.
const MISSED: u64 = 400;
/// A page says "behind" when its copy is older than this.
const TOLD: Duration = Duration::from_secs(6);
/// More than this and something is kept that nobody bounds; debug builds, 200 messages a second, minutes.
const MEMORY: u64 = 400 << 20;

async fn check(address: &str, name: &str) -> (u16, String) {
    let Ok(answer) = system_tests::http::get(format!("http://{address}/readyz")).await else {
        return (0, String::new());
    };
    let status = answer.status().as_u16();
    let checks: Value = answer.json().await.unwrap_or_default();
    (status, checks["checks"][name]["detail"].as_str().unwrap_or_default().to_owned())
}

/// How old its copy is, as the reader is told.
fn told_age(reader: &Reader) -> Duration {
    let screen = reader.screen();
    let time = |name: &str| screen.heartbeats.last()?[name].as_str()?.parse::<Timestamp>().ok();
    time("now").zip(time("fresh_as_of")).map_or(Duration::MAX, |(now, fresh)| now.since(fresh))
}

/// What is posted now reaches a screen.
async fn pushes_go_on(vendor: &Vendor, chat: &str, reader: &Reader, when: &str) {
    let id = vendor.post(chat, when).await;
    eventually!(reader.text(chat, &id).is_some(), "what is posted is pushed {when}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_and_services_go_away_while_people_write_and_watch() {
    let (Some(postgres), Some(redis)) = (server("CHAT_SYNC_TEST_POSTGRES"), server("CHAT_SYNC_TEST_REDIS")) else {
        return;
    };
    let Some(mut kafka) = OwnKafka::start().await else { return };
    let (postgres, redis) = (Proxy::to(host_and_port(&postgres)).await, Proxy::to(host_and_port(&redis)).await);
    let options = Options {
        kafka: Some(kafka.address.clone()),
        postgres_through: Some(postgres.address.clone()),
        redis_through: Some(redis.address.clone()),
        ..Options::default()
    };
    let Some(mut pipeline) = Pipeline::start(options).await else { return };
    pipeline.ready().await;
    let vendor = pipeline.vendor();
    let mut chats = Vec::new();
    for number in 0..CHATS {
        chats.push(vendor.create_chat(&format!("Chat {number}")).await);
    }
    let (internal, writer) = (pipeline.internal_address.clone(), pipeline.writer_address.clone());
    let readers: Vec<Reader> = (0..READERS).map(|n| Reader::watch_chat(&internal, &chats[n % CHATS])).collect();
    eventually!(readers.iter().all(|reader| reader.screen().loads > 0), "everybody watches");
    let flow = Flow::begin(&vendor, &chats, RATE);
    let began = Instant::now();

    redis.cut();
    eventually!(check(&internal, "gate").await.1.contains("pushing without it"), "/readyz says that the gate is away");
    pushes_go_on(&vendor, &chats[0], &readers[0], "without Redis").await;
    tokio::time::sleep(AWAY).await;
    redis.restore();
    eventually!(check(&internal, "gate").await.1 == "answers", "the gate is back");

    postgres.cut();
    eventually!(check(&writer, "store").await.0 == 503, "/readyz says that the store is away");
    eventually!(check(&internal, "copy").await.1.contains("pushing what the log brings"), "internal says so too");
    assert_eq!(check(&internal, "copy").await.0, 200, "and stays ready");
    let store = "chat_sync_ready{check=\"store\"}";
    eventually!(metrics::value(&writer, store).await == Some(0.0), "the metrics say that the store is away");
    pushes_go_on(&vendor, &chats[1], &readers[1], "without Postgres").await;
    tokio::time::sleep(AWAY).await;
    postgres.restore();
    eventually!(check(&writer, "store").await.0 == 200, "the store is back");

    kafka.kill();
    eventually!(check(&writer, "log").await.0 == 503, "/readyz says that the log is away");
    eventually!(told_age(&readers[0]) > TOLD, "the screens are told that they are behind");
    tokio::time::sleep(KAFKA_AWAY).await;
    kafka.start_again().await;
    eventually!(told_age(&readers[0]) < TOLD, "the screens are told that they are live again");
    pushes_go_on(&vendor, &chats[2], &readers[2], "after Kafka is back").await;

    redis.cut();
    postgres.cut();
    kafka.kill();
    tokio::time::sleep(AWAY).await;
    kafka.start_again().await;
    pushes_go_on(&vendor, &chats[3], &readers[3], "with Kafka alone").await;
    redis.restore();
    postgres.restore();
    eventually!(check(&writer, "store").await.0 == 200, "the store is back again");

    services_are_killed(&mut pipeline, &vendor, &flow, &chats, &readers).await;
    let posted = flow.end().await;
    let rate = posted as f64 / began.elapsed().as_secs_f64();

    all_are_equal(&pipeline, &vendor, &chats, &readers).await;
    verifies(&pipeline).await;
    let memory = pipeline.processes().map(|process| process.memory() >> 20);
    eprintln!(
        "{posted} changes, {rate:.0} a second, {READERS} readers; lost 0, backwards 0; memory, MiB: external {}, \
         synchronizer {}, writer {}, internal {}",
        memory[0], memory[1], memory[2], memory[3]
    );
    assert!(memory.iter().all(|memory| memory << 20 < MEMORY), "{memory:?}");
}

/// Each of ours, one after another, while people go on.
async fn services_are_killed(
    pipeline: &mut Pipeline,
    vendor: &Vendor,
    flow: &Flow,
    chats: &[String],
    readers: &[Reader],
) {
    for service in 1..4 {
        pipeline.processes()[service].kill();
        let missed = flow.posted() + MISSED;
        eventually!(flow.posted() >= missed, "people go on");
        pipeline.processes()[service].start_again();
        pipeline.ready().await;
        pushes_go_on(vendor, &chats[service], &readers[service], "after a service was killed").await;
    }
}

/// Source = Postgres = every screen; no screen ever went backwards; nothing is a dead letter.
async fn all_are_equal(pipeline: &Pipeline, vendor: &Vendor, chats: &[String], readers: &[Reader]) {
    let expected = at_the_vendor(vendor).await;
    let pool = PgPool::connect(pipeline.database_url.expose()).await.unwrap();
    eventually!(in_the_copy(&pool).await == expected, "Postgres is as the vendor is");
    assert!(dead_letters(&pool).await.is_empty());
    screens_are(&expected, chats, readers).await;
}
