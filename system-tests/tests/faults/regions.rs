//! The mirror between two regions repeats, has holes, and has nowhere to write, while people write in chats beside the one that
//! is looked at.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use contract::{Message, Record, Timestamp, Topics};
use platform::event_log::EventLog;
use platform::event_log::kafka::Kafka;
use platform::eventually;
use sqlx::PgPool;
use system_tests::compared::{at_the_vendor, in_the_copy};
use system_tests::reader::Reader;
use system_tests::regions::Setup;
use system_tests::{metrics, own_kafka};

use crate::both_regions::{SILENCE, turns};
use crate::region_trial::RegionTrial;
use crate::table::{Row, long};
use crate::trial::alone;

/// Changes a second.
const RATE: u64 = 50;

/// Both regions with people who write; these are further settings of their synchronizers. `None`, said loudly, without the servers.
async fn under_load(synchronizers: Vec<(&'static str, String)>) -> Option<RegionTrial> {
    let mut trial = RegionTrial::begin(Setup { synchronizers, ..Setup::default() }).await?;
    trial.people_write(RATE);
    trial.goes_on().await;
    Some(trial)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn v3_whatever_the_mirror_repeats_changes_nothing_on_screens() {
    alone(async {
        let row = Row {
            number: "20c",
            fault: "the mirror killed; frozen until b takes over, and both poll; restarted with its place lost, so that all is mirrored again",
            promise: "R1, V3",
            expected: "0 visible changes on screens",
        };
        let Some(mut trial) = under_load(Vec::new()).await else { return row.not_run("no servers") };
        let in_b = trial.regions.b.synchronizer_address.clone();
        let vendor = trial.vendor();
        let chat = vendor.create_chat("Repeated").await;
        let at_a = Reader::watch_chat(&trial.regions.a.internal_address, &chat);
        let reader = Reader::watch_chat(&trial.regions.b.internal_address, &chat);
        let mut ids = Vec::new();
        for number in 0..40 {
            let id = vendor.post(&chat, &format!("message {number}")).await;
            vendor.edit(&chat, &id, &format!("message {number}, edited")).await;
            ids.push(id);
        }
        let edited = |id: &String| reader.text(&chat, id).flatten().is_some_and(|text| text.ends_with("edited"));
        eventually!(ids.iter().all(edited), "b shows it all");
        let shown = reader.screen().messages;
        let come_through = async |trial: &RegionTrial, text: &str| {
            let id = vendor.post(&chat, text).await;
            eventually!(reader.text(&chat, &id).is_some(), "{text}");
            let turn = async || trial.regions.turn_of_b().await;
            eventually!(turn().await.contains("region a polls"), "{}", turn().await);
        };
        trial.regions.into_b.kill();
        trial.regions.into_b.start_again();
        come_through(&trial, "after it was killed").await;
        trial.regions.into_b.signal("STOP");
        let meanwhile = vendor.post(&chat, "while it was frozen").await;
        eventually!(at_a.text(&chat, &meanwhile).is_some(), "a goes on");
        let turn = async || trial.regions.turn_of_b().await;
        eventually!(turn().await.starts_with("polls"), "b hears nothing and polls: {}", turn().await);
        eventually!(reader.text(&chat, &meanwhile).is_some(), "b shows it");
        trial.regions.into_b.signal("CONT");
        come_through(&trial, "after it was frozen").await;
        let topic = Topics::with_suffix(&trial.regions.a.topic_suffix).changes;
        let (kafka_a, kafka_b) = (trial.regions.kafka_a.address.clone(), trial.regions.kafka_b.address.clone());
        let all = eventually!(rows(&kafka_a, &topic).await, "a's log is read").len();
        let repeated = async || {
            let rows = rows(&kafka_b, &format!("a.{topic}")).await?;
            let distinct: BTreeSet<_> = rows.iter().map(|row| (&row.chat_id, &row.id, row.stamp.sequence)).collect();
            Some(rows.len() - distinct.len())
        };
        let before = eventually!(repeated().await, "b's log is read");
        trial.regions.lose_the_place_of_bs_mirror().await;
        eventually!(repeated().await.is_some_and(|now| now >= before + all), "all of it is mirrored again");
        come_through(&trial, "after all was mirrored again").await;
        let screen = reader.screen();
        assert_eq!(screen.backwards, Vec::<String>::new());
        let changed =
            shown[&chat].iter().filter(|(id, message)| screen.messages[&chat].get(*id) != Some(message)).count();
        assert_eq!(changed, 0, "what was shown is as it was");
        let holes = metrics::value(&in_b, "chat_sync_mirror_holes_total").await;
        assert_eq!(holes.unwrap_or(0.0), 0.0, "nothing was taken for a hole");
        let [_, b] = trial.is_right().await;
        let (polled, records) = (turns(&in_b, SILENCE).await, b.records_a_change());
        row.came_to(
            true,
            &format!("{all} rows mirrored again; 0 visible changes; b polled {polled} time(s); {records:.2} records a change in b"),
        );
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r1_a_hole_in_the_mirror_is_said_and_repaired() {
    alone(async {
        let row = Row {
            number: "20d",
            fault: "a hole in the mirror: records gone from a's log before they were mirrored",
            promise: "R1, V1",
            expected: "an alarm; reconcile repairs it; drift 0 after that",
        };
        let further = vec![
            ("CHAT_SYNC_TAKE_OVER_AFTER", "120s".to_owned()),
            // Only the hole's own comparison can be fast enough.
            ("CHAT_SYNC_RECONCILE_EVERY", "1h".to_owned()),
        ];
        let Some(mut trial) = under_load(further).await else { return row.not_run("no servers") };
        trial.is_right().await;
        let before_all = turns(&trial.regions.b.synchronizer_address, "").await;
        let vendor = trial.vendor();
        let chat = vendor.create_chat("Lost on the way").await;
        let pods = [&trial.regions.a.internal_address, &trial.regions.b.internal_address];
        let readers = pods.map(|pod| Reader::watch_chat(pod, &chat));
        let first = vendor.post(&chat, "through the mirror").await;
        eventually!(readers.iter().all(|reader| reader.text(&chat, &first).is_some()), "both show it");
        trial.regions.into_b.kill();
        // Each in one version: of one that is edited after it, no copy can have what the log has lost.
        let mut lost = Vec::new();
        for number in 0..20 {
            lost.push(vendor.post(&chat, &format!("lost {number}")).await);
        }
        let a = PgPool::connect(trial.regions.a.database_url.expose()).await.unwrap();
        eventually!(in_the_copy(&a).await == at_the_vendor(&vendor).await, "a has it");
        let topic = Topics::with_suffix(&trial.regions.a.topic_suffix).changes;
        own_kafka::cut_topic(&trial.regions.kafka_a.address, &topic).await;
        trial.regions.into_b.start_again();
        let address = trial.regions.b.synchronizer_address.clone();
        let value = async |name: &str| metrics::value(&address, name).await.unwrap_or(0.0);
        eventually!(value("chat_sync_mirror_holes_total").await > 0.0, "b says that something is missing");
        eventually!(lost.iter().all(|id| readers[1].text(&chat, id).is_some()), "b shows it all the same");
        // What filled the gap is no drift; the round that verifies it finds nothing more.
        let drift = async || metrics::value(&address, "chat_sync_drift_messages").await;
        eventually!(
            value("chat_sync_reconcile_gap").await == 0.0 && drift().await == Some(0.0),
            "the gap is filled, and nothing else was missing: {:?}",
            drift().await
        );
        for reader in &readers {
            assert_eq!(reader.screen().backwards, Vec::<String>::new());
        }
        let repaired = value("chat_sync_reconcile_appended_total").await;
        assert!(repaired >= lost.len() as f64, "{repaired} repaired");
        assert_eq!(turns(&address, "").await, before_all, "and stood by all the while");
        trial.people_write(RATE);
        trial.goes_on().await;
        trial.is_right().await;
        row.came_to(
            true,
            &format!("{} messages lost on the way; {repaired} records appended by b's reconcile", lost.len()),
        );
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r1_a_regions_log_is_away_for_a_while() {
    alone(async {
        let row = Row {
            number: "20e",
            fault: "b's Kafka away; b's mirror started before it is there again",
            promise: "R1, R2",
            expected: "heals without help",
        };
        let Some(mut trial) = under_load(Vec::new()).await else { return row.not_run("no servers") };
        let vendor = trial.vendor();
        let chat = vendor.create_chat("Away").await;
        let pods = [&trial.regions.a.internal_address, &trial.regions.b.internal_address];
        let readers = pods.map(|pod| Reader::watch_chat(pod, &chat));
        let first = vendor.post(&chat, "before").await;
        eventually!(readers.iter().all(|reader| reader.text(&chat, &first).is_some()), "both show it");
        let away = Duration::from_secs(if long() { 60 } else { 25 });
        let began = Instant::now();
        trial.regions.kafka_b.kill();
        trial.regions.into_b.kill();
        trial.regions.into_b.start_again();
        let meanwhile = vendor.post(&chat, "meanwhile").await;
        eventually!(readers[0].text(&chat, &meanwhile).is_some(), "a goes on");
        tokio::time::sleep(away.saturating_sub(began.elapsed())).await;
        let turn = trial.regions.turn_of_b().await;
        assert!(!turn.contains("polls since"), "who hears nothing does not take it for silence: {turn}");
        trial.regions.kafka_b.start_again().await;
        let back = Instant::now();
        eventually!(
            {
                trial.regions.into_b.start_again_if_it_ended();
                readers[1].text(&chat, &meanwhile).is_some()
            },
            "b has what came meanwhile"
        );
        let healed = back.elapsed();
        trial.goes_on().await;
        let [a, _] = trial.is_right().await;
        for reader in &readers {
            assert_eq!(reader.screen().backwards, Vec::<String>::new());
        }
        let (away, healed, changes) = (away.as_secs(), healed.as_secs_f64(), a.changes);
        row.came_to(
            true,
            &format!(
                "away for {away} s; what came meanwhile was seen in b {healed:.1} s after that; {changes} changes"
            ),
        );
    })
    .await;
}

/// The rows of messages in a topic; `None` if it cannot be read now.
async fn rows(brokers: &str, topic: &str) -> Option<Vec<Message>> {
    let log = Kafka::new(brokers).expect("a client");
    let records = log.tail(topic, u64::MAX).await.ok()?;
    let message = |value: &[u8]| match Record::decode(value, Timestamp::now()) {
        Ok(Record::Message(message)) => Some(message),
        _ => None,
    };
    Some(records.iter().filter_map(|record| message(&record.value)).collect())
}
