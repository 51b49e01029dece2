//! The listeners: bounded in connections and time, closed in order.

use std::{convert::Infallible, io, net::SocketAddr, sync::Arc, time::Duration};

use axum::{Router, body::Body, extract::ConnectInfo};
use hyper::{Request, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::{MissedTickBehavior, interval, sleep, timeout},
};
use tokio_rustls::TlsAcceptor;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::ServiceExt as _;

use crate::{
    config::ListenConfig,
    tls::{self, Certificate, CertificateError},
};

/// The most bytes that one connection buffers for a request's head, and for what is written at once.
/// Bodies are not held here. The least that hyper takes is 8 KiB; heads carry long query strings.
const CONNECTION_BUFFER_BYTES: usize = 32 * 1024;

/// How long to wait after the system refuses a connection for want of files or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How long a client may take to shake hands.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Listeners and the connections they opened.
#[derive(Debug)]
pub(crate) struct Listeners {
    addresses: Vec<SocketAddr>,
    tls_addresses: Vec<SocketAddr>,
    certificate: Option<Arc<Certificate>>,
    stop: CancellationToken,
    tasks: TaskTracker,
    shutdown_timeout: Duration,
}

/// Why the server cannot listen.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// An address is taken or not this machine's.
    #[error("cannot listen on {address}: {error}")]
    Address {
        /// The address.
        address: SocketAddr,
        /// Why.
        error: io::Error,
    },
    /// The certificate cannot be used.
    #[error("certificate: {0}")]
    Certificate(#[from] CertificateError),
}

struct Acceptor {
    router: Router,
    connections: Arc<Semaphore>,
    http: http1::Builder,
    stop: CancellationToken,
    tasks: TaskTracker,
}

/// Sockets that are bound and listening, but that nobody serves yet.
pub(crate) struct Bound {
    plain: Sockets,
    tls: Sockets,
    certificate: Option<(Arc<Certificate>, TlsAcceptor)>,
}

/// Bound sockets with their real addresses.
#[derive(Debug, Default)]
struct Sockets {
    sockets: Vec<TcpListener>,
    addresses: Vec<SocketAddr>,
}

/// Reads the certificate, and binds every address or none.
pub(crate) async fn bind(config: &ListenConfig) -> Result<Bound, ListenError> {
    let certificate = match (&config.tls_certificate, &config.tls_key) {
        (Some(chain), Some(key)) if !config.tls_addresses.is_empty() => {
            let certificate = Certificate::read(chain, key)?;
            let acceptor = certificate.acceptor()?;
            Some((Arc::new(certificate), acceptor))
        }
        _ => None,
    };
    let plain = Sockets::bind(&config.addresses).await?;
    let tls = Sockets::bind(&config.tls_addresses).await?;
    Ok(Bound { plain, tls, certificate })
}

impl Sockets {
    async fn bind(addresses: &[SocketAddr]) -> Result<Self, ListenError> {
        let mut bound = Self::default();
        for &address in addresses {
            let failed = |error| ListenError::Address { address, error };
            let socket = TcpListener::bind(address).await.map_err(failed)?;
            bound.addresses.push(socket.local_addr().map_err(failed)?);
            bound.sockets.push(socket);
        }
        Ok(bound)
    }
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
        for socket in self.plain.sockets {
            acceptor.tasks.spawn(Arc::clone(&acceptor).accept(socket, None));
        }
        let (certificate, handshake) = self.certificate.unzip();
        for socket in self.tls.sockets {
            acceptor.tasks.spawn(Arc::clone(&acceptor).accept(socket, handshake.clone()));
        }
        if let Some(certificate) = &certificate {
            acceptor.tasks.spawn(watch(Arc::clone(certificate), acceptor.stop.clone()));
        }
        Listeners {
            addresses: self.plain.addresses,
            tls_addresses: self.tls.addresses,
            certificate,
            stop: acceptor.stop.clone(),
            tasks: acceptor.tasks.clone(),
            shutdown_timeout: config.shutdown_timeout(),
        }
    }
}

/// Takes renewed certificates up, until told to stop.
async fn watch(certificate: Arc<Certificate>, stop: CancellationToken) {
    let watch = async {
        let mut ticks = interval(tls::CHECK_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let certificate = Arc::clone(&certificate);
            let looked = tokio::task::spawn_blocking(move || certificate.reload_if_changed());
            if let Err(error) = looked.await {
                tracing::error!(%error, "cannot look at the certificate");
            }
        }
    };
    stop.run_until_cancelled(watch).await;
}

impl Acceptor {
    /// Accepts until told to stop. A place for the connection is taken before it is accepted, so that
    /// those beyond the bound wait in the system's queue.
    async fn accept(self: Arc<Self>, socket: TcpListener, tls: Option<TlsAcceptor>) {
        let accept_all = async {
            loop {
                let Ok(permit) = Arc::clone(&self.connections).acquire_owned().await else {
                    return;
                };
                match socket.accept().await {
                    Ok((stream, peer)) => {
                        let connection = Arc::clone(&self).connection(stream, peer, tls.clone());
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

    /// One connection, its handshake first if there is one.
    async fn connection(
        self: Arc<Self>,
        stream: TcpStream,
        peer: SocketAddr,
        tls: Option<TlsAcceptor>,
    ) {
        // Answers are written whole: waiting to fill a packet would only delay them.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "cannot set TCP_NODELAY");
        }
        let Some(tls) = tls else {
            return self.requests(stream, peer).await;
        };
        let shaken = self.stop.run_until_cancelled(timeout(HANDSHAKE_TIMEOUT, tls.accept(stream)));
        match shaken.await {
            Some(Ok(Ok(stream))) => self.requests(stream, peer).await,
            Some(Ok(Err(error))) => tracing::debug!(%peer, %error, "handshake failed"),
            Some(Err(_)) => tracing::debug!(%peer, "handshake took too long"),
            None => {}
        }
    }

    async fn requests<S>(&self, stream: S, peer: SocketAddr)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
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
    /// The addresses of plain HTTP, with their real ports.
    pub(crate) fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// The addresses of HTTPS, with their real ports.
    pub(crate) fn tls_addresses(&self) -> &[SocketAddr] {
        &self.tls_addresses
    }

    /// Reads the certificate again, whether or not its files look changed.
    pub(crate) async fn reload_certificate(&self) {
        if let Some(certificate) = self.certificate.clone() {
            let read = tokio::task::spawn_blocking(move || certificate.reload());
            if let Err(error) = read.await {
                tracing::error!(%error, "cannot read the certificate again");
            }
        }
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
mod tests;
