//! Reads every partition, asks the gate, and hands over to the hub.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use contract::{Marker, Record, Timestamp, Topics};
use platform::event_log::{self, Event, EventLog, LogError, LogRecord, Reader, Sharing, Topic, TopicPartition};
use platform::health::{Check, Health};
use platform::retry;

use crate::World;
use crate::config::Settings;
use crate::copy::ChatCopy;
use crate::gate::{Answer, Gate};
use crate::hub::{Hub, Update};
use crate::ops::Ops;
use crate::ring::Item;
use crate::shown::ShownMessage;

/// How often positions are committed and the list of chats is sent, if it has changed.
const TICK: Duration = Duration::from_millis(200);

/// How often the list of chats is read from the store. The log brings every change of it too; this is for those
/// that it brought before the ring begins, and tells whether the store answers.
const WATCH: Duration = Duration::from_secs(5);

/// How long pushes wait for the store at most, where the gate may have forgotten something.
const STORE: Duration = Duration::from_millis(500);

/// The consuming side of internal.
pub struct FromLog {
    topic: Topic,
    group: String,
    ring: u64,
    gate_ttl: Duration,
    log: Arc<dyn EventLog>,
    copy: Arc<dyn ChatCopy>,
    gate: Arc<dyn Gate>,
    hub: Arc<Hub>,
    ops: Arc<Ops>,
    log_check: Check,
    copy_check: Check,
    gate_check: Check,
    caught_up: Check,
    partitions: BTreeMap<TopicPartition, Place>,
}

/// Where a partition is read.
#[derive(Debug, Clone)]
struct Place {
    next: u64,
    /// The log's end when the partition was assigned: what comes before it is only remembered, not pushed.
    live_from: u64,
    /// The leader and the number of the last marker.
    marker: Option<(String, u64)>,
}

impl Place {
    fn new(start: u64, live_from: u64) -> Self {
        Self { next: start, live_from, marker: None }
    }

    /// Takes note of a marker; whether something before it was never read, for there was another marker in every
    /// partition since the last one. So it is where a log was replaced and has grown past the position meanwhile, or a
    /// mirror has a hole.
    fn passed_over(&mut self, marker: &Marker) -> bool {
        let last = self.marker.replace((marker.leader.clone(), marker.number));
        let Some(((last, number), (leader, previous))) = last.zip(marker.predecessor()) else { return false };
        last == leader && number < previous
    }
}

impl FromLog {
    pub fn new(settings: &Settings, world: &World, hub: Arc<Hub>, ops: Arc<Ops>, health: &Health) -> Self {
        let base = Topics::with_suffix(&settings.topic_suffix).changes;
        Self {
            topic: Topic { base, mirrored: true },
            group: format!("chat-sync-{}", settings.pod),
            ring: settings.ring,
            gate_ttl: settings.gate_ttl,
            log: world.log.clone(),
            copy: world.copy.clone(),
            gate: world.gate.clone(),
            hub,
            ops,
            log_check: health.check("log"),
            copy_check: health.check("copy"),
            gate_check: health.check("gate"),
            caught_up: health.check("caught_up"),
            partitions: BTreeMap::new(),
        }
    }

    /// Consumes for ever.
    ///
    /// # Errors
    /// If the log's reader ends.
    pub async fn run(mut self) -> anyhow::Result<()> {
        self.gate_check.ready("not asked yet");
        let partitions = self.wait_for_topic().await;
        self.hub.set_partitions(partitions);
        let mut reader = self.log.read(self.topic.clone(), &self.group, Sharing::All).await?;
        let watch = event_log::watch(self.log.clone(), self.topic.base.clone(), self.log_check.clone());
        let chats = read_chats(self.copy.clone(), self.hub.clone(), self.copy_check.clone());
        tokio::select! {
            () = watch => Ok(()),
            () = chats => Ok(()),
            ended = self.consume(&mut *reader) => Ok(ended?),
        }
    }

