//! MirrorMaker 2 with the settings that it has everywhere.

use platform::event_log::kafka::Kafka;
use platform::event_log::{EventLog, NewRecord, TopicSpec};
use platform::eventually;
use rand::RngExt;
use system_tests::own_kafka::OwnKafka;
use system_tests::own_mirror::{End, OwnMirror};

const PARTITIONS: u32 = contract::topic::PARTITIONS;
/// What comes while the target hangs: nearly twice what the mirror may use as memory.
const TIMES: usize = 15;
const BYTES: usize = 1_000_000;

/// Records of what does not compress, two for each partition.
fn large() -> Vec<NewRecord> {
    let record = |number: u32| {
        let mut value = vec![0; BYTES];
        rand::rng().fill(&mut value[..]);
        let topic = "changes".into();
        NewRecord { topic, partition: number % PARTITIONS, key: None, value, headers: Vec::new() }
    };
    (0..2 * PARTITIONS).map(record).collect()
}

/// All of its tasks buffer for a target that does not answer, together no more than there is memory.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mirror_whose_target_hangs_brings_everything_when_it_answers() {
    let (Some(near), Some(far)) = (OwnKafka::start().await, OwnKafka::start().await) else { return };
    let (source, target) = (Kafka::new(&near.address).unwrap(), Kafka::new(&far.address).unwrap());
    let name = "changes".to_owned();
    let spec = TopicSpec {
        name,
        partitions: PARTITIONS,
        compacted: false,
        retention_ms: 3_600_000,
        max_record_bytes: 2 << 20,
    };
    source.ensure_topics(&[spec]).await.unwrap();
    let ends = [("a", &near.address), ("b", &far.address)].map(|(region, brokers)| End { region, brokers });
    let Some(_mirror) = OwnMirror::start(&ends[0], &ends[1], "changes") else { return };
    let records = large();
    source.append(records.clone()).await.unwrap();
    let mirrored = async || {
        let offsets = target.offsets("a.changes").await.ok()?;
        Some(offsets.values().map(|held| held.end).sum::<u64>())
    };
    eventually!(mirrored().await.is_some_and(|so_many| so_many >= records.len() as u64), "it mirrors all partitions");

    far.signal("STOP");
    for _ in 0..TIMES {
        source.append(records.clone()).await.unwrap();
    }
    far.signal("CONT");
    let all = ((TIMES + 1) * records.len()) as u64;
    eventually!(mirrored().await.is_some_and(|so_many| so_many >= all), "{:?} of {all} are there", mirrored().await);
}
