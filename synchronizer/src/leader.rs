//! What the leader does: poll, translate, append, await the acks, then claim; and, beside it, read again what may
//! have come late, reconcile, and try dead letters again.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use contract::{Marker, Record, Timestamp};
use platform::event_log::LogError;
use platform::fail_point::fail_point;
use platform::lifecycle::Stop;
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

use crate::agenda::Agenda;
use crate::anti_entropy::{AntiEntropy, Shared};
use crate::append::Appender;
use crate::budget::Budgeted;
use crate::checkpoint::{Checkpoint, Marked, Remembered};
use crate::dead_letters::Retries;
use crate::erase::Erase;
use crate::mirror::Mirror;
use crate::patience::Patience;
use crate::reconcile::Reconcile;
use crate::source::{Outcome, Page, waits};
use crate::standby::Handover;
use crate::translate;
use crate::turns::{Before, Reason};
use crate::world::World;

/// How long what one region has appended takes to another at most, for all that is known: what is compared with the source
/// later than that lacks nothing that is merely on its way.
const MIRROR: Duration = Duration::from_secs(5);

/// One term of leadership.
pub struct Leader {
    world: World,
    appender: Appender,
    mirror: Mirror,
    agenda: Arc<Agenda>,
    shared: Arc<Shared>,
    before: Before,
    /// Another string for every term.
    incarnation: String,
    since: Timestamp,
    place: Mutex<Place>,
    elected: Instant,
    began: Instant,
    /// When the log last took a claim.
    claimed: Mutex<Option<Instant>>,
    /// When the source was last asked for what it then answered whole, after the acks.
    polled: watch::Sender<Option<Instant>>,
}

/// Where the leader is; what a claim is made of.
struct Place {
    remembered: Remembered,
    /// The feed's generation as it was last served.
    generation: Option<u32>,
    /// When the source last said that there was no more.
    fresh_as_of: Option<Timestamp>,
    /// Why the source cannot be read just now.
    waiting: Option<String>,
    /// Since when it does not answer at all.
    silent: Option<Instant>,
    markers: u64,
    /// The last marker that every partition took; before the first one of this term, the last leader's.
    marked: Marked,
}

impl Place {
    /// The source did not give what it was asked for, and was `expected` to have answered.
    fn wait(&mut self, why: String, silent: bool, expected: Instant) {
        self.waiting = Some(why);
        self.remembered.stop(expected);
        self.silent = silent.then(|| self.silent.unwrap_or(expected));
    }
}

impl Leader {
    /// Goes on where the last leader was, by what this process knows of it from standing by. Without a checkpoint,
    /// everything there is gets listed: the feed may not reach back to the beginning.
    pub fn begin(world: World, Handover { checkpoint, seen, next, read, elected }: Handover) -> Self {
        let incarnation = format!("{}-{:016x}", world.settings.region, rand::random::<u64>());
        tracing::info!(incarnation, resumed = checkpoint.is_some(), "leading");
        world.to_log.begin_term();
        let (source, erasures) = (&world.settings.source, world.erasures.clone());
        let appender = Appender::new(world.to_log.clone(), source, seen, erasures, world.log_check.clone());
        let mirror = Mirror {
            to_log: world.to_log.clone(),
            region: world.region.clone(),
            appender: appender.clone(),
            next: Mutex::new(next),
            read: Mutex::new(read),
        };
        let lately = world.settings.turns.take_over_after;
        if let Some(found) = &checkpoint {
            // Whoever led here last noted where this region is; what this process heard while it stood by may be days old.
            world.region.forget(Timestamp::now().since(found.at));
        }
        let before = checkpoint.as_ref().map_or(Before::Nothing, |found| {
            let until_now = found.polls && Timestamp::now().since(found.at) < lately;
            if until_now { Before::Polled } else { Before::Other }
        });
        let marked = checkpoint.as_ref().map_or_else(Marked::default, Checkpoint::marked);
        let (overlap, now) = (world.settings.remembered_for(), Instant::now());
        let (remembered, generation, reconcile) = match checkpoint {
            Some(found) => (found.remembered(overlap, now), found.generation, Some(found.reconcile)),
            None => (Remembered::new(None, overlap, now), None, None),
        };
        let agenda = Agenda::new(reconcile.clone().unwrap_or_default(), remembered.cursor().is_none());
        if reconcile.is_none() {
            agenda.ask_and_hold("no checkpoint");
        }
        let place = Mutex::new(Place {
            remembered,
            generation,
            fresh_as_of: None,
            waiting: None,
            silent: None,
            markers: 0,
            marked,
        });
        Self {
            world,
            appender,
            mirror,
            agenda: Arc::new(agenda),
            shared: Arc::default(),
            before,
            incarnation,
            since: Timestamp::now(),
            place,
            elected,
            began: Instant::now(),
            claimed: Mutex::default(),
            polled: watch::Sender::default(),
        }
    }

