//! A room in a few words (`GET /room_summary`, and each entry of `/hierarchy` and `/publicRooms`), and
//! who may read them.

use std::sync::Arc;

use ruma::{
    OwnedMxcUri, OwnedRoomAliasId, OwnedRoomId, OwnedServerName, RoomId, UInt, UserId,
    events::room::guest_access::GuestAccess,
    room::{JoinRuleSummary, RestrictedSummary, RoomSummary, RoomType},
};
use serde::Deserialize;

use super::HistoryVisibility;
use crate::{
    ReadError, RoomError, Rooms,
    schema::{Membership, RoomHead, StoredEvent},
};

/// Rooms that a join rule's conditions are followed to.
const MAX_ALLOWED_ROOMS: usize = 100;
/// The join rule of rooms that state none (CS "m.room.join_rules").
const DEFAULT_JOIN_RULE: &str = "invite";

/// A room's summary and what decides who may read it.
#[derive(Clone, Debug)]
pub struct Preview {
    /// The summary.
    pub summary: RoomSummary,
    /// The reader's membership, `leave` if they never had any; `None` for readers without an account.
    pub membership: Option<Membership>,
}

impl Rooms {
    /// What is told about a room to whoever may join it or read it: members and the invited, everybody
    /// if the room is public, can be knocked on or is world-readable, and whoever meets a condition of a
    /// restricted room. [`RoomError::UnknownRoom`] for others, and when there is no such room.
    pub async fn preview(
        &self,
        room_id: &RoomId,
        user_id: Option<&UserId>,
    ) -> Result<Preview, ReadError> {
        let head = self.head(room_id).await?.ok_or(RoomError::UnknownRoom)?;
        let summary = self.summary_of(room_id, &head).await?;
        let membership = match user_id {
            Some(user_id) => {
                let row = self.member_row(room_id, user_id).await?;
                Some(row.map_or(Membership::Leave, |row| row.membership))
            }
            None => None,
        };
        if self.may_preview(&summary, membership, user_id).await? {
            Ok(Preview { summary, membership })
        } else {
            Err(RoomError::UnknownRoom)
        }
    }

    /// The same for rooms of other servers too: those in `via` are asked.
    pub async fn preview_via(
        &self,
        room_id: &RoomId,
        user_id: Option<&UserId>,
        via: Vec<OwnedServerName>,
    ) -> Result<Preview, ReadError> {
        let here = self.preview(room_id, user_id).await;
        let Err(RoomError::UnknownRoom) = here else { return here };
        let Some(remote) = self.remote() else { return here };
        if via.is_empty() || self.is_resident(room_id).await? {
            return here;
        }
        let summary = match remote.hierarchy(room_id.to_owned(), false, via).await {
            Ok(answer) => answer.room.summary,
            Err(error @ RoomError::Internal(_)) => return Err(error),
            Err(_) => return here,
        };
        let membership = match user_id {
            Some(user_id) => {
                let known = self.user_room(user_id, room_id).await?;
                Some(known.map_or(Membership::Leave, |row| row.details.membership))
            }
            None => None,
        };
        if self.may_preview(&summary, membership, user_id).await? {
            Ok(Preview { summary, membership })
        } else {
            Err(RoomError::UnknownRoom)
        }
    }

    /// A room's summary by its current state, whoever asks. `None` if there is no such room.
    pub async fn room_summary(&self, room_id: &RoomId) -> Result<Option<RoomSummary>, ReadError> {
        match self.head(room_id).await? {
            Some(head) => self.summary_of(room_id, &head).await.map(Some),
            None => Ok(None),
        }
    }

