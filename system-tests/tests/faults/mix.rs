//! Everything at random, and the checker at the end. `CHAT_SYNC_TEST_SEED` repeats a run.

use std::sync::Arc;
use std::time::{Duration, Instant};

use contract::Topics;
use platform::event_log::kafka::Kafka;
use platform::event_log::{EventLog, NewRecord};
use platform::eventually;
use platform::testing::server;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use serde_json::json;
use sqlx::{Connection, PgConnection};
use system_tests::own_api::OwnApi;
use system_tests::own_kafka::OwnKafka;
use system_tests::own_postgres::OwnPostgres;
use system_tests::pipeline::{Options, host_and_port};
use system_tests::proxy::{Fault, Proxy};
use tempfile::TempDir;

use crate::leaders::wrong_clock_library;
use crate::poison::poison;
use crate::servers::read_only;
use crate::small_disk::SmallDisk;
use crate::table::{Row, long};
use crate::the_log::delete_the_topic;
use crate::trial::{Setup, Trial, alone};

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
    LockATable,
    ReadOnlyPostgres,
    FillTheDisk,
    /// An older copy takes its place.
    RestorePostgres,
    /// A replica that lacks the last commits takes its place.
    PromoteReplica,
    KillKafka,
    StallKafka,
    ResetKafka,
    DeleteTheTopic,
    SpoilTheSource,
    LateRows,
    StopApi,
    StopEtcd,
    Poison,
}

/// How many records are poisoned at once.
const POISON: u32 = 5;

/// Not harmed in two ways at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Target {
    Leader,
    Writer(usize),
    Internal,
    Redis,
    Postgres,
    Kafka,
    Source,
    Api,
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
    Harm::LockATable,
    Harm::ReadOnlyPostgres,
    Harm::FillTheDisk,
    Harm::RestorePostgres,
    Harm::PromoteReplica,
    Harm::KillKafka,
    Harm::StallKafka,
    Harm::ResetKafka,
    Harm::DeleteTheTopic,
    Harm::SpoilTheSource,
    Harm::LateRows,
    Harm::StopApi,
    Harm::StopEtcd,
    Harm::Poison,
];

impl Harm {
    fn target(self) -> Target {
        match self {
            Self::KillLeader | Self::EndLeader | Self::FreezeLeader => Target::Leader,
            Self::KillWriter(number) | Self::FreezeWriter(number) => Target::Writer(number),
            Self::KillInternal => Target::Internal,
            Self::CutRedis => Target::Redis,
            Self::KillPostgres
            | Self::CutPostgres
            | Self::LockATable
            | Self::ReadOnlyPostgres
            | Self::FillTheDisk
            | Self::RestorePostgres
            | Self::PromoteReplica => Target::Postgres,
            Self::KillKafka | Self::StallKafka | Self::ResetKafka | Self::DeleteTheTopic | Self::Poison => {
                Target::Kafka
            }
            Self::SpoilTheSource | Self::LateRows => Target::Source,
            Self::StopApi | Self::StopEtcd => Target::Api,
        }
    }
}

/// A harm that was done, and what it takes to undo it.
struct Done {
    harm: Harm,
    /// The leader that was harmed.
    leader: usize,
    /// The session that holds a lock.
    holds: Option<PgConnection>,
    /// The older copy.
    copy: Option<TempDir>,
    replica: Option<OwnPostgres>,
}

/// The servers that are harmed.
struct Servers {
    kafka: OwnKafka,
    to_kafka: Proxy,
    disk: SmallDisk,
    postgres: OwnPostgres,
    to_postgres: Proxy,
    to_redis: Proxy,
    api: OwnApi,
    /// The reasons of the records that nobody can understand and that are in the log.
    poisoned: Vec<&'static str>,
}

impl Servers {
    async fn start() -> Option<Self> {
        let redis = server("CHAT_SYNC_TEST_REDIS")?;
        let (kafka, to_kafka) = OwnKafka::with_a_proxy(&[]).await?;
        let disk = SmallDisk::mount("1g")?;
        let postgres = OwnPostgres::start_in(disk.path()).await?;
        let to_postgres = Proxy::to(host_and_port(postgres.url().expose())).await;
        let to_redis = Proxy::to(host_and_port(&redis)).await;
        let api = OwnApi::start().await?;
        Some(Self { kafka, to_kafka, disk, postgres, to_postgres, to_redis, api, poisoned: Vec::new() })
    }

    fn options(&self) -> Options {
        let url = self.postgres.url();
        let told = url.expose().replacen(host_and_port(url.expose()), &self.to_postgres.address, 1);
        Options {
            kafka: Some(self.to_kafka.address.clone()),
            database: Some((url, told)),
            redis_through: Some(self.to_redis.address.clone()),
            ..Options::default()
        }
    }

    async fn session(&self) -> PgConnection {
        PgConnection::connect(self.postgres.url().expose()).await.expect("Postgres")
    }

