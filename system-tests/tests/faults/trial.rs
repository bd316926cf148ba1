//! A pipeline under load with several synchronizers and writers, and everything that is checked at its end.

use std::time::Duration;

use platform::config::Secret;
use platform::eventually;
use platform::testing::{OwnLease, server};
use system_tests::checker::{Checker, Copy, Verdict};
use system_tests::flow::Flow;
use system_tests::metrics;
pub use system_tests::metrics::check;
use system_tests::pipeline::{Options, Pipeline};
use system_tests::process::{Process, free_port, ready};
use system_tests::reader::Reader;
use system_tests::vendor::Vendor;
use tokio::sync::Mutex;

use crate::table::long;

const CHATS: usize = 6;
/// A pod.
const READERS: usize = 6;
/// Changes a second.
pub const RATE: u64 = 200;

/// They measure how long things take, and each takes both cores.
static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());
/// How long one may take: several times what the longest does, in short runs and in long ones.
const LIMIT: Duration = Duration::from_secs(10 * 60);
const LONG_LIMIT: Duration = Duration::from_secs(90 * 60);

/// Runs a test when its turn has come.
///
/// # Panics
/// If it is not over within its limit; whatever it started is ended.
pub async fn alone(test: impl Future<Output = ()>) {
    let _turn = ONE_AT_A_TIME.lock().await;
    let limit = if long() { LONG_LIMIT } else { LIMIT };
    tokio::time::timeout(limit, test).await.expect("a test is over within its limit");
}

