//! How a bucket is spoken to: over HTTP/1.1, with the TLS that everything else of this server speaks.

use std::{error::Error, io, sync::Arc, time::Duration};

use async_trait::async_trait;
use futures_util::StreamExt as _;
use http_body_util::{BodyDataStream, StreamBody};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, Error as ClientError, connect::HttpConnector as Tcp},
    rt::{TokioExecutor, TokioTimer},
};
use object_store::{
    ClientOptions,
    client::{
        HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpRequestBody,
        HttpResponse, HttpResponseBody, HttpService,
    },
};
use rustls::{ClientConfig, RootCertStore, crypto::ring};
use tokio::time::timeout;

use crate::PART_BYTES;

/// How long a connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long an answer may take to begin, with all that is sent before it.
const ANSWER_TIMEOUT: Duration = Duration::from_mins(2);
/// How long an answer may stand still.
const READ_TIMEOUT: Duration = Duration::from_secs(30);
/// How long an unused connection is kept.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// Makes the client.
#[derive(Debug)]
pub(super) struct Connector;

impl HttpConnector for Connector {
    fn connect(&self, _options: &ClientOptions) -> object_store::Result<HttpClient> {
        let failed = |error: rustls::Error| object_store::Error::Generic {
            store: "S3",
            source: Box::new(error),
        };
        let mut tcp = Tcp::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(CONNECT_TIMEOUT));
        let https = HttpsConnectorBuilder::new()
            .with_tls_config(tls().map_err(failed)?)
            .https_or_http()
            .enable_http1()
            .wrap_connector(tcp);
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_TIMEOUT)
            .http1_max_buf_size(PART_BYTES)
            .build(https);
        Ok(HttpClient::new(Service(client)))
    }
}

/// TLS that trusts whom the system trusts.
fn tls() -> Result<ClientConfig, rustls::Error> {
    let mut roots = RootCertStore::empty();
    let native = rustls_native_certs::load_native_certs();
    for error in &native.errors {
        tracing::warn!(%error, "cannot read a certificate that the system trusts");
    }
    roots.add_parsable_certificates(native.certs);
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let builder = builder.with_safe_default_protocol_versions()?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

#[derive(Debug)]
struct Service(Client<HttpsConnector<Tcp>, HttpRequestBody>);

#[async_trait]
impl HttpService for Service {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let response = match timeout(ANSWER_TIMEOUT, self.0.request(request)).await {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => return Err(HttpError::new(kind_of(&error), error)),
            Err(_) => return Err(stands_still()),
        };
        Ok(response.map(|body| {
            let chunks = Box::pin(BodyDataStream::new(body));
            let next = |mut chunks: std::pin::Pin<Box<BodyDataStream<_>>>| async move {
                let chunk = match timeout(READ_TIMEOUT, chunks.next()).await {
                    Err(_) => Err(stands_still()),
                    Ok(None) => return None,
                    Ok(Some(chunk)) => chunk.map_err(broken),
                };
                Some((chunk.map(hyper::body::Frame::data), chunks))
            };
            HttpResponseBody::new(StreamBody::new(futures_util::stream::unfold(chunks, next)))
        }))
    }
}

fn stands_still() -> HttpError {
    let error = io::Error::new(io::ErrorKind::TimedOut, "the bucket does not answer");
    HttpError::new(HttpErrorKind::Timeout, error)
}

fn broken(error: hyper::Error) -> HttpError {
    HttpError::new(HttpErrorKind::Interrupted, error)
}

/// What may be tried again: what never arrived, and what broke off.
fn kind_of(error: &ClientError) -> HttpErrorKind {
    if error.is_connect() {
        return HttpErrorKind::Connect;
    }
    let mut cause = error.source();
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<hyper::Error>()
            && (error.is_closed() || error.is_incomplete_message() || error.is_body_write_aborted())
        {
            return HttpErrorKind::Request;
        }
        if error.is::<io::Error>() {
            return HttpErrorKind::Interrupted;
        }
        cause = error.source();
    }
    HttpErrorKind::Unknown
}
