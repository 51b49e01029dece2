//! Connections: to a checked address, with a certificate for the right name.

use std::{
    fmt,
    future::Future,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use http::Uri;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::{
    client::legacy::connect::{Connected, Connection},
    rt::TokioIo,
};
use ruma::{OwnedServerName, ServerName};
use rustls::{ClientConfig, pki_types};
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tokio_util::either::Either;
use tower::Service;

use crate::discovery::{
    Ports,
    dns::{DnsError, Resolver},
    guard::AddressGuard,
    locate::{self, Located, Rule},
};

/// How long one address may take to accept; then the next is tried. A lost packet is sent again after a
/// second.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// How long it may then take to shake hands.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// What a connection is for, which decides how its authority is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Requests between servers: by port, SRV records and the default port.
    Federation,
    /// The web server of a name: by port or the default port of HTTPS.
    Web,
}

/// Why there is no connection.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConnectError {
    /// The name leads nowhere.
    #[error("{0}")]
    NotFound(String),
    /// It leads only where requests may not go.
    #[error("{0}")]
    Forbidden(String),
    /// Nobody there took the connection, or showed the certificate.
    #[error("{0}")]
    Unreachable(String),
}

/// An encrypted connection.
pub type Encrypted = TlsStream<TcpStream>;

/// Finds and connects.
#[derive(Clone)]
pub struct Network {
    pub(crate) guard: AddressGuard,
    pub(crate) resolver: Arc<dyn Resolver>,
    pub(crate) tls: Arc<ClientConfig>,
    pub(crate) ports: Ports,
}

impl fmt::Debug for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { guard, resolver, ports, .. } = self;
        f.debug_struct("Network")
            .field("guard", guard)
            .field("resolver", resolver)
            .field("ports", ports)
            .finish_non_exhaustive()
    }
}

impl Network {
    /// The addresses of an authority, not checked yet. `missing` takes what was looked up before, and
    /// is not there.
    pub async fn locate(
        &self,
        authority: &ServerName,
        purpose: Purpose,
        missing: &mut Vec<DnsError>,
    ) -> Result<Located, DnsError> {
        let resolver = self.resolver.as_ref();
        if purpose == Purpose::Federation {
            return locate::locate(resolver, authority, self.ports, missing).await;
        }
        let port = authority.port().unwrap_or(self.ports.https);
        match locate::literal(authority.host()) {
            Some(address) => {
                let candidates = vec![SocketAddr::new(address, port)];
                Ok(Located { rule: Rule::Literal, candidates })
            }
            None => locate::by_name(resolver, authority.host(), port, Rule::Port).await,
        }
    }

    /// A connection to the first address of an authority that takes it.
    pub async fn connect(
        &self,
        authority: &ServerName,
        purpose: Purpose,
    ) -> Result<Encrypted, ConnectError> {
        let located = self
            .locate(authority, purpose, &mut Vec::new())
            .await
            .map_err(|error| ConnectError::NotFound(error.to_string()))?;
        let mut why = ConnectError::NotFound(format!("{authority} has no address"));
        for address in located.candidates {
            match self.connect_to(address, authority).await {
                Ok(stream) => return Ok(stream),
                // What failed outside of the guard says more.
                Err(ConnectError::Forbidden(_)) if matches!(why, ConnectError::Unreachable(_)) => {}
                Err(error) => why = error,
            }
        }
        Err(why)
    }

    /// The same without encryption, for what is on the operator's own network.
    pub(super) async fn connect_plain(
        &self,
        authority: &ServerName,
    ) -> Result<TcpStream, ConnectError> {
        let located = self
            .locate(authority, Purpose::Web, &mut Vec::new())
            .await
            .map_err(|error| ConnectError::NotFound(error.to_string()))?;
        let mut why = ConnectError::NotFound(format!("{authority} has no address"));
        for address in located.candidates {
            let opened = match self.check(address) {
                Ok(()) => open(address).await,
                Err(forbidden) => Err(forbidden),
            };
            match opened {
                Ok(stream) => return Ok(stream),
                Err(error) => why = error,
            }
        }
        Err(why)
    }

    fn check(&self, address: SocketAddr) -> Result<(), ConnectError> {
        let checked = self.guard.check(address.ip());
        checked.map_err(|forbidden| ConnectError::Forbidden(forbidden.to_string()))
    }

    /// A connection to this very address, if the guard lets it pass.
    pub async fn connect_to(
        &self,
        address: SocketAddr,
        authority: &ServerName,
    ) -> Result<Encrypted, ConnectError> {
        let unreachable =
            |why: &dyn fmt::Display| ConnectError::Unreachable(format!("{address}: {why}"));
        self.check(address)?;
        let name = certificate_name(authority).map_err(|why| unreachable(&why))?;
        let stream = open(address).await?;
        let shaking = TlsConnector::from(Arc::clone(&self.tls)).connect(name, stream);
        timeout(HANDSHAKE_TIMEOUT, shaking)
            .await
            .map_err(|_| unreachable(&"it does not shake hands"))?
            .map_err(|error| unreachable(&error))
    }
}

/// A connection to a checked address.
async fn open(address: SocketAddr) -> Result<TcpStream, ConnectError> {
    let unreachable =
        |why: &dyn fmt::Display| ConnectError::Unreachable(format!("{address}: {why}"));
    let connected = timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await;
    let stream = connected
        .map_err(|_| unreachable(&"it does not accept"))?
        .map_err(|error| unreachable(&error))?;
    // Requests are written whole: waiting to fill a packet would only delay them.
    stream.set_nodelay(true).map_err(|error| unreachable(&error))?;
    Ok(stream)
}

/// The name that the certificate must be for: the host of the authority, whatever machine serves it.
fn certificate_name(authority: &ServerName) -> Result<pki_types::ServerName<'static>, String> {
    let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
    pki_types::ServerName::try_from(host)
        .map_err(|_| format!("{authority} is no name that a certificate can be for"))
}

/// Connects for a pool of connections, which are told apart by their authority.
#[derive(Clone, Debug)]
pub(super) struct Connector {
    pub(super) network: Arc<Network>,
    pub(super) purpose: Purpose,
}

impl Service<Uri> for Connector {
    type Response = Stream;
    type Error = ConnectError;
    type Future = Pin<Box<dyn Future<Output = Result<Stream, ConnectError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), ConnectError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let Self { network, purpose } = self.clone();
        Box::pin(async move {
            let authority = uri.authority().map(http::uri::Authority::as_str).unwrap_or_default();
            let authority: OwnedServerName = authority
                .try_into()
                .map_err(|_| ConnectError::NotFound(format!("{authority:?} is no server name")))?;
            // Whoever may not speak without encryption refuses such a URL before it comes here.
            let stream = if uri.scheme() == Some(&http::uri::Scheme::HTTP) {
                Either::Left(network.connect_plain(&authority).await?)
            } else {
                Either::Right(network.connect(&authority, purpose).await?)
            };
            Ok(Stream(TokioIo::new(stream)))
        })
    }
}

/// A connection in the pool.
pub(super) struct Stream(TokioIo<Either<TcpStream, Encrypted>>);

impl Connection for Stream {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl Read for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, into)
    }
}

impl Write for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}
