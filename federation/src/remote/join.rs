//! Joining by way of another server (SS "Joining Rooms"): a template, an event of our own making, the
//! room's state.

use std::collections::HashSet;

use hearth_rooms::{
    CheckedPdu, MembershipDraft, RemoteJoin, RemoteMembership, RoomError, SUPPORTED_VERSIONS,
    schema::Membership,
};
use ruma::{
    OwnedEventId, OwnedServerName, RoomId, RoomVersionId, ServerName,
    api::federation::membership::{
        create_join_event::v2 as send_join, prepare_join_event::v1 as make_join,
    },
};
use serde_json::value::RawValue;

use super::{
    Remote,
    asking::{Refusals, brief, candidates, large, raw, refusal, unfit},
    signed::countersigned,
    template::draft,
};

/// Whether members are left out of the first answer and fetched behind it (faster joins). Not where
/// this server is in the room already: there the answer becomes part of a state that is whole.
const OMIT_MEMBERS: bool = true;
/// Servers in the room that are taken over from the answer: more than any room of the public federation
/// has. Rooms keep as many of them as they see fit.
const MAX_SERVERS: usize = 50_000;

impl Remote {
    /// Joins by way of the first server that lets the user in.
    pub(super) async fn join_in_turn(
        &self,
        wish: RemoteMembership,
    ) -> Result<OwnedEventId, RoomError> {
        let _turn = self.room_locks().lock(&wish.room_id).await;
        if let Some(event_id) = self.join_here(&wish).await? {
            return Ok(event_id);
        }
        let inviter = self.inviter(&wish).await?;
        let servers = wish.via.iter().cloned().chain(inviter);
        let servers = candidates(self.federation().identity().server_name(), servers);
        let mut refusals = Refusals::default();
        for server in servers {
            match self.join_by(&server, &wish).await {
                Ok(event_id) => return Ok(event_id),
                Err(error) => refusals.note(&server, error)?,
            }
        }
        Err(refusals.most_telling())
    }

