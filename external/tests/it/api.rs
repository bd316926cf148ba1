use std::time::Duration;

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::{World, vendor};

async fn chat(world: &World) -> String {
    let (status, chat) = world.ask(Method::POST, "/api/chats", json!({ "title": " General " })).await;
    assert_eq!((status, &chat["title"]), (StatusCode::CREATED, &json!("General")));
    chat["id"].as_str().unwrap().to_owned()
}

async fn post(world: &World, chat: &str, text: &str) -> String {
    let body = json!({ "author": "Ada", "text": text });
    let (status, message) = world.ask(Method::POST, &format!("/api/chats/{chat}/messages"), body).await;
    assert_eq!(status, StatusCode::CREATED);
    message["id"].as_str().unwrap().to_owned()
}

fn code(answer: &(StatusCode, Value)) -> (u16, &str) {
    assert!(answer.1["error"]["message"].as_str().is_some_and(|message| !message.is_empty()), "{answer:?}");
    (answer.0.as_u16(), answer.1["error"]["code"].as_str().unwrap())
}

#[tokio::test]
async fn every_change_is_in_the_feed_with_its_sequence() {
    let world = vendor(&[]).await;
    let chat = chat(&world).await;
    let id = post(&world, &chat, "one").await;
    let message = format!("/api/chats/{chat}/messages/{id}");
    assert_eq!(world.ask(Method::PATCH, &message, json!({ "text": "two" })).await.0, StatusCode::OK);
    assert_eq!(world.ask(Method::DELETE, &message, None).await.0, StatusCode::OK);
    assert_eq!(
        world.ask(Method::PATCH, &format!("/api/chats/{chat}"), json!({ "title": "New" })).await.0,
        StatusCode::OK
    );
    assert_eq!(world.ask(Method::DELETE, &format!("/api/chats/{chat}"), None).await.0, StatusCode::OK);
    let feed = world.get("/api/changes").await;
    assert_eq!((feed["generation"].as_u64(), feed["more"].as_bool()), (Some(1), Some(false)));
    let told: Vec<(i64, &str, Value, bool)> = feed["changes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| {
            let words = if row["type"] == "chat" { &row["title"] } else { &row["text"] };
            (row["sequence"].as_i64().unwrap(), row["type"].as_str().unwrap(), words.clone(), row["deleted"] == true)
        })
        .collect();
    let expected = [
        (1, "chat", json!("General"), false),
        (2, "message", json!("one"), false),
        (3, "message", json!("two"), false),
        (4, "message", Value::Null, true),
        (5, "chat", json!("New"), false),
        (6, "chat", json!("New"), true),
    ];
    assert_eq!(told, expected);
    let listed = world.get(&format!("/api/chats/{chat}/messages")).await;
    assert_eq!(
        (listed["messages"][0]["sequence"].as_i64(), listed["messages"][0]["deleted"].as_bool()),
        (Some(4), Some(true))
    );
    assert_eq!(world.get("/api/chats").await["chats"][0]["deleted"], true, "tombstones are listed");
}

#[tokio::test]
async fn a_poll_waits_for_a_change_and_answers_at_once_when_there_is_one() {
    let world = vendor(&[]).await;
    let chat = chat(&world).await;
    let next = world.get("/api/changes").await["next"].as_str().unwrap().to_owned();
    let path = format!("/api/changes?after={next}&wait=60");
    let (feed, id) = tokio::join!(world.get(&path), async {
        // Not to wait for anything, but so that the poll is likely to be there first; either order must do.
        tokio::time::sleep(Duration::from_millis(50)).await;
        post(&world, &chat, "woken").await
    });
    assert_eq!(feed["changes"][0]["id"], id.as_str());
    let nothing = world.get(&format!("/api/changes?after={}&wait=0", feed["next"].as_str().unwrap())).await;
    assert_eq!((nothing["changes"].as_array().unwrap().len(), &nothing["next"]), (0, &feed["next"]));
}

#[tokio::test]
async fn pages_of_the_feed_and_of_a_chat_leave_nothing_out() {
    let world = vendor(&[]).await;
    let chat = chat(&world).await;
    let mut posted = Vec::new();
    for number in 0..7 {
        posted.push(post(&world, &chat, &number.to_string()).await);
    }
    let (mut after, mut seen) = (String::new(), Vec::new());
    loop {
        let feed = world.get(&format!("/api/changes?limit=3{after}")).await;
        seen.extend(feed["changes"].as_array().unwrap().iter().map(|row| row["id"].as_str().unwrap().to_owned()));
        after = format!("&after={}", feed["next"].as_str().unwrap());
        if feed["more"] == false {
            break;
        }
    }
    assert_eq!(seen[1..], posted);
    let newest = world.get(&format!("/api/chats/{chat}/messages?limit=3")).await;
    let ids =
        |page: &Value| page["messages"].as_array().unwrap().iter().map(|row| row["id"].clone()).collect::<Vec<_>>();
    assert_eq!(
        (ids(&newest), newest["more"].as_bool()),
        (posted[4..].iter().map(|id| json!(id)).collect(), Some(true))
    );
    let before = world.get(&format!("/api/chats/{chat}/messages?limit=9&before={}", posted[4])).await;
    assert_eq!((ids(&before).len(), before["more"].as_bool()), (4, Some(false)));
}

