//! Spaces as other servers see them (SS "Spaces").

use ruma::{
    OwnedRoomId, RoomId, ServerName,
    room::{JoinRuleSummary, RoomSummary, RoomType},
};

use crate::{Rooms, error::RoomError, read::HierarchyRoom, schema::Membership};

/// Rooms that a join rule's conditions are followed to.
const MAX_ALLOWED_ROOMS: usize = 100;

/// A room and its children, as far as this server knows them.
#[derive(Clone, Debug)]
pub struct ServerHierarchy {
    /// The room.
    pub room: HierarchyRoom,
    /// The children that the asking server's users could join or read.
    pub children: Vec<RoomSummary>,
    /// The children that they could not.
    pub inaccessible_children: Vec<OwnedRoomId>,
}

impl Rooms {
    /// One room of a space with its children, as far as they are here.
    ///
    /// # Errors
    ///
    /// [`RoomError::UnknownRoom`] if the room is not here, or if the asking server's users could neither
    /// join nor read it; who is invited could join.
    pub async fn hierarchy_for_server(
        &self,
        server: &ServerName,
        room_id: &RoomId,
        suggested_only: bool,
    ) -> Result<ServerHierarchy, RoomError> {
        let summary = self.room_summary(room_id).await?.ok_or(RoomError::UnknownRoom)?;
        if !self.may_show(server, &summary).await? {
            return Err(RoomError::UnknownRoom);
        }
        let spaces_children = match summary.room_type {
            Some(RoomType::Space) => self.space_children(room_id, suggested_only).await?,
            _ => Vec::new(),
        };
        let mut children = Vec::new();
        let mut inaccessible_children = Vec::new();
        for child in &spaces_children {
            let Some(summary) = self.room_summary(&child.room_id).await? else { continue };
            if self.may_show(server, &summary).await? {
                children.push(summary);
            } else {
                inaccessible_children.push(child.room_id.clone());
            }
        }
        let children_state = spaces_children.into_iter().map(|child| child.shown).collect();
        let room = HierarchyRoom { summary, children_state };
        Ok(ServerHierarchy { room, children, inaccessible_children })
    }

    /// Could users of the server join or read the room?
    async fn may_show(
        &self,
        server: &ServerName,
        summary: &RoomSummary,
    ) -> Result<bool, RoomError> {
        if !self.acl_admits(&summary.room_id, server).await? {
            return Ok(false);
        }
        if summary.world_readable || self.has_joined_server(&summary.room_id, server).await? {
            return Ok(true);
        }
        match &summary.join_rule {
            JoinRuleSummary::Public
            | JoinRuleSummary::Knock
            | JoinRuleSummary::KnockRestricted(_) => Ok(true),
            JoinRuleSummary::Restricted(conditions) => {
                for allowed in conditions.allowed_room_ids.iter().take(MAX_ALLOWED_ROOMS) {
                    if self.has_joined_server(allowed, server).await? {
                        return Ok(true);
                    }
                }
                self.has_invited(server, &summary.room_id).await
            }
            _ => self.has_invited(server, &summary.room_id).await,
        }
    }

    /// Is a user of the server invited to the room?
    async fn has_invited(&self, server: &ServerName, room_id: &RoomId) -> Result<bool, RoomError> {
        let invited = self.members_with(room_id, Membership::Invite).await?;
        Ok(invited.iter().any(|(user_id, _)| user_id.server_name() == server))
    }
}
