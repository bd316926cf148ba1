//! Two regions while people write: lose one, lose nothing. The link is cut, their databases go back in time, their clocks are
//! wrong, and whatever joins and makes them up stops and returns at random. `CHAT_SYNC_TEST_SEED` repeats a run.

use std::time::{Duration, Instant};

use platform::config::Secret;
use platform::eventually;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use sqlx::PgPool;
use system_tests::browser::Browser;
use system_tests::metrics;
use system_tests::reader::Reader;
use system_tests::regions::{Regions, Setup};

use crate::leaders::wrong_clock_library;
use crate::mix::Seed;
use crate::region_trial::{RegionTrial, SIDES, Service, Side};
use crate::servers::{more_than, stored};
use crate::table::{Row, long};
use crate::trial::{alone, now_ms};

/// Changes a second: each is appended, stored and shown twice.
const RATE: u64 = 100;
const BURST: u64 = 500;
/// How long the link is cut.
const APART: Duration = Duration::from_secs(60);
const APART_LONG: Duration = Duration::from_secs(300);
const HOUR_S: i64 = 3600;

fn settings(take_over_after: &str, give_way_after: &str) -> Vec<(&'static str, String)> {
    vec![
        ("CHAT_SYNC_TAKE_OVER_AFTER", take_over_after.to_owned()),
        ("CHAT_SYNC_GIVE_WAY_AFTER", give_way_after.to_owned()),
    ]
}

pub const SILENCE: &str = "{to=\"polls\",reason=\"silence\"}";
const PREFERRED: &str = "{to=\"polls\",reason=\"preferred\"}";
const GIVES_WAY: &str = "{to=\"stands_by\",reason=\"gives_way\"}";

