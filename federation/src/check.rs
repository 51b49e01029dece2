//! The first three checks on receipt of a PDU: form, signatures, content hash (SS "Checks performed on
//! receipt of a PDU"). What passes is a [`CheckedPdu`].

use std::sync::Arc;

use hearth_rooms::CheckedPdu;
use hearth_types::ServerIdentity;
use ruma::{OwnedEventId, RoomId, RoomVersionId};
use serde_json::value::RawValue;

use crate::keys::KeyRing;

/// Checks events. Cheap to clone.
#[derive(Clone, Debug)]
pub struct PduChecker {
    keys: KeyRing,
    identity: Arc<ServerIdentity>,
}

/// Why an event is dropped.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Dropped {
    /// Its ID, if it has one.
    pub event_id: Option<OwnedEventId>,
    /// What is wrong.
    pub reason: String,
}

impl PduChecker {
    /// A checker that takes keys from the ring.
    #[must_use]
    pub fn new(keys: KeyRing, identity: Arc<ServerIdentity>) -> Self {
        Self { keys, identity }
    }

    /// The ID of an event, from its bytes. Cheap: parses and hashes, verifies nothing.
    pub fn event_id(
        &self,
        _version: &RoomVersionId,
        _event: &RawValue,
    ) -> Result<OwnedEventId, Dropped> {
        unimplemented!("fed-trust")
    }

    /// Checks events of one room, on as many cores as there are: the answer has one entry for each, in
    /// order. Keys are fetched first, all at once.
    pub async fn check(
        &self,
        _version: &RoomVersionId,
        _room_id: &RoomId,
        _events: Vec<Box<RawValue>>,
    ) -> Vec<Result<CheckedPdu, Dropped>> {
        unimplemented!("fed-trust")
    }
}
