//! Requests to addresses that users name: push gateways, pages of the web. The same resolver, guard and pool as for federation,
//! under settings of their own.

use std::{fmt, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, Uri, header};
use http_body_util::{BodyExt as _, Full, Limited};
use ruma::OwnedServerName;
use tokio::time::timeout;
use url::Url;

use super::{
    BodyStream, Limits, TransportError,
    connect::{Network, Purpose},
    http::{Http, connect_error, failure, pool, streamed},
    tls, web,
};
use crate::{
    FederationConfig, FederationError,
    discovery::{
        Ports,
        dns::{Resolver, SystemResolver},
        guard::AddressGuard,
    },
};

/// The default port of HTTP.
const PLAIN_PORT: u16 = 80;

/// Speaks HTTPS, and plain HTTP where that is allowed, with servers anywhere but on private networks. Follows no
/// redirects. Cheap to clone.
#[derive(Clone)]
pub struct WebClient {
    pool: Http,
    plain: Option<Http>,
}

/// Why there is no whole answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct WebError(String);

impl fmt::Debug for WebClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WebClient").field("plain", &self.plain.is_some()).finish_non_exhaustive()
    }
}

impl WebClient {
    /// A client that trusts the certificates that federation trusts, and goes where the guard lets it. It keeps so many
    /// unused connections to one server.
    pub fn new(
        trust: &FederationConfig,
        guard: AddressGuard,
        allow_http: bool,
        max_idle: usize,
    ) -> Result<Self, FederationError> {
        let resolver = SystemResolver::new().map_err(FederationError::Config)?;
        Self::with(trust, guard, allow_http, max_idle, Arc::new(resolver))
    }

    /// The same with another way to resolve names.
    pub fn with(
        trust: &FederationConfig,
        guard: AddressGuard,
        allow_http: bool,
        max_idle: usize,
        resolver: Arc<dyn Resolver>,
    ) -> Result<Self, FederationError> {
        let https = Arc::new(Network {
            guard,
            resolver,
            tls: Arc::new(tls::client_config(tls::roots(trust)?)?),
            ports: Ports::default(),
        });
        let plain = allow_http.then(|| {
            let ports = Ports { https: PLAIN_PORT, ..https.ports };
            pool(&Arc::new(Network { ports, ..Network::clone(&https) }), Purpose::Web, max_idle)
        });
        Ok(Self { pool: pool(&https, Purpose::Web, max_idle), plain })
    }

    /// Asks for what is at an address, once: a redirect is the answer. The body is read as it comes, within the limits.
    pub async fn get(
        &self,
        request: Request<()>,
        limits: Limits,
    ) -> Result<Response<BodyStream>, WebError> {
        let pool = self.pool_for(request.uri().scheme_str().unwrap_or_default())?;
        let host = request.uri().authority().map_or("", |authority| authority.as_str());
        let server = OwnedServerName::try_from(host)
            .map_err(|_| WebError(format!("{host:?} is no name of a server")))?;
        let asked = async {
            let response = pool.request(request.map(|()| Full::default())).await;
            response.map_err(|error| failure(&server, &error))
        };
        let opened = streamed(&server, asked, limits).await;
        opened.map_err(|error: TransportError| WebError(error.to_string()))
    }

    /// Posts a body of JSON, and reads the whole answer.
    pub async fn post_json(
        &self,
        url: &Url,
        body: Bytes,
        limits: Limits,
    ) -> Result<Response<Bytes>, WebError> {
        let pool = self.pool_for(url.scheme())?;
        timeout(limits.timeout, exchange(pool, url, body, limits.max_bytes))
            .await
            .unwrap_or_else(|_| Err(timed_out(limits.timeout)))
    }

    fn pool_for(&self, scheme: &str) -> Result<&Http, WebError> {
        match scheme {
            "https" => Ok(&self.pool),
            "http" => {
                let plain = self.plain.as_ref();
                plain.ok_or_else(|| WebError("plain HTTP is not allowed".to_owned()))
            }
            scheme => Err(WebError(format!("{scheme} is not spoken"))),
        }
    }
}

fn timed_out(after: Duration) -> WebError {
    WebError(format!("no answer within {} seconds", after.as_secs()))
}

async fn exchange(
    pool: &Http,
    url: &Url,
    body: Bytes,
    max_bytes: usize,
) -> Result<Response<Bytes>, WebError> {
    let uri = Uri::try_from(url.as_str()).map_err(|error| WebError(error.to_string()))?;
    let mut request = Request::new(Full::new(body));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = uri;
    let json = HeaderValue::from_static("application/json");
    request.headers_mut().insert(header::CONTENT_TYPE, json);
    let response = pool.request(request).await.map_err(|error| {
        let why = connect_error(&error).map(|error| error.to_string());
        WebError(why.unwrap_or_else(|| web::told(&error)))
    })?;
    let (head, body) = response.into_parts();
    let body = Limited::new(body, max_bytes).collect().await;
    let body = body.map_err(|error| WebError(format!("its answer broke off: {error}")))?;
    Ok(Response::from_parts(head, body.to_bytes()))
}
