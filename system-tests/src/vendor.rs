//! The vendor's REST API, as a client uses it.

use reqwest::{Client, Method, StatusCode};
use serde_json::{Value, json};

/// A client of the vendor.
#[derive(Clone)]
pub struct Vendor {
    client: Client,
    base: String,
    page: bool,
}

impl Vendor {
    pub fn new(address: &str) -> Self {
        Self { client: crate::http::client(), base: format!("http://{address}/api"), page: false }
    }

    /// The same as the vendor's own page, which it treats well.
    #[must_use]
    pub fn as_page(&self) -> Self {
        Self { page: true, ..self.clone() }
    }

    /// Tells it how to misbehave from now on.
    pub async fn misbehave(&self, switches: Value) {
        self.done(Method::PUT, "/misbehaviour", Some(switches)).await;
    }

    /// Everything comes back from a backup that lacks the last messages.
    pub async fn restore_from_backup(&self, lose: u32) {
        self.done(Method::POST, "/misbehaviour/restore", Some(json!({ "lose": lose }))).await;
    }

    /// Any request; gives the status and the body.
    pub async fn ask(&self, method: Method, path: &str, body: Option<Value>) -> (StatusCode, Value) {
        let mut request = self.client.request(method, format!("{}{path}", self.base));
        if self.page {
            request = request.header("x-vendor-page", "1");
        }
        if let Some(body) = body {
            request = request.json(&body);
        }
        let response = request.send().await.expect("the vendor answers");
        let status = response.status();
        let text = response.text().await.expect("a body");
        (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
    }

    async fn done(&self, method: Method, path: &str, body: Option<Value>) -> Value {
        let (status, answer) = self.ask(method, path, body).await;
        assert!(status.is_success(), "{path}: {status} {answer}");
        answer
    }

    /// The new chat's id.
    pub async fn create_chat(&self, title: &str) -> String {
        let chat = self.done(Method::POST, "/chats", Some(json!({ "title": title }))).await;
        chat["id"].as_str().expect("an id").to_owned()
    }

    /// The new message's id.
    pub async fn post(&self, chat: &str, text: &str) -> String {
        self.post_as("Ada", chat, text).await
    }

    pub async fn post_as(&self, author: &str, chat: &str, text: &str) -> String {
        let body = json!({ "author": author, "text": text });
        let message = self.done(Method::POST, &format!("/chats/{chat}/messages"), Some(body)).await;
        message["id"].as_str().expect("an id").to_owned()
    }

    pub async fn reply(&self, chat: &str, parent: &str, text: &str) -> String {
        let body = json!({ "author": "Grace", "text": text, "parent_id": parent });
        let message = self.done(Method::POST, &format!("/chats/{chat}/messages"), Some(body)).await;
        message["id"].as_str().expect("an id").to_owned()
    }

    pub async fn edit(&self, chat: &str, message: &str, text: &str) {
        self.done(Method::PATCH, &format!("/chats/{chat}/messages/{message}"), Some(json!({ "text": text }))).await;
    }

    pub async fn delete(&self, chat: &str, message: &str) {
        self.done(Method::DELETE, &format!("/chats/{chat}/messages/{message}"), None).await;
    }

    pub async fn rename_chat(&self, chat: &str, title: &str) {
        self.done(Method::PATCH, &format!("/chats/{chat}"), Some(json!({ "title": title }))).await;
    }

    pub async fn delete_chat(&self, chat: &str) {
        self.done(Method::DELETE, &format!("/chats/{chat}"), None).await;
    }
}
