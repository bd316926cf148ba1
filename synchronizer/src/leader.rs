//! What the leader does: poll, translate, append, await the acks, then claim.

use std::sync::Arc;
use std::time::{Duration, Instant};

use contract::{Marker, Record, Rejected, Timestamp};
use platform::event_log::LogError;
use platform::health::Check;
use platform::lifecycle::Stop;
use platform::retry;
use tokio::time::MissedTickBehavior;

use crate::checkpoint::Remembered;
use crate::config::Settings;
use crate::seen::Seen;
use crate::source::{Outcome, Page, Source};
use crate::to_log::ToLog;
use crate::translate;

/// One term of leadership.
pub struct Leader {
    source: Arc<dyn Source>,
    to_log: ToLog,
    settings: Settings,
    source_check: Check,
    log_check: Check,
    /// Another string for every term.
    incarnation: String,
    markers: u64,
    remembered: Remembered,
    /// Whether it is known where to go on.
    begun: bool,
    seen: Seen,
    /// When the source last said that there was no more.
    fresh_as_of: Option<Timestamp>,
}

impl Leader {
    pub fn new(
        settings: &Settings,
        source: Arc<dyn Source>,
        to_log: ToLog,
        source_check: Check,
        log_check: Check,
    ) -> Self {
        Self {
            source,
            to_log,
            settings: settings.clone(),
            source_check,
            log_check,
            incarnation: format!("{}-{:016x}", settings.region, rand::random::<u64>()),
            markers: 0,
            remembered: Remembered::new(None, Instant::now()),
            begun: false,
            seen: Seen::default(),
            fresh_as_of: None,
        }
    }

    /// Leads until the stop signal. May be dropped at any moment: nothing is claimed before its acks.
    ///
    /// # Errors
    /// None that may pass by itself; those are waited for.
    pub async fn lead(&mut self, stop: &Stop) -> anyhow::Result<()> {
        tokio::select! {
            () = stop.cancelled() => Ok(()),
            led = self.follow(stop) => led,
        }?;
        // Before it began it knows nothing to claim, and would put an empty cursor over a good checkpoint.
        if !self.begun {
            return Ok(());
        }
        self.claim().await.map_err(anyhow::Error::from).or_else(|error| {
            tracing::warn!(%error, "no last claim; the next leader reads a little again");
            Ok(())
        })
    }