    /// Leads until the stop signal. May be dropped at any moment: nothing is claimed before its acks.
    pub async fn lead(&self, stop: &Stop) {
        let slow = Budgeted::new(self.world.source.clone(), self.world.settings.reconcile_budget);
        let erase = Arc::new(Erase {
            source: self.world.settings.source.clone(),
            stored: self.world.stored.clone(),
            appender: self.appender.clone(),
            to_log: self.world.to_log.clone(),
            erasures: self.world.erasures.clone(),
            region: self.world.region.clone(),
        });
        let reconcile = Reconcile {
            erase: erase.clone(),
            source: self.world.source.clone(),
            slow_source: Arc::new(slow),
            stored: self.world.stored.clone(),
            appender: self.appender.clone(),
            to_log: self.world.to_log.clone(),
            agenda: self.agenda.clone(),
            check: self.world.reconcile_check.clone(),
            source_name: self.world.settings.source.clone(),
            polled: self.polled.subscribe(),
            every: self.world.settings.reconcile_every,
        };
        let retries = Retries { stored: self.world.stored.clone(), appender: self.appender.clone() };
        let (agenda, shared) = (self.agenda.clone(), self.shared.clone());
        let anti_entropy = AntiEntropy::new(&self.world, &self.incarnation, agenda, shared);
        tokio::select! {
            () = stop.cancelled() => {}
            () = anti_entropy.run() => {}
            () = self.take_turns() => {}
            () = self.mirror.follow() => {}
            () = reconcile.run() => {}
            () = erase.run() => {}
            () = retries.run(&self.world.settings.source) => {}
        }
        if self.world.region.polls() {
            self.claim_at_the_end().await;
        }
    }

    /// Stands by while another region polls, and polls when it should. Never ends.
    async fn take_turns(&self) {
        let mut before = self.before;
        loop {
            tokio::select! {
                biased;
                reason = self.world.region.until_it_should_poll(before) => self.begin_to_poll(reason),
                () = self.keep_place() => {}
            }
            tokio::select! {
                () = self.follow() => {}
                () = self.claim_regularly() => {}
                () = self.read_again_regularly() => {}
                () = self.world.region.until_it_should_give_way() => {}
            }
            self.claim_at_the_end().await;
            let mut place = self.place();
            (place.silent, place.waiting, place.fresh_as_of) = (None, None, None);
            before = Before::Other;
        }
    }

    async fn claim_at_the_end(&self) {
        if let Err(error) = self.claim().await {
            tracing::warn!(%error, "no last claim; the next leader reads a little again");
        }
    }

    /// From where the other region was, by what of its markers came through in every partition.
    fn begin_to_poll(&self, reason: Reason) {
        if reason == Reason::Alone || self.before == Before::Polled {
            metrics::histogram!("chat_sync_takeover_seconds").record(self.elected.elapsed().as_secs_f64());
        }
        self.look_for_holes();
        let Some(whole) = self.world.region.take_whole() else { return };
        self.move_to(&whole);
        if whole.gap {
            self.agenda.ask_since("the other region had not found everything yet", whole.fresh_as_of);
        }
    }

