//! How this vendor misbehaves when it is told to: what a client of a real one has to live with.
//!
//! Everything here lives in memory: a restart behaves again.

mod answers;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rand::seq::{IndexedRandom, SliceRandom};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Longer ones are mistakes: a day, in seconds.
const LONGEST: f64 = 86_400.0;

/// What can go wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// 429 with `Retry-After: delay`.
    RateLimited,
    /// 500, 502 or 503; one of them in HTML.
    ServerError,
    /// The connection ends in the middle of the body.
    CutBody,
    /// The body takes `delay` seconds.
    SlowBody,
    /// A whole answer, but half of its JSON.
    HalfJson,
    /// Rows of a page of the feed come twice, the second time behind all others.
    Duplicates,
    /// The rows of a page of the feed come in any order.
    Reordered,
    /// Rows written from now on appear in the feed `delay` seconds later, behind cursors that passed them.
    LateRows,
    /// Cursors of the feed are answered with 410.
    ExpiredCursors,
    /// The clock that rows are written by is `delay` seconds ahead; negative: behind.
    WrongClock,
    /// A row comes in the feed with a time that is none.
    MalformedItem,
    /// Messages written from now on have texts that are hard to swallow.
    StrangeText,
}

impl Fault {
    /// As in JSON.
    fn name(self) -> String {
        let name = serde_json::to_value(self).unwrap_or_default();
        name.as_str().unwrap_or_default().to_owned()
    }
}

/// Which requests are meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    Feed,
    Listings,
}

/// A text that is hard to swallow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Strange {
    /// U+0000, legal in JSON, refused by Postgres.
    Nul,
    /// Half of a surrogate pair, written as an escape: legal in JSON's grammar, no Unicode text.
    LoneSurrogate,
    /// A text of 1 MB.
    Large,
    /// A text of 5 MB.
    TooLarge,
    /// An array in an array, 10,000 deep.
    Deep,
}

const STRANGE: [Strange; 5] = [Strange::Nul, Strange::LoneSurrogate, Strange::Large, Strange::TooLarge, Strange::Deep];

/// How often a fault strikes, for how long, and how badly.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Switch {
    /// The part of all occasions, from 0 to 1.
    #[serde(default = "always")]
    pub rate: f64,
    /// How many times it strikes still.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub times: Option<u32>,
    /// How many seconds it lasts still.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seconds: Option<f64>,
    /// In seconds; what it means, the fault says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delay: Option<f64>,
    /// Only these requests; without it, all that it can strike.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scope: Option<Scope>,
    /// Only these texts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kinds: Option<Vec<Strange>>,
}

fn always() -> f64 {
    1.0
}

/// All switches that are on, as `GET` and `PUT /api/misbehaviour` have them.
pub type Switches = BTreeMap<Fault, Switch>;

#[derive(Debug, Clone)]
struct Active {
    switch: Switch,
    until: Option<Instant>,
}

#[derive(Debug, Default)]
struct State {
    active: BTreeMap<Fault, Active>,
    /// By sequence: until when the feed does not have it.
    late: HashMap<i64, Instant>,
    /// By message id.
    strange: HashMap<String, Strange>,
}

/// What this vendor was told to do wrong.
#[derive(Debug, Default)]
pub struct Misbehaviour(Mutex<State>);

impl Misbehaviour {
    /// Replaces all switches.
    ///
    /// # Errors
    /// A sentence about the first that cannot be; then nothing has changed.
    pub fn set(&self, switches: Switches) -> Result<(), String> {
        switches.iter().try_for_each(|(fault, switch)| check(*fault, switch))?;
        let now = Instant::now();
        let active = switches.into_iter().map(|(fault, switch)| {
            let until = switch.seconds.map(|seconds| now + Duration::from_secs_f64(seconds));
            (fault, Active { switch, until })
        });
        self.lock().active = active.collect();
        Ok(())
    }

    /// The switches that are on, with what is left of them.
    pub fn switches(&self) -> Switches {
        let now = Instant::now();
        let mut state = self.lock();
        state.active.retain(|_, active| active.lasts(now));
        let left = |active: &Active| Switch {
            seconds: active.until.map(|until| (until - now).as_secs_f64().ceil()),
            ..active.switch.clone()
        };
        state.active.iter().map(|(fault, active)| (*fault, left(active))).collect()
    }

