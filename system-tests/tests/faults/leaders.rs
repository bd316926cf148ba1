//! Leaders are killed, told to end, frozen, and cut off from the API that elects them.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use platform::eventually;
use system_tests::metrics;
use system_tests::own_api::OwnApi;
use system_tests::own_kafka::OwnKafka;
use system_tests::pipeline::Options;
use system_tests::process::free_port;
use system_tests::proxy::{Fault, Proxy};

use crate::table::{Row, long};
use crate::trial::{RATE, Setup, Trial, alone, check, leads, now_ms};

/// The lease's, as it is set by default.
const TTL: Duration = Duration::from_secs(3);
/// Longer than a lease lasts, and than a leader stays confirmed.
const API_AWAY: Duration = Duration::from_secs(10);
const API_AWAY_LONG: Duration = Duration::from_secs(60);

/// The leader is killed where it passes a fail point for the nth time.
async fn killed_at(point: &str, row: Row) {
    let Some(setup) = Setup::elected() else { return row.not_run("no Kubernetes API") };
    let first = vec![("FAIL_POINT", point.to_owned())];
    // No overlap: with it, the next leader would read again whatever was claimed too early.
    let synchronizer = vec![("CHAT_SYNC_OVERLAP", "0s".to_owned())];
    let options = Options { synchronizer, ..Options::default() };
    let Some(mut trial) = Trial::begin(Setup { options, first, standbys: 2, ..setup }).await else {
        return row.not_run("no servers");
    };
    assert_eq!(trial.pipeline.synchronizer.ended().await.signal(), Some(9), "by its fail point");
    let killed = now_ms();
    trial.leader().await;
    trial.goes_on().await;
    let verdict = trial.end(&[]).await;
    let gap = verdict.longest_gap_ms(killed - 1000, killed + 20_000);
    let met = gap <= 5000;
    row.came_to(
        met,
        &format!(
            "next append after {gap} ms; {:.3} records a change; {} changes",
            verdict.records_a_change(),
            verdict.changes
        ),
    );
}

fn killed(number: &'static str, fault: &'static str) -> Row {
    Row { number, fault, promise: "L1, L2", expected: "next append by another within the lease's 3 s + 2 s" }
}

