//! How a service lives and ends: its parts, its stop signal, its budget.

use std::future::Future;
use std::process::ExitCode;
use std::time::Duration;

use tokio::task::{Id, JoinSet};
pub use tokio_util::sync::CancellationToken as Stop;

/// How long the parts may take to end after the stop signal.
pub const DRAIN_BUDGET: Duration = Duration::from_secs(10);

/// What `main` returns: a failure is one line for people on standard error, without a backtrace.
pub fn exit_code(program: &str, ended: anyhow::Result<()>) -> ExitCode {
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{program}: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Cancels `stop` at the first SIGTERM or SIGINT.
///
/// # Errors
/// If the signal handlers cannot be installed.
pub fn stop_on_signals(stop: &Stop) -> std::io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let stop = stop.clone();
    tokio::spawn(async move {
        let name = tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        };
        // First: a log that cannot be written must not keep anybody alive.
        stop.cancel();
        tracing::info!(signal = name, "stopping");
    });
    Ok(())
}

/// The parts of a service. A part that ends before the stop signal is a failure, whatever it returned.
#[derive(Default)]
pub struct Parts {
    tasks: JoinSet<anyhow::Result<()>>,
    names: Vec<(Id, &'static str)>,
}

impl Parts {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn spawn<F>(&mut self, name: &'static str, part: F)
    where
        F: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        let handle = self.tasks.spawn(part);
        self.names.push((handle.id(), name));
    }

    /// Waits until all have ended. The first that ends early cancels `stop`, so that the others drain.
    ///
    /// # Errors
    /// The first failure, an early end, or a part that did not end within `budget` of the stop signal.
    pub async fn join(mut self, stop: &Stop, budget: Duration) -> anyhow::Result<()> {
        let mut failure = None;
        while !stop.is_cancelled() && !self.tasks.is_empty() {
            tokio::select! {
                () = stop.cancelled() => {}
                Some(ended) = self.tasks.join_next_with_id() => {
                    let (name, outcome) = self.outcome(ended);
                    // Both may have happened at once; then it was told to end.
                    if !stop.is_cancelled() || outcome.is_err() {
                        failure = Some(early_end(name, outcome));
                    }
                    stop.cancel();
                }
            }
        }
        let drained = tokio::time::timeout(budget, async {
            while let Some(ended) = self.tasks.join_next_with_id().await {
                let (name, outcome) = self.outcome(ended);
                if let Err(error) = outcome {
                    failure.get_or_insert(error.context(format!("{name} failed")));
                }
            }
        })
        .await;
        if drained.is_err() {
            let late = self.tasks.len();
            failure.get_or_insert(anyhow::anyhow!("{late} part(s) did not stop within {budget:?}"));
        }
        failure.map_or(Ok(()), Err)
    }

    fn outcome(
        &self,
        ended: Result<(Id, anyhow::Result<()>), tokio::task::JoinError>,
    ) -> (&'static str, anyhow::Result<()>) {
        let (id, outcome) = match ended {
            Ok((id, outcome)) => (id, outcome),
            Err(error) => (error.id(), Err(anyhow::Error::new(error))),
        };
        let name = self.names.iter().find(|(known, _)| *known == id).map_or("a part", |(_, name)| name);
        (name, outcome)
    }
}

fn early_end(name: &str, outcome: anyhow::Result<()>) -> anyhow::Error {
    match outcome {
        Ok(()) => anyhow::anyhow!("{name} ended by itself"),
        Err(error) => error.context(format!("{name} failed")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_part_that_ends_early_is_a_failure_and_stops_the_others() {
        let stop = Stop::new();
        let mut parts = Parts::new();
        let other = stop.clone();
        parts.spawn("other", async move {
            other.cancelled().await;
            Ok(())
        });
        parts.spawn("early", async { Ok(()) });
        let error = parts.join(&stop, DRAIN_BUDGET).await.unwrap_err();
        assert_eq!(error.to_string(), "early ended by itself");
        assert!(stop.is_cancelled());
    }

    #[tokio::test]
    async fn told_to_stop_all_end_well() {
        let stop = Stop::new();
        let mut parts = Parts::new();
        let part = stop.clone();
        parts.spawn("part", async move {
            part.cancelled().await;
            Ok(())
        });
        stop.cancel();
        parts.join(&stop, DRAIN_BUDGET).await.unwrap();
    }

    #[tokio::test]
    async fn a_part_that_panics_is_a_failure_with_its_name() {
        let stop = Stop::new();
        let mut parts = Parts::new();
        parts.spawn("shaky", async { panic!("boom") });
        assert!(parts.join(&stop, DRAIN_BUDGET).await.unwrap_err().to_string().starts_with("shaky"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_part_that_does_not_stop_exceeds_the_budget() {
        let stop = Stop::new();
        let mut parts = Parts::new();
        parts.spawn("stubborn", std::future::pending());
        stop.cancel();
        assert!(parts.join(&stop, DRAIN_BUDGET).await.unwrap_err().to_string().contains("did not stop"));
    }
}
