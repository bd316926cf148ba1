use std::sync::Arc;
use std::time::Duration;

use all_in_one::embedded_gate::EmbeddedGate;
use internal::gate::{Answer, Gate};
use internal::gate_suite::{row, version};

fn gate() -> Option<Arc<dyn Gate>> {
    Some(Arc::new(EmbeddedGate::new(Duration::from_secs(60))))
}

internal::gate_suite!(gate());

#[tokio::test]
async fn a_row_is_forgotten_after_its_ttl() {
    let gate = EmbeddedGate::new(Duration::ZERO);
    for _ in 0..2 {
        assert_eq!(gate.judge(&[row("c", "m", &version(1))]).await.unwrap(), [Answer::Absent]);
    }
}
