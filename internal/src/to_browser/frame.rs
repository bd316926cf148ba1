//! A WebSocket frame as it goes to sockets: made once, whoever gets it.

use axum::body::Bytes;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::Frame as Plain;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};

/// Its header and what it carries, unmasked, as servers send it (RFC 6455, section 5.1). A clone shares the bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    bytes: Bytes,
    /// How many bytes are the header.
    header: usize,
}

impl Frame {
    pub fn text(text: &str) -> Self {
        Self::of(Plain::message(Bytes::copy_from_slice(text.as_bytes()), OpCode::Data(Data::Text), true))
    }

    pub fn ping() -> Self {
        Self::of(Plain::ping(Bytes::new()))
    }

    pub fn close(why: CloseFrame) -> Self {
        Self::of(Plain::close(Some(why)))
    }

    /// What the WebSocket layer wrote by itself: one frame or more.
    pub fn whole(bytes: &[u8]) -> Self {
        Self { bytes: Bytes::copy_from_slice(bytes), header: 0 }
    }

    fn of(plain: Plain) -> Self {
        let header = plain.header().len(plain.payload().len() as u64);
        let mut bytes = Vec::with_capacity(plain.len());
        // Nothing is written but into memory: it cannot fail.
        let _ = plain.format(&mut bytes);
        Self { bytes: bytes.into(), header }
    }

    /// What it carries.
    pub fn payload(&self) -> &[u8] {
        &self.bytes[self.header..]
    }

    pub fn into_bytes(self) -> Bytes {
        self.bytes
    }

    /// In bytes, its header included.
    #[expect(clippy::len_without_is_empty, reason = "there is no frame of no bytes")]
    pub fn len(&self) -> usize {
        self.bytes.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_what_the_library_reads() {
        for text in [String::new(), "a".repeat(125), "ü".repeat(100), "a".repeat(70_000)] {
            let frame = Frame::text(&text);
            assert_eq!(frame.payload(), text.as_bytes());
            let mut socket = tokio_tungstenite::tungstenite::WebSocket::from_raw_socket(
                std::io::Cursor::new(frame.into_bytes().to_vec()),
                tokio_tungstenite::tungstenite::protocol::Role::Client,
                None,
            );
            assert_eq!(socket.read().unwrap().into_text().unwrap().as_str(), text);
        }
    }
}
