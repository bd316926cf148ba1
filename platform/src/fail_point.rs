//! Places where a test can end this process, as `kill -9` would, or freeze it. In release builds there are none.

/// The variable that names a place, how often it is passed before, and the signal: `leader.acked`, `leader.acked:3`,
/// `leader.acked:3:STOP`.
pub const VARIABLE: &str = "FAIL_POINT";

/// Ends or freezes this process here and now if [`VARIABLE`] names this place.
#[cfg(debug_assertions)]
pub fn fail_point(name: &str) {
    use std::process::Command;
    use std::sync::LazyLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    static CHOSEN: LazyLock<Option<(String, u64, String)>> = LazyLock::new(|| {
        let chosen = std::env::var(VARIABLE).ok()?;
        let mut parts = chosen.split(':');
        let name = parts.next()?.to_owned();
        let passes = parts.next().unwrap_or("0").parse().ok()?;
        Some((name, passes, parts.next().unwrap_or("KILL").to_owned()))
    });
    static PASSED: AtomicU64 = AtomicU64::new(0);

    let Some((chosen, passes, signal)) = &*CHOSEN else { return };
    if chosen == name && PASSED.fetch_add(1, Ordering::Relaxed) == *passes {
        let sent = Command::new("kill").args([&format!("-{signal}"), &std::process::id().to_string()]).status();
        // A signal takes a moment to be felt; nothing more may be done here until then.
        std::thread::sleep(std::time::Duration::from_millis(200));
        tracing::warn!(name, signal, ?sent, "fail point");
    }
}

/// Nothing.
#[cfg(not(debug_assertions))]
pub fn fail_point(_: &str) {}
