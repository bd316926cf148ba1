//! Who does the work that one at a time should do.
//!
//! Leadership saves work; it is not what keeps data safe. Two leaders at once must be harmless.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch};

use crate::lifecycle::Stop;

mod lease;
pub use lease::{Lease, LeaseSettings};

/// What this process is at the moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Role {
    /// It leads; `confirmed` is false while the API cannot be asked and the lease may have gone.
    Leader { confirmed: bool },
    /// Another leads, or it is not known who (`None`).
    Standby { holder: Option<String> },
}

impl Role {
    pub fn leads(&self) -> bool {
        matches!(self, Self::Leader { .. })
    }

    /// In a word: `leader`, `unconfirmed` or `standby`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Leader { confirmed: true } => "leader",
            Self::Leader { confirmed: false } => "unconfirmed",
            Self::Standby { .. } => "standby",
        }
    }
}

/// A process's role as it changes.
#[derive(Debug, Clone)]
pub struct Leadership {
    role: watch::Receiver<Role>,
    /// Told by a leader that cannot do its work; none where nobody else could.
    resigned: Option<Arc<Notify>>,
}

impl Leadership {
    /// Always the leader: where there is nobody to compete with.
    pub fn always() -> Self {
        let (sender, role) = watch::channel(Role::Leader { confirmed: true });
        // The receiver keeps its last value when the sender is gone.
        drop(sender);
        Self { role, resigned: None }
    }

    pub(crate) fn contested(role: watch::Receiver<Role>, resigned: Arc<Notify>) -> Self {
        Self { role, resigned: Some(resigned) }
    }

    pub fn role(&self) -> Role {
        self.role.borrow().clone()
    }

    /// Whether another could lead instead: not where there is no other, and not while the API is away, which could elect
    /// none.
    pub fn may_resign(&self) -> bool {
        self.resigned.is_some() && self.role() == (Role::Leader { confirmed: true })
    }

    /// Lets another lead: the lease is let go, and this process does not compete for some seconds. Waits until it leads no
    /// more; at once, if nobody else could lead.
    pub async fn resign(&mut self) {
        if let Some(resigned) = &self.resigned {
            resigned.notify_one();
            self.lost().await;
        }
    }

    /// Waits until this process leads.
    pub async fn elected(&mut self) {
        if self.role.wait_for(Role::leads).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Waits for the next change of role; for ever, if there is none.
    pub async fn changed(&mut self) {
        if self.role.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Waits until this process leads no more.
    pub async fn lost(&mut self) {
        if self.role.wait_for(|role| !role.leads()).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// How long a leader goes on while the Kubernetes API cannot be reached.
pub const UNCONFIRMED: Duration = Duration::from_secs(300);

/// Waits, or says that the stop signal came first.
pub(crate) async fn pause(length: Duration, stop: &Stop) -> bool {
    tokio::select! {
        () = tokio::time::sleep(length) => true,
        () = stop.cancelled() => false,
    }
}
