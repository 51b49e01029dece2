//! Inviting another server's user (SS "Inviting to a room").
//!
//! Only version 2 of the endpoint is spoken: version 1 serves rooms of versions 1 and 2, which this
//! server is never in.

use hearth_rooms::{CheckedPdu, RemoteInvite, RoomError};
use ruma::api::federation::membership::{RawStrippedState, create_invite::v2 as create_invite};

use super::{
    Remote,
    asking::{brief, raw, refusal},
    signed::countersigned,
};

impl Remote {
    /// Has the invitee's server sign.
    pub(super) async fn invite_by(&self, invite: RemoteInvite) -> Result<CheckedPdu, RoomError> {
        let federation = self.federation();
        let server = invite.invitee.server_name();
        let shown = invite.room_state.into_iter().map(RawStrippedState::Pdu).collect();
        let request = create_invite::Request::new(
            invite.room_id,
            invite.event.pdu().id().to_owned(),
            invite.room_version.clone(),
            raw(&invite.event)?,
            shown,
        );
        let limits = brief(federation);
        let answer = federation.client().send(server, request, limits).await.map_err(refusal)?;
        let version = &invite.room_version;
        countersigned(federation, version, &invite.event, &answer.event, server).await
    }
}
