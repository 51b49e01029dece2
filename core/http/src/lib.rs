//! axum glue for ruma's endpoint types: extracts, authenticates, limits and responds.
//!
//! This crate owns what every HTTP API of the server does alike: paths, methods, tokens, bodies, error
//! bodies, CORS, rate limits, tracing and shutdown. It knows no endpoint, no user and no room: who owns
//! a token is the [`Authenticate`] implementation's to say.
//!
//! # One endpoint, end to end
//!
//! ```
//! use hearth_http::{
//!     ApiState, Authenticate, Endpoints, Http, MatrixError, Ruma, Session, TokenError,
//! };
//! use ruma::{OwnedUserId, UserId, api::client::account::whoami};
//!
//! #[derive(Clone)]
//! struct App {
//!     http: Http, // beside it: `Arc`s of the domain crates
//! }
//!
//! struct LocalUser {
//!     user_id: OwnedUserId,
//! }
//!
//! impl Session for LocalUser {
//!     fn user_id(&self) -> &UserId {
//!         &self.user_id
//!     }
//! }
//!
//! impl ApiState for App {
//!     fn http(&self) -> &Http {
//!         &self.http
//!     }
//! }
//!
//! impl Authenticate for App {
//!     type Session = LocalUser;
//!
//!     async fn authenticate(
//!         &self,
//!         token: &str,
//!         _address: Option<std::net::IpAddr>,
//!     ) -> Result<LocalUser, TokenError> {
//!         # _ = token;
//!         // hash the token, look it up …
//!         Err(TokenError::Unknown)
//!     }
//! }
//!
//! /// `GET /_matrix/client/*/account/whoami`: the compiler demands `LocalUser`, since ruma says that
//! /// the endpoint needs an access token.
//! async fn whoami(
//!     _app: App,
//!     request: Ruma<whoami::v3::Request, LocalUser>,
//! ) -> Result<whoami::v3::Response, MatrixError> {
//!     Ok(whoami::v3::Response::new(request.identity.user_id, false))
//! }
//!
//! fn router(app: App) -> axum::Router {
//!     hearth_http::finish(Endpoints::new().ruma(whoami).into_router(app))
//! }
//! ```
//!
//! # What a handler meets
//!
//! - A handler may return its own error type, if that becomes a response through [`MatrixError`]: an API
//!   crate wraps it once (`struct ApiError(MatrixError)`) and maps its domain errors with `From`.
//! - Raw parts of a request (`Raw`, `Box<RawValue>`) are valid JSON of at most 100 levels, and nothing
//!   more: they may hold numbers that no type holds (`1e999`) and the same key twice. Read them into a
//!   type with an error path; `json!` and `to_value` panic on such numbers.
//! - [`Policy`] says how an endpoint is admitted: its [`Class`] of rate limits, whether it is a long-poll,
//!   whether locked accounts may use it, whether its body is JSON.
//! - Requests are refused in this order: unknown path (404) or method (405), server full (429), address
//!   limit (429), token (401), account locked (401), user limit (429), body too large (413), body or
//!   parameters wrong (400).

mod address;
mod auth;
mod body;
mod config;
mod context;
mod error;
mod extract;
mod front;
mod held;
mod limit;
mod plain;
mod reply;
mod routes;
mod shutdown;

pub use self::{
    address::{Network, NetworkError},
    auth::{ApiState, Authenticate, Scheme, Session, TokenError},
    config::{ClassLimits, HttpConfig, HttpConfigError, Rate, RateLimits},
    context::{Admission, Http, Lane},
    error::MatrixError,
    extract::Ruma,
    front::finish,
    held::until_sent,
    limit::{Class, Limiter},
    plain::{Caller, Json},
    reply::{RawJson, RawResponse, Reply},
    routes::{Endpoints, Handler, Policy},
    shutdown::Shutdown,
};
