//! Messages to devices of other servers' users: a durable queue for each server.

use bytes::Bytes;
use hearth_types::StreamPosition;
use ruma::{OwnedServerName, ServerName};

use crate::{E2ee, E2eeError};

/// A message on its way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutgoingMessage {
    /// Its place in the queue.
    pub position: StreamPosition,
    /// The content of its `m.direct_to_device`, as JSON.
    pub content: Bytes,
}

impl E2ee {
    /// The servers that messages wait for. Reads all queues' keys: for the start.
    pub async fn outgoing_servers(&self) -> Result<Vec<OwnedServerName>, E2eeError> {
        unimplemented!("to-device")
    }

    /// The first messages that wait for a server.
    pub async fn outgoing(
        &self,
        server: &ServerName,
        limit: usize,
    ) -> Result<Vec<OutgoingMessage>, E2eeError> {
        let _ = (server, limit);
        unimplemented!("to-device")
    }

    /// The server has taken these, or never will.
    pub async fn outgoing_done(
        &self,
        server: &ServerName,
        positions: &[StreamPosition],
    ) -> Result<(), E2eeError> {
        let _ = (server, positions);
        unimplemented!("to-device")
    }
}
