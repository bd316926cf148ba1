//! What operators see: each stage of the pipeline with its rate, lag and age, and fifteen minutes of it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use contract::{Marker, Timestamp};
use platform::dead_letters::{DeadLetters, Group};
use platform::event_log::{EventLog, Progress, TopicPartition};
use platform::health::Health;
use serde::Serialize;

use crate::copy::ChatCopy;
use crate::hub::{Gap, Hub};

/// How often everything is looked at.
const LOOK: Duration = Duration::from_secs(2);
/// How many looks are kept: fifteen minutes.
const KEPT: usize = 450;
/// Past these a stage is called slow, and down.
const SLOW: f64 = 5.0;
const DOWN: f64 = 30.0;

/// How a stage is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum How {
    Ok,
    Slow,
    Down,
    Unknown,
}

/// A stage of the pipeline, from left to right.
#[derive(Debug, Clone, Serialize)]
pub struct Stage {
    pub name: &'static str,
    pub how: How,
    /// For people.
    pub words: String,
    /// Rows a second.
    pub rate: Option<f64>,
    /// In seconds: how far it is behind the stage before it.
    pub lag: Option<f64>,
    /// In seconds: since something last came through it.
    pub age: Option<f64>,
    /// Where each of these figures comes from.
    pub metrics: Metrics,
}

/// The names of a stage's metrics.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Metrics {
    pub service: &'static str,
    pub rate: &'static str,
    pub lag: &'static str,
    pub age: &'static str,
}

/// Who may decide about dead letters here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Decisions {
    Nobody,
    /// Whoever shows the operator's token.
    OperatorToken,
    /// Operators, who have signed in.
    Operators,
}

/// Everything at one moment.
#[derive(Debug, Clone, Serialize)]
pub struct View {
    pub at: Timestamp,
    pub region: String,
    pub pod: String,
    pub stages: Vec<Stage>,
    pub leader: Option<Leader>,
    /// Rows that the last whole comparison had to append, and when it began.
    pub drift: Option<u64>,
    pub verified_through: Option<Timestamp>,
    /// In how many chats two regions' copies differ, and up to when they were compared.
    pub differing: Option<u64>,
    pub compared_through: Option<Timestamp>,
    pub dead_letters: Vec<Group>,
    pub decisions: Decisions,
    /// Oldest first, one every two seconds.
    pub history: Vec<Point>,
}

#[derive(Debug, Clone, Serialize)]
pub struct Leader {
    pub name: String,
    pub since: Option<Timestamp>,
    /// When its last marker was made.
    pub marker: Timestamp,
}

/// One look, for the sparklines.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Point {
    pub rate: f64,
    /// From the source to the copy, in seconds.
    pub lag: f64,
}

/// What the consuming side counts.
#[derive(Debug, Clone, Default)]
pub struct Counted {
    /// Rows and rejected items that were read from the log.
    pub rows: u64,
    pub deliveries: u64,
    pub last_row_at: Option<Timestamp>,
    /// In seconds: how late the last records were read.
    pub lag: f64,
    pub marker: Option<Marker>,
}

#[derive(Default)]
struct State {
    counted: Counted,
    earlier: Option<(Timestamp, Counted)>,
    rates: (f64, f64),
    /// Where the log ended, look by look; with it a position in the log becomes a time.
    ends: VecDeque<(Timestamp, BTreeMap<TopicPartition, u64>)>,
    writer: Option<Writer>,
    letters: Vec<Group>,
    copy_answers: bool,
    log_answers: bool,
    history: VecDeque<Point>,
}

#[derive(Debug, Clone, Copy)]
struct Writer {
    records: u64,
    lag: f64,
}

/// The operator's view of one pod.
pub struct Ops {
    region: String,
    pod: String,
    topic: String,
    state: Mutex<State>,
}

/// What is looked at.
pub struct Watched {
    pub log: Arc<dyn EventLog>,
    pub copy: Arc<dyn ChatCopy>,
    pub letters: Arc<dyn DeadLetters>,
    pub hub: Arc<Hub>,
}

