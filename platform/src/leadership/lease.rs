//! Leadership by a Kubernetes Lease.
//!
//! - Every change of the lease is a patch with the `resourceVersion` of the lease that was looked at: of several
//!   candidates one succeeds, and only a returned `holderIdentity` that is ours counts (decision 10).
//! - A lease has ended when it did not change for its duration on this process's monotonic clock, as in client-go.
//! - A leader whose renewals fail is demoted by a deadline on the monotonic clock.
//! - A lease that is let go is ended at once.

use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::{SecondsFormat, Utc};
use k8s_openapi::api::coordination::v1::Lease as Held;
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use tokio::sync::{Notify, watch};

use super::{Leadership, Role, UNCONFIRMED, pause};
use crate::lifecycle::Stop;

/// A standby asks so many times as often as a leader renews: what it waits for may be a lease that was let go.
const ASKS: u32 = 4;
/// For how many times the lease's duration a candidate that has resigned does not compete: others ask at least once in
/// that time.
const RESIGNED: u32 = 2;

/// How a lease is held.
#[derive(Debug, Clone)]
pub struct LeaseSettings {
    pub namespace: String,
    pub name: String,
    /// What stands before the random incarnation in the holder's identity: the pod's name.
    pub holder: String,
    /// Whole seconds: a Lease knows nothing finer.
    pub ttl: Duration,
    pub renew_every: Duration,
    /// How long one call of the API may take.
    pub call: Duration,
    /// Whether to stop at the deadline although nobody else was seen to lead.
    pub exclusive: bool,
}

/// The task that competes for the lease.
pub struct Lease {
    settings: LeaseSettings,
    identity: String,
    leases: Api<Held>,
    role: watch::Sender<Role>,
    observed: Option<Observed>,
    /// When the API last answered with a rival's lease.
    looked: Instant,
    resigned: Arc<Notify>,
}

/// A rival's lease as it was when it was first seen so.
struct Observed {
    version: Option<String>,
    at: Instant,
}

/// What an attempt at the lease came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Attempt {
    Held,
    HeldBy(Option<String>),
    /// The API could not be asked.
    Unknown(String),
}

impl Attempt {
    /// Why a role changes with it, in a word, and the rest of what is known.
    fn reason(&self, led: bool) -> (&'static str, &str) {
        match self {
            Self::Held => (if led { "confirmed_again" } else { "acquired" }, ""),
            Self::HeldBy(Some(holder)) => ("held_by_another", holder),
            Self::HeldBy(None) => ("held_by_nobody", ""),
            Self::Unknown(why) => ("api_away", why),
        }
    }
}

impl Lease {
    pub fn new(client: kube::Client, settings: LeaseSettings) -> (Self, Leadership) {
        let identity = format!("{}-{:08x}", settings.holder, rand::random::<u32>());
        let leases = Api::namespaced(client, &settings.namespace);
        let (role, receiver) = watch::channel(Role::Standby { holder: None });
        metrics::gauge!("chat_sync_leader").set(0.0);
        let resigned = Arc::new(Notify::new());
        let leadership = Leadership::contested(receiver, resigned.clone());
        (Self { settings, identity, leases, role, observed: None, looked: Instant::now(), resigned }, leadership)
    }

    /// This candidate's `holderIdentity`.
    pub fn identity(&self) -> &str {
        &self.identity
    }

    /// Competes until the stop signal, then lets the lease go so that another need not wait for its end.
    ///
    /// # Errors
    /// None yet; an API that is away is waited for.
    pub async fn run(mut self, stop: Stop) -> anyhow::Result<()> {
        let mut renewed = Instant::now();
        loop {
            let asked = Instant::now();
            let attempt = self.attempt().await;
            if attempt == Attempt::Held {
                // From before the call: the lease may have been renewed at its beginning.
                renewed = asked;
            }
            let now = self.role.borrow().clone();
            self.take(next_role(&now, &attempt, renewed.elapsed(), &self.settings), &attempt);
            let every = self.settings.renew_every / if self.role.borrow().leads() { 1 } else { ASKS };
            tokio::select! {
                goes_on = pause(every.saturating_sub(asked.elapsed()), &stop) => if !goes_on { break },
                () = self.resigned.notified() => {
                    self.let_go("resigned").await;
                    if !pause(self.settings.ttl * RESIGNED, &stop).await {
                        break;
                    }
                }
            }
        }
        self.let_go("stopped").await;
        Ok(())
    }

    async fn attempt(&mut self) -> Attempt {
        match tokio::time::timeout(self.settings.call, self.try_once()).await {
            Ok(Ok(attempt)) => attempt,
            Ok(Err(error)) => Attempt::Unknown(error.to_string()),
            Err(_) => Attempt::Unknown(format!("no answer within {:?}", self.settings.call)),
        }
    }