    async fn summary_of(
        &self,
        room_id: &RoomId,
        head: &RoomHead,
    ) -> Result<RoomSummary, ReadError> {
        let state = |event_type| self.state_event(room_id, head.state, event_type, "");
        let text = |event: Option<Arc<StoredEvent>>, field: &'static str| {
            event.and_then(|event| string_field(&event, field))
        };
        let join_rule = join_rule_of(state("m.room.join_rules").await?.as_deref());
        let guests = text(state("m.room.guest_access").await?, "guest_access");
        let visibility = self.history_visibility(room_id, head.state).await?;
        let mut summary = RoomSummary::new(
            room_id.to_owned(),
            join_rule,
            guests.as_deref() == Some(GuestAccess::CanJoin.as_str()),
            UInt::new_saturating(head.joined_members),
            visibility == HistoryVisibility::WorldReadable,
        );
        let alias = text(state("m.room.canonical_alias").await?, "alias");
        summary.canonical_alias = alias.and_then(|alias| OwnedRoomAliasId::try_from(alias).ok());
        summary.name = text(state("m.room.name").await?, "name").filter(|name| !name.is_empty());
        summary.topic =
            text(state("m.room.topic").await?, "topic").filter(|topic| !topic.is_empty());
        let avatar = text(state("m.room.avatar").await?, "url").filter(|url| !url.is_empty());
        summary.avatar_url = avatar.map(OwnedMxcUri::from);
        summary.room_type = text(state("m.room.create").await?, "type").map(RoomType::from);
        let algorithm = text(state("m.room.encryption").await?, "algorithm");
        summary.encryption = algorithm.map(Into::into);
        summary.room_version = Some(head.version.clone());
        Ok(summary)
    }

    /// Is the room one that this reader may be told about?
    pub(super) async fn may_preview(
        &self,
        summary: &RoomSummary,
        membership: Option<Membership>,
        user_id: Option<&UserId>,
    ) -> Result<bool, ReadError> {
        if summary.world_readable
            || matches!(membership, Some(Membership::Join | Membership::Invite))
        {
            return Ok(true);
        }
        match (&summary.join_rule, user_id) {
            (
                JoinRuleSummary::Public
                | JoinRuleSummary::Knock
                | JoinRuleSummary::KnockRestricted(_),
                _,
            ) => Ok(membership != Some(Membership::Ban)),
            (JoinRuleSummary::Restricted(conditions), Some(user_id)) => Ok(membership
                != Some(Membership::Ban)
                && self.meets_a_condition(conditions, user_id).await?),
            _ => Ok(false),
        }
    }

    /// Is the user in one of the rooms whose members may join?
    async fn meets_a_condition(
        &self,
        conditions: &RestrictedSummary,
        user_id: &UserId,
    ) -> Result<bool, ReadError> {
        for room_id in conditions.allowed_room_ids.iter().take(MAX_ALLOWED_ROOMS) {
            let row = self.member_row(room_id, user_id).await?;
            if row.is_some_and(|row| row.membership == Membership::Join) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// A string field of an event's content; none if it is anything else.
pub(crate) fn string_field(event: &StoredEvent, field: &str) -> Option<String> {
    let content: std::collections::HashMap<String, &serde_json::value::RawValue> =
        event.pdu.content_as().ok()?;
    serde_json::from_str(content.get(field)?.get()).ok()
}

fn join_rule_of(event: Option<&StoredEvent>) -> JoinRuleSummary {
    let rule = event.and_then(|event| string_field(event, "join_rule"));
    match rule.as_deref().unwrap_or(DEFAULT_JOIN_RULE) {
        "restricted" => JoinRuleSummary::Restricted(allowed_rooms(event)),
        "knock_restricted" => JoinRuleSummary::KnockRestricted(allowed_rooms(event)),
        other => ruma::room::JoinRuleKind::from(other).into(),
    }
}

/// The rooms that a restricted join rule names.
fn allowed_rooms(event: Option<&StoredEvent>) -> RestrictedSummary {
    #[derive(Deserialize)]
    struct Content {
        allow: Vec<serde_json::Value>,
    }
    #[derive(Deserialize)]
    struct Allow {
        #[serde(rename = "type")]
        kind: String,
        room_id: OwnedRoomId,
    }
    let content = event.and_then(|event| event.pdu.content_as::<Content>().ok());
    let allowed = content
        .into_iter()
        .flat_map(|content| content.allow)
        .filter_map(|allow| serde_json::from_value::<Allow>(allow).ok())
        .filter(|allow| allow.kind == "m.room_membership")
        .map(|allow| allow.room_id)
        .collect();
    RestrictedSummary::new(allowed)
}
