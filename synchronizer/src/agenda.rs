//! Which reconcile is to be done: what the leader asks for, what the routine does, and what checkpoints carry of it.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use contract::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use crate::round::{Gap, Round};
use crate::stored::Request;

/// A round that is done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finished {
    pub reason: String,
    pub began_at: Timestamp,
    pub finished_at: Timestamp,
    pub chats: u64,
    pub appended: u64,
    /// The newest request that it answers.
    #[serde(default)]
    pub request: i64,
}

/// The reason of rounds that nobody asked for.
pub const SLOW: &str = "slow";

/// What checkpoints carry of it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct State {
    pub round: Option<Round>,
    pub last: Option<Finished>,
    /// What the last round appended that was no gap's: what a gap's round appends is its purpose, and no drift.
    #[serde(default)]
    pub drift: Option<u64>,
    /// The last request that was taken up.
    pub request: i64,
    /// When the source was last known to be read to its end, with nothing missing here: of whatever gap comes next, nothing
    /// before that is.
    #[serde(default)]
    pub fresh_as_of: Option<Timestamp>,
}

#[derive(Default)]
struct Shared {
    state: State,
    /// Another number for every round that begins from its beginning.
    number: u64,
    /// Whether the round must wait until the feed is read from its beginning: see decision 3.
    held: bool,
    /// Chats to be compared as soon as may be, beside any round.
    chats: BTreeSet<String>,
}

/// What the leader and the routine share.
#[derive(Default)]
pub struct Agenda {
    shared: Mutex<Shared>,
    changed: Notify,
}

impl Agenda {
    /// With what the last leader left; `held` if the feed is still to be read from its beginning.
    pub fn new(mut state: State, held: bool) -> Self {
        if let Some(round) = &mut state.round {
            // An older leader did not say which.
            round.again |= round.incomplete && round.left.is_empty();
        }
        let held = held && state.round.as_ref().is_some_and(|round| round.gap);
        if let Some(last) = &state.last {
            verified_through(last.began_at);
        }
        if let Some(drift) = state.drift {
            drift_messages(drift);
        }
        let shared = Shared { state, number: 0, held, chats: BTreeSet::new() };
        shared.tell();
        Self { shared: Mutex::new(shared), changed: Notify::new() }
    }

    /// Asks for a round that looks whether anything is missing.
    pub fn ask(&self, reason: &str) {
        self.ask_for(reason, None);
    }

    /// Changes of after this moment may be missing; of which moment nobody may know. A gap's round that is under way
    /// goes on, and another one follows it: a source whose cursors expire again and again must not keep it from ever
    /// reaching its end.
    pub fn ask_since(&self, reason: &str, complete_as_of: Option<Timestamp>) {
        self.ask_for(reason, Some(Gap { complete_as_of }));
    }

    fn ask_for(&self, reason: &str, gap: Option<Gap>) {
        tracing::info!(reason, gap = gap.is_some(), "reconcile");
        let mut shared = self.lock();
        match &mut shared.state.round {
            Some(round) if round.gap => {
                round.again = true;
                round.complete_as_of =
                    gap.map_or(round.complete_as_of, |gap| round.complete_as_of.min(gap.complete_as_of));
            }
            _ => shared.begin(Round::new(reason, gap)),
        }
        drop(shared);
        self.changed.notify_one();
    }

    /// The same of after the source was last known to be read to its end.
    pub fn ask_in_gap(&self, reason: &str) {
        let complete_as_of = self.lock().state.fresh_as_of;
        self.ask_since(reason, complete_as_of);
    }

    /// The source was read to its end at that moment, and all of it is here, unless there is a gap.
    pub fn note_fresh(&self, at: Timestamp) {
        let mut shared = self.lock();
        if !shared.gap() {
            shared.state.fresh_as_of = shared.state.fresh_as_of.max(Some(at));
        }
    }

    /// Changes may be missing, and the feed is still to be read from its beginning: the round waits for that.
    pub fn ask_and_hold(&self, reason: &str) {
        let under_way = self.gap();
        self.ask_in_gap(reason);
        if !under_way {
            self.lock().held = true;
        }
    }

    /// The feed is read from its beginning now. What was listed before may have changed in between, and left it.
    pub fn release(&self, reason: &str) {
        let was_held = std::mem::take(&mut self.lock().held);
        if was_held {
            self.changed.notify_one();
        } else {
            self.ask_in_gap(reason);
        }
    }

    /// Another region reads the feed, and this region's log has what it read: there is no reason to wait any more.
    pub fn release_held(&self) {
        if std::mem::take(&mut self.lock().held) {
            self.changed.notify_one();
        }
    }

    pub fn take_up(&self, request: &Request) {
        if request.id != self.lock().state.request {
            // What the copy or the log lost is not told by when.
            self.ask_for(&request.reason, request.gap.then_some(Gap { complete_as_of: None }));
            self.lock().state.request = request.id;
        }
    }

