//! Rejecting invitations and taking back knocks by way of another server (SS "Leaving Rooms
//! (Rejecting Invites)").

use hearth_rooms::{OutOfBand, RemoteMembership, RoomError, schema::Membership};
use ruma::{
    OwnedEventId, OwnedServerName, ServerName, UserId,
    api::federation::membership::{
        create_leave_event::v2 as send_leave, prepare_leave_event::v1 as make_leave,
    },
};
use serde::Deserialize;

use super::{
    Remote,
    asking::{brief, candidates, raw, refusal},
    template::draft,
};

/// Servers that are told of a leave before it is made without them: somebody waits.
const MAX_TOLD: usize = 3;

impl Remote {
    /// Leaves by way of a server of the room, or without any.
    pub(super) async fn leave_in_turn(
        &self,
        wish: RemoteMembership,
    ) -> Result<OwnedEventId, RoomError> {
        let rooms = self.federation().rooms();
        let known = rooms.out_of_band(&wish.room_id, &wish.user_id).await?;
        let known = known.ok_or(RoomError::UnknownRoom)?;
        let named = servers_of(&known).chain(wish.via.iter().cloned());
        let mut servers = candidates(self.federation().identity().server_name(), named);
        servers.truncate(MAX_TOLD);
        for server in servers {
            match self.leave_by(&server, &wish, &known).await {
                Ok(left) => {
                    let event_id = left.event.pdu().id().to_owned();
                    rooms.admit_out_of_band(left).await?;
                    return Ok(event_id);
                }
                Err(error) => {
                    let room_id = &wish.room_id;
                    tracing::info!(%room_id, %server, %error, "a server does not take a leave");
                }
            }
        }
        rooms.leave_alone(known, wish.reason.as_deref()).await
    }

    async fn leave_by(
        &self,
        server: &ServerName,
        wish: &RemoteMembership,
        known: &OutOfBand,
    ) -> Result<OutOfBand, RoomError> {
        let federation = self.federation();
        let limits = brief(federation);
        let request = make_leave::Request::new(wish.room_id.clone(), wish.user_id.clone());
        let answer = federation.client().send(server, request, limits).await.map_err(refusal)?;
        let draft = draft(&answer.event, answer.room_version, wish, Membership::Leave)
            .map_err(|error| error.into_room_error(server))?;
        let room_version = draft.room_version.clone();
        let event = self.finish(&draft, server)?;
        let event_id = event.pdu().id().to_owned();
        let request = send_leave::Request::new(wish.room_id.clone(), event_id, raw(&event)?);
        federation.client().send(server, request, limits).await.map_err(refusal)?;
        Ok(OutOfBand { room_version, event, stripped_state: Vec::new(), ..known.clone() })
    }
}

/// Servers that should know the room: that of who made the membership, then those of who made what is
/// shown of the room.
pub(crate) fn servers_of(known: &OutOfBand) -> impl Iterator<Item = OwnedServerName> {
    #[derive(Deserialize)]
    struct Stripped<'a> {
        #[serde(borrow)]
        sender: std::borrow::Cow<'a, str>,
    }
    let maker = known.event.pdu().sender().server_name().to_owned();
    let shown = known.stripped_state.iter().filter_map(|event| {
        let event: Stripped<'_> = serde_json::from_str(event.get()).ok()?;
        Some(UserId::parse(&*event.sender).ok()?.server_name().to_owned())
    });
    std::iter::once(maker).chain(shown)
}
