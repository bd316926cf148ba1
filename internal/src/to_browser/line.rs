//! The writing half of a browser's connection. No task of its own waits for what is to be written: a few loops write to
//! all sockets, each as far as it takes it without waiting. A push marks a connection as to be looked at, and so does a
//! socket that has room again.

use std::collections::BTreeSet;
use std::io::IoSlice;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use axum::body::Bytes;
use hyper::body::Buf;
use smallvec::SmallVec;
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::Notify;
use tokio::task::{JoinSet, coop};
use tokio::time::{Instant, timeout};

use super::frame::Frame;
use super::outbox::{About, Outbox};

/// To how many sockets a loop writes before other tasks have their turn.
const AT_ONCE: usize = 64;
/// How many frames one call writes at most (Linux takes 1,024: `UIO_MAXIOV`).
const TOGETHER: usize = 64;

/// A socket's writing half.
pub type WriteHalf = Box<dyn AsyncWrite + Send + Unpin>;

/// The loops of a pod; they end when this is dropped.
pub struct Writers {
    loops: Vec<Arc<Marked>>,
    next: AtomicUsize,
    _tasks: JoinSet<()>,
}

impl Writers {
    /// Starts as many.
    pub fn start(loops: usize) -> Self {
        let loops: Vec<Arc<Marked>> = (0..loops.max(1)).map(|_| Arc::default()).collect();
        let tasks = loops.iter().map(|marked| coop::unconstrained(marked.clone().write())).collect();
        Self { loops, next: AtomicUsize::new(0), _tasks: tasks }
    }

    fn next(&self) -> Arc<Marked> {
        self.loops[self.next.fetch_add(1, Ordering::Relaxed) % self.loops.len()].clone()
    }
}

/// The connections that a loop has to look at.
#[derive(Default)]
struct Marked {
    lines: Mutex<Vec<Arc<Mark>>>,
    some: Notify,
}

impl Marked {
    async fn write(self: Arc<Self>) {
        loop {
            self.some.notified().await;
            let lines = std::mem::take(&mut *self.lock());
            for some in lines.chunks(AT_ONCE) {
                for mark in some {
                    mark.look();
                }
                tokio::task::yield_now().await;
            }
        }
    }

