//! The pages that every service serves about itself, and how a router is served until the stop signal.

use std::net::SocketAddr;
use std::pin::pin;

use anyhow::Context;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use axum::{Json, Router};
use tokio::net::TcpListener;

use crate::health::Health;
use crate::lifecycle::Stop;
use crate::telemetry;
use crate::tls;

/// `/livez` (200 as long as it answers), `/readyz` (200 or 503, each check by name) and `/metrics`.
pub fn about(health: Health) -> Router {
    Router::new()
        .route("/livez", get(|| async { Json(serde_json::json!({ "live": true })) }))
        .route("/readyz", get(move || std::future::ready(readyz(&health))))
        .route(
            "/metrics",
            get(|| async { ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], telemetry::render_metrics()) }),
        )
}

fn readyz(health: &Health) -> impl IntoResponse + use<> {
    let (ready, checks) = health.report();
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(serde_json::json!({ "ready": ready, "checks": checks })))
}

/// Binds, or says which address is taken and how to choose another.
///
/// # Errors
/// A sentence for people; `flag` is the setting that it names.
pub async fn listen(address: SocketAddr, flag: &str) -> anyhow::Result<TcpListener> {
    let listener = TcpListener::bind(address).await.map_err(|error| match error.kind() {
        std::io::ErrorKind::AddrInUse => {
            anyhow::anyhow!("port {} on {} is taken; choose another with {flag}", address.port(), address.ip())
        }
        _ => anyhow::Error::new(error).context(format!("cannot listen on {address} ({flag})")),
    })?;
    tracing::info!(version = env!("CARGO_PKG_VERSION"), address = %listener.local_addr()?, "listening");
    Ok(listener)
}

/// Serves until the stop signal, then lets requests end.
///
/// # Errors
/// If the listener fails.
pub async fn serve(listener: TcpListener, router: Router, stop: Stop) -> anyhow::Result<()> {
    axum::serve(listener, router.into_make_service_with_connect_info::<SocketAddr>())
        .with_graceful_shutdown(stop.cancelled_owned())
        .await
        .context("HTTP server")
}

/// Serves over TLS where there are files for it, else as [`serve`] does.
///
/// # Errors
/// If the files cannot be used, or the listener fails.
pub async fn serve_with(
    listener: TcpListener,
    files: Option<tls::Files>,
    router: Router,
    stop: Stop,
) -> anyhow::Result<()> {
    let Some(files) = files else { return serve(listener, router, stop).await };
    let config = tls::of_server(&files).await?;
    let handle = axum_server::Handle::new();
    let service = router.into_make_service_with_connect_info::<SocketAddr>();
    let server = axum_server::from_tcp_rustls(listener.into_std()?, config.clone())?.handle(handle.clone());
    let mut serving = pin!(server.serve(service));
    tokio::select! {
        ended = &mut serving => return ended.context("HTTPS server"),
        () = tls::follow(config, files) => {}
        () = stop.cancelled() => {}
    }
    handle.graceful_shutdown(None);
    serving.await.context("HTTPS server")
}
