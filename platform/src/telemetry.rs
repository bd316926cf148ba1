//! Logs and metrics: what every process sets up once, before anything else.

use std::io::IsTerminal;
use std::sync::OnceLock;

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tracing_subscriber::EnvFilter;

static METRICS: OnceLock<PrometheusHandle> = OnceLock::new();

/// Latencies from a millisecond to ten seconds; anything slower is an outage.
const SECONDS: &[f64] = &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// What these libraries log is said better by our own checks; a filter of one's own may name them again.
const QUIET: &str = "rdkafka=off,librdkafka=off";

/// Starts logging to standard error: text on a terminal, else one JSON object a line.
///
/// `filter` has the syntax of `tracing_subscriber::EnvFilter` (`info`, `warn,writer=debug`).
///
/// # Errors
/// If the filter cannot be read, or logging was started before.
pub fn start_logging(filter: &str) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(format!("{QUIET},{filter}"))?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // Nobody reads what is told about a log that cannot be written, and telling it panics.
    let builder = builder.log_internal_errors(false);
    let started = if std::io::stderr().is_terminal() {
        builder.with_target(false).try_init()
    } else {
        builder.json().flatten_event(true).try_init()
    };
    started.map_err(|error| anyhow::anyhow!("logging: {error}"))
}

/// The metrics of this process, in Prometheus' text format.
///
/// Metrics that were recorded before the first call of [`start_metrics`] are lost.
pub fn render_metrics() -> String {
    METRICS.get().map(PrometheusHandle::render).unwrap_or_default()
}

/// Begins to record metrics; further calls do nothing.
pub fn start_metrics() {
    METRICS.get_or_init(|| {
        let builder = PrometheusBuilder::new()
            .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), SECONDS)
            .expect("the buckets are not empty");
        let recorder = builder.build_recorder();
        let handle = recorder.handle();
        // Another recorder can only be a test's own; then there is nothing to render, and that is its choice.
        let _ = metrics::set_global_recorder(recorder);
        handle
    });
}

/// Lets the recorder forget what it no longer needs; call it every few seconds.
pub fn upkeep() {
    if let Some(handle) = METRICS.get() {
        handle.run_upkeep();
    }
}
