//! Everything at random, and the checker at the end. `CHAT_SYNC_TEST_SEED` repeats a run.

use std::time::{Duration, Instant};

use platform::testing::server;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use serde_json::json;
use system_tests::own_kafka::OwnKafka;
use system_tests::own_postgres::OwnPostgres;
use system_tests::pipeline::{Options, host_and_port};
use system_tests::proxy::{Fault, Proxy};

use crate::table::{Row, long};
use crate::trial::{Setup, Trial};

#[derive(Debug, Clone, Copy)]
enum Harm {
    KillLeader,
    EndLeader,
    FreezeLeader,
    KillWriter(usize),
    FreezeWriter(usize),
    KillInternal,
    CutRedis,
    KillPostgres,
    CutPostgres,
    KillKafka,
    StallKafka,
    ResetKafka,
    SpoilTheSource,
}

const HARMS: &[Harm] = &[
    Harm::KillLeader,
    Harm::EndLeader,
    Harm::FreezeLeader,
    Harm::KillWriter(0),
    Harm::KillWriter(1),
    Harm::FreezeWriter(0),
    Harm::FreezeWriter(2),
    Harm::KillInternal,
    Harm::CutRedis,
    Harm::KillPostgres,
    Harm::CutPostgres,
    Harm::KillKafka,
    Harm::StallKafka,
    Harm::ResetKafka,
    Harm::SpoilTheSource,
];

/// The servers that are harmed.
struct Servers {
    kafka: OwnKafka,
    to_kafka: Proxy,
    postgres: OwnPostgres,
    to_postgres: Proxy,
    to_redis: Proxy,
}

impl Servers {
    async fn start() -> Option<Self> {
        let redis = server("CHAT_SYNC_TEST_REDIS")?;
        let (kafka, to_kafka) = OwnKafka::behind_a_proxy().await?;
        let postgres = OwnPostgres::start().await?;
        let to_postgres = Proxy::to(host_and_port(postgres.url().expose())).await;
        Some(Self { kafka, to_kafka, postgres, to_postgres, to_redis: Proxy::to(host_and_port(&redis)).await })
    }

    fn options(&self) -> Options {
        let url = self.postgres.url();
        let told = url.expose().replacen(host_and_port(url.expose()), &self.to_postgres.address, 1);
        Options {
            kafka: Some(self.kafka.address.clone()),
            database: Some((url, told)),
            redis_through: Some(self.to_redis.address.clone()),
            ..Options::default()
        }
    }

    /// Does the harm and undoes it after a while.
    async fn harm(&mut self, trial: &mut Trial, harm: Harm, lasts: Duration) {
        match harm {
            Harm::KillLeader | Harm::EndLeader | Harm::FreezeLeader => {
                let leader = trial.leader().await;
                let (process, _) = trial.synchronizers().into_iter().nth(leader).expect("the leader");
                match harm {
                    Harm::KillLeader => process.kill(),
                    Harm::EndLeader => assert!(process.terminate().await.success(), "it ends well"),
                    _ => process.signal("STOP"),
                }
                tokio::time::sleep(lasts).await;
                if matches!(harm, Harm::FreezeLeader) { process.signal("CONT") } else { process.start_again() }
            }
            Harm::KillWriter(number) => {
                trial.writer(number).kill();
                tokio::time::sleep(lasts).await;
                trial.writer(number).start_again();
            }
            Harm::FreezeWriter(number) => {
                trial.writer(number).signal("STOP");
                tokio::time::sleep(lasts).await;
                trial.writer(number).signal("CONT");
            }
            Harm::KillInternal => {
                trial.pipeline.internal.kill();
                tokio::time::sleep(lasts).await;
                trial.pipeline.internal.start_again();
            }
            Harm::CutRedis => cut(&self.to_redis, lasts).await,
            Harm::CutPostgres => cut(&self.to_postgres, lasts).await,
            Harm::KillPostgres => {
                self.postgres.kill().await;
                tokio::time::sleep(lasts).await;
                self.postgres.start_again().await;
            }
            Harm::KillKafka => {
                self.kafka.kill();
                tokio::time::sleep(lasts).await;
                self.kafka.start_again().await;
            }
            Harm::StallKafka => {
                self.to_kafka.misbehave(Fault::Stall);
                tokio::time::sleep(lasts).await;
                self.to_kafka.misbehave(Fault::None);
            }
            Harm::ResetKafka => self.to_kafka.reset(),
            Harm::SpoilTheSource => {
                let often = json!({ "rate": 0.3, "seconds": lasts.as_secs_f64() });
                trial
                    .vendor()
                    .misbehave(json!({ "server_error": often, "cut_body": often, "duplicates": often }))
                    .await;
                tokio::time::sleep(lasts).await;
            }
        }
    }
}

async fn cut(proxy: &Proxy, lasts: Duration) {
    proxy.cut();
    tokio::time::sleep(lasts).await;
    proxy.restore();
}

/// Says the seed if the run fails.
struct Seed(u64);

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("CHAT_SYNC_TEST_SEED={} repeats what was done in this run", self.0);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_at_random() {
    let row = Row {
        number: "17",
        fault: "leaders, writers, internal, Kafka, Postgres, Redis and the source harmed at random for 10 min (a minute in the short \
                run)",
        promise: "L1, L2, W1-W4, V3",
        expected: "the checker finds nothing",
    };
    let Some(mut setup) = Setup::elected() else { return row.not_run("no Kubernetes API") };
    let Some(mut servers) = Servers::start().await else { return row.not_run("no servers") };
    let seed = std::env::var("CHAT_SYNC_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = Seed(seed.unwrap_or_else(rand::random));
    let mut random = StdRng::seed_from_u64(seed.0);
    (setup.options, setup.standbys, setup.writers) = (servers.options(), 2, 2);
    let Some(mut trial) = Trial::begin(setup).await else { return row.not_run("no servers") };
    let (began, length) = (Instant::now(), Duration::from_secs(if long() { 600 } else { 60 }));
    let mut done = 0;
    while began.elapsed() < length {
        let harm = *HARMS.choose(&mut random).expect("some");
        let lasts = Duration::from_millis(random.random_range(100..8_000));
        eprintln!("{:.1} s: {harm:?} for {lasts:?}", began.elapsed().as_secs_f64());
        servers.harm(&mut trial, harm, lasts).await;
        done += 1;
        tokio::time::sleep(Duration::from_millis(random.random_range(0..3_000))).await;
    }
    trial.goes_on().await;
    let verdict = trial.end(&[]).await;
    row.came_to(
        true,
        &format!(
            "seed {}: {done} harms in {:.0} s, {} changes, {:.3} records a change",
            seed.0,
            length.as_secs_f64(),
            verdict.changes,
            verdict.records_a_change()
        ),
    );
}