    /// Asks for a comparison of these chats alone.
    pub fn look_at(&self, chats: Vec<String>) {
        self.lock().chats.extend(chats);
        self.changed.notify_one();
    }

    /// The chats that are to be compared now.
    pub fn take_chats(&self) -> BTreeSet<String> {
        std::mem::take(&mut self.lock().chats)
    }

    /// What a checkpoint should carry.
    pub fn state(&self) -> State {
        self.lock().state.clone()
    }

    /// Whether changes may be missing.
    pub fn gap(&self) -> bool {
        self.lock().gap()
    }

    /// The round to do now, and its number; none while it is held.
    pub fn round(&self) -> (Option<Round>, u64) {
        let shared = self.lock();
        (shared.state.round.clone().filter(|_| !shared.held), shared.number)
    }

    /// Notes how far the round is; false if another one was begun meanwhile.
    pub fn note(&self, round: &Round, number: u64) -> bool {
        let mut shared = self.lock();
        if shared.number != number {
            return false;
        }
        let Some(known) = &mut shared.state.round else { return false };
        *known = known.now(round);
        metrics::gauge!("chat_sync_reconcile_chats_done").set(round.chats_done as f64);
        metrics::gauge!("chat_sync_reconcile_chats").set(round.chats as f64);
        true
    }

    /// Notes why the round does not go on just now; what is noted next takes its place.
    pub fn waits(&self, why: &str, number: u64) {
        let mut shared = self.lock();
        if shared.number == number
            && let Some(round) = &mut shared.state.round
        {
            round.waiting = Some(why.to_owned());
        }
    }

    /// The round has come to its end; whether it was a whole one. A gap's is followed by one that verifies it.
    pub fn finish(&self, round: &Round, number: u64) -> bool {
        let mut shared = self.lock();
        if shared.number != number {
            return false;
        }
        let Some(known) = &shared.state.round else { return false };
        if let Some(next) = known.now(round).next() {
            shared.begin(next);
            return false;
        }
        let Round { reason, asked_at, chats, appended, gap, .. } = round.clone();
        let (finished_at, request) = (Timestamp::now(), shared.state.request);
        tracing::info!(reason, chats, appended, "reconciled");
        shared.state.last = Some(Finished { reason, began_at: asked_at, finished_at, chats, appended, request });
        shared.state.round = None;
        shared.tell();
        verified_through(asked_at);
        if gap {
            shared.begin(Round::new(SLOW, None));
        } else {
            shared.state.drift = Some(appended);
            drift_messages(appended);
        }
        true
    }

    /// Waits until something was asked for.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shared {
    fn begin(&mut self, round: Round) {
        self.number += 1;
        self.state.round = Some(round);
        self.tell();
    }

    fn gap(&self) -> bool {
        self.state.round.as_ref().is_some_and(|round| round.gap)
    }

    fn tell(&self) {
        metrics::gauge!("chat_sync_reconcile_gap").set(f64::from(u8::from(self.gap())));
    }
}

fn verified_through(at: Timestamp) {
    metrics::gauge!("chat_sync_verified_through").set(at.seconds());
}

