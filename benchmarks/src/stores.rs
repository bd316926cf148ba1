//! From the log into Postgres: the writer as a process, next to Debezium's JDBC sink on the same records.

use std::future::Future;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context;
use contract::topic::PARTITIONS;
use contract::{Message, Record, Topics, partition_of};
use platform::event_log::kafka::Kafka;
use platform::event_log::{EventLog, NewRecord, TopicSpec};
use platform::testing::{postgres_database, server, unique_suffix};
use serde_json::{Value, json};
use system_tests::pipeline::host_and_port;
use system_tests::process::{Process, free_port};
use writer::Store;
use writer::to_postgres::Postgres;

use crate::figures::rate;
use crate::writing::{BATCH, ROWS};

/// How often it is looked how many rows are stored.
const LOOK: Duration = Duration::from_millis(50);

/// Rows a second of the three passes: fresh, updates, stale replays.
pub struct Rates {
    pub writer: Vec<f64>,
    pub sink: Vec<f64>,
}

/// Each pass is appended whole before it is stored, so that nothing but storing is measured.
pub async fn measure(passes: [&[Message]; 3]) -> anyhow::Result<Rates> {
    let log = Kafka::new(&server("CHAT_SYNC_TEST_KAFKA").context("Kafka")?)?;
    Ok(Rates { writer: with_the_writer(&log, passes).await?, sink: with_the_sink(&log, passes).await? })
}

async fn with_the_writer(log: &Kafka, passes: [&[Message]; 3]) -> anyhow::Result<Vec<f64>> {
    let (url, suffix) = (postgres_database().await.context("Postgres")?, unique_suffix());
    let topic = Topics::with_suffix(&suffix).changes;
    make(log, &topic).await?;
    let (pool, folder) = (platform::postgres::pool(&url, 1, true)?, tempfile::tempdir()?);
    let variables = [
        ("CHAT_SYNC_KAFKA", server("CHAT_SYNC_TEST_KAFKA").context("Kafka")?),
        ("CHAT_SYNC_TOPIC_SUFFIX", suffix.clone()),
        ("CHAT_SYNC_WRITER_GROUP", format!("writer{suffix}")),
        ("CHAT_SYNC_WRITER_LISTEN", format!("127.0.0.1:{}", free_port())),
        ("DATABASE_URL", url.expose().to_owned()),
    ];
    let mut writer = Process::start("writer", folder.path(), &variables);
    let mut rates = Vec::new();
    for (number, rows) in (0..).zip(passes) {
        writer.terminate().await;
        append(log, &topic, rows, |row| Record::Message(row.clone()).encode()).await?;
        writer.start_again();
        let before = number * i64::try_from(ROWS)?;
        let stored = async || {
            // Before its migrations there is no such table.
            let sum = sqlx::query_scalar::<_, Option<i64>>("SELECT sum(next_offset)::bigint FROM progress");
            sum.fetch_one(&pool).await.ok().flatten().unwrap_or(0) - before
        };
        rates.push(until_all(stored).await?);
    }
    Ok(rates)
}

/// It takes rows as they come: no version is compared, and a stale replay wins.
async fn with_the_sink(log: &Kafka, passes: [&[Message]; 3]) -> anyhow::Result<Vec<f64>> {
    let url = postgres_database().await.context("Postgres")?;
    let (pool, folder) = (platform::postgres::pool(&url, 1, true)?, tempfile::tempdir()?);
    // With the same indexes: people must be able to read what it stores.
    Postgres::new(pool.clone()).migrate().await?;
    let table = "CREATE TABLE sink (LIKE messages INCLUDING ALL); ALTER TABLE sink ADD sequence bigint";
    sqlx::raw_sql(table).execute(&pool).await?;
    let mut rates = Vec::new();
    for rows in passes {
        let topic = format!("sink{}", unique_suffix());
        make(log, &topic).await?;
        append(log, &topic, rows, |row| with_schema(row).to_string().into_bytes()).await?;
        let sequence = rows.first().map_or(0, |row| row.stamp.sequence).cast_signed();
        let mut sink = start_sink(folder.path(), &topic, url.expose())?;
        let stored = async || {
            let count = sqlx::query_scalar::<_, i64>("SELECT count(*) FROM sink WHERE sequence = $1").bind(sequence);
            count.fetch_one(&pool).await.unwrap_or(0)
        };
        let rate = until_all(stored).await;
        sink.kill()?;
        sink.wait()?;
        rates.push(rate.context("the sink's own words are on the screen, above")?);
    }
    Ok(rates)
}