impl Ops {
    pub fn new(region: &str, pod: &str, topic: &str) -> Self {
        let (region, pod, topic) = (region.to_owned(), pod.to_owned(), topic.to_owned());
        Self { region, pod, topic, state: Mutex::default() }
    }

    /// Takes note of what the consuming side has done.
    pub fn count(&self, note: impl FnOnce(&mut Counted)) {
        note(&mut self.lock().counted);
    }

    /// Looks for ever.
    pub async fn watch(&self, watched: Watched) {
        loop {
            self.look(&watched).await;
            tokio::time::sleep(LOOK).await;
        }
    }

    async fn look(&self, watched: &Watched) {
        let now = Timestamp::now();
        let patiently = Duration::from_secs(3);
        let ends = tokio::time::timeout(patiently, watched.log.offsets(&self.topic)).await;
        let progress = tokio::time::timeout(patiently, watched.copy.progress()).await;
        let letters = tokio::time::timeout(patiently, watched.letters.groups()).await;
        let mut state = self.lock();
        state.log_answers = matches!(ends, Ok(Ok(_)));
        state.copy_answers = matches!(progress, Ok(Ok(_)));
        if let Ok(Ok(ends)) = ends {
            let ends = ends.into_iter().map(|(id, held)| (TopicPartition::new(self.topic.as_str(), id), held.end));
            state.ends.push_back((now, ends.collect()));
            if state.ends.len() > KEPT {
                state.ends.pop_front();
            }
        }
        state.writer = match progress {
            Ok(Ok(progress)) => state.behind(&progress, now),
            _ => None,
        };
        if let Ok(Ok(letters)) = letters {
            state.letters = letters;
        }
        state.tick(now, watched.hub.fresh_as_of());
    }