    async fn try_once(&mut self) -> Result<Attempt, kube::Error> {
        let Some(lease) = self.leases.get_opt(&self.settings.name).await? else { return self.make().await };
        let holder = holder(&lease);
        if holder == Some(&self.identity) {
            return self.renew(&lease).await;
        }
        if holder.is_none() || self.unchanged_for(&lease) > duration(&lease).unwrap_or(self.settings.ttl) {
            return self.take_over(&lease).await;
        }
        Ok(Attempt::HeldBy(holder.map(str::to_owned)))
    }

    /// How long a rival's lease is known to be as it is: nobody has renewed it since.
    fn unchanged_for(&mut self, lease: &Held) -> Duration {
        let version = &lease.metadata.resource_version;
        let looked = std::mem::replace(&mut self.looked, Instant::now());
        // Without an answer for so long, the rival may not have been able to renew it either.
        let known = self.observed.take().filter(|_| looked.elapsed() <= self.settings.renew_every);
        let observed = known.filter(|observed| observed.version == *version);
        let observed = observed.unwrap_or_else(|| Observed { version: version.clone(), at: Instant::now() });
        self.observed.insert(observed).at.elapsed()
    }

    /// The API lets one of several candidates make it.
    async fn make(&self) -> Result<Attempt, kube::Error> {
        let lease = json!({ "metadata": { "name": self.settings.name }, "spec": self.taken(0) });
        let lease = serde_json::from_value(lease).map_err(kube::Error::SerdeError)?;
        Ok(whose(&self.leases.create(&PostParams::default(), &lease).await?, &self.identity))
    }

    async fn renew(&self, lease: &Held) -> Result<Attempt, kube::Error> {
        let renewed = json!({ "renewTime": now(), "leaseDurationSeconds": self.settings.ttl.as_secs() });
        self.change(lease, &renewed).await
    }

    async fn take_over(&self, lease: &Held) -> Result<Attempt, kube::Error> {
        let transitions = lease.spec.as_ref().and_then(|spec| spec.lease_transitions).unwrap_or(0);
        self.change(lease, &self.taken(transitions.saturating_add(1))).await
    }

    fn taken(&self, transitions: i32) -> Value {
        json!({
            "holderIdentity": self.identity, "leaseDurationSeconds": self.settings.ttl.as_secs(),
            "acquireTime": now(), "renewTime": now(), "leaseTransitions": transitions,
        })
    }

    /// What comes of changing the lease that was looked at.
    async fn change(&self, lease: &Held, spec: &Value) -> Result<Attempt, kube::Error> {
        match self.patch(lease, spec).await {
            Ok(lease) => Ok(whose(&lease, &self.identity)),
            // Somebody was faster, or an earlier call of ours that seemed to have failed: the next look tells.
            Err(kube::Error::Api(refusal)) if refusal.is_conflict() => Ok(Attempt::Unknown("it has changed".into())),
            Err(error) => Err(error),
        }
    }

    fn take(&self, role: Role, attempt: &Attempt) {
        let before = self.role.borrow().clone();
        if role == before {
            return;
        }
        // Whose lease it is may change while this process stands by: that is no change of its role.
        if role.leads() || before.leads() {
            let (reason, detail) = attempt.reason(before.leads());
            self.tell(&before, &role, reason, detail);
        }
        self.role.send_replace(role);
    }

    fn tell(&self, from: &Role, to: &Role, reason: &'static str, detail: &str) {
        tracing::info!(from = from.name(), to = to.name(), reason, detail, identity = self.identity, "role changed");
        metrics::counter!("chat_sync_role_changes_total", "to" => to.name(), "reason" => reason).increment(1);
        metrics::gauge!("chat_sync_leader").set(if to.leads() { 1.0 } else { 0.0 });
    }

    async fn let_go(&self, reason: &'static str) {
        if !self.role.borrow().leads() {
            return;
        }
        match tokio::time::timeout(self.settings.call, self.release()).await {
            Ok(Ok(())) => tracing::info!("the lease is let go"),
            Ok(Err(error)) => tracing::warn!(%error, "could not let the lease go; it ends by itself"),
            Err(_) => tracing::warn!("could not let the lease go in time; it ends by itself"),
        }
        // Last: until then a leader that was told to stop makes its last claim.
        let standby = Role::Standby { holder: None };
        let before = self.role.send_replace(standby.clone());
        self.tell(&before, &standby, reason, "");
    }

    /// Lets the lease end now, if it still is this candidate's.
    async fn release(&self) -> Result<(), kube::Error> {
        let lease = self.leases.get(&self.settings.name).await?;
        if holder(&lease) == Some(&self.identity) {
            let let_go =
                json!({ "holderIdentity": "", "leaseDurationSeconds": 1, "renewTime": "1970-01-01T00:00:00.000000Z" });
            self.patch(&lease, &let_go).await?;
        }
        Ok(())
    }