    fn add(&self, mark: Arc<Mark>) {
        let mut lines = self.lock();
        let first = lines.is_empty();
        lines.push(mark);
        drop(lines);
        if first {
            self.some.notify_one();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Arc<Mark>>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Marks a connection, at most once until it is looked at.
struct Mark {
    line: Weak<Line>,
    set: AtomicBool,
    at: Arc<Marked>,
}

impl Mark {
    fn look(&self) {
        // First: what comes from now on marks it anew.
        self.set.store(false, Ordering::SeqCst);
        let Some(line) = self.line.upgrade() else { return };
        // Whatever happens to one connection, the loop has others.
        if catch_unwind(AssertUnwindSafe(|| line.write())).is_err() {
            line.lock().socket = None;
            line.news.notify_one();
        }
    }
}

impl Wake for Mark {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.set.swap(true, Ordering::SeqCst) {
            self.at.add(self.clone());
        }
    }
}

/// The writing half of one connection.
pub struct Line {
    pub outbox: Arc<Outbox>,
    writing: Mutex<Writing>,
    /// For the reading half: it is gone, chats are stale, or everything is written.
    news: Notify,
}

struct Writing {
    /// None after an error, and after the end.
    socket: Option<WriteHalf>,
    /// Marks this connection.
    waker: Waker,
    /// Taken from the outbox, and not written yet.
    left: SmallVec<[Bytes; 1]>,
    /// Since when the socket has not taken all of it.
    since: Option<Instant>,
    /// To be loaded anew.
    stale: BTreeSet<String>,
    /// Whether somebody waits until everything is written.
    ending: bool,
}

/// What the reading half is told.
#[derive(Debug, PartialEq, Eq)]
pub enum News {
    /// Its socket cannot be written to any more.
    Gone,
    /// Updates of these chats were dropped, and what was left of them is written.
    Stale(BTreeSet<String>),
}

impl Line {
    pub fn new(writers: &Writers, socket: WriteHalf) -> Arc<Self> {
        Arc::new_cyclic(|line| {
            let mark = Mark { line: line.clone(), set: AtomicBool::new(false), at: writers.next() };
            let waker = Waker::from(Arc::new(mark));
            let writing = Writing {
                socket: Some(socket),
                waker: waker.clone(),
                left: SmallVec::new(),
                since: None,
                stale: BTreeSet::new(),
                ending: false,
            };
            Self { outbox: Arc::new(Outbox::new(waker)), writing: Mutex::new(writing), news: Notify::new() }
        })
    }

    /// Waits for something that the reading half has to know.
    pub async fn news(&self) -> News {
        loop {
            let told = self.news.notified();
            if let Some(news) = self.lock().news() {
                return news;
            }
            told.await;
        }
    }

    /// For how long something is left that the socket does not take.
    pub fn stuck(&self) -> Duration {
        self.lock().since.map_or(Duration::ZERO, |since| since.elapsed())
    }

    /// Writes what waits, and this as the last, if that takes no longer than `limit`; then nothing more.
    pub async fn end(&self, last: Option<Frame>, limit: Duration) {
        self.lock().ending = true;
        if let Some(last) = last {
            self.outbox.push(Arc::new(About::Close), last);
        }
        let _ = timeout(limit, async {
            while !self.is_done() {
                self.news.notified().await;
            }
            let socket = self.lock().socket.take();
            if let Some(mut socket) = socket {
                // Over TLS a word of its own says that nothing follows.
                let _ = socket.shutdown().await;
            }
        })
        .await;
        self.lock().socket = None;
    }

    fn is_done(&self) -> bool {
        let writing = self.lock();
        writing.socket.is_none() || (writing.left.is_empty() && self.outbox.is_empty())
    }

    /// Writes as much as the socket takes now.
    fn write(&self) {
        let mut writing = self.lock();
        writing.write(&self.outbox);
        let has_news = writing.socket.is_none() || !writing.stale.is_empty() || writing.ending;
        drop(writing);
        if has_news {
            self.news.notify_one();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Writing> {
        self.writing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Writing {
    fn news(&mut self) -> Option<News> {
        if self.socket.is_none() {
            return Some(News::Gone);
        }
        // Not before what is left is written: a browser that is slow must not have the store read again and again.
        (self.left.is_empty() && !self.stale.is_empty()).then(|| News::Stale(std::mem::take(&mut self.stale)))
    }

    /// Until there is nothing more, or the socket takes no more: then it marks the connection when it has room again.
    fn write(&mut self, outbox: &Outbox) {
        let Self { socket, waker, left, since, stale, .. } = self;
        let mut context = Context::from_waker(waker);
        let mut taken = false;
        while let Some(open) = socket {
            let open = Pin::new(open);
            if left.is_empty() && !taken {
                stale.extend(outbox.take_into(left));
                // Whoever is always behind and moves on has as long for each of these parts.
                *since = None;
                // Once: what comes from now on has marked the connection anew.
                taken = true;
            }
            let written = match left.len() {
                0 => open.poll_flush(&mut context).map_ok(|()| None),
                1 => open.poll_write(&mut context, &left[0]).map_ok(Some),
                _ => {
                    let mut slices = [IoSlice::new(&[]); TOGETHER];
                    let filled =
                        left.iter().zip(&mut slices).map(|(frame, slice)| *slice = IoSlice::new(frame)).count();
                    open.poll_write_vectored(&mut context, &slices[..filled]).map_ok(Some)
                }
            };
            match written {
                Poll::Pending => {
                    since.get_or_insert_with(Instant::now);
                    return;
                }
                Poll::Ready(Ok(None)) => {
                    *since = None;
                    return;
                }
                Poll::Ready(Ok(Some(written @ 1..))) => advance(left, written),
                // The reading half hears of it.
                Poll::Ready(Ok(Some(0)) | Err(_)) => *socket = None,
            }
        }
    }
}

/// Takes away what was written.
fn advance(left: &mut SmallVec<[Bytes; 1]>, mut written: usize) {
    let mut is_whole = |frame: &&Bytes| {
        let whole = frame.len() <= written;
        written -= if whole { frame.len() } else { 0 };
        whole
    };
    let whole = left.iter().take_while(&mut is_whole).count();
    left.drain(..whole);
    match left.first_mut() {
        Some(first) => first.advance(written),
        // A burst must not cost its room for ever.
        None => left.shrink_to_fit(),
    }
}

#[cfg(test)]
mod tests {
    use platform::eventually;
    use tokio::io::{AsyncReadExt, DuplexStream, duplex};

    use super::*;

    fn line(writers: &Writers, takes: usize) -> (Arc<Line>, DuplexStream) {
        let (near, far) = duplex(takes);
        (Line::new(writers, Box::new(near)), far)
    }

    fn say(line: &Line, message: usize, bytes: usize) -> Vec<u8> {
        let about = About::Update { chat: "c".into(), message: message.to_string() };
        let frame = Frame::text(&"x".repeat(bytes));
        line.outbox.push(Arc::new(about), frame.clone());
        frame.into_bytes().to_vec()
    }

    #[tokio::test]
    async fn what_a_socket_takes_in_small_parts_comes_whole_and_in_order() {
        let writers = Writers::start(2);
        let (line, mut far) = line(&writers, 7);
        let mut said = Vec::new();
        for message in 0..3 * TOGETHER {
            said.extend(say(&line, message, message));
        }
        let mut heard = vec![0; said.len()];
        far.read_exact(&mut heard).await.unwrap();
        assert!(heard == said);
        eventually!(line.is_done(), "nothing is left");
        assert_eq!(line.stuck(), Duration::ZERO);
    }

    #[tokio::test]
    async fn a_socket_that_takes_nothing_keeps_nobody_waiting_and_is_told_from_one_that_does() {
        let writers = Writers::start(1);
        let ((deaf, kept), (hears, mut far)) = (line(&writers, 1), line(&writers, 1 << 10));
        say(&deaf, 1, 100);
        let said = say(&hears, 1, 100);
        let mut heard = vec![0; said.len()];
        far.read_exact(&mut heard).await.unwrap();
        assert!(heard == said);
        eventually!(deaf.stuck() > Duration::ZERO, "what is left is left for some time");
        // What comes meanwhile waits where a newer version takes its place.
        for _ in 0..10 {
            say(&deaf, 2, 100);
        }
        assert_eq!(deaf.outbox.take().0.len(), 1);
        drop(kept);
        assert_eq!(deaf.news().await, News::Gone);
    }

    #[tokio::test]
    async fn chats_are_loaded_anew_after_what_is_left_is_written() {
        let writers = Writers::start(1);
        let (line, mut far) = line(&writers, 10);
        let said = say(&line, 1, 100);
        eventually!(line.stuck() > Duration::ZERO, "it takes a part");
        line.outbox.invalidate("c");
        tokio::select! {
            biased;
            _ = line.news() => panic!("something is left"),
            () = tokio::task::yield_now() => {}
        }
        let mut heard = vec![0; said.len()];
        far.read_exact(&mut heard).await.unwrap();
        assert_eq!(line.news().await, News::Stale(BTreeSet::from(["c".to_owned()])));
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_is_always_behind_and_moves_on_is_not_stuck() {
        let writers = Writers::start(1);
        let (line, mut far) = line(&writers, 10);
        let mut said = say(&line, 0, 100);
        eventually!(line.stuck() > Duration::ZERO, "it takes a part");
        for message in 1..5 {
            tokio::time::advance(Duration::from_secs(15)).await;
            assert!(line.stuck() >= Duration::from_secs(15));
            let next = say(&line, message, 100);
            let mut heard = vec![0; said.len()];
            far.read_exact(&mut heard).await.unwrap();
            assert!(heard == said);
            eventually!(line.stuck() < Duration::from_secs(10), "the next part has its own time");
            said = next;
        }
    }

    #[tokio::test]
    async fn what_waits_is_written_before_the_end_and_nothing_after_it() {
        let writers = Writers::start(1);
        let (line, mut far) = line(&writers, 10);
        let said = say(&line, 1, 100);
        let reading = tokio::spawn(async move {
            let mut heard = Vec::new();
            far.read_to_end(&mut heard).await.unwrap();
            heard
        });
        line.end(Some(Frame::ping()), Duration::from_secs(60)).await;
        say(&line, 2, 100);
        let heard = reading.await.unwrap();
        assert!(heard == [said, Frame::ping().into_bytes().to_vec()].concat());
    }

    #[tokio::test]
    async fn the_end_waits_no_longer_than_it_may_for_whoever_does_not_read() {
        let writers = Writers::start(1);
        let (line, _far) = line(&writers, 10);
        say(&line, 1, 100);
        line.end(None, Duration::from_millis(10)).await;
        assert_eq!(line.news().await, News::Gone);
    }
}
