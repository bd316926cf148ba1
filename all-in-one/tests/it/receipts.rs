use std::sync::Arc;

use all_in_one::embedded_receipts::EmbeddedReceipts;
use internal::receipts::Receipts;

fn subject() -> Option<Arc<dyn Receipts>> {
    Some(Arc::new(EmbeddedReceipts::default()))
}

internal::receipts_suite!(subject());
