//! Several pods of internal: each may be killed, frozen or told to end while people watch; browsers go to another.

use std::time::Duration;

use platform::eventually;
use system_tests::metrics;
use system_tests::process::ready;

use crate::table::Row;
use crate::trial::{RATE, Setup, Trial, alone};

const PODS: usize = 3;
const EXPECTED: &str = "every screen right in the end";

async fn pods(row: &Row) -> Option<Trial> {
    let trial = Trial::begin(Setup { pods: PODS - 1, ..Setup::default() }).await;
    if trial.is_none() {
        row.not_run("no servers");
    }
    trial
}

/// Resumes that were answered exactly, and loads, by all pods that live.
async fn answered(trial: &Trial) -> (f64, f64) {
    let (mut resumes, mut loads) = (0.0, 0.0);
    for address in trial.pod_addresses() {
        resumes += metrics::value(&address, "chat_sync_resumes_total").await.unwrap_or(0.0);
        loads += metrics::value(&address, "chat_sync_loads_total").await.unwrap_or(0.0);
    }
    (resumes, loads)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn v2_pods_are_killed_one_after_another() {
    alone(async {
        let fault = "each of three pods `kill -9`, one after another; browsers resume at another";
        let row = Row { number: "19a", fault, promise: "V1-V4", expected: EXPECTED };
        let Some(mut trial) = pods(&row).await else { return };
        for number in 0..PODS {
            trial.pod(number).kill();
            trial.writes(2 * RATE).await;
            trial.pod(number).start_again();
            ready(&trial.pod_addresses()[number]).await;
        }
        trial.goes_on().await;
        let (resumes, loads) = answered(&trial).await;
        let readers = trial.readers.len();
        trial.end(&[]).await;
        row.came_to(true, &format!("{readers} browsers; {resumes} resumes answered exactly, {loads} loads"));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn v2_a_pod_is_frozen_while_others_go_on() {
    alone(async {
        let fault = "a pod frozen for 15 s, woken: what it pushes then is old";
        let row = Row { number: "19b", fault, promise: "V2, V3", expected: EXPECTED };
        let Some(mut trial) = pods(&row).await else { return };
        trial.pod(1).signal("STOP");
        // Longer than a browser waits for a word.
        trial.for_a(Duration::from_secs(15)).await;
        let others = [trial.pod_addresses()[0].clone(), trial.pod_addresses()[2].clone()];
        let readers = trial.readers.len() as f64;
        eventually!(
            trial.sum(&others, "chat_sync_browsers").await >= readers,
            "browsers of the frozen one have come to others"
        );
        trial.pod(1).signal("CONT");
        trial.goes_on().await;
        let (resumes, loads) = answered(&trial).await;
        trial.end(&[]).await;
        row.came_to(true, &format!("{resumes} resumes answered exactly, {loads} loads"));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn v2_pods_are_told_to_end_one_after_another() {
    alone(async {
        let fault = "each of three pods told to end and started again: a rolling update";
        let row = Row { number: "19c", fault, promise: "V1-V4", expected: "every browser resumes exactly; no load" };
        let Some(mut trial) = pods(&row).await else { return };
        for number in 0..PODS {
            let address = trial.pod_addresses()[number].clone();
            assert!(trial.pod(number).terminate().await.success(), "it ends well");
            trial.writes(RATE).await;
            trial.pod(number).start_again();
            ready(&address).await;
            trial.goes_on().await;
        }
        let reloaded = trial.readers.iter().filter(|reader| reader.screen().loads > 1).count();
        let readers = trial.readers.len();
        trial.end(&[]).await;
        row.came_to(reloaded == 0, &format!("{reloaded} of {readers} browsers had to load again"));
    })
    .await;
}
