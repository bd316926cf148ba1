use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use platform::event_log::{Progress, TopicPartition};
use platform::testing::postgres_database;
use sqlx::PgPool;
use writer::batch::Batch;
use writer::failure::StoreError;
use writer::store::{Applied, Store};
use writer::suite::Inspected;
use writer::to_postgres::Postgres;

struct Subject {
    store: Postgres,
    pool: PgPool,
}

async fn postgres() -> Option<Arc<dyn Inspected>> {
    let pool = platform::postgres::pool(&postgres_database().await?, 4, true).unwrap();
    let store = Postgres::new(pool.clone());
    store.migrate().await.unwrap();
    Some(Arc::new(Subject { store, pool }))
}

writer::store_suite!(postgres().await);

#[async_trait]
impl Store for Subject {
    async fn migrate(&self) -> Result<(), StoreError> {
        self.store.migrate().await
    }

    async fn progress(&self) -> Result<BTreeMap<TopicPartition, Progress>, StoreError> {
        self.store.progress().await
    }

    async fn ask_reconcile(&self, reason: &str, gap: bool) -> Result<i64, StoreError> {
        self.store.ask_reconcile(reason, gap).await
    }
    async fn apply(&self, batch: &Batch) -> Result<Applied, StoreError> {
        self.store.apply(batch).await
    }
}

#[async_trait]
impl Inspected for Subject {
    async fn messages(&self) -> BTreeMap<(String, String), (String, Option<String>)> {
        let rows: Vec<(String, String, String, Option<String>)> =
            sqlx::query_as("SELECT chat_id, id, version, text FROM messages").fetch_all(&self.pool).await.unwrap();
        rows.into_iter().map(|(chat, id, version, text)| ((chat, id), (version, text))).collect()
    }

    async fn versions(&self, chat: &str, id: &str) -> Vec<String> {
        sqlx::query_scalar("SELECT version FROM message_versions WHERE chat_id = $1 AND id = $2")
            .bind(chat)
            .bind(id)
            .fetch_all(&self.pool)
            .await
            .unwrap()
    }

    async fn chats(&self) -> BTreeMap<String, Option<String>> {
        let rows: Vec<(String, Option<String>)> =
            sqlx::query_as("SELECT id, title FROM chats").fetch_all(&self.pool).await.unwrap();
        rows.into_iter().collect()
    }

    async fn dead_letters(&self) -> Vec<(String, String)> {
        sqlx::query_as("SELECT reason, raw FROM dead_letters").fetch_all(&self.pool).await.unwrap()
    }

    async fn judge(&self, stored: &str, incoming: &str) -> bool {
        let mut tx = self.pool.begin().await.unwrap();
        let mut newer = 0;
        for version in [stored, incoming] {
            newer = sqlx::query(include_str!("../../queries/upsert_messages.sql"))
                .bind(vec!["c"])
                .bind(vec!["m"])
                .bind(vec![None::<String>])
                .bind(vec![None::<String>])
                .bind(vec![None::<String>])
                .bind(vec![0_i64])
                .bind(vec![None::<i64>])
                .bind(vec![None::<i64>])
                .bind(vec![false])
                .bind(vec![version])
                .execute(&mut *tx)
                .await
                .unwrap()
                .rows_affected();
        }
        tx.rollback().await.unwrap();
        newer == 1
    }
}

#[tokio::test]
async fn what_postgres_refuses_is_called_data_what_is_too_much_saturated_and_what_is_away_transient() {
    let Some(url) = postgres_database().await else { return };
    let pool = platform::postgres::pool(&url, 1, true).unwrap();
    let refused = sqlx::query("SELECT 'a' || chr(0)").execute(&pool).await.unwrap_err();
    // chr(0) is a program limit; text with U+0000 that comes as a parameter is a data exception.
    assert!(matches!(StoreError::from(refused), StoreError::Data(_)));
    let refused = sqlx::query("SELECT $1::text").bind("a\0b").execute(&pool).await.unwrap_err();
    assert!(matches!(StoreError::from(refused), StoreError::Data(_)));
    sqlx::query("SET statement_timeout = 20").execute(&pool).await.unwrap();
    let slow = sqlx::query("SELECT pg_sleep(10)").execute(&pool).await.unwrap_err();
    assert!(matches!(StoreError::from(slow), StoreError::Saturated(_)));
    let nowhere =
        platform::postgres::pool(&platform::config::Secret::new("postgres://u@127.0.0.1:1/d"), 1, true).unwrap();
    let away = Postgres::new(nowhere).progress().await.unwrap_err();
    assert!(matches!(away, StoreError::Transient(_)), "{away:?}");
}

#[tokio::test]
async fn a_read_only_node_is_left() {
    let Some(url) = postgres_database().await else { return };
    let pool = platform::postgres::pool(&url, 1, true).unwrap();
    let database: String = sqlx::query_scalar("SELECT current_database()").fetch_one(&pool).await.unwrap();
    let demote = sqlx::AssertSqlSafe(format!("ALTER DATABASE {database} SET default_transaction_read_only = on"));
    sqlx::raw_sql(demote).execute(&pool).await.unwrap();
    // The connection at hand is still writable; the ones after it are not, and none of them is handed out.
    pool.close().await;
    let pool = platform::postgres::pool(&url, 1, true).unwrap();
    let store = Postgres::new(pool);
    assert!(matches!(store.progress().await, Err(StoreError::Transient(_))));
}
