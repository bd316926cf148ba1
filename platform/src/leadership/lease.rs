//! Leadership by a Kubernetes Lease, through `kube-leader-election`, with what that crate leaves open:
//!
//! - it may report "acquired" to two candidates that saw one expired lease, or with a lease that names the
//!   rival: only a returned `holderIdentity` that is ours counts;
//! - nothing demotes a leader whose renewals fail: a deadline on the monotonic clock does.

use std::time::{Duration, Instant};

use kube_leader_election::{LeaseLock, LeaseLockParams, LeaseLockResult};
use tokio::sync::watch;

use super::{Leadership, Role, UNCONFIRMED, pause};
use crate::lifecycle::Stop;

/// How a lease is held.
#[derive(Debug, Clone)]
pub struct LeaseSettings {
    pub namespace: String,
    pub name: String,
    /// What stands before the random incarnation in the holder's identity: the pod's name.
    pub holder: String,
    /// Whole seconds; the crate cuts the rest.
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
    lock: LeaseLock,
    role: watch::Sender<Role>,
}

/// What an attempt at the lease came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Attempt {
    Held,
    HeldBy(Option<String>),
    /// The API could not be asked.
    Unknown(String),
}

impl Lease {
    pub fn new(client: kube::Client, settings: LeaseSettings) -> (Self, Leadership) {
        let identity = format!("{}-{:08x}", settings.holder, rand::random::<u32>());
        let params =
            LeaseLockParams { lease_name: settings.name.clone(), holder_id: identity.clone(), lease_ttl: settings.ttl };
        let lock = LeaseLock::new(client, &settings.namespace, params);
        let (role, receiver) = watch::channel(Role::Standby { holder: None });
        (Self { settings, identity, lock, role }, Leadership::from_watch(receiver))
    }

    /// This candidate's `holderIdentity`.
    pub fn identity(&self) -> &str {
        &self.identity
    }

    /// Competes until the stop signal, then lets the lease go so that another need not wait for its end.
    ///
    /// # Errors
    /// None yet; an API that is away is waited for.
    pub async fn run(self, stop: Stop) -> anyhow::Result<()> {
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
            if !pause(self.settings.renew_every.saturating_sub(asked.elapsed()), &stop).await {
                break;
            }
        }
        self.let_go().await;
        Ok(())
    }

    async fn attempt(&self) -> Attempt {
        match tokio::time::timeout(self.settings.call, self.lock.try_acquire_or_renew()).await {
            Ok(Ok(LeaseLockResult::Acquired(lease) | LeaseLockResult::NotAcquired(lease))) => {
                let holder = lease.spec.and_then(|spec| spec.holder_identity);
                if holder.as_deref() == Some(&self.identity) { Attempt::Held } else { Attempt::HeldBy(holder) }
            }
            Ok(Err(error)) => Attempt::Unknown(error.to_string()),
            Err(_) => Attempt::Unknown(format!("no answer within {:?}", self.settings.call)),
        }
    }

    fn take(&self, role: Role, attempt: &Attempt) {
        let before = self.role.borrow().clone();
        if role == before {
            return;
        }
        tracing::info!(from = ?before, to = ?role, reason = ?attempt, identity = self.identity, "role changed");
        metrics::counter!("chat_sync_role_changes_total", "role" => if role.leads() { "leader" } else { "standby" })
            .increment(1);
        metrics::gauge!("chat_sync_leader").set(if role.leads() { 1.0 } else { 0.0 });
        self.role.send_replace(role);
    }

    async fn let_go(&self) {
        if !self.role.borrow().leads() {
            return;
        }
        self.role.send_replace(Role::Standby { holder: None });
        match tokio::time::timeout(self.settings.call, self.lock.step_down()).await {
            Ok(Ok(())) => tracing::info!("stepped down"),
            Ok(Err(error)) => tracing::warn!(%error, "could not step down; the lease ends by itself"),
            Err(_) => tracing::warn!("could not step down in time; the lease ends by itself"),
        }
    }
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
