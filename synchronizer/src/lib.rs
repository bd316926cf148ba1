//! Polls the source, translates what it serves, appends it to the log, and says how far it is.
//!
//! One leader at a time saves work; any number of leaders at once lose nothing, because a claim
//! (marker or checkpoint) is only written after the acks of everything that it claims.

pub mod agenda;
pub mod append;
pub mod budget;
pub mod checkpoint;
pub mod compare;
pub mod config;
pub mod dead_letters;
pub mod leader;
pub mod postgres_stored;
pub mod reconcile;
pub mod seen;
pub mod source;
pub mod standby;
pub mod stored;
pub mod to_log;
pub mod translate;
pub mod vendor;
pub mod verify;

use std::sync::Arc;
use std::time::Duration;

use platform::event_log::{EventLog, LogError};
use platform::health::Health;
use platform::leadership::{Leadership, Role};
use platform::lifecycle::Stop;
use platform::retry;

pub use config::{Config, Settings};
use leader::{Leader, World};
use source::Source;
use standby::Standby;
use stored::Stored;
use to_log::ToLog;

/// How long a leader waits for a log or a source that does not answer, before it lets another try: it may be this process
/// alone that is cut off. If it is not, leadership goes round, more and more slowly.
const PATIENCE: Duration = Duration::from_secs(15);
const LONGEST_PATIENCE: Duration = Duration::from_secs(300);

/// Polls whenever this process leads, until the stop signal.
///
/// # Errors
/// If the log has another number of partitions than its markers say: chats would lose their order.
pub async fn run(
    settings: Settings,
    source: Arc<dyn Source>,
    stored: Arc<dyn Stored>,
    log: Arc<dyn EventLog>,
    mut leadership: Leadership,
    health: Health,
    stop: Stop,
) -> anyhow::Result<()> {
    let log_check = health.check("log");
    let describe = tokio::spawn(describe_role(leadership.clone(), health.check("leadership")));
    let to_log = tokio::select! {
        to_log = open_log(&settings, &log, &log_check) => to_log?,
        () = stop.cancelled() => return Ok(()),
    };
    let world = World::new(settings, source, stored, to_log, log_check, &health);
    let mut patience = PATIENCE;
    while !stop.is_cancelled() {
        for check in [&world.source_check, &world.reconcile_check] {
            check.ready("standby: the leader does it");
        }
        let handover = tokio::select! {
            handover = Standby::new(world.clone()).until_elected(leadership.clone()) => handover,
            () = stop.cancelled() => break,
            () = led_for(leadership.clone(), patience), if leadership.is_contested() => {
                patience = let_another_try(&mut leadership, "the log is not read to its end", patience).await;
                continue;
            }
        };
        let leader = Leader::begin(world.clone(), handover);
        tokio::select! {
            () = leader.lead(&stop) => {}
            () = leadership.lost() => tracing::info!("leads no more"),
            why = leader.unable(patience), if leadership.is_contested() => {
                let longer = let_another_try(&mut leadership, why, patience).await;
                patience = if leader.has_worked() { PATIENCE } else { longer };
            }
        }
    }
    describe.abort();
    Ok(())
}

/// Waits until this process has led for so long.
async fn led_for(mut leadership: Leadership, patience: Duration) {
    leadership.elected().await;
    tokio::time::sleep(patience).await;
}

/// Leads no more; gives how patient to be the next time.
async fn let_another_try(leadership: &mut Leadership, why: &str, patience: Duration) -> Duration {
    tracing::warn!(why, patience_seconds = patience.as_secs(), "cannot do its work: another may try");
    leadership.resign().await;
    LONGEST_PATIENCE.min(patience * 2)
}

async fn open_log(
    settings: &Settings,
    log: &Arc<dyn EventLog>,
    check: &platform::health::Check,
) -> anyhow::Result<ToLog> {
    for wait in retry::reconnecting() {
        match ToLog::open(settings, log.clone()).await {
            Ok(to_log) => {
                check.ready("open");
                return Ok(to_log);
            }
            Err(to_log::OpenError::Log(LogError::Unavailable(why))) => check.waiting(why),
            Err(error) => return Err(error.into()),
        }
        tokio::time::sleep(wait).await;
    }
    unreachable!("the waits never end")
}

async fn describe_role(mut leadership: Leadership, check: platform::health::Check) {
    let mut since = None;
    loop {
        let role = leadership.role();
        since = role.leads().then(|| since.unwrap_or_else(contract::Timestamp::now));
        match (role, since) {
            (Role::Leader { confirmed: true }, Some(since)) => check.ready(format!("leads since {since}")),
            (Role::Leader { .. }, since) => {
                let since = since.map_or(String::new(), |since| format!(" since {since}"));
                check.ready(format!("leads{since}, unconfirmed: the Kubernetes API cannot be reached"));
            }
            (Role::Standby { holder: Some(holder) }, _) if !holder.is_empty() => {
                check.ready(format!("standby of {holder}"));
            }
            (Role::Standby { .. }, _) => check.ready("standby; the leader is not known"),
        }
        leadership.changed().await;
    }
}
