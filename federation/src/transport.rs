//! HTTP to a server by its name. The one place where this crate touches the network, so that
//! simulations can put another one here.

pub mod connect;
mod http;
pub(crate) mod tls;
mod web;
mod web_client;

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use ruma::{OwnedServerName, ServerName};

pub use self::{
    http::HttpTransport,
    web_client::{WebClient, WebError},
};

/// How long and how large an answer may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// From the request to the end of the answer.
    pub timeout: Duration,
    /// Bytes of the answer's body.
    pub max_bytes: usize,
}

/// Why a server was not reached, or no whole answer came.
#[derive(Clone, Debug, thiserror::Error)]
pub enum TransportError {
    /// It was not found: discovery's last word.
    #[error("{server} was not found: {reason}")]
    NotFound {
        /// The server.
        server: OwnedServerName,
        /// Why.
        reason: String,
    },
    /// Its address is private or loopback, and not allowed.
    #[error("{server} is at an address that is not allowed: {reason}")]
    ForbiddenAddress {
        /// The server.
        server: OwnedServerName,
        /// Which.
        reason: String,
    },
    /// It did not take the connection, or broke it off.
    #[error("{server} cannot be reached: {reason}")]
    Unreachable {
        /// The server.
        server: OwnedServerName,
        /// Why.
        reason: String,
    },
    /// It took too long.
    #[error("{0} did not answer in time")]
    TimedOut(OwnedServerName),
    /// Its answer is larger than the limit.
    #[error("the answer of {0} is too large")]
    TooLarge(OwnedServerName),
}

/// A way to speak to servers.
#[async_trait]
pub trait Transport: Send + Sync + 'static {
    /// Sends a request, whose URI is only path and query, to the server of this name, wherever that
    /// is, and reads the whole answer.
    async fn send(
        &self,
        destination: &ServerName,
        request: ::http::Request<Bytes>,
        limits: Limits,
    ) -> Result<::http::Response<Bytes>, TransportError>;
}
