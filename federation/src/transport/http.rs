//! HTTPS.

use std::fmt;

use async_trait::async_trait;
use bytes::Bytes;
use http::{Request, Response};
use ruma::ServerName;

use super::{Limits, Transport, TransportError};
use crate::{FederationConfig, FederationError};

/// The real network.
pub struct HttpTransport(());

impl fmt::Debug for HttpTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpTransport").finish_non_exhaustive()
    }
}

impl HttpTransport {
    /// Reads the certificates to trust and the system's name servers.
    pub fn new(_config: &FederationConfig) -> Result<Self, FederationError> {
        Ok(Self(()))
    }
}

#[async_trait]
impl Transport for HttpTransport {
    async fn send(
        &self,
        _destination: &ServerName,
        _request: Request<Bytes>,
        _limits: Limits,
    ) -> Result<Response<Bytes>, TransportError> {
        unimplemented!("fed-transport")
    }
}
