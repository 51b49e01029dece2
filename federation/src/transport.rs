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
use futures_util::{
    StreamExt as _,
    stream::{self, BoxStream},
};
use ruma::{OwnedServerName, ServerName};
use url::Url;

pub use self::{
    http::HttpTransport,
    web_client::{WebClient, WebError},
};

/// The body of an answer, as it comes. It ends without an error only if all of it came.
pub type BodyStream = BoxStream<'static, Result<Bytes, TransportError>>;

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
    /// It did not take the connection, or nobody behind it did.
    #[error("{server} cannot be reached: {reason}")]
    Unreachable {
        /// The server.
        server: OwnedServerName,
        /// Why.
        reason: String,
    },
    /// It took the connection, and broke it off.
    #[error("{server} broke off: {reason}")]
    BrokeOff {
        /// The server.
        server: OwnedServerName,
        /// How.
        reason: String,
    },
    /// It took too long.
    #[error("{0} did not answer in time")]
    TimedOut(OwnedServerName),
    /// Its answer is larger than the limit.
    #[error("the answer of {0} is too large")]
    TooLarge(OwnedServerName),
}

impl TransportError {
    /// Was there no connection? Then no other request would have fared better.
    pub(crate) fn is_without_connection(&self) -> bool {
        match self {
            Self::NotFound { .. } | Self::ForbiddenAddress { .. } | Self::Unreachable { .. } => {
                true
            }
            Self::BrokeOff { .. } | Self::TimedOut(_) | Self::TooLarge(_) => false,
        }
    }
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

    /// The same, but the body is read as it comes, within the same limits. A network whose answers are in memory
    /// anyway has nothing to add.
    async fn open(
        &self,
        destination: &ServerName,
        request: ::http::Request<Bytes>,
        limits: Limits,
    ) -> Result<::http::Response<BodyStream>, TransportError> {
        let response = self.send(destination, request, limits).await?;
        Ok(response.map(|body| stream::iter([Ok(body)]).boxed()))
    }

    /// Reads an address of the web that this server named, over HTTPS, redirects included. A network without a web
    /// has nothing to add.
    async fn fetch(
        &self,
        server: &ServerName,
        url: &Url,
        _limits: Limits,
    ) -> Result<::http::Response<BodyStream>, TransportError> {
        let reason = format!("there is no way to {url}");
        Err(TransportError::NotFound { server: server.to_owned(), reason })
    }
}
