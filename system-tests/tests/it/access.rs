//! Who may look, and at what: over the real services, by whatever way there is to a chat.

use std::path::Path;

use futures::{SinkExt, StreamExt};
use platform::eventually;
use platform::testing::PATIENCE;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use system_tests::browser::Browser;
use system_tests::pipeline::{Options, Pipeline};
use system_tests::process::free_port;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// What somebody may see, by the file of tokens.
pub fn listed(name: &str, token: &str, chats: &Value, role: &str) -> Value {
    let sha256: String = Sha256::digest(token).iter().map(|byte| format!("{byte:02x}")).collect();
    json!({ "name": name, "sha256": sha256, "chats": chats, "role": role })
}

/// As an editor that saves safely: the file is never half written.
pub fn save(file: &Path, tokens: &[Value]) {
    let beside = file.with_extension("new");
    std::fs::write(&beside, json!(tokens).to_string()).unwrap();
    std::fs::rename(beside, file).unwrap();
}

/// Asks internal with these headers.
struct Caller {
    address: String,
    headers: Vec<(&'static str, String)>,
}

impl Caller {
    fn new(address: &str, headers: &[(&'static str, &str)]) -> Self {
        let headers = headers.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        Self { address: address.to_owned(), headers }
    }

    fn with_token(address: &str, token: &str) -> Self {
        Self::new(address, &[("authorization", &format!("Bearer {token}"))])
    }

    async fn ask(&self, method: Method, path: &str, body: Option<Value>) -> (StatusCode, Value) {
        let mut request = system_tests::http::client().request(method, format!("http://{}{path}", self.address));
        for (name, value) in &self.headers {
            request = request.header(*name, value);
        }
        if let Some(body) = body {
            request = request.json(&body);
        }
        let answer = request.send().await.expect("internal answers");
        let status = answer.status();
        (status, answer.json().await.unwrap_or_default())
    }

    async fn get(&self, path: &str) -> (StatusCode, Value) {
        self.ask(Method::GET, path, None).await
    }

    /// The status and code of what it may not have.
    async fn refused(&self, path: &str) -> (u16, String) {
        let (status, answer) = self.get(path).await;
        (status.as_u16(), answer["error"]["code"].as_str().unwrap_or_default().to_owned())
    }

    async fn connect(&self) -> Result<Socket, Error> {
        let mut request = format!("ws://{}/ws", self.address).into_client_request().unwrap();
        for (name, value) in &self.headers {
            request.headers_mut().append(*name, value.parse().unwrap());
        }
        Ok(connect_async(request).await?.0)
    }

    async fn connect_is_refused(&self) -> u16 {
        match self.connect().await {
            Err(Error::Http(answer)) => answer.status().as_u16(),
            other => panic!("it was let in: {other:?}"),
        }
    }
}

/// The next frame of this kind.
async fn frame(socket: &mut Socket, kind: &str) -> Value {
    loop {
        let message = socket.next().await.expect("a frame").expect("a frame");
        let frame: Value = serde_json::from_str(message.to_text().unwrap_or_default()).unwrap_or_default();
        if frame["type"] == kind {
            return frame;
        }
    }
}

/// Why the server closes the connection.
async fn closing_code(socket: &mut Socket) -> u16 {
    let code = async {
        loop {
            if let Message::Close(Some(why)) = socket.next().await.expect("a frame").expect("a frame") {
                return u16::from(why.code);
            }
        }
    };
    // Somebody who is not sent away hears heartbeats for ever.
    tokio::time::timeout(PATIENCE, code).await.expect("it is closed")
}

async fn subscribe(socket: &mut Socket, chat: &str) {
    let frame = json!({ "type": "subscribe", "chat": chat }).to_string();
    socket.send(Message::Text(frame.into())).await.unwrap();
}

/// Two chats, a message in each with a word of its own, all of it stored.
struct World {
    pipeline: Pipeline,
    chats: [String; 2],
    messages: [String; 2],
}

async fn world(internal: Vec<(&'static str, String)>) -> Option<World> {
    let pipeline = Pipeline::start(Options { internal, ..Options::default() }).await?;
    pipeline.ready().await;
    let vendor = pipeline.vendor();
    let chats = [vendor.create_chat("Support").await, vendor.create_chat("Board").await];
    let messages = [vendor.post(&chats[0], "hello invoice").await, vendor.post(&chats[1], "secret invoice").await];
    Some(World { pipeline, chats, messages })
}

/// What a restricted reader hears over a WebSocket, which it gives: of a chat that it may not see, what it would hear of
/// one that is not there.
async fn only_its_own(rita: &Caller, olga: &Caller, pipeline: &Pipeline, support: &str, board: &str) -> Socket {
    let mut socket = rita.connect().await.unwrap();
    // That they are stored does not say that this pod has read them: then it tells of them later.
    let listed = async {
        loop {
            let told = frame(&mut socket, "chats").await;
            if !told["chats"].as_array().unwrap().is_empty() {
                return told;
            }
        }
    };
    let told = tokio::time::timeout(PATIENCE, listed).await.expect("its chat is listed");
    assert_eq!(told["chats"].as_array().unwrap().len(), 1, "{told}");
    subscribe(&mut socket, board).await;
    let mut forbidden = frame(&mut socket, "error").await;
    subscribe(&mut socket, "nowhere").await;
    let nowhere = frame(&mut socket, "error").await;
    forbidden["chat"] = "nowhere".into();
    assert_eq!(forbidden, nowhere);
    subscribe(&mut socket, support).await;
    assert_eq!(frame(&mut socket, "load").await["chat"], support);
    let mut every = olga.connect().await.unwrap();
    frame(&mut every, "chats").await;
    subscribe(&mut every, "nowhere").await;
    assert_eq!(
        frame(&mut every, "error").await["code"],
        "chat_not_here",
        "who may see all is told what this copy lacks"
    );
    // A change of a chat that it may not see tells it nothing: the next thing it hears of is its own.
    pipeline.vendor().rename_chat(board, "The board's").await;
    pipeline.vendor().post(board, "more secrets").await;
    let own = pipeline.vendor().post(support, "and hello").await;
    loop {
        let message = socket.next().await.unwrap().unwrap();
        let text = message.to_text().unwrap();
        assert!(!text.contains(board), "{text}");
        if text.contains(&own) {
            break;
        }
    }
    socket
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_chat_that_a_token_may_not_see_is_nowhere() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tokens.json");
    let operator = listed("Olga", "the operator's", &json!("*"), "operator");
    save(&file, std::slice::from_ref(&operator));
    let settings = vec![("CHAT_SYNC_AUTH", "token".to_owned()), ("CHAT_SYNC_AUTH_TOKENS", file.display().to_string())];
    let Some(World { pipeline, chats, messages }) = world(settings).await else { return };
    let address = &pipeline.internal_address;
    let [support, board] = &chats;
    // The file is read again when it has changed.
    let reader = listed("Rita", "the reader's", &json!([support]), "reader");
    save(&file, &[operator.clone(), reader.clone()]);
    let (olga, rita) = (Caller::with_token(address, "the operator's"), Caller::with_token(address, "the reader's"));
    eventually!(rita.get("/api/chats").await.0.is_success(), "the new token is good");
    eventually!(
        olga.get("/api/search?q=invoice").await.1["found"].as_array().is_some_and(|found| found.len() == 2),
        "both messages are stored"
    );

    let (_, session) = rita.get("/api/session").await;
    assert_eq!(session, json!({ "auth": "token", "name": "Rita", "role": "reader" }));
    let (_, list) = rita.get("/api/chats").await;
    assert_eq!(list["chats"].as_array().unwrap().len(), 1);
    assert_eq!(list["chats"][0]["id"], *support);
    let (_, found) = rita.get("/api/search?q=invoice").await;
    assert_eq!(found["found"].as_array().unwrap().len(), 1, "{found}");
    assert_eq!(found["found"][0]["id"], messages[0]);
    // What is there and may not be seen is told as what is not there.
    let [versions, receipts] = ["versions", "receipts"].map(|what| format!("messages/{}/{what}", messages[1]));
    for of in ["messages", "edits?messages=x", &versions, &receipts] {
        let forbidden = rita.refused(&format!("/api/chats/{board}/{of}")).await;
        // As one that may see everything is told of what is not there.
        let nowhere = olga.get(&format!("/api/chats/nowhere/{of}")).await;
        let told = (nowhere.0.as_u16(), nowhere.1["error"]["code"].as_str().unwrap_or_default().to_owned());
        if nowhere.0.is_success() {
            assert!(of.starts_with("edits"), "{of}: {}", nowhere.1);
        } else {
            assert_eq!(forbidden, told, "{of}");
        }
        assert_eq!(forbidden.0, 404, "{of}");
        // What Redis is asked for may take longer than it may.
        eventually!(olga.get(&format!("/api/chats/{board}/{of}")).await.0.is_success(), "{of}");
    }
    for route in ["/api/ops", "/api/ops/dead-letters", &format!("/api/ops/pushes/{support}/{}", messages[0])] {
        assert_eq!(rita.refused(route).await, (403, "operators_only".to_owned()), "{route}");
        assert_ne!(olga.get(route).await.0, StatusCode::FORBIDDEN, "{route}");
    }
    assert_eq!(olga.get("/api/ops").await.1["decisions"], "operators");

    let mut socket = only_its_own(&rita, &olga, &pipeline, support, board).await;
    // Its token is taken from it: what is open is closed, what comes is refused.
    save(&file, &[operator]);
    assert_eq!(closing_code(&mut socket).await, 4001);
    assert_eq!(rita.refused("/api/chats").await, (401, "bad_token".to_owned()));
    assert_eq!(rita.connect_is_refused().await, 401);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_token_nothing_is_told_and_foreign_ones_are_refused() {
    let secret = "a secret that is at least 32 bytes long";
    let settings = vec![("CHAT_SYNC_AUTH", "token".to_owned()), ("CHAT_SYNC_AUTH_JWT_KEY", secret.to_owned())];
    let Some(World { pipeline, chats, .. }) = world(settings).await else { return };
    let address = &pipeline.internal_address;
    let now = contract::Timestamp::now().micros() / 1_000_000;
    let claims = json!({ "sub": "Ada", "exp": now + 600, "chats": "*" });
    let signed = |claims: &Value, secret: &str| {
        let key = jsonwebtoken::EncodingKey::from_secret(secret.as_bytes());
        jsonwebtoken::encode(&jsonwebtoken::Header::default(), claims, &key).unwrap()
    };
    let good = Caller::with_token(address, &signed(&claims, secret));
    assert_eq!(good.get("/api/session").await.1["name"], "Ada");
    assert!(good.connect().await.is_ok());
    let routes = [
        "/api/session".to_owned(),
        "/api/chats".to_owned(),
        "/api/search?q=invoice".to_owned(),
        format!("/api/chats/{}/messages", chats[0]),
        "/api/ops".to_owned(),
        "/api/ops/dead-letters".to_owned(),
    ];
    let nobody = Caller::new(address, &[]);
    let expired = json!({ "sub": "Ada", "exp": now - 600, "chats": "*" });
    let bad = [
        nobody,
        Caller::with_token(address, "made up"),
        Caller::with_token(address, &signed(&claims, "another secret of at least 32 bytes")),
        Caller::with_token(address, &signed(&expired, secret)),
        Caller::new(address, &[("cookie", "chat-sync-token=made-up")]),
        Caller::new(address, &[("authorization", "Basic YTpi")]),
    ];
    for caller in &bad {
        for route in &routes {
            let (status, answer) = caller.get(route).await;
            assert_eq!(status, 401, "{route}: {answer}");
            assert_eq!(answer.as_object().unwrap().keys().collect::<Vec<_>>(), ["error"], "nothing but an error");
        }
        assert_eq!(caller.connect_is_refused().await, 401);
    }
    // One that ends while somebody looks.
    let soon = contract::Timestamp::now().micros() / 1_000_000 - 40;
    let token = signed(&json!({ "sub": "Ada", "exp": soon, "chats": "*" }), secret);
    let mut ends = Caller::with_token(address, &token).connect().await.expect("clocks may differ by a minute");
    assert_eq!(closing_code(&mut ends).await, 4001);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_header_is_believed_from_the_configured_proxies_only() {
    let settings = |proxies: &str| {
        vec![
            ("CHAT_SYNC_AUTH", "trusted-header".to_owned()),
            ("CHAT_SYNC_AUTH_PROXIES", proxies.to_owned()),
            ("CHAT_SYNC_AUTH_ROLE_HEADER", "x-role".to_owned()),
            ("CHAT_SYNC_AUTH_CHATS_HEADER", "x-chats".to_owned()),
        ]
    };
    let Some(World { pipeline, chats, .. }) = world(settings("127.0.0.0/8")).await else { return };
    let address = &pipeline.internal_address;
    let ada = [("x-forwarded-user", "Ada"), ("x-chats", &chats[0])];
    let ada = Caller::new(address, &ada);
    eventually!(ada.get("/api/chats").await.1["chats"].as_array().is_some_and(|list| list.len() == 1), "her own chat");
    assert_eq!(ada.get("/api/session").await.1, json!({ "auth": "trusted-header", "name": "Ada", "role": "reader" }));
    assert_eq!(ada.refused("/api/ops").await.0, 403);
    let boss = Caller::new(address, &[("x-forwarded-user", "Bob"), ("x-chats", "*"), ("x-role", "operator")]);
    assert_eq!(boss.get("/api/ops").await.0, 200);
    let none = Caller::new(address, &[("x-forwarded-user", "Eve")]);
    assert_eq!(none.get("/api/chats").await.1["chats"], json!([]), "a header that does not come gives nothing");
    for headers in
        [vec![], vec![("x-forwarded-user", "")], vec![("x-forwarded-user", "Eve"), ("x-forwarded-user", "Ada")]]
    {
        assert_eq!(Caller::new(address, &headers).refused("/api/chats").await, (401, "no_user".to_owned()));
    }
    let Some(World { pipeline, .. }) = world(settings("10.0.0.0/8,192.0.2.1/32")).await else { return };
    let not_a_proxy = Caller::new(&pipeline.internal_address, &[("x-forwarded-user", "Ada"), ("x-chats", "*")]);
    assert_eq!(not_a_proxy.refused("/api/chats").await, (401, "no_user".to_owned()));
    assert_eq!(not_a_proxy.connect_is_refused().await, 401);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_address_holds_so_many_connections_and_pages_come_from_the_configured_ones() {
    let settings = vec![
        ("CHAT_SYNC_CONNECTIONS_PER_ADDRESS", "2".to_owned()),
        ("CHAT_SYNC_ORIGINS", "https://chat.example.org".to_owned()),
    ];
    let Some(World { pipeline, .. }) = world(settings).await else { return };
    let anybody = Caller::new(&pipeline.internal_address, &[]);
    let (first, _second) = (anybody.connect().await.unwrap(), anybody.connect().await.unwrap());
    assert_eq!(anybody.connect_is_refused().await, 429);
    drop(first);
    eventually!(anybody.connect().await.is_ok(), "a place that was left is free");
    let from = |origin: &str| Caller::new(&pipeline.internal_address, &[("origin", origin)]);
    assert!(eventually!(from("https://chat.example.org").connect().await.ok(), "a listed page").next().await.is_some());
    for origin in ["https://chat.example.org.evil.example", "http://chat.example.org", "null"] {
        assert_eq!(from(origin).connect_is_refused().await, 403, "{origin}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_signs_in_sees_its_own_and_signs_out() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tokens.json");
    save(&file, &[]);
    let settings = vec![("CHAT_SYNC_AUTH", "token".to_owned()), ("CHAT_SYNC_AUTH_TOKENS", file.display().to_string())];
    let Some(browser) = Browser::open().await else { return };
    let Some(World { pipeline, chats, messages }) = world(settings).await else { return };
    save(&file, &[listed("Rita", "the reader's", &json!([chats[0]]), "reader")]);
    let rita = Caller::with_token(&pipeline.internal_address, "the reader's");
    eventually!(rita.get("/api/chats").await.0.is_success(), "her token is read");
    browser.show(&pipeline.internal_address, &format!("#/{}", chats[0])).await;
    eventually!(browser.run("return document.getElementById('sign-in')?.open").await == true, "it asks for a token");
    browser.pictures("sign-in").await;
    browser.signs_in("made up").await;
    eventually!(
        browser.run("return document.querySelector('#sign-in .error').textContent").await
            == "this token is not, or not any more, valid",
        "it says what is wrong"
    );
    assert_eq!(browser.run("return document.querySelectorAll('#chats li').length").await, 0);
    browser.signs_in("the reader's").await;
    eventually!(browser.shows(&messages[0], "hello invoice").await, "her chat is shown");
    eventually!(browser.run("return document.querySelectorAll('#chats li').length").await == 1, "and no other");
    eventually!(
        browser.run("return document.getElementById('who').textContent").await == "Rita Sign out",
        "it says who looks"
    );
    assert_eq!(browser.run("return document.cookie").await, "", "no script can read the token");
    browser.pictures("signed-in").await;
    // The operator's page is not hers.
    browser.show(&pipeline.internal_address, "ops").await;
    eventually!(
        browser.run("return document.getElementById('state').textContent").await == "only operators may see this",
        "it says so"
    );
    browser.show(&pipeline.internal_address, &format!("#/{}", chats[0])).await;
    eventually!(browser.shows(&messages[0], "hello invoice").await, "still signed in");
    // Her token is taken from her while the page is open: nothing stays.
    save(&file, &[]);
    eventually!(browser.run("return document.getElementById('sign-in')?.open").await == true, "it asks again");
    assert!(browser.text(&messages[0]).await.is_none());
    assert!(browser.run("return sessionStorage.getItem('chat-sync.shown.1')").await.is_null(), "nothing is kept");
    browser.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_would_let_everybody_in_by_mistake_refuses_to_start() {
    let folder = tempfile::tempdir().unwrap();
    let broken = folder.path().join("tokens.json");
    std::fs::write(&broken, r#"[{"name":"a","sha256":"12","chats":"*"}]"#).unwrap();
    let broken = broken.display().to_string();
    let said = async |listen: &str, settings: &[(&str, &str)]| {
        let mut command = tokio::process::Command::new(system_tests::process::path_of("internal"));
        command.env("DATABASE_URL", "postgres://u@127.0.0.1:1/d").env("REDIS_URL", "redis://127.0.0.1:1");
        command.env("CHAT_SYNC_INTERNAL_LISTEN", format!("{listen}:{}", free_port())).kill_on_drop(true);
        let output = command.envs(settings.iter().copied()).output().await.unwrap();
        assert!(!output.status.success(), "{settings:?}");
        String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
    };
    let token = ("CHAT_SYNC_AUTH", "token");
    for (listen, settings, names) in [
        ("0.0.0.0", vec![], "CHAT_SYNC_AUTH"),
        ("127.0.0.1", vec![token], "CHAT_SYNC_AUTH_TOKENS"),
        ("127.0.0.1", vec![token, ("CHAT_SYNC_AUTH_JWT_KEY", "tooshort!")], "CHAT_SYNC_AUTH_JWT_KEY"),
        ("127.0.0.1", vec![token, ("CHAT_SYNC_AUTH_TOKENS", "/nowhere")], "/nowhere"),
        ("127.0.0.1", vec![token, ("CHAT_SYNC_AUTH_TOKENS", &broken)], "64 hex digits"),
        ("127.0.0.1", vec![("CHAT_SYNC_AUTH_TOKENS", &broken)], "CHAT_SYNC_AUTH_TOKENS means nothing"),
        ("127.0.0.1", vec![("CHAT_SYNC_AUTH", "trusted-header")], "CHAT_SYNC_AUTH_PROXIES"),
        ("127.0.0.1", vec![("CHAT_SYNC_AUTH", "trusted_header")], "trusted-header"),
        ("127.0.0.1", vec![("CHAT_SYNC_ORIGINS", "chat.example.org")], "no origin"),
    ] {
        let text = said(listen, &settings).await;
        assert!(text.contains(names), "{settings:?} should name {names}: {text}");
        assert!(!text.contains("tooshort!"), "no secret is printed");
    }
}
