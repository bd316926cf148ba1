//! Two regions, joined by MirrorMaker 2 alone: everything twice, and one vendor.

use std::time::Duration;

use platform::config::Secret;
use platform::eventually;
use platform::testing::server;

use crate::checker::Copy;
use crate::metrics;
use crate::own_kafka::{self, OwnKafka};
use crate::own_mirror::{End, OwnMirror};
use crate::own_postgres::Replicated;
use crate::own_redis::OwnRedis;
use crate::pipeline::{Options, Pipeline};
use crate::process::{Process, free_port, ready};
use crate::proxy::Proxy;

/// How long the regions' mirrors take to the other region, each way.
pub const BETWEEN: Duration = Duration::from_millis(40);

/// Region a is a pipeline as any other; b has its own of everything but the vendor.
pub struct Regions {
    pub a: Pipeline,
    pub b: Services,
    pub kafka_a: OwnKafka,
    pub kafka_b: OwnKafka,
    pub postgres_a: Replicated,
    pub postgres_b: Replicated,
    pub redis_a: OwnRedis,
    pub redis_b: OwnRedis,
    /// Beside b's Kafka, reading a's; and the other way round.
    pub into_b: OwnMirror,
    pub into_a: OwnMirror,
    /// The mirrors' ways to the other region's Kafka.
    pub to_a: Proxy,
    pub to_b: Proxy,
    /// What every service is told of the regions.
    names: String,
}

