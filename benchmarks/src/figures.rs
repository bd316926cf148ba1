//! Tables of figures, and what stands in them.

use std::fmt;
use std::time::Duration;

use serde::Serialize;

/// A benchmark's outcome: rows with a name and figures.
#[derive(Debug, Serialize)]
pub struct Table {
    pub name: &'static str,
    /// What was measured, in a sentence.
    pub what: String,
    pub columns: Vec<&'static str>,
    pub rows: Vec<(String, Vec<String>)>,
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "### {}\n\n{}\n", self.name, self.what)?;
        writeln!(f, "| | {} |", self.columns.join(" | "))?;
        writeln!(f, "| --- |{}", " ---: |".repeat(self.columns.len()))?;
        for (name, figures) in &self.rows {
            writeln!(f, "| {name} | {} |", figures.join(" | "))?;
        }
        Ok(())
    }
}

/// So many a second.
pub fn rate(count: usize, took: Duration) -> f64 {
    count as f64 / took.as_secs_f64()
}

/// A number with its thousands apart.
pub fn thousands(number: f64) -> String {
    let digits = format!("{number:.0}");
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// p50, p99 and the greatest, in milliseconds.
pub fn percentiles(mut times: Vec<Duration>) -> [String; 3] {
    times.sort();
    let at = |part: f64| {
        let index = ((times.len() as f64 * part) as usize).min(times.len().saturating_sub(1));
        times.get(index).map_or("-".to_owned(), |time| milliseconds(*time))
    };
    [at(0.50), at(0.99), at(1.0)]
}

/// Milliseconds, with one digit behind the point.
pub fn milliseconds(time: Duration) -> String {
    format!("{:.1}", time.as_secs_f64() * 1000.0)
}
