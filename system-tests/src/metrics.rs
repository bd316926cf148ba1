//! What a service says of itself, at `/metrics` and at `/readyz`.

use std::time::Duration;

use serde_json::Value;

/// The sum of all series of this name; `None` while there is none, or nobody answers.
pub async fn value(address: &str, name: &str) -> Option<f64> {
    let text = crate::http::get(format!("http://{address}/metrics")).await.ok()?.text().await.ok()?;
    let series = text.lines().filter_map(|line| line.strip_prefix(name)).filter(|rest| rest.starts_with([' ', '{']));
    let values: Vec<f64> = series.filter_map(|rest| rest.rsplit(' ').next()?.parse().ok()).collect();
    (!values.is_empty()).then(|| values.iter().sum())
}

/// What `/readyz` says of one check: the status of all, and this one's detail.
pub async fn check(address: &str, name: &str) -> (u16, String) {
    let client = crate::http::client_within(Duration::from_secs(2));
    let Ok(answer) = client.get(format!("http://{address}/readyz")).send().await else { return (0, String::new()) };
    let status = answer.status().as_u16();
    let checks: Value = answer.json().await.unwrap_or_default();
    (status, checks["checks"][name]["detail"].as_str().unwrap_or_default().to_owned())
}
