//! Whose devices or cross-signing keys changed when: one row for each user, however many rooms they are
//! in.

use hearth_storage::{Commit, Topic};
use hearth_types::StreamPosition;
use ruma::{DeviceId, OwnedUserId, UserId};

use crate::{E2ee, E2eeError};

/// The topic that changes with a user's queues and counts of keys. It is not the user's own topic, whose
/// changes make sync look at much more.
#[must_use]
pub fn user_topic(user_id: &UserId) -> Topic {
    Topic::new(&format!("{user_id}/e2ee"))
}

/// The topic that changes with anybody's list.
pub(crate) fn lists_topic() -> Topic {
    Topic::new("device-lists")
}

impl E2ee {
    /// Adds to a commit of this user's, in their turn, that their list changed: `device_id`, or their
    /// cross-signing keys. For users of this server, other servers will be told. After the commit call
    /// [`Self::announce_list`].
    pub(crate) async fn note_list_change(
        &self,
        commit: &mut Commit,
        user_id: &UserId,
        device_id: Option<&DeviceId>,
    ) -> Result<(), E2eeError> {
        let _ = (commit, user_id, device_id, lists_topic());
        unimplemented!("lists")
    }

    /// Wakes those who share a room with this user.
    pub(crate) async fn announce_list(&self, user_id: &UserId) {
        let _ = user_id;
        unimplemented!("lists")
    }

    /// The users whose lists changed after `since` and up to `until`, whoever they are. Costs nothing if
    /// none did.
    pub async fn changed_lists(
        &self,
        since: StreamPosition,
        until: StreamPosition,
    ) -> Result<Vec<OwnedUserId>, E2eeError> {
        let _ = (since, until);
        Ok(Vec::new())
    }
}