    async fn follow(&mut self, stop: &Stop) -> anyhow::Result<()> {
        self.begin().await;
        self.begun = true;
        let mut ticks = tokio::time::interval(self.settings.marker_every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut waits = source_waits();
        while !stop.is_cancelled() {
            let polled = self.poll(&mut ticks).await;
            match polled {
                (asked, Outcome::Answered(page)) => {
                    waits = source_waits();
                    self.take(asked, page).await;
                }
                (_, other) => self.wait_for_source(other, &mut waits, &mut ticks).await,
            }
        }
        Ok(())
    }

    /// Finds where the last leader was. Without a checkpoint, everything there is gets listed first: the feed
    /// may not reach back to the beginning.
    async fn begin(&mut self) {
        let mut waits = retry::reconnecting();
        loop {
            let found = async { Ok((self.to_log.checkpoint().await?, self.to_log.seen().await?)) };
            let found: Result<_, LogError> = found.await;
            match found {
                Ok((checkpoint, seen)) => {
                    self.seen = seen;
                    let start = checkpoint.and_then(|checkpoint| checkpoint.settled.or(checkpoint.cursor));
                    tracing::info!(incarnation = self.incarnation, resumed = start.is_some(), "polling");
                    self.remembered = Remembered::new(start.clone(), Instant::now());
                    if start.is_none() {
                        self.backfill().await;
                    }
                    return;
                }
                Err(error) => self.wait_for_log(&error, &mut waits).await,
            }
        }
    }

    /// Asks the source while claims go on being written every second.
    async fn poll(&mut self, ticks: &mut tokio::time::Interval) -> (Timestamp, Outcome<Page>) {
        let (asked, started) = (Timestamp::now(), Instant::now());
        let source = self.source.clone();
        let cursor = self.remembered.cursor().map(str::to_owned);
        let mut answer = std::pin::pin!(source.poll(cursor.as_deref()));
        loop {
            tokio::select! {
                outcome = &mut answer => {
                    count_poll(&outcome, started.elapsed());
                    return (asked, outcome);
                }
                _ = ticks.tick() => self.try_claim().await,
            }
        }
    }

    /// Appends a page, and only then moves the cursor.
    async fn take(&mut self, asked: Timestamp, page: Page) {
        self.source_check.ready("answers");
        let now = Timestamp::now();
        let records: Vec<Record> = page.items.iter().map(|item| self.translate(page.generation, item, now)).collect();
        metrics::counter!("chat_sync_changes_polled_total").increment(records.len() as u64);
        self.append_new(records).await;
        self.remembered.advance(page.next, Instant::now());
        if !page.more {
            // The moment of asking: what came later may be missing from the answer.
            self.fresh_as_of = Some(asked);
        }
    }

    /// Appends what was not appended lately; waits for the log as long as it takes.
    async fn append_new(&mut self, mut records: Vec<Record>) {
        let polled = records.len();
        records.retain(|record| !self.seen.contains(record));
        metrics::counter!("chat_sync_repeats_dropped_total").increment((polled - records.len()) as u64);
        if records.is_empty() {
            return;
        }
        let started = Instant::now();
        self.append_all(records.clone()).await;
        self.log_check.ready("appends");
        metrics::histogram!("chat_sync_append_seconds").record(started.elapsed().as_secs_f64());
        for record in &records {
            self.seen.insert(record);
            if let Record::Rejected(rejected) = record {
                metrics::counter!("chat_sync_rejected_total", "reason" => rejected.reason.clone()).increment(1);
                tracing::warn!(
                    reason = rejected.reason,
                    digest = rejected.raw_digest,
                    "rejected an item of the source"
                );
            }
        }
    }

    /// Waits for the log as long as it takes; a record that the log refuses for what it is becomes a rejected one.
    async fn append_all(&self, records: Vec<Record>) {
        let (mut parts, mut waits) = (vec![records], retry::reconnecting());
        while let Some(mut part) = parts.pop() {
            match self.to_log.append(&part).await {
                Ok(()) => waits = retry::reconnecting(),
                Err(LogError::Refused(_)) if part.len() > 1 => {
                    let second = part.split_off(part.len() / 2);
                    parts.push(second);
                    parts.push(part);
                }
                Err(LogError::Refused(why)) if !matches!(part[..], [Record::Rejected(_)]) => {
                    let source = &self.settings.source;
                    let rejected =
                        part.iter().map(|record| Rejected::new(source, "refused_by_log", &*why, &record.encode()));
                    parts.push(rejected.map(Record::Rejected).collect());
                }
                Err(error) => {
                    parts.push(part);
                    self.wait_for_log(&error, &mut waits).await;
                }
            }
        }
    }

    /// Lists everything that the source has and appends it, then goes on behind the feed's present end of what it
    /// still had before the listing: a row that changes after it was listed is behind that cursor.
    async fn backfill(&mut self) {
        tracing::info!("listing everything that the source has");
        let mut waits = source_waits();
        let next = loop {
            match self.source.poll(None).await {
                Outcome::Answered(page) => {
                    let now = Timestamp::now();
                    let records = page.items.iter().map(|item| self.translate(page.generation, item, now)).collect();
                    self.append_new(records).await;
                    break page.next;
                }
                other => self.sleep_for_source(&other, &mut waits).await,
            }
        };
        self.list_all().await;
        self.remembered = Remembered::new(Some(next), Instant::now());
    }

    async fn list_all(&mut self) {
        let (mut at, mut waits) = (None, source_waits());
        loop {
            match self.source.list(at.clone()).await {
                Outcome::Answered(listing) => {
                    waits = source_waits();
                    let now = Timestamp::now();
                    let records = listing.items.iter().map(|(kind, item)| {
                        translate::from_listing(&self.settings.source, listing.generation, *kind, item, now)
                    });
                    let records: Vec<Record> = records.collect();
                    metrics::counter!("chat_sync_rows_listed_total").increment(records.len() as u64);
                    self.append_new(records).await;
                    match listing.next {
                        Some(next) => at = Some(next),
                        None => return,
                    }
                }
                other => self.sleep_for_source(&other, &mut waits).await,
            }
        }
    }

    async fn sleep_for_source<T>(&self, outcome: &Outcome<T>, waits: &mut (impl Iterator<Item = Duration> + Send)) {
        let (why, wait) = reason_and_wait(outcome, waits);
        self.source_check.waiting(why);
        tokio::time::sleep(wait).await;
    }

    fn translate(&self, generation: u32, item: &serde_json::value::RawValue, now: Timestamp) -> Record {
        translate::from_feed(&self.settings.source, generation, item, now)
    }

    async fn wait_for_source(
        &mut self,
        outcome: Outcome<Page>,
        waits: &mut (impl Iterator<Item = Duration> + Send),
        ticks: &mut tokio::time::Interval,
    ) {
        if let Outcome::CursorExpired(why) = &outcome {
            tracing::warn!(why, "the cursor has expired");
            self.backfill().await;
            return;
        }
        let (why, wait) = reason_and_wait(&outcome, waits);
        self.source_check.waiting(why);
        // Markers go on: they tell a source that is away from a synchronizer that is.
        let mut wait = std::pin::pin!(tokio::time::sleep(wait));
        loop {
            tokio::select! {
                () = &mut wait => return,
                _ = ticks.tick() => self.try_claim().await,
            }
        }
    }

    async fn wait_for_log(&self, error: &LogError, waits: &mut (impl Iterator<Item = Duration> + Send)) {
        self.log_check.waiting(error.to_string());
        tokio::time::sleep(waits.next().unwrap_or(Duration::from_secs(2))).await;
    }

    async fn try_claim(&mut self) {
        match self.claim().await {
            Ok(()) => self.log_check.ready("appends"),
            Err(error) => self.log_check.waiting(error.to_string()),
        }
    }

    /// Claims what is acked: everything up to the remembered cursor.
    async fn claim(&mut self) -> Result<(), LogError> {
        self.remembered.forget(Instant::now());
        self.markers += 1;
        let marker = Marker {
            source: self.settings.source.clone(),
            region: self.settings.region.clone(),
            leader: self.incarnation.clone(),
            number: self.markers,
            cursor: self.remembered.cursor().map(str::to_owned),
            settled: self.remembered.settled().map(str::to_owned),
            partitions: self.to_log.partitions(),
            at: Timestamp::now(),
            fresh_as_of: self.fresh_as_of,
        };
        if let Some(fresh) = self.fresh_as_of {
            metrics::gauge!("chat_sync_source_lag_seconds").set(marker.at.since(fresh).as_secs_f64());
        }
        self.to_log.claim(marker).await
    }
}

fn source_waits() -> impl Iterator<Item = Duration> + Send {
    retry::backoff(Duration::from_millis(200), Duration::from_secs(10))
}

/// Why the source is waited for, and how long.
fn reason_and_wait<T>(outcome: &Outcome<T>, waits: &mut impl Iterator<Item = Duration>) -> (String, Duration) {
    let wait = waits.next().unwrap_or(Duration::from_secs(10));
    match outcome {
        Outcome::RateLimited { scope, retry_after } => {
            let wait = wait.max(*retry_after);
            (format!("rate-limited ({scope}), waiting {} s", wait.as_secs()), wait)
        }
        Outcome::Unauthorized(why) => (format!("not allowed: {why}"), Duration::from_secs(10)),
        Outcome::Unavailable(why) | Outcome::CursorExpired(why) | Outcome::Gone(why) => (why.clone(), wait),
        Outcome::Answered(_) => ("answers".into(), Duration::ZERO),
    }
}

fn count_poll(outcome: &Outcome<Page>, took: Duration) {
    let name = match outcome {
        Outcome::Answered(_) => "answered",
        Outcome::RateLimited { .. } => "rate_limited",
        Outcome::CursorExpired(_) => "cursor_expired",
        Outcome::Gone(_) => "gone",
        Outcome::Unauthorized(_) => "unauthorized",
        Outcome::Unavailable(_) => "unavailable",
    };
    metrics::counter!("chat_sync_polls_total", "outcome" => name).increment(1);
    metrics::histogram!("chat_sync_poll_seconds").record(took.as_secs_f64());
}
