use std::collections::BTreeMap;
use std::sync::Arc;

use all_in_one::embedded_store::UPSERT_MESSAGE;
use async_trait::async_trait;
use platform::event_log::{Progress, TopicPartition};
use writer::batch::Batch;
use writer::failure::StoreError;
use writer::store::{Applied, Store};
use writer::suite::Inspected;

use crate::{World, world};

struct Subject(World);

async fn embedded() -> Option<Arc<dyn Inspected>> {
    Some(Arc::new(Subject(world().await)))
}

writer::store_suite!(embedded().await);

#[async_trait]
impl Store for Subject {
    async fn migrate(&self) -> Result<(), StoreError> {
        self.0.store.migrate().await
    }
    async fn progress(&self) -> Result<BTreeMap<TopicPartition, Progress>, StoreError> {
        self.0.store.progress().await
    }
    async fn ask_reconcile(&self, reason: &str, gap: bool) -> Result<i64, StoreError> {
        self.0.store.ask_reconcile(reason, gap).await
    }
    async fn apply(&self, batch: &Batch) -> Result<Applied, StoreError> {
        self.0.store.apply(batch).await
    }
}

#[async_trait]
impl Inspected for Subject {
    async fn messages(&self) -> BTreeMap<(String, String), (String, Option<String>)> {
        let rows: Vec<(String, String, String, Option<String>)> =
            sqlx::query_as("SELECT chat_id, id, version, text FROM messages").fetch_all(&self.0.db.read).await.unwrap();
        rows.into_iter().map(|(chat, id, version, text)| ((chat, id), (version, text))).collect()
    }

    async fn versions(&self, chat: &str, id: &str) -> Vec<String> {
        sqlx::query_scalar("SELECT version FROM message_versions WHERE chat_id = ? AND id = ?")
            .bind(chat)
            .bind(id)
            .fetch_all(&self.0.db.read)
            .await
            .unwrap()
    }

    async fn chats(&self) -> BTreeMap<String, Option<String>> {
        let rows: Vec<(String, Option<String>)> =
            sqlx::query_as("SELECT id, title FROM chats").fetch_all(&self.0.db.read).await.unwrap();
        rows.into_iter().collect()
    }

    async fn dead_letters(&self) -> Vec<(String, String)> {
        sqlx::query_as("SELECT reason, raw FROM dead_letters").fetch_all(&self.0.db.read).await.unwrap()
    }

    async fn judge(&self, stored: &str, incoming: &str) -> bool {
        let mut tx = self.0.db.write.begin().await.unwrap();
        let mut newer = 0;
        for version in [stored, incoming] {
            newer = sqlx::query(UPSERT_MESSAGE)
                .bind("c")
                .bind("m")
                .bind(None::<String>)
                .bind(None::<String>)
                .bind(None::<String>)
                .bind(0_i64)
                .bind(None::<i64>)
                .bind(None::<i64>)
                .bind(false)
                .bind(version)
                .execute(&mut *tx)
                .await
                .unwrap()
                .rows_affected();
        }
        tx.rollback().await.unwrap();
        newer == 1
    }
}