    /// Whether the fault strikes now; counts it if it does.
    pub fn strikes(&self, fault: Fault, scope: Scope) -> Option<Switch> {
        let mut state = self.lock();
        let active = state.active.get_mut(&fault)?;
        let meant = active.switch.scope.is_none_or(|only| only == scope);
        if !meant || !active.lasts(Instant::now()) || !rand::random_bool(active.switch.rate) {
            return None;
        }
        active.switch.times = active.switch.times.map(|times| times.saturating_sub(1));
        metrics::counter!("chat_sync_external_faults_total", "fault" => fault.name()).increment(1);
        Some(active.switch.clone())
    }

    /// How far the clock is ahead, in microseconds.
    pub fn clock_error(&self) -> i64 {
        let state = self.lock();
        let active = state.active.get(&Fault::WrongClock).filter(|active| active.lasts(Instant::now()));
        let seconds = active.and_then(|active| active.switch.delay).unwrap_or(0.0);
        (seconds * 1e6) as i64
    }

    /// A row was written: it may be late, its text may be strange.
    pub fn written(&self, sequence: i64, message: Option<&str>) {
        if let Some(switch) = self.strikes(Fault::LateRows, Scope::Feed) {
            let late = Duration::from_secs_f64(switch.delay.unwrap_or(30.0));
            self.lock().late.insert(sequence, Instant::now() + late);
        }
        let Some(message) = message else { return };
        if let Some(switch) = self.strikes(Fault::StrangeText, Scope::Feed) {
            let kinds = switch.kinds.unwrap_or_else(|| STRANGE.to_vec());
            if let Some(kind) = kinds.choose(&mut rand::rng()) {
                self.lock().strange.insert(message.to_owned(), *kind);
            }
        }
    }

    /// A page of the feed as it is served.
    pub fn feed_page(&self, rows: Vec<(i64, String)>) -> Vec<String> {
        let now = Instant::now();
        {
            let mut state = self.lock();
            state.late.retain(|_, until| *until > now);
        }
        let mut page = Vec::with_capacity(rows.len());
        let mut again = Vec::new();
        for (sequence, body) in rows {
            if self.lock().late.contains_key(&sequence) {
                continue;
            }
            let mut body = self.strange(body);
            if self.strikes(Fault::Duplicates, Scope::Feed).is_some() {
                again.push(body.clone());
            }
            if self.strikes(Fault::MalformedItem, Scope::Feed).is_some() {
                body = with(&body, "created_at", "\"yesterday\"");
            }
            page.push(body);
        }
        page.append(&mut again);
        if self.strikes(Fault::Reordered, Scope::Feed).is_some() {
            page.shuffle(&mut rand::rng());
        }
        page
    }

