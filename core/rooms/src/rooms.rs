//! The face of the crate.

use std::sync::Arc;

use hearth_storage::Store;
use hearth_types::{Clock, ServerIdentity};

use crate::{RoomsConfig, error::RoomError};

/// All rooms of this server: cheap to clone.
#[derive(Clone, Debug)]
pub struct Rooms {
    // Filled in by the owner of this file.
}

impl Rooms {
    /// Rooms over this store. Writers start when they are first needed.
    pub async fn open(
        _store: Store,
        _identity: Arc<ServerIdentity>,
        _clock: Arc<dyn Clock>,
        _config: RoomsConfig,
    ) -> Result<Self, RoomError> {
        todo!()
    }
}