    /// Changes the lease that was looked at; refused as a conflict if somebody has changed it meanwhile.
    async fn patch(&self, lease: &Held, spec: &Value) -> Result<Held, kube::Error> {
        let patch = json!({ "metadata": { "resourceVersion": lease.metadata.resource_version }, "spec": spec });
        self.leases.patch(&self.settings.name, &PatchParams::default(), &Patch::Merge(patch)).await
    }
}

/// Who holds it, unless it was let go.
fn holder(lease: &Held) -> Option<&str> {
    lease.spec.as_ref()?.holder_identity.as_deref().filter(|holder| !holder.is_empty())
}

/// What an answered attempt came to: whatever was asked for, only the holder that is named leads.
fn whose(lease: &Held, identity: &str) -> Attempt {
    let holder = holder(lease);
    if holder == Some(identity) { Attempt::Held } else { Attempt::HeldBy(holder.map(str::to_owned)) }
}

/// For people; nobody computes with another's clock.
fn now() -> String {
    Utc::now().to_rfc3339_opts(SecondsFormat::Micros, true)
}

fn duration(lease: &Held) -> Option<Duration> {
    let seconds = lease.spec.as_ref()?.lease_duration_seconds?;
    u64::try_from(seconds).ok().map(Duration::from_secs)
}

/// The role after an attempt, `silence` being the time since the last good renewal.
fn next_role(now: &Role, attempt: &Attempt, silence: Duration, settings: &LeaseSettings) -> Role {
    let deadline = settings.ttl * 2 / 3;
    match attempt {
        Attempt::Held => Role::Leader { confirmed: true },
        Attempt::HeldBy(holder) => Role::Standby { holder: holder.clone() },
        Attempt::Unknown(_) if !now.leads() => Role::Standby { holder: None },
        Attempt::Unknown(_) if silence < deadline => now.clone(),
        Attempt::Unknown(_) if !settings.exclusive && silence < UNCONFIRMED => Role::Leader { confirmed: false },
        Attempt::Unknown(_) => Role::Standby { holder: None },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(exclusive: bool) -> LeaseSettings {
        LeaseSettings {
            namespace: "n".into(),
            name: "l".into(),
            holder: "pod".into(),
            ttl: Duration::from_secs(3),
            renew_every: Duration::from_secs(1),
            call: Duration::from_secs(1),
            exclusive,
        }
    }

    const LEADER: Role = Role::Leader { confirmed: true };
    const NOBODY: Role = Role::Standby { holder: None };

    fn away() -> Attempt {
        Attempt::Unknown("refused".into())
    }

    #[test]
    fn an_answer_that_names_another_ends_leadership_at_once() {
        let rival = Some("rival".to_owned());
        let role = next_role(&LEADER, &Attempt::HeldBy(rival.clone()), Duration::ZERO, &settings(false));
        assert_eq!(role, Role::Standby { holder: rival });
    }

    #[test]
    fn an_answer_with_another_holder_is_no_lease_of_ours() {
        let named = |holder: Option<&str>| {
            serde_json::from_value::<Held>(json!({ "spec": { "holderIdentity": holder } })).expect("a lease")
        };
        assert_eq!(whose(&named(Some("us")), "us"), Attempt::Held);
        assert_eq!(whose(&named(Some("rival")), "us"), Attempt::HeldBy(Some("rival".into())));
        assert_eq!(whose(&named(Some("")), "us"), Attempt::HeldBy(None));
        assert_eq!(whose(&named(None), "us"), Attempt::HeldBy(None));
    }

    #[test]
    fn an_api_that_is_away_makes_a_leader_unconfirmed_and_after_five_minutes_none() {
        let after = |seconds| next_role(&LEADER, &away(), Duration::from_secs(seconds), &settings(false));
        assert_eq!(after(1), LEADER);
        assert_eq!(after(2), Role::Leader { confirmed: false });
        assert_eq!(after(299), Role::Leader { confirmed: false });
        assert_eq!(after(300), NOBODY);
    }

    #[test]
    fn an_exclusive_source_is_left_at_the_deadline() {
        assert_eq!(next_role(&LEADER, &away(), Duration::from_secs(1), &settings(true)), LEADER);
        assert_eq!(next_role(&LEADER, &away(), Duration::from_secs(2), &settings(true)), NOBODY);
    }

    #[test]
    fn a_standby_that_cannot_ask_stays_one() {
        assert_eq!(next_role(&NOBODY, &away(), Duration::ZERO, &settings(false)), NOBODY);
    }
}