fn drift_messages(appended: u64) {
    metrics::gauge!("chat_sync_drift_messages").set(appended as f64);
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Waker};

    use super::*;

    fn under_way(agenda: &Agenda) -> (Round, u64) {
        let (round, number) = agenda.round();
        (round.expect("a round"), number)
    }

    #[test]
    fn a_gap_is_one_until_a_whole_round_is_done() {
        let agenda = Agenda::default();
        agenda.ask_since("a hole", None);
        let (round, number) = under_way(&agenda);
        assert!(agenda.gap() && agenda.note(&Round { chats_done: 1, ..round.clone() }, number));
        assert!(!agenda.finish(&Round { incomplete: true, ..round }, number), "a chat is missing");
        let (round, number) = under_way(&agenda);
        assert!(agenda.gap() && round.after.is_none(), "another round begins, and it still is a gap");
        assert!(agenda.finish(&Round { appended: 7, ..round }, number));
        assert!(!agenda.gap() && agenda.state().last.is_some());
        assert_eq!(agenda.state().drift, None, "what a gap's round appends is no drift");
        let (verifying, number) = under_way(&agenda);
        assert!(agenda.finish(&Round { appended: 1, ..verifying }, number));
        assert_eq!((agenda.state().round, agenda.state().drift), (None, Some(1)));
    }

    #[test]
    fn another_gap_lets_the_round_end_and_another_one_follow() {
        let agenda = Agenda::default();
        agenda.ask_since("a hole", None);
        let (round, number) = under_way(&agenda);
        agenda.ask_since("another hole", None);
        assert!(agenda.note(&round, number), "it is not begun anew");
        assert!(!agenda.finish(&round, number) && agenda.gap());
        let (round, number) = under_way(&agenda);
        assert!(agenda.finish(&round, number) && !agenda.gap());
    }

    #[test]
    fn a_gap_is_as_old_as_the_oldest_of_its_reasons_until_it_is_filled() {
        let at = |second: u64| Timestamp::from_micros(1_767_000_000_000_000 + second * 1_000_000).unwrap();
        let agenda = Agenda::default();
        agenda.ask_since("a hole", Some(at(5)));
        let (round, number) = under_way(&agenda);
        agenda.ask_since("one of before", Some(at(3)));
        agenda.ask_since("one of later", Some(at(7)));
        assert!(agenda.note(&round, number), "which knew nothing of these");
        let complete_as_of = |agenda: &Agenda| under_way(agenda).0.complete_as_of;
        assert_eq!(complete_as_of(&agenda), Some(at(3)));
        assert!(!agenda.finish(&round, number));
        assert_eq!(complete_as_of(&agenda), Some(at(3)), "another round follows");
        let (round, number) = under_way(&agenda);
        assert!(!agenda.finish(&Round { incomplete: true, ..round }, number));
        assert_eq!(complete_as_of(&agenda), Some(at(3)), "a chat was missing");
        agenda.ask("somebody wants to know");
        assert_eq!(complete_as_of(&agenda), Some(at(3)));
        agenda.ask_since("the log was replaced", None);
        assert_eq!(complete_as_of(&agenda), None);
    }

    #[test]
    fn the_next_leader_knows_up_to_when_nothing_was_missing_before_the_gap() {
        let at = |second: u64| Timestamp::from_micros(1_767_000_000_000_000 + second * 1_000_000).unwrap();
        let agenda = Agenda::default();
        agenda.note_fresh(at(5));
        let next = Agenda::new(agenda.state(), false);
        next.ask_and_hold("the cursor has expired");
        next.note_fresh(at(9));
        next.release("the feed is read from its beginning");
        let (round, number) = under_way(&next);
        assert_eq!(round.complete_as_of, Some(at(5)), "what is read within a gap does not count");
        next.ask_in_gap("the cursor has expired once more");
        assert_eq!(under_way(&next).0.complete_as_of, Some(at(5)));
        assert!(!next.finish(&round, number));
        let (round, number) = under_way(&next);
        assert!(next.finish(&round, number));
        next.note_fresh(at(12));
        next.ask_in_gap("a new generation");
        assert_eq!(under_way(&next).0.complete_as_of, Some(at(12)));
    }

    #[test]
    fn a_gap_takes_the_place_of_a_slow_round() {
        let agenda = Agenda::default();
        agenda.ask("slow");
        let (slow, number) = under_way(&agenda);
        agenda.ask_since("a hole", None);
        assert!(!agenda.note(&slow, number) && !agenda.finish(&slow, number) && agenda.gap());
    }

    #[test]
    fn a_round_is_held_until_the_feed_is_read_from_its_beginning() {
        let agenda = Agenda::default();
        agenda.ask_and_hold("no checkpoint");
        assert!(agenda.round().0.is_none() && agenda.gap());
        agenda.release("the feed");
        assert_eq!(under_way(&agenda).0.reason, "no checkpoint");
        // A leader that is killed now leaves a round that its follower must not do before it has read the feed.
        let next = Agenda::new(agenda.state(), true);
        assert!(next.round().0.is_none() && next.gap());
    }

    #[test]
    fn a_round_is_held_no_longer_where_another_region_read_the_feed() {
        let agenda = Agenda::default();
        agenda.ask_and_hold("no checkpoint");
        agenda.release_held();
        assert_eq!(under_way(&agenda).0.reason, "no checkpoint");
        agenda.release_held();
        assert!(!under_way(&agenda).0.again, "nothing more is asked for");
    }

    #[test]
    fn why_a_round_waits_is_noted_of_that_round_alone() {
        let agenda = Agenda::default();
        agenda.ask_since("a hole", None);
        let (_, number) = under_way(&agenda);
        agenda.waits("the source is away", number + 1);
        assert_eq!(under_way(&agenda).0.waiting, None);
        agenda.waits("the source is away", number);
        assert_eq!(under_way(&agenda).0.waiting.as_deref(), Some("the source is away"));
    }

    #[test]
    fn whoever_waits_is_told_of_what_is_asked_for() {
        let agenda = Agenda::default();
        let mut context = Context::from_waker(Waker::noop());
        let mut changed = pin!(agenda.changed());
        assert!(changed.as_mut().poll(&mut context).is_pending());
        agenda.ask_since("a hole", None);
        assert!(changed.poll(&mut context).is_ready());
    }

    #[test]
    fn a_request_is_taken_up_once() {
        let agenda = Agenda::default();
        let request = Request { id: -7, gap: true, reason: "the log was replaced".into() };
        agenda.take_up(&request);
        let (round, number) = under_way(&agenda);
        assert!(round.gap && agenda.finish(&round, number));
        agenda.take_up(&request);
        assert!(!agenda.gap());
        assert_eq!(agenda.state().last.unwrap().request, -7);
    }
}
