//! Two synchronizers on a real Kubernetes API: one leads, and a handover loses nothing.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use contract::{Timestamp, Topics};
use k8s_openapi::api::authorization::v1::SelfSubjectAccessReview;
use kube::api::{Api, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use platform::event_log::EventLog;
use platform::event_log::kafka::Kafka;
use platform::eventually;
use platform::leadership::{Lease, LeaseSettings};
use platform::lifecycle::Stop;
use platform::testing::{OwnLease, server, unique_suffix};
use serde_json::{Value, json};
use synchronizer::checkpoint::Checkpoint;
use system_tests::metrics;
use system_tests::pipeline::{Options, Pipeline};
use system_tests::process::{Process, free_port, ready};
use system_tests::reader::Reader;

async fn role(address: &str) -> Option<String> {
    let ready: Value = system_tests::http::get(format!("http://{address}/readyz")).await.ok()?.json().await.ok()?;
    Some(ready["checks"]["leadership"]["detail"].as_str()?.to_owned())
}

async fn leads(address: &str) -> bool {
    role(address).await.is_some_and(|role| role.starts_with("leads since"))
}

struct World {
    pipeline: Pipeline,
    second: Process,
    second_address: String,
    reader: Reader,
    chat: String,
    /// Deleted when nobody can renew it any more: after the processes.
    _lease: OwnLease,
}

/// The pipeline's own synchronizer leads; the second stands by.
async fn world() -> Option<World> {
    let lease = OwnLease::new()?;
    let options = Options { synchronizer: lease.variables(), ..Options::default() };
    let pipeline = Pipeline::start(options).await?;
    pipeline.ready().await;
    eventually!(leads(&pipeline.synchronizer_address).await, "the first leads");
    let second_address = format!("127.0.0.1:{}", free_port());
    let second = pipeline.another_synchronizer(&second_address, lease.variables());
    ready(&second_address).await;
    eventually!(
        role(&second_address).await.is_some_and(|role| role.starts_with("standby of synchronizer-")),
        "the second knows who leads"
    );
    let chat = pipeline.vendor().create_chat("Handover").await;
    let reader = Reader::watch(&pipeline.internal_address);
    Some(World { pipeline, second, second_address, reader, chat, _lease: lease })
}

impl World {
    /// Posts while the handover happens, and waits until all of it is on the screen.
    async fn post_until_the_second_leads(&self) {
        let vendor = self.pipeline.vendor();
        let mut posted = Vec::new();
        while !leads(&self.second_address).await {
            posted.push(vendor.post(&self.chat, &format!("{}", posted.len())).await);
        }
        posted.push(vendor.post(&self.chat, "after").await);
        eventually!(self.reader.text(&self.chat, posted.last().unwrap()).is_some(), "the next message is there");
        self.reader.scroll_to_the_beginning().await;
        for (number, id) in posted.iter().enumerate() {
            let message = format!("message {number} of {} is not lost", posted.len());
            eventually!(self.reader.text(&self.chat, id).is_some(), "{message}");
        }
        assert_eq!(self.reader.screen().backwards, Vec::<String>::new());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l2_a_leader_that_is_told_to_end_hands_over_and_nothing_is_lost() {
    let Some(mut world) = world().await else { return };
    let status = world.pipeline.synchronizer.terminate().await;
    assert!(status.success(), "SIGTERM drains and exits 0, not {status}");
    world.post_until_the_second_leads().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l1_a_leader_that_is_killed_is_replaced_and_nothing_is_lost() {
    let Some(mut world) = world().await else { return };
    world.pipeline.synchronizer.kill();
    world.post_until_the_second_leads().await;
    assert!(world.second.is_running());
}

/// What appears behind the cursor while nobody leads is read by the next leader: it begins a minute back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l1_a_row_that_came_late_between_two_leaders_is_read_by_the_next_one() {
    let Some(mut world) = world().await else { return };
    let vendor = world.pipeline.vendor();
    let drift = "chat_sync_drift_messages";
    eventually!(
        metrics::value(&world.pipeline.synchronizer_address, drift).await.is_some(),
        "the first rounds are done: they would find the late one in the vendor's listing"
    );
    vendor.misbehave(json!({ "late_rows": { "times": 1, "delay": 20.0 } })).await;
    let late = vendor.post(&world.chat, "late").await;
    let after = vendor.post(&world.chat, "after it").await;
    eventually!(world.reader.text(&world.chat, &after).is_some(), "the cursor has passed the late one");
    let passed = Timestamp::now();
    eventually!(
        checkpoint(&world.pipeline).await.is_some_and(|checkpoint| checkpoint.at > passed),
        "its last checkpoint is behind that"
    );
    world.pipeline.synchronizer.kill();
    assert!(world.reader.text(&world.chat, &late).is_none(), "it is not there yet");
    eventually!(leads(&world.second_address).await, "the second leads");
    eventually!(world.reader.text(&world.chat, &late).is_some(), "the late one is read");
}

/// The newest one in the log.
async fn checkpoint(pipeline: &Pipeline) -> Option<Checkpoint> {
    let log = Kafka::new(&pipeline.kafka).expect("a client");
    let last = log.tail(&Topics::with_suffix(&pipeline.topic_suffix).checkpoints, 1).await.ok()?;
    serde_json::from_slice(&last.last()?.value).ok()
}

/// The manifest's.
const NAMESPACE: &str = "chat-sync-a";

fn kubectl(tool: &str, kubeconfig: &str, arguments: &[&str]) -> String {
    let folder = Command::new(tool).arg("bin").output().expect("the tool");
    let kubectl = Path::new(String::from_utf8_lossy(&folder.stdout).trim()).join("kubectl");
    let output = Command::new(kubectl).env("KUBECONFIG", kubeconfig).args(arguments).output().expect("kubectl");
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("UTF-8").trim().to_owned()
}

/// As the pods of `deployment/` are, by its own manifest, in a namespace of the test's own: the cluster may be
/// somebody's, and hold a chat-sync.
struct Account {
    tool: String,
    kubeconfig: String,
    namespace: String,
}

impl Account {
    fn new() -> Option<Self> {
        let (tool, kubeconfig) = (server("CHAT_SYNC_TEST_KUBERNETES_NODE")?, server("CHAT_SYNC_TEST_KUBECONFIG")?);
        let account = Self { tool, kubeconfig, namespace: format!("test{}", unique_suffix()) };
        let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deployment/20-region-a/40-synchronizer.yaml");
        let whole = std::fs::read_to_string(manifest).expect("the manifest");
        assert!(whole.contains(NAMESPACE), "the manifest's namespace");
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(&file, whole.replace(NAMESPACE, &account.namespace)).expect("the manifest");
        account.kubectl(&["create", "namespace", &account.namespace]);
        account.kubectl(&["apply", "-f", &file.path().display().to_string()]);
        Some(account)
    }

    fn kubectl(&self, arguments: &[&str]) -> String {
        kubectl(&self.tool, &self.kubeconfig, arguments)
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        self.kubectl(&["delete", "namespace", &self.namespace, "--wait=false"]);
    }
}

async fn as_the_service_account(account: &Account) -> Client {
    let token = account.kubectl(&["create", "token", "synchronizer", "-n", &account.namespace]);
    let mut kubeconfig = Kubeconfig::read_from(&account.kubeconfig).expect("the kubeconfig");
    for user in &mut kubeconfig.auth_infos {
        user.auth_info = Some(serde_json::from_value(json!({ "token": token })).expect("a token"));
    }
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.expect("a client's");
    Client::try_from(config).expect("a client")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_service_account_can_do_what_it_needs_and_nothing_else() {
    let Some(account) = Account::new() else { return };
    let client = as_the_service_account(&account).await;
    let settings = LeaseSettings {
        namespace: account.namespace.clone(),
        name: "synchronizer".into(),
        holder: "pod".into(),
        ttl: Duration::from_secs(3),
        renew_every: Duration::from_millis(300),
        call: Duration::from_secs(10),
        exclusive: false,
    };
    let (lease, mut leadership) = Lease::new(client.clone(), settings);
    let stop = Stop::new();
    let competing = tokio::spawn(lease.run(stop.clone()));
    leadership.elected().await;
    stop.cancel();
    competing.await.expect("it ends").expect("it ends well");
    let refused = [
        ("delete", "coordination.k8s.io", "leases", "synchronizer"),
        ("list", "coordination.k8s.io", "leases", ""),
        ("watch", "coordination.k8s.io", "leases", ""),
        ("deletecollection", "coordination.k8s.io", "leases", ""),
        ("get", "coordination.k8s.io", "leases", "another"),
        ("patch", "coordination.k8s.io", "leases", "another"),
        ("update", "coordination.k8s.io", "leases", "another"),
        ("get", "", "secrets", "postgres"),
        ("list", "", "secrets", ""),
        ("get", "", "configmaps", "settings"),
        ("list", "", "pods", ""),
        ("delete", "", "pods", "writer-0"),
        ("create", "", "pods", ""),
        ("create", "", "pods/exec", ""),
        ("get", "", "nodes", ""),
        ("list", "", "namespaces", ""),
        ("list", "", "events", ""),
        ("get", "apps", "deployments", "synchronizer"),
        ("patch", "apps", "statefulsets", "internal"),
        ("create", "rbac.authorization.k8s.io", "rolebindings", ""),
        ("escalate", "rbac.authorization.k8s.io", "roles", "synchronizer"),
        ("create", "", "serviceaccounts/token", "synchronizer"),
        ("impersonate", "", "users", "admin"),
    ];
    for (verb, group, resource, name) in refused {
        assert!(!account.may(&client, verb, group, resource, name).await, "{verb} {group} {resource} {name}");
    }
    for verb in ["get", "patch", "create"] {
        assert!(account.may(&client, verb, "coordination.k8s.io", "leases", "synchronizer").await, "{verb}");
    }
}

impl Account {
    /// Whether the API's own authorizer lets it.
    async fn may(&self, client: &Client, verb: &str, group: &str, resource: &str, name: &str) -> bool {
        let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
        let review: SelfSubjectAccessReview = serde_json::from_value(json!({ "spec": { "resourceAttributes": {
            "namespace": self.namespace, "verb": verb, "group": group, "resource": resource, "subresource": subresource, "name": name,
        } } }))
        .expect("a review");
        let answer = Api::all(client.clone()).create(&PostParams::default(), &review).await.expect("an answer");
        answer.status.is_some_and(|status| status.allowed)
    }
}
