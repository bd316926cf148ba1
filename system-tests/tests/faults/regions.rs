//! Two regions: lose one, lose nothing.

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

use crate::table::Row;
use crate::trial::alone;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r2_a_region_goes_on_without_the_other_and_both_are_alike_when_it_is_back() {
    alone(async {
        let row = Row {
            number: "20a",
            fault: "region a killed whole: Kafka, its mirror, synchronizer, writer, internal; then back",
            promise: "R1, R2",
            expected: "b polls by itself within 25 s, and goes on when a is back",
        };
        let Some(mut regions) = Regions::start(Vec::new()).await else { return row.not_run("no servers") };
        regions.ready().await;
        let vendor = regions.a.vendor();
        let chat = vendor.create_chat("Everywhere").await;
        let reader = Reader::watch(&regions.b.internal_address);
        let first = vendor.post(&chat, "through the mirror").await;
        eventually!(reader.text(&chat, &first).is_some(), "b shows what a polls");
        assert!(regions.turn_of_a().await.contains("polls since"), "{}", regions.turn_of_a().await);
        let b = PgPool::connect(regions.b.database_url.expose()).await.unwrap();
        eventually!(in_the_copy(&b).await == at_the_vendor(&vendor).await, "b's own primary has it");

        regions.kill_a();
        let killed = Instant::now();
        let second = vendor.post(&chat, "while a is gone").await;
        // The message alone says nothing: b also compares with the vendor by itself.
        eventually!(regions.turn_of_b().await.contains("silence"), "b polls by itself");
        eventually!(reader.text(&chat, &second).is_some(), "b shows it");
        let took = killed.elapsed();

        regions.start_a_again().await;
        let a = PgPool::connect(regions.a.database_url.expose()).await.unwrap();
        let third = vendor.post(&chat, "a is back").await;
        eventually!(reader.text(&chat, &third).is_some(), "b goes on");
        eventually!(in_the_copy(&a).await == at_the_vendor(&vendor).await, "a has what it missed");
        eventually!(regions.turn_of_a().await.contains("region b polls"), "whoever polls goes on");
        assert_eq!(in_the_copy(&b).await, at_the_vendor(&vendor).await);
        assert_eq!(reader.screen().backwards, Vec::<String>::new());
        let turns = metrics::value(&regions.b.synchronizer_address, "chat_sync_region_turns_total").await;
        assert_eq!(turns, Some(1.0), "b took over, and kept it");
        row.came_to(
            took <= Duration::from_secs(25),
            &format!("seen in b {:.1} s after the kill; 1 change of role in b", took.as_secs_f64()),
        );
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r3_where_both_poll_nothing_breaks_and_one_gives_way() {
    alone(async {
        let row = Row {
            number: "20b",
            fault: "the link between the regions cut both ways until both poll, then healed",
            promise: "R1, R3, V3",
            expected: "at most 2 records a change; one gives way",
        };
        let soon = vec![("CHAT_SYNC_TAKE_OVER_AFTER", "8s".to_owned()), ("CHAT_SYNC_GIVE_WAY_AFTER", "5s".to_owned())];
        let Some(regions) = Regions::start(soon).await else { return row.not_run("no servers") };
        regions.ready().await;
        let vendor = regions.a.vendor();
        let chat = vendor.create_chat("Apart").await;
        let readers = [&regions.a.internal_address, &regions.b.internal_address].map(|address| Reader::watch(address));
        let shown = |id: &str| readers.iter().all(|reader| reader.text(&chat, id).is_some());
        let before = vendor.post(&chat, "together").await;
        eventually!(shown(&before), "both show it");
        regions.to_a.cut();
        regions.to_b.cut();
        eventually!(regions.turn_of_b().await.contains("polls since"), "b takes over, for all that it knows");
        let mut apart = Vec::new();
        for number in 0..50 {
            apart.push(vendor.post(&chat, &format!("apart {number}")).await);
        }
        eventually!(apart.iter().all(|id| shown(id)), "each has it from the vendor");
        regions.to_a.restore();
        regions.to_b.restore();
        eventually!(regions.turn_of_b().await.contains("region a polls"), "one gives way");
        let after = vendor.post(&chat, "together again").await;
        eventually!(shown(&after), "both show it");
        assert!(regions.turn_of_a().await.contains("polls since"));
        for reader in &readers {
            assert_eq!(reader.screen().backwards, Vec::<String>::new());
        }
        let vendors = at_the_vendor(&vendor).await;
        for url in [&regions.a.database_url, &regions.b.database_url] {
            let pool = PgPool::connect(url.expose()).await.unwrap();
            eventually!(in_the_copy(&pool).await == vendors, "both are as the vendor is");
        }
        let topic = Topics::with_suffix(&regions.a.topic_suffix).changes;
        let records =
            appended(&regions.kafka_a.address, &topic).await + appended(&regions.kafka_b.address, &topic).await;
        let a_change = records as f64 / vendors.len() as f64;
        // What each has of its own vendor's feed once, and of the other's nothing: whatever the machine's speed.
        assert!(a_change <= 2.0, "{records} records of {} messages", vendors.len());
        row.came_to(true, &format!("{a_change:.2} records a change in both logs together"));
    })
    .await;
}
