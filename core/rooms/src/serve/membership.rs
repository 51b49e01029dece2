//! Receiving the membership events that other servers finished (SS "Joining Rooms", "Leaving Rooms",
//! "Knocking upon a room").

use std::{ops::ControlFlow, sync::Arc};

use bytes::Bytes;
use hearth_types::Pdu;
use roaring::RoaringBitmap;
use ruma::{
    OwnedServerName, OwnedUserId, RoomId, RoomVersionId, ServerName, UserId,
    events::TimelineEventType,
};
use serde_json::value::RawValue;

use super::{countersign::MembershipShape, state::state_of};
use crate::{
    CheckedPdu, Rooms, Verdict,
    error::RoomError,
    schema::{EventOrdinal, Membership, Standing, StoredEvent},
    state::{NodeId, StateRoot, walk},
};

/// Members that a room without a name is known by (CS "Calculating the display name for a room").
const HEROES: usize = 5;
/// Members that are looked at to find the heroes.
const MAX_HERO_CANDIDATES: usize = 1_000;

/// The answer to `send_join`.
#[derive(Clone, Debug)]
pub struct JoinAnswer {
    /// The join event, countersigned if the room is restricted.
    pub event: Bytes,
    /// The state before the join; without members if they were to be omitted.
    pub state: Vec<Bytes>,
    /// The auth chain of the state and the join, without what is in `state` if members were omitted.
    pub auth_chain: Vec<Bytes>,
    /// Were members left out?
    pub members_omitted: bool,
    /// All servers in the room, if members were left out.
    pub servers_in_room: Vec<OwnedServerName>,
}

impl Rooms {
    /// Adds this server's signature to a join that one of its users vouches for, if the conditions of
    /// the restricted room are met. `None` if nobody here has to sign: the join names no local user.
    ///
    /// # Errors
    ///
    /// [`RoomError::InvalidParam`] if it is not the join of a user of that server;
    /// [`RoomError::Forbidden`], [`RoomError::UnableToAuthoriseJoin`] and
    /// [`RoomError::UnableToGrantJoin`] if the conditions are not met.
    pub async fn countersign_join(
        &self,
        server: &ServerName,
        room_id: &RoomId,
        event: &RawValue,
    ) -> Result<Option<Box<RawValue>>, RoomError> {
        let version = self.version(room_id).await?;
        let join: Join = serde_json::from_str(event.get())
            .map_err(|error| RoomError::InvalidParam(format!("not a join: {error}")))?;
        let names_local = join.content.authorised_via.as_ref();
        if !names_local.is_some_and(|user_id| self.identity().is_local(user_id))
            || !vouches(&version)
        {
            return Ok(None);
        }
        self.require_admitted(room_id, server).await?;
        self.check_conditions(room_id, &join.state_key).await?;
        let user_id = &join.state_key;
        let shape = MembershipShape { room_id, sender: server, user_id, membership: "join" };
        self.countersign(&version, event, shape).map(Some)
    }

    /// Receives a join that was made from a template, with all signatures that it needs (see
    /// [`Self::countersign_join`]), and answers with the room's state. The same event may come again.
    ///
    /// # Errors
    ///
    /// [`RoomError::UnknownRoom`] if no local user is in the room; [`RoomError::Forbidden`] if the event
    /// is not a join of a user of that server, or the room's rules keep them out.
    pub async fn accept_join(
        &self,
        server: &ServerName,
        room_id: &RoomId,
        event: CheckedPdu,
        omit_members: bool,
    ) -> Result<JoinAnswer, RoomError> {
        self.wait_for_server(room_id).await?;
        let event = self.accept(server, room_id, event, Membership::Join).await?;
        let root = event.header.state_before;
        let heroes = if omit_members {
            self.heroes(room_id, root, event.pdu.sender()).await?
        } else {
            RoaringBitmap::new()
        };
        let nodes = self.nodes(room_id);
        let state = self.blocking(move |_| {
            let shown =
                if omit_members { StateRoot { members: NodeId::EMPTY, ..root } } else { root };
            Ok(state_of(&nodes, shown)? | heroes)
        });
        let named = event.header.auth_events.iter().copied().collect();
        let mut gathered = self.gather(room_id, state.await?, named).await?;
        if omit_members {
            gathered.chain -= &gathered.state;
        }
        let servers_in_room =
            if omit_members { self.servers_before(room_id, server).await? } else { Vec::new() };
        Ok(JoinAnswer {
            event: event.pdu.json().clone(),
            state: gathered.pdus(&gathered.state),
            auth_chain: gathered.pdus(&gathered.chain),
            members_omitted: omit_members,
            servers_in_room,
        })
    }

    /// Receives a leave that was made from a template.
    ///
    /// # Errors
    ///
    /// As [`Self::accept_join`].
    pub async fn accept_leave(
        &self,
        server: &ServerName,
        room_id: &RoomId,
        event: CheckedPdu,
    ) -> Result<(), RoomError> {
        self.accept(server, room_id, event, Membership::Leave).await.map(drop)
    }

    /// Receives a knock that was made from a template; answers with what the room shows to those who
    /// knock, as PDUs.
    ///
    /// # Errors
    ///
    /// As [`Self::accept_join`].
    pub async fn accept_knock(
        &self,
        server: &ServerName,
        room_id: &RoomId,
        event: CheckedPdu,
    ) -> Result<Vec<Bytes>, RoomError> {
        let event = self.accept(server, room_id, event, Membership::Knock).await?;
        let shown = self.shown_state(room_id, event.header.state_before, None).await?;
        Ok(shown.iter().map(|event| event.pdu.json().clone()).collect())
    }

