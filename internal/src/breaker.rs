//! Leaves a gate alone that does not answer, so that no push waits for its deadline: a circuit breaker.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;

use crate::gate::{Answer, Gate, GateError};
use crate::shown::ShownMessage;

/// After so many failures, one behind another, it is left alone.
const FAILURES: u32 = 3;
/// How long until one call probes whether it answers again; twice as long after each probe that fails.
const WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// A gate behind a circuit breaker.
pub struct Breaker {
    gate: Arc<dyn Gate>,
    circuit: Mutex<Circuit>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Circuit {
    /// It is asked; so many calls have failed since one succeeded.
    Closed { failures: u32 },
    /// It is left alone until then; the next call is a probe.
    Open { until: Instant, wait: Duration },
}

impl Circuit {
    /// Whether to ask now. A probe that never comes to an end is followed by another one after the same wait.
    fn may_ask(&mut self, now: Instant) -> bool {
        match self {
            Self::Closed { .. } => true,
            Self::Open { until, wait } if now >= *until => {
                *until = now + *wait;
                true
            }
            Self::Open { .. } => false,
        }
    }

    fn failed(&mut self, now: Instant) {
        *self = match *self {
            Self::Closed { failures } if failures + 1 < FAILURES => Self::Closed { failures: failures + 1 },
            Self::Closed { .. } => Self::Open { until: now + WAIT, wait: WAIT },
            Self::Open { wait, .. } => {
                let wait = LONGEST_WAIT.min(wait * 2);
                Self::Open { until: now + wait, wait }
            }
        };
    }
}

impl Breaker {
    pub fn new(gate: Arc<dyn Gate>) -> Self {
        Self { gate, circuit: Mutex::new(Circuit::Closed { failures: 0 }) }
    }

    fn circuit(&self) -> MutexGuard<'_, Circuit> {
        self.circuit.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Gate for Breaker {
    async fn judge(&self, rows: &[ShownMessage]) -> Result<Vec<Answer>, GateError> {
        if !self.circuit().may_ask(Instant::now()) {
            return Err(GateError("it is left alone for a while, for it did not answer".into()));
        }
        let judged = self.gate.judge(rows).await;
        let mut circuit = self.circuit();
        match &judged {
            Ok(_) => *circuit = Circuit::Closed { failures: 0 },
            Err(_) => circuit.failed(Instant::now()),
        }
        let open = matches!(*circuit, Circuit::Open { .. });
        metrics::gauge!("chat_sync_gate_circuit_open").set(if open { 1.0 } else { 0.0 });
        judged
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_opens_after_some_failures_and_probes_more_and_more_rarely() {
        let start = Instant::now();
        let mut circuit = Circuit::Closed { failures: 0 };
        for _ in 0..FAILURES {
            assert!(circuit.may_ask(start));
            circuit.failed(start);
        }
        assert!(!circuit.may_ask(start));
        let mut now = start;
        let mut wait = WAIT;
        for _ in 0..10 {
            now += wait;
            assert!(circuit.may_ask(now), "a probe after {wait:?}");
            assert!(!circuit.may_ask(now), "one probe");
            circuit.failed(now);
            wait = LONGEST_WAIT.min(wait * 2);
            assert!(!circuit.may_ask(now + wait - Duration::from_millis(1)));
        }
        assert_eq!(wait, LONGEST_WAIT);
    }

    #[test]
    fn a_probe_that_is_lost_is_followed_by_another() {
        let start = Instant::now();
        let mut circuit = Circuit::Open { until: start, wait: WAIT };
        assert!(circuit.may_ask(start));
        assert!(!circuit.may_ask(start));
        assert!(circuit.may_ask(start + WAIT));
    }
}
