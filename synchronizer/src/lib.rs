//! Polls the source, translates what it serves, appends it to the log, and says how far it is.
//!
//! One leader at a time saves work; any number of leaders at once lose nothing, because a claim
//! (marker or checkpoint) is only written after the acks of everything that it claims.

pub mod agenda;
pub mod anti_entropy;
pub mod append;
pub mod budget;
pub mod checkpoint;
pub mod compare;
pub mod config;
pub mod counted;
pub mod dead_letters;
pub mod differences;
pub mod erase;
pub mod erasures;
pub mod leader;
pub mod mirror;
pub mod patience;
pub mod peers;
pub mod postgres_stored;
pub mod reconcile;
pub mod region;
pub mod round;
pub mod seen;
pub mod source;
pub mod standby;
pub mod stored;
pub mod to_log;
pub mod translate;
pub mod turns;
pub mod vendor;
pub mod verify;
pub mod world;

use std::sync::Arc;

use platform::event_log::{EventLog, LogError};
use platform::health::Health;
use platform::leadership::{Leadership, Role};
use platform::lifecycle::Stop;
use platform::retry;

pub use config::{Config, Settings};
use leader::Leader;
use patience::Patience;
use region::Region;
use source::Source;
use standby::{Handover, Standby};
use stored::Stored;
use to_log::ToLog;
use world::World;

/// Polls whenever this process leads, until the stop signal.
///
/// # Errors
/// If the log has another number of partitions than its markers say, for chats would lose their order; or if the regions
/// are not set as they must be.
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
    let region = Arc::new(Region::new(settings.rules()?, health.check("region")));
    let describe = tokio::spawn(describe_role(leadership.clone(), health.check("leadership")));
    let mut patience = Patience::default();
    let to_log = loop {
        tokio::select! {
            to_log = open_log(&settings, &log, &log_check, &region) => break to_log?,
            () = stop.cancelled() => return Ok(()),
            () = led_in_vain(leadership.clone(), &patience) => {
                let_another_try(&mut leadership, "the log does not answer").await;
                patience.after_a_term(false);
            }
        }
    };
    let world = World::new(settings, source, stored, to_log, log_check, region, &health);
    let following = tokio::spawn({
        let World { erasures, to_log, .. } = world.clone();
        async move { erasures.follow(&to_log).await }
    });
    while !stop.is_cancelled() {
        for check in [&world.source_check, &world.reconcile_check] {
            check.ready("standby: the leader does it");
        }
        let handover = tokio::select! {
            handover = get_ready(&world, &leadership) => handover,
            () = stop.cancelled() => break,
            () = led_in_vain(leadership.clone(), &patience) => {
                let_another_try(&mut leadership, "the log is not read to its end").await;
                patience.after_a_term(false);
                continue;
            }
        };
        let leader = Leader::begin(world.clone(), handover);
        let role = leadership.clone();
        let resigned = tokio::select! {
            () = leader.lead(&stop) => false,
            () = leadership.lost() => {
                tracing::info!("leads no more");
                false
            }
            why = unable(&leader, role, &patience) => {
                let_another_try(&mut leadership, why).await;
                true
            }
        };
        world.region.leave();
        // A term that another ended before anything could be done says nothing.
        if resigned || leader.has_worked() {
            patience.after_a_term(leader.has_worked());
        }
    }
    describe.abort();
    following.abort();
    Ok(())
}

/// Stands by until this process leads and knows what the last leader knew.
async fn get_ready(world: &World, leadership: &Leadership) -> Handover {
    let handover = Standby::new(world.clone()).until_elected(leadership.clone()).await;
    world.erasures.loaded().await;
    handover
}

/// Waits until this process, which is only getting ready, has led too long for that.
async fn led_in_vain(mut leadership: Leadership, patience: &Patience) {
    loop {
        leadership.elected().await;
        tokio::select! {
            () = tokio::time::sleep(patience.of_a_term(false)) => if leadership.may_resign() { return },
            () = leadership.lost() => {}
        }
    }
}

/// Waits until the leader cannot do its work and another could lead instead.
async fn unable(leader: &Leader, mut leadership: Leadership, patience: &Patience) -> &'static str {
    loop {
        let why = leader.unable(patience).await;
        if leadership.may_resign() {
            return why;
        }
        leadership.changed().await;
    }
}

async fn let_another_try(leadership: &mut Leadership, why: &str) {
    tracing::warn!(why, "cannot do its work: another may try");
    leadership.resign().await;
}

async fn open_log(
    settings: &Settings,
    log: &Arc<dyn EventLog>,
    check: &platform::health::Check,
    region: &Region,
) -> anyhow::Result<ToLog> {
    for wait in retry::reconnecting() {
        match ToLog::open(settings, log.clone()).await {
            Ok(to_log) => {
                check.ready("open");
                return Ok(to_log);
            }
            Err(to_log::OpenError::Log(LogError::Unavailable(why))) => {
                check.waiting(why);
                region.note_deaf();
            }
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