#[tokio::test]
async fn a_restart_keeps_everything_and_cursors_go_on() {
    let world = vendor(&[]).await;
    let chat = chat(&world).await;
    let next = world.get("/api/changes").await["next"].as_str().unwrap().to_owned();
    let id = post(&world, &chat, "kept").await;
    let world = world.restarted().await;
    let feed = world.get(&format!("/api/changes?after={next}")).await;
    assert_eq!((&feed["changes"][0]["id"], &feed["changes"][0]["sequence"]), (&json!(id), &json!(2)));
    post(&world, &chat, "more").await;
    assert_eq!(world.get(&format!("/api/changes?after={next}")).await["changes"][1]["sequence"], 3);
}

#[tokio::test]
async fn a_cursor_that_is_too_old_is_410_and_one_of_elsewhere_400() {
    let world = vendor(&["--keep-changes", "3"]).await;
    let chat = chat(&world).await;
    let first = world.get("/api/changes").await["next"].as_str().unwrap().to_owned();
    for number in 0..5 {
        post(&world, &chat, &number.to_string()).await;
    }
    let expired = world.ask(Method::GET, &format!("/api/changes?after={first}"), None).await;
    assert_eq!(code(&expired), (410, "cursor_expired"));
    let feed = world.get("/api/changes").await;
    assert_eq!(feed["changes"].as_array().unwrap().len(), 3, "without a cursor: from the oldest that is kept");
    for cursor in ["nonsense", "AAAAAQAAAAAAAAAC", "%00"] {
        let foreign = world.ask(Method::GET, &format!("/api/changes?after={cursor}"), None).await;
        assert_eq!(code(&foreign), (400, "bad_cursor"), "{cursor}");
    }
}

#[tokio::test]
async fn bad_input_gets_a_clear_error_and_changes_nothing() {
    let world = vendor(&[]).await;
    let chat = chat(&world).await;
    let id = post(&world, &chat, "one").await;
    let messages = format!("/api/chats/{chat}/messages");
    let post = |body: Value| world.ask(Method::POST, &messages, body);
    assert_eq!(code(&post(json!({ "author": "", "text": "x" })).await), (400, "bad_request"));
    assert_eq!(code(&post(json!({ "author": "a", "text": " " })).await), (400, "bad_request"));
    assert_eq!(code(&post(json!({ "author": "a".repeat(201), "text": "x" })).await), (400, "bad_request"));
    assert_eq!(code(&post(json!({ "author": "a", "text": "x", "parent_id": "none" })).await), (400, "bad_request"));
    assert_eq!(code(&post(json!({ "author": "a" })).await), (400, "bad_request"));
    assert_eq!(code(&post(json!({ "author": "a", "text": "x", "colour": 1 })).await), (400, "bad_request"));
    assert_eq!(code(&post(json!([])).await), (400, "bad_request"));
    assert_eq!(code(&world.ask(Method::GET, &format!("{messages}?limit=0"), None).await), (400, "bad_request"));
    assert_eq!(code(&world.ask(Method::GET, &format!("{messages}?before=none"), None).await), (400, "bad_request"));
    assert_eq!(code(&world.ask(Method::GET, "/api/changes?wait=soon", None).await), (400, "bad_request"));
    assert_eq!(code(&world.ask(Method::GET, "/api/chats/none", None).await), (404, "not_found"));
    assert_eq!(code(&world.ask(Method::GET, "/api/nowhere", None).await), (404, "not_found"));
    assert_eq!(code(&world.ask(Method::PUT, "/api/chats", json!({})).await), (405, "method_not_allowed"));
    let request = world.client.post(format!("http://{}{messages}", world.address));
    let broken = request.header("content-type", "application/json").body("{\"author\":").send().await.unwrap();
    assert_eq!(broken.status(), StatusCode::BAD_REQUEST);
    assert_eq!(broken.json::<Value>().await.unwrap()["error"]["code"], "bad_request");
    let message = format!("{messages}/{id}");
    world.ask(Method::DELETE, &message, None).await;
    assert_eq!(code(&world.ask(Method::PATCH, &message, json!({ "text": "back" })).await), (410, "deleted"));
    assert_eq!(code(&world.ask(Method::DELETE, &message, None).await), (410, "deleted"));
    assert_eq!(world.get("/api/changes").await["changes"].as_array().unwrap().len(), 3, "chat, post and deletion");
}
