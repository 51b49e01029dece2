//! One virtual client's connection: HTTP/1.1 with keep-alive, opened when first needed.

use std::error::Error;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue};
use http::{Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// Longest wait for one answer, long-polls included.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(150);
/// Largest body that is read.
const MAX_BODY_BYTES: usize = 256 * 1024 * 1024;
/// Longest excerpt of an error's body that is kept for the report.
const MAX_EXCERPT_CHARS: usize = 200;

/// Why a request did not succeed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RequestError {
    /// The connection could not be opened.
    #[error("cannot connect: {0}")]
    Connect(#[from] std::io::Error),
    /// The connection broke, or what came was no HTTP.
    #[error("connection failed: {0}")]
    Http(#[from] hyper::Error),
    /// The request could not be formed.
    #[error("cannot form the request: {0}")]
    Request(#[from] http::Error),
    /// The body was too large or broke off.
    #[error("cannot read the body: {0}")]
    Body(String),
    /// No answer within the time limit.
    #[error("no answer within {ANSWER_TIMEOUT:?}")]
    Timeout,
    /// The server answered with something else than success.
    #[error("{status}: {excerpt}")]
    Status {
        /// The answer's status.
        status: StatusCode,
        /// The whole body.
        body: Bytes,
        /// The start of the body, for people.
        excerpt: String,
    },
    /// A 200 without a field that the specification requires.
    #[error("the answer has no usable `{0}`")]
    Missing(&'static str),
}

/// Where the server listens. Only plain HTTP: TLS would measure something else.
#[derive(Debug)]
pub(crate) struct Target {
    authority: String,
    host: HeaderValue,
}

impl Target {
    /// Reads `url`, which must be `http://host:port` without a path.
    pub(crate) fn parse(url: &str) -> Result<Self, String> {
        let parsed = url::Url::parse(url).map_err(|error| format!("{url}: {error}"))?;
        if parsed.scheme() != "http" || !matches!(parsed.path(), "" | "/") {
            return Err(format!("{url}: expected http://host:port"));
        }
        let host = parsed.host_str().ok_or_else(|| format!("{url}: no host"))?;
        let authority = format!("{host}:{}", parsed.port_or_known_default().unwrap_or(80));
        let host = HeaderValue::from_str(&authority).map_err(|error| format!("{url}: {error}"))?;
        Ok(Self { authority, host })
    }

    /// `host:port`.
    pub(crate) fn authority(&self) -> &str {
        &self.authority
    }
}

/// An answer's body, as far as it is read.
type AnswerBody = Limited<Incoming>;
type BodyError = Box<dyn Error + Send + Sync>;
type Driver = http1::Connection<TokioIo<TcpStream>, Full<Bytes>>;

/// An open connection. The driver is polled inside each request instead of by a task of its own, which saves a wake-up per request.
struct Open {
    sender: http1::SendRequest<Full<Bytes>>,
    driver: Pin<Box<Driver>>,
}

/// A connection that carries one request at a time and is reopened after a failure.
pub(crate) struct Connection {
    target: Arc<Target>,
    open: Option<Open>,
}

impl Connection {
    /// A connection to `target`, not opened yet.
    pub(crate) fn new(target: Arc<Target>) -> Self {
        Self { target, open: None }
    }

    /// Sends a request and reads the whole answer, which must tell of success.
    pub(crate) async fn request(
        &mut self,
        method: Method,
        path_and_query: &str,
        authorization: Option<&HeaderValue>,
        body: Option<Bytes>,
    ) -> Result<Bytes, RequestError> {
        let request = self.build(method, path_and_query, authorization, body)?;
        self.answer(request, async |body| Ok(body.collect().await?.to_bytes())).await
    }

    /// Gets something and lets go of it as it comes; says how many bytes it has.
    pub(crate) async fn count(
        &mut self,
        path_and_query: &str,
        authorization: Option<&HeaderValue>,
    ) -> Result<u64, RequestError> {
        let request = self.build(Method::GET, path_and_query, authorization, None)?;
        let count = async |mut body: AnswerBody| {
            let mut bytes = 0;
            while let Some(frame) = body.frame().await {
                bytes += frame?.data_ref().map_or(0, |data| data.len() as u64);
            }
            Ok(bytes)
        };
        self.answer(request, count).await
    }

    async fn answer<T>(
        &mut self,
        request: Request<Full<Bytes>>,
        read: impl AsyncFnOnce(AnswerBody) -> Result<T, BodyError>,
    ) -> Result<T, RequestError> {
        // A connection that fails, or that is left amid an answer, is not put back.
        let result = tokio::time::timeout(ANSWER_TIMEOUT, self.exchange(request, read)).await;
        result.unwrap_or(Err(RequestError::Timeout))
    }

    fn build(
        &self,
        method: Method,
        path_and_query: &str,
        authorization: Option<&HeaderValue>,
        body: Option<Bytes>,
    ) -> Result<Request<Full<Bytes>>, RequestError> {
        let uri: Uri = path_and_query.parse().map_err(http::Error::from)?;
        let mut request =
            Request::builder().method(method).uri(uri).header(HOST, self.target.host.clone());
        if let Some(authorization) = authorization {
            request = request.header(AUTHORIZATION, authorization.clone());
        }
        if body.is_some() {
            request = request.header(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        Ok(request.body(Full::new(body.unwrap_or_default()))?)
    }

    async fn exchange<T>(
        &mut self,
        request: Request<Full<Bytes>>,
        read: impl AsyncFnOnce(AnswerBody) -> Result<T, BodyError>,
    ) -> Result<T, RequestError> {
        let mut open = match self.open.take() {
            Some(open) if !open.sender.is_closed() => open,
            _ => connect(&self.target).await?,
        };
        let (result, ended) = open.exchange(request, read).await;
        if matches!(result, Ok(_) | Err(RequestError::Status { .. })) && !ended {
            self.open = Some(open);
        }
        result
    }
}

impl Open {
    /// The answer to `request`, and whether the connection has ended with it.
    async fn exchange<T>(
        &mut self,
        request: Request<Full<Bytes>>,
        read: impl AsyncFnOnce(AnswerBody) -> Result<T, BodyError>,
    ) -> (Result<T, RequestError>, bool) {
        let Self { sender, driver } = self;
        let answer = async {
            let response = sender.send_request(request).await?;
            let status = response.status();
            let body = Limited::new(response.into_body(), MAX_BODY_BYTES);
            let failed = |error: BodyError| RequestError::Body(error.to_string());
            if status.is_success() {
                return read(body).await.map_err(failed);
            }
            let body = body.collect().await.map_err(failed)?.to_bytes();
            let excerpt = String::from_utf8_lossy(&body).chars().take(MAX_EXCERPT_CHARS).collect();
            Err(RequestError::Status { status, body, excerpt })
        };
        tokio::pin!(answer);
        tokio::select! {
            biased;
            answer = &mut answer => (answer, false),
            // What an ended driver has read is still to be taken; `answer` cannot stay pending then.
            ended = driver => match ended {
                Ok(()) => (answer.await, true),
                Err(error) => (Err(error.into()), true),
            },
        }
    }
}

async fn connect(target: &Target) -> Result<Open, RequestError> {
    let stream = TcpStream::connect(target.authority()).await?;
    stream.set_nodelay(true)?;
    let (sender, driver) = http1::handshake(TokioIo::new(stream)).await?;
    Ok(Open { sender, driver: Box::pin(driver) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::Gateway;

    #[tokio::test]
    async fn a_body_can_be_counted_instead_of_kept() {
        let gateway = Gateway::start().unwrap();
        let url = gateway.url();
        let (base, path) = url.split_at(url.find("/_matrix").unwrap());
        let mut connection = Connection::new(Arc::new(Target::parse(base).unwrap()));
        let body = connection.request(Method::GET, path, None, None).await.unwrap();
        for _ in 0..2 {
            let counted = connection.count(path, None).await.unwrap();
            assert_eq!(counted, body.len() as u64);
        }
    }

    #[test]
    fn targets_are_plain_http_without_a_path() {
        assert_eq!(Target::parse("http://127.0.0.1:8008").unwrap().authority(), "127.0.0.1:8008");
        assert_eq!(Target::parse("http://localhost/").unwrap().authority(), "localhost:80");
        assert!(Target::parse("https://localhost").is_err());
        assert!(Target::parse("http://localhost/matrix").is_err());
        assert!(Target::parse("localhost").is_err());
    }
}
