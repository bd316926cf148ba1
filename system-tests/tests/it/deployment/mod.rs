//! On a Kubernetes cluster to which `deployment/` was applied; `cargo xtask test deployment` does that.

mod runbook;

use std::io::Write;
use std::process::{Command, Stdio};

use platform::eventually;
use platform::testing::skip;
use serde_json::{Value, json};
use system_tests::browser::Browser;
use system_tests::compared::{Rows, at_the_vendor};
use system_tests::flow::Flow;
use system_tests::reader::Reader;
use system_tests::vendor::Vendor;
use tokio::sync::Mutex;

/// Each region's namespace, and the port of the node where its pages are.
const REGIONS: [(&str, u16); 2] = [("chat-sync-a", 30002), ("chat-sync-b", 30012)];
/// Changes a second.
const RATE: u64 = 20;
/// They do things to one cluster.
static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());

fn node() -> Option<String> {
    let node = std::env::var("CHAT_SYNC_TEST_DEPLOYMENT").ok();
    if node.is_none() {
        skip("`cargo xtask test deployment` applies deployment/ to a cluster");
    }
    node
}

fn kubectl(namespace: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new("kubectl").args(["-n", namespace]).args(arguments).output().expect("kubectl");
    if !output.status.success() {
        eprintln!("kubectl {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        return None;
    }
    Some(String::from_utf8(output.stdout).expect("UTF-8"))
}

fn does(namespace: &str, arguments: &[&str]) -> String {
    kubectl(namespace, arguments).unwrap_or_else(|| panic!("kubectl -n {namespace} {arguments:?}"))
}

/// The holder is the pod's name and a random part.
fn leader(namespace: &str) -> String {
    let lease = kubectl(namespace, &["get", "lease", "synchronizer", "-o", "jsonpath={.spec.holderIdentity}"]);
    lease.and_then(|holder| holder.rsplit_once('-').map(|(pod, _)| pod.to_owned())).unwrap_or_default()
}

/// Ends a pod without warning, and waits until another has its place.
async fn kill(namespace: &str, app: &str, pod: &str) {
    eprintln!("{namespace}: {pod} is killed");
    let uid = does(namespace, &["get", "pod", pod, "-o", "jsonpath={.metadata.uid}"]);
    let selector = format!("app={app}");
    let pods = || does(namespace, &["get", "pods", "-l", &selector, "-o", "jsonpath={.items[*].metadata.uid}"]);
    let before = pods().split(' ').count();
    does(namespace, &["delete", "pod", pod, "--grace-period=0", "--force"]);
    eventually!(!pods().contains(&uid) && pods().split(' ').count() == before, "another pod of {app}");
}

/// Asks the cluster to move a pod, as `kubectl drain` does; `false` while a disruption budget forbids it.
fn evicted(namespace: &str, pod: &str) -> bool {
    let path = format!("/api/v1/namespaces/{namespace}/pods/{pod}/eviction");
    let metadata = json!({ "name": pod, "namespace": namespace });
    let eviction = json!({ "apiVersion": "policy/v1", "kind": "Eviction", "metadata": metadata });
    let mut kubectl = Command::new("kubectl");
    kubectl
        .args(["create", "--raw", &path, "-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let mut kubectl = kubectl.spawn().expect("kubectl");
    kubectl.stdin.take().expect("its input").write_all(eviction.to_string().as_bytes()).expect("kubectl");
    kubectl.wait().expect("kubectl").success()
}

/// Moves every pod of a region, one after the other, as an operator does who empties a machine.
async fn drain(namespace: &str) {
    let pods = does(namespace, &["get", "pods", "-o", "jsonpath={.items[*].metadata.name}"]);
    for pod in pods.split(' ') {
        eprintln!("{namespace}: {pod} is evicted");
        eventually!(evicted(namespace, pod), "{pod} is evicted");
    }
    settles(namespace);
}

/// Rolls a region's services to the images of a tag.
fn roll_to(namespace: &str, tag: &str) {
    for (kind, service) in [("deployment", "synchronizer"), ("deployment", "writer"), ("statefulset", "internal")] {
        let (name, image) = (format!("{kind}/{service}"), format!("{service}=chat-sync/{service}:{tag}"));
        does(namespace, &["set", "image", &name, &image]);
    }
}

/// The first pod of an application.
fn pod_of(namespace: &str, app: &str) -> String {
    does(namespace, &["get", "pods", "-l", &format!("app={app}"), "-o", "jsonpath={.items[0].metadata.name}"])
}

/// Everything of a region is as it should be.
fn settles(namespace: &str) {
    for kind in ["statefulset", "deployment"] {
        let names = does(namespace, &["get", kind, "-o", "name"]);
        for name in names.lines() {
            does(namespace, &["rollout", "status", name, "--timeout=300s"]);
        }
    }
}

/// What a region's database has; `None` while it does not answer.
fn stored(namespace: &str, pod: &str) -> Option<Rows> {
    let rows = "SELECT json_build_array(chat_id, id, deleted, author, text) FROM messages";
    let arguments = ["exec", pod, "-c", "postgres", "--", "psql", "-U", "chat_sync", "-d", "chat_sync", "-Atc", rows];
    let rows = kubectl(namespace, &arguments)?;
    let row = |line: &str| {
        let row: Value = serde_json::from_str(line).expect("JSON");
        let text = |at: usize| row[at].as_str().map(str::to_owned);
        ((text(0).expect("a chat"), text(1).expect("an id")), (row[2] == true, text(3), text(4)))
    };
    Some(rows.lines().map(row).collect())
}

/// A region's whole topic, as text. Markers come all the time, so that the consumer would never end by itself.
fn log(namespace: &str, topic: &str) -> String {
    let consumer = "/opt/kafka/bin/kafka-console-consumer.sh --bootstrap-server localhost:9092 --from-beginning";
    let script = format!("timeout 20 {consumer} --topic {topic}; true");
    does(namespace, &["exec", "kafka-0", "--", "sh", "-c", &script])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_is_on_the_pages_in_the_databases_and_in_the_logs_of_both_regions() {
    let Some(node) = node() else { return };
    let _turn = ONE_AT_A_TIME.lock().await;
    let vendor = Vendor::new(&format!("{node}:30001"));
    let chat = vendor.create_chat("On Kubernetes").await;
    let id = vendor.post(&chat, "everywhere").await;
    for (namespace, port) in REGIONS {
        let address = format!("{node}:{port}");
        let reader = Reader::watch(&address);
        eventually!(reader.text(&chat, &id).is_some(), "{namespace} pushes it");
        if let Some(browser) = Browser::open().await {
            browser.show(&address, &format!("#/{chat}")).await;
            let mut said;
            eventually!(
                {
                    said = browser.says().await;
                    browser.shows(&id, "everywhere").await
                },
                "{namespace}'s page shows it; it says {said}"
            );
            browser.close().await;
        }
        for pod in ["postgres-0", "postgres-replica-0"] {
            let text = |rows: Rows| rows.get(&(chat.clone(), id.clone())).and_then(|row| row.2.clone());
            let is_there = || stored(namespace, pod).and_then(text).as_deref() == Some("everywhere");
            eventually!(is_there(), "{pod} of {namespace} has it");
        }
    }
    // One of them polls; the other has it through the mirror.
    let own = |namespace| log(namespace, "chat-changes").contains(&id);
    let mirrored = |namespace, topic| log(namespace, topic).contains(&id);
    let by_a = || own("chat-sync-a") && mirrored("chat-sync-b", "a.chat-changes");
    let by_b = || own("chat-sync-b") && mirrored("chat-sync-a", "b.chat-changes");
    // Twenty seconds may not be enough to read a whole topic.
    eventually!(by_a() || by_b(), "both regions' Kafka have it");
    let page = system_tests::http::get(format!("http://{node}:30080/")).await.expect("KafkaUI answers");
    assert!(page.status().is_success());
    let shown = page.text().await.expect("a page");
    assert!(shown.contains("region-a") && shown.contains("region-b"), "{shown}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_whatever_the_cluster_does_to_pods_and_to_a_whole_region() {
    let Some(node) = node() else { return };
    let _turn = ONE_AT_A_TIME.lock().await;
    let (a, b) = (REGIONS[0].0, REGIONS[1].0);
    let vendor = Vendor::new(&format!("{node}:30001"));
    let mut chats = Vec::new();
    for number in 0..4 {
        chats.push(vendor.create_chat(&format!("While pods go {number}")).await);
    }
    let readers: Vec<Reader> = REGIONS.map(|(_, port)| Reader::watch(&format!("{node}:{port}"))).into();
    eventually!(readers.iter().all(|reader| reader.loads() >= 4), "both regions are watched");
    let flow = Flow::begin(&vendor, &chats, RATE);
    let goes_on = async |what: &str| {
        let id = vendor.post(&chats[0], "this one is seen").await;
        for ((namespace, _), reader) in REGIONS.iter().zip(&readers) {
            eventually!(
                reader.text(&chats[0], &id).is_some(),
                "{namespace} goes on: {what}; its reader: {}",
                reader.state()
            );
        }
        eprintln!("goes on: {what}");
    };
    let killed = leader(a);
    assert!(killed.starts_with("synchronizer-"), "{killed}");
    kill(a, "synchronizer", &killed).await;
    eventually!(leader(a) != killed && !leader(a).is_empty(), "another leads");
    goes_on("the leader was killed").await;
    for app in ["internal", "writer", "kafka", "postgres"] {
        kill(a, app, &pod_of(a, app)).await;
        settles(a);
        goes_on(app).await;
    }
    for (kind, name, replicas) in [("deployment", "writer", "3"), ("statefulset", "internal", "3")] {
        does(b, &["scale", kind, name, &format!("--replicas={replicas}")]);
    }
    settles(b);
    goes_on("b was scaled").await;
    drain(b).await;
    goes_on("every pod of b was evicted").await;
    // a stays as it is, so that both versions share the topics, and while it is rolled also b's database and Redis.
    let other = std::env::var("CHAT_SYNC_TEST_OTHER_IMAGES").expect("the tag of other images");
    roll_to(b, &other);
    settles(b);
    goes_on("b was rolled to other images").await;

    let names = |kind| does(a, &["get", kind, "-o", "name"]);
    let all: Vec<String> = [names("deployment"), names("statefulset")].concat().lines().map(str::to_owned).collect();
    for name in &all {
        does(a, &["scale", name, "--replicas=0"]);
    }
    does(a, &["wait", "--for=delete", "pod", "--all", "--timeout=180s"]);
    let id = vendor.post(&chats[0], "while a is gone").await;
    eventually!(readers[1].text(&chats[0], &id).is_some(), "b polls by itself");
    let applied = Command::new("kubectl").args(["apply", "-Rf", "../deployment"]).status().expect("kubectl");
    assert!(applied.success());
    settles(a);
    settles(b);
    goes_on("region a is back, and b's images are those of before").await;
    let changes = flow.end().await;
    let expected = at_the_vendor(&vendor).await;
    for namespace in [a, b] {
        for pod in ["postgres-0", "postgres-replica-0"] {
            eventually!(stored(namespace, pod).as_ref() == Some(&expected), "{pod} of {namespace} is as the vendor is");
        }
    }
    for reader in &readers {
        assert_eq!(reader.screen().backwards, Vec::<String>::new());
    }
    eprintln!("{changes} changes: lost 0, backwards 0, in both databases and replicas of both regions");
}
