//! The copy in Postgres next to what the vendor has.

use std::collections::BTreeMap;

use futures::future::join_all;
use platform::eventually;
use reqwest::Method;
use serde_json::Value;
use sqlx::PgPool;

use crate::reader::Reader;
use crate::vendor::Vendor;

/// What a reader can tell of a message: whether it is deleted, who wrote it, what it says.
pub type Row = (bool, Option<String>, Option<String>);
/// By chat and message.
pub type Rows = BTreeMap<(String, String), Row>;

/// Everything in the vendor's living chats, told as it tells its own page, whatever it does to its clients.
pub async fn at_the_vendor(vendor: &Vendor) -> Rows {
    let mut rows = Rows::new();
    for chat in get(vendor, "/chats").await["chats"].as_array().expect("chats") {
        if chat["deleted"] == true {
            continue;
        }
        let id = chat["id"].as_str().expect("an id");
        let mut before = String::new();
        loop {
            let page = get(vendor, &format!("/chats/{id}/messages?limit=1000{before}")).await;
            let messages = page["messages"].as_array().expect("messages");
            let text = |message: &Value, field: &str| message[field].as_str().map(str::to_owned);
            rows.extend(messages.iter().map(|message| {
                let row = (message["deleted"] == true, text(message, "author"), text(message, "text"));
                ((id.to_owned(), text(message, "id").expect("an id")), row)
            }));
            if page["more"] != true {
                break;
            }
            before = format!("&before={}", messages[0]["id"].as_str().expect("an id"));
        }
    }
    rows
}

async fn get(vendor: &Vendor, path: &str) -> Value {
    let (status, body) = vendor.as_page().ask(Method::GET, path, None).await;
    assert!(status.is_success(), "{path}: {status} {body}");
    body
}

/// Everything in the copy's living chats.
pub async fn in_the_copy(pool: &PgPool) -> Rows {
    type Stored = (String, String, bool, Option<String>, Option<String>);
    let rows: Vec<Stored> = sqlx::query_as(
        "SELECT m.chat_id, m.id, m.deleted, m.author, m.text FROM messages m JOIN chats c ON c.id = m.chat_id \
         WHERE NOT c.deleted",
    )
    .fetch_all(pool)
    .await
    .expect("the copy");
    rows.into_iter().map(|(chat, id, deleted, author, text)| ((chat, id), (deleted, author, text))).collect()
}

/// The reasons of all dead letters, in order.
pub async fn dead_letters(pool: &PgPool) -> Vec<String> {
    sqlx::query_scalar("SELECT reason FROM dead_letters ORDER BY reason").fetch_all(pool).await.expect("the copy")
}

/// Every reader's screen comes to show its chat as it should be (the first reader the first chat, and so on round),
/// and none ever went backwards. The chats were empty when they began to watch.
///
/// # Panics
/// If one does not, or did.
pub async fn screens_are(expected: &Rows, chats: &[String], readers: &[Reader]) {
    screens_come_to_be(expected, chats, readers).await;
    for (number, reader) in readers.iter().enumerate() {
        let screen = reader.screen();
        let backwards = &screen.backwards;
        assert!(backwards.is_empty(), "reader {number} was told of something older:\n{}", backwards.join("\n"));
    }
}

/// The same, whatever it was told on the way: a page merges what it is told.
///
/// # Panics
/// If one does not.
pub async fn screens_come_to_be(expected: &Rows, chats: &[String], readers: &[Reader]) {
    for (number, reader) in readers.iter().enumerate().filter(|(_, reader)| reader.screen().loads == 1) {
        // It watched from the beginning and was never told to load again: whatever it has not was not pushed.
        let chat = &chats[number % chats.len()];
        eventually!(on_screen(reader, chat) == of(expected, chat), "everything was pushed to reader {number}");
    }
    join_all(readers.iter().map(Reader::scroll_to_the_beginning)).await;
    for (number, reader) in readers.iter().enumerate() {
        let chat = &chats[number % chats.len()];
        eventually!(on_screen(reader, chat) == of(expected, chat), "reader {number}'s screen is as the vendor is");
    }
}

fn of(rows: &Rows, chat: &str) -> Rows {
    rows.iter().filter(|((of, _), _)| of == chat).map(|(key, row)| (key.clone(), row.clone())).collect()
}

fn on_screen(reader: &Reader, chat: &str) -> Rows {
    let screen = reader.screen();
    let messages = screen.messages.get(chat).cloned().unwrap_or_default();
    let row = |message: internal::shown::ShownMessage| {
        ((message.chat_id, message.id), (message.deleted, message.author, message.text))
    };
    messages.into_values().map(row).collect()
}
