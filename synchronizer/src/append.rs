//! Appends what was not appended lately, and waits for the log as long as it takes.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use contract::{Record, Rejected};
use platform::event_log::LogError;
use platform::fail_point::fail_point;
use platform::health::Check;
use platform::retry;

use crate::erasures::Erasures;
use crate::seen::Seen;
use crate::to_log::ToLog;

/// The one way into the log for rows and rejected items. Clones share what was seen.
#[derive(Clone)]
pub struct Appender {
    to_log: ToLog,
    source: String,
    seen: Arc<Mutex<Seen>>,
    erasures: Arc<Erasures>,
    /// One append at a time: of what two have read at once, the second sees what the first has appended.
    turn: Arc<tokio::sync::Mutex<()>>,
    check: Check,
}

impl Appender {
    pub fn new(to_log: ToLog, source: &str, seen: Seen, erasures: Arc<Erasures>, check: Check) -> Self {
        let seen = Arc::new(Mutex::new(seen));
        Self { to_log, source: source.to_owned(), seen, erasures, turn: Arc::default(), check }
    }

    /// Waits until what is being appended is. What is appended later has been held against the erasures that are known now.
    pub async fn finish(&self) {
        drop(self.turn.lock().await);
    }

    /// Appends those that are not remembered as appended, with `since` as appended after that moment; gives how many
    /// that were, after their acks.
    pub async fn append_new(&self, mut records: Vec<Record>, since: Option<Instant>) -> usize {
        // Most of what is read again was appended long ago, and waits for nobody.
        self.drop_repeats(&mut records, since);
        if records.is_empty() {
            return 0;
        }
        let _turn = self.turn.lock().await;
        self.drop_repeats(&mut records, since);
        self.drop_erased(&mut records);
        if records.is_empty() {
            return 0;
        }
        let started = Instant::now();
        self.append_all(records.clone()).await;
        fail_point("leader.acked");
        self.check.ready("appends");
        metrics::histogram!("chat_sync_append_seconds").record(started.elapsed().as_secs_f64());
        let mut seen = self.seen();
        for record in &records {
            seen.insert(record, Instant::now());
            if let Record::Rejected(rejected) = record {
                metrics::counter!("chat_sync_rejected_total", "reason" => rejected.reason.clone()).increment(1);
                let Rejected { reason, raw_digest, .. } = rejected;
                tracing::warn!(reason, digest = raw_digest, "rejected an item of the source");
            }
        }
        records.len()
    }

    /// Appends what this dead letter holds, once more; what was erased meanwhile as that.
    ///
    /// # Errors
    /// If the log does not take it now.
    pub async fn append_retry(&self, mut record: Record, digest: &str) -> Result<(), LogError> {
        let _turn = self.turn.lock().await;
        if self.erasures.set().bars(&record) {
            // The writer says so in the letter, and empties it; else it would be asked for again and again.
            record = Record::Rejected(Rejected::erased(&self.source));
        }
        self.to_log.append_retry(&record, digest).await
    }

    /// Another region has appended this; once is enough.
    pub fn note(&self, record: &Record) {
        self.seen().insert(record, Instant::now());
    }

    fn drop_repeats(&self, records: &mut Vec<Record>, since: Option<Instant>) {
        let all = records.len();
        let mut seen = self.seen();
        records.retain(|record| !seen.contains(record, since));
        metrics::counter!("chat_sync_repeats_dropped_total").increment((all - records.len()) as u64);
    }

    fn drop_erased(&self, records: &mut Vec<Record>) {
        let (all, erasures) = (records.len(), self.erasures.set());
        records.retain(|record| !erasures.bars(record));
        if records.len() < all {
            metrics::counter!("chat_sync_erased_dropped_total").increment((all - records.len()) as u64);
        }
    }

    /// A record that the log refuses for what it is becomes a rejected one.
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
                    let rejected = part
                        .iter()
                        .map(|record| Rejected::new(&self.source, "refused_by_log", &*why, &record.encode()));
                    parts.push(rejected.map(Record::Rejected).collect());
                }
                Err(error) => {
                    parts.push(part);
                    self.check.waiting(error.to_string());
                    tokio::time::sleep(waits.next().unwrap_or(Duration::from_secs(2))).await;
                }
            }
        }
    }

    fn seen(&self) -> std::sync::MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
