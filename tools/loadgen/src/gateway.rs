//! A push gateway on loopback that takes everything and counts it. It has a thread of its own, which steps back behind the
//! senders that are measured: elsewhere it is another machine, and takes nothing from them. So it also reads of a request no more
//! than its length, and has one answer.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use crate::world::Failure;

/// The largest request; the measured server bounds what it sends.
const MAX_REQUEST_BYTES: usize = 1 << 20;
/// What every request is answered with.
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 15\r\n\r\n{\"rejected\":[]}";

/// A running gateway; it ends when it is dropped.
pub(crate) struct Gateway {
    address: SocketAddr,
    taken: Arc<AtomicU64>,
    // Held: its end is the gateway's.
    _stop: oneshot::Sender<()>,
}

impl Gateway {
    /// Starts to listen on a free port.
    pub(crate) fn start() -> Result<Self, Failure> {
        let failed = |error: io::Error| Failure::Server(format!("push gateway: {error}"));
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(failed)?;
        let taken = Arc::new(AtomicU64::new(0));
        let (stop, stopped) = oneshot::channel();
        let counter = Arc::clone(&taken);
        thread::Builder::new()
            .name("gateway".to_owned())
            .spawn(move || {
                step_back();
                runtime.block_on(async {
                    tokio::select! {
                        () = serve(listener, counter) => (),
                        // Never sent: it is dropped.
                        _ = stopped => (),
                    }
                });
            })
            .map_err(failed)?;
        Ok(Self { address, taken, _stop: stop })
    }

    /// Where servers send notifications.
    pub(crate) fn url(&self) -> String {
        format!("http://{}/_matrix/push/v1/notify", self.address)
    }

    /// How many notifications came so far.
    pub(crate) fn taken(&self) -> u64 {
        self.taken.load(Ordering::Relaxed)
    }
}

/// As far as this server's pushers do. On Linux a thread has a policy of its own; if it stays as it is, the senders only suffer
/// more.
fn step_back() {
    #[cfg(target_os = "linux")]
    {
        use thread_priority::{ThreadPriority, unix};

        let idle = unix::ThreadSchedulePolicy::Normal(unix::NormalThreadSchedulePolicy::Idle);
        let thread = unix::thread_native_id();
        unix::set_thread_priority_and_policy(thread, ThreadPriority::Min, idle).ok();
    }
}

/// Accepts as many connections as the measured server opens; all end with this.
async fn serve(listener: std::net::TcpListener, taken: Arc<AtomicU64>) {
    let Ok(listener) = TcpListener::from_std(listener) else { return };
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((stream, _)) = accepted else { return };
                connections.spawn(answer_all(stream, Arc::clone(&taken)));
            }
            Some(_) = connections.join_next() => (),
        }
    }
}

/// Answers what comes on a connection, in order, until it ends.
async fn answer_all(mut stream: TcpStream, taken: Arc<AtomicU64>) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut received = Vec::with_capacity(4096);
    while received.len() <= MAX_REQUEST_BYTES && stream.read_buf(&mut received).await? > 0 {
        while let Some(length) = request_length(&received).filter(|end| *end <= received.len()) {
            received.drain(..length);
            taken.fetch_add(1, Ordering::Relaxed);
            stream.write_all(ANSWER).await?;
        }
    }
    Ok(())
}

/// The length of the request that this begins with, as soon as its head is there. Bodies have a `Content-Length`, or are none.
fn request_length(received: &[u8]) -> Option<usize> {
    let head = received.windows(4).position(|end| end == b"\r\n\r\n")? + 4;
    let lines = received.get(..head)?.split(|byte| *byte == b'\n');
    let body = lines.filter_map(|line| str::from_utf8(line).ok()?.split_once(':'));
    let mut body = body.filter(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    let body = body.next().map_or(Some(0), |(_, value)| value.trim().parse().ok())?;
    head.checked_add(body)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::Method;

    use super::*;
    use crate::connection::{Connection, Target};

    #[tokio::test]
    async fn takes_and_counts_notifications() {
        let gateway = Gateway::start().unwrap();
        let url = gateway.url();
        let (base, path) = url.split_at(url.find("/_matrix").unwrap());
        let target = Arc::new(Target::parse(base).unwrap());
        let mut connection = Connection::new(target);
        for _ in 0..3 {
            let body = Some(Bytes::from_static(b"{}"));
            let answer = connection.request(Method::POST, path, None, body).await.unwrap();
            assert_eq!(&answer[..], br#"{"rejected":[]}"#);
        }
        assert_eq!(gateway.taken(), 3);
    }

    #[test]
    fn the_length_of_a_request_is_known_with_its_head() {
        let head = "POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 12\r\n";
        assert_eq!(request_length(head.as_bytes()), None);
        let whole = format!("{head}\r\n{{}}");
        assert_eq!(request_length(whole.as_bytes()), Some(head.len() + 2 + 12));
        assert_eq!(request_length(b"GET / HTTP/1.1\r\n\r\nGET"), Some(18));
    }
}
