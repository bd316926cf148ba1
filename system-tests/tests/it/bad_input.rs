//! Bad input at every door: a clear error, nothing lost, the process lives.

use std::process::Command;

use contract::{Timestamp, Topics};
use futures::{SinkExt, Stream, StreamExt};
use platform::event_log::kafka::Kafka;
use platform::event_log::{EventLog, NewRecord};
use platform::eventually;
use platform::testing::{PATIENCE, postgres_database};
use serde_json::{Value, json};
use sqlx::PgPool;
use system_tests::pipeline::{Embedded, Options, Pipeline};
use system_tests::process::free_port;
use system_tests::reader::Reader;
use system_tests::socket::next_frame;
use tokio_tungstenite::connect_async;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{Error, Message};

fn garbage() -> Vec<(&'static str, Vec<u8>)> {
    let at = Timestamp::now().to_string();
    let row = json!({
        "kind": "message", "chat_id": "c", "id": "m", "parent_id": null, "author": "a", "text": "x",
        "created_at": at, "edited_at": null, "deleted_at": null, "epoch": 1, "sequence": 1, "changed_at": at,
        "rev": 0, "deleted": false, "version": "0".repeat(66)
    });
    vec![
        ("bad_utf8", b"\xff\xfe{}".to_vec()),
        ("bad_json", b"{\"kind\":\"message\"".to_vec()),
        ("bad_json", Vec::new()),
        ("too_deep", "[".repeat(10_000).into_bytes()),
        ("unknown_kind", b"{\"kind\":\"poll\"}".to_vec()),
        ("bad_shape", b"{\"kind\":\"message\",\"id\":[]}".to_vec()),
        ("too_large", vec![b' '; 5 << 20]),
        ("version_mismatch", row.to_string().into_bytes()),
        ("nul_character", rejected("0123456789abcdef", "a\0b")),
        ("bad_shape", rejected(&"long".repeat(1000), "x")),
    ]
}

