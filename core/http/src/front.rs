//! What every response has in common, whatever route it comes from: CORS, a request ID, a log line.

use std::{
    any::Any,
    convert::Infallible,
    fmt,
    future::ready,
    hash::{BuildHasher as _, RandomState},
    panic::AssertUnwindSafe,
    pin::Pin,
    sync::{
        LazyLock,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Instant,
};

use axum::{
    Router,
    extract::{MatchedPath, Request},
    response::{IntoResponse as _, Response},
};
use futures_util::FutureExt as _;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use tower::{Layer, Service};
use tracing::Instrument as _;

use crate::{MatrixError, error::InternalCause};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The finished service of one or more APIs: answers unknown paths (404) and methods (405) with
/// `M_UNRECOGNIZED` and every `OPTIONS` with 204, adds CORS headers (CS "Web browser clients") and a
/// request ID to every response, logs, and turns panics into 500. Call it once, last: routes added
/// later are not covered.
///
/// Requests are logged at `debug`, those that end in 5xx at `error`, with the route's pattern and never
/// with the path or query itself: tokens and names live there.
pub fn finish(router: Router) -> Router {
    router
        .fallback(ready_error(MatrixError::unrecognized))
        .method_not_allowed_fallback(ready_error(MatrixError::method_not_allowed))
        .layer(FrontLayer)
}

fn ready_error(
    error: fn(&'static str) -> MatrixError,
) -> impl Fn() -> std::future::Ready<MatrixError> + Clone + Send + Sync + 'static {
    move || ready(error("Unrecognized request"))
}

#[derive(Clone, Copy, Debug)]
struct FrontLayer;

impl<S> Layer<S> for FrontLayer {
    type Service = Front<S>;

    fn layer(&self, inner: S) -> Front<S> {
        Front { inner }
    }
}

#[derive(Clone, Debug)]
struct Front<S> {
    inner: S,
}

impl<S> Service<Request> for Front<S>
where
    S: Service<Request, Response = Response, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let started = Instant::now();
        let request_id = RequestId::next();
        let method = request.method().clone();
        if method == Method::OPTIONS {
            let mut response = StatusCode::NO_CONTENT.into_response();
            add_headers(response.headers_mut(), request_id);
            return Box::pin(ready(Ok(response)));
        }
        let path = request.extensions().get::<MatchedPath>().cloned();
        let span = tracing::debug_span!(
            "request",
            %method,
            path = path.as_ref().map_or("-", MatchedPath::as_str),
            %request_id,
        );
        let work = AssertUnwindSafe(self.inner.call(request).instrument(span.clone()));
        Box::pin(async move {
            let mut response = match work.catch_unwind().await {
                Ok(Ok(response)) => response,
                Ok(Err(never)) => match never {},
                Err(panic) => {
                    MatrixError::internal(&format_args!("panic: {}", panic_message(&*panic)))
                        .into_response()
                }
            };
            add_headers(response.headers_mut(), request_id);
            let status = response.status();
            if status.is_server_error() {
                // Complete in itself: at the usual level there is no span around it.
                tracing::error!(
                    %method,
                    path = path.as_ref().map_or("-", MatchedPath::as_str),
                    %request_id,
                    status = status.as_u16(),
                    latency_us = started.elapsed().as_micros(),
                    cause = response.extensions().get::<InternalCause>().map(|cause| &*cause.0),
                    "request failed",
                );
            } else {
                span.in_scope(|| {
                    tracing::debug!(
                        status = status.as_u16(),
                        latency_us = started.elapsed().as_micros(),
                        "request done",
                    );
                });
            }
            Ok(response)
        })
    }
}

fn add_headers(headers: &mut HeaderMap, request_id: RequestId) {
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    headers.insert(
        header::ACCESS_CONTROL_ALLOW_METHODS,
        HeaderValue::from_static("GET, POST, PUT, DELETE, OPTIONS"),
    );
    headers.insert(
        header::ACCESS_CONTROL_ALLOW_HEADERS,
        HeaderValue::from_static("X-Requested-With, Content-Type, Authorization"),
    );
    if let Ok(value) = HeaderValue::from_str(&request_id.to_string()) {
        headers.insert(REQUEST_ID, value);
    }
}

fn panic_message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&'static str>().copied();
    text.or_else(|| panic.downcast_ref().map(String::as_str)).unwrap_or("without a message")
}

/// Names one request in logs and towards its client. Unique within a run of the server and unlikely to
/// recur in another; guessing one gives nothing.
#[derive(Clone, Copy, Debug)]
struct RequestId(u64);

impl RequestId {
    fn next() -> Self {
        static SEED: LazyLock<u64> = LazyLock::new(|| RandomState::new().hash_one(0));
        static COUNT: AtomicU64 = AtomicU64::new(0);
        // An odd multiplier permutes the numbers, so that neighbors do not look alike.
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        Self(SEED.wrapping_add(count.wrapping_mul(0x9e37_79b9_7f4a_7c15)))
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}
