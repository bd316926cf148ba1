//! Candidates that see one expired lease at the same moment.

use std::time::{Duration, Instant};

use futures::future::join_all;
use kube::api::{Api, PostParams};
use platform::eventually;
use platform::leadership::{Leadership, Lease, LeaseSettings};
use platform::lifecycle::Stop;
use platform::testing::OwnLease;
use serde_json::json;

use crate::table::Row;
use crate::trial::alone;

const TRIALS: usize = 200;
/// How many at once.
const ABREAST: usize = 20;

type ApiLease = k8s_openapi::api::coordination::v1::Lease;

/// Both start at once on a lease that has ended; how long both believed to lead.
async fn trial(client: kube::Client) -> Duration {
    let Some(own) = OwnLease::new() else { return Duration::ZERO };
    let expired: ApiLease = serde_json::from_value(json!({
        "metadata": { "name": own.name },
        "spec": {
            "holderIdentity": "somebody before", "leaseDurationSeconds": 1, "leaseTransitions": 0,
            "acquireTime": "2026-01-01T00:00:00.000000Z", "renewTime": "2026-01-01T00:00:00.000000Z",
        },
    }))
    .expect("a lease");
    let api: Api<ApiLease> = Api::namespaced(client.clone(), "default");
    api.create(&PostParams::default(), &expired).await.expect("the lease is made");
    let stop = Stop::new();
    let mut tasks = Vec::new();
    let candidates: Vec<Leadership> = ["one", "two"]
        .map(|holder| {
            let settings = LeaseSettings {
                namespace: "default".into(),
                name: own.name.clone(),
                holder: holder.into(),
                ttl: Duration::from_secs(3),
                renew_every: Duration::from_secs(1),
                call: Duration::from_secs(1),
                exclusive: false,
            };
            let (lease, leadership) = Lease::new(client.clone(), settings);
            tasks.push(tokio::spawn(lease.run(stop.clone())));
            leadership
        })
        .into();
    let leading = || candidates.iter().filter(|candidate| candidate.role().leads()).count();
    eventually!(leading() > 0, "one leads");
    // Long enough for both to have renewed: then each knows who the lease names.
    let (mut both, began, mut looked) = (Duration::ZERO, Instant::now(), Instant::now());
    while began.elapsed() < Duration::from_secs(3) {
        if leading() == 2 {
            both += looked.elapsed();
        }
        looked = Instant::now();
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    eventually!(leading() == 1, "one leads in the end");
    stop.cancel();
    join_all(tasks).await;
    both
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l2_two_candidates_see_one_expired_lease() {
    alone(async {
        let row = Row {
            number: "05",
            fault: "two candidates see one expired lease, 200 trials",
            promise: "L2, R3",
            expected: "trials in which both believed to lead: 0",
        };
        let Some(own) = OwnLease::new() else { return row.not_run("no Kubernetes API") };
        let client = own.client().await;
        let mut both = Vec::new();
        for _ in 0..TRIALS / ABREAST {
            both.extend(join_all((0..ABREAST).map(|_| trial(client.clone()))).await);
        }
        let (count, longest) =
            (both.iter().filter(|both| !both.is_zero()).count(), both.iter().max().copied().unwrap_or_default());
        assert_eq!(count, 0, "both acquired one lease, for {} ms at most", longest.as_millis());
        row.came_to(true, &format!("both believed in {count} of {}, {} ms at most", both.len(), longest.as_millis()));
    })
    .await;
}
