//! A page that is open moves to another region when its own is lost. Here both read one log: what joins two is shown
//! under faults.

use contract::Topics;
use platform::event_log::EventLog;
use platform::event_log::kafka::Kafka;
use platform::eventually;
use reqwest::header::{ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_REQUEST_METHOD, ORIGIN};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use sqlx::PgPool;
use system_tests::browser::Browser;
use system_tests::own_kafka;
use system_tests::own_postgres::Replicated;
use system_tests::pipeline::{Options, Pipeline};
use system_tests::process::{Process, free_port, ready};
use system_tests::reader::Reader;
use system_tests::{http, metrics};
use thirtyfour::prelude::*;

use crate::access::{listed, save};

async fn two_regions() -> Option<(Pipeline, Process, [String; 2])> {
    two_regions_called(["127.0.0.1"; 2], Vec::new()).await
}

/// The pipeline is region a's; the process is the page's server of b. Browsers find them under these names; these are further
/// settings of both.
async fn two_regions_called(names: [&str; 2], further: Settings) -> Option<(Pipeline, Process, [String; 2])> {
    let ([of_a, of_b], [a, b], called) = internals(names, &further);
    let mut pipeline = Pipeline::start(Options { internal: of_a, ..Options::default() }).await?;
    pipeline.internal_address = a;
    let there = pipeline.another_internal(&b, "internal-b", of_b);
    pipeline.ready().await;
    ready(&b).await;
    Some((pipeline, there, called))
}