/// What is to be started.
#[derive(Default)]
pub struct Setup {
    pub options: Options,
    /// The Kubernetes API that elects; none: there is one synchronizer, and it leads.
    pub kubeconfig: Option<String>,
    /// How many synchronizers and writers beside the first.
    pub standbys: usize,
    pub writers: usize,
    /// How many pods of internal beside the first; browsers go from one to the next whenever their connection ends.
    pub pods: usize,
    /// Chats beside those that are watched: with many, every partition has some.
    pub more_chats: usize,
    /// Settings of the first synchronizer alone.
    pub first: Vec<(&'static str, String)>,
    /// Of the first standby alone.
    pub second: Vec<(&'static str, String)>,
}

impl Setup {
    /// Elected at the Kubernetes API that all tests share; `None`, said loudly, without it.
    pub fn elected() -> Option<Self> {
        Some(Self { kubeconfig: Some(server("CHAT_SYNC_TEST_KUBECONFIG")?), ..Self::default() })
    }
}

/// One of several alike.
pub struct Member {
    pub process: Process,
    pub address: String,
}

pub struct Trial {
    pub pipeline: Pipeline,
    /// Beside the pipeline's own.
    pub standbys: Vec<Member>,
    pub writers: Vec<Member>,
    pub pods: Vec<Member>,
    pub readers: Vec<Reader>,
    pub chats: Vec<String>,
    pub checker: Checker,
    flow: Option<Flow>,
    /// Deleted when nobody can renew it any more: after the processes.
    _lease: Option<OwnLease>,
}

impl Trial {
    /// Everything is up, people write and watch; `None`, said loudly, without the servers.
    pub async fn begin(setup: Setup) -> Option<Self> {
        let Setup { mut options, kubeconfig, standbys, writers, pods, more_chats, first, second } = setup;
        let elected = kubeconfig.map(OwnLease::at);
        let lease = elected.as_ref().map_or(Vec::new(), OwnLease::variables);
        options.synchronizer.extend(lease.clone());
        options.synchronizer.extend(first);
        let pipeline = Pipeline::start(options).await?;
        if !lease.is_empty() {
            // Before anybody waits for the others: it may be killed at its tenth claim.
            eventually!(leads(&pipeline.synchronizer_address).await, "the first leads");
        }
        pipeline.ready().await;
        let mut trial = Self {
            checker: Checker::begin(&pipeline.database_url).await,
            standbys: Vec::new(),
            writers: Vec::new(),
            pods: Vec::new(),
            readers: Vec::new(),
            chats: Vec::new(),
            pipeline,
            flow: None,
            _lease: elected,
        };
        for number in 0..standbys {
            let address = format!("127.0.0.1:{}", free_port());
            let mut further = lease.clone();
            further.extend(second.iter().filter(|_| number == 0).cloned());
            let process = trial.pipeline.another_synchronizer(&address, further);
            ready(&address).await;
            eventually!(
                check(&address, "leadership").await.1.starts_with("standby of") || leads(&address).await,
                "it knows who leads"
            );
            trial.standbys.push(Member { process, address });
        }
        for _ in 0..writers {
            let address = format!("127.0.0.1:{}", free_port());
            let process = trial.pipeline.another_writer(&address, Vec::new());
            ready(&address).await;
            trial.writers.push(Member { process, address });
        }
        for number in 0..pods {
            let address = format!("127.0.0.1:{}", free_port());
            let process = trial.pipeline.another_internal(&address, &format!("internal-{}", number + 1), Vec::new());
            ready(&address).await;
            trial.pods.push(Member { process, address });
        }
        let vendor = trial.vendor();
        for number in 0..CHATS + more_chats {
            trial.chats.push(vendor.create_chat(&format!("Chat {number}")).await);
        }
        let addresses = trial.pod_addresses();
        trial.readers = (0..READERS * addresses.len())
            .map(|number| {
                let mut order = addresses.clone();
                order.rotate_left(number / READERS);
                Reader::watch_at_any(order, &trial.chats[number % CHATS])
            })
            .collect();
        eventually!(trial.readers.iter().all(|reader| reader.screen().loads > 0), "everybody watches");
        trial.flow = Some(Flow::begin(&vendor, &trial.chats, RATE));
        trial.goes_on().await;
        Some(trial)
    }

    pub fn vendor(&self) -> Vendor {
        self.pipeline.vendor()
    }

    /// How many changes were made.
    pub fn posted(&self) -> u64 {
        self.flow.as_ref().map_or(0, Flow::posted)
    }

    /// People write for another second and what they write is seen.
    pub async fn goes_on(&self) {
        self.writes(RATE).await;
        is_seen(&self.vendor(), &self.chats[0], &self.readers[0]).await;
    }

    /// Waits until people have made so many more changes.
    pub async fn writes(&self, changes: u64) {
        let enough = self.posted() + changes;
        eventually!(self.posted() >= enough, "people write");
    }

    /// People write for so long: what is wrong meanwhile lasts as long.
    pub async fn for_a(&self, while_: Duration) {
        tokio::time::sleep(while_).await;
    }

    /// Nobody writes any more, everything comes through, and all of it is checked.
    pub async fn end(mut self, poison: &[&str]) -> Verdict {
        self.stop_writing().await;
        let copy = Copy::of(&self.pipeline);
        self.checker.check(&self.pipeline, &copy, &self.chats[..CHATS], &self.readers, poison).await
    }

    /// Nobody writes any more; how many changes there were.
    pub async fn stop_writing(&mut self) -> u64 {
        self.flow.take().expect("people write").end().await
    }

    /// The pipeline's database is this one from now on: what is checked at the end is checked there.
    pub async fn moves_to(&mut self, database: &Secret) {
        self.pipeline.database_url = database.clone();
        self.checker.moves_to(database).await;
    }

    /// All synchronizers: the process and its address.
    pub fn synchronizers(&mut self) -> Vec<(&mut Process, String)> {
        let first = (&mut self.pipeline.synchronizer, self.pipeline.synchronizer_address.clone());
        let others = self.standbys.iter_mut().map(|member| (&mut member.process, member.address.clone()));
        std::iter::once(first).chain(others).collect()
    }

    /// The nth writer; the first is the pipeline's own.
    pub fn writer(&mut self, number: usize) -> &mut Process {
        if number == 0 { &mut self.pipeline.writer } else { &mut self.writers[number - 1].process }
    }

    /// Which of them leads, by what it says itself.
    pub async fn leader(&mut self) -> usize {
        let addresses: Vec<String> = self.synchronizers().into_iter().map(|(_, address)| address).collect();
        eventually!(
            {
                let mut leader = None;
                for (number, address) in addresses.iter().enumerate() {
                    if leads(address).await {
                        leader = Some(number);
                    }
                }
                leader
            },
            "somebody leads"
        )
    }

    pub fn pod_addresses(&self) -> Vec<String> {
        let others = self.pods.iter().map(|pod| pod.address.clone());
        std::iter::once(self.pipeline.internal_address.clone()).chain(others).collect()
    }

    /// The nth pod; the first is the pipeline's own.
    pub fn pod(&mut self, number: usize) -> &mut Process {
        if number == 0 { &mut self.pipeline.internal } else { &mut self.pods[number - 1].process }
    }

    /// A metric's sum over these processes.
    pub async fn sum(&self, addresses: &[String], name: &str) -> f64 {
        let mut sum = 0.0;
        for address in addresses {
            sum += metrics::value(address, name).await.unwrap_or(0.0);
        }
        sum
    }

    pub fn writer_addresses(&self) -> Vec<String> {
        let others = self.writers.iter().map(|writer| writer.address.clone());
        std::iter::once(self.pipeline.writer_address.clone()).chain(others).collect()
    }
}

/// What is written now is seen by somebody who watches this chat. Where a pod began anew meanwhile, browsers load their chats
/// again; what stands further up than a load reaches they fetch, as pages do.
pub async fn is_seen(vendor: &Vendor, chat: &str, reader: &Reader) {
    let loads = reader.loads();
    let id = vendor.post(chat, "this one is seen").await;
    eventually!(
        {
            if reader.loads() > loads {
                reader.scroll_to_the_beginning().await;
            }
            reader.text(chat, &id).is_some()
        },
        "what is written is seen"
    );
}

pub async fn leads(address: &str) -> bool {
    check(address, "leadership").await.1.starts_with("leads since")
}

/// Milliseconds since the Unix epoch.
pub fn now_ms() -> i64 {
    i64::try_from(contract::Timestamp::now().micros() / 1000).unwrap_or(i64::MAX)
}