/// Points, and how often they are passed in the first seconds: a poll or an append about a hundred times a second, a
/// claim once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l1_a_leader_is_killed_while_polling() {
    alone(async {
        killed_at("leader.polled:300", killed("01a", "leader `kill -9` while polling")).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l1_a_leader_is_killed_after_an_append_before_its_acks() {
    alone(async {
        killed_at("log.sent:300", killed("01b", "leader `kill -9` after append, before acks")).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l2_a_leader_is_killed_after_acks_before_markers() {
    alone(async {
        killed_at("leader.acked:300", killed("01c", "leader `kill -9` after acks, before markers")).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l2_a_leader_is_killed_after_markers_before_its_checkpoint() {
    alone(async {
        killed_at("leader.marked:9", killed("01d", "leader `kill -9` after markers, before checkpoint")).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l2_a_leader_is_killed_after_its_checkpoint() {
    alone(async {
        killed_at("leader.checkpointed:9", killed("01e", "leader `kill -9` after checkpoint")).await;
    })
    .await;
}

/// The longest time without an append after each end of a leader, in milliseconds.
struct Gaps(Vec<i64>);

impl Gaps {
    fn told(&mut self) -> String {
        self.0.sort_unstable();
        let at = |part: usize| self.0.get((self.0.len() * part / 100).min(self.0.len().saturating_sub(1))).copied();
        format!("gap p50 {} ms, max {} ms", at(50).unwrap_or(0), self.0.last().copied().unwrap_or(0))
    }
}

/// From being elected to the first poll, in seconds, on average over this process's terms.
async fn takeover(address: &str) -> f64 {
    let value = async |name: &str| metrics::value(address, name).await.unwrap_or(0.0);
    value("chat_sync_takeover_seconds_sum").await / value("chat_sync_takeover_seconds_count").await.max(1.0)
}

/// Ends leaders one after another, in whatever way, and starts each again as a standby.
async fn handovers(times: usize, kill: bool, row: Row) {
    let Some(setup) = Setup::elected() else { return row.not_run("no Kubernetes API") };
    let Some(mut trial) = Trial::begin(Setup { standbys: 2, ..setup }).await else {
        return row.not_run("no servers");
    };
    let (mut ended, mut takeovers) = (Vec::new(), Vec::new());
    for _ in 0..times {
        let leader = trial.leader().await;
        // Another moment of its second each time.
        trial.for_a(Duration::from_millis(200 + rand::random::<u64>() % 1000)).await;
        let (process, address) = trial.synchronizers().into_iter().nth(leader).expect("the leader");
        ended.push(now_ms());
        if kill {
            process.kill();
        } else {
            let status = process.terminate().await;
            assert!(status.success(), "SIGTERM drains and exits 0, not {status}");
        }
        let next = trial.leader().await;
        let next_address = trial.synchronizers()[next].1.clone();
        eventually!(metrics::value(&next_address, "chat_sync_takeover_seconds_count").await.is_some(), "it polls");
        takeovers.push(takeover(&next_address).await);
        trial.synchronizers()[leader].0.start_again();
        eventually!(check(&address, "leadership").await.1.starts_with("standby of"), "it stands by; another leads");
        trial.goes_on().await;
    }
    let verdict = trial.end(&[]).await;
    let until = ended.iter().skip(1).map(|next| next - 100).chain([i64::MAX]);
    let mut gaps = Gaps(ended.iter().zip(until).map(|(at, until)| verdict.longest_gap_ms(at - 100, until)).collect());
    let records = verdict.records_a_change();
    assert!(records <= 1.05, "Kafka is bombed with messages: {records:.3} records a change");
    let told = gaps.told();
    let met = kill || gaps.0.iter().all(|gap| *gap <= 1000);
    row.came_to(
        met,
        &format!(
            "{times} times: {told}; {records:.3} records a change; first poll {:.0} ms after the election on average",
            takeovers.iter().sum::<f64>() / takeovers.len().max(1) as f64 * 1000.0
        ),
    );
}

/// The predecessor's "messages in the gap between two leaders are lost", and its "Kafka is bombed with messages at
/// every start".
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_in_the_gap_between_two_leaders_are_not_lost_and_kafka_is_not_bombed() {
    alone(async {
        let times = if long() { 50 } else { 4 };
        let row = Row {
            number: "02",
            fault: "random `kill -9` of leaders under 200 changes a second",
            promise: "L1",
            expected: "at most 1.05 records a change",
        };
        handovers(times, true, row).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l1_leaders_are_told_to_end_one_after_another() {
    alone(async {
        let times = if long() { 20 } else { 4 };
        let row = Row {
            number: "03",
            fault: "SIGTERM of the leader, again and again (a rolling update)",
            promise: "L1",
            expected: "gap at most 1 s; at most 1.05 records a change",
        };
        handovers(times, false, row).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l2_a_leader_is_frozen_and_wakes_while_another_leads() {
    alone(async {
        let row = Row {
            number: "04",
            fault: "leader frozen past its lease with a page in its hands, woken while another leads",
            promise: "L2, W2, V3",
            expected: "it stops within 1 s; what it appends is superseded",
        };
        let Some(setup) = Setup::elected() else { return row.not_run("no Kubernetes API") };
        // Frozen behind a poll, before what it brought is appended.
        let first = vec![("FAIL_POINT", "leader.polled:300:STOP".to_owned())];
        let Some(mut trial) = Trial::begin(Setup { first, standbys: 2, ..setup }).await else {
            return row.not_run("no servers");
        };
        let addresses: Vec<String> = trial.standbys.iter().map(|standby| standby.address.clone()).collect();
        eventually!(leads(&addresses[0]).await || leads(&addresses[1]).await, "another leads");
        trial.goes_on().await;
        trial.pipeline.synchronizer.signal("CONT");
        let woken = Instant::now();
        let first = trial.pipeline.synchronizer_address.clone();
        eventually!(check(&first, "leadership").await.1.starts_with("standby of"), "it stops");
        let stopped = woken.elapsed();
        trial.goes_on().await;
        assert!(trial.pipeline.synchronizer.is_running(), "it stands by");
        let verdict = trial.end(&[]).await;
        assert!(
            verdict.records > verdict.changes,
            "it appended what it had in its hands, and others had appended that"
        );
        row.came_to(
            stopped <= Duration::from_secs(1),
            &format!(
                "stopped {} ms after it woke; {:.3} records a change",
                stopped.as_millis(),
                verdict.records_a_change()
            ),
        );
    })
    .await;
}

/// With an API of its own, of which something is taken away.
async fn api_trial(row: &Row) -> Option<(OwnApi, Trial)> {
    let Some(api) = OwnApi::start().await else {
        row.not_run("no tool to make a Kubernetes API with");
        return None;
    };
    let setup = Setup { kubeconfig: Some(api.kubeconfig.clone()), standbys: 2, ..Setup::default() };
    let Some(trial) = Trial::begin(setup).await else {
        row.not_run("no servers");
        return None;
    };
    Some((api, trial))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l1_the_api_is_away() {
    alone(async {
        let row = Row {
            number: "06a",
            fault: "Kubernetes API server away for a minute (10 s in the short run), then etcd restarted",
            promise: "L1",
            expected: "the leader goes on, unconfirmed: gap 0",
        };
        let Some((api, mut trial)) = api_trial(&row).await else { return };
        let leader = trial.leader().await;
        let address = trial.synchronizers()[leader].1.clone();
        let from = now_ms();
        api.stop("apiserver").await;
        eventually!(
            check(&address, "leadership").await.1.contains("unconfirmed"),
            "the leader says that it is unconfirmed"
        );
        trial.for_a(if long() { API_AWAY_LONG } else { API_AWAY }).await;
        trial.goes_on().await;
        api.start_again("apiserver").await;
        eventually!(!check(&address, "leadership").await.1.contains("unconfirmed"), "it is confirmed again");
        let back = now_ms();
        api.stop("etcd").await;
        trial.for_a(TTL).await;
        api.start_again("etcd").await;
        trial.goes_on().await;
        let to = now_ms();
        trial.leader().await;
        let verdict = trial.end(&[]).await;
        let without = verdict.longest_gap_ms(from, back);
        let around = verdict.longest_gap_ms(back, to);
        // More than a few polls' worth.
        row.came_to(
            without < 1000,
            &format!(
                "longest time without an append: {without} ms without the API, {around} ms around etcd's restart, at \
             {RATE} changes a second"
            ),
        );
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l1_the_api_is_away_while_the_leader_dies() {
    alone(async {
        let row = Row {
            number: "06b",
            fault: "Kubernetes API server away while the leader is killed too",
            promise: "L1",
            expected: "reported: nobody leads until it is back; nothing is lost",
        };
        let Some((api, mut trial)) = api_trial(&row).await else { return };
        let leader = trial.leader().await;
        api.stop("apiserver").await;
        let killed = now_ms();
        trial.synchronizers()[leader].0.kill();
        trial.for_a(API_AWAY).await;
        api.start_again("apiserver").await;
        let back = now_ms();
        trial.leader().await;
        trial.synchronizers()[leader].0.start_again();
        trial.goes_on().await;
        let verdict = trial.end(&[]).await;
        row.came_to(
            true,
            &format!(
                "{} ms without an append; the API was away {} ms of it",
                verdict.longest_gap_ms(killed, back + 10_000),
                back - killed
            ),
        );
    })
    .await;
}

/// libfaketime would do, but librdkafka hangs under it.
pub fn wrong_clock_library(folder: &Path) -> Option<String> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/wrong_clock.c");
    let library = folder.join("wrong_clock.so");
    // Postgres reads it as somebody else.
    std::fs::set_permissions(folder, Permissions::from_mode(0o755)).expect("its mode");
    let compiled = Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&library).arg(source).status();
    compiled.is_ok_and(|status| status.success()).then(|| library.display().to_string())
}

const NO_MATTER: &str = "it makes nobody lead, nor lead no more";

/// One candidate's clock is wrong. That must not matter: a lease has ended when nobody has renewed it for its duration on a
/// candidate's monotonic clock.
async fn wrong_clock(offset: &str, row: Row) {
    let folder = tempfile::tempdir().expect("a folder");
    let Some(library) = wrong_clock_library(folder.path()) else { return row.not_run("no C compiler") };
    let Some(setup) = Setup::elected() else { return row.not_run("no Kubernetes API") };
    let second = vec![("LD_PRELOAD", library), ("CLOCK_OFFSET", offset.to_owned())];
    let Some(mut trial) = Trial::begin(Setup { second, standbys: 2, ..setup }).await else {
        return row.not_run("no servers");
    };
    let addresses: Vec<String> = trial.synchronizers().into_iter().map(|(_, address)| address).collect();
    let changes = "chat_sync_role_changes_total";
    trial.for_a(5 * TTL).await;
    let roles = trial.sum(&addresses, changes).await;
    let leader = trial.leader().await;
    assert_eq!(leader, 0, "nobody has taken the first one's lease");
    trial.synchronizers()[leader].0.kill();
    trial.leader().await;
    trial.goes_on().await;
    let verdict = trial.end(&[]).await;
    let records = verdict.records_a_change();
    row.came_to(
        roles <= 1.0,
        &format!(
            "changes of role in 15 s and more: {roles:.0}, the first election; then a leader killed; {records:.3} \
             records a change"
        ),
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l2_one_candidates_clock_is_ahead() {
    alone(async {
        let row =
            Row { number: "07a", fault: "one candidate's clock 20 s ahead", promise: "L2, R3", expected: NO_MATTER };
        wrong_clock("20", row).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l2_one_candidates_clock_is_behind() {
    alone(async {
        let row =
            Row { number: "07b", fault: "one candidate's clock 20 s behind", promise: "L2, R3", expected: NO_MATTER };
        wrong_clock("-20", row).await;
    })
    .await;
}

/// It can renew its lease all the time, and is cut off from what it needs; how long until what is written is seen again.
async fn cut_off(row: Row, setup: Setup, way: Proxy) {
    let Some(mut trial) = Trial::begin(Setup { standbys: 1, ..setup }).await else { return row.not_run("no servers") };
    assert_eq!(trial.leader().await, 0);
    let cut = Instant::now();
    way.misbehave(Fault::Stall);
    eventually!(trial.leader().await == 1, "the other leads");
    trial.goes_on().await;
    let took = cut.elapsed();
    way.misbehave(Fault::None);
    // What the first one had sent arrives now, after the other has appended the same.
    let records = trial.end(&[]).await.records_a_change();
    row.came_to(
        took <= Duration::from_secs(20),
        &format!("what is written is seen again after {:.1} s; {records:.3} records a change", took.as_secs_f64()),
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l1_the_leader_alone_is_cut_off_from_kafka() {
    alone(async {
        let row = Row {
            number: "15b",
            fault: "the leader alone is cut off from Kafka; it still holds its lease",
            promise: "L1, L2",
            expected: "another leads within 20 s",
        };
        let Some(setup) = Setup::elected() else { return row.not_run("no Kubernetes API") };
        let Some((kafka, way)) = OwnKafka::with_a_proxy(&[]).await else { return row.not_run("no Kafka") };
        let first = vec![("CHAT_SYNC_KAFKA", way.address.clone())];
        let options = Options { kafka: Some(kafka.address.clone()), ..Options::default() };
        cut_off(row, Setup { options, first, ..setup }, way).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l1_the_leader_alone_is_cut_off_from_the_source() {
    alone(async {
        let row = Row {
            number: "15c",
            fault: "the leader alone is cut off from the source; it still holds its lease",
            promise: "L1, L2",
            expected: "another leads within 20 s",
        };
        let Some(setup) = Setup::elected() else { return row.not_run("no Kubernetes API") };
        let vendor = format!("127.0.0.1:{}", free_port());
        let way = Proxy::to(&vendor).await;
        let first = vec![("CHAT_SYNC_SOURCE_URL", format!("http://{}", way.address))];
        let options = Options { vendor_address: Some(vendor), ..Options::default() };
        cut_off(row, Setup { options, first, ..setup }, way).await;
    })
    .await;
}
