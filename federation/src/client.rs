//! Requests to other servers: signed, gated by the configuration and by backoff, and read back.

use std::{fmt, sync::Arc};

use hearth_types::ServerIdentity;
use ruma::{
    ServerName,
    api::{
        OutgoingRequest, auth_scheme::NoAuthentication,
        federation::authentication::ServerSignatures,
    },
};

use crate::{
    FederationConfig, RemoteError,
    destinations::Destinations,
    transport::{Limits, Transport},
};

/// Sends requests to other servers. Cheap to clone.
#[derive(Clone)]
pub struct Client(Arc<Inner>);

struct Inner {
    identity: Arc<ServerIdentity>,
    transport: Arc<dyn Transport>,
    destinations: Destinations,
    config: FederationConfig,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("identity", &self.0.identity).finish_non_exhaustive()
    }
}

impl Client {
    /// A client that speaks in the name of `identity`.
    #[must_use]
    pub fn new(
        identity: Arc<ServerIdentity>,
        transport: Arc<dyn Transport>,
        destinations: Destinations,
        config: FederationConfig,
    ) -> Self {
        Self(Arc::new(Inner { identity, transport, destinations, config }))
    }

    /// The limits of ordinary requests.
    #[must_use]
    pub fn limits(&self) -> Limits {
        unimplemented!("fed-transport")
    }

    /// Signs and sends a request, and reads the answer. A server that is backing off is not asked; one
    /// that cannot be reached starts to, and one that answers (whatever it says) is well again.
    pub async fn send<R>(
        &self,
        _destination: &ServerName,
        _request: R,
        _limits: Limits,
    ) -> Result<R::IncomingResponse, RemoteError>
    where
        R: OutgoingRequest<Authentication = ServerSignatures> + Send,
    {
        unimplemented!("fed-transport")
    }

    /// The same for endpoints that need no signature (keys, version).
    pub async fn send_unsigned<R>(
        &self,
        _destination: &ServerName,
        _request: R,
        _limits: Limits,
    ) -> Result<R::IncomingResponse, RemoteError>
    where
        R: OutgoingRequest<Authentication = NoAuthentication> + Send,
    {
        unimplemented!("fed-transport")
    }
}
