//! Writers are killed in the middle of a transaction, frozen across a rebalance, and given one partition twice.

use std::os::unix::process::ExitStatusExt;
use std::time::Duration;

use platform::eventually;
use platform::testing::unique_suffix;
use system_tests::pipeline::Options;
use system_tests::process::{free_port, ready};

use crate::table::Row;
use crate::trial::{Member, Setup, Trial, alone, check};

/// What keeps a batch of another writer, or one that was stored before, from being stored twice.
const MISSES: &str = "chat_sync_writer_lost_places_total";
/// Longer than Kafka waits for a member of a group.
const FROZEN: Duration = Duration::from_secs(14);

/// Three writers, and so many chats that whichever partitions one of them has, people write in some of these.
fn three_with_work(options: Options) -> Setup {
    Setup { options, writers: 2, more_chats: 24, ..Setup::default() }
}

/// The writer is killed where it passes this point for the hundredth time; others are in its group.
async fn killed_at(point: &'static str, row: Row) {
    let writer = vec![("FAIL_POINT", format!("{point}:100"))];
    let options = Options { writer, ..Options::default() };
    let Some(mut trial) = Trial::begin(three_with_work(options)).await else {
        return row.not_run("no servers");
    };
    assert_eq!(trial.pipeline.writer.ended().await.signal(), Some(9), "by its fail point");
    trial.pipeline.writer.set("FAIL_POINT", "none");
    trial.pipeline.writer.start_again();
    trial.pipeline.ready().await;
    trial.goes_on().await;
    let verdict = trial.end(&[]).await;
    row.came_to(true, &format!("{} changes; source = Postgres, no step back, no dead letter", verdict.changes));
}

fn killed(number: &'static str, fault: &'static str) -> Row {
    Row { number, fault, promise: "W1, W4", expected: "no effect twice: nothing falls, nothing is dead-lettered" }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn w1_a_writer_is_killed_before_its_transaction() {
    alone(async {
        killed_at("writer.collapsed", killed("08a", "writer `kill -9` before its transaction")).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn w1_a_writer_is_killed_as_its_transaction_begins() {
    alone(async {
        killed_at("writer.begun", killed("08b", "writer `kill -9` as its transaction begins")).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn w1_a_writer_is_killed_after_it_moved_progress() {
    alone(async {
        killed_at("writer.moved", killed("08c", "writer `kill -9` after progress, before rows")).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn w1_a_writer_is_killed_after_its_rows() {
    alone(async {
        killed_at("writer.upserted", killed("08d", "writer `kill -9` after rows, before versions")).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn w1_a_writer_is_killed_before_its_commit() {
    alone(async {
        killed_at("writer.committing", killed("08e", "writer `kill -9` before its commit")).await;
    })
    .await;
}

/// The predecessor's "old data after a restart": what was committed and not told is read again from where Postgres
/// says, and nothing of it falls.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn old_data_after_a_restart_is_never_stored_over_newer() {
    alone(async {
        killed_at("writer.committed", killed("08f", "writer `kill -9` after its commit")).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn w1_a_writer_is_frozen_across_a_rebalance_and_wakes() {
    alone(async {
        let row = Row {
            number: "09a",
            fault: "writer frozen in its transaction across a rebalance, woken",
            promise: "W1, W2",
            expected: "its transaction comes to nothing; at least one batch given up",
        };
        let writer = vec![("FAIL_POINT", "writer.begun:100:STOP".to_owned())];
        let options = Options { writer, ..Options::default() };
        let Some(trial) = Trial::begin(three_with_work(options)).await else {
            return row.not_run("no servers");
        };
        let addresses = trial.writer_addresses();
        trial.for_a(FROZEN).await;
        let others: Vec<String> = addresses[1..].to_vec();
        eventually!(trial.sum(&others, "chat_sync_writer_partitions").await >= 12.0, "the others have its partitions");
        trial.goes_on().await;
        trial.pipeline.writer.signal("CONT");
        eventually!(check(&addresses[0], "store").await.0 == 200, "it goes on");
        let own = &addresses[..1];
        eventually!(trial.sum(own, MISSES).await >= 1.0, "its batch is given up");
        let missed = trial.sum(own, MISSES).await;
        trial.goes_on().await;
        trial.end(&[]).await;
        row.came_to(true, &format!("batches given up: {missed:.0}"));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn w1_a_writer_frozen_with_its_transaction_open_holds_nobody_up_for_long() {
    alone(async {
        let row = Row {
            number: "09b",
            fault: "writer frozen with its transaction open (it holds locks)",
            promise: "W1",
            expected: "the others go on without it",
        };
        let writer = vec![("FAIL_POINT", "writer.moved:100:STOP".to_owned())];
        let options = Options { writer, ..Options::default() };
        let Some(trial) = Trial::begin(three_with_work(options)).await else {
            return row.not_run("no servers");
        };
        let others = trial.writer_addresses()[1..].to_vec();
        eventually!(trial.sum(&others, "chat_sync_writer_partitions").await >= 12.0, "the others have its partitions");
        let records = trial.sum(&others, "chat_sync_writer_records_total").await;
        eventually!(trial.sum(&others, "chat_sync_writer_records_total").await > records + 1000.0, "they go on");
        trial.pipeline.writer.signal("CONT");
        trial.goes_on().await;
        let verdict = trial.end(&[]).await;
        row.came_to(true, &format!("{} changes stored", verdict.changes));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn w1_two_writers_are_given_one_partition() {
    alone(async {
        let row = Row {
            number: "09c",
            fault: "two writers given every partition at once, on purpose",
            promise: "W1, W2",
            expected: "whole transactions rolled back, at least one",
        };
        let Some(mut trial) = Trial::begin(Setup::default()).await else { return row.not_run("no servers") };
        let address = format!("127.0.0.1:{}", free_port());
        // Another group: Kafka gives it everything that the first one has.
        let group = vec![("CHAT_SYNC_WRITER_GROUP", format!("rival{}", unique_suffix()))];
        let process = trial.pipeline.another_writer(&address, group);
        ready(&address).await;
        trial.writers.push(Member { process, address });
        let addresses = trial.writer_addresses();
        eventually!(trial.sum(&addresses, MISSES).await >= 1.0, "batches are given up");
        trial.goes_on().await;
        let missed = trial.sum(&addresses, MISSES).await;
        let verdict = trial.end(&[]).await;
        row.came_to(true, &format!("batches given up: {missed:.0}; {} changes stored", verdict.changes));
    })
    .await;
}