    /// Everything as it is now.
    pub fn view(&self, hub: &Hub, health: &Health, decisions: Decisions) -> View {
        let (state, now) = (self.lock(), Timestamp::now());
        let marker = state.counted.marker.clone();
        let (_, checks) = health.report();
        let gate = checks.iter().find(|(name, _)| name.ends_with("gate")).map(|(_, check)| check.detail.clone());
        View {
            at: now,
            region: self.region.clone(),
            pod: self.pod.clone(),
            stages: state.stages(now, hub, gate.unwrap_or_default()),
            leader: marker.as_ref().map(|marker| Leader {
                name: marker.leader.clone(),
                since: marker.leads_since,
                marker: marker.at,
            }),
            drift: marker.as_ref().and_then(|marker| marker.drift),
            verified_through: marker.as_ref().and_then(|marker| marker.verified_through),
            differing: marker.as_ref().and_then(|marker| marker.differing),
            compared_through: marker.and_then(|marker| marker.compared_through),
            dead_letters: state.letters.clone(),
            decisions,
            history: state.history.iter().copied().collect(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// How far the writer is behind: in records, and since when it has not had all there was.
    fn behind(&self, progress: &BTreeMap<TopicPartition, Progress>, now: Timestamp) -> Option<Writer> {
        let missing = |ends: &BTreeMap<TopicPartition, u64>| -> u64 {
            ends.iter()
                .map(|(at, end)| end.saturating_sub(progress.get(at).map_or(0, |progress| progress.next_offset)))
                .sum()
        };
        let (_, newest) = self.ends.back()?;
        let records = missing(newest);
        // What came since the last look is on its way; finer than the looks this cannot tell.
        let reached = self.ends.iter().rev().position(|(_, ends)| missing(ends) == 0);
        let since = match reached {
            Some(0 | 1) => now,
            Some(back) => self.ends[self.ends.len() - 1 - back].0,
            None => self.ends.front()?.0,
        };
        Some(Writer { records, lag: now.since(since).as_secs_f64() })
    }

    fn tick(&mut self, now: Timestamp, fresh: Option<Timestamp>) {
        if let Some((then, earlier)) = &self.earlier {
            let seconds = now.since(*then).as_secs_f64().max(0.001);
            let rate = |now: u64, then: u64| now.saturating_sub(then) as f64 / seconds;
            self.rates = (rate(self.counted.rows, earlier.rows), rate(self.counted.deliveries, earlier.deliveries));
            let age = fresh.map_or(0.0, |fresh| now.since(fresh).as_secs_f64());
            self.history.push_back(Point { rate: self.rates.0, lag: age + self.writer.map_or(0.0, |it| it.lag) });
            if self.history.len() > KEPT {
                self.history.pop_front();
            }
        }
        self.earlier = Some((now, self.counted.clone()));
    }

    fn stages(&self, now: Timestamp, hub: &Hub, gate: String) -> Vec<Stage> {
        let since = |time: Option<Timestamp>| time.map(|time| now.since(time).as_secs_f64());
        let (rows, deliveries) = self.rates;
        let row_age = since(self.counted.last_row_at);
        let marker_age = since(self.counted.marker.as_ref().map(|marker| marker.at));
        let source_age = since(hub.fresh_as_of());
        let browsers = hub.browsers();
        let figures = |rate, lag, age| (rate, lag, age);
        vec![
            stage(
                "vendor",
                how(source_age),
                figures(Some(rows), None, source_age),
                match (&self.counted.marker, hub.gap(), source_age) {
                    (Some(Marker { waiting: Some(why), .. }), _, _) => why.clone(),
                    (_, Gap::Since { reason, .. }, _) => format!("changes may be missing here: {reason}"),
                    (_, _, None) => "not read to its end yet".into(),
                    (_, _, Some(_)) => "known up to this age".into(),
                },
            ),
            stage(
                "synchronizer",
                how(marker_age),
                figures(Some(rows), source_age, marker_age),
                match marker_age {
                    None => "no marker yet: does one lead?".into(),
                    Some(_) => "the leader's last marker".into(),
                },
            ),
            stage(
                "log",
                if self.log_answers { How::Ok } else { How::Down },
                figures(Some(rows), None, row_age),
                if self.log_answers { "answers" } else { "does not answer" }.into(),
            ),
            stage(
                "writer",
                self.writer.map_or(How::Unknown, |writer| how(Some(writer.lag))),
                figures(None, self.writer.map(|writer| writer.lag), None),
                self.writer.map_or("not known yet".into(), |writer| format!("{} records behind", writer.records)),
            ),
            stage(
                "copy",
                if self.copy_answers { How::Ok } else { How::Down },
                figures(None, None, None),
                if self.copy_answers { "answers" } else { "does not answer" }.into(),
            ),
            stage("internal", how(Some(self.counted.lag)), figures(Some(rows), Some(self.counted.lag), row_age), {
                format!("gate: {gate}")
            }),
            stage("browsers", How::Ok, figures(Some(deliveries), None, None), format!("{browsers} connected")),
        ]
    }
}

fn how(seconds: Option<f64>) -> How {
    match seconds {
        None => How::Unknown,
        Some(seconds) if seconds > DOWN => How::Down,
        Some(seconds) if seconds > SLOW => How::Slow,
        Some(_) => How::Ok,
    }
}

fn stage(name: &'static str, how: How, figures: (Option<f64>, Option<f64>, Option<f64>), words: String) -> Stage {
    let (rate, lag, age) = figures;
    let metrics = |service, rate, lag, age| Metrics { service, rate, lag, age };
    let metrics = match name {
        "vendor" => metrics("synchronizer", "chat_sync_changes_polled_total", "", "chat_sync_source_lag_seconds"),
        "synchronizer" => metrics(
            "synchronizer",
            "chat_sync_records_appended_total",
            "chat_sync_source_lag_seconds",
            "chat_sync_internal_marker_age_seconds",
        ),
        "log" => {
            metrics("internal", "chat_sync_internal_rows_total", "", "chat_sync_internal_last_record_timestamp_seconds")
        }
        "writer" => metrics("writer", "chat_sync_writer_records_total", "chat_sync_writer_lag_seconds", ""),
        "internal" => metrics(
            "internal",
            "chat_sync_internal_rows_total",
            "chat_sync_internal_lag_seconds",
            "chat_sync_internal_last_record_timestamp_seconds",
        ),
        "browsers" => metrics("internal", "chat_sync_deliveries_total", "", ""),
        _ => metrics("internal", "", "", ""),
    };
    Stage { name, how, words, rate, lag, age, metrics }
}
