//! Two regions under load, and everything that is checked at its end in both.

use platform::eventually;
use system_tests::checker::{Checker, Verdict};
use system_tests::flow::Flow;
use system_tests::own_kafka::OwnKafka;
use system_tests::own_mirror::OwnMirror;
use system_tests::own_postgres::Replicated;
use system_tests::own_redis::OwnRedis;
use system_tests::process::Process;
use system_tests::proxy::Proxy;
use system_tests::reader::Reader;
use system_tests::regions::{Regions, Setup};
use system_tests::vendor::Vendor;

use crate::trial::is_seen;

const CHATS: usize = 6;

/// Which region.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    A,
    B,
}

pub const SIDES: [Side; 2] = [Side::A, Side::B];

/// One of a region's services.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Service {
    Synchronizer,
    Writer,
    Internal,
}

pub struct RegionTrial {
    pub regions: Regions,
    /// Watched by somebody in each region, and written in.
    pub chats: Vec<String>,
    /// Of each region one a chat: a's, then b's.
    pub readers: [Vec<Reader>; 2],
    /// Of each region's copy: a's, then b's.
    pub checkers: [Checker; 2],
    flow: Option<Flow>,
}

impl RegionTrial {
    /// Everything is up, people watch in both regions and nobody writes yet; `None`, said loudly, without the servers.
    pub async fn begin(setup: Setup) -> Option<Self> {
        let regions = Regions::start_with(setup).await?;
        regions.ready().await;
        let checkers = [Checker::begin(&regions.a.database_url).await, Checker::begin(&regions.b.database_url).await];
        let vendor = regions.a.vendor();
        let mut chats = Vec::new();
        for number in 0..CHATS {
            chats.push(vendor.create_chat(&format!("Chat {number}")).await);
        }
        let pods = [regions.a.internal_address.clone(), regions.b.internal_address.clone()];
        // Every second one goes to the other region whenever its connection ends, as pages do.
        let readers = [0, 1].map(|side| {
            let watch = |(number, chat): (usize, &String)| {
                let (here, there) = (pods[side].clone(), pods[1 - side].clone());
                if number % 2 == 0 {
                    Reader::watch_chat(&here, chat)
                } else {
                    Reader::watch_in_any_region(vec![here, there], chat)
                }
            };
            chats.iter().enumerate().map(watch).collect::<Vec<_>>()
        });
        eventually!(readers.iter().flatten().all(|reader| reader.loads() > 0), "everybody watches");
        Some(Self { regions, chats, readers, checkers, flow: None })
    }

    pub fn vendor(&self) -> Vendor {
        self.regions.a.vendor()
    }

    /// So many changes a second from now on.
    pub fn people_write(&mut self, rate: u64) {
        self.flow = Some(Flow::begin(&self.vendor(), &self.chats, rate));
    }

    /// How many changes were made.
    pub fn posted(&self) -> u64 {
        self.flow.as_ref().map_or(0, Flow::posted)
    }

    /// Waits until people have made so many more changes.
    pub async fn writes(&self, changes: u64) {
        let enough = self.posted() + changes;
        eventually!(self.posted() >= enough, "people write");
    }

    pub async fn nobody_writes(&mut self) {
        if let Some(flow) = self.flow.take() {
            flow.end().await;
        }
    }

    /// What is written is seen in both regions. A mirror that ended by itself is started again, as by what supervises it.
    pub async fn goes_on(&mut self) {
        for side in SIDES {
            self.mirror(side).start_again_if_it_ended();
        }
        for readers in &self.readers {
            is_seen(&self.vendor(), &self.chats[0], &readers[0]).await;
        }
    }

    /// Nobody writes any more, everything comes through, and all of it is checked in both regions. Gives how many changes
    /// there were, and what each region's log holds: a's, then b's.
    pub async fn is_right(&mut self) -> [Verdict; 2] {
        self.nobody_writes().await;
        let mut verdicts = [Verdict::default(), Verdict::default()];
        for (side, copy) in self.regions.copies().iter().enumerate() {
            let (chats, readers) = (&self.chats, &self.readers[side]);
            verdicts[side] = self.checkers[side].check(&self.regions.a, copy, chats, readers, &[]).await;
        }
        verdicts
    }

    pub fn kafka(&mut self, side: Side) -> &mut OwnKafka {
        match side {
            Side::A => &mut self.regions.kafka_a,
            Side::B => &mut self.regions.kafka_b,
        }
    }

    pub fn postgres(&mut self, side: Side) -> &mut Replicated {
        match side {
            Side::A => &mut self.regions.postgres_a,
            Side::B => &mut self.regions.postgres_b,
        }
    }

    pub fn redis(&mut self, side: Side) -> &mut OwnRedis {
        match side {
            Side::A => &mut self.regions.redis_a,
            Side::B => &mut self.regions.redis_b,
        }
    }

    /// The mirror beside this region's Kafka.
    pub fn mirror(&mut self, side: Side) -> &mut OwnMirror {
        match side {
            Side::A => &mut self.regions.into_a,
            Side::B => &mut self.regions.into_b,
        }
    }

    /// That mirror's way to the other region's Kafka.
    pub fn link(&self, side: Side) -> &Proxy {
        match side {
            Side::A => &self.regions.to_b,
            Side::B => &self.regions.to_a,
        }
    }

    pub fn process(&mut self, side: Side, service: Service) -> &mut Process {
        let Regions { a, b, .. } = &mut self.regions;
        match (side, service) {
            (Side::A, Service::Synchronizer) => &mut a.synchronizer,
            (Side::A, Service::Writer) => &mut a.writer,
            (Side::A, Service::Internal) => &mut a.internal,
            (Side::B, Service::Synchronizer) => &mut b.synchronizer,
            (Side::B, Service::Writer) => &mut b.writer,
            (Side::B, Service::Internal) => &mut b.internal,
        }
    }
}
