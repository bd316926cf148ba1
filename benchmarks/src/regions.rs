//! Two regions, 40 ms apart each way: what MirrorMaker adds, next to the settings that it comes with; how late the far
//! region shows what people write; and how soon its log is whole after a minute apart.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use anyhow::Context;
use contract::topic::PARTITIONS;
use platform::event_log::kafka::Kafka;
use platform::event_log::{Event, EventLog, NewRecord, Sharing, Topic, TopicSpec};
use platform::eventually;
use platform::testing::unique_suffix;
use system_tests::own_kafka::OwnKafka;
use system_tests::own_mirror::{End, OURS, OwnMirror};
use system_tests::regions::{BETWEEN, Regions};
use system_tests::vendor::Vendor;
use tokio::sync::oneshot;
use tokio::sync::oneshot::error::TryRecvError;
use tokio::task::JoinHandle;

use crate::figures::{Table, percentiles, thousands};
use crate::latency::{between, post, watch};

/// Records that are timed, each way of mirroring, and how many a second.
const RECORDS: usize = 600;
const BEAT: Duration = Duration::from_millis(25);
/// Records before them that are not timed, and how fast: a mirror that has just started compiles its code yet.
const BEFORE: usize = 1_000;
const WARM_BEAT: Duration = Duration::from_millis(5);
/// Ours and the defaults, in turn.
const ROUNDS: usize = 2;
/// Messages that are timed in both regions, and how many a second.
const MESSAGES: usize = 1_500;
const WARM_UP: usize = 500;
const RATE: u64 = 50;
const APART: Duration = Duration::from_secs(60);
/// What MirrorMaker 2 has to be told; everything else is as it comes. One broker has room for one replica.
const DEFAULTS: &str = "\
clusters = @source@, @target@
@source@.bootstrap.servers = @source-brokers@
@target@.bootstrap.servers = @target-brokers@
@source@->@target@.enabled = true
@source@->@target@.topics = @topics@
replication.factor = 1
checkpoints.topic.replication.factor = 1
heartbeats.topic.replication.factor = 1
offset-syncs.topic.replication.factor = 1
config.storage.replication.factor = 1
offset.storage.replication.factor = 1
status.storage.replication.factor = 1
";

type Row = (String, Vec<String>);

pub async fn run() -> anyhow::Result<Table> {
    let mut rows = mirrors(Duration::ZERO).await?;
    rows.extend(mirrors(BETWEEN).await?);
    rows.extend(whole().await?);
    Ok(Table {
        name: "regions",
        what: format!(
            "{} records, 40 a second, of {PARTITIONS} partitions, appended in region a: milliseconds until they are read there, and in region b through \
             MirrorMaker 2, with our settings and with its defaults, in turn {ROUNDS} times, after {} records that are not timed; \
             the regions beside each other, then \
             {} ms apart each way. Then both regions whole, as far apart: {} messages, {RATE} a second: milliseconds from the POST \
             at the vendor to the frame in each region, while a polls; and the link cut for {} s.",
            thousands((ROUNDS * RECORDS) as f64),
            thousands(BEFORE as f64),
            BETWEEN.as_millis(),
            thousands(MESSAGES as f64),
            APART.as_secs(),
        ),
        columns: vec!["p50", "p99", "max"],
        rows,
    })
}

async fn mirrors(apart: Duration) -> anyhow::Result<Vec<Row>> {
    let (near, to_near) = OwnKafka::with_a_proxy(&[]).await.context("Kafka")?;
    let far = OwnKafka::start().await.context("Kafka")?;
    to_near.lies_apart(apart);
    let (mut here, mut ours, mut defaults) = (Vec::new(), Mirrored::default(), Mirrored::default());
    for _ in 0..ROUNDS {
        for (settings, mirrored) in [(OURS, &mut ours), (DEFAULTS, &mut defaults)] {
            let topic = format!("mirrored{}", unique_suffix());
            Kafka::new(&near.address)?.ensure_topics(&[spec(&topic)]).await?;
            let ends = [("a", &to_near.address), ("b", &far.address)].map(|(region, brokers)| End { region, brokers });
            let _mirror = OwnMirror::start_with(settings, &ends[0], &ends[1], &topic).context("MirrorMaker")?;
            for (near, far) in timed(&near.address, &far.address, &topic).await? {
                here.push(near);
                mirrored.read.push(far);
                mirrored.added.push(far.saturating_sub(near));
            }
        }
    }
    let p50 = |times: &[Duration]| -> f64 {
        let mut times = times.to_vec();
        times.sort_unstable();
        times.get(times.len() / 2).map_or(f64::NAN, Duration::as_secs_f64)
    };
    let ratio = p50(&defaults.added) / p50(&ours.added);
    Ok(vec![
        (format!("**{} ms apart**", apart.as_millis()), vec![String::new(); 3]),
        ("read in region a".into(), percentiles(here).to_vec()),
        ("read in region b, our settings".into(), percentiles(ours.read).to_vec()),
        ("read in region b, MirrorMaker's defaults".into(), percentiles(defaults.read).to_vec()),
        ("later than in a, our settings".into(), percentiles(ours.added).to_vec()),
        ("later than in a, MirrorMaker's defaults".into(), percentiles(defaults.added).to_vec()),
        ("that of the defaults next to ours".into(), vec![format!("{ratio:.1}x"), String::new(), String::new()]),
    ])
}

/// Of every record, how long it took to a reader in the far region, and how much longer than to one in the near region.
#[derive(Default)]
struct Mirrored {
    read: Vec<Duration>,
    added: Vec<Duration>,
}

fn spec(topic: &str) -> TopicSpec {
    let name = topic.to_owned();
    TopicSpec { name, partitions: PARTITIONS, compacted: false, retention_ms: 3_600_000, max_record_bytes: 1 << 20 }
}