    async fn wait_for_topic(&self) -> u32 {
        let mut waits = retry::reconnecting();
        loop {
            match self.log.partitions(&self.topic.base).await {
                Ok(Some(partitions)) => return partitions,
                Ok(None) => self.log_check.waiting(format!("there is no topic {} yet", self.topic.base)),
                Err(error) => self.log_check.waiting(error.to_string()),
            }
            tokio::time::sleep(waits.next().unwrap_or(Duration::from_secs(2))).await;
        }
    }

    async fn consume(&mut self, reader: &mut dyn Reader) -> Result<(), LogError> {
        let mut ticks = tokio::time::interval(TICK);
        loop {
            let event = tokio::select! {
                event = reader.next() => event?,
                _ = ticks.tick() => {
                    self.hub.publish_chats();
                    reader.commit(self.partitions.iter().map(|(at, place)| (at.clone(), place.next)).collect());
                    continue;
                }
            };
            match event {
                Event::Assigned(partitions) => self.begin(reader, partitions).await?,
                Event::Revoked(partitions) => {
                    for at in partitions {
                        self.partitions.remove(&at);
                        self.hub.drop_partition(&at);
                    }
                }
                Event::OutOfRange(at) => {
                    self.begin_anew(reader, at, "the position is not in the log any more").await?;
                }
                Event::Records(records) => {
                    for at in self.take(records).await {
                        self.begin_anew(reader, at, "the log was replaced, or has a hole").await?;
                    }
                }
            }
            self.say_whether_caught_up();
        }
    }

    /// Whoever watches a chat there loads again.
    async fn begin_anew(&mut self, reader: &mut dyn Reader, at: TopicPartition, why: &str) -> Result<(), LogError> {
        tracing::error!(partition = %at, "{why}; beginning anew");
        metrics::counter!("chat_sync_internal_begun_anew_total").increment(1);
        self.begin(reader, vec![at]).await
    }

    /// Starts the ring's length before the end.
    async fn begin(&mut self, reader: &mut dyn Reader, partitions: Vec<TopicPartition>) -> Result<(), LogError> {
        let mut offsets = BTreeMap::new();
        let mut positions = Vec::new();
        for at in partitions {
            if !offsets.contains_key(&at) {
                let topic = self.offsets(&at).await;
                offsets.extend(topic.into_iter().map(|(id, held)| (TopicPartition::new(at.topic.clone(), id), held)));
            }
            let Some(held) = offsets.get(&at) else { continue };
            let start = held.end.saturating_sub(self.ring).max(held.start);
            self.hub.begin_partition(at.clone(), start, held.end);
            self.partitions.insert(at.clone(), Place::new(start, held.end));
            positions.push((at, start));
        }
        reader.start(positions).await
    }

    /// The topic's offsets, as soon as they can be had and the partition is among them.
    async fn offsets(&self, at: &TopicPartition) -> BTreeMap<u32, event_log::Offsets> {
        let mut waits = retry::reconnecting();
        loop {
            match self.log.offsets(&at.topic).await {
                Ok(offsets) if offsets.contains_key(&at.partition) => return offsets,
                Ok(_) => tokio::time::sleep(waits.next().unwrap_or(Duration::from_secs(2))).await,
                Err(error) => {
                    self.log_check.waiting(error.to_string());
                    tokio::time::sleep(waits.next().unwrap_or(Duration::from_secs(2))).await;
                }
            }
        }
    }

    fn say_whether_caught_up(&self) {
        let behind = self.partitions.values().filter(|place| place.next < place.live_from).count();
        match (self.partitions.len(), behind) {
            (0, _) => self.caught_up.waiting("no partitions yet"),
            (_, 0) => self.caught_up.ready("at the log's end"),
            (all, behind) => {
                self.caught_up.waiting(format!("{behind} of {all} partitions are still read from before the start"))
            }
        }
    }