    /// This region's place is where another region's markers are. Never ends.
    async fn keep_place(&self) {
        let mut ticks = tokio::time::interval(self.world.settings.marker_every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut at = None;
        loop {
            ticks.tick().await;
            self.look_for_holes();
            let kept = match self.world.region.whole() {
                Some(whole) => {
                    let name = Some((whole.leader.clone(), whole.number));
                    if at != name {
                        at = name;
                        self.move_to(&whole);
                        self.agenda.release_held();
                        // What the source has now comes through the mirror a little later.
                        self.polled.send_replace(Instant::now().checked_sub(MIRROR));
                    }
                    self.shared.reaches(&whole.region, whole.at);
                    whole.fresh_as_of.into_iter().for_each(|fresh| self.agenda.note_fresh(fresh));
                    self.world.to_log.stand_by(&whole, self.agenda.state()).await
                }
                None => self.world.to_log.ends().await.map(drop),
            };
            if kept.is_err() {
                self.world.region.note_deaf();
            }
            self.note_claim(kept).await;
        }
    }

    fn move_to(&self, whole: &Marker) {
        let mut place = self.place();
        let begin = whole.settled.clone().or_else(|| whole.cursor.clone());
        place.remembered = Remembered::new(begin, self.world.settings.remembered_for(), Instant::now());
        place.generation = whole.generation.or(place.generation);
    }

    /// What a mirror lacks only the source can tell.
    fn look_for_holes(&self) {
        if let Some(hole) = self.world.region.take_hole() {
            let reason = format!("the mirror of region {} has a hole", hole.region);
            // What the other region's log lost since, this one has polled itself, if it polls.
            self.agenda.ask_since(&reason, hole.complete_as_of.max(self.place().fresh_as_of));
        }
    }

    /// Polls for ever. Not while a page is appended: what is written meanwhile comes as one page, and costs the source
    /// one request.
    async fn follow(&self) {
        let (mut waits, mut expiries) = (waits(), waits());
        loop {
            let (asked, started) = (Timestamp::now(), Instant::now());
            let cursor = self.place().remembered.cursor().map(str::to_owned);
            let outcome = self.world.source.poll(cursor.as_deref(), self.world.settings.poll_wait).await;
            metrics::counter!("chat_sync_polls_total", "outcome" => outcome.name()).increment(1);
            metrics::histogram!("chat_sync_poll_seconds").record(started.elapsed().as_secs_f64());
            match outcome {
                Outcome::Answered(page) => {
                    fail_point("leader.polled");
                    waits = crate::source::waits();
                    if cursor.is_some() {
                        expiries = crate::source::waits();
                    }
                    self.take(asked, started, page).await;
                }
                Outcome::CursorExpired(why) if cursor.is_some() => {
                    tracing::warn!(why, "the cursor has expired");
                    // First: whoever leads next must know of the gap before the cursor is forgotten.
                    self.agenda.ask_and_hold("the cursor has expired");
                    self.place().remembered =
                        Remembered::new(None, self.world.settings.remembered_for(), Instant::now());
                    // A source that knows no cursor for long is not asked for the whole of its feed again and again.
                    tokio::time::sleep(expiries.next().unwrap_or_default()).await;
                }
                other => {
                    let (why, wait) = other.reason_and_wait(&mut waits);
                    // A source that has nothing new says so after this time.
                    let expected = Instant::now().min(started + self.world.settings.poll_wait);
                    self.place().wait(why.clone(), matches!(other, Outcome::Unavailable(_)), expected);
                    self.world.source_check.waiting(why);
                    tokio::time::sleep(wait).await;
                }
            }
        }
    }

    /// Appends a page, and only then moves the cursor.
    async fn take(&self, asked: Timestamp, started: Instant, page: Page) {
        self.world.source_check.ready("answers");
        {
            let mut place = self.place();
            place.silent = None;
            place.remembered.go_on(started);
        }
        let earlier = self.place().generation;
        if earlier.is_some_and(|earlier| earlier != page.generation) {
            self.agenda.ask_in_gap("the feed began a new generation");
        }
        if self.place().remembered.cursor().is_none() {
            // What was listed before the feed was read from its beginning may have changed in between, and left it.
            self.agenda.release("the feed is read from its beginning");
        }
        let (rows, more) = (page.items.len() as u64, page.more);
        let records = self.translate(&page);
        metrics::counter!("chat_sync_changes_polled_total").increment(rows);
        self.appender.append_new(records, None).await;
        let gap = self.agenda.gap();
        let mut place = self.place();
        place.waiting = None;
        place.generation = Some(page.generation);
        place.remembered.advance(page.next, rows, Instant::now());
        if !more && !gap {
            // The moment of asking: what came later may be missing from the answer.
            place.fresh_as_of = Some(asked);
            self.agenda.note_fresh(asked);
        }
        if !more {
            self.polled.send_replace(Some(started));
        }
    }

    fn translate(&self, page: &Page) -> Vec<Record> {
        let now = Timestamp::now();
        let source = &self.world.settings.source;
        page.items.iter().map(|item| translate::from_feed(source, page.generation, item, now)).collect()
    }

    /// Rows may appear behind the cursor: what was read in the last minute is read again, what the last leader read at once.
    async fn read_again_regularly(&self) {
        let every = self.world.settings.read_again_every;
        let mut ticks = tokio::time::interval(every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let (oldest, end, rows) = {
                let remembered = &self.place().remembered;
                (remembered.settled().map(str::to_owned), remembered.cursor().map(str::to_owned), remembered.rows())
            };
            // Not in one go: what is new would wait behind thousands of rows that are not.
            let pages = rows / u64::from(self.world.settings.poll_limit) + 1;
            let pause = every / 2 / u32::try_from(pages).unwrap_or(u32::MAX);
            if let Some(oldest) = oldest {
                self.read_again(oldest, end, rows, pause).await;
            }
        }
    }

    /// From one remembered cursor to another. What fails is left to the next time. Pages seldom end where `end` is, so
    /// it ends behind as many rows as lay between the two and a page more: a source that is written to faster than this
    /// reads would keep it for ever.
    async fn read_again(&self, mut from: String, end: Option<String>, rows: u64, pause: Duration) {
        let mut left = rows + u64::from(self.world.settings.poll_limit);
        loop {
            let Outcome::Answered(page) = self.world.source.poll(Some(&from), Duration::ZERO).await else { return };
            let late = self.appender.append_new(self.translate(&page), None).await;
            metrics::counter!("chat_sync_late_rows_total").increment(late as u64);
            left = left.saturating_sub(page.items.len() as u64);
            if !page.more || Some(&page.next) == end.as_ref() || page.next == from || left == 0 {
                return;
            }
            from = page.next;
            tokio::time::sleep(pause).await;
        }
    }

    /// Claims go on whatever else waits: they tell a source that is away from a synchronizer that is.
    async fn claim_regularly(&self) {
        let mut ticks = tokio::time::interval(self.world.settings.marker_every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.look_for_holes();
            let claimed = self.claim().await;
            self.note_claim(claimed).await;
        }
    }

    /// Whether the log takes what is claimed.
    async fn note_claim(&self, claimed: Result<(), LogError>) {
        match claimed {
            Ok(()) => {
                self.world.log_check.ready("appends");
                *self.claimed.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
            }
            Err(error) => {
                self.world.log_check.waiting(error.to_string());
                self.world.to_log.make_topics_again().await;
            }
        }
    }

    /// Claims what is acked: everything up to the remembered cursor, which moves after the acks only.
    async fn claim(&self) -> Result<(), LogError> {
        let (marker, earlier) = {
            let mut place = self.place();
            place.markers += 1;
            let marker = Marker {
                source: self.world.settings.source.clone(),
                region: self.world.settings.region.clone(),
                leader: self.incarnation.clone(),
                number: place.markers,
                cursor: place.remembered.cursor().map(str::to_owned),
                settled: place.remembered.settled().map(str::to_owned),
                partitions: self.world.to_log.partitions(),
                at: Timestamp::now(),
                fresh_as_of: place.fresh_as_of,
                waiting: place.waiting.clone(),
                leads_since: Some(self.since),
                drift: None,
                verified_through: None,
                unreachable: place.silent.is_some(),
                previous: place.marked.number,
                previous_leader: place.marked.leader.clone(),
                generation: place.generation,
                gap: false,
                differing: None,
                compared_through: None,
                records: 0,
            };
            (marker, place.remembered.earlier(Instant::now()))
        };
        // After the place: a gap is noted before the cursor is forgotten, so a claim without the cursor has the gap.
        let reconcile = self.agenda.state();
        let (differing, compared_through) = {
            let differences = self.shared.differences();
            (differences.differing(), differences.compared_through())
        };
        let marker = Marker {
            differing,
            compared_through,
            drift: reconcile.drift,
            verified_through: reconcile.last.as_ref().map(|last| last.began_at),
            gap: reconcile.round.as_ref().is_some_and(|round| round.gap),
            ..marker
        };
        if let Some(fresh) = marker.fresh_as_of {
            metrics::gauge!("chat_sync_source_lag_seconds").set(marker.at.since(fresh).as_secs_f64());
            metrics::gauge!("chat_sync_source_fresh_timestamp_seconds").set(fresh.seconds());
        }
        self.world.to_log.mark(&marker).await?;
        self.place().marked = Marked { number: marker.number, leader: None };
        self.shared.reaches(&marker.region, marker.at);
        self.world.to_log.keep_place(&marker, earlier, reconcile).await
    }

    /// Waits until the log or the source has not answered for so long, and says which. Another synchronizer may reach it.
    pub async fn unable(&self, patience: &Patience) -> &'static str {
        let mut ticks = tokio::time::interval(self.world.settings.marker_every);
        loop {
            ticks.tick().await;
            let patience = patience.of_a_term(self.has_worked());
            if self.claimed().unwrap_or(self.began).elapsed() >= patience {
                return "the log does not answer";
            }
            if self.place().silent.is_some_and(|since| since.elapsed() >= patience) {
                return "the source does not answer";
            }
        }
    }

    /// Whether both the source and the log have answered in this term.
    pub fn has_worked(&self) -> bool {
        self.polled.borrow().is_some() && self.claimed().is_some()
    }

    fn claimed(&self) -> Option<Instant> {
        *self.claimed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn place(&self) -> MutexGuard<'_, Place> {
        self.place.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