/// What differs from one test to another.
#[derive(Default)]
pub struct Setup {
    /// Further settings of both regions' synchronizers.
    pub synchronizers: Vec<(&'static str, String)>,
    /// Further settings of both regions' internals.
    pub internals: Vec<(&'static str, String)>,
    /// Further settings of all that region a consists of, its servers too.
    pub all_of_a: Vec<(&'static str, String)>,
}

/// The services of region b.
pub struct Services {
    pub synchronizer: Process,
    pub writer: Process,
    pub internal: Process,
    pub synchronizer_address: String,
    pub writer_address: String,
    pub internal_address: String,
    /// Of its primary.
    pub database_url: Secret,
}

impl Regions {
    /// Starts everything; these are further settings of both regions' synchronizers. `None`, said loudly, without the
    /// servers.
    ///
    /// # Panics
    /// If something does not start.
    pub async fn start(synchronizers: Vec<(&'static str, String)>) -> Option<Self> {
        Self::start_with(Setup { synchronizers, ..Setup::default() }).await
    }

    /// The same with everything that may differ.
    ///
    /// # Panics
    /// If something does not start.
    pub async fn start_with(setup: Setup) -> Option<Self> {
        server("CHAT_SYNC_TEST_REDIS")?;
        let Setup { synchronizers, internals, all_of_a } = setup;
        let (kafka_a, to_a) = OwnKafka::with_a_proxy(&all_of_a).await?;
        let (kafka_b, to_b) = OwnKafka::with_a_proxy(&[]).await?;
        for way in [&to_a, &to_b] {
            way.lies_apart(BETWEEN);
        }
        let (postgres_a, postgres_b) = (Replicated::start(&all_of_a).await?, Replicated::start(&[]).await?);
        let (redis_a, redis_b) = (OwnRedis::start_with(Vec::new(), all_of_a.clone()).await?, OwnRedis::start().await?);
        let reached = |redis: &OwnRedis| ("REDIS_URL", format!("redis://{}", redis.address));
        let [synchronizer_address, writer_address, internal_address] =
            std::array::from_fn(|_| format!("127.0.0.1:{}", free_port()));
        let internal_a = format!("127.0.0.1:{}", free_port());
        let regions = format!("a=http://{internal_a},b=http://{internal_address}");
        let names =
            |region: &str| vec![("CHAT_SYNC_REGION", region.to_owned()), ("CHAT_SYNC_REGIONS", regions.clone())];
        let of_synchronizer = |region: &str| [names(region), synchronizers.clone()].concat();
        let of_internal = |region: &str| [names(region), internals.clone()].concat();
        let options = Options {
            kafka: Some(kafka_a.address.clone()),
            database: Some((postgres_a.primary.url(), postgres_a.url().expose().to_owned())),
            everywhere: all_of_a,
            synchronizer: of_synchronizer("a"),
            internal: [of_internal("a"), vec![("CHAT_SYNC_INTERNAL_LISTEN", internal_a.clone()), reached(&redis_a)]]
                .concat(),
            ..Options::default()
        };
        let mut a = Pipeline::start(options).await?;
        a.internal_address = internal_a;
        let end = |region, brokers| End { region, brokers };
        let topics = contract::Topics::with_suffix(&a.topic_suffix);
        let topic = format!("{},{},{}", topics.changes, topics.erasures, topics.digests);
        let into_b = OwnMirror::start(&end("a", &to_a.address), &end("b", &kafka_b.address), &topic)?;
        let into_a = OwnMirror::start(&end("b", &to_b.address), &end("a", &kafka_a.address), &topic)?;
        // Which of two polls that start at once and take over as soon as they listen is a matter of luck.
        let turn_of_a = async || turn(&a.synchronizer_address).await;
        eventually!(turn_of_a().await.starts_with("polls"), "a polls: {}", turn_of_a().await);
        let there = |further: Vec<(&'static str, String)>| {
            let stores =
                [("CHAT_SYNC_KAFKA", kafka_b.address.clone()), ("DATABASE_URL", postgres_b.url().expose().to_owned())];
            [stores.to_vec(), further].concat()
        };
        let mut shown = there(of_internal("b"));
        shown.push(reached(&redis_b));
        let b = Services {
            synchronizer: a.another_synchronizer(&synchronizer_address, there(of_synchronizer("b"))),
            writer: a.another_writer(&writer_address, there(Vec::new())),
            internal: a.another_internal(&internal_address, "internal-0", shown),
            synchronizer_address,
            writer_address,
            internal_address,
            database_url: postgres_b.primary.url(),
        };
        let names = regions;
        Some(Self {
            a,
            b,
            kafka_a,
            kafka_b,
            postgres_a,
            postgres_b,
            redis_a,
            redis_b,
            into_b,
            into_a,
            to_a,
            to_b,
            names,
        })
    }

    /// Both regions are there, and something came through the mirror.
    ///
    /// # Panics
    /// If that does not come to be.
    pub async fn ready(&self) {
        self.a.ready().await;
        for address in [&self.b.synchronizer_address, &self.b.writer_address, &self.b.internal_address] {
            ready(address).await;
        }
        eventually!(self.turn_of_b().await.contains("region a polls"), "b hears a through the mirror");
        // Its pod finds the mirrored topic by itself, and pushes what comes after that.
        let heard = "chat_sync_internal_marker_age_seconds";
        eventually!(metrics::value(&self.b.internal_address, heard).await.is_some(), "b's pod hears a");
    }

    /// What `/readyz` says of a's turn, as soon as it answers.
    ///
    /// # Panics
    /// If it does not.
    pub async fn turn_of_a(&self) -> String {
        turn(&self.a.synchronizer_address).await
    }

    /// The same of b's.
    ///
    /// # Panics
    /// If it does not answer.
    pub async fn turn_of_b(&self) -> String {
        turn(&self.b.synchronizer_address).await
    }

    /// Ends region a, without warning: its services, its Kafka, the mirror beside that, its Postgres and its Redis.
    ///
    /// # Panics
    /// If a part of it is not running.
    pub async fn kill_a(&mut self) {
        self.kafka_a.kill();
        self.redis_a.kill();
        self.into_a.kill();
        for process in [&mut self.a.synchronizer, &mut self.a.writer, &mut self.a.internal] {
            process.kill();
        }
        self.postgres_a.kill().await;
    }

    /// Starts all of it again, everything at once.
    ///
    /// # Panics
    /// If something does not start.
    pub async fn start_a_again(&mut self) {
        self.into_a.start_again();
        for process in [&mut self.a.synchronizer, &mut self.a.writer, &mut self.a.internal] {
            process.start_again();
        }
        self.redis_a.start_again().await;
        self.postgres_a.start_again().await;
        self.kafka_a.start_again().await;
        self.a.ready().await;
    }

    /// MirrorMaker beside b loses its place, and mirrors everything again.
    ///
    /// # Panics
    /// If its positions cannot be removed.
    pub async fn lose_the_place_of_bs_mirror(&mut self) {
        self.into_b.kill();
        own_kafka::delete_topic(&self.kafka_b.address, "mm2-offsets.a.internal").await;
        self.into_b.start_again();
    }

    /// Each region's copy: a's, then b's.
    pub fn copies(&self) -> [Copy<'_>; 2] {
        [
            self.copy("a", "b", &self.kafka_a.address, &self.a.database_url),
            self.copy("b", "a", &self.kafka_b.address, &self.b.database_url),
        ]
    }

    fn copy<'a>(&self, region: &str, other: &str, kafka: &'a str, database: &Secret) -> Copy<'a> {
        let own = contract::Topics::with_suffix(&self.a.topic_suffix).changes;
        Copy {
            kafka,
            topics: vec![own.clone(), format!("{other}.{own}")],
            settings: vec![
                ("CHAT_SYNC_KAFKA", kafka.to_owned()),
                ("DATABASE_URL", database.expose().to_owned()),
                ("CHAT_SYNC_REGION", region.to_owned()),
                ("CHAT_SYNC_REGIONS", self.names.clone()),
            ],
        }
    }
}

async fn turn(synchronizer: &str) -> String {
    let says = async || Some(metrics::check(synchronizer, "region").await.1).filter(|turn| !turn.is_empty());
    eventually!(says().await, "it says whose turn it is")
}