    /// What somebody who is not in the room is told about it, as stored events, the create event first
    /// (CS "Stripped state"; SS "Inviting to a room"); for an invitation with the inviter's membership.
    pub async fn shown_state(
        &self,
        room_id: &RoomId,
        root: StateRoot,
        inviter: Option<&UserId>,
    ) -> Result<Vec<Arc<StoredEvent>>, RoomError> {
        let mut shown = Vec::with_capacity(crate::format::STRIPPED_TYPES.len());
        for event_type in crate::format::STRIPPED_TYPES {
            shown.extend(self.state_event(room_id, root, event_type, "").await?);
        }
        if let Some(inviter) = inviter {
            let inviter = inviter.as_str();
            shown.extend(self.state_event(room_id, root, "m.room.member", inviter).await?);
        }
        Ok(shown)
    }

    /// Takes one membership event in, unless it is here already.
    async fn accept(
        &self,
        server: &ServerName,
        room_id: &RoomId,
        event: CheckedPdu,
        membership: Membership,
    ) -> Result<Arc<StoredEvent>, RoomError> {
        let head = self.head(room_id).await?.ok_or(RoomError::UnknownRoom)?;
        if head.joined_local_members == 0 {
            return Err(RoomError::UnknownRoom);
        }
        self.require_admitted(room_id, server).await?;
        check_own_membership(event.pdu(), server, room_id, membership)?;
        let event_id = event.pdu().id().to_owned();
        match self.admit_event(room_id, event).await? {
            Verdict::Known | Verdict::Accepted => {}
            Verdict::SoftFailed => {
                let text = "the room's state does not allow it any more";
                return Err(RoomError::Forbidden(text.to_owned()));
            }
            Verdict::Rejected(reason) => return Err(RoomError::Forbidden(reason)),
            Verdict::MissingPrev(_) | Verdict::MissingAuth(_) => {
                let text = "the event does not follow what this server knows of the room";
                return Err(RoomError::Forbidden(text.to_owned()));
            }
        }
        let event = self.event_by_id(room_id, &event_id).await?.ok_or(RoomError::UnknownEvent)?;
        if event.header.standing == Standing::Accepted {
            return Ok(event);
        }
        Err(RoomError::Forbidden("the room's state does not allow it".to_owned()))
    }

    /// The members that a joiner shall know at once, if the room has neither name nor alias.
    async fn heroes(
        &self,
        room_id: &RoomId,
        root: StateRoot,
        joiner: &UserId,
    ) -> Result<RoaringBitmap, RoomError> {
        for event_type in ["m.room.name", "m.room.canonical_alias"] {
            if self.state_ordinal(room_id, root, event_type, "").await?.is_some() {
                return Ok(RoaringBitmap::new());
            }
        }
        let mut candidates = Vec::new();
        walk(&self.nodes(room_id), root.members, 0, &mut |_, ordinal| {
            candidates.push(ordinal);
            if candidates.len() < MAX_HERO_CANDIDATES {
                ControlFlow::Continue(())
            } else {
                ControlFlow::Break(())
            }
        })?;
        let events = self.events(room_id, &candidates).await?;
        let mut present = Vec::new();
        let mut gone = Vec::new();
        for event in events.iter().filter(|event| event.pdu.state_key() != Some(joiner.as_str())) {
            match Membership::of(&event.pdu) {
                Some(Membership::Join | Membership::Invite) => present.push(event.ordinal),
                Some(Membership::Leave | Membership::Ban) => gone.push(event.ordinal),
                _ => {}
            }
        }
        let heroes: Vec<EventOrdinal> = if present.is_empty() { gone } else { present };
        Ok(heroes.into_iter().take(HEROES).collect())
    }

    /// The servers that were in the room before a user of `joiner` joined, this one first.
    async fn servers_before(
        &self,
        room_id: &RoomId,
        joiner: &ServerName,
    ) -> Result<Vec<OwnedServerName>, RoomError> {
        let others = self.remote_servers(room_id).await?;
        let first_of_theirs =
            self.server_row(room_id, joiner).await?.is_none_or(|row| row.joined <= 1);
        let others = others.iter().filter(|server| !first_of_theirs || **server != *joiner);
        Ok([self.identity().server_name()]
            .into_iter()
            .map(ToOwned::to_owned)
            .chain(others.cloned())
            .collect())
    }
}

/// What is read of a join before it is checked.
#[derive(serde::Deserialize)]
struct Join {
    state_key: OwnedUserId,
    content: JoinContent,
}

#[derive(serde::Deserialize)]
struct JoinContent {
    #[serde(rename = "join_authorised_via_users_server")]
    authorised_via: Option<OwnedUserId>,
}

/// Has the version restricted rooms?
fn vouches(version: &RoomVersionId) -> bool {
    version.rules().is_some_and(|rules| rules.authorization.restricted_join_rule)
}

/// Users change their own memberships through these endpoints, and nothing else.
fn check_own_membership(
    pdu: &Pdu,
    server: &ServerName,
    room_id: &RoomId,
    membership: Membership,
) -> Result<(), RoomError> {
    #[derive(serde::Deserialize)]
    struct Content {
        membership: String,
    }
    if pdu.sender().server_name() != server {
        return Err(RoomError::Forbidden("the event is not of a user of your server".to_owned()));
    }
    let stated = pdu.content_as::<Content>().ok();
    let fits = *pdu.kind() == TimelineEventType::RoomMember
        && pdu.room_id_field() == Some(room_id)
        && pdu.state_key() == Some(pdu.sender().as_str())
        && stated.is_some_and(|content| {
            content.membership == crate::format::membership_name(membership)
        });
    if fits {
        return Ok(());
    }
    let text = "not the membership event that this endpoint takes";
    Err(RoomError::InvalidParam(text.to_owned()))
}
