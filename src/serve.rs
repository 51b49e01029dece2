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
