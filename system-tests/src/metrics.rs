//! What a service's `/metrics` says.

/// The sum of all series of this name; `None` while there is none, or nobody answers.
pub async fn value(address: &str, name: &str) -> Option<f64> {
    let text = crate::http::get(format!("http://{address}/metrics")).await.ok()?.text().await.ok()?;
    let series = text.lines().filter_map(|line| line.strip_prefix(name)).filter(|rest| rest.starts_with([' ', '{']));
    let values: Vec<f64> = series.filter_map(|rest| rest.rsplit(' ').next()?.parse().ok()).collect();
    (!values.is_empty()).then(|| values.iter().sum())
}
