//! Registering one handler on every path of its endpoint.

use axum::{
    Router,
    response::{IntoResponse, Response},
    routing::MethodRouter,
};
use ruma::api::IncomingRequest;

use crate::{ApiState, Class, Reply, Ruma, Scheme};

/// How an endpoint is admitted.
#[derive(Clone, Copy, Debug, Default)]
pub struct Policy {
    class: Option<Class>,
    long_poll: bool,
    allow_locked: bool,
    raw_body_bytes: Option<usize>,
}

impl Policy {
    /// The endpoint spends from the limits of `class`. Without this, endpoints that the specification
    /// marks as rate-limited are [`Class::General`] and the rest spend nothing.
    #[must_use]
    pub const fn class(mut self, class: Class) -> Self {
        self.class = Some(class);
        self
    }

    /// The endpoint may wait for news: it counts as a long-poll, not as a request in flight.
    #[must_use]
    pub const fn long_poll(mut self) -> Self {
        self.long_poll = true;
        self
    }

    /// Locked accounts may use the endpoint (logout and logout all).
    #[must_use]
    pub const fn allow_locked(mut self) -> Self {
        self.allow_locked = true;
        self
    }

    /// The body is not JSON and may have up to `max_bytes` bytes.
    #[must_use]
    pub const fn raw_body(mut self, max_bytes: usize) -> Self {
        self.raw_body_bytes = Some(max_bytes);
        self
    }
}

impl From<Class> for Policy {
    fn from(class: Class) -> Self {
        Self::default().class(class)
    }
}

/// A function that serves the endpoint `T`:
/// `async fn(S, Ruma<T, I>) -> Result<impl Reply<T>, impl IntoResponse>`.
pub trait Handler<S, T, I>: Clone + Send + Sync + 'static {
    /// Runs the handler.
    fn call(self, state: S, request: Ruma<T, I>) -> impl Future<Output = Response> + Send;
}

impl<F, Fut, S, T, I, R, E> Handler<S, T, I> for F
where
    F: FnOnce(S, Ruma<T, I>) -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = Result<R, E>> + Send,
    R: Reply<T>,
    E: IntoResponse,
{
    fn call(self, state: S, request: Ruma<T, I>) -> impl Future<Output = Response> + Send {
        let reply = self(state, request);
        async move {
            match reply.await {
                Ok(reply) => reply.into_response(),
                Err(error) => error.into_response(),
            }
        }
    }
}

/// The endpoints of an API under construction.
#[derive(Debug)]
#[must_use]
pub struct Endpoints<S> {
    router: Router<S>,
}

impl<S: ApiState> Endpoints<S> {
    /// No endpoints.
    pub fn new() -> Self {
        Self { router: Router::new() }
    }

    /// Registers a handler under its endpoint's method on each of its paths, stable and unstable.
    /// A path that ends with a state key is also registered without it, with and without the slash.
    ///
    /// # Panics
    ///
    /// If another handler has the same method and path: a mistake in the program, seen at start.
    pub fn ruma<H, T, I>(self, handler: H) -> Self
    where
        H: Handler<S, T, I>,
        T: IncomingRequest + Send + 'static,
        T::Authentication: Scheme<S, Identity = I>,
        I: Send + 'static,
    {
        self.ruma_with(Policy::default(), handler)
    }

    /// The same, admitted under another [`Policy`] (or just a [`Class`]).
    ///
    /// # Panics
    ///
    /// As [`ruma`](Self::ruma).
    pub fn ruma_with<H, T, I>(self, policy: impl Into<Policy>, handler: H) -> Self
    where
        H: Handler<S, T, I>,
        T: IncomingRequest + Send + 'static,
        T::Authentication: Scheme<S, Identity = I>,
        I: Send + 'static,
    {
        _ = (policy.into(), handler);
        todo!()
    }

    /// Registers what is not an endpoint of ruma's. Such a handler limits itself, by
    /// [`Http::admit`](crate::Http::admit) and [`Http::limiter`](crate::Http::limiter).
    ///
    /// # Panics
    ///
    /// As [`ruma`](Self::ruma).
    pub fn route(mut self, path: &str, methods: MethodRouter<S>) -> Self {
        self.router = self.router.route(path, methods);
        self
    }

    /// Adds another set of endpoints.
    ///
    /// # Panics
    ///
    /// As [`ruma`](Self::ruma).
    pub fn merge(mut self, other: Self) -> Self {
        self.router = self.router.merge(other.router);
        self
    }

    /// The endpoints with their state. Routers of several APIs are merged, then [`finish`]ed once.
    pub fn into_router(self, state: S) -> Router {
        _ = state;
        todo!()
    }
}

impl<S: ApiState> Default for Endpoints<S> {
    fn default() -> Self {
        Self::new()
    }
}

/// The finished service of one or more APIs: answers unknown paths (404) and methods (405) with
/// `M_UNRECOGNIZED` and every `OPTIONS` with 204, adds CORS headers and a request ID to every response,
/// traces, and turns panics into 500. Call it once, last: routes added later are not covered.
pub fn finish(router: Router) -> Router {
    _ = router;
    todo!()
}
