//! Postgres and Kafka are killed, stopped, go back in time, fill up, and answer badly.

use std::time::{Duration, Instant};

use platform::config::Secret;
use platform::eventually;
use sqlx::{Connection, PgConnection, PgPool};
use system_tests::own_kafka::OwnKafka;
use system_tests::own_postgres::{OwnPostgres, Replicated};
use system_tests::pipeline::{Options, Pipeline};
use system_tests::proxy::Fault;

use crate::small_disk::SmallDisk;
use crate::table::{Row, long};
use crate::trial::{RATE, Setup, Trial, alone, now_ms};

/// How long Postgres is stopped.
const STOPPED: Duration = Duration::from_secs(15);
const STOPPED_LONG: Duration = Duration::from_secs(60);
/// How long Kafka's connections stall: longer than the 10 s in which an append must be acknowledged.
const STALL: Duration = Duration::from_secs(12);
const STALL_LONG: Duration = Duration::from_secs(30);
/// Long enough to connect again and to send something.
const BETWEEN_RESETS: Duration = Duration::from_millis(700);
/// How long every byte comes alone.
const SLOW: Duration = Duration::from_secs(3);

/// What a pipeline is told to reach this Postgres.
fn on(postgres: &OwnPostgres) -> Options {
    Options { database: Some((postgres.url(), postgres.url().expose().to_owned())), ..Options::default() }
}

/// How many messages there are; 0 where it does not answer.
pub async fn stored(pool: &PgPool) -> i64 {
    sqlx::query_scalar("SELECT count(*) FROM messages").fetch_one(pool).await.unwrap_or(0)
}

