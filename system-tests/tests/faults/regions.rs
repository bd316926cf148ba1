//! The mirror between two regions repeats, has holes, and has nowhere to write.

use std::time::{Duration, Instant};

use contract::{Record, Timestamp, Topics};
use platform::event_log::EventLog;
use platform::event_log::kafka::Kafka;
use platform::eventually;
use sqlx::PgPool;
use system_tests::compared::{at_the_vendor, in_the_copy};
use system_tests::metrics;
use system_tests::reader::Reader;
use system_tests::regions::Regions;

use crate::table::{Row, long};
use crate::the_log::cut_the_topic;
use crate::trial::alone;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn v3_whatever_the_mirror_repeats_changes_nothing_on_screens() {
    alone(async {
        let row = Row {
            number: "20c",
            fault: "the mirror killed; frozen; restarted with its place lost, so that all is mirrored again",
            promise: "R1, V3",
            expected: "0 visible changes on screens",
        };
        let patient = vec![("CHAT_SYNC_TAKE_OVER_AFTER", "120s".to_owned())];
        let Some(mut regions) = Regions::start(patient).await else { return row.not_run("no servers") };
        regions.ready().await;
        let vendor = regions.a.vendor();
        let chat = vendor.create_chat("Repeated").await;
        let at_a = Reader::watch(&regions.a.internal_address);
        let reader = Reader::watch(&regions.b.internal_address);
        let mut ids = Vec::new();
        for number in 0..40 {
            let id = vendor.post(&chat, &format!("message {number}")).await;
            vendor.edit(&chat, &id, &format!("message {number}, edited")).await;
            ids.push(id);
        }
        let edited = |id: &String| reader.text(&chat, id).flatten().is_some_and(|text| text.ends_with("edited"));
        eventually!(ids.iter().all(edited), "b shows it all");
        let shown = reader.screen().messages;
        let mut come_through = async |regions: &Regions, text: &str| {
            let id = vendor.post(&chat, text).await;
            eventually!(reader.text(&chat, &id).is_some(), "{text}");
            assert!(regions.turn_of_b().await.contains("region a polls"), "{}", regions.turn_of_b().await);
            ids.push(id);
        };
        regions.into_b.kill();
        regions.into_b.start_again();
        come_through(&regions, "after it was killed").await;
        regions.into_b.signal("STOP");
        let meanwhile = vendor.post(&chat, "while it was frozen").await;
        eventually!(at_a.text(&chat, &meanwhile).is_some(), "a goes on");
        regions.into_b.signal("CONT");
        eventually!(reader.text(&chat, &meanwhile).is_some(), "it follows");
        come_through(&regions, "after it was frozen").await;
        let topic = Topics::with_suffix(&regions.a.topic_suffix).changes;
        let mirrored = format!("a.{topic}");
        let all = appended(&regions.kafka_a.address, &topic).await;
        let before = appended(&regions.kafka_b.address, &mirrored).await;
        regions.lose_the_place_of_bs_mirror().await;
        eventually!(appended(&regions.kafka_b.address, &mirrored).await >= before + all, "all of it is mirrored again");
        come_through(&regions, "after all was mirrored again").await;
        let screen = reader.screen();
        assert_eq!(screen.backwards, Vec::<String>::new());
        let changed =
            shown[&chat].iter().filter(|(id, message)| screen.messages[&chat].get(*id) != Some(message)).count();
        assert_eq!(changed, 0, "what was shown is as it was");
        let b = PgPool::connect(regions.b.database_url.expose()).await.unwrap();
        eventually!(in_the_copy(&b).await == at_the_vendor(&vendor).await, "b's own primary too");
        let metric = "chat_sync_mirror_holes_total";
        let holes = metrics::value(&regions.b.synchronizer_address, metric).await.unwrap_or(0.0);
        assert_eq!(holes, 0.0, "nothing was taken for a hole");
        row.came_to(true, &format!("{all} rows mirrored again; 0 visible changes; b stood by all the while"));
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
        let Some(mut regions) = Regions::start(further).await else { return row.not_run("no servers") };
        regions.ready().await;
        let vendor = regions.a.vendor();
        let chat = vendor.create_chat("Lost on the way").await;
        let readers = [&regions.a.internal_address, &regions.b.internal_address].map(|address| Reader::watch(address));
        let first = vendor.post(&chat, "through the mirror").await;
        eventually!(readers.iter().all(|reader| reader.text(&chat, &first).is_some()), "both show it");
        regions.into_b.kill();
        let mut lost = Vec::new();
        for number in 0..20 {
            lost.push(vendor.post(&chat, &format!("lost {number}")).await);
        }
        let a = PgPool::connect(regions.a.database_url.expose()).await.unwrap();
        eventually!(in_the_copy(&a).await == at_the_vendor(&vendor).await, "a has it");
        cut_the_topic(&regions.kafka_a.address, &Topics::with_suffix(&regions.a.topic_suffix).changes).await;
        regions.into_b.start_again();
        let address = regions.b.synchronizer_address.clone();
        let value = async |name: &str| metrics::value(&address, name).await.unwrap_or(0.0);
        eventually!(value("chat_sync_mirror_holes_total").await > 0.0, "b says that something is missing");
        eventually!(lost.iter().all(|id| readers[1].text(&chat, id).is_some()), "b shows it all the same");
        let b = PgPool::connect(regions.b.database_url.expose()).await.unwrap();
        eventually!(in_the_copy(&b).await == at_the_vendor(&vendor).await, "and has it");
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
        assert!(regions.turn_of_b().await.contains("region a polls"), "and stands by");
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
        let Some(mut regions) = Regions::start(Vec::new()).await else { return row.not_run("no servers") };
        regions.ready().await;
        let vendor = regions.a.vendor();
        let chat = vendor.create_chat("Away").await;
        let readers = [&regions.a.internal_address, &regions.b.internal_address].map(|address| Reader::watch(address));
        let first = vendor.post(&chat, "before").await;
        eventually!(readers.iter().all(|reader| reader.text(&chat, &first).is_some()), "both show it");
        let away = Duration::from_secs(if long() { 60 } else { 25 });
        let began = Instant::now();
        regions.kafka_b.kill();
        regions.into_b.kill();
        regions.into_b.start_again();
        let meanwhile = vendor.post(&chat, "meanwhile").await;
        eventually!(readers[0].text(&chat, &meanwhile).is_some(), "a goes on");
        tokio::time::sleep(away.saturating_sub(began.elapsed())).await;
        assert!(!regions.turn_of_b().await.contains("polls since"), "who hears nothing does not take it for silence");
        regions.kafka_b.start_again().await;
        let back = Instant::now();
        eventually!(
            {
                regions.into_b.start_again_if_it_ended();
                readers[1].text(&chat, &meanwhile).is_some()
            },
            "b has what came meanwhile"
        );
        let healed = back.elapsed();
        let after = vendor.post(&chat, "after").await;
        eventually!(readers.iter().all(|reader| reader.text(&chat, &after).is_some()), "both show it");
        for url in [&regions.a.database_url, &regions.b.database_url] {
            let pool = PgPool::connect(url.expose()).await.unwrap();
            eventually!(in_the_copy(&pool).await == at_the_vendor(&vendor).await, "both are as the vendor is");
        }
        for reader in &readers {
            assert_eq!(reader.screen().backwards, Vec::<String>::new());
        }
        let (away, healed) = (away.as_secs(), healed.as_secs_f64());
        row.came_to(true, &format!("away for {away} s; what came meanwhile was seen in b {healed:.1} s after that"));
    })
    .await;
}

/// How many rows of messages a region's own synchronizers appended.
async fn appended(brokers: &str, topic: &str) -> usize {
    let log = Kafka::new(brokers).expect("a client");
    let records = log.tail(topic, u64::MAX).await.expect("the log");
    let is_message = |value: &[u8]| matches!(Record::decode(value, Timestamp::now()), Ok(Record::Message(_)));
    records.iter().filter(|record| is_message(&record.value)).count()
}
