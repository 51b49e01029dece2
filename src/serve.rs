//! The listeners: bounded in connections and time, closed in order.

use std::{convert::Infallible, io, net::SocketAddr, sync::Arc, time::Duration};

use axum::{Router, body::Body, extract::ConnectInfo};
use hyper::{Request, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::ServiceExt as _;

use crate::config::ListenConfig;

/// The most bytes that one connection buffers for a request's head, and for what is written at once.
/// Bodies are not held here. The least that hyper takes is 8 KiB; heads carry long query strings.
const CONNECTION_BUFFER_BYTES: usize = 32 * 1024;

/// How long to wait after the system refuses a connection for want of files or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Listeners and the connections they opened.
#[derive(Debug)]
pub(crate) struct Listeners {
    addresses: Vec<SocketAddr>,
    stop: CancellationToken,
    tasks: TaskTracker,
    shutdown_timeout: Duration,
}

/// An address that cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}: {error}")]
pub struct ListenError {
    address: SocketAddr,
    error: io::Error,
}

struct Acceptor {
    router: Router,
    connections: Arc<Semaphore>,
    http: http1::Builder,
    stop: CancellationToken,
    tasks: TaskTracker,
}

/// Sockets that are bound and listening, but that nobody serves yet.
#[derive(Debug)]
pub(crate) struct Bound {
    sockets: Vec<TcpListener>,
    addresses: Vec<SocketAddr>,
}

/// Binds every address, or none.
pub(crate) async fn bind(config: &ListenConfig) -> Result<Bound, ListenError> {
    let mut bound = Bound { sockets: Vec::new(), addresses: Vec::new() };
    for &address in &config.addresses {
        let failed = |error| ListenError { address, error };
        let socket = TcpListener::bind(address).await.map_err(failed)?;
        bound.addresses.push(socket.local_addr().map_err(failed)?);
        bound.sockets.push(socket);
    }
    Ok(bound)
}

impl Bound {
    /// Starts to accept connections.
    pub(crate) fn serve(self, config: &ListenConfig, router: Router) -> Listeners {
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new())
            .header_read_timeout(config.header_timeout())
            .max_buf_size(CONNECTION_BUFFER_BYTES);
        let permits = usize::try_from(config.max_connections).unwrap_or(usize::MAX);
        let acceptor = Arc::new(Acceptor {
            router,
            connections: Arc::new(Semaphore::new(permits.min(Semaphore::MAX_PERMITS))),
            http,
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
        });
        for socket in self.sockets {
            acceptor.tasks.spawn(Arc::clone(&acceptor).accept(socket));
        }
        Listeners {
            addresses: self.addresses,
            stop: acceptor.stop.clone(),
            tasks: acceptor.tasks.clone(),
            shutdown_timeout: config.shutdown_timeout(),
        }
    }
}

impl Acceptor {
    /// Accepts until told to stop. A place for the connection is taken before it is accepted, so that
    /// those beyond the bound wait in the system's queue.
    async fn accept(self: Arc<Self>, socket: TcpListener) {
        let accept_all = async {
            loop {
                let Ok(permit) = Arc::clone(&self.connections).acquire_owned().await else {
                    return;
                };
                match socket.accept().await {
                    Ok((stream, peer)) => {
                        let connection = Arc::clone(&self).connection(stream, peer);
                        self.tasks.spawn(async move {
                            connection.await;
                            drop(permit);
                        });
                    }
                    // The peer gave up before it was accepted.
                    Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                    Err(error) => {
                        tracing::warn!(%error, "cannot accept a connection");
                        sleep(ACCEPT_PAUSE).await;
                    }
                }
            }
        };
        self.stop.run_until_cancelled(accept_all).await;
    }

    async fn connection(self: Arc<Self>, stream: TcpStream, peer: SocketAddr) {
        // Answers are written whole: waiting to fill a packet would only delay them.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "cannot set TCP_NODELAY");
        }
        let router = self.router.clone();
        let service = service_fn(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(ConnectInfo(peer));
            let answer = router.clone().oneshot(request.map(Body::new));
            async move { Ok::<_, Infallible>(answer.await.unwrap_or_else(|never| match never {})) }
        });
        let mut connection = std::pin::pin!(
            self.http.serve_connection(TokioIo::new(stream), service).with_upgrades()
        );
        let served = tokio::select! {
            served = connection.as_mut() => served,
            () = self.stop.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = served {
            tracing::debug!(%peer, %error, "connection ended");
        }
    }
}

