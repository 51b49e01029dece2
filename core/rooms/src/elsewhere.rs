//! Memberships that need other servers: rooms that this server is not in, restricted rooms where
//! nobody here can vouch, invitations of other servers' users. What this server can decide alone is
//! decided in [`crate::membership`].

use std::collections::BTreeMap;

use hearth_types::limits::{MAX_AUTH_EVENTS, MAX_DEPTH, MAX_PREV_EVENTS};
use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, Int, OwnedEventId, OwnedRoomId, OwnedServerName,
    OwnedUserId, RoomAliasId, RoomId, RoomVersionId, UserId,
};
use serde_json::value::RawValue;

use crate::{
    CheckedPdu, MemberProfile, OutOfBand, RemoteAlias, RemoteInvite, RemoteMembership, Rooms,
    config::SUPPORTED_VERSIONS,
    error::RoomError,
    membership::{AUTHORISED_VIA, MemberRequest},
    schema::Membership,
    writer::{Action, Outcome, sign},
};

/// State that an invitation shows to the invitee's server, beside the inviter's membership (SS
/// "Inviting to a room").
const INVITE_STATE: &[&str] = &[
    "m.room.create",
    "m.room.join_rules",
    "m.room.canonical_alias",
    "m.room.avatar",
    "m.room.name",
    "m.room.topic",
    "m.room.encryption",
];
/// Servers of a room that are named to somebody who wants to join it: more are never asked.
const MAX_NAMED_SERVERS: usize = 50;

/// A membership event of a local user in a room that this server may not be in: what another server
/// said about its place in the room, and what this server says itself.
#[derive(Clone, Debug)]
pub struct MembershipDraft {
    /// The room.
    pub room_id: OwnedRoomId,
    /// Its version.
    pub room_version: RoomVersionId,
    /// The local user, who is both sender and state key.
    pub user_id: OwnedUserId,
    /// The membership.
    pub membership: Membership,
    /// What the event shows of the user; for joins and knocks.
    pub profile: Option<MemberProfile>,
    /// Why, in the user's words.
    pub reason: Option<String>,
    /// Who vouches for the join (SS "Restricted rooms").
    pub authorised_via: Option<OwnedUserId>,
    /// The events that allow it.
    pub auth_events: Vec<OwnedEventId>,
    /// The events that it follows.
    pub prev_events: Vec<OwnedEventId>,
    /// Its depth.
    pub depth: u64,
}

impl Rooms {
    /// Is this server in the room? It is not, although the room's rows are here, after its last member
    /// has left.
    pub async fn is_resident(&self, room_id: &RoomId) -> Result<bool, RoomError> {
        Ok(self.head(room_id).await?.is_some_and(|head| head.joined_local_members > 0))
    }

    /// Joins a local user to any room: by this server alone where it can, else by way of those in `via`
    /// and of those that are known to be in the room.
    ///
    /// # Errors
    ///
    /// As [`Self::join`]; [`RoomError::UnknownRoom`] if no server is known to ask, and what the most
    /// telling of those that were asked said.
    pub async fn join_via(
        &self,
        room_id: &RoomId,
        user_id: &UserId,
        profile: &MemberProfile,
        reason: Option<&str>,
        via: Vec<OwnedServerName>,
    ) -> Result<OwnedEventId, RoomError> {
        let Some(remote) = self.remote() else {
            return self.join(room_id, user_id, profile, reason).await;
        };
        if self.is_resident(room_id).await? {
            match self.join(room_id, user_id, profile, reason).await {
                Err(RoomError::UnableToGrantJoin(_) | RoomError::UnableToAuthoriseJoin(_)) => {}
                joined => return joined,
            }
        }
        remote.join(self.wish(room_id, user_id, Some(profile), reason, via).await?).await
    }

    /// Knocks on any room, in the same way.
    pub async fn knock_via(
        &self,
        room_id: &RoomId,
        user_id: &UserId,
        profile: &MemberProfile,
        reason: Option<&str>,
        via: Vec<OwnedServerName>,
    ) -> Result<OwnedEventId, RoomError> {
        match self.remote() {
            Some(remote) if !self.is_resident(room_id).await? => {
                remote.knock(self.wish(room_id, user_id, Some(profile), reason, via).await?).await
            }
            _ => self.knock(room_id, user_id, profile, reason).await,
        }
    }

