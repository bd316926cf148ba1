//! What the synchronizer makes of whatever a vendor answers.

use std::time::Duration;

use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use synchronizer::Settings;
use synchronizer::source::{Outcome, Page, Source};
use synchronizer::vendor::Vendor;
use tokio::net::TcpListener;

/// Polls a vendor that answers like this.
async fn polled<R>(answer: impl Fn() -> R + Clone + Send + Sync + 'static) -> Outcome<Page>
where
    R: IntoResponse + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = Router::new().route("/api/changes", get(move || std::future::ready(answer())));
    tokio::spawn(async move { axum::serve(listener, router).await });
    Vendor::new(&settings(&format!("http://{address}"))).unwrap().poll(Some("cursor"), Duration::ZERO).await
}

fn settings(source_url: &str) -> Settings {
    #[derive(clap::Parser)]
    struct Args {
        #[command(flatten)]
        settings: Settings,
    }
    <Args as clap::Parser>::parse_from(["synchronizer", "--source-url", source_url]).settings
}

fn problem(status: StatusCode, code: &str) -> Response {
    (status, format!("{{\"error\":{{\"code\":\"{code}\",\"message\":\"why\"}}}}")).into_response()
}

#[tokio::test]
async fn retry_after_is_followed() {
    let slow = || ([(header::RETRY_AFTER, "17")], problem(StatusCode::TOO_MANY_REQUESTS, "feed"));
    let outcome = polled(move || (StatusCode::TOO_MANY_REQUESTS, slow())).await;
    assert!(
        matches!(&outcome, Outcome::RateLimited { scope, retry_after } if scope == "feed" && *retry_after == Duration::from_secs(17)),
        "{outcome:?}"
    );
    let silent = polled(|| StatusCode::TOO_MANY_REQUESTS).await;
    assert!(matches!(silent, Outcome::RateLimited { retry_after, .. } if retry_after == Duration::from_secs(5)));
}

#[tokio::test]
async fn each_answer_has_its_outcome() {
    let expired = polled(|| problem(StatusCode::GONE, "cursor_expired")).await;
    assert!(matches!(expired, Outcome::CursorExpired(_)), "{expired:?}");
    let foreign = polled(|| problem(StatusCode::BAD_REQUEST, "bad_cursor")).await;
    assert!(matches!(foreign, Outcome::CursorExpired(_)), "{foreign:?}");
    let refused = polled(|| problem(StatusCode::UNAUTHORIZED, "no")).await;
    assert!(matches!(refused, Outcome::Unauthorized(_)), "{refused:?}");
    for body in ["", "{\"generation\":1,\"changes\":[{", "<html>", "{\"generation\":-1}"] {
        let broken = polled(move || body).await;
        assert!(matches!(broken, Outcome::Unavailable(_)), "{body}: {broken:?}");
    }
    let away = polled(|| problem(StatusCode::BAD_GATEWAY, "oops")).await;
    assert!(matches!(&away, Outcome::Unavailable(why) if why.contains("502") && why.contains("why")), "{away:?}");
    let nobody = Vendor::new(&settings("http://127.0.0.1:1")).unwrap().poll(None, Duration::ZERO).await;
    assert!(matches!(&nobody, Outcome::Unavailable(why) if !why.contains("127.0.0.1:1/")), "{nobody:?}");
}

#[tokio::test]
async fn one_odd_item_does_not_spoil_its_page() {
    let page = "{\"generation\":3,\"changes\":[{\"odd\":[]},7,\"x\"],\"next\":\"n\",\"more\":true}";
    let Outcome::Answered(page) = polled(move || page).await else { panic!("it can be read") };
    assert_eq!((page.generation, page.items.len(), page.next.as_str(), page.more), (3, 3, "n", true));
}