impl Listeners {
    pub(crate) fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Accepts nothing more and waits until running requests have ended, up to the configured bound.
    pub(crate) async fn close(self) {
        self.stop.cancel();
        self.tasks.close();
        if timeout(self.shutdown_timeout, self.tasks.wait()).await.is_err() {
            tracing::warn!(connections = self.tasks.len(), "gave up waiting for running requests");
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        sync::Notify,
    };

    use super::*;

    fn config() -> ListenConfig {
        ListenConfig {
            addresses: vec![SocketAddr::from(([127, 0, 0, 1], 0))],
            header_timeout_s: 1,
            ..ListenConfig::default()
        }
    }

    async fn serve(config: &ListenConfig, router: Router) -> Listeners {
        bind(config).await.unwrap().serve(config, router)
    }

    fn who() -> Router {
        Router::new().route(
            "/who",
            get(|ConnectInfo(peer): ConnectInfo<SocketAddr>| async move { peer.to_string() }),
        )
    }

    async fn connect(listeners: &Listeners) -> TcpStream {
        TcpStream::connect(listeners.addresses()[0]).await.unwrap()
    }

    async fn ask(stream: &mut TcpStream, path: &str) {
        let request = format!("GET {path} HTTP/1.1\r\nhost: test\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
    }

    /// Reads until this text has come.
    async fn read_until(stream: &mut TcpStream, text: &str) {
        let mut seen = String::new();
        while !seen.contains(text) {
            let mut chunk = [0; 1024];
            let length = stream.read(&mut chunk).await.unwrap();
            assert!(length > 0, "the connection ended after {seen:?}");
            seen.push_str(std::str::from_utf8(&chunk[..length]).unwrap());
        }
    }

    async fn is_closed(stream: &mut TcpStream) -> bool {
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).await.is_ok_and(|_| rest.is_empty())
    }

    #[tokio::test]
    async fn requests_know_their_peer_and_share_a_connection() {
        let listeners = serve(&config(), who()).await;
        let mut stream = connect(&listeners).await;
        let own_address = stream.local_addr().unwrap().to_string();
        for _ in 0..2 {
            ask(&mut stream, "/who").await;
            read_until(&mut stream, &own_address).await;
        }
        listeners.close().await;
    }

    #[tokio::test]
    async fn connections_beyond_the_bound_wait_their_turn() {
        let config = ListenConfig { max_connections: 1, ..config() };
        let listeners = serve(&config, who()).await;
        let mut first = connect(&listeners).await;
        ask(&mut first, "/who").await;
        read_until(&mut first, "127.0.0.1").await;
        let mut second = connect(&listeners).await;
        ask(&mut second, "/who").await;
        // The place is taken: the acceptor waits for it, and the second connection is not served.
        assert!(second.try_read(&mut [0; 1]).is_err());
        drop(first);
        read_until(&mut second, "127.0.0.1").await;
        listeners.close().await;
    }

    #[tokio::test]
    async fn a_head_that_does_not_come_ends_the_connection() {
        let listeners = serve(&config(), who()).await;
        let mut silent = connect(&listeners).await;
        let mut slow = connect(&listeners).await;
        slow.write_all(b"GET /who HTTP/1.1\r\nhost: te").await.unwrap();
        assert!(is_closed(&mut silent).await);
        assert!(is_closed(&mut slow).await);
        listeners.close().await;
    }

    #[tokio::test]
    async fn closing_lets_running_requests_end_and_accepts_no_more() {
        let (started, go_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let (tell, wait) = (Arc::clone(&started), Arc::clone(&go_on));
        let slow = get(|| async move {
            tell.notify_one();
            wait.notified().await;
            "at last"
        });
        let listeners = serve(&config(), Router::new().route("/slow", slow)).await;
        let address = listeners.addresses()[0];
        let mut stream = connect(&listeners).await;
        ask(&mut stream, "/slow").await;
        started.notified().await;

        let stop = listeners.stop.clone();
        let closing = tokio::spawn(listeners.close());
        stop.cancelled().await;
        go_on.notify_one();
        read_until(&mut stream, "at last").await;
        closing.await.unwrap();
        assert!(TcpStream::connect(address).await.is_err());
    }

    #[tokio::test]
    async fn closing_gives_up_on_requests_that_do_not_end() {
        let never = get(std::future::pending::<&'static str>);
        let config = ListenConfig { shutdown_timeout_s: 0, ..config() };
        let listeners = serve(&config, Router::new().route("/never", never)).await;
        let mut stream = connect(&listeners).await;
        ask(&mut stream, "/never").await;
        listeners.close().await;
    }

    #[tokio::test]
    async fn an_address_in_use_is_named() {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        let config = ListenConfig { addresses: vec![address], ..config() };
        let error = bind(&config).await.unwrap_err().to_string();
        assert!(error.contains(&address.to_string()), "{error}");
    }
}
