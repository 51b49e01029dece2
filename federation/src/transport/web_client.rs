//! Requests to addresses that users name: push gateways. The same resolver, guard and pool as for federation,
//! under settings of their own.

use std::{fmt, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, Uri, header};
use http_body_util::{BodyExt as _, Full, Limited};
use ipnet::IpNet;
use tokio::time::timeout;
use url::Url;

use super::{
    Limits,
    connect::{Network, Purpose},
    http::{Http, connect_error, pool},
    tls, web,
};
use crate::{
    FederationConfig, FederationError,
    discovery::{Ports, dns::SystemResolver, guard::AddressGuard},
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
    /// A client that trusts the certificates that federation trusts, and may also go to these networks, which
    /// are the configuration's `setting`.
    pub fn new(
        trust: &FederationConfig,
        allowed: Vec<IpNet>,
        setting: &'static str,
        allow_http: bool,
    ) -> Result<Self, FederationError> {
        let https = Arc::new(Network {
            guard: AddressGuard::of_setting(allowed, setting),
            resolver: Arc::new(SystemResolver::new().map_err(FederationError::Config)?),
            tls: Arc::new(tls::client_config(tls::roots(trust)?)?),
            ports: Ports::default(),
        });
        let plain = allow_http.then(|| {
            let ports = Ports { https: PLAIN_PORT, ..https.ports };
            pool(&Arc::new(Network { ports, ..Network::clone(&https) }), Purpose::Web)
        });
        Ok(Self { pool: pool(&https, Purpose::Web), plain })
    }

    /// Posts a body of JSON, and reads the whole answer.
    pub async fn post_json(
        &self,
        url: &Url,
        body: Bytes,
        limits: Limits,
    ) -> Result<Response<Bytes>, WebError> {
        let pool = match url.scheme() {
            "https" => &self.pool,
            "http" => {
                let plain = self.plain.as_ref();
                plain.ok_or_else(|| WebError("plain HTTP is not allowed".to_owned()))?
            }
            scheme => return Err(WebError(format!("{scheme} is not spoken"))),
        };
        timeout(limits.timeout, exchange(pool, url, body, limits.max_bytes))
            .await
            .unwrap_or_else(|_| Err(timed_out(limits.timeout)))
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