/// A rejected item as nobody should write it.
fn rejected(digest: &str, raw: &str) -> Vec<u8> {
    let record = json!({
        "kind": "rejected", "source": "external", "generation": 1, "reason": "malformed", "detail": "", "raw": raw,
        "raw_length": 3, "raw_digest": digest
    });
    record.to_string().into_bytes()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn w4_garbage_on_the_topic_is_dead_lettered_with_its_reason_and_stops_nothing() {
    let Some(mut pipeline) = Pipeline::start(Options::default()).await else { return };
    pipeline.ready().await;
    let vendor = pipeline.vendor();
    let chat = vendor.create_chat("Among garbage").await;
    let before = vendor.post(&chat, "before").await;
    let log = Kafka::new(&pipeline.kafka).unwrap();
    let topic = Topics::with_suffix(&pipeline.topic_suffix).changes;
    let record = |(number, (_, value)): (usize, (&str, Vec<u8>))| NewRecord {
        topic: topic.as_str().into(),
        partition: u32::try_from(number % 12).unwrap(),
        key: None,
        value,
        headers: Vec::new(),
    };
    log.append(garbage().into_iter().enumerate().map(record).collect()).await.unwrap();
    let reader = Reader::watch(&pipeline.internal_address);
    let after = vendor.post(&chat, "after").await;
    eventually!(reader.text(&chat, &after).is_some(), "what came after the garbage is pushed");
    eventually!(reader.text(&chat, &before).is_some(), "what came before the garbage is there");
    let pool = PgPool::connect(pipeline.database_url.expose()).await.unwrap();
    let mut expected: Vec<String> = garbage().into_iter().map(|(reason, _)| reason.to_owned()).collect();
    expected.sort();
    eventually!(
        sqlx::query_scalar::<_, String>("SELECT reason FROM dead_letters ORDER BY reason")
            .fetch_all(&pool)
            .await
            .unwrap()
            == expected,
        "exactly the garbage is in the dead letters"
    );
    eventually!(
        sqlx::query_scalar::<_, i64>("SELECT count(*) FROM messages").fetch_one(&pool).await.unwrap() == 2,
        "what stands around the garbage is stored"
    );
    assert!(pipeline.processes().into_iter().all(system_tests::process::Process::is_running));
}

/// The next frame that is an error.
async fn complaint(socket: &mut (impl Stream<Item = Result<Message, Error>> + Unpin)) -> Value {
    let complaint = async {
        loop {
            let frame = next_frame(socket).await;
            if frame["type"] == "error" {
                return frame;
            }
        }
    };
    tokio::time::timeout(PATIENCE, complaint).await.expect("it is answered")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frames_that_cannot_be_understood_are_answered_and_the_connection_lives() {
    let mut mirror = Embedded::start(&[]);
    mirror.ready().await;
    let vendor = mirror.vendor();
    let chat = vendor.create_chat("A chat").await;
    let gone = vendor.create_chat("Gone").await;
    let reader = Reader::watch(&mirror.internal_address);
    eventually!(
        [&chat, &gone].into_iter().all(|id| reader.screen().chats.contains_key(id)),
        "the pod knows both chats"
    );
    vendor.delete_chat(&gone).await;
    eventually!(!reader.screen().chats.contains_key(&gone), "the pod knows that one was deleted");
    let (mut socket, _) = connect_async(format!("ws://{}/ws", mirror.internal_address)).await.unwrap();
    let subscribe = json!({ "type": "subscribe", "chat": gone }).to_string();
    socket.send(Message::text(subscribe)).await.unwrap();
    assert_eq!(complaint(&mut socket).await["code"], "chat_deleted");
    for (frame, code) in [
        ("", "bad_frame"),
        ("{", "bad_frame"),
        ("[]", "bad_frame"),
        ("{\"type\":\"shout\"}", "bad_frame"),
        ("{\"type\":\"subscribe\"}", "bad_frame"),
        ("{\"type\":\"subscribe\",\"chat\":\"none\"}", "chat_not_here"),
    ] {
        socket.send(Message::text(frame)).await.unwrap();
        assert_eq!(complaint(&mut socket).await["code"], code, "{frame}");
    }
    socket.send(Message::binary(vec![0, 159])).await.unwrap();
    assert_eq!(complaint(&mut socket).await["code"], "bad_frame");
    // A forged position is answered with a load.
    let subscribe = json!({ "type": "subscribe", "chat": chat, "resume": "Zm9yZ2Vk" });
    socket.send(Message::text(subscribe.to_string())).await.unwrap();
    let loaded = async {
        loop {
            let frame = next_frame(&mut socket).await;
            if frame["type"] == "load" {
                return frame;
            }
        }
    };
    assert_eq!(tokio::time::timeout(PATIENCE, loaded).await.unwrap()["chat"], chat.as_str());
    // A frame that is too large ends its own connection only.
    let (mut other, _) = connect_async(format!("ws://{}/ws", mirror.internal_address)).await.unwrap();
    other.send(Message::text("x".repeat(1 << 20))).await.ok();
    while let Some(Ok(message)) = other.next().await {
        if message.is_close() {
            break;
        }
    }
    assert!(mirror.process.is_running());
    socket.send(Message::text("{}")).await.unwrap();
    assert_eq!(complaint(&mut socket).await["code"], "bad_frame");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_that_make_no_sense_are_answered_as_json() {
    let mirror = Embedded::start(&[]);
    mirror.ready().await;
    let chat = mirror.vendor().create_chat("A chat").await;
    let base = format!("http://{}", mirror.internal_address);
    let list =
        async || system_tests::http::get(format!("{base}/api/chats")).await.unwrap().json::<Value>().await.unwrap();
    eventually!(list().await["chats"][0]["id"] == chat.as_str(), "the chat is mirrored");
    for (path, status, code) in [
        (format!("/api/chats/{chat}/messages?limit=0"), 400, "bad_request"),
        (format!("/api/chats/{chat}/messages?limit=many"), 400, "bad_request"),
        (format!("/api/chats/{chat}/messages?before=none"), 400, "bad_request"),
        ("/api/chats/%ff/messages".into(), 400, "bad_request"),
        ("/ws".into(), 400, "bad_request"),
        ("/api/chats/none/messages".into(), 404, "chat_not_found"),
        ("/api/nothing".into(), 404, "not_found"),
    ] {
        let answer = system_tests::http::get(format!("{base}{path}")).await.unwrap();
        assert_eq!(answer.status().as_u16(), status, "{path}");
        assert_eq!(answer.json::<Value>().await.unwrap()["error"]["code"], code, "{path}");
    }
    let answer = system_tests::http::client().post(format!("{base}/api/chats")).send().await.unwrap();
    assert_eq!(answer.status().as_u16(), 405);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_foreign_site_cannot_open_a_socket() {
    let mirror = Embedded::start(&[]);
    mirror.ready().await;
    let connect = async |origin: &str| {
        let mut request = format!("ws://{}/ws", mirror.internal_address).into_client_request().unwrap();
        request.headers_mut().insert("origin", origin.parse().unwrap());
        connect_async(request).await.map(|_| ())
    };
    assert!(connect(&format!("http://{}", mirror.internal_address)).await.is_ok(), "its own page");
    for origin in ["http://evil.example", "null", &format!("http://{}", mirror.vendor_address)] {
        let refused = connect(origin).await.unwrap_err().to_string();
        assert!(refused.contains("403"), "{origin}: {refused}");
    }
}

fn run(program: &str, variables: &[(&str, &str)], arguments: &[&str]) -> (bool, String) {
    let folder = std::env::current_exe().unwrap().parent().unwrap().parent().unwrap().to_owned();
    let output = Command::new(folder.join(program))
        .env_clear()
        .envs(variables.iter().copied())
        .args(arguments)
        .output()
        .unwrap();
    (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn settings_that_are_unknown_or_unreadable_refuse_to_start_and_are_named() {
    for program in ["external", "synchronizer", "writer", "internal", "chat-sync"] {
        let (started, said) = run(program, &[("CHAT_SYNC_KAFAK", "x"), ("DATABASE_URL", "x"), ("REDIS_URL", "x")], &[]);
        assert!(!started && said.contains("CHAT_SYNC_KAFAK"), "{program}: {said}");
        let (started, said) = run(program, &[], &["--no-such-flag"]);
        assert!(!started && said.contains("--no-such-flag"), "{program}: {said}");
    }
    let (started, said) = run("synchronizer", &[("CHAT_SYNC_POLL_WAIT", "soon")], &[]);
    assert!(!started && said.contains("--poll-wait") && said.contains("soon"), "{said}");
    let (started, said) = run("writer", &[], &[]);
    assert!(!started && said.contains("--database-url"), "{said}");
    let (started, said) = run("writer", &[("DATABASE_URL", "mysql://root:secret@h/d")], &[]);
    assert!(!started && said.contains("DATABASE_URL") && !said.contains("secret"), "{said}");
    let (_, help) = run("writer", &[("DATABASE_URL", "postgres://u:secret@h/d")], &["--help"]);
    assert!(!help.contains("secret"), "{help}");
}

#[tokio::test]
async fn a_taken_port_is_a_plain_error_that_says_which_and_how_to_choose_another() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().display().to_string();
    let (started, said) =
        run("chat-sync", &[], &["--data-dir", &data, "--external-port", &port, "--internal-port", "0"]);
    assert!(!started && said.contains(&port) && said.contains("--external-port"), "{said}");
    let (started, said) =
        run("chat-sync", &[], &["--data-dir", &data, "--external-port", "0", "--internal-port", &port]);
    assert!(!started && said.contains(&port) && said.contains("--internal-port"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_mirrors_do_not_share_a_folder() {
    let mirror = Embedded::start(&[]);
    mirror.greeting().await;
    let data = mirror.folder.path().join("data").display().to_string();
    let port = free_port().to_string();
    let (started, said) =
        run("chat-sync", &[], &["--data-dir", &data, "--external-port", "0", "--internal-port", &port]);
    assert!(!started && said.contains("in use") && said.contains("--data-dir"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_mirror_ends_cleanly_when_it_is_told_to() {
    let mut mirror = Embedded::start(&[]);
    mirror.ready().await;
    let reader = Reader::watch(&mirror.internal_address);
    eventually!(!reader.screen().heartbeats.is_empty(), "somebody watches");
    assert!(mirror.process.terminate().await.success());
    let printed = mirror.process.printed();
    assert!(printed.trim_end().ends_with("ready; Ctrl-C stops"), "nothing but the greeting: {printed}");
}

#[tokio::test]
async fn a_service_whose_log_is_gone_can_still_be_stopped() {
    let folder = tempfile::tempdir().unwrap();
    let program = std::env::current_exe().unwrap().parent().unwrap().parent().unwrap().join("external");
    let address = format!("127.0.0.1:{}", free_port());
    let mut command = Command::new(program);
    command.env_clear().args(["--listen", &address, "--quiet", "--database"]).arg(folder.path().join("x.sqlite"));
    let mut child = command.stderr(std::process::Stdio::piped()).spawn().unwrap();
    drop(child.stderr.take());
    system_tests::process::ready(&address).await;
    assert!(Command::new("kill").arg(child.id().to_string()).status().unwrap().success());
    let status = eventually!(child.try_wait().unwrap(), "it ends");
    assert!(status.success(), "{status}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_tables_can_be_made_beforehand() {
    let Some(url) = postgres_database().await else { return };
    let (done, said) = run("writer", &[("DATABASE_URL", url.expose())], &["migrate"]);
    assert!(done, "{said}");
    let pool = PgPool::connect(url.expose()).await.unwrap();
    assert_eq!(sqlx::query_scalar::<_, i64>("SELECT count(*) FROM messages").fetch_one(&pool).await.unwrap(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_arguments_there_is_life_at_once() {
    let mirror = Embedded::start_lively();
    let reader = Reader::watch(&mirror.internal_address);
    eventually!(reader.screen().messages.values().filter(|chat| chat.len() >= 3).count() >= 3, "three chats are alive");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_service_ends_cleanly_and_says_how_it_is_until_then() {
    let Some(mut pipeline) = Pipeline::start(Options::default()).await else { return };
    pipeline.ready().await;
    for (address, metric) in [
        (pipeline.synchronizer_address.clone(), "chat_sync_polls_total"),
        (pipeline.writer_address.clone(), "chat_sync_writer_lag_seconds"),
        (pipeline.internal_address.clone(), "chat_sync_internal_lag_seconds"),
    ] {
        let get = async |path: &str| {
            system_tests::http::get(format!("http://{address}{path}")).await.unwrap().text().await.unwrap()
        };
        eventually!(get("/metrics").await.contains(metric), "{metric} is there");
        assert!(get("/livez").await.contains("true"));
        let ready: Value = serde_json::from_str(&get("/readyz").await).unwrap();
        assert!(ready["checks"].as_object().unwrap().len() >= 2, "{ready}");
    }
    let vendor = pipeline.vendor();
    let chat = vendor.create_chat("a title that is nobody's business").await;
    let id = vendor.post(&chat, "a text that is nobody's business").await;
    vendor.edit(&chat, &id, "nor is nobody's business edited").await;
    let reader = Reader::watch(&pipeline.internal_address);
    eventually!(reader.text(&chat, &id).flatten().is_some_and(|text| text.starts_with("nor")), "it went all the way");
    for process in pipeline.processes() {
        assert!(process.terminate().await.success(), "{}", process.printed());
        assert!(!process.printed().contains("nobody's business"), "what people write is in a log");
    }
}
