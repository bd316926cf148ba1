//! What a service says of itself at `/livez` and `/readyz`.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::Serialize;

/// The state of one dependency or duty, as `/readyz` prints it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct State {
    pub ready: bool,
    /// For people: what it does, or why it waits.
    pub detail: String,
}

/// What a check says before it says anything.
const STARTING: &str = "starting";

/// The states by name; clones share them. All must be ready for the service to be ready.
#[derive(Debug, Clone, Default)]
pub struct Health {
    states: Arc<Mutex<BTreeMap<String, State>>>,
    /// Stands before the names, where several services share a process.
    prefix: String,
}

/// One name's handle to set its state with.
#[derive(Debug, Clone)]
pub struct Check {
    health: Health,
    name: String,
}

impl Health {
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a check; it is not ready until it is said to be.
    pub fn check(&self, name: &str) -> Check {
        let check = Check { health: self.clone(), name: format!("{}{name}", self.prefix) };
        check.set(false, STARTING);
        check
    }

    /// The same states, for one of the services of this process: its checks bear its name.
    pub fn part(&self, service: &str) -> Self {
        Self { states: self.states.clone(), prefix: format!("{service}.") }
    }

    /// Whether all are ready, and each by name.
    pub fn report(&self) -> (bool, BTreeMap<String, State>) {
        let states = self.lock().clone();
        (states.values().all(|state| state.ready), states)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, State>> {
        self.states.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Check {
    pub fn ready(&self, detail: impl Into<String>) {
        self.set(true, detail);
    }

    pub fn waiting(&self, detail: impl Into<String>) {
        self.set(false, detail);
    }

    fn set(&self, ready: bool, detail: impl Into<String>) {
        let state = State { ready, detail: detail.into() };
        let mut states = self.health.lock();
        let before = states.insert(self.name.clone(), state.clone());
        drop(states);
        metrics::gauge!("chat_sync_ready", "check" => self.name.clone()).set(if ready { 1.0 } else { 0.0 });
        match before {
            // The first word about something that is away from the beginning; most of it only takes a moment.
            Some(before) if !ready && before.detail == STARTING => {
                tracing::info!(check = self.name, detail = state.detail, "not ready yet");
            }
            Some(before) if !ready && before.ready => {
                tracing::warn!(check = self.name, detail = state.detail, "not ready");
            }
            Some(before) if !before.ready && ready => {
                tracing::info!(check = self.name, detail = state.detail, "ready");
            }
            _ => {}
        }
    }
}
