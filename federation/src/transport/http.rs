//! HTTPS over the real network.

use std::{error::Error, fmt, pin::Pin, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use http::{HeaderValue, Request, Response, Uri, header, uri::PathAndQuery};
use http_body_util::{BodyDataStream, BodyExt as _, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper_util::{
    client::legacy::{Client, Error as ClientError},
    rt::{TokioExecutor, TokioTimer},
};
use ruma::{OwnedServerName, ServerName};
use tokio::time::{Instant, timeout, timeout_at};
use url::Url;

use super::{
    BodyStream, Limits, Transport, TransportError,
    connect::{ConnectError, Connector, Network, Purpose},
    tls, web,
};
use crate::{
    FederationConfig, FederationError,
    discovery::{
        Ports,
        dns::{Resolver, SystemResolver},
        guard::AddressGuard,
        locate::literal,
        well_known::{Answer, WellKnown},
    },
};

/// How long an unused connection is kept.
const IDLE_TIMEOUT: Duration = Duration::from_mins(1);
/// Unused connections kept to one server.
const MAX_IDLE_PER_SERVER: usize = 4;

pub(super) type Http = Client<Connector, Full<Bytes>>;

/// Finds servers and speaks HTTPS with them. Connections are kept and used again; redirects are not
/// followed, and answers not decompressed.
pub struct HttpTransport {
    network: Arc<Network>,
    well_known: WellKnown,
    servers: Http,
    web: Http,
}

impl fmt::Debug for HttpTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpTransport").field("network", &self.network).finish_non_exhaustive()
    }
}

impl HttpTransport {
    /// Reads the certificates to trust and the system's name servers.
    pub fn new(config: &FederationConfig) -> Result<Self, FederationError> {
        let resolver = SystemResolver::new().map_err(FederationError::Config)?;
        Self::with(config, Arc::new(resolver), Ports::default())
    }

    /// The same with another way to resolve names, and other default ports.
    pub fn with(
        config: &FederationConfig,
        resolver: Arc<dyn Resolver>,
        ports: Ports,
    ) -> Result<Self, FederationError> {
        let network = Arc::new(Network {
            guard: AddressGuard::new(config.allow_networks.clone()),
            resolver,
            tls: Arc::new(tls::client_config(tls::roots(config)?)?),
            ports,
        });
        let servers = pool(&network, Purpose::Federation, MAX_IDLE_PER_SERVER);
        let web = pool(&network, Purpose::Web, MAX_IDLE_PER_SERVER);
        Ok(Self { network, well_known: WellKnown::new(), servers, web })
    }

    /// How names are found and connections made, for the command that explains it.
    #[must_use]
    pub fn network(&self) -> &Network {
        &self.network
    }

    /// Asks a host whether it delegates to another name, whatever is remembered of it.
    /// `hops` takes the addresses that it redirects to.
    pub async fn ask_well_known(&self, host: &ServerName, hops: &mut Vec<Url>) -> Answer {
        web::ask_well_known(&self.web, host, hops).await
    }

    /// The authority that requests to a server name: its own name, or what that delegates to.
    pub async fn authority(&self, server: &ServerName) -> OwnedServerName {
        // A name that says where it is delegates to nobody (steps 1 and 2).
        if literal(server.host()).is_some() || server.port().is_some() {
            return server.to_owned();
        }
        let (web, host) = (self.web.clone(), server.to_owned());
        let asked = async move { web::ask_well_known(&web, &host, &mut Vec::new()).await };
        let delegated = self.well_known.delegated(server, asked).await;
        delegated.unwrap_or_else(|| server.to_owned())
    }

    async fn exchange(
        &self,
        server: &ServerName,
        request: Request<Bytes>,
        max_bytes: usize,
    ) -> Result<Response<Bytes>, TransportError> {
        let response = self.ask(server, request).await?;
        read(server, response, max_bytes).await
    }

    /// Sends a request; the answer's body is still to come.
    async fn ask(
        &self,
        server: &ServerName,
        mut request: Request<Bytes>,
    ) -> Result<Response<Incoming>, TransportError> {
        let authority = self.authority(server).await;
        let refused =
            |reason: String| TransportError::NotFound { server: server.to_owned(), reason };
        let path = request.uri().path_and_query().map_or("/", PathAndQuery::as_str);
        *request.uri_mut() = Uri::builder()
            .scheme("https")
            .authority(authority.as_str())
            .path_and_query(path)
            .build()
            .map_err(|error| refused(error.to_string()))?;
        // As written: hyper would leave the default port of HTTPS away.
        let host = HeaderValue::from_str(authority.as_str());
        request.headers_mut().insert(header::HOST, host.map_err(|e| refused(e.to_string()))?);
        let sent = self.servers.request(request.map(Full::new)).await;
        sent.map_err(|error| failure(server, &error))
    }
}

