use std::sync::Arc;

use platform::event_log::EventLog;
use platform::event_log::kafka::Kafka;
use platform::testing::server;

fn kafka() -> Option<Arc<dyn EventLog>> {
    Some(Arc::new(Kafka::new(&server("CHAT_SYNC_TEST_KAFKA")?).unwrap()))
}

platform::event_log_suite!(kafka());
