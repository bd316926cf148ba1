//! Leadership by a Lease, on a real Kubernetes API.

use std::time::Duration;

use kube::Client;
use kube::api::{Api, Patch, PatchParams};
use platform::eventually;
use platform::leadership::{Leadership, Lease, LeaseSettings, Role};
use platform::lifecycle::Stop;
use platform::testing::OwnLease;
use tokio::task::JoinHandle;

type Leases = Api<k8s_openapi::api::coordination::v1::Lease>;

struct Candidate {
    leadership: Leadership,
    identity: String,
    stop: Stop,
    task: JoinHandle<anyhow::Result<()>>,
}

fn candidate(client: &Client, name: &str, holder: &str) -> Candidate {
    let settings = LeaseSettings {
        namespace: "default".into(),
        name: name.into(),
        holder: holder.into(),
        ttl: Duration::from_secs(3),
        renew_every: Duration::from_millis(300),
        // Far from production's 1 s: a loaded test machine must not decide here.
        call: Duration::from_secs(10),
        exclusive: false,
    };
    let (lease, leadership) = Lease::new(client.clone(), settings);
    let (identity, stop) = (lease.identity().to_owned(), Stop::new());
    let task = tokio::spawn(lease.run(stop.clone()));
    Candidate { leadership, identity, stop, task }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_leads_the_other_knows_who_and_takes_over_when_it_stops() {
    let Some(own) = OwnLease::new() else { return };
    let (client, name) = (own.client().await, &own.name);
    let mut first = candidate(&client, name, "pod-a");
    first.leadership.elected().await;
    let mut second = candidate(&client, name, "pod-b");
    let holder = Some(first.identity.clone());
    eventually!(second.leadership.role() == Role::Standby { holder: holder.clone() }, "the second knows who leads");
    first.stop.cancel();
    first.task.await.unwrap().unwrap();
    assert!(!first.leadership.role().leads());
    second.leadership.elected().await;
    second.stop.cancel();
    second.task.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_vanishes_is_replaced_when_its_lease_ends() {
    let Some(own) = OwnLease::new() else { return };
    let (client, name) = (own.client().await, &own.name);
    let mut first = candidate(&client, name, "pod-a");
    first.leadership.elected().await;
    let mut second = candidate(&client, name, "pod-a");
    assert_ne!(first.identity, second.identity, "the same pod, another incarnation");
    first.task.abort();
    second.leadership.elected().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_that_names_another_ends_leadership() {
    let Some(own) = OwnLease::new() else { return };
    let (client, name) = (own.client().await, &own.name);
    let mut first = candidate(&client, name, "pod-a");
    first.leadership.elected().await;
    let leases: Leases = Api::namespaced(client.clone(), "default");
    let usurped = serde_json::json!({ "spec": {
        "holderIdentity": "usurper",
        "leaseDurationSeconds": 3600,
        "renewTime": chrono::Utc::now().format("%Y-%m-%dT%H:%M:%S%.6fZ").to_string(),
    }});
    leases.patch(name, &PatchParams::default(), &Patch::Merge(&usurped)).await.unwrap();
    first.leadership.lost().await;
    // A renewal that was under way may have met the new lease; either way it is not ours any more.
    eventually!(
        matches!(first.leadership.role(), Role::Standby { holder: Some(holder) } if holder == "usurper"),
        "it knows who leads now"
    );
    first.stop.cancel();
    first.task.await.unwrap().unwrap();
    let lease = leases.get(name).await.unwrap();
    assert_eq!(lease.spec.unwrap().holder_identity.as_deref(), Some("usurper"), "what is not ours is not let go");
}

/// Not by the times that the rival writes: its clock may be wrong.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rival_keeps_its_lease_as_long_as_it_renews_it() {
    let Some(own) = OwnLease::new() else { return };
    let (client, name) = (own.client().await, &own.name);
    let leases: Leases = Api::namespaced(client.clone(), "default");
    let rivals = serde_json::from_value(serde_json::json!({
        "metadata": { "name": name },
        "spec": { "holderIdentity": "rival", "leaseDurationSeconds": 1, "leaseTransitions": 0 },
    }));
    leases.create(&Default::default(), &rivals.unwrap()).await.unwrap();
    let mut candidate = candidate(&client, name, "pod-a");
    let renewals = async {
        // For three times its duration.
        for second in 10..40 {
            let renewed = serde_json::json!({ "spec": { "renewTime": format!("2020-01-01T00:00:{second}.000000Z") } });
            leases.patch(name, &PatchParams::default(), &Patch::Merge(&renewed)).await.unwrap();
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::select! {
        () = candidate.leadership.elected() => panic!("it took a lease that is renewed"),
        () = renewals => {}
    }
    candidate.leadership.elected().await;
    let lease = leases.get(name).await.unwrap().spec.unwrap();
    assert_eq!((lease.holder_identity, lease.lease_transitions), (Some(candidate.identity.clone()), Some(1)));
}