type Settings = Vec<(&'static str, String)>;

/// The settings of both page servers, where each listens, and how browsers call it.
fn internals(names: [&str; 2], further: &Settings) -> ([Settings; 2], [String; 2], [String; 2]) {
    let ports = [free_port(), free_port()];
    let called = [0, 1].map(|at| format!("{}:{}", names[at], ports[at]));
    let listens = ports.map(|port| format!("127.0.0.1:{port}"));
    let of = |at: usize, region: &str| {
        let settings = vec![
            ("CHAT_SYNC_REGION", region.to_owned()),
            ("CHAT_SYNC_REGIONS", format!("a=http://{},b=http://{}", called[0], called[1])),
            ("CHAT_SYNC_INTERNAL_LISTEN", listens[at].clone()),
        ];
        [settings, further.clone()].concat()
    };
    ([of(0, "a"), of(1, "b")], listens, called)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_loaded_comes_from_the_replica_while_the_primary_is_away() {
    let Some(mut postgres) = Replicated::start(&[]).await else { return };
    let database = Some((postgres.primary.url(), postgres.url().expose().to_owned()));
    let options = Options { database, ..Options::default() };
    let Some(pipeline) = Pipeline::start(options).await else { return };
    pipeline.ready().await;
    let vendor = pipeline.vendor();
    let chat = vendor.create_chat("Twice").await;
    let message = vendor.post(&chat, "on both").await;
    let reader = Reader::watch(&pipeline.internal_address);
    eventually!(reader.text(&chat, &message).is_some(), "it is shown");
    let on_replica = PgPool::connect(postgres.replica.url().expose()).await.unwrap();
    let has_it = async || {
        let found = sqlx::query("SELECT FROM messages WHERE id = $1").bind(&message).fetch_optional(&on_replica).await;
        found.is_ok_and(|row| row.is_some())
    };
    eventually!(has_it().await, "the replica has it");

    postgres.primary.kill().await;
    let live = vendor.post(&chat, "while it is away").await;
    eventually!(reader.text(&chat, &live).is_some(), "pushes go on");
    let late = Reader::watch(&pipeline.internal_address);
    eventually!(
        late.text(&chat, &message).is_some() && late.text(&chat, &live).is_some(),
        "a load has what the replica has, and what the log has beyond that"
    );
    let url = format!("http://{}/api/chats/{chat}/messages", pipeline.internal_address);
    let page = async || http::get(url.clone()).await.ok()?.text().await.ok();
    eventually!(page().await.is_some_and(|page| page.contains(&message)), "older ones come from the replica alone");
    vendor.edit(&chat, &message, "edited while it is away").await;
    eventually!(
        late.text(&chat, &message).flatten().is_some_and(|text| text.starts_with("edited")),
        "the edit is shown"
    );
    let page = page().await.unwrap();
    let has_all =
        page.contains("edited while it is away") && page.contains(&live) && page.contains(r#""behind":false"#);
    assert!(has_all, "what the replica lacks of older ones the log has: {page}");
    assert_eq!(late.screen().backwards, Vec::<String>::new());
}

/// Nothing comes after what retention took: nobody writes into the log of a region that stands by.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_was_emptied_before_it_was_stored_keeps_nobody_waiting() {
    let Some(mut pipeline) = Pipeline::start(Options::default()).await else { return };
    pipeline.ready().await;
    let vendor = pipeline.vendor();
    let chat = vendor.create_chat("Emptied").await;
    let stored = vendor.post(&chat, "stored").await;
    let reader = Reader::watch_chat(&pipeline.internal_address, &chat);
    let pool = PgPool::connect(pipeline.database_url.expose()).await.unwrap();
    let topic = Topics::with_suffix(&pipeline.topic_suffix).changes;
    let log = Kafka::new(&pipeline.kafka).unwrap();
    // Of how many partitions something is stored, and of how many something is not.
    let partitions = async || {
        let stored = sqlx::query_as::<_, (i32, i64)>("SELECT partition, next_offset FROM progress").fetch_all(&pool);
        let (stored, held) = (stored.await.ok()?, log.offsets(&topic).await.ok()?);
        let is_behind = |(at, next): &&(i32, i64)| held[&at.cast_unsigned()].end > next.cast_unsigned();
        Some((stored.len(), stored.iter().filter(is_behind).count()))
    };
    let are_stored = async |messages: &[&String]| {
        let messages: Vec<String> = messages.iter().copied().cloned().collect();
        let found = sqlx::query("SELECT FROM messages WHERE id = ANY($1)").bind(&messages).fetch_all(&pool).await;
        found.is_ok_and(|found| found.len() == messages.len())
    };
    eventually!(are_stored(&[&stored]).await, "it is stored");
    eventually!(partitions().await.is_some_and(|(stored, _)| stored == 12), "and a marker in every partition");
    pipeline.writer.kill();
    let pushed = vendor.post(&chat, "never stored").await;
    eventually!(reader.text(&chat, &pushed).is_some(), "it is shown");
    eventually!(partitions().await == Some((12, 12)), "{:?}", partitions().await);
    [&mut pipeline.synchronizer, &mut pipeline.internal].into_iter().for_each(Process::kill);
    own_kafka::cut_topic(&pipeline.kafka, &topic).await;
    pipeline.internal.start_again();
    let asks = Reader::watch_chat(&pipeline.internal_address, &chat);
    eventually!(asks.text(&chat, &stored).is_some(), "what is stored is shown");
    assert_eq!(asks.complete(), 0, "the copy lacks what the log has no more");

    pipeline.writer.start_again();
    let asked = "SELECT count(*) FROM reconcile_requests WHERE gap";
    let asked = async || sqlx::query_scalar::<_, i64>(asked).fetch_one(&pool).await.unwrap();
    eventually!(asked().await == 12, "of each partition something is missing, and asked for");
    eventually!(asks.complete() == 1, "{}", asks.state());
    // It is known from now on.
    pipeline.writer.kill();
    pipeline.writer.start_again();
    ready(&pipeline.writer_address).await;
    eventually!(
        metrics::value(&pipeline.writer_address, "chat_sync_writer_partitions").await == Some(12.0),
        "it reads"
    );
    pipeline.synchronizer.start_again();
    let again = vendor.post(&chat, "goes on").await;
    eventually!(are_stored(&[&pushed, &again]).await, "and both are stored");
    assert_eq!(metrics::value(&pipeline.writer_address, "chat_sync_log_replaced_total").await.unwrap_or(0.0), 0.0);
    assert_eq!(asked().await, 12, "nothing more is missing");
}

async fn served_by(browser: &Browser) -> Value {
    browser.run("return document.getElementById('region').textContent").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_open_page_moves_to_another_region_and_shows_everything() {
    let Some(browser) = Browser::open().await else { return };
    let Some((mut pipeline, there, [a, _])) = two_regions().await else { return };
    let vendor = pipeline.vendor();
    let chat = vendor.create_chat("Wherever").await;
    let mut ids = Vec::new();
    for number in 0..120 {
        ids.push(vendor.post(&chat, &format!("message {number}")).await);
    }
    browser.show(&a, &format!("#/{chat}")).await;
    eventually!(browser.shows(&ids[119], "message 119").await, "a serves it");
    eventually!(served_by(&browser).await == "region a", "and the page says so");
    browser.run("window.stays = true").await;

    pipeline.internal.kill();
    vendor.edit(&chat, &ids[119], "edited while the page moved").await;
    eventually!(browser.shows(&ids[119], "edited while the page moved").await, "b serves it");
    eventually!(served_by(&browser).await == "region b", "and the page says so");
    browser.pictures("moved").await;
    browser.driver.find(By::Id("messages")).await.unwrap().send_keys(Key::Home).await.unwrap();
    eventually!(browser.shows(&ids[0], "message 0").await, "what is older comes from b too");

    // Nobody refuses: a region that says nothing is lost too.
    pipeline.internal.start_again();
    ready(&a).await;
    there.signal("STOP");
    let last = vendor.post(&chat, "while b was silent").await;
    eventually!(served_by(&browser).await == "region a", "a serves it again");
    browser.driver.find(By::Id("messages")).await.unwrap().send_keys(Key::End).await.unwrap();
    eventually!(browser.shows(&last, "while b was silent").await, "and nothing is missing");
    assert_eq!(browser.run("return window.stays").await, true, "all the while it was one page");
    there.signal("CONT");
    browser.close().await;
}

/// The copy of b is another one, as if its mirror had been away since this chat began.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_page_shows_stays_where_the_other_region_does_not_have_it_yet() {
    let Some(browser) = Browser::open().await else { return };
    let ([of_a, of_b], [a, b], _) = internals(["127.0.0.1"; 2], &Vec::new());
    let Some(mut here) = Pipeline::start(Options { internal: of_a, ..Options::default() }).await else { return };
    let Some(mut there) = Pipeline::start(Options { internal: of_b, ..Options::default() }).await else { return };
    (here.internal_address, there.internal_address) = (a.clone(), b.clone());
    here.ready().await;
    there.ready().await;
    let vendor = here.vendor();
    let chat = vendor.create_chat("Of a alone").await;
    let message = vendor.post(&chat, "as it was").await;
    there.vendor().create_chat("Of b alone").await;
    browser.show(&a, &format!("#/{chat}")).await;
    eventually!(browser.shows(&message, "as it was").await, "a serves it");
    eventually!(served_by(&browser).await == "region a", "and the page knows the regions");

    here.internal.kill();
    let of_b_alone = "return document.querySelector('nav').textContent.includes('Of b alone')";
    eventually!(browser.run(of_b_alone).await == true, "b serves the page");
    let said = async || browser.run("return document.getElementById('notice').textContent").await;
    eventually!(said().await.as_str().unwrap_or_default().contains("does not have this chat"), "{}", said().await);
    assert!(browser.shows(&message, "as it was").await, "what is shown stays");
    assert_eq!(browser.run("return document.getElementById('title').textContent").await, "Of a alone");
    browser.pictures("not here").await;

    here.internal.start_again();
    ready(&a).await;
    there.internal.kill();
    vendor.edit(&chat, &message, "edited").await;
    eventually!(browser.shows(&message, "edited").await, "a serves it again");
    eventually!(said().await == "", "and nothing is missing");
    browser.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_region_is_asked_by_pages_of_the_regions_and_by_no_others() {
    let Some((_pipeline, _there, [a, b])) = two_regions().await else { return };
    let client = system_tests::http::client();
    let url = format!("http://{b}/api/regions");
    let told: Value = client.get(&url).send().await.unwrap().json().await.unwrap();
    let [at_a, at_b] = [("a", &a), ("b", &b)].map(|(name, at)| json!({ "name": name, "url": format!("http://{at}") }));
    assert_eq!(told, json!({ "region": "b", "regions": [at_a, at_b] }));
    for (origin, may) in [(format!("http://{a}"), true), ("http://evil.example".to_owned(), false)] {
        let answer = client.get(&url).header(ORIGIN, &origin).send().await.unwrap();
        let allowed = answer.headers().get(ACCESS_CONTROL_ALLOW_ORIGIN).map(|value| value.to_str().unwrap().to_owned());
        assert_eq!(allowed, may.then(|| origin.clone()), "{origin}");
        let session = format!("http://{b}/api/session");
        let asked = client.request(Method::OPTIONS, &session).header(ORIGIN, &origin);
        let answer = asked.header(ACCESS_CONTROL_REQUEST_METHOD, "POST").send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK);
        assert_eq!(answer.headers().contains_key(ACCESS_CONTROL_ALLOW_ORIGIN), may, "{origin} may sign in");
    }
    let page = client.get(format!("http://{a}/")).send().await.unwrap();
    let policy = page.headers()["content-security-policy"].to_str().unwrap().to_owned();
    assert!(policy.contains(&format!("connect-src 'self' http://{a} ws://{a} http://{b} ws://{b}")), "{policy}");
}

/// Of one site, as the document about regions demands, and each with cookies of its own.
const ONE_SITE: [&str; 2] = ["a.chat.localhost", "b.chat.localhost"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_signs_in_at_one_region_is_signed_in_at_the_other() {
    let Some(browser) = Browser::open().await else { return };
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tokens.json");
    save(&file, &[listed("Rita", "the reader's", &json!("*"), "reader")]);
    let settings = vec![("CHAT_SYNC_AUTH", "token".to_owned()), ("CHAT_SYNC_AUTH_TOKENS", file.display().to_string())];
    let Some((mut pipeline, _there, [a, b])) = two_regions_called(ONE_SITE, settings).await else { return };
    let vendor = pipeline.vendor();
    let chat = vendor.create_chat("For those who may").await;
    let message = vendor.post(&chat, "as it was").await;
    browser.show(&a, &format!("#/{chat}")).await;
    browser.signs_in("the reader's").await;
    eventually!(browser.shows(&message, "as it was").await, "a serves it");
    eventually!(served_by(&browser).await == "region a", "and the page knows the regions");

    pipeline.internal.kill();
    vendor.edit(&chat, &message, "edited while the page moved").await;
    eventually!(browser.shows(&message, "edited while the page moved").await, "b serves it");
    eventually!(served_by(&browser).await == "region b", "and the page says so");
    // Its cookie at b is b's own: a page that begins there needs no token either.
    browser.show(&b, &format!("#/{chat}")).await;
    eventually!(browser.shows(&message, "edited while the page moved").await, "{}", browser.says().await);
    browser.close().await;
}