    /// Gives the partitions in which something was passed over.
    async fn take(&mut self, records: Vec<LogRecord>) -> BTreeSet<TopicPartition> {
        let last_ms = event_log::furthest_behind(&records);
        let mut items = Vec::with_capacity(records.len());
        let (mut updates, mut positions) = (Vec::new(), BTreeMap::new());
        let (mut rows_read, mut last_row_ms, mut earlier) = (0, None, Vec::new());
        let mut passed_over = BTreeSet::new();
        for record in records {
            let Some(place) = self.partitions.get_mut(&record.at) else { continue };
            place.next = record.offset + 1;
            let live = record.offset >= place.live_from;
            let decoded = Record::decode(&record.value, appended_at(record.timestamp_ms)).ok();
            if let Some(Record::Marker(marker)) = &decoded
                && place.passed_over(marker)
                && live
            {
                passed_over.insert(record.at.clone());
            }
            let item = self.understand(&record.at, decoded);
            if !matches!(item, Item::Marker(_)) {
                rows_read += 1;
                last_row_ms = Some(record.timestamp_ms);
            }
            if let (Item::Message(row), false) = (&item, live) {
                earlier.push(row.clone());
            }
            if let (Item::Message(row), true) = (&item, live) {
                let (at, offset) = (record.at.clone(), record.offset);
                updates.push(Update { at, offset, row: row.clone(), early: false, answer: "" });
            }
            positions.insert(record.at.clone(), record.offset + 1);
            let fingerprint = record.fingerprint();
            items.push((record.at, record.offset, fingerprint, item));
        }
        // Loads contain them from here on, whatever the gate says.
        self.hub.append(items);
        self.hub.remember(earlier);
        if !updates.is_empty() {
            // One call of the gate a chat. Positions are kept for each chat, so only the order within one counts.
            updates.sort_by(|a, b| a.row.chat_id.cmp(&b.row.chat_id));
            self.ask(&mut updates).await;
        }
        // An erasure may have been heard of meanwhile.
        updates.retain(|update| !self.hub.hides(&update.row));
        let (rows, deliveries) = self.hub.publish(updates, positions);
        metrics::counter!("chat_sync_pushed_rows_total").increment(rows);
        metrics::counter!("chat_sync_deliveries_total").increment(deliveries);
        // The lag is set at each batch; this one lets a reader compute it while there is none.
        metrics::gauge!("chat_sync_internal_last_record_timestamp_seconds").set(last_ms as f64 / 1000.0);
        let now_ms = i64::try_from(Timestamp::now().micros() / 1000).unwrap_or(i64::MAX);
        let lag = (now_ms - last_ms).max(0) as f64 / 1000.0;
        metrics::gauge!("chat_sync_internal_lag_seconds").set(lag);
        metrics::counter!("chat_sync_internal_rows_total").increment(rows_read);
        self.ops.count(|counted| {
            counted.rows += rows_read;
            counted.deliveries += deliveries;
            counted.lag = lag;
            counted.last_row_at = last_row_ms.map(appended_at).or(counted.last_row_at);
        });
        passed_over
    }

    /// What cannot be understood is the writer's to dead-letter; here it is passed over.
    fn understand(&self, at: &TopicPartition, record: Option<Record>) -> Item {
        match record {
            Some(Record::Message(message)) => {
                let row: ShownMessage = (&message).into();
                if self.hub.hides(&row) { Item::Other } else { Item::Message(row) }
            }
            Some(Record::Chat(chat)) => {
                self.hub.put_chat(&chat);
                Item::Other
            }
            Some(Record::Marker(marker)) => {
                self.hub.mark(at.clone(), &marker);
                let name = format!("{}/{}", marker.leader, marker.number).into();
                metrics::gauge!("chat_sync_internal_marker_age_seconds")
                    .set(Timestamp::now().since(marker.at).as_secs_f64());
                self.ops.count(|counted| {
                    if counted.marker.as_ref().is_none_or(|known| known.at <= marker.at) {
                        counted.marker = Some(marker);
                    }
                });
                Item::Marker(name)
            }
            Some(Record::Rejected(_)) | None => Item::Other,
        }
    }