/// How often a synchronizer began to poll or to stand by since it started; or only as these labels say.
pub async fn turns(synchronizer: &str, labels: &str) -> f64 {
    metrics::value(synchronizer, &format!("chat_sync_region_turns_total{labels}")).await.unwrap_or(0.0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r2_a_region_goes_on_without_the_other_and_both_are_alike_when_it_is_back() {
    alone(async {
        let row = Row {
            number: "20a",
            fault: "region a killed whole in a burst of 500 changes a second: Kafka, its mirror, Postgres and its replica, Redis, \
                synchronizer, writer, internal; then all of it back at once",
            promise: "R1, R2",
            expected: "b polls by itself within 25 s, and goes on when a is back, which takes no turn; a's page goes on at b",
        };
        let Some(mut trial) = RegionTrial::begin(Setup::default()).await else { return row.not_run("no servers") };
        let (vendor, in_b) = (trial.vendor(), trial.regions.b.internal_address.clone());
        let chat = vendor.create_chat("Everywhere").await;
        let reader = Reader::watch_chat(&in_b, &chat);
        let page = Browser::open().await;
        if let Some(page) = &page {
            page.show(&trial.regions.a.internal_address, &format!("#/{chat}")).await;
        }
        let first = vendor.post(&chat, "through the mirror").await;
        eventually!(reader.text(&chat, &first).is_some(), "b shows what a polls");
        eventually!(trial.regions.turn_of_a().await.contains("polls since"), "{}", trial.regions.turn_of_a().await);
        if let Some(page) = &page {
            leaves_a_silent_pod(&mut trial, page, &chat).await;
            page.show(&trial.regions.a.internal_address, &format!("#/{chat}")).await;
            eventually!(page.shows(&first, "through the mirror").await, "the page is at a again");
        }
        trial.people_write(BURST);
        let began = Instant::now();
        trial.writes(BURST).await;

        // A mirror that takes long to start lets b poll before.
        let before = turns(&trial.regions.b.synchronizer_address, "").await;
        let killed = Instant::now();
        trial.regions.kill_a().await;
        let second = vendor.post(&chat, "while a is gone").await;
        // The message alone says nothing: b also compares with the vendor by itself.
        eventually!(trial.regions.turn_of_b().await.contains("silence"), "b polls by itself");
        eventually!(reader.text(&chat, &second).is_some(), "b shows it");
        let took = killed.elapsed();
        let rate = trial.posted() as f64 / began.elapsed().as_secs_f64();
        if let Some(page) = &page {
            eventually!(page.shows(&second, "while a is gone").await, "a's page goes on at b");
            let served_by = async || page.run("return document.getElementById('region').textContent").await;
            eventually!(served_by().await == "region b", "and says so");
        }
        trial.nobody_writes().await;

        trial.regions.start_a_again().await;
        let third = vendor.post(&chat, "a is back").await;
        eventually!(reader.text(&chat, &third).is_some(), "b goes on");
        eventually!(trial.regions.turn_of_a().await.contains("region b polls"), "whoever polls goes on");
        trial.is_right().await;
        assert_eq!(reader.screen().backwards, Vec::<String>::new());
        let in_b = &trial.regions.b.synchronizer_address;
        assert_eq!(turns(in_b, "").await - before, 1.0, "b took over, and kept it");
        assert_eq!(turns(in_b, SILENCE).await, 1.0, "and why is told");
        assert_eq!(turns(&trial.regions.a.synchronizer_address, "").await, 0.0, "a took no turn since it is back");
        let of_page = if page.is_some() { "a's page went on at b" } else { "without Chromium" };
        if let Some(page) = page {
            page.close().await;
        }
        row.came_to(
            took <= Duration::from_secs(25),
            &format!(
                "{rate:.0} changes a second; seen in b {:.1} s after the kill; 1 change of role in b, none in a since it is back; {of_page}",
                took.as_secs_f64()
            ),
        );
    })
    .await;
}

/// An open page of a's, whose pod says nothing any more and refuses nothing.
async fn leaves_a_silent_pod(trial: &mut RegionTrial, page: &Browser, chat: &str) {
    let row = Row {
        number: "20k",
        fault: "internal of region a frozen while a page is open",
        promise: "R2, V3",
        expected: "the page goes on at b within 7 s",
    };
    let served_by = async || page.run("return document.getElementById('region').textContent").await;
    eventually!(served_by().await == "region a", "a serves the page");
    let in_b = trial.regions.b.internal_address.clone();
    let resumes = async || metrics::value(&in_b, "chat_sync_resumes_total").await.unwrap_or(0.0);
    let before = resumes().await;
    trial.process(Side::A, Service::Internal).signal("STOP");
    let began = Instant::now();
    eventually!(served_by().await == "region b", "b serves it");
    let took = began.elapsed();
    let meanwhile = trial.vendor().post(chat, "while a's pod is silent").await;
    eventually!(page.shows(&meanwhile, "while a's pod is silent").await, "and shows what is new");
    let resumed = resumes().await - before;
    trial.process(Side::A, Service::Internal).signal("CONT");
    assert!(resumed >= 1.0, "somebody goes on there with the position of a");
    let figure =
        format!("after {:.1} s the page was at b; {resumed} readers went on there without a load", took.as_secs_f64());
    row.came_to(took <= Duration::from_secs(7), &figure);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r3_where_both_poll_nothing_breaks_and_one_gives_way() {
    alone(async {
        let row = Row {
            number: "20b",
            fault: "the link between the regions cut both ways for five minutes (a minute in the short run): both poll; then healed",
            promise: "R1, R3, V3",
            expected: "at most 2 records a change; one gives way",
        };
        let setup = Setup { synchronizers: settings("8s", "5s"), ..Setup::default() };
        let Some(mut trial) = RegionTrial::begin(setup).await else { return row.not_run("no servers") };
        trial.people_write(RATE);
        trial.goes_on().await;
        let before = turns(&trial.regions.a.synchronizer_address, "").await;
        let cut = Instant::now();
        SIDES.iter().for_each(|side| trial.link(*side).cut());
        eventually!(trial.regions.turn_of_b().await.contains("polls since"), "b takes over, for all that it knows");
        trial.goes_on().await;
        tokio::time::sleep(if long() { APART_LONG } else { APART }.saturating_sub(cut.elapsed())).await;
        let apart = cut.elapsed().as_secs_f64();
        SIDES.iter().for_each(|side| trial.link(*side).restore());
        eventually!(trial.regions.turn_of_b().await.contains("region a polls"), "one gives way");
        assert_eq!(turns(&trial.regions.a.synchronizer_address, "").await, before, "the other one polls all the while");
        trial.goes_on().await;
        let [a, b] = trial.is_right().await.map(|verdict| verdict.records_a_change());
        // Each region's log holds both topics: what each has of its own vendor's feed once, and of the other's nothing more.
        assert!(a <= 2.0 && b <= 2.0, "{a} and {b} records a change");
        for synchronizer in [&trial.regions.a.synchronizer_address, &trial.regions.b.synchronizer_address] {
            let both = metrics::value(synchronizer, "chat_sync_both_poll_markers_total").await;
            assert!(both > Some(0.0), "that both polled is counted: {both:?}");
        }
        row.came_to(true, &format!("apart for {apart:.0} s; {a:.2} records a change in both topics together"));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r3_the_preferred_region_takes_its_place_again() {
    alone(async {
        let row = Row {
            number: "20j",
            fault: "the synchronizer of the region that is preferred gone, then back",
            promise: "R2, R3",
            expected: "the other polls until the preferred one has listened for as long as is set; one change of role each way",
        };
        let preference = [
            ("CHAT_SYNC_PREFERRED_REGION", "a".to_owned()),
            ("CHAT_SYNC_COME_BACK_AFTER", "25s".to_owned()),
        ];
        let synchronizers = [settings("20s", "3s"), preference.to_vec()].concat();
        let setup = Setup { synchronizers, ..Setup::default() };
        let Some(mut trial) = RegionTrial::begin(setup).await else { return row.not_run("no servers") };
        trial.people_write(RATE);
        trial.goes_on().await;
        let before = turns(&trial.regions.b.synchronizer_address, "").await;
        trial.process(Side::A, Service::Synchronizer).kill();
        eventually!(trial.regions.turn_of_b().await.contains("silence"), "b polls by itself");
        trial.goes_on().await;
        trial.process(Side::A, Service::Synchronizer).start_again();
        eventually!(trial.regions.turn_of_a().await.contains("region b polls"), "whoever comes back listens first");
        eventually!(trial.regions.turn_of_a().await.contains("polls since"), "the preferred one polls");
        eventually!(trial.regions.turn_of_b().await.contains("region a polls"), "b stands by again");
        trial.goes_on().await;
        let [a, b] = trial.is_right().await.map(|verdict| verdict.records_a_change());
        let [in_a, in_b] = [&trial.regions.a.synchronizer_address, &trial.regions.b.synchronizer_address];
        assert_eq!((turns(in_a, "").await, turns(in_a, PREFERRED).await), (1.0, 1.0), "a's turns");
        assert_eq!(turns(in_b, "").await - before, 2.0, "b's turns");
        assert_eq!(turns(in_b, SILENCE).await, 1.0, "why it polled");
        assert!(turns(in_b, GIVES_WAY).await >= 1.0, "and why it does not any more");
        row.came_to(true, &format!("b polled, and gave way once; {a:.2} records a change in a, {b:.2} in b"));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn w3_a_region_promotes_a_stale_replica_and_the_other_restores_an_older_copy() {
    alone(async {
        let row = Row {
            number: "20f",
            fault: "a's primary lost, its replica promoted with lost commits; b's Postgres restored from an older copy",
            promise: "W3, R1",
            expected: "both writers store again what their databases lost; stale rows 0",
        };
        let Some(mut trial) = RegionTrial::begin(Setup::default()).await else { return row.not_run("no servers") };
        trial.people_write(RATE);
        trial.goes_on().await;
        let pool = async |url: Secret| PgPool::connect(url.expose()).await.expect("Postgres");
        let Regions { postgres_a, postgres_b, .. } = &trial.regions;
        let (old, new) = (pool(postgres_a.primary.url()).await, pool(postgres_a.replica.url()).await);
        postgres_a.link.cut();
        let copy = postgres_b.primary.back_up();
        trial.writes(4 * RATE).await;
        let on_replica = stored(&new).await;
        let on_primary = more_than(&old, on_replica).await;
        for checker in &trial.checkers {
            checker.nothing_fell().await;
        }
        let Regions { postgres_a, postgres_b, .. } = &mut trial.regions;
        let (promoted, restored) = (postgres_a.replica.url(), postgres_b.primary.url());
        postgres_a.primary.kill().await;
        postgres_b.kill().await;
        postgres_a.replica.promote();
        postgres_b.primary.restore(&copy);
        postgres_b.primary.start_again().await;
        let in_the_copy = stored(&pool(restored.clone()).await).await;
        postgres_b.renew_the_replica().await;
        trial.checkers[0].moves_to(&promoted).await;
        trial.checkers[1].moves_to(&restored).await;
        trial.regions.a.database_url = promoted;
        eventually!(stored(&new).await > on_primary, "a's writer writes to the new primary");
        trial.goes_on().await;
        let [a, _] = trial.is_right().await;
        row.came_to(
            true,
            &format!(
                "{} rows lost in a, b back at {in_the_copy} of {on_primary}; {} changes, all of them in both; stale 0",
                on_primary - on_replica,
                a.changes
            ),
        );
    })
    .await;
}

/// The clocks of everything in region a are wrong by so much. Then b has to take over, and a comes back.
async fn wrong_clocks(row: Row, offset: i64) {
    let folder = tempfile::tempdir().expect("a folder");
    let Some(library) = wrong_clock_library(folder.path()) else { return row.not_run("no C compiler") };
    let all_of_a = vec![("LD_PRELOAD", library), ("CLOCK_OFFSET", offset.to_string())];
    let setup = Setup { synchronizers: settings("10s", "3s"), all_of_a, ..Setup::default() };
    let Some(mut trial) = RegionTrial::begin(setup).await else { return row.not_run("no servers") };
    let a = PgPool::connect(trial.regions.a.database_url.expose()).await.expect("Postgres");
    let now: f64 =
        sqlx::query_scalar("SELECT extract(epoch FROM now())::float8").fetch_one(&a).await.expect("its time");
    let wrong_by = now - now_ms() as f64 / 1000.0;
    assert!(
        (wrong_by - offset as f64).abs() < HOUR_S as f64 / 2.0,
        "the clock of its Postgres is wrong by {wrong_by} s"
    );
    trial.people_write(RATE);
    trial.goes_on().await;
    trial.process(Side::A, Service::Synchronizer).kill();
    eventually!(trial.regions.turn_of_b().await.contains("silence"), "b polls by itself");
    trial.goes_on().await;
    trial.process(Side::A, Service::Synchronizer).start_again();
    eventually!(trial.regions.turn_of_a().await.contains("region b polls"), "whoever polls goes on");
    trial.goes_on().await;
    let verdicts = trial.is_right().await;
    let [a, b] = verdicts.map(|verdict| verdict.records_a_change());
    row.came_to(true, &format!("b took over and kept it; {a:.2} records a change in a, {b:.2} in b"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r3_all_clocks_of_a_region_are_ahead() {
    alone(async {
        let fault = "all clocks of region a an hour ahead, its servers' too; then b takes over, and a comes back";
        wrong_clocks(Row { number: "20g", fault, promise: "R2, R3", expected: "reported" }, HOUR_S).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r3_all_clocks_of_a_region_are_behind() {
    alone(async {
        let fault = "all clocks of region a an hour behind, its servers' too; then b takes over, and a comes back";
        wrong_clocks(Row { number: "20h", fault, promise: "R2, R3", expected: "reported" }, -HOUR_S).await;
    })
    .await;
}

/// What stops and returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Kafka(Side),
    Primary(Side),
    Replica(Side),
    Redis(Side),
    /// The mirror beside this region's Kafka, and the link that it reads through.
    Mirror(Side),
    Link(Side),
    Killed(Side, Service),
    Frozen(Side, Service),
}

fn parts() -> Vec<Part> {
    let of = |side| {
        let services = [Service::Synchronizer, Service::Writer, Service::Internal];
        let services = services.into_iter().flat_map(move |name| [Part::Killed(side, name), Part::Frozen(side, name)]);
        let servers = [Part::Kafka(side), Part::Primary(side), Part::Replica(side), Part::Redis(side)];
        servers.into_iter().chain([Part::Mirror(side), Part::Link(side)]).chain(services)
    };
    SIDES.into_iter().flat_map(of).collect()
}

/// Up to four that are not the same process, nor a pod with its gate.
fn some_parts(random: &mut StdRng) -> Vec<Part> {
    let mut all = parts();
    all.shuffle(random);
    let mut some: Vec<Part> = Vec::new();
    for part in all.into_iter().take(random.random_range(1..=4)) {
        let excluded = |other: &Part| match (part, *other) {
            (Part::Killed(side, name) | Part::Frozen(side, name), Part::Killed(at, of) | Part::Frozen(at, of)) => {
                (side, name) == (at, of)
            }
            // A pod that began anew knows what stood in the log only from the gate; without both, older rows are pushed, and
            // it is the page that keeps V3.
            (Part::Redis(side), Part::Killed(at, Service::Internal))
            | (Part::Killed(at, Service::Internal), Part::Redis(side)) => side == at,
            _ => false,
        };
        if !some.iter().any(excluded) {
            some.push(part);
        }
    }
    some
}

struct Parts {
    trial: RegionTrial,
}

impl Parts {
    async fn stop(&mut self, part: Part) {
        match part {
            Part::Kafka(side) => self.trial.kafka(side).kill(),
            Part::Primary(side) => self.trial.postgres(side).primary.kill().await,
            Part::Replica(side) => self.trial.postgres(side).replica.kill().await,
            Part::Redis(side) => self.trial.redis(side).kill(),
            Part::Mirror(side) => self.trial.mirror(side).kill(),
            Part::Link(side) => self.trial.link(side).cut(),
            Part::Killed(side, name) => self.trial.process(side, name).kill(),
            Part::Frozen(side, name) => self.trial.process(side, name).signal("STOP"),
        }
    }

    async fn start(&mut self, part: Part) {
        match part {
            Part::Kafka(side) => self.trial.kafka(side).start_again().await,
            Part::Primary(side) => self.trial.postgres(side).primary.start_again().await,
            Part::Replica(side) => self.trial.postgres(side).replica.start_again().await,
            Part::Redis(side) => self.trial.redis(side).start_again().await,
            Part::Mirror(side) => self.trial.mirror(side).start_again(),
            Part::Link(side) => self.trial.link(side).restore(),
            Part::Killed(side, name) => self.trial.process(side, name).start_again(),
            Part::Frozen(side, name) => self.trial.process(side, name).signal("CONT"),
        }
    }

    /// People write; some parts stop one by one and return in another order; then both copies are as the vendor is.
    async fn run(&mut self, number: usize, random: &mut StdRng) {
        let mut some = some_parts(random);
        eprintln!("run {number}: {some:?}");
        let at_most = async |random: &mut StdRng, most: u64| {
            tokio::time::sleep(Duration::from_millis(random.random_range(0..most))).await;
        };
        self.trial.people_write(RATE);
        for part in &some {
            at_most(random, 2_000).await;
            self.stop(*part).await;
        }
        at_most(random, 10_000).await;
        some.shuffle(random);
        for part in some {
            self.start(part).await;
            at_most(random, 2_000).await;
        }
        self.trial.goes_on().await;
        self.trial.is_right().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r1_whatever_of_two_regions_stops_and_returns() {
    alone(async {
        let row = Row {
            number: "20i",
            fault: "both regions' Kafka, Postgres, replicas, Redis, mirrors, links and services stop one by one, up to four at once, and return in \
                another order: 20 runs (3 in the short run)",
            promise: "R1, R2, R3, L1, W1, V3",
            expected: "the checker finds nothing in either region after any run",
        };
        let setup = Setup { synchronizers: settings("5s", "3s"), ..Setup::default() };
        let Some(trial) = RegionTrial::begin(setup).await else { return row.not_run("no servers") };
        let seed = Seed::of_this_run();
        let mut random = StdRng::seed_from_u64(seed.0);
        let mut parts = Parts { trial };
        let runs = if long() { 20 } else { 3 };
        for number in 1..=runs {
            parts.run(number, &mut random).await;
        }
        let [a, b] = parts.trial.is_right().await;
        row.came_to(
            true,
            &format!(
                "seed {}: {runs} runs, {} changes; {:.2} records a change in a, {:.2} in b",
                seed.0,
                a.changes,
                a.records_a_change(),
                b.records_a_change()
            ),
        );
    })
    .await;
}
