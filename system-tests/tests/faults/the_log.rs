//! The log is replaced, or cut by its retention below what was stored.

use contract::Topics;
use platform::eventually;
use system_tests::compared::{at_the_vendor, in_the_copy};
use system_tests::metrics;
use system_tests::own_kafka::{self, OwnKafka};
use system_tests::pipeline::Options;
use system_tests::tool::verifies;

use crate::servers::copy_of;
use crate::table::Row;
use crate::trial::{RATE, Setup, Trial, alone, now_ms};

/// All changes that are in the log are gone.
pub async fn delete_the_topic(brokers: &str, topic_suffix: &str) {
    let topic = Topics::with_suffix(topic_suffix).changes;
    own_kafka::delete_topic(brokers, &topic).await;
}

/// A reconcile ran by itself and found everything; what the checker reads in the log is gone with it.
async fn is_whole_again(mut trial: Trial, fault_at: f64, row: Row) {
    let vendor = trial.vendor();
    let changes = trial.stop_writing().await;
    let pool = copy_of(&trial.pipeline).await;
    let expected = at_the_vendor(&vendor).await;
    eventually!(in_the_copy(&pool).await == expected, "Postgres is as the vendor is");
    let address = trial.pipeline.synchronizer_address.clone();
    let asked: i64 =
        sqlx::query_scalar("SELECT count(*) FROM reconcile_requests").fetch_one(&pool).await.expect("requests");
    assert!(asked > 0, "a reconcile is asked for");
    eventually!(
        metrics::value(&address, "chat_sync_verified_through").await.is_some_and(|through| through > fault_at)
            && metrics::value(&address, "chat_sync_drift_messages").await == Some(0.0),
        "a round that began after the fault finds nothing"
    );
    verifies(&trial.pipeline).await;
    row.came_to(true, &format!("{changes} changes, all there; reconciles asked for: {asked}; drift 0"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn w1_the_topic_is_deleted_and_made_again() {
    alone(async {
        let row = Row {
            number: "14a",
            fault: "topic deleted and made again",
            promise: "W1, W4",
            expected: "reconcile runs by itself, drift 0",
        };
        let Some(trial) = Trial::begin(Setup::default()).await else { return row.not_run("no servers") };
        // The synchronizer makes it again by itself.
        delete_the_topic(&trial.pipeline.kafka, &trial.pipeline.topic_suffix).await;
        let fault_at = now_ms() as f64 / 1000.0;
        trial.writes(2 * RATE).await;
        trial.goes_on().await;
        is_whole_again(trial, fault_at, row).await;
    })
    .await;
}

/// The partitions of the new topic begin at a leader epoch that is older than what the clients know, and librdkafka
/// does not believe it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn v1_the_topic_is_made_again_after_its_broker_was_restarted() {
    alone(async {
        let row = Row {
            number: "14c",
            fault: "Kafka restarted, then the topic deleted and made again",
            promise: "V1, W1, W4",
            expected: "nobody who reads it stays deaf; reconcile runs by itself, drift 0",
        };
        let Some(mut kafka) = OwnKafka::start().await else { return row.not_run("no Kafka of its own") };
        let options = Options { kafka: Some(kafka.address.clone()), ..Options::default() };
        let setup = Setup { options, writers: 1, ..Setup::default() };
        let Some(trial) = Trial::begin(setup).await else { return row.not_run("no servers") };
        kafka.kill();
        kafka.start_again().await;
        trial.goes_on().await;
        delete_the_topic(&kafka.address, &trial.pipeline.topic_suffix).await;
        let fault_at = now_ms() as f64 / 1000.0;
        trial.writes(2 * RATE).await;
        trial.goes_on().await;
        is_whole_again(trial, fault_at, row).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn w1_retention_cuts_the_log_below_what_was_stored() {
    alone(async {
        let row = Row {
            number: "14b",
            fault: "progress out of range after retention",
            promise: "W1, W4",
            expected: "reconcile runs by itself, drift 0",
        };
        let Some(mut trial) = Trial::begin(Setup::default()).await else { return row.not_run("no servers") };
        let topic = Topics::with_suffix(&trial.pipeline.topic_suffix).changes;
        let kafka = trial.pipeline.kafka.clone();
        trial.pipeline.writer.kill();
        trial.writes(3 * RATE).await;
        own_kafka::cut_topic(&kafka, &topic).await;
        let fault_at = now_ms() as f64 / 1000.0;
        trial.pipeline.writer.start_again();
        trial.pipeline.ready().await;
        trial.goes_on().await;
        is_whole_again(trial, fault_at, row).await;
    })
    .await;
}