    /// Rejects an invitation, or takes back a knock, in a room that this server is not in; `None` if
    /// there is neither. Without a way to other servers the membership ends here alone.
    pub(crate) async fn leave_out_of_band(
        &self,
        room_id: &RoomId,
        user_id: &UserId,
        reason: Option<&str>,
    ) -> Result<Option<OwnedEventId>, RoomError> {
        let own = self.user_room(user_id, room_id).await?;
        let kept = own.is_some_and(|own| own.details.is_out_of_band());
        if !kept && (self.remote().is_none() || self.is_resident(room_id).await?) {
            return Ok(None);
        }
        let Some(known) = self.out_of_band(room_id, user_id).await? else {
            return Ok(None);
        };
        if !matches!(
            Membership::of(known.event.pdu()),
            Some(Membership::Invite | Membership::Knock)
        ) {
            return Ok(Some(known.event.pdu().id().to_owned()));
        }
        let event_id = match self.remote() {
            Some(remote) => {
                remote.leave(self.wish(room_id, user_id, None, reason, Vec::new()).await?).await?
            }
            None => self.leave_alone(known, reason).await?,
        };
        Ok(Some(event_id))
    }

    /// Ends an invitation or a knock for this server only: nobody else learns of it.
    pub async fn leave_alone(
        &self,
        known: OutOfBand,
        reason: Option<&str>,
    ) -> Result<OwnedEventId, RoomError> {
        let before = known.event.pdu();
        let mut auth_events = before.auth_events().to_vec();
        auth_events.truncate(MAX_AUTH_EVENTS - 1);
        auth_events.push(before.id().to_owned());
        let event = self.finish_membership(&MembershipDraft {
            room_id: known.room_id.clone(),
            room_version: known.room_version.clone(),
            user_id: known.user_id.clone(),
            membership: Membership::Leave,
            profile: None,
            reason: reason.map(ToOwned::to_owned),
            authorised_via: None,
            auth_events,
            prev_events: vec![before.id().to_owned()],
            depth: before.depth().saturating_add(1),
        })?;
        let event_id = event.pdu().id().to_owned();
        self.admit_out_of_band(OutOfBand { event, stripped_state: Vec::new(), ..known }).await?;
        Ok(event_id)
    }

    /// The wish with all servers that are known to be in the room behind those that were named.
    async fn wish(
        &self,
        room_id: &RoomId,
        user_id: &UserId,
        profile: Option<&MemberProfile>,
        reason: Option<&str>,
        mut via: Vec<OwnedServerName>,
    ) -> Result<RemoteMembership, RoomError> {
        if self.head(room_id).await?.is_some() {
            let servers = self.remote_servers(room_id).await?;
            via.extend(servers.iter().take(MAX_NAMED_SERVERS).cloned());
        }
        Ok(RemoteMembership {
            room_id: room_id.to_owned(),
            user_id: user_id.to_owned(),
            profile: profile.cloned().unwrap_or_default(),
            reason: reason.map(ToOwned::to_owned),
            via,
        })
    }

    /// Builds and signs a membership event of a local user out of nothing but the draft's fields.
    ///
    /// # Errors
    ///
    /// [`RoomError::UnsupportedVersion`]; [`RoomError::InvalidParam`] for links that no event may have,
    /// or for a user of another server; [`RoomError::TooLarge`].
    pub fn finish_membership(&self, draft: &MembershipDraft) -> Result<CheckedPdu, RoomError> {
        let unsupported = || RoomError::UnsupportedVersion(draft.room_version.to_string());
        if !SUPPORTED_VERSIONS.contains(&draft.room_version) {
            return Err(unsupported());
        }
        let rules = draft.room_version.rules().ok_or_else(unsupported)?;
        if !self.identity().is_local(&draft.user_id) {
            return Err(RoomError::InvalidParam("the user is on another server".to_owned()));
        }
        if draft.auth_events.len() > MAX_AUTH_EVENTS
            || draft.prev_events.len() > MAX_PREV_EVENTS
            || draft.prev_events.is_empty()
            || draft.depth > MAX_DEPTH
        {
            return Err(RoomError::InvalidParam("no event may have such links".to_owned()));
        }
        let now = self.clock().now();
        let object = membership_object(draft, now.get().into());
        Ok(CheckedPdu::new(sign(self, object, &rules)?.pdu))
    }

