use std::sync::Arc;
use std::time::Duration;

use all_in_one::embedded_receipts::EmbeddedReceipts;
use internal::receipts::Receipts;

fn subject() -> Option<Arc<dyn Receipts>> {
    Some(Arc::new(EmbeddedReceipts::new(Duration::from_secs(60))))
}

internal::receipts_suite!(subject());

#[tokio::test]
async fn who_is_not_heard_of_is_forgotten() {
    let receipts = EmbeddedReceipts::new(Duration::ZERO);
    receipts.put("c", &[("ada".to_owned(), [("chat-changes".to_owned(), 7)].into())].into()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert!(receipts.of("c").await.unwrap().is_empty());
}
