//! Promises that need a log or a source which does as it is told.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use all_in_one::embedded_log::EmbeddedLog;
use all_in_one::embedded_store::EmbeddedStore;
use async_trait::async_trait;
use contract::topic::PARTITIONS;
use contract::{Marker, Record, Timestamp, Topics};
use platform::config::Secret;
use platform::event_log::kafka::Kafka;
use platform::event_log::{
    EventLog, LogError, LogRecord, NewRecord, Offsets, Progress, Reader as LogReader, Sharing, Topic, TopicPartition,
    TopicSpec,
};
use platform::eventually;
use platform::health::Health;
use platform::leadership::Leadership;
use platform::lifecycle::Stop;
use platform::sqlite::Sqlite;
use platform::testing::{PATIENCE, postgres_database};
use serde_json::json;
use serde_json::value::RawValue;
use sqlx::PgPool;
use synchronizer::agenda::Agenda;
use synchronizer::checkpoint::Checkpoint;
use synchronizer::source::{ListAt, Listing, Outcome, Page, Source};
use system_tests::pipeline::{Options, Pipeline};
use system_tests::reader::Reader;
use tempfile::TempDir;
use tokio::sync::Semaphore;
use writer::Store;
use writer::batch::Batch;
use writer::failure::StoreError;
use writer::store::Applied;
use writer::suite::message;
use writer::to_postgres::Postgres;

async fn embedded() -> (EmbeddedLog, Arc<EmbeddedStore>, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let db = Sqlite::open(&folder.path().join("log.sqlite")).await.unwrap();
    let store = EmbeddedStore::new(db.clone());
    store.migrate().await.unwrap();
    (EmbeddedLog::open(db).await.unwrap(), Arc::new(store), folder)
}

fn settings() -> synchronizer::Settings {
    #[derive(clap::Parser)]
    struct Args {
        #[command(flatten)]
        settings: synchronizer::Settings,
    }
    <Args as clap::Parser>::parse_from(["synchronizer", "--marker-every", "20ms"]).settings
}

/// Serves one page with one message, then nothing more; lists nothing.
struct OnePage {
    /// The cursor behind which the message is: `None` serves it before the listing, when nothing is known yet.
    before: Option<&'static str>,
}

const BEHIND: &str = "behind the message";

#[async_trait]
impl Source for OnePage {
    async fn poll(&self, after: Option<&str>, _: Duration) -> Outcome<Page> {
        let item = json!({
            "type": "message", "chat_id": "c", "id": "m", "parent_id": null, "author": "a", "text": "x",
            "created_at": "2026-01-02T03:04:05Z", "edited_at": null, "deleted_at": null, "deleted": false, "sequence": 1
        });
        let (items, next) = match after {
            _ if after == self.before => (vec![RawValue::from_string(item.to_string()).unwrap()], BEHIND),
            None => (Vec::new(), self.before.unwrap_or(BEHIND)),
            Some(_) => {
                tokio::time::sleep(Duration::from_millis(20)).await;
                (Vec::new(), BEHIND)
            }
        };
        Outcome::Answered(Page { generation: 1, items, next: next.into(), more: false })
    }

    async fn list(&self, _: &ListAt) -> Outcome<Listing> {
        Outcome::Answered(Listing { generation: 1, items: Vec::new(), next: None })
    }
}

/// A log that stores rows only when it is allowed to; markers pass.
struct SlowAcks {
    log: EmbeddedLog,
    asked: AtomicBool,
    allowed: Semaphore,
}

#[async_trait]
impl EventLog for SlowAcks {
    async fn ensure_topics(&self, topics: &[TopicSpec]) -> Result<(), LogError> {
        self.log.ensure_topics(topics).await
    }
    async fn partitions(&self, topic: &str) -> Result<Option<u32>, LogError> {
        self.log.partitions(topic).await
    }
    async fn append(&self, records: Vec<NewRecord>) -> Result<(), LogError> {
        if records.iter().any(|record| record.key.as_deref() == Some("c/m")) {
            self.asked.store(true, Ordering::SeqCst);
            let _permit = self.allowed.acquire().await.unwrap();
            return self.log.append(records).await;
        }
        self.log.append(records).await
    }
    async fn read(&self, topic: Topic, group: &str, sharing: Sharing) -> Result<Box<dyn LogReader>, LogError> {
        self.log.read(topic, group, sharing).await
    }
    async fn offsets(&self, topic: &str) -> Result<BTreeMap<u32, Offsets>, LogError> {
        self.log.offsets(topic).await
    }
    async fn since(&self, topic: &str, since_ms: i64) -> Result<BTreeMap<u32, u64>, LogError> {
        self.log.since(topic, since_ms).await
    }