    /// Puts the stored row in the place of every row that is older than it.
    async fn ask(&self, updates: &mut [Update]) {
        let rows: Vec<ShownMessage> = updates.iter().map(|update| update.row.clone()).collect();
        let answers = match self.gate.judge(&rows).await {
            Ok(answers) => {
                self.gate_check.ready("answers");
                answers
            }
            Err(error) => {
                metrics::counter!("chat_sync_gate_errors_total").increment(1);
                tracing::debug!(%error, "pushing without the gate");
                // Still ready: the page's own merge keeps screens from going backwards.
                self.gate_check.ready(format!("{error}; pushing without it"));
                return;
            }
        };
        let mut forgotten = Vec::new();
        for (update, answer) in updates.iter_mut().zip(answers) {
            update.answer = answer.name();
            metrics::counter!("chat_sync_gate_answers_total", "answer" => answer.name()).increment(1);
            match answer {
                Answer::Newer | Answer::Equal => {}
                Answer::Older(stored) => update.replace(*stored),
                Answer::Absent => {
                    if self.may_be_forgotten(&update.row) {
                        forgotten.push((update.row.chat_id.clone(), update.row.id.clone()));
                    }
                }
            }
        }
        if !forgotten.is_empty() {
            self.compare_with_the_copy(updates, &forgotten).await;
        }
    }

    /// Whether the gate may have known a newer row that has expired since.
    fn may_be_forgotten(&self, row: &ShownMessage) -> bool {
        let changed_at = row.version.fields().map_or(row.created_at, |fields| fields.changed_at);
        Timestamp::now().since(changed_at) > self.gate_ttl
    }

    async fn compare_with_the_copy(&self, updates: &mut [Update], forgotten: &[(String, String)]) {
        // Without the store they are pushed as they are: the page's own merge has the last word.
        let Ok(Ok(stored)) = tokio::time::timeout(STORE, self.copy.stored(forgotten)).await else { return };
        let stored: BTreeMap<(String, String), ShownMessage> =
            stored.into_iter().map(|row| ((row.chat_id.clone(), row.id.clone()), row)).collect();
        for update in updates {
            let key = (update.row.chat_id.clone(), update.row.id.clone());
            if let Some(row) = stored.get(&key).filter(|row| row.version > update.row.version) {
                update.replace(row.clone());
            }
        }
    }
}

fn appended_at(millis: i64) -> Timestamp {
    Timestamp::from_micros(u64::try_from(millis).unwrap_or(0).saturating_mul(1000)).unwrap_or_default()
}

/// Keeps the list of chats as the store has it, and watches the store. Never ends.
async fn read_chats(copy: Arc<dyn ChatCopy>, hub: Arc<Hub>, check: Check) {
    let (mut waits, mut was_read) = (retry::reconnecting(), false);
    loop {
        let wait = match copy.chats().await {
            Ok(chats) => {
                hub.put_chats(chats);
                check.ready("answers");
                waits = retry::reconnecting();
                was_read = true;
                WATCH
            }
            // Whoever watches goes on: what is new comes from the log, and a load says that it is behind.
            Err(error) if was_read => {
                check.ready(format!("{error}; pushing what the log brings"));
                waits.next().unwrap_or(WATCH)
            }
            Err(error) => {
                check.waiting(error.to_string());
                waits.next().unwrap_or(WATCH)
            }
        };
        tokio::time::sleep(wait).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn marker(leader: &str, number: u64, previous: u64) -> Marker {
        let json = serde_json::json!({
            "source": "demo", "region": "a", "leader": leader, "number": number, "cursor": null, "settled": null,
            "partitions": 1, "at": "2026-01-02T03:04:05Z", "fresh_as_of": null, "previous": previous,
        });
        serde_json::from_value(json).expect("a marker")
    }

    #[test]
    fn a_marker_tells_that_something_was_passed_over() {
        let mut place = Place::new(0, 0);
        let mut passed_over = |leader, number, previous| place.passed_over(&marker(leader, number, previous));
        assert!(!passed_over("x", 7, 6), "of what came before the first one nothing is known");
        assert!(!passed_over("x", 8, 7));
        assert!(!passed_over("x", 10, 8), "9 was not taken by every partition");
        assert!(passed_over("x", 13, 12));
        assert!(!passed_over("y", 4, 3), "another leader counts anew");
        assert!(!passed_over("y", 2, 1), "read again");
        assert!(!passed_over("y", 3, 2));
        let next = |previous| Marker { previous_leader: Some("y".into()), ..marker("z", 1, previous) };
        assert!(!place.clone().passed_over(&next(3)));
        assert!(place.passed_over(&next(4)), "the leader before had another one");
    }
}
