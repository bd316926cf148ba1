//! Records in the log that nobody can understand, among good ones.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Instant;

use contract::{Record, Topics};
use platform::event_log::kafka::Kafka;
use platform::event_log::{EventLog, NewRecord};
use platform::eventually;
use sqlx::PgPool;
use system_tests::pipeline::{Options, Pipeline};
use writer::suite::message;

use crate::servers::copy_of;
use crate::table::Row;
use crate::trial::alone;

const GOOD: u64 = 10_000;
const POISON: u64 = 1_000;

/// What is wrong with the nth one, and its reason as a dead letter.
pub fn poison(number: u64) -> (Vec<u8>, &'static str) {
    let good = || Record::Message(message("poisoned", &format!("p{number}"), 1)).encode();
    let changed = |change: fn(&mut serde_json::Value)| {
        let mut value: serde_json::Value = serde_json::from_slice(&good()).expect("JSON");
        change(&mut value);
        value.to_string().into_bytes()
    };
    // A few are 5 MB: all of them together would be nothing but a test of the disk.
    if number.is_multiple_of(200) {
        return (vec![b'x'; (5 << 20) + usize::try_from(number).expect("small")], "too_large");
    }
    match number % 6 {
        0 => ([b"\xff\xfe", format!("{number}").as_bytes()].concat(), "bad_utf8"),
        1 => (changed(|value| value["text"] = "a\0b".into()), "nul_character"),
        2 => (format!("{}{number}{}", "[".repeat(10_000), "]".repeat(10_000)).into_bytes(), "too_deep"),
        3 => (changed(|value| value["text"] = 7.into()), "bad_shape"),
        4 => (changed(|value| value["kind"] = "a kind from the future".into()), "unknown_kind"),
        _ => (changed(|value| value["text"] = "not what the version says".into()), "version_mismatch"),
    }
}

/// Dead letters: partition, offset and reason.
type Letters = BTreeSet<(u32, u64, String)>;

/// How long a writer takes for the good ones, with these among them; the dead letters that there are, and that there
/// should be.
async fn stored_in(pipeline: &mut Pipeline, poisoned: bool) -> (f64, Letters, Letters) {
    // Neither the leader's markers nor its reconcile: nobody at the vendor knows of these rows.
    pipeline.synchronizer.kill();
    pipeline.writer.kill();
    let log = Kafka::new(&pipeline.kafka).expect("a client");
    let log: Arc<dyn EventLog> = Arc::new(log);
    let topic: Arc<str> = Topics::with_suffix(&pipeline.topic_suffix).changes.into();
    let record = |partition, value| NewRecord {
        topic: topic.clone(),
        partition,
        key: Some("key".into()),
        value,
        headers: Vec::new(),
    };
    let (mut records, mut injected, mut reasons) = (Vec::new(), 0, HashMap::new());
    for number in 0..GOOD {
        let good = Record::Message(message(&format!("c{}", number % 20), &format!("m{number}"), 1));
        records.push(record(good.partition(12).expect("a row"), good.encode()));
        if poisoned && number % (GOOD / POISON) == 0 {
            let (value, reason) = poison(injected);
            records.push(record(u32::try_from(injected % 12).expect("small"), value.clone()));
            reasons.insert(value, reason);
            injected += 1;
        }
        // Some are large: not all of them at once.
        if records.len() >= 500 || number + 1 == GOOD {
            log.append(std::mem::take(&mut records)).await.expect("appended");
        }
    }
    let pool = copy_of(pipeline).await;
    let began = Instant::now();
    pipeline.writer.start_again();
    eventually!(count(&pool).await >= i64::try_from(GOOD).expect("small"), "the good ones are stored");
    let took = began.elapsed().as_secs_f64();
    let appended = eventually!(log.tail(&topic, u64::MAX).await.ok(), "the log is read whole");
    let expected: Letters = appended
        .iter()
        .filter_map(|record| Some((record.at.partition, record.offset, (*reasons.get(&record.value)?).to_owned())))
        .collect();
    eventually!(letters(&pool).await.len() >= expected.len(), "the others are dead letters");
    (took, letters(&pool).await, expected)
}

async fn count(pool: &PgPool) -> i64 {
    sqlx::query_scalar("SELECT count(*) FROM messages").fetch_one(pool).await.unwrap_or(0)
}

async fn letters(pool: &PgPool) -> Letters {
    let rows: Vec<(i32, i64, String)> = sqlx::query_as("SELECT partition, \"offset\", reason FROM dead_letters")
        .fetch_all(pool)
        .await
        .unwrap_or_default();
    rows.into_iter()
        .map(|(partition, offset, reason)| (partition.cast_unsigned(), offset.cast_unsigned(), reason))
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn w4_a_thousand_poisoned_records_among_ten_thousand_good_ones() {
    alone(async {
        let row = Row {
            number: "16",
            fault: "1,000 poisoned records among 10,000 good: bad UTF-8, U+0000, depth 10,000, 5 MB, wrong types, \
                unknown kinds, version not matching",
            promise: "W4",
            expected: "all good stored; exactly the poison dead-lettered; rate of the good at least 0.8 of a clean run",
        };
        let (mut took, mut dead_letters) = (Vec::new(), Letters::new());
        for poisoned in [false, true] {
            let Some(mut pipeline) = Pipeline::start(Options::default()).await else {
                return row.not_run("no servers");
            };
            pipeline.ready().await;
            let (seconds, found, expected) = stored_in(&mut pipeline, poisoned).await;
            assert_eq!(found, expected, "partition, offset and reason of every dead letter");
            took.push(seconds);
            dead_letters = found;
        }
        assert_eq!(dead_letters.len() as u64, POISON);
        let reasons = dead_letters.iter().map(|(_, _, reason)| reason).collect::<BTreeSet<_>>().len();
        let (rate, ratio) = (GOOD as f64 / took[1], took[0] / took[1]);
        row.came_to(
            ratio >= 0.8,
            &format!(
                "{rate:.0} good records a second, the writer's start included; {ratio:.2} of a clean run's; {POISON} \
                 dead letters of {reasons} reasons, each with its partition and offset"
            ),
        );
    })
    .await;
}
