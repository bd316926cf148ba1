//! From an HTTP request to a WebSocket: its reading half as the library hears it, its writing half by itself.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::{Body, Bytes};
use axum::extract::{FromRequestParts, Request};
use axum::http::request::Parts;
use axum::response::Response;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use hyper_util::server::conn::auto::upgrade::downcast;
use platform::api::Problem;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::server::create_response_with_body;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use tokio_util::task::TaskTracker;

use super::frame::Frame;
use super::line::{Line, WriteHalf, Writers};
use super::outbox::About;

/// A request to become a WebSocket, and the answer to it.
pub struct Upgrade {
    response: Response,
    upgraded: OnUpgrade,
}

impl<S: Sync> FromRequestParts<S> for Upgrade {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let mut request = Request::new(());
        *request.method_mut() = parts.method.clone();
        *request.version_mut() = parts.version;
        *request.headers_mut() = parts.headers.clone();
        let response = create_response_with_body(&request, Body::empty)
            .map_err(|error| Problem::bad_request(format!("this is for WebSockets: {error}")))?;
        let upgraded = parts.extensions.remove::<OnUpgrade>();
        let upgraded = upgraded.ok_or_else(|| Problem::bad_request("this connection cannot become a WebSocket"))?;
        Ok(Self { response, upgraded })
    }
}

impl Upgrade {
    /// Answers the request, and serves what it became, as one of these tasks.
    pub fn and_then<F: Future<Output = ()> + Send>(
        self,
        tasks: &TaskTracker,
        serve: impl FnOnce(Upgraded) -> F + Send + 'static,
    ) -> Response {
        let upgraded = self.upgraded;
        tasks.spawn(async move {
            // Who is gone before it is answered needs nothing more.
            if let Ok(upgraded) = upgraded.await {
                serve(Upgraded::from(upgraded)).await;
            }
        });
        self.response
    }
}

/// A connection that speaks WebSocket now.
pub struct Upgraded {
    read: ReadHalf,
    write: WriteHalf,
    /// What was read with the request.
    early: Bytes,
}

type ReadHalf = Box<dyn AsyncRead + Send + Unpin>;

impl From<hyper::upgrade::Upgraded> for Upgraded {
    /// Plain TCP by itself, without the layers that HTTP needs; TLS with them.
    fn from(upgraded: hyper::upgrade::Upgraded) -> Self {
        match downcast::<TokioIo<TcpStream>>(upgraded) {
            Ok(parts) => {
                let stream = parts.io.into_inner();
                // Small frames one after another must not wait for one another's acknowledgement.
                let _ = stream.set_nodelay(true);
                let (read, write) = stream.into_split();
                Self { read: Box::new(read), write: Box::new(write), early: parts.read_buf }
            }
            Err(upgraded) => {
                let (read, write) = tokio::io::split(TokioIo::new(upgraded));
                Self { read: Box::new(read), write: Box::new(write), early: Bytes::new() }
            }
        }
    }
}

/// What a browser says.
pub(super) type Hearing = WebSocketStream<Half>;

impl Upgraded {
    pub(super) async fn open(self, writers: &Writers, config: WebSocketConfig) -> (Arc<Line>, Hearing) {
        let line = Line::new(writers, self.write);
        let half = Half { read: self.read, line: line.clone() };
        let hearing = WebSocketStream::from_partially_read(half, self.early.to_vec(), Role::Server, Some(config)).await;
        (line, hearing)
    }
}

/// The reading half; what the WebSocket layer answers by itself waits with the rest.
pub(super) struct Half {
    read: ReadHalf,
    line: Arc<Line>,
}

impl AsyncRead for Half {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context, into: &mut ReadBuf) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.read).poll_read(context, into)
    }
}

impl AsyncWrite for Half {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context, frames: &[u8]) -> Poll<std::io::Result<usize>> {
        self.line.outbox.push(Arc::new(About::Answer), Frame::whole(frames));
        Poll::Ready(Ok(frames.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
