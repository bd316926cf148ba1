//! What every place for receipts must pass, the embedded one and Redis alike.

use std::sync::Arc;

use super::{Positions, Readers, Receipts};

fn at(offset: u64) -> Positions {
    [("chat-changes".to_owned(), offset)].into()
}

fn shown(readers: &[(&str, u64)]) -> Readers {
    readers.iter().map(|(reader, offset)| ((*reader).to_owned(), at(*offset))).collect()
}

pub async fn a_position_is_never_taken_back(receipts: Arc<dyn Receipts>) {
    receipts.put("c", &shown(&[("ada", 7), ("bob the builder", 9)])).await.expect("put");
    receipts.put("c", &shown(&[("ada", 5)])).await.expect("put");
    assert_eq!(receipts.of("c").await.expect("read"), shown(&[("ada", 7), ("bob the builder", 9)]));
    receipts.put("c", &shown(&[("ada", 10)])).await.expect("put");
    assert_eq!(receipts.of("c").await.expect("read"), shown(&[("ada", 10), ("bob the builder", 9)]));
}

pub async fn topics_and_chats_are_apart(receipts: Arc<dyn Receipts>) {
    let both: Positions = [("chat-changes".to_owned(), 3), ("b.chat-changes".to_owned(), u64::from(u32::MAX))].into();
    receipts.put("c", &[("ada".to_owned(), both.clone())].into()).await.expect("put");
    receipts.put("d", &shown(&[("ada", 1)])).await.expect("put");
    assert_eq!(receipts.of("c").await.expect("read"), [("ada".to_owned(), both)].into());
    assert_eq!(receipts.of("d").await.expect("read"), shown(&[("ada", 1)]));
    assert_eq!(receipts.of("nowhere").await.expect("read"), Readers::new());
}

pub async fn many_readers_are_kept(receipts: Arc<dyn Receipts>) {
    let many: Readers = (0..1_000).map(|number| (format!("reader {number}"), at(number))).collect();
    receipts.put("c", &many).await.expect("put");
    assert_eq!(receipts.of("c").await.expect("read"), many);
}

/// Makes a test of each; `$subject` gives a place for receipts, or `None`, said loudly, where its server is absent.
#[macro_export]
macro_rules! receipts_suite {
    ($subject:expr) => {
        $crate::receipts_suite!(
            $subject,
            a_position_is_never_taken_back,
            topics_and_chats_are_apart,
            many_readers_are_kept
        );
    };
    ($subject:expr, $($name:ident),+) => {
        $(#[tokio::test]
        async fn $name() {
            let Some(receipts) = $subject else { return };
            $crate::receipts::suite::$name(receipts).await;
        })+
    };
}
