use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use deadpool_redis::Pool;
use deadpool_redis::redis::cmd;
use internal::Settings;
use internal::breaker::Breaker;
use internal::gate::{Answer, Gate, GateError};
use internal::gate_suite::{row, version};
use internal::redis_gate::RedisGate;
use internal::shown::ShownMessage;
use platform::config::Secret;
use platform::eventually;
use platform::redis::RedisTls;
use platform::testing::{server, unique_suffix};

pub fn settings(topic_suffix: String) -> Settings {
    Settings {
        region: "a".into(),
        regions: Vec::new(),
        topic_suffix,
        pod: "internal-0".into(),
        ring: 100,
        load: 50,
        quantum: internal::hub::QUANTUM,
        gate_ttl: Duration::from_secs(86_400),
        // Far from production's 20 ms: a loaded test machine must not decide here.
        gate_deadline: Duration::from_secs(20),
        operator_token: None,
    }
}

pub fn pool(url: &str) -> Pool {
    platform::redis::pool(&Secret::new(url), &RedisTls::default(), 4, Duration::from_secs(20)).unwrap()
}

fn subject() -> Option<(RedisGate, Pool)> {
    let pool = pool(&server("CHAT_SYNC_TEST_REDIS")?);
    Some((RedisGate::new(pool.clone(), &settings(unique_suffix())), pool))
}

fn gate() -> Option<Arc<dyn Gate>> {
    Some(Arc::new(Breaker::new(Arc::new(subject()?.0))))
}

internal::gate_suite!(gate());

#[tokio::test]
async fn every_key_has_a_ttl_that_a_newer_row_renews() {
    let Some((gate, pool)) = subject() else { return };
    let (first, second) = (row("c", "m", &version(1)), row("c", "m", &version(2)));
    gate.judge(std::slice::from_ref(&first)).await.unwrap();
    let mut connection = pool.get().await.unwrap();
    let key = gate.key(&first);
    let ttl: i64 = cmd("TTL").arg(&key).query_async(&mut connection).await.unwrap();
    assert!((86_000..=86_400).contains(&ttl), "{ttl}");
    let _: () = cmd("EXPIRE").arg(&key).arg(1000).query_async(&mut connection).await.unwrap();
    gate.judge(std::slice::from_ref(&first)).await.unwrap();
    let ttl: i64 = cmd("TTL").arg(&key).query_async(&mut connection).await.unwrap();
    assert!(ttl <= 1000, "an equal row renews nothing: {ttl}");
    gate.judge(std::slice::from_ref(&second)).await.unwrap();
    let ttl: i64 = cmd("TTL").arg(&key).query_async(&mut connection).await.unwrap();
    assert!(ttl > 86_000, "{ttl}");
}

#[tokio::test]
async fn flushed_scripts_are_loaded_again() {
    let Some((gate, pool)) = subject() else { return };
    let row = row("c", "m", &version(1));
    assert_eq!(gate.judge(std::slice::from_ref(&row)).await.unwrap(), [Answer::Absent]);
    let mut connection = pool.get().await.unwrap();
    let _: () = cmd("SCRIPT").arg("FLUSH").query_async(&mut connection).await.unwrap();
    assert_eq!(gate.judge(std::slice::from_ref(&row)).await.unwrap(), [Answer::Equal]);
}

#[tokio::test]
async fn more_rows_than_one_call_takes_are_judged_in_order() {
    let Some((gate, _)) = subject() else { return };
    let rows: Vec<_> = (0..450).map(|number| row("c", &format!("m{}", number % 225), &version(number))).collect();
    let answers = gate.judge(&rows).await.unwrap();
    assert!(answers[..225].iter().all(|answer| *answer == Answer::Absent));
    assert!(answers[225..].iter().all(|answer| *answer == Answer::Newer));
}

#[tokio::test]
async fn a_gate_that_is_away_says_so_within_its_deadline() {
    let nowhere = pool("redis://127.0.0.1:1");
    let gate =
        RedisGate::new(nowhere, &Settings { gate_deadline: Duration::from_millis(20), ..settings(String::new()) });
    assert!(gate.judge(&[row("c", "m", &version(1))]).await.is_err());
}

/// Answers when it is there.
struct Away {
    calls: AtomicU32,
    there: AtomicBool,
}

#[async_trait]
impl Gate for Away {
    async fn judge(&self, rows: &[ShownMessage]) -> Result<Vec<Answer>, GateError> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        if self.there.load(Ordering::SeqCst) {
            return Ok(rows.iter().map(|_| Answer::Absent).collect());
        }
        Err(GateError("away".into()))
    }
}

#[tokio::test]
async fn a_gate_that_does_not_answer_is_left_alone_and_found_again() {
    let away = Arc::new(Away { calls: AtomicU32::new(0), there: AtomicBool::new(false) });
    let gate = Breaker::new(away.clone());
    let rows = [row("c", "m", &version(1))];
    for _ in 0..1000 {
        assert!(gate.judge(&rows).await.is_err());
    }
    let calls = away.calls.load(Ordering::SeqCst);
    assert!(calls < 10, "asked {calls} times");
    away.there.store(true, Ordering::SeqCst);
    eventually!(gate.judge(&rows).await.is_ok(), "a probe finds that it answers again");
    assert!(gate.judge(&rows).await.is_ok(), "and it is asked as before");
}
