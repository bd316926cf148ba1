//! What comes over a WebSocket that a test opened itself.

use futures::{Stream, StreamExt};
use serde_json::Value;
use tokio_tungstenite::tungstenite::{Error, Message};

/// The next frame of the protocol, however long it takes; pings are passed over.
///
/// # Panics
/// If the connection ends, or a frame is no JSON.
pub async fn next_frame(socket: &mut (impl Stream<Item = Result<Message, Error>> + Unpin)) -> Value {
    loop {
        if let Message::Text(text) = socket.next().await.expect("the connection lasts").expect("a frame") {
            return serde_json::from_str(&text).expect("JSON");
        }
    }
}
