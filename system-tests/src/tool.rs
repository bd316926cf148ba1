//! The operator's tools, as processes.

use std::process::{Command, Output};
use std::time::Duration;

use crate::pipeline::Pipeline;
use crate::process::path_of;

/// How long a tool may take: one that waits for what never comes is a failure.
const LONGEST: Duration = Duration::from_secs(180);

/// Runs a tool against the pipeline.
///
/// # Panics
/// If it cannot be started.
pub async fn tool(pipeline: &Pipeline, arguments: &[&str]) -> Output {
    tool_with(pipeline, &[], arguments).await
}

/// The same with further settings, which take the place of the pipeline's.
///
/// # Panics
/// If it cannot be started, or does not end within [`LONGEST`].
pub async fn tool_with(pipeline: &Pipeline, further: &[(&str, &str)], arguments: &[&str]) -> Output {
    let mut command = tokio::process::Command::from(command(pipeline, further, arguments));
    let output = tokio::time::timeout(LONGEST, command.kill_on_drop(true).output());
    output.await.unwrap_or_else(|_| panic!("{arguments:?} has not ended in {LONGEST:?}")).expect("it runs")
}

/// The same, not started yet.
///
/// # Panics
/// If it is not built.
pub fn command(pipeline: &Pipeline, further: &[(&str, &str)], arguments: &[&str]) -> Command {
    let mut command = Command::new(path_of("chat-sync"));
    command.env_clear().args(arguments).envs([
        ("DATABASE_URL", pipeline.database_url.expose()),
        ("CHAT_SYNC_SOURCE_URL", &format!("http://{}", pipeline.vendor_address)),
        ("CHAT_SYNC_KAFKA", &pipeline.kafka),
        ("CHAT_SYNC_TOPIC_SUFFIX", &pipeline.topic_suffix),
        ("CHAT_SYNC_INTERNAL_URL", &format!("http://{}", pipeline.internal_address)),
    ]);
    command.envs(further.iter().copied());
    command
}

/// What it printed, errors after the rest.
pub fn printed(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// `chat-sync verify` finds no difference that no dead letter explains.
///
/// # Panics
/// If it finds one.
pub async fn verifies(pipeline: &Pipeline) {
    verifies_with(pipeline, &[]).await;
}

/// The same with further settings, which take the place of the pipeline's.
///
/// # Panics
/// If it finds one.
pub async fn verifies_with(pipeline: &Pipeline, further: &[(&'static str, String)]) {
    let further: Vec<(&str, &str)> = further.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let verified = tool_with(pipeline, &further, &["verify"]).await;
    assert!(verified.status.success(), "{}", printed(&verified));
}
