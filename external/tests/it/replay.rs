use std::path::Path;

use platform::eventually;
use serde_json::Value;

use crate::vendor;

/// The system tests compare the whole of it; here is what a restart and a second run do.
#[tokio::test]
async fn a_replay_goes_on_after_a_restart_and_is_done_once() {
    let log = Path::new(env!("CARGO_MANIFEST_DIR")).join("../system-tests/fixtures/slack-log.jsonl");
    let arguments = ["--replay", log.to_str().unwrap(), "--speed", "max"];
    let world = vendor(&arguments).await;
    let count =
        async |world: &crate::World| world.get("/api/changes?limit=1000").await["changes"].as_array().unwrap().len();
    // Two chats, eleven posts and changes, one deletion.
    eventually!(count(&world).await == 14, "the log is played");
    let changes: Value = world.get("/api/changes?limit=1000").await;
    let edited = changes["changes"].as_array().unwrap().iter().find(|row| row["text"] == "edited in the same second");
    assert_eq!(edited.unwrap()["edited_at"], "2020-09-13T12:26:41.000000Z");
    let crate::World { folder, .. } = world;
    let again = crate::open(folder, &arguments).await;
    let id = again.ask(reqwest::Method::POST, "/api/chats", serde_json::json!({ "title": "after" })).await;
    assert_eq!(id.0, reqwest::StatusCode::CREATED);
    assert_eq!(count(&again).await, 15, "nothing was played twice");
}

#[tokio::test]
async fn a_log_that_cannot_be_read_ends_the_service_and_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let config = clap::Parser::parse_from(["external", "--replay", "/nowhere/log.jsonl"]);
    let db = platform::sqlite::Sqlite::open(&folder.path().join("vendor.sqlite")).await.unwrap();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let stop = platform::lifecycle::Stop::new();
    let error = external::run(config, db, platform::health::Health::new(), listener, stop).await.unwrap_err();
    assert!(format!("{error:#}").contains("/nowhere/log.jsonl"), "{error:#}");
}
