//! Who is in a room, and in which rooms somebody is.

use std::{collections::BTreeMap, sync::Arc};

use hearth_storage::Direction;
use ruma::{OwnedRoomId, OwnedUserId, RoomId, UserId};
use serde::Deserialize;

use super::{state::StatePart, tokens::TimelineToken};
use crate::{
    ReadError, RoomError, Rooms,
    schema::{EventOrdinal, MEMBERS, MemberRow, Membership, StoredEvent},
};

/// What `GET /joined_members` tells about a member.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct JoinedMember {
    /// Their name in this room.
    #[serde(default, rename = "displayname")]
    pub display_name: Option<String>,
    /// Their picture in this room.
    #[serde(default)]
    pub avatar_url: Option<String>,
}

/// Which members `GET /members` is to list.
#[derive(Clone, Debug, Default)]
pub struct MembersRequest {
    /// Only those with this membership.
    pub membership: Option<Membership>,
    /// Only those without this one.
    pub not_membership: Option<Membership>,
    /// As of this place in the timeline; now (or the reader's leave) if absent.
    pub at: Option<TimelineToken>,
}

impl Rooms {
    /// The membership events that a user sees. Costs what the room has members. Waits while the room's
    /// state is partial: clients encrypt for those whom they find here.
    pub async fn members(
        &self,
        room_id: &RoomId,
        user_id: &UserId,
        request: &MembersRequest,
    ) -> Result<Vec<Arc<StoredEvent>>, ReadError> {
        let access = self.access(room_id, user_id).await?;
        self.wait_until_whole(room_id).await?;
        let root = match request.at {
            Some(at) => {
                let at = TimelineToken(at.0.min(access.end()));
                self.state_at(room_id, at).await?
            }
            None => access.state(&*self.head(room_id).await?.ok_or(RoomError::UnknownRoom)?),
        };
        let mut events = self.state_events(room_id, root, StatePart::Members).await?;
        events.retain(|event| {
            let membership = Membership::of(&event.pdu);
            request.membership.is_none_or(|wanted| membership == Some(wanted))
                && request.not_membership.is_none_or(|unwanted| membership != Some(unwanted))
        });
        Ok(events)
    }

    /// The members of a room, for a user who is one of them.
    pub async fn joined_members(
        &self,
        room_id: &RoomId,
        user_id: &UserId,
    ) -> Result<BTreeMap<OwnedUserId, JoinedMember>, ReadError> {
        let row = self.user_room(user_id, room_id).await?;
        if !row.is_some_and(|row| row.details.membership == Membership::Join) {
            return Err(RoomError::NotJoined);
        }
        self.wait_until_whole(room_id).await?;
        let joined = self.members_with(room_id, Membership::Join).await?;
        let ordinals: Vec<EventOrdinal> = joined.iter().map(|(_, row)| row.event).collect();
        let events = self.events(room_id, &ordinals).await?;
        let profile =
            |event: Arc<StoredEvent>| event.pdu.content_as::<JoinedMember>().unwrap_or_default();
        Ok(joined.into_iter().map(|(id, _)| id).zip(events.into_iter().map(profile)).collect())
    }

    /// Everybody with this membership now, by ID. Costs what the room has members.
    pub async fn members_with(
        &self,
        room_id: &RoomId,
        membership: Membership,
    ) -> Result<Vec<(OwnedUserId, MemberRow)>, ReadError> {
        let room_id = room_id.to_owned();
        let mut rows = self
            .store()
            .bulk(move |snapshot| {
                snapshot.page(&MEMBERS, &room_id, .., Direction::Forward, usize::MAX)
            })
            .await?;
        rows.retain(|(_, row)| row.membership == membership);
        Ok(rows)
    }

    /// The rooms that a local user is in.
    pub async fn joined_rooms(&self, user_id: &UserId) -> Result<Vec<OwnedRoomId>, ReadError> {
        let rooms = self.user_rooms(user_id).await?;
        Ok(rooms
            .into_iter()
            .filter(|(_, row)| row.details.membership == Membership::Join)
            .map(|(room_id, _)| room_id)
            .collect())
    }

    /// The rooms that a local user shares with somebody. One look-up for each room of the local user.
    pub async fn mutual_rooms(
        &self,
        user_id: &UserId,
        other: &UserId,
    ) -> Result<Vec<OwnedRoomId>, ReadError> {
        let mut mutual = Vec::new();
        for room_id in self.joined_rooms(user_id).await? {
            let row = self.member_row(&room_id, other).await?;
            if row.is_some_and(|row| row.membership == Membership::Join) {
                mutual.push(room_id);
            }
        }
        Ok(mutual)
    }
}
