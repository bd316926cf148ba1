//! A row of the table for each fault.

use std::path::PathBuf;

use serde_json::json;

/// What was done, what it puts to the test, and what should come of it.
pub struct Row {
    /// As in the table, with a letter where a row has several: `01a`.
    pub number: &'static str,
    pub fault: &'static str,
    pub promise: &'static str,
    pub expected: &'static str,
}

impl Row {
    /// Notes what was measured, and whether a time or a rate is what was expected: a shared machine may miss that, and
    /// no test fails for it. Everything else was checked before.
    pub fn came_to(&self, met: bool, figure: &str) {
        eprintln!("fault {}: {}: {figure}", self.number, self.fault);
        self.note(if met { "as expected" } else { "expectation missed" }, figure);
    }

    /// Notes why it could not run.
    pub fn not_run(&self, why: &str) {
        platform::testing::skip(&format!("fault {}: {why}", self.number));
        self.note("not run", why);
    }

    fn note(&self, outcome: &str, figure: &str) {
        let Some(folder) = std::env::var_os("CHAT_SYNC_TEST_FAULTS").map(PathBuf::from) else { return };
        let row = json!({
            "number": self.number, "fault": self.fault, "promise": self.promise, "expected": self.expected,
            "outcome": outcome, "figure": figure,
        });
        std::fs::write(folder.join(format!("{}.json", self.number)), row.to_string()).expect("a row");
    }
}

/// Whether the long ones run too.
pub fn long() -> bool {
    std::env::var("CHAT_SYNC_TEST_LONG").is_ok_and(|long| long == "true")
}
