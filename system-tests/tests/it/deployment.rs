//! On a Kubernetes cluster to which `deployment/` was applied; `cargo xtask test deployment` does that.

use std::process::Command;

use platform::eventually;
use platform::testing::skip;
use system_tests::reader::Reader;
use system_tests::vendor::Vendor;

fn node() -> Option<String> {
    let node = std::env::var("CHAT_SYNC_TEST_DEPLOYMENT").ok();
    if node.is_none() {
        skip("`cargo xtask test deployment` applies deployment/ to a cluster");
    }
    node
}

fn kubectl(arguments: &[&str]) -> String {
    let output = Command::new("kubectl").args(["-n", "chat-sync-a"]).args(arguments).output().expect("kubectl");
    assert!(output.status.success(), "kubectl {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// The holder is the pod's name and a random part.
fn leader() -> String {
    let holder = kubectl(&["get", "lease", "synchronizer", "-o", "jsonpath={.spec.holderIdentity}"]);
    holder.rsplit_once('-').map(|(pod, _)| pod.to_owned()).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_posted_at_the_vendor_is_seen_and_still_is_when_the_leader_was_killed() {
    let Some(node) = node() else { return };
    let vendor = Vendor::new(&format!("{node}:30001"));
    let reader = Reader::watch(&format!("{node}:30002"));
    let chat = vendor.create_chat("On Kubernetes").await;
    let first = vendor.post(&chat, "before").await;
    eventually!(reader.text(&chat, &first).is_some(), "the first message is on the screen");
    let killed = leader();
    assert!(killed.starts_with("synchronizer-"), "{killed}");
    kubectl(&["delete", "pod", &killed, "--grace-period=0", "--force", "--wait=false"]);
    let mut posted = vec![first];
    while leader() == killed || leader().is_empty() {
        posted.push(vendor.post(&chat, "meanwhile").await);
    }
    posted.push(vendor.post(&chat, "after").await);
    for message in &posted {
        eventually!(reader.text(&chat, message).is_some(), "a message posted around the handover is on the screen");
    }
    eprintln!(
        "the leader {killed} was killed, {} leads; {} messages posted meanwhile, none lost",
        leader(),
        posted.len()
    );
    let page = system_tests::http::get(format!("http://{node}:30080/")).await.expect("KafkaUI answers");
    assert!(page.status().is_success());
}
