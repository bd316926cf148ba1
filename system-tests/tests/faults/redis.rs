//! Redis in trouble. It is in no promise: pushes go on, and what is shown stays right.

use std::time::Duration;

use platform::eventually;
use system_tests::own_redis::OwnRedis;
use system_tests::pipeline::Options;
use system_tests::proxy::{Fault, Proxy};

use crate::servers::{CLEAN, push_latency, pushes_go_on};
use crate::table::Row;
use crate::trial::{Setup, Trial, alone};

/// A Redis of its own, reached through a proxy by two pods.
async fn with_redis(
    number: &'static str,
    fault: &'static str,
    harm: impl AsyncFnOnce(&Trial, &mut OwnRedis, &Proxy) -> f64,
) {
    alone(async {
        let expected = "pushes at most twice as slow; screens right";
        let row = Row { number, fault, promise: "V2, V3", expected };
        let Some(mut redis) = OwnRedis::start().await else { return row.not_run("no Redis") };
        let way = Proxy::to(&redis.address).await;
        let options = Options { redis_through: Some(way.address.clone()), ..Options::default() };
        let setup = Setup { options, pods: 1, ..Setup::default() };
        pushes_go_on(row, setup, async |trial| harm(trial, &mut redis, &way).await).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn v3_redis_is_wiped_again_and_again() {
    let fault = "Redis wiped, and its scripts flushed, four times a second";
    with_redis("18a", fault, async |trial, redis, _| {
        let wiping = async {
            loop {
                redis.tell("FLUSHALL").await;
                redis.tell("SCRIPT FLUSH").await;
                tokio::time::sleep(Duration::from_millis(250)).await;
            }
        };
        tokio::select! {
            () = wiping => unreachable!("it goes on"),
            measured = push_latency(trial, CLEAN) => measured,
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn v3_redis_is_killed_and_comes_back_empty() {
    with_redis("18b", "Redis `kill -9`, back empty", async |trial, redis, _| {
        redis.kill();
        let measured = push_latency(trial, CLEAN).await;
        redis.start_again().await;
        measured
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn v3_redis_is_frozen() {
    with_redis("18c", "Redis frozen", async |trial, redis, _| {
        redis.signal("STOP");
        let measured = push_latency(trial, CLEAN).await;
        redis.signal("CONT");
        measured
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn v3_redis_is_slow() {
    with_redis("18d", "Redis 200 ms slow", async |trial, _, way| {
        way.misbehave(Fault::Late(Duration::from_millis(200)));
        let measured = push_latency(trial, CLEAN).await;
        way.misbehave(Fault::None);
        measured
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn v3_redis_is_out_of_memory() {
    with_redis("18e", "Redis out of memory", async |trial, redis, _| {
        redis.tell("CONFIG SET maxmemory-policy noeviction").await;
        redis.tell("CONFIG SET maxmemory 1").await;
        let measured = push_latency(trial, CLEAN).await;
        redis.tell("CONFIG SET maxmemory 0").await;
        measured
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn v3_redis_fails_over_to_a_stale_replica() {
    let replica = OwnRedis::start().await;
    with_redis("18f", "Redis fails over to a replica that lacks the last seconds", async |trial, redis, way| {
        let replica = replica.expect("there is a Redis, so there is another");
        let (host, port) = redis.address.split_once(':').expect("an address");
        replica.tell(&format!("REPLICAOF {host} {port}")).await;
        let caught_up = async || replica.ask("DBSIZE").await == redis.ask("DBSIZE").await;
        eventually!(caught_up().await && redis.ask("DBSIZE").await.is_some_and(|size| size != ":0"), "it follows");
        replica.tell("REPLICAOF NO ONE").await;
        // What the replica never hears of.
        let before = push_latency(trial, CLEAN / 2).await;
        way.redirect(&replica.address);
        before.max(push_latency(trial, CLEAN).await)
    })
    .await;
}
