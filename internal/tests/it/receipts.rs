use std::sync::Arc;
use std::time::Duration;

use deadpool_redis::redis::cmd;
use internal::receipts::redis::RedisReceipts;
use internal::receipts::{Readers, Receipts};
use platform::config::Secret;
use platform::redis::RedisTls;
use platform::testing::{server, unique_suffix};

use crate::gate::{pool, settings};

fn subject() -> Option<Arc<dyn Receipts>> {
    Some(Arc::new(RedisReceipts::new(pool(&server("CHAT_SYNC_TEST_REDIS")?), &settings(unique_suffix()))))
}

internal::receipts_suite!(subject());

fn ada(offset: u64) -> Readers {
    [("ada".to_owned(), [("chat-changes".to_owned(), offset)].into())].into()
}

#[tokio::test]
async fn every_key_ends_and_so_does_a_reader_who_is_not_heard_of() {
    let Some(url) = server("CHAT_SYNC_TEST_REDIS") else { return };
    let (pool, mut settings) = (pool(&url), settings(unique_suffix()));
    settings.gate_ttl = Duration::from_secs(600);
    let receipts = RedisReceipts::new(pool.clone(), &settings);
    receipts.put("c", &ada(7)).await.unwrap();
    let mut redis = pool.get().await.unwrap();
    let ttl: i64 = cmd("TTL").arg(receipts.key("c")).query_async(&mut redis).await.unwrap();
    assert!((590..=600).contains(&ttl), "{ttl}");
    // Somebody who was heard of last at the beginning of time.
    let field = "chat-changes bob";
    let _: () = cmd("HSET").arg(receipts.key("c")).arg(field).arg("9 1").query_async(&mut redis).await.unwrap();
    assert_eq!(receipts.of("c").await.unwrap(), ada(7));
    let there: bool = cmd("HEXISTS").arg(receipts.key("c")).arg(field).query_async(&mut redis).await.unwrap();
    assert!(!there, "it is cleared away");
}

#[tokio::test]
async fn without_redis_there_is_an_error_and_no_waiting() {
    let pool =
        platform::redis::pool(&Secret::new("redis://127.0.0.1:1"), &RedisTls::default(), 1, Duration::from_millis(500))
            .unwrap();
    let receipts = RedisReceipts::new(pool, &settings(String::new()));
    assert!(receipts.put("c", &ada(1)).await.is_err() && receipts.of("c").await.is_err());
}