    /// Somebody else of this server may have joined the room meanwhile.
    async fn join_here(&self, wish: &RemoteMembership) -> Result<Option<OwnedEventId>, RoomError> {
        let rooms = self.federation().rooms();
        if !rooms.is_resident(&wish.room_id).await? {
            return Ok(None);
        }
        let (room_id, user_id) = (&wish.room_id, &wish.user_id);
        match rooms.join(room_id, user_id, &wish.profile, wish.reason.as_deref()).await {
            Ok(event_id) => Ok(Some(event_id)),
            Err(RoomError::UnableToGrantJoin(_) | RoomError::UnableToAuthoriseJoin(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The server of whoever has invited the user.
    pub(super) async fn inviter(
        &self,
        wish: &RemoteMembership,
    ) -> Result<Option<OwnedServerName>, RoomError> {
        let known = self.federation().rooms().out_of_band(&wish.room_id, &wish.user_id).await?;
        Ok(known.map(|known| known.event.pdu().sender().server_name().to_owned()))
    }

    async fn join_by(
        &self,
        server: &ServerName,
        wish: &RemoteMembership,
    ) -> Result<OwnedEventId, RoomError> {
        let federation = self.federation();
        let mut request = make_join::Request::new(wish.room_id.clone(), wish.user_id.clone());
        request.ver = SUPPORTED_VERSIONS.to_vec();
        let answer =
            federation.client().send(server, request, brief(federation)).await.map_err(refusal)?;
        let draft = draft(&answer.event, answer.room_version, wish, Membership::Join)
            .map_err(|error| error.into_room_error(server))?;
        let version = draft.room_version.clone();
        let restricted = draft.authorised_via.is_some();
        let event = self.finish(&draft, server)?;
        let mut request = send_join::Request::new(
            wish.room_id.clone(),
            event.pdu().id().to_owned(),
            raw(&event)?,
        );
        let is_resident = federation.rooms().is_resident(&wish.room_id).await?;
        request.omit_members = OMIT_MEMBERS && !is_resident;
        let _place = self.answer_places().acquire().await.map_err(|_| RoomError::Busy)?;
        let _arrival = federation.arrivals().begin(&wish.room_id);
        let answer =
            federation.client().send(server, request, large()).await.map_err(refusal)?.room_state;
        let event = if restricted {
            let signed = answer
                .event
                .as_deref()
                .ok_or_else(|| unfit(server, "the signed event is missing"))?;
            let voucher = server_of_voucher(&event, server);
            countersigned(federation, &version, &event, signed, &voucher).await?
        } else {
            event
        };
        let join = self.answered_join(server, &wish.room_id, version, event, answer).await?;
        self.admit(server, join).await
    }

    /// Signs a membership of a local user; a template whose links no event may have is the server's fault.
    pub(super) fn finish(
        &self,
        draft: &MembershipDraft,
        server: &ServerName,
    ) -> Result<CheckedPdu, RoomError> {
        self.federation().rooms().finish_membership(draft).map_err(|error| match error {
            RoomError::InvalidParam(reason) => unfit(server, reason),
            error => error,
        })
    }

    /// Makes a room of the answer to a join. Where this server is in the room already, and members were
    /// left out without having been asked for, the state is fetched with them first.
    async fn admit(
        &self,
        server: &ServerName,
        mut join: RemoteJoin,
    ) -> Result<OwnedEventId, RoomError> {
        let rooms = self.federation().rooms();
        if join.members_omitted && rooms.is_resident(&join.room_id).await? {
            let event_id = join.event.pdu().id().to_owned();
            (join.state, join.auth_chain, _) =
                self.whole_state(server, &join.room_version, &join.room_id, event_id).await?;
            join.members_omitted = false;
        }
        let (room_id, members_omitted) = (join.room_id.clone(), join.members_omitted);
        let event_id = rooms.admit_join(join).await?;
        if members_omitted {
            self.remember_resident(&room_id, &event_id, server).await?;
            self.wake_completion();
        }
        Ok(event_id)
    }

    /// Checks what came with the join.
    async fn answered_join(
        &self,
        server: &ServerName,
        room_id: &RoomId,
        room_version: RoomVersionId,
        event: CheckedPdu,
        answer: send_join::RoomState,
    ) -> Result<RemoteJoin, RoomError> {
        let (state, auth_chain) = apart(answer.state, answer.auth_chain);
        let state = self.checked(&room_version, room_id, state).await;
        let auth_chain = self.checked(&room_version, room_id, auth_chain).await;
        let named = answer.servers_in_room.unwrap_or_default();
        let named = named.iter().filter_map(|name| ServerName::parse(name).ok());
        let mut servers_in_room: Vec<OwnedServerName> = vec![server.to_owned()];
        servers_in_room.extend(named.filter(|name| name != server).take(MAX_SERVERS));
        Ok(RemoteJoin {
            room_id: room_id.to_owned(),
            room_version,
            event,
            state,
            auth_chain,
            members_omitted: answer.members_omitted,
            servers_in_room,
        })
    }

    /// Events that pass the first checks on receipt; others are left out, which the room notices where
    /// it matters.
    pub(super) async fn checked(
        &self,
        version: &RoomVersionId,
        room_id: &RoomId,
        events: Vec<Box<RawValue>>,
    ) -> Vec<CheckedPdu> {
        self.checked_and_keyless(version, room_id, events).await.0
    }

    /// The same, and how many were left out that nobody could judge: their senders' servers are out of
    /// reach.
    pub(super) async fn checked_and_keyless(
        &self,
        version: &RoomVersionId,
        room_id: &RoomId,
        events: Vec<Box<RawValue>>,
    ) -> (Vec<CheckedPdu>, usize) {
        if events.is_empty() {
            return (Vec::new(), 0);
        }
        let verdicts = self.federation().checker().check(version, room_id, events).await;
        let mut keyless = 0;
        let passed = verdicts.into_iter().filter_map(|verdict| {
            let left_out = verdict.inspect_err(|dropped| {
                tracing::debug!(%room_id, %dropped, "an event is left out");
                keyless += usize::from(dropped.keyless);
            });
            left_out.ok()
        });
        (passed.collect(), keyless)
    }
}

/// The server of whoever vouches for a restricted join: it signs the event.
fn server_of_voucher(event: &CheckedPdu, resident: &ServerName) -> OwnedServerName {
    #[derive(serde::Deserialize)]
    struct Content {
        join_authorised_via_users_server: ruma::OwnedUserId,
    }
    let content: Option<Content> = event.pdu().content_as().ok();
    content.map_or_else(
        || resident.to_owned(),
        |content| content.join_authorised_via_users_server.server_name().to_owned(),
    )
}

/// State and auth chain overlap in most answers: each event is kept, and checked, once.
pub(super) fn apart(
    state: Vec<Box<RawValue>>,
    auth_chain: Vec<Box<RawValue>>,
) -> (Vec<Box<RawValue>>, Vec<Box<RawValue>>) {
    let first: Vec<bool> = {
        let mut seen = HashSet::with_capacity(state.len() + auth_chain.len());
        state.iter().chain(&auth_chain).map(|event| seen.insert(event.get())).collect()
    };
    let mut first = first.into_iter();
    let mut fresh = |events: Vec<Box<RawValue>>| -> Vec<Box<RawValue>> {
        events.into_iter().filter(|_| first.next().unwrap_or_default()).collect()
    };
    let state = fresh(state);
    (state, fresh(auth_chain))
}

#[cfg(test)]
mod tests {
    use serde_json::{json, value::to_raw_value};

    use super::*;

    #[test]
    fn what_is_in_the_state_is_not_checked_again() {
        let event = |n: u32| to_raw_value(&json!({ "n": n })).unwrap();
        let (state, chain) = apart(vec![event(1), event(2)], vec![event(2), event(3), event(3)]);
        assert_eq!((state.len(), chain.len()), (2, 1));
    }
}
