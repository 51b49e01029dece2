//! Invitations to third-party identifiers that have found their user (SS "Third-party invites").

use ruma::{CanonicalJsonObject, CanonicalJsonValue, OwnedEventId, RoomId, UserId};

use crate::{
    Rooms,
    error::RoomError,
    membership::{MemberAction, MemberRequest},
    writer::to_object,
};

impl Rooms {
    /// Turns an invitation to a third-party identifier into one of a user: in the name of the local
    /// user who sent it. `signed` is the identity server's word that the identifier is the user's; the
    /// room's `m.room.third_party_invite` must hold the key that proves it.
    ///
    /// # Errors
    ///
    /// [`RoomError::UnknownEvent`] if the room has no such invitation; [`RoomError::Forbidden`] if it was
    /// sent by somebody else or the proof does not hold; and as [`Self::invite`].
    pub async fn exchange_third_party_invite(
        &self,
        room_id: &RoomId,
        sender: &UserId,
        target: &UserId,
        signed: CanonicalJsonObject,
    ) -> Result<OwnedEventId, RoomError> {
        let text = |field: &str| signed.get(field).and_then(CanonicalJsonValue::as_str);
        let token = text("token").unwrap_or_default().to_owned();
        if text("mxid") != Some(target.as_str()) {
            return Err(RoomError::Forbidden("the proof is for another user".to_owned()));
        }
        let head = self.head(room_id).await?.ok_or(RoomError::UnknownRoom)?;
        let invite = self
            .state_event(room_id, head.state, "m.room.third_party_invite", &token)
            .await?
            .ok_or(RoomError::UnknownEvent)?;
        if !self.identity().is_local(sender) || invite.pdu.sender() != sender {
            let text = "the invitation was not sent by that user of this server";
            return Err(RoomError::Forbidden(text.to_owned()));
        }
        let shown = crate::read::summary::string_field(&invite, "display_name");
        let mut proven = to_object(serde_json::json!({
            "display_name": shown.unwrap_or_default(),
        }))?;
        proven.insert("signed".to_owned(), CanonicalJsonValue::Object(signed));
        let mut content = CanonicalJsonObject::new();
        content.insert("third_party_invite".to_owned(), CanonicalJsonValue::Object(proven));
        let request = MemberRequest {
            sender: sender.to_owned(),
            target: target.to_owned(),
            action: MemberAction::Invite,
            content,
            origin_server_ts: self.clock().now(),
            transaction: None,
        };
        self.request_member(room_id, request).await
    }
}
