//! What operators do by hand: the commands are those of the documents, pasted one block after the other.

use std::path::Path;
use std::process::Command;

use platform::eventually;
use system_tests::compared::at_the_vendor;
use system_tests::flow::Flow;
use system_tests::reader::Reader;
use system_tests::vendor::Vendor;

use super::{ONE_AT_A_TIME, RATE, REGIONS, node, settles, stored};

/// The shell commands below a heading of a document, block by block.
fn blocks<const N: usize>(document: &str, heading: &str) -> [String; N] {
    let text = std::fs::read_to_string(Path::new("../docs").join(document)).expect("a document");
    let section = text.split("\n## ").find(|section| section.starts_with(heading)).expect("its heading");
    let blocks = section.split("```sh\n").skip(1).map(|rest| rest.split("\n```").next().unwrap_or_default().to_owned());
    blocks.collect::<Vec<_>>().try_into().unwrap_or_else(|found| panic!("{document}, {heading}: {found:?}"))
}

fn paste(folder: &Path, block: &str) {
    eprintln!("{block}");
    let ended = Command::new("bash").args(["-euo", "pipefail", "-c", block]).current_dir(folder).status();
    assert!(ended.expect("bash").success(), "{block}");
}

/// As somebody edits it: the first StatefulSet of the file is the primary.
fn set_the_primarys_replicas(folder: &Path, from: &str, to: &str) {
    let file = folder.join("deployment/20-region-a/20-postgres.yaml");
    let manifest = std::fs::read_to_string(&file).expect("a manifest");
    let [from, to] = [from, to].map(|replicas| format!("replicas: {replicas}\n"));
    assert!(manifest.contains(&from), "{manifest}");
    std::fs::write(&file, manifest.replacen(&from, &to, 1)).expect("the manifest");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_is_promoted_and_another_made_as_the_document_says() {
    let Some(node) = node() else { return };
    let _turn = ONE_AT_A_TIME.lock().await;
    let folder = tempfile::tempdir().expect("a folder");
    paste(Path::new(".."), &format!("cp -r deployment {}", folder.path().display()));
    let (a, port) = REGIONS[0];
    let vendor = Vendor::new(&format!("{node}:30001"));
    let chat = vendor.create_chat("While a replica is promoted").await;
    let reader = Reader::watch_chat(&format!("{node}:{port}"), &chat);
    eventually!(reader.loads() > 0, "somebody watches");
    let flow = Flow::begin(&vendor, std::slice::from_ref(&chat), RATE);
    let is_stored = async |by: &str| {
        let key = (chat.clone(), vendor.post(&chat, "this one is stored").await);
        eventually!(stored(a, by).is_some_and(|rows| rows.contains_key(&key)), "{by} has it");
        eventually!(reader.text(&chat, &key.1).is_some(), "it is pushed");
    };
    is_stored("postgres-0").await;

    let [promote, copy, start] = blocks("regions.md", "Promote a replica");
    paste(folder.path(), &promote);
    set_the_primarys_replicas(folder.path(), "1", "0");
    is_stored("postgres-replica-0").await;
    paste(folder.path(), &copy);
    set_the_primarys_replicas(folder.path(), "0", "1");
    paste(folder.path(), &start);
    let [_back_up, restore, _erasures] = blocks("operations.md", "Back up and restore");
    paste(folder.path(), &restore);
    settles(a);
    is_stored("postgres-0").await;
    let changes = flow.end().await;
    let expected = at_the_vendor(&vendor).await;
    for pod in ["postgres-0", "postgres-replica-0"] {
        eventually!(stored(a, pod).as_ref() == Some(&expected), "{pod} is as the vendor is");
    }
    assert_eq!(reader.screen().backwards, Vec::<String>::new());
    eprintln!("{changes} changes while a replica was promoted and another made: lost 0, backwards 0");
}