/// How long each record took to a reader in the near region, and to one in the far region.
async fn timed(near: &str, far: &str, topic: &str) -> anyhow::Result<Vec<(Duration, Duration)>> {
    let log = Kafka::new(near)?;
    let record = |key: String, number: usize| NewRecord {
        topic: topic.into(),
        partition: number as u32 % PARTITIONS,
        key: Some(key),
        value: vec![b'x'; 300],
        headers: Vec::new(),
    };
    let (mut readers, mut ready) = (Vec::new(), Vec::new());
    for brokers in [near, far] {
        let (reads, first) = oneshot::channel();
        readers.push(read(brokers.to_owned(), topic.to_owned(), reads));
        ready.push(first);
    }
    for mut first in ready {
        // Until the mirror has found the topic, and the reader the mirror's.
        while let Err(none) = first.try_recv() {
            anyhow::ensure!(none == TryRecvError::Empty, "a reader has ended");
            log.append(vec![record("warm".into(), 0)]).await?;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
    let mut beats = tokio::time::interval(WARM_BEAT);
    for number in 0..BEFORE {
        beats.tick().await;
        log.append(vec![record("warm".into(), number)]).await?;
    }
    let (mut beats, mut appended) = (tokio::time::interval(BEAT), HashMap::new());
    for number in 0..RECORDS {
        beats.tick().await;
        appended.insert(number.to_string(), Instant::now());
        log.append(vec![record(number.to_string(), number)]).await?;
    }
    let mut read = Vec::new();
    for reader in readers {
        read.push(reader.await??);
    }
    let took = |key: &String, at: &Instant| {
        let after = |reader: &HashMap<String, Instant>| Some(reader.get(key)?.duration_since(*at));
        Some((after(&read[0])?, after(&read[1])?))
    };
    Ok(appended.iter().filter_map(|(key, at)| took(key, at)).collect())
}

/// When each of the records was read; says when something was.
fn read(
    brokers: String,
    topic: String,
    reads: oneshot::Sender<()>,
) -> JoinHandle<anyhow::Result<HashMap<String, Instant>>> {
    tokio::spawn(async move {
        let log = Kafka::new(&brokers)?;
        let (group, mut reads) = (topic.clone(), Some(reads));
        let mut reader = log.read(Topic { base: topic, mirrored: true }, &group, Sharing::All).await?;
        let mut seen = HashMap::new();
        while seen.len() < RECORDS {
            match reader.next().await? {
                Event::Assigned(all) => reader.start(all.into_iter().map(|at| (at, 0)).collect()).await?,
                Event::Records(records) => {
                    let now = Instant::now();
                    reads.take().map(|reads| reads.send(()));
                    let keys = records.into_iter().filter_map(|record| String::from_utf8(record.key?).ok());
                    seen.extend(keys.filter(|key| key != "warm").map(|key| (key, now)));
                }
                Event::Revoked(_) | Event::OutOfRange(_) => {}
            }
        }
        Ok(seen)
    })
}

async fn whole() -> anyhow::Result<Vec<Row>> {
    let regions = Regions::start(Vec::new()).await.context("the servers")?;
    regions.ready().await;
    let vendor = regions.a.vendor();
    let chat = vendor.create_chat("Latency").await;
    let mut watching = Vec::new();
    for address in [&regions.a.internal_address, &regions.b.internal_address] {
        let url = format!("http://{address}/api/chats");
        eventually!(system_tests::http::get(&url).await?.text().await?.contains(&chat), "the chat is mirrored");
        let (ready, watched) = oneshot::channel();
        watching.push(tokio::spawn(watch(format!("ws://{address}/ws"), Some(chat.clone()), WARM_UP + MESSAGES, ready)));
        watched.await?;
    }
    post(&vendor, &chat, WARM_UP, RATE).await;
    let posted = post(&vendor, &chat, MESSAGES, RATE).await;
    let mut rows = Vec::new();
    for (name, watching) in ["POST to the frame in region a", "POST to the frame in region b"].into_iter().zip(watching)
    {
        rows.push((name.to_owned(), between(&posted, &watching.await??).to_vec()));
    }
    let (missed, took) = apart(&regions, &vendor, &chat).await?;
    let row = format!("s until b's log has all {} records that it missed in {} s", thousands(missed), APART.as_secs());
    rows.push((row, vec![String::new(), String::new(), format!("{:.1}", took.as_secs_f64())]));
    Ok(rows)
}

/// How many records of a's did not come through meanwhile, and how long the mirror took for them.
async fn apart(regions: &Regions, vendor: &Vendor, chat: &str) -> anyhow::Result<(f64, Duration)> {
    let own = contract::Topics::with_suffix(&regions.a.topic_suffix).changes;
    let (near, far) = (Kafka::new(&regions.kafka_a.address)?, Kafka::new(&regions.kafka_b.address)?);
    let mirrored = format!("a.{own}");
    for way in [&regions.to_a, &regions.to_b] {
        way.cut();
    }
    let before = [end(&near, &own).await?, end(&far, &mirrored).await?];
    let seconds = usize::try_from(APART.as_secs())?;
    post(vendor, chat, seconds * usize::try_from(RATE)?, RATE).await;
    let missed = end(&near, &own).await? - before[0];
    let healed = Instant::now();
    for way in [&regions.to_a, &regions.to_b] {
        way.restore();
    }
    while end(&far, &mirrored).await? < before[1] + missed {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok((missed as f64, healed.elapsed()))
}

/// How many records all partitions have had.
async fn end(log: &Kafka, topic: &str) -> anyhow::Result<u64> {
    Ok(log.offsets(topic).await?.values().map(|held| held.end).sum())
}