    /// Invites a user of another server: the event is made and authorized here, signed there, and
    /// becomes part of the room when both signatures are on it.
    pub(crate) async fn invite_elsewhere(
        &self,
        room_id: &RoomId,
        request: MemberRequest,
    ) -> Result<OwnedEventId, RoomError> {
        let (invitee, transaction) = (request.target.clone(), request.transaction.clone());
        let remote = self.remote().ok_or_else(|| RoomError::RemoteUser(invitee.clone()))?;
        let head = self.head(room_id).await?.ok_or(RoomError::UnknownRoom)?;
        let room_state = self.invite_state(room_id, &request.sender).await?;
        let event = match self.act(room_id, Action::Prepare(request)).await? {
            Outcome::Prepared(event) => *event,
            Outcome::Event(event_id) => return Ok(event_id),
            Outcome::Done | Outcome::Verdicts(_) => {
                return Err(RoomError::internal("the writer prepared no event"));
            }
        };
        let event = self.recommended(room_id, event).await?;
        let invite = RemoteInvite {
            room_id: room_id.to_owned(),
            room_version: head.version.clone(),
            invitee,
            event,
            room_state,
        };
        // In a task of its own: a client that goes away does not stop what the invitee's server may have
        // accepted already. The way to other servers ends it when it is closed.
        let (rooms, room_id) = (self.clone(), room_id.to_owned());
        let task = tokio::spawn(async move {
            let signed = remote.invite(invite).await?;
            rooms.add_own(&room_id, signed, transaction).await
        });
        task.await.map_err(|error| RoomError::internal(error.to_string()))?
    }

    /// What an invitee's server is shown of the room: full events.
    async fn invite_state(
        &self,
        room_id: &RoomId,
        inviter: &UserId,
    ) -> Result<Vec<Box<RawValue>>, RoomError> {
        let head = self.head(room_id).await?.ok_or(RoomError::UnknownRoom)?;
        let wanted = INVITE_STATE.iter().map(|event_type| (*event_type, ""));
        let mut shown = Vec::with_capacity(INVITE_STATE.len() + 1);
        for (event_type, state_key) in wanted.chain([("m.room.member", inviter.as_str())]) {
            let event = self.state_event(room_id, head.state, event_type, state_key).await?;
            if let Some(event) = event {
                let json = String::from_utf8(event.pdu.json().to_vec()).ok();
                let json = json.and_then(|json| RawValue::from_string(json).ok());
                shown.push(json.ok_or_else(|| RoomError::internal("a stored event is no JSON"))?);
            }
        }
        Ok(shown)
    }

    /// Where an alias of any server leads, and which servers are there.
    pub async fn find_alias(&self, alias: &RoomAliasId) -> Result<RemoteAlias, RoomError> {
        if alias.server_name() != self.identity().server_name() {
            let remote = self.remote().ok_or(RoomError::UnknownAlias)?;
            return remote.resolve_alias(alias.to_owned()).await;
        }
        let room_id = self.resolve_alias(alias).await?;
        let mut servers = vec![self.identity().server_name().to_owned()];
        if self.remote().is_some() {
            let others = self.remote_servers(&room_id).await?;
            servers.extend(others.iter().take(MAX_NAMED_SERVERS).cloned());
        }
        Ok(RemoteAlias { room_id, servers })
    }
}

/// The event as an object without hashes and signatures.
fn membership_object(draft: &MembershipDraft, now_ms: u64) -> CanonicalJsonObject {
    let mut content =
        crate::membership::member_content(draft.profile.as_ref(), draft.reason.as_deref());
    let membership = crate::format::membership_name(draft.membership);
    content.insert("membership".to_owned(), membership.to_owned().into());
    if let Some(voucher) = &draft.authorised_via {
        content.insert(AUTHORISED_VIA.to_owned(), voucher.as_str().to_owned().into());
    }
    let text = |text: &str| CanonicalJsonValue::String(text.to_owned());
    let ids = |ids: &[OwnedEventId]| {
        CanonicalJsonValue::Array(ids.iter().map(|id| text(id.as_str())).collect())
    };
    let number =
        |number: u64| CanonicalJsonValue::Integer(Int::try_from(number).unwrap_or(Int::MAX));
    BTreeMap::from([
        ("auth_events".to_owned(), ids(&draft.auth_events)),
        ("content".to_owned(), CanonicalJsonValue::Object(content)),
        ("depth".to_owned(), number(draft.depth)),
        ("origin_server_ts".to_owned(), number(now_ms)),
        ("prev_events".to_owned(), ids(&draft.prev_events)),
        ("room_id".to_owned(), text(draft.room_id.as_str())),
        ("sender".to_owned(), text(draft.user_id.as_str())),
        ("state_key".to_owned(), text(draft.user_id.as_str())),
        ("type".to_owned(), text("m.room.member")),
    ])
}
