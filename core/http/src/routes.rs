//! Registering one handler on every path of its endpoint.

use std::{collections::BTreeMap, fmt};

use axum::{
    Router,
    extract::{Request, State},
    response::{IntoResponse, Response},
    routing::{MethodFilter, MethodRouter, on},
};
use ruma::api::{IncomingRequest, Metadata, path_builder::PathBuilder as _};

use crate::{ApiState, Class, Lane, Reply, Ruma, Scheme, body::MAX_JSON_DEPTH, extract::extract};

/// How an endpoint is admitted.
#[derive(Clone, Copy, Debug, Default)]
pub struct Policy {
    class: Option<Class>,
    long_poll: bool,
    allow_locked: bool,
    allow_guests: bool,
    raw_body_bytes: Option<usize>,
    json_bytes: Option<usize>,
    json_depth: Option<usize>,
    required_field: Option<&'static str>,
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

    /// Guests may use the endpoint (CS "Guest Access" lists those); from all others they are refused.
    #[must_use]
    pub const fn allow_guests(mut self) -> Self {
        self.allow_guests = true;
        self
    }

    /// The body is not JSON and may have up to `max_bytes` bytes.
    #[must_use]
    pub const fn raw_body(mut self, max_bytes: usize) -> Self {
        self.raw_body_bytes = Some(max_bytes);
        self
    }

    /// The JSON body may have up to `max_bytes` bytes, whatever `http.max_json_bytes` says: for bodies
    /// that the specification bounds by the number of their parts.
    #[must_use]
    pub const fn json_body(mut self, max_bytes: usize) -> Self {
        self.json_bytes = Some(max_bytes);
        self
    }

    /// The JSON body may be nested so deep: for bodies whose deep parts the endpoint's type leaves
    /// unparsed, and looks at one by one.
    #[must_use]
    pub const fn json_depth(mut self, max_depth: usize) -> Self {
        self.json_depth = Some(max_depth);
        self
    }

    /// The body must have this field, or is refused with `M_BAD_JSON` before ruma sees it. For types
    /// that would panic without it, such as login's without `type`. (Any panic while a request is
    /// parsed ends in the same error, but not before the panic hook has printed it.)
    #[must_use]
    pub const fn require(mut self, field: &'static str) -> Self {
        self.required_field = Some(field);
        self
    }
}

impl Policy {
    /// The policy with the class that the endpoint's own metadata asks for, unless another was chosen.
    fn resolved<T: Metadata>(mut self) -> Self {
        self.class = self.class.or(T::RATE_LIMITED.then_some(Class::General));
        self
    }

    pub(crate) fn limited_as(&self) -> Option<Class> {
        self.class
    }

    pub(crate) fn allows_locked(&self) -> bool {
        self.allow_locked
    }

    pub(crate) fn allows_guests(&self) -> bool {
        self.allow_guests
    }

    pub(crate) fn raw_body_bytes(&self) -> Option<usize> {
        self.raw_body_bytes
    }

    pub(crate) fn json_bytes(&self) -> Option<usize> {
        self.json_bytes
    }

    pub(crate) fn max_json_depth(&self) -> usize {
        self.json_depth.unwrap_or(MAX_JSON_DEPTH)
    }

    pub(crate) fn required_field(&self) -> Option<&'static str> {
        self.required_field
    }

    fn lane(&self) -> Lane {
        if self.long_poll { Lane::LongPoll } else { Lane::Short }
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
#[must_use]
pub struct Endpoints<S> {
    /// By path with nameless parameters: two endpoints may name the same parameter differently, which
    /// the router beneath takes for a conflict.
    routes: BTreeMap<String, (String, MethodRouter<S>)>,
}

impl<S: ApiState> Endpoints<S> {
    /// No endpoints.
    pub fn new() -> Self {
        Self { routes: BTreeMap::new() }
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
    pub fn ruma_with<H, T, I>(mut self, policy: impl Into<Policy>, handler: H) -> Self
    where
        H: Handler<S, T, I>,
        T: IncomingRequest + Send + 'static,
        T::Authentication: Scheme<S, Identity = I>,
        I: Send + 'static,
    {
        let policy = policy.into().resolved::<T>();
        let Ok(filter) = MethodFilter::try_from(T::METHOD) else {
            panic!("no route can have the method {}", T::METHOD);
        };
        let endpoint = move |State(state): State<S>, request: Request| {
            let handler = handler.clone();
            async move { serve(state, policy, handler, request).await }
        };
        for path in T::PATH_BUILDER.all_paths().flat_map(variants) {
            self = self.route(path, on(filter, endpoint.clone()));
        }
        self
    }

    /// Registers what is not an endpoint of ruma's. Its handler takes a [`Caller`](crate::Caller) and a
    /// [`Json`](crate::Json) body where it needs them, and bounds itself by
    /// [`Http::admit`](crate::Http::admit) if it does more than a moment's work.
    ///
    /// # Panics
    ///
    /// As [`ruma`](Self::ruma).
    pub fn route(mut self, path: &str, methods: MethodRouter<S>) -> Self {
        let (path, methods) = match self.routes.remove(&nameless(path)) {
            Some((first, registered)) => (first, registered.merge(methods)),
            None => (path.to_owned(), methods),
        };
        self.routes.insert(nameless(&path), (path, methods));
        self
    }

    /// Adds another set of endpoints.
    ///
    /// # Panics
    ///
    /// As [`ruma`](Self::ruma).
    pub fn merge(self, other: Self) -> Self {
        let routes = other.routes.into_values();
        routes.fold(self, |all, (path, methods)| all.route(&path, methods))
    }

    /// The paths registered so far, with `{parameters}`, in no useful order.
    pub fn paths(&self) -> impl Iterator<Item = &str> {
        self.routes.values().map(|(path, _)| path.as_str())
    }

    /// The endpoints with their state. Routers of several APIs are merged, then
    /// [`finish`](crate::finish)ed once.
    pub fn into_router(self, state: S) -> Router {
        let all = self.routes.into_values();
        all.fold(Router::new(), |router, (path, methods)| router.route(&path, methods))
            .with_state(state)
    }
}

/// The path with its parameters' names removed: `/rooms/{}/join`.
fn nameless(path: &str) -> String {
    let segments = path.split('/').map(|segment| match segment.strip_prefix('{') {
        Some(_) => "{}",
        None => segment,
    });
    segments.collect::<Vec<_>>().join("/")
}

/// The paths that mean the same endpoint: an empty state key may be left out, and a slash at the end.
fn variants(path: &'static str) -> impl Iterator<Item = &'static str> {
    let without_key = path.strip_suffix("{state_key}");
    let shortest = without_key.unwrap_or(path).strip_suffix('/');
    [Some(path), without_key, shortest].into_iter().flatten()
}

/// One request, from admission to response.
async fn serve<S, H, T, I>(state: S, policy: Policy, handler: H, request: Request) -> Response
where
    S: ApiState,
    H: Handler<S, T, I>,
    T: IncomingRequest,
    T::Authentication: Scheme<S, Identity = I>,
{
    let _place = match state.http().admit(policy.lane()) {
        Ok(place) => place,
        Err(error) => return error.into_response(),
    };
    match extract(&state, &policy, request).await {
        Ok(request) => handler.call(state, request).await,
        Err(error) => error.into_response(),
    }
}

impl<S: ApiState> Default for Endpoints<S> {
    fn default() -> Self {
        Self::new()
    }
}

impl<S> fmt::Debug for Endpoints<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let paths = self.routes.values().map(|(path, _)| path);
        f.debug_set().entries(paths).finish()
    }
}
