//! Membership events for users of other servers, for those servers to finish (SS "Joining Rooms",
//! "Leaving Rooms", "Knocking upon a room").

use ruma::{
    CanonicalJsonObject, MilliSecondsSinceUnixEpoch, OwnedRoomId, OwnedUserId, RoomId,
    RoomVersionId, ServerName, UserId,
};

use crate::{
    Rooms,
    error::RoomError,
    membership::AUTHORISED_VIA,
    writer::{Context, NewEvent, Room, StepError},
};

/// Which membership a template is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TemplateKind {
    /// `make_join`.
    Join,
    /// `make_leave`.
    Leave,
    /// `make_knock`.
    Knock,
}

impl TemplateKind {
    /// The membership that the event gives.
    #[must_use]
    pub fn membership(self) -> &'static str {
        match self {
            Self::Join => "join",
            Self::Leave => "leave",
            Self::Knock => "knock",
        }
    }
}

/// A membership event without hashes and signatures, for another server to finish.
#[derive(Clone, Debug)]
pub struct MembershipTemplate {
    /// The room's version.
    pub room_version: RoomVersionId,
    /// The event.
    pub event: CanonicalJsonObject,
}

impl Rooms {
    /// A membership event for a user of the asking server, as the room's state stands. It has passed
    /// authorization.
    ///
    /// `supported` are the room versions that the asking server serves; a leave is given in any.
    ///
    /// # Errors
    ///
    /// [`RoomError::UnknownRoom`] if no local user is in the room; [`RoomError::Forbidden`] if the user
    /// is not of the asking server, or the room's rules keep them out;
    /// [`RoomError::IncompatibleVersion`] if the asking server does not serve the room's version;
    /// [`RoomError::UnableToAuthoriseJoin`] and [`RoomError::UnableToGrantJoin`] for restricted rooms.
    pub async fn membership_template(
        &self,
        server: &ServerName,
        room_id: &RoomId,
        user_id: &UserId,
        kind: TemplateKind,
        supported: &[RoomVersionId],
    ) -> Result<MembershipTemplate, RoomError> {
        if user_id.server_name() != server {
            let text = "the user is not one of your server's";
            return Err(RoomError::Forbidden(text.to_owned()));
        }
        let head = self.head(room_id).await?.ok_or(RoomError::UnknownRoom)?;
        if head.joined_local_members == 0 {
            return Err(RoomError::UnknownRoom);
        }
        self.require_admitted(room_id, server).await?;
        self.wait_for_server(room_id).await?;
        if kind != TemplateKind::Leave && !supported.contains(&head.version) {
            return Err(RoomError::IncompatibleVersion(head.version.to_string()));
        }
        let request = TemplateRequest {
            rooms: self.clone(),
            room_id: room_id.to_owned(),
            user_id: user_id.to_owned(),
            kind,
            now: self.clock().now(),
        };
        let mut event = self.blocking(move |_| request.build()).await?;
        let own_name = self.identity().server_name().as_str().to_owned();
        event.insert("origin".to_owned(), own_name.into());
        Ok(MembershipTemplate { room_version: head.version.clone(), event })
    }

    /// Checks again, before this server signs a restricted join, what made its template.
    ///
    /// # Errors
    ///
    /// As [`Self::membership_template`].
    pub(super) async fn check_conditions(
        &self,
        room_id: &RoomId,
        user_id: &UserId,
    ) -> Result<(), RoomError> {
        let (rooms, room_id, user_id) = (self.clone(), room_id.to_owned(), user_id.to_owned());
        self.blocking(move |_| {
            let view = Context::new(&rooms);
            let mut room = Room::load(&view, &room_id)?.ok_or(RoomError::UnknownRoom)?;
            room.voucher(&view, &user_id).map(drop).map_err(refusal)
        })
        .await
    }
}

/// What a template is built from, on a blocking thread: finding who vouches may read many members.
struct TemplateRequest {
    rooms: Rooms,
    room_id: OwnedRoomId,
    user_id: OwnedUserId,
    kind: TemplateKind,
    now: MilliSecondsSinceUnixEpoch,
}

impl TemplateRequest {
    fn build(self) -> Result<CanonicalJsonObject, RoomError> {
        let view = Context::new(&self.rooms);
        // A copy of the room as the store has it; its writer knows nothing of this.
        let mut room = Room::load(&view, &self.room_id)?.ok_or(RoomError::UnknownRoom)?;
        let mut content = CanonicalJsonObject::new();
        content.insert("membership".to_owned(), self.kind.membership().to_owned().into());
        if self.kind == TemplateKind::Join
            && let Some(voucher) = room.voucher(&view, &self.user_id).map_err(refusal)?
        {
            content.insert(AUTHORISED_VIA.to_owned(), voucher.as_str().to_owned().into());
        }
        let state_key = self.user_id.as_str().to_owned();
        let event = NewEvent::state(self.user_id, "m.room.member", state_key, content, self.now);
        room.template(&view, event).map_err(refusal)
    }
}

fn refusal(error: StepError) -> RoomError {
    match error {
        StepError::Refused(error) => error,
        StepError::Settle | StepError::Full | StepError::Long | StepError::Unsigned => {
            RoomError::internal("a template waits for a commit")
        }
    }
}