/// A row as Kafka Connect's JsonConverter reads it.
fn with_schema(row: &Message) -> Value {
    let field = |name: &str, kind: &str| json!({ "field": name, "type": kind });
    let time = json!({ "field": "created_at", "type": "string", "name": "io.debezium.time.ZonedTimestamp" });
    let mut fields = ["chat_id", "id", "author", "text", "version"].map(|name| field(name, "string")).to_vec();
    fields.extend([time, field("deleted", "boolean"), field("sequence", "int64")]);
    json!({
        "schema": { "type": "struct", "fields": fields },
        "payload": {
            "chat_id": row.chat_id, "id": row.id, "author": row.author, "text": row.text, "version": row.version,
            "created_at": row.created_at, "deleted": row.stamp.deleted, "sequence": row.stamp.sequence,
        },
    })
}

/// Kafka Connect, standalone, with the sink as its one connector.
fn start_sink(folder: &Path, topic: &str, url: &str) -> anyhow::Result<Child> {
    let jars = server("CHAT_SYNC_TEST_KAFKA_JARS").context("Kafka's jars")?;
    let plugins = server("CHAT_SYNC_BENCH_SINK").context("the sink's folder")?;
    let (kafka, database) =
        (server("CHAT_SYNC_TEST_KAFKA").context("Kafka")?, url.rsplit('/').next().unwrap_or_default());
    let worker = format!(
        "bootstrap.servers={kafka}\nplugin.path={plugins}\nlisteners=http://127.0.0.1:{}\n\
         key.converter=org.apache.kafka.connect.storage.StringConverter\n\
         value.converter=org.apache.kafka.connect.json.JsonConverter\n\
         offset.storage.file.filename={}\nconsumer.max.poll.records={BATCH}\n",
        free_port(),
        folder.join("offsets").display(),
    );
    let sink = format!(
        "name={topic}\nconnector.class=io.debezium.connector.jdbc.JdbcSinkConnector\ntasks.max=1\ntopics={topic}\n\
         connection.url=jdbc:postgresql://{}/{database}\nconnection.username=postgres\nconnection.password=none\n\
         collection.name.format=sink\ninsert.mode=upsert\nprimary.key.mode=record_value\n\
         primary.key.fields=chat_id,id\nschema.evolution=none\nbatch.size={BATCH}\n",
        host_and_port(url),
    );
    let (worker_file, sink_file) = (folder.join("worker.properties"), folder.join(format!("{topic}.properties")));
    std::fs::write(&worker_file, worker)?;
    std::fs::write(&sink_file, sink)?;
    let logging = Path::new(env!("CARGO_MANIFEST_DIR")).join("../xtask/kafka/log4j2.properties");
    let mut command = Command::new("java");
    command.arg("-Xmx1g").arg(format!("-Dlog4j2.configurationFile={}", logging.display()));
    command.arg("-cp").arg(format!("{jars}/*")).arg("org.apache.kafka.connect.cli.ConnectStandalone");
    Ok(command.arg(worker_file).arg(sink_file).stdin(Stdio::null()).stdout(Stdio::null()).spawn()?)
}

async fn make(log: &Kafka, topic: &str) -> anyhow::Result<()> {
    let spec = TopicSpec {
        name: topic.to_owned(),
        partitions: PARTITIONS,
        compacted: false,
        retention_ms: 3_600_000,
        max_record_bytes: 1 << 20,
    };
    Ok(log.ensure_topics(&[spec]).await?)
}

async fn append(log: &Kafka, topic: &str, rows: &[Message], value: impl Fn(&Message) -> Vec<u8>) -> anyhow::Result<()> {
    for part in rows.chunks(BATCH) {
        let record = |row: &Message| NewRecord {
            topic: topic.into(),
            partition: partition_of(&row.chat_id, PARTITIONS),
            key: Some(format!("{}/{}", row.chat_id, row.id)),
            value: value(row),
            headers: Vec::new(),
        };
        log.append(part.iter().map(record).collect()).await?;
    }
    Ok(())
}

/// Rows a second from the first look at which some were stored to the one at which all were.
async fn until_all<F: Future<Output = i64>>(stored: impl Fn() -> F) -> anyhow::Result<f64> {
    let (all, began) = (i64::try_from(ROWS)?, Instant::now());
    let mut first: Option<(Instant, i64)> = None;
    loop {
        let count = stored().await;
        let now = Instant::now();
        match first {
            None if count > 0 => first = Some((now, count)),
            Some((since, before)) if count >= all => {
                return Ok(rate(usize::try_from(count - before)?, now - since));
            }
            _ => {}
        }
        anyhow::ensure!(began.elapsed() < Duration::from_secs(180), "{count} of {all} rows are stored after 3 min");
        tokio::time::sleep(LOOK).await;
    }
}