    /// A row as it is served: its text may be a strange one.
    pub fn strange(&self, body: String) -> String {
        let kind = {
            let state = self.lock();
            if state.strange.is_empty() {
                return body;
            }
            let row: Value = serde_json::from_str(&body).unwrap_or_default();
            let living = row["text"].is_string();
            row["id"].as_str().filter(|_| living).and_then(|id| state.strange.get(id).copied())
        };
        kind.map_or(body.clone(), |kind| with(&body, "text", &kind.json()))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Active {
    fn lasts(&self, now: Instant) -> bool {
        self.until.is_none_or(|until| until > now) && self.switch.times != Some(0)
    }
}

impl Strange {
    /// The text's JSON.
    fn json(self) -> String {
        match self {
            Self::Nul => r#""a text with U+0000: \u0000.""#.to_owned(),
            Self::LoneSurrogate => r#""a text with half a pair: \ud800.""#.to_owned(),
            Self::Large => format!("\"{}\"", "A megabyte. ".repeat((1 << 20) / 12)),
            Self::TooLarge => format!("\"{}\"", "Five megabytes. ".repeat((5 << 20) / 16)),
            Self::Deep => "[".repeat(10_000) + &"]".repeat(10_000),
        }
    }
}

/// The row with another value of a field, given as JSON that need not be readable.
fn with(body: &str, field: &str, json: &str) -> String {
    const PLACE: &str = "\u{e000}the place of a value";
    let mut row: Value = serde_json::from_str(body).unwrap_or_default();
    row[field] = PLACE.into();
    row.to_string().replacen(&format!("\"{PLACE}\""), json, 1)
}

fn check(fault: Fault, switch: &Switch) -> Result<(), String> {
    let name = fault.name();
    if !(0.0..=1.0).contains(&switch.rate) {
        return Err(format!("{name}: rate is from 0 to 1"));
    }
    let bounded = |value: Option<f64>, least: f64| value.is_none_or(|value| (least..=LONGEST).contains(&value));
    if !bounded(switch.seconds, 0.0) {
        return Err(format!("{name}: seconds is from 0 to {LONGEST}"));
    }
    let least = if fault == Fault::WrongClock { -LONGEST } else { 0.0 };
    if !bounded(switch.delay, least) {
        return Err(format!("{name}: delay is from {least} to {LONGEST}, in seconds"));
    }
    let delays = [Fault::RateLimited, Fault::SlowBody, Fault::LateRows, Fault::WrongClock];
    if switch.delay.is_some() && !delays.contains(&fault) {
        return Err(format!("{name} has no delay"));
    }
    if switch.kinds.is_some() && fault != Fault::StrangeText {
        return Err(format!("{name} has no kinds"));
    }
    if switch.kinds.as_ref().is_some_and(Vec::is_empty) {
        return Err(format!("{name}: kinds is empty"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn switches(json: Value) -> Result<Misbehaviour, String> {
        let misbehaviour = Misbehaviour::default();
        let switches = serde_json::from_value(json).map_err(|error| error.to_string())?;
        misbehaviour.set(switches).map(|()| misbehaviour)
    }

    #[test]
    fn what_cannot_be_is_refused_and_named() {
        for (json, words) in [
            (serde_json::json!({ "gremlins": {} }), "gremlins"),
            (serde_json::json!({ "cut_body": { "often": 1 } }), "often"),
            (serde_json::json!({ "cut_body": { "rate": 2 } }), "cut_body: rate"),
            (serde_json::json!({ "cut_body": { "delay": 2 } }), "cut_body has no delay"),
            (serde_json::json!({ "late_rows": { "delay": -2 } }), "late_rows: delay"),
            (serde_json::json!({ "strange_text": { "kinds": [] } }), "kinds is empty"),
            (serde_json::json!({ "cut_body": { "seconds": 1e9 } }), "cut_body: seconds"),
        ] {
            let error = switches(json).unwrap_err();
            assert!(error.contains(words), "{error}");
        }
    }

    #[test]
    fn a_switch_ends_after_its_times_and_strikes_only_its_scope() {
        let misbehaviour = switches(serde_json::json!({ "half_json": { "times": 2, "scope": "feed" } })).unwrap();
        assert!(misbehaviour.strikes(Fault::HalfJson, Scope::Listings).is_none());
        assert!(misbehaviour.strikes(Fault::HalfJson, Scope::Feed).is_some());
        assert!(misbehaviour.strikes(Fault::HalfJson, Scope::Feed).is_some());
        assert!(misbehaviour.strikes(Fault::HalfJson, Scope::Feed).is_none());
        assert!(misbehaviour.switches().is_empty());
    }

    #[test]
    fn a_strange_text_stands_where_the_text_was() {
        let misbehaviour = switches(serde_json::json!({ "strange_text": { "kinds": ["lone_surrogate"] } })).unwrap();
        misbehaviour.written(1, Some("m"));
        let page = misbehaviour.feed_page(vec![
            (1, r#"{"id":"m","text":"plain"}"#.to_owned()),
            (2, r#"{"id":"n","text":"plain"}"#.to_owned()),
        ]);
        assert_eq!(page, [r#"{"id":"m","text":"a text with half a pair: \ud800."}"#, r#"{"id":"n","text":"plain"}"#]);
    }

    #[test]
    fn a_late_row_is_missing_until_its_time_has_come() {
        let misbehaviour = switches(serde_json::json!({ "late_rows": { "delay": 30, "times": 1 } })).unwrap();
        misbehaviour.written(1, None);
        misbehaviour.written(2, None);
        let rows = || vec![(1, "{}".to_owned()), (2, "{}".to_owned())];
        assert_eq!(misbehaviour.feed_page(rows()).len(), 1);
        misbehaviour.lock().late.insert(1, Instant::now());
        assert_eq!(misbehaviour.feed_page(rows()).len(), 2);
    }
}