    async fn harm(&mut self, trial: &mut Trial, harm: Harm, lasts: Duration) -> Done {
        let mut done = Done { harm, leader: 0, holds: None, copy: None, replica: None };
        match harm {
            Harm::KillLeader | Harm::EndLeader | Harm::FreezeLeader => {
                done.leader = trial.leader().await;
                let (process, _) = trial.synchronizers().into_iter().nth(done.leader).expect("the leader");
                match harm {
                    Harm::KillLeader => process.kill(),
                    Harm::EndLeader => assert!(process.terminate().await.success(), "it ends well"),
                    _ => process.signal("STOP"),
                }
            }
            Harm::KillWriter(number) => trial.writer(number).kill(),
            Harm::FreezeWriter(number) => trial.writer(number).signal("STOP"),
            Harm::KillInternal => trial.pipeline.internal.kill(),
            Harm::CutRedis => self.to_redis.cut(),
            Harm::CutPostgres => self.to_postgres.cut(),
            Harm::KillPostgres => self.postgres.kill().await,
            Harm::LockATable => {
                let lock = "BEGIN; LOCK TABLE messages IN ACCESS EXCLUSIVE MODE";
                let mut session = self.session().await;
                sqlx::raw_sql(lock).execute(&mut session).await.expect("the lock");
                done.holds = Some(session);
            }
            Harm::ReadOnlyPostgres => read_only(&mut self.session().await, "on").await,
            Harm::FillTheDisk => self.disk.fill(),
            Harm::RestorePostgres => done.copy = Some(self.postgres.back_up()),
            Harm::PromoteReplica => {
                let link = Proxy::to(&self.postgres.address()).await;
                done.replica = Some(self.postgres.replica(&link.address).await);
            }
            Harm::KillKafka => self.kafka.kill(),
            Harm::StallKafka => self.to_kafka.misbehave(Fault::Stall),
            Harm::ResetKafka => self.to_kafka.reset(),
            Harm::DeleteTheTopic => {
                // Before: whatever else is undone may look at what fell.
                let Trial { checker, pipeline, .. } = &mut *trial;
                checker.the_log_was_lost(pipeline, Vec::new()).await;
                delete_the_topic(&self.kafka.address, &trial.pipeline.topic_suffix).await;
            }
            Harm::SpoilTheSource => {
                let often = json!({ "rate": 0.3, "seconds": lasts.as_secs_f64() });
                let spoiled = json!({ "server_error": often, "cut_body": often, "duplicates": often });
                trial.vendor().misbehave(spoiled).await;
            }
            Harm::LateRows => {
                // As late as the time that is read again covers, with the fault itself in it.
                let late = json!({ "rate": 0.1, "delay": 5.0 * lasts.as_secs_f64(), "seconds": lasts.as_secs_f64() });
                trial.vendor().misbehave(json!({ "late_rows": late })).await;
            }
            Harm::StopApi => self.api.stop("apiserver").await,
            Harm::StopEtcd => self.api.stop("etcd").await,
            Harm::Poison => self.poison(&trial.pipeline.topic_suffix).await,
        }
        done
    }

    /// Appends a few records that nobody can understand.
    async fn poison(&mut self, topic_suffix: &str) {
        let log: Arc<dyn EventLog> = Arc::new(Kafka::new(&self.kafka.address).expect("a client"));
        let topic: Arc<str> = Topics::with_suffix(topic_suffix).changes.into();
        let mut records = Vec::new();
        for _ in 0..POISON {
            let number = 1 + self.poisoned.len() as u64;
            let (value, reason) = poison(number);
            let partition = u32::try_from(number % 12).expect("small");
            let (topic, key) = (topic.clone(), Some("key".into()));
            records.push(NewRecord { topic, partition, key, value, headers: Vec::new() });
            self.poisoned.push(reason);
        }
        log.append(records).await.expect("appended");
    }