/// The same, when it has more than that many.
pub async fn more_than(pool: &PgPool, rows: i64) -> i64 {
    eventually!(Some(stored(pool).await).filter(|stored| *stored > rows), "more than {rows} rows are stored")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn w3_postgres_is_killed_and_stopped_under_load() {
    alone(async {
        let row = Row {
            number: "10",
            fault: "Postgres `kill -9`; then stopped for a minute (15 s in the short run) under load",
            promise: "W1, W3, W4",
            expected: "no dead letter; caught up at 5 times the live rate or more",
        };
        let Some(mut postgres) = OwnPostgres::start().await else { return row.not_run("no Postgres programs") };
        let setup = Setup { options: on(&postgres), writers: 2, ..Setup::default() };
        let Some(trial) = Trial::begin(setup).await else { return row.not_run("no servers") };
        postgres.kill().await;
        postgres.start_again().await;
        trial.goes_on().await;
        let pool = PgPool::connect(postgres.url().expose()).await.expect("Postgres");
        postgres.kill().await;
        trial.for_a(if long() { STOPPED_LONG } else { STOPPED }).await;
        postgres.start_again().await;
        let records = trial.sum(&trial.writer_addresses(), "chat_sync_writer_records_total").await;
        let (behind, began) = (stored(&pool).await, Instant::now());
        // What a chat's last message shows: everything before it is stored too.
        let id = trial.vendor().post(&trial.chats[1], "after Postgres is back").await;
        let is_there = "SELECT count(*) FROM messages WHERE id = $1";
        eventually!(
            sqlx::query_scalar::<_, i64>(is_there).bind(&id).fetch_one(&pool).await.is_ok_and(|count| count == 1),
            "it has caught up"
        );
        let took = began.elapsed();
        let caught_up = trial.sum(&trial.writer_addresses(), "chat_sync_writer_records_total").await - records;
        trial.end(&[]).await;
        let rate = caught_up / took.as_secs_f64();
        row.came_to(
            rate >= 5.0 * RATE as f64,
            &format!(
                "caught up {caught_up:.0} records in {:.1} s, {:.1} times the live rate (there were {behind} rows)",
                took.as_secs_f64(),
                rate / RATE as f64
            ),
        );
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn w3_an_older_copy_of_postgres_is_restored() {
    alone(async {
        let row = Row {
            number: "11a",
            fault: "an older copy of Postgres' data folder restored",
            promise: "W3",
            expected: "stale rows after catching up: 0",
        };
        let Some(mut postgres) = OwnPostgres::start().await else { return row.not_run("no Postgres programs") };
        let setup = Setup { options: on(&postgres), writers: 1, ..Setup::default() };
        let Some(mut trial) = Trial::begin(setup).await else { return row.not_run("no servers") };
        let pool = PgPool::connect(postgres.url().expose()).await.expect("Postgres");
        let copy = postgres.back_up();
        let at_most = stored(&pool).await;
        trial.writes(5 * RATE).await;
        let before = more_than(&pool, at_most).await;
        // Else they may have stored it all again before it is counted.
        for number in 0..2 {
            trial.writer(number).signal("STOP");
        }
        postgres.kill().await;
        postgres.restore(&copy);
        postgres.start_again().await;
        let copied = eventually!(Some(stored(&pool).await).filter(|rows| *rows > 0), "the copy has rows");
        assert!(copied <= at_most, "the copy is older: {copied} rows of {before}");
        for number in 0..2 {
            trial.writer(number).signal("CONT");
        }
        trial.goes_on().await;
        trial.end(&[]).await;
        row.came_to(true, &format!("{} rows were gone and came back; stale 0", before - copied));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn w3_an_asynchronous_replica_is_promoted_after_lost_commits() {
    alone(async {
        let row = Row {
            number: "11b",
            fault: "asynchronous replica promoted after lost commits, the primary killed",
            promise: "W3",
            expected: "the writer goes to the new primary by itself; stale rows after catching up: 0",
        };
        let Some(postgres) = Replicated::start(&[]).await else { return row.not_run("no Postgres programs") };
        let Replicated { mut primary, replica, link } = postgres;
        // The list that the services are given; the replica comes first, and is not taken before it can be written to.
        let told = format!("postgres://postgres@127.0.0.1:{},127.0.0.1:{}/postgres", replica.port, primary.port);
        let options = Options { database: Some((replica.url(), told)), ..Options::default() };
        let Some(trial) = begin_on_primary(options, &primary).await else { return row.not_run("no servers") };
        let (old, new) = (pool(&primary.url()).await, pool(&replica.url()).await);
        link.cut();
        trial.writes(4 * RATE).await;
        let on_replica = stored(&new).await;
        let on_primary = more_than(&old, on_replica).await;
        primary.kill().await;
        replica.promote();
        let promoted = Instant::now();
        eventually!(stored(&new).await > on_primary, "the writer writes to the new primary");
        let took = promoted.elapsed();
        trial.goes_on().await;
        trial.end(&[]).await;
        row.came_to(
            true,
            &format!(
                "{} rows of lost commits came back; stored again as much {:.1} s after the promotion; stale 0",
                on_primary - on_replica,
                took.as_secs_f64()
            ),
        );
    })
    .await;
}

/// The checker's triggers are made on the primary and come to the replica with everything else.
async fn begin_on_primary(mut options: Options, primary: &OwnPostgres) -> Option<Trial> {
    let (replica, told) = options.database.take()?;
    options.database = Some((primary.url(), told));
    let mut trial = Trial::begin(Setup { options, ..Setup::default() }).await?;
    trial.moves_to(&replica).await;
    Some(trial)
}

async fn pool(url: &Secret) -> PgPool {
    PgPool::connect(url.expose()).await.expect("Postgres")
}

/// p99 of what is pushed, in milliseconds, while this lasts.
pub async fn push_latency(trial: &Trial, while_: Duration) -> f64 {
    let (began, mut times) = (Instant::now(), Vec::new());
    while began.elapsed() < while_ {
        let posted = Instant::now();
        let id = trial.vendor().post(&trial.chats[0], "how long does this take?").await;
        while trial.readers[0].text(&trial.chats[0], &id).is_none() {
            assert!(posted.elapsed() < Duration::from_secs(60), "pushes go on");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        times.push(posted.elapsed());
    }
    times.sort();
    times[times.len() * 99 / 100].as_secs_f64() * 1000.0
}

pub const CLEAN: Duration = Duration::from_secs(8);
/// What a row of the table says of a store in trouble.
const PUSHES_GO_ON: &str = "no dead letter; pushes at most twice as slow";

/// Measures pushes before the harm, while it lasts, and after it; `harm` does it, measures, and makes it good again.
pub async fn pushes_go_on(row: Row, setup: Setup, harm: impl AsyncFnOnce(&Trial) -> f64) {
    let Some(trial) = Trial::begin(setup).await else {
        return row.not_run("no servers");
    };
    let before = push_latency(&trial, CLEAN).await;
    let harmed = harm(&trial).await;
    trial.goes_on().await;
    // What has just started is slow.
    let clean = before.min(push_latency(&trial, CLEAN).await);
    trial.end(&[]).await;
    let ratio = harmed / clean;
    let told = format!("push p99 {harmed:.0} ms, {ratio:.1} times that of a clean run ({clean:.0} ms)");
    row.came_to(ratio <= 2.0, &told);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn w4_postgres_is_read_only_for_a_while() {
    alone(async {
        let row =
            Row { number: "12a", fault: "Postgres read-only, then writable", promise: "W4", expected: PUSHES_GO_ON };
        let Some(postgres) = OwnPostgres::start().await else { return row.not_run("no Postgres programs") };
        pushes_go_on(row, Setup { options: on(&postgres), ..Setup::default() }, async |trial| {
            let mut admin = PgConnection::connect(postgres.url().expose()).await.expect("Postgres");
            read_only(&mut admin, "on").await;
            let faulty = push_latency(trial, CLEAN).await;
            read_only(&mut admin, "off").await;
            faulty
        })
        .await;
    })
    .await;
}

/// Sets it for every new transaction, `on` or `off`.
pub async fn read_only(admin: &mut PgConnection, on: &str) {
    let set = format!("ALTER SYSTEM SET default_transaction_read_only = {on}");
    // The session that changes it may be read-only itself by now.
    sqlx::raw_sql("SET default_transaction_read_only = off").execute(&mut *admin).await.expect("for this session");
    sqlx::raw_sql(sqlx::AssertSqlSafe(set)).execute(&mut *admin).await.expect("set");
    sqlx::raw_sql("SELECT pg_reload_conf()").execute(&mut *admin).await.expect("read again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn w4_a_table_is_locked_for_a_while() {
    alone(async {
        let row = Row { number: "12b", fault: "a table lock held for 30 s", promise: "W4", expected: PUSHES_GO_ON };
        let Some(postgres) = OwnPostgres::start().await else { return row.not_run("no Postgres programs") };
        pushes_go_on(row, Setup { options: on(&postgres), ..Setup::default() }, async |trial| {
            let mut admin = PgConnection::connect(postgres.url().expose()).await.expect("Postgres");
            let mut lock = admin.begin().await.expect("a transaction");
            sqlx::raw_sql("LOCK TABLE messages IN ACCESS EXCLUSIVE MODE").execute(&mut *lock).await.expect("the lock");
            let faulty = push_latency(trial, Duration::from_secs(30)).await;
            lock.rollback().await.expect("let go");
            faulty
        })
        .await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn w4_the_disk_is_full_and_freed() {
    alone(async {
        let row = Row {
            number: "12c",
            fault: "disk full (a small tmpfs), then freed",
            promise: "W4",
            expected: PUSHES_GO_ON,
        };
        let Some(disk) = SmallDisk::mount("160m") else { return row.not_run("a tmpfs cannot be mounted here") };
        let Some(mut postgres) = OwnPostgres::start_in(disk.path()).await else {
            return row.not_run("no Postgres programs");
        };
        pushes_go_on(row, Setup { options: on(&postgres), ..Setup::default() }, async |trial| {
            disk.fill();
            let writer = trial.pipeline.writer_address.clone();
            eventually!(crate::trial::check(&writer, "store").await.0 == 503, "the writer says that it waits");
            let faulty = push_latency(trial, CLEAN).await;
            disk.free();
            // A Postgres that cannot write its log ends itself.
            postgres.start_if_ended().await;
            faulty
        })
        .await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l1_kafka_is_killed_under_load() {
    alone(async {
        let row = Row {
            number: "13",
            fault: "Kafka `kill -9` under load, restarted at once",
            promise: "L1, L2, W1",
            expected: "stall at most 10 s",
        };
        let Some(mut kafka) = OwnKafka::start().await else { return row.not_run("no Kafka") };
        let options = Options { kafka: Some(kafka.address.clone()), ..Options::default() };
        let Some(trial) = Trial::begin(Setup { options, ..Setup::default() }).await else {
            return row.not_run("no servers");
        };
        let killed = now_ms();
        kafka.kill();
        kafka.start_again().await;
        trial.goes_on().await;
        let verdict = trial.end(&[]).await;
        let stall = verdict.longest_gap_ms(killed - 1000, killed + 60_000);
        row.came_to(
            stall <= 10_000,
            &format!(
                "{stall} ms without an append, the broker's own start included; {:.3} records a change",
                verdict.records_a_change()
            ),
        );
    })
    .await;
}

/// Every way in which the connection to the broker can be bad.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l1_the_connection_to_kafka_is_bad() {
    alone(async {
        let row = Row {
            number: "15a",
            fault: "proxy between clients and broker: a stall (30 s; 12 s in the short run), resets, one byte at a \
                time, one direction cut",
            promise: "L1, L2, W1",
            expected: "duplicates counted",
        };
        let Some((_kafka, proxy)) = OwnKafka::with_a_proxy(&[]).await else { return row.not_run("no Kafka") };
        let options = Options { kafka: Some(proxy.address.clone()), ..Options::default() };
        let Some(trial) = Trial::begin(Setup { options, ..Setup::default() }).await else {
            return row.not_run("no servers");
        };
        let stall = if long() { STALL_LONG } else { STALL };
        proxy.misbehave(Fault::Stall);
        trial.for_a(stall).await;
        proxy.misbehave(Fault::None);
        trial.goes_on().await;
        for _ in 0..5 {
            proxy.reset();
            trial.for_a(BETWEEN_RESETS).await;
        }
        trial.goes_on().await;
        proxy.misbehave(Fault::Slow);
        trial.for_a(SLOW).await;
        proxy.misbehave(Fault::None);
        trial.goes_on().await;
        for direction in [Fault::NothingBack, Fault::NothingThere] {
            proxy.misbehave(direction);
            trial.for_a(stall / 2).await;
            proxy.misbehave(Fault::None);
            trial.goes_on().await;
        }
        let verdict = trial.end(&[]).await;
        row.came_to(true, &format!("{:.3} records a change", verdict.records_a_change()));
    })
    .await;
}

/// The pipeline's own database, for what must be asked of it directly.
pub async fn copy_of(pipeline: &Pipeline) -> PgPool {
    pool(&pipeline.database_url).await
}