    async fn find(&self, at: &TopicPartition, key: &str, since_ms: i64) -> Result<Vec<LogRecord>, LogError> {
        self.log.find(at, key, since_ms).await
    }
    async fn tail(&self, topic: &str, per_partition: u64) -> Result<Vec<LogRecord>, LogError> {
        self.log.tail(topic, per_partition).await
    }
}

/// The markers that claim the message, and the positions of rows: (partition, offset).
async fn claims_and_rows(log: &EmbeddedLog) -> (Vec<(u32, u64)>, Vec<(u32, u64)>) {
    let (mut claims, mut rows) = (Vec::new(), Vec::new());
    for record in log.tail("chat-changes", u64::MAX).await.unwrap() {
        let place = (record.at.partition, record.offset);
        match Record::decode(&record.value, Timestamp::now()).unwrap() {
            Record::Marker(Marker { cursor: Some(cursor), .. }) if cursor == BEHIND => claims.push(place),
            Record::Message(_) => rows.push(place),
            _ => {}
        }
    }
    (claims, rows)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l2_nothing_is_claimed_before_its_acks() {
    nothing_is_claimed_before_its_acks(OnePage { before: None }).await;
    nothing_is_claimed_before_its_acks(OnePage { before: Some("the beginning") }).await;
}

async fn nothing_is_claimed_before_its_acks(source: OnePage) {
    let (log, store, _folder) = embedded().await;
    let slow = Arc::new(SlowAcks { log: log.clone(), asked: AtomicBool::new(false), allowed: Semaphore::new(0) });
    let (stop, health) = (Stop::new(), Health::new());
    let leadership = Leadership::always();
    let running =
        synchronizer::run(settings(), Arc::new(source), store, slow.clone(), leadership, health.clone(), stop.clone());
    let running = tokio::spawn(running);
    eventually!(slow.asked.load(Ordering::SeqCst), "it polled, and waits for the acks");
    assert_eq!(claims_and_rows(&log).await, (Vec::new(), Vec::new()), "claimed without an ack");
    slow.allowed.add_permits(100);
    eventually!(claims_and_rows(&log).await.0.len() >= 12, "every partition has a claim");
    let (claims, rows) = claims_and_rows(&log).await;
    assert_eq!(rows.len(), 1);
    let (partition, row) = rows[0];
    assert!(claims.iter().all(|(at, claim)| *at != partition || *claim > row), "a claim stands before its row");
    stop.cancel();
    running.await.unwrap().unwrap();
}

fn marker() -> Marker {
    Marker {
        source: "external".into(),
        region: "a".into(),
        leader: "a-1".into(),
        number: 1,
        cursor: None,
        settled: None,
        partitions: 12,
        at: Timestamp::now(),
        fresh_as_of: None,
        leads_since: None,
        waiting: None,
        drift: None,
        verified_through: None,
        unreachable: false,
        previous: 0,
        previous_leader: None,
        generation: None,
        gap: false,
        differing: None,
        compared_through: None,
        records: 0,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l3_a_changed_number_of_partitions_refuses_to_start() {
    let (log, store, _folder) = embedded().await;
    let topic = TopicSpec {
        name: "chat-changes".into(),
        partitions: 5,
        compacted: false,
        retention_ms: 1000,
        max_record_bytes: 1 << 20,
    };
    log.ensure_topics(&[topic]).await.unwrap();
    let value = Record::Marker(marker()).encode();
    log.append(vec![NewRecord { topic: "chat-changes".into(), partition: 0, key: None, value, headers: Vec::new() }])
        .await
        .unwrap();
    let run = synchronizer::run(
        settings(),
        Arc::new(OnePage { before: None }),
        store,
        Arc::new(log),
        Leadership::always(),
        Health::new(),
        Stop::new(),
    );
    let refused = tokio::time::timeout(PATIENCE, run).await.expect("it refuses to start");
    let error = refused.unwrap_err().to_string();
    assert!(error.contains("chat-changes") && error.contains('5') && error.contains("12"), "{error}");
}

/// What a leader says: that all is fresh where it polls, and whether its own region lacks something, and since when.
async fn says(log: &Kafka, topics: &Topics, gap: Option<Option<Timestamp>>) {
    let agenda = Agenda::default();
    if let Some(complete_as_of) = gap {
        agenda.ask_since("a hole", complete_as_of);
    }
    let Marker { source, region, leader, number, cursor, settled, at, .. } = marker();
    let key = Some(Checkpoint::key(&source, &region));
    let (earlier, reconcile) = (Vec::new(), agenda.state());
    let generation = None;
    let checkpoint = Checkpoint {
        source,
        region,
        leader,
        number,
        cursor,
        settled,
        earlier,
        generation,
        polls: false,
        reconcile,
        at,
    };
    let record = |topic: &str, partition, key, value| NewRecord {
        topic: topic.into(),
        partition,
        key,
        value,
        headers: Vec::new(),
    };
    let value = Record::Marker(Marker { fresh_as_of: Some(at), ..marker() }).encode();
    let mut records = vec![record(&topics.checkpoints, 0, key, serde_json::to_vec(&checkpoint).unwrap())];
    records.extend((0..PARTITIONS).map(|partition| record(&topics.changes, partition, None, value.clone())));
    log.append(records).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn v5_a_region_that_lacks_something_is_not_fresh_whatever_markers_say() {
    let Some(mut pipeline) = Pipeline::start(Options::default()).await else { return };
    pipeline.ready().await;
    let (log, topics) = (Kafka::new(&pipeline.kafka).unwrap(), Topics::with_suffix(&pipeline.topic_suffix));
    // From now on nobody else says anything.
    pipeline.synchronizer.kill();
    let reader = Reader::watch(&pipeline.internal_address);
    let age = || {
        let heartbeat = reader.screen().heartbeats.pop()?;
        let time = |name: &str| serde_json::from_value::<Option<Timestamp>>(heartbeat[name].clone()).unwrap();
        Some(time("fresh_as_of").map(|fresh| time("now").expect("a heartbeat's own time").since(fresh)))
    };
    let hour = Duration::from_secs(3600);
    let lost_an_hour_ago = Some(Some(Timestamp::now().minus(hour)));
    let nobody_knows = Some(None);
    let fresh = |age: Option<Duration>| age.is_some_and(|age| age < Duration::from_secs(1));
    let old = |age: Option<Duration>| age.is_some_and(|age| age >= hour);
    let of_unknown_age = |age: Option<Duration>| age.is_none();
    let says_and_shows: [(_, &dyn Fn(_) -> bool); 4] =
        [(None, &fresh), (lost_an_hour_ago, &old), (nobody_knows, &of_unknown_age), (None, &fresh)];
    for (gap, shown) in says_and_shows {
        eventually!(
            {
                says(&log, &topics, gap).await;
                age().is_some_and(shown)
            },
            "a gap: {gap:?}, and the page is {:?} old",
            age()
        );
    }
}

fn one_partition() -> TopicSpec {
    TopicSpec {
        name: "chat-changes".into(),
        partitions: 1,
        compacted: false,
        retention_ms: 1000,
        max_record_bytes: 1 << 20,
    }
}

async fn append(log: &EmbeddedLog, ids: std::ops::Range<u64>) {
    let record = |id: u64| {
        let record = Record::Message(message("c", &format!("m{id}"), id + 1));
        NewRecord {
            topic: "chat-changes".into(),
            partition: 0,
            key: record.key(),
            value: record.encode(),
            headers: Vec::new(),
        }
    };
    log.append(ids.map(record).collect()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn w3_a_store_that_went_back_in_time_is_caught_up() {
    let Some(url) = postgres_database().await else { return };
    let (log, _, _folder) = embedded().await;
    log.ensure_topics(&[one_partition()]).await.unwrap();
    append(&log, 0..15).await;
    let writing = Writing::begin(log.clone(), in_postgres(&url));
    let pool = PgPool::connect(url.expose()).await.unwrap();
    let count = async || count(&pool, "messages").await;
    eventually!(count().await == 15, "the first are stored");
    sqlx::raw_sql("CREATE TABLE older AS TABLE progress").execute(&pool).await.unwrap();
    append(&log, 15..20).await;
    eventually!(count().await == 20, "more are stored");
    // As an older copy of the data folder would be: rows and position together, in one step.
    let go_back = "BEGIN; DELETE FROM messages WHERE id IN ('m15', 'm16', 'm17', 'm18', 'm19'); \
                   DELETE FROM progress; INSERT INTO progress TABLE older; COMMIT";
    sqlx::raw_sql(go_back).execute(&pool).await.unwrap();
    append(&log, 20..25).await;
    eventually!(count().await == 25, "what the store forgot is applied again");
    let next: i64 = sqlx::query_scalar("SELECT next_offset FROM progress").fetch_one(&pool).await.unwrap();
    assert_eq!(next, 25);
    writing.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn w1_another_log_in_the_place_of_the_one_that_was_applied_is_noticed() {
    let Some(url) = postgres_database().await else { return };
    let pool = PgPool::connect(url.expose()).await.unwrap();
    let count = async |table| count(&pool, table).await;
    let (first, _, _folder) = embedded().await;
    first.ensure_topics(&[one_partition()]).await.unwrap();
    append(&first, 0..15).await;
    let writing = Writing::begin(first, in_postgres(&url));
    eventually!(count("messages").await == 15, "the first log is stored");
    writing.end().await;
    let requests = count("reconcile_requests").await;
    // It is longer than what was applied of the first: no offset tells them apart.
    let (second, _, _folder) = embedded().await;
    second.ensure_topics(&[one_partition()]).await.unwrap();
    append(&second, 100..130).await;
    let writing = Writing::begin(second, in_postgres(&url));
    eventually!(count("messages").await == 45, "the second log is stored from its beginning");
    eventually!(count("reconcile_requests").await > requests, "what the first one still had is asked for");
    writing.end().await;
}

/// A writer that runs in this process.
struct Writing {
    stop: Stop,
    task: tokio::task::JoinHandle<()>,
}

impl Writing {
    fn begin(log: EmbeddedLog, store: Arc<dyn Store>) -> Self {
        let settings = writer::Settings { topic_suffix: String::new(), group: "writer".into() };
        let stop = Stop::new();
        let running = writer::run(settings, Arc::new(log), store, Health::new(), stop.clone());
        let task = tokio::spawn(async { running.await.unwrap() });
        Self { stop, task }
    }

    async fn end(self) {
        self.stop.cancel();
        self.task.await.unwrap();
    }
}

fn in_postgres(url: &Secret) -> Arc<dyn Store> {
    Arc::new(Postgres::new(platform::postgres::pool(url, 2, true).unwrap()))
}

/// How many rows a table has; 0 before it is there.
async fn count(pool: &PgPool, table: &str) -> i64 {
    let question = sqlx::AssertSqlSafe(format!("SELECT count(*) FROM {table}"));
    sqlx::query_scalar(question).fetch_one(pool).await.unwrap_or_default()
}

/// A store that refuses one message for what it is.
struct Picky(EmbeddedStore);

#[async_trait]
impl Store for Picky {
    async fn migrate(&self) -> Result<(), StoreError> {
        self.0.migrate().await
    }
    async fn progress(&self) -> Result<BTreeMap<TopicPartition, Progress>, StoreError> {
        self.0.progress().await
    }
    async fn ask_reconcile(&self, reason: &str, gap: bool) -> Result<i64, StoreError> {
        self.0.ask_reconcile(reason, gap).await
    }
    async fn apply(&self, batch: &Batch) -> Result<Applied, StoreError> {
        match batch.messages.iter().any(|message| message.id == "m7") {
            true => Err(StoreError::Data("not this one".into())),
            false => self.0.apply(batch).await,
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn w4_a_record_that_the_store_refuses_is_found_and_dead_lettered_alone() {
    let folder = tempfile::tempdir().unwrap();
    let db = Sqlite::open(&folder.path().join("log.sqlite")).await.unwrap();
    let store = EmbeddedStore::new(db.clone());
    store.migrate().await.unwrap();
    let log = EmbeddedLog::open(db.clone()).await.unwrap();
    log.ensure_topics(&[one_partition()]).await.unwrap();
    append(&log, 0..20).await;
    let writing = Writing::begin(log, Arc::new(Picky(store)));
    let count = async |sql: &'static str| sqlx::query_scalar::<_, i64>(sql).fetch_one(&db.read).await.unwrap();
    eventually!(count("SELECT coalesce(max(next_offset), 0) FROM progress").await == 20, "all have met their fate");
    assert_eq!(count("SELECT count(*) FROM messages").await, 19);
    assert_eq!(
        count("SELECT count(*) FROM dead_letters WHERE reason = 'refused_by_store' AND \"offset\" = 7").await,
        1
    );
    writing.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn v5_a_source_that_is_away_shows_as_age() {
    let Some(mut pipeline) = Pipeline::start(Options::default()).await else { return };
    pipeline.ready().await;
    let reader = Reader::watch(&pipeline.internal_address);
    let age = || {
        let heartbeat = reader.screen().heartbeats.pop()?;
        let time = |name: &str| heartbeat[name].as_str()?.parse::<Timestamp>().ok();
        Some(time("now")?.since(time("fresh_as_of")?).as_secs())
    };
    eventually!(age().is_some_and(|age| age < 5), "the copy is fresh");
    pipeline.external.kill();
    eventually!(age().is_some_and(|age| age >= 8), "the copy is said to be old");
    let source = async || system_tests::metrics::check(&pipeline.synchronizer_address, "source").await;
    eventually!(
        {
            let (status, detail) = source().await;
            status == 503 && detail.contains("Connection refused")
        },
        "and why: {:?}",
        source().await
    );
    pipeline.external.start_again();
    eventually!(age().is_some_and(|age| age < 5), "the copy is fresh again");
}