    async fn undo(&mut self, trial: &mut Trial, done: Done) {
        match done.harm {
            Harm::KillLeader | Harm::EndLeader => trial.synchronizers()[done.leader].0.start_again(),
            Harm::FreezeLeader => trial.synchronizers()[done.leader].0.signal("CONT"),
            Harm::KillWriter(number) => trial.writer(number).start_again(),
            Harm::FreezeWriter(number) => trial.writer(number).signal("CONT"),
            Harm::KillInternal => trial.pipeline.internal.start_again(),
            Harm::CutRedis => self.to_redis.restore(),
            Harm::CutPostgres => self.to_postgres.restore(),
            Harm::KillPostgres => self.postgres.start_again().await,
            Harm::LockATable => drop(done.holds),
            Harm::ReadOnlyPostgres => read_only(&mut self.session().await, "off").await,
            Harm::FillTheDisk => {
                self.disk.free();
                // A Postgres that cannot write its log ends itself.
                self.postgres.start_if_ended().await;
            }
            Harm::RestorePostgres => {
                // What is noted of steps backwards goes with the database that is replaced.
                trial.checker.nothing_fell().await;
                self.postgres.kill().await;
                self.postgres.restore(&done.copy.expect("it was made"));
                self.postgres.start_again().await;
            }
            Harm::PromoteReplica => self.promote(done.replica.expect("it was made"), trial).await,
            Harm::KillKafka => self.kafka.start_again().await,
            Harm::StallKafka => self.to_kafka.misbehave(Fault::None),
            Harm::DeleteTheTopic => {
                let log = Kafka::new(&self.kafka.address).expect("a client");
                let topic = Topics::with_suffix(&trial.pipeline.topic_suffix).changes;
                eventually!(log.tail(&topic, 1).await.is_ok_and(|found| !found.is_empty()), "it is made again");
                let Trial { checker, pipeline, .. } = trial;
                checker.the_log_was_lost(pipeline, std::mem::take(&mut self.poisoned)).await;
            }
            // They end by themselves.
            Harm::ResetKafka | Harm::SpoilTheSource | Harm::LateRows | Harm::Poison => {}
            Harm::StopApi => self.api.start_again("apiserver").await,
            Harm::StopEtcd => self.api.start_again("etcd").await,
        }
    }

    /// What the primary was given since the replica was made is lost.
    async fn promote(&mut self, replica: OwnPostgres, trial: &mut Trial) {
        trial.checker.nothing_fell().await;
        self.postgres.kill().await;
        replica.promote();
        self.to_postgres.redirect(&replica.address());
        trial.moves_to(&replica.url()).await;
        self.postgres = replica;
    }
}

/// One harm, or two to different targets.
fn some_harms(random: &mut StdRng) -> Vec<Harm> {
    let mut harms = vec![*HARMS.choose(random).expect("some")];
    let another = *HARMS.choose(random).expect("some");
    if random.random() && another.target() != harms[0].target() {
        harms.push(another);
    }
    // While nobody can be elected, nobody leads whom one could harm.
    harms.sort_by_key(|harm| harm.target() != Target::Leader);
    harms
}

/// Says the seed if the run fails.
pub struct Seed(pub u64);

impl Seed {
    /// The one that is to be repeated, or a new one.
    pub fn of_this_run() -> Self {
        let told = std::env::var("CHAT_SYNC_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
        Self(told.unwrap_or_else(rand::random))
    }
}

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("CHAT_SYNC_TEST_SEED={} repeats what was done in this run", self.0);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_at_random() {
    alone(async {
        let row = Row {
            number: "17",
            fault: "leaders, writers, internal, Kafka (also its topic deleted), Postgres (also restored, promoted, its disk full), Redis, the \
                source, the API and etcd harmed at random, up to two at once, poison and late rows among it, one \
                clock 20 s ahead, for 10 min (a minute in the short run)",
            promise: "L1, L2, W1-W4, V3",
            expected: "the checker finds nothing",
        };
        let Some(mut servers) = Servers::start().await else { return row.not_run("no servers") };
        let folder = tempfile::tempdir().expect("a folder");
        let Some(library) = wrong_clock_library(folder.path()) else { return row.not_run("no C compiler") };
        let seed = Seed::of_this_run();
        let mut random = StdRng::seed_from_u64(seed.0);
        let setup = Setup {
            options: servers.options(),
            kubeconfig: Some(servers.api.kubeconfig.clone()),
            standbys: 2,
            writers: 2,
            second: vec![("LD_PRELOAD", library), ("CLOCK_OFFSET", "20".to_owned())],
            ..Setup::default()
        };
        let Some(mut trial) = Trial::begin(setup).await else { return row.not_run("no servers") };
        let (began, length) = (Instant::now(), Duration::from_secs(if long() { 600 } else { 60 }));
        let (mut done, mut poisoned) = (0, 0);
        while began.elapsed() < length {
            let harms = some_harms(&mut random);
            let lasts = Duration::from_millis(random.random_range(100..8_000));
            eprintln!("{:.1} s: {harms:?} for {lasts:?}", began.elapsed().as_secs_f64());
            let mut undo = Vec::new();
            for harm in harms {
                poisoned += if matches!(harm, Harm::Poison) { POISON } else { 0 };
                undo.push(servers.harm(&mut trial, harm, lasts).await);
            }
            tokio::time::sleep(lasts).await;
            for harmed in undo {
                servers.undo(&mut trial, harmed).await;
                done += 1;
            }
            tokio::time::sleep(Duration::from_millis(random.random_range(0..3_000))).await;
        }
        trial.goes_on().await;
        let verdict = trial.end(&servers.poisoned).await;
        row.came_to(
            true,
            &format!(
                "seed {}: {done} harms in {:.0} s, {} changes, {poisoned} poisoned, {:.3} records a change",
                seed.0,
                length.as_secs_f64(),
                verdict.changes,
                verdict.records_a_change()
            ),
        );
    })
    .await;
}