#[async_trait]
impl Transport for HttpTransport {
    async fn send(
        &self,
        destination: &ServerName,
        request: Request<Bytes>,
        limits: Limits,
    ) -> Result<Response<Bytes>, TransportError> {
        timeout(limits.timeout, self.exchange(destination, request, limits.max_bytes))
            .await
            .unwrap_or_else(|_| Err(TransportError::TimedOut(destination.to_owned())))
    }

    async fn open(
        &self,
        destination: &ServerName,
        request: Request<Bytes>,
        limits: Limits,
    ) -> Result<Response<BodyStream>, TransportError> {
        streamed(destination, self.ask(destination, request), limits).await
    }

    async fn fetch(
        &self,
        server: &ServerName,
        url: &Url,
        limits: Limits,
    ) -> Result<Response<BodyStream>, TransportError> {
        let asked = async {
            web::fetch(&self.web, url.clone())
                .await
                .map_err(|reason| TransportError::Unreachable { server: server.to_owned(), reason })
        };
        streamed(server, asked, limits).await
    }
}

/// An answer whose body is read as it comes, all of it within the limits.
pub(super) async fn streamed(
    server: &ServerName,
    asked: impl Future<Output = Result<Response<Incoming>, TransportError>> + Send,
    limits: Limits,
) -> Result<Response<BodyStream>, TransportError> {
    let deadline = Instant::now() + limits.timeout;
    let late = || TransportError::TimedOut(server.to_owned());
    let response = timeout_at(deadline, asked).await.map_err(|_| late())??;
    let server = server.to_owned();
    Ok(response.map(|body| {
        let body = Box::pin(Limited::new(body, limits.max_bytes).into_data_stream());
        let next = move |mut body: Pin<Box<BodyDataStream<Limited<Incoming>>>>| {
            let server = server.clone();
            async move {
                let Ok(chunk) = timeout_at(deadline, body.next()).await else {
                    return Err(TransportError::TimedOut(server));
                };
                let chunk = chunk.transpose().map_err(|error| broken(server, &*error))?;
                Ok(chunk.map(|chunk| (chunk, body)))
            }
        };
        stream::try_unfold(body, next).boxed()
    }))
}

/// Why a body did not come to its end.
fn broken(server: OwnedServerName, error: &(dyn Error + Send + Sync + 'static)) -> TransportError {
    if error.is::<LengthLimitError>() {
        return TransportError::TooLarge(server);
    }
    TransportError::BrokeOff { server, reason: error.to_string() }
}

/// A pool of connections of one purpose, which keeps so many unused ones to one server.
pub(super) fn pool(network: &Arc<Network>, purpose: Purpose, max_idle: usize) -> Http {
    Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(IDLE_TIMEOUT)
        .pool_max_idle_per_host(max_idle)
        .build(Connector { network: Arc::clone(network), purpose })
}

/// Reads the whole answer, unless it is too large.
async fn read(
    server: &ServerName,
    response: Response<Incoming>,
    max_bytes: usize,
) -> Result<Response<Bytes>, TransportError> {
    let (head, body) = response.into_parts();
    match Limited::new(body, max_bytes).collect().await {
        Ok(body) => Ok(Response::from_parts(head, body.to_bytes())),
        Err(error) => Err(broken(server.to_owned(), &*error)),
    }
}

/// What became of a request without an answer.
pub(super) fn failure(server: &ServerName, error: &ClientError) -> TransportError {
    let server = server.to_owned();
    match connect_error(error) {
        Some(ConnectError::NotFound(reason)) => TransportError::NotFound { server, reason },
        Some(ConnectError::Forbidden(reason)) => {
            TransportError::ForbiddenAddress { server, reason }
        }
        Some(ConnectError::Unreachable(reason)) => TransportError::Unreachable { server, reason },
        None => TransportError::BrokeOff { server, reason: web::told(error) },
    }
}

/// Why there was no connection, if that is what failed.
pub(super) fn connect_error(error: &ClientError) -> Option<ConnectError> {
    error.source()?.downcast_ref::<ConnectError>().cloned()
}
