//! Aliases, directories and spaces of other servers.

use hearth_rooms::{
    DirectoryPage, DirectoryQuery, PublicRoom, RemoteAlias, RemoteHierarchy, RoomError,
    read::HierarchyRoom,
};
use ruma::{
    OwnedRoomAliasId, OwnedRoomId, OwnedServerName, RoomId, ServerName, UInt,
    api::federation::{
        directory::get_public_rooms_filtered::v1 as get_public_rooms,
        query::get_room_information::v1 as get_room_information,
        space::get_hierarchy::v1 as get_hierarchy,
    },
    directory::{Filter, PublicRoomsChunk, RoomTypeFilter},
    serde::Raw,
};

use super::{
    Remote,
    asking::{Refusals, brief, candidates, refusal, unfit},
};

/// Servers of an alias that are passed on.
const MAX_SERVERS: usize = 50;
/// Children of one space that are taken over.
const MAX_CHILDREN: usize = 1_000;
/// Rooms of one page of a directory that are taken over.
const MAX_ROOMS: usize = 1_000;

impl Remote {
    pub(super) async fn alias(&self, alias: OwnedRoomAliasId) -> Result<RemoteAlias, RoomError> {
        let federation = self.federation();
        let server = alias.server_name().to_owned();
        let request = get_room_information::Request::new(alias);
        let asked = federation.client().send(&server, request, brief(federation)).await;
        let answer = asked.map_err(|error| match refusal(error) {
            RoomError::UnknownRoom => RoomError::UnknownAlias,
            error => error,
        })?;
        let mut servers = answer.servers;
        servers.truncate(MAX_SERVERS);
        if servers.is_empty() {
            servers.push(server);
        }
        Ok(RemoteAlias { room_id: answer.room_id, servers })
    }

    pub(super) async fn directory(
        &self,
        server: OwnedServerName,
        query: DirectoryQuery,
    ) -> Result<DirectoryPage, RoomError> {
        let federation = self.federation();
        let mut request = get_public_rooms::Request::new();
        request.limit = query.limit.and_then(|limit| UInt::try_from(limit).ok());
        request.since = query.since;
        let mut filter = Filter::new();
        filter.generic_search_term = query.search_term;
        filter.room_types = query.room_types.into_iter().map(RoomTypeFilter::from).collect();
        request.filter = filter;
        let limits = brief(federation);
        let answer = federation.client().send(&server, request, limits).await.map_err(refusal)?;
        let total = answer.total_room_count_estimate.map_or(answer.chunk.len() as u64, u64::from);
        Ok(DirectoryPage {
            rooms: answer.chunk.into_iter().take(MAX_ROOMS).map(public_room).collect(),
            next_batch: answer.next_batch,
            prev_batch: answer.prev_batch,
            total_estimate: total,
        })
    }

    pub(super) async fn space(
        &self,
        room_id: OwnedRoomId,
        suggested_only: bool,
        via: Vec<OwnedServerName>,
    ) -> Result<RemoteHierarchy, RoomError> {
        let servers = candidates(self.federation().identity().server_name(), via);
        let mut refusals = Refusals::default();
        for server in servers {
            match self.space_by(&server, &room_id, suggested_only).await {
                Ok(space) => return Ok(space),
                Err(error) => refusals.note(&server, error)?,
            }
        }
        Err(refusals.most_telling())
    }

    async fn space_by(
        &self,
        server: &ServerName,
        room_id: &RoomId,
        suggested_only: bool,
    ) -> Result<RemoteHierarchy, RoomError> {
        let federation = self.federation();
        let mut request = get_hierarchy::Request::new(room_id.to_owned());
        request.suggested_only = suggested_only;
        let limits = brief(federation);
        let answer = federation.client().send(server, request, limits).await.map_err(refusal)?;
        if answer.room.summary.room_id != *room_id {
            return Err(unfit(server, "another room"));
        }
        let children_state = answer.room.children_state.into_iter().map(Raw::into_json);
        Ok(RemoteHierarchy {
            room: HierarchyRoom {
                summary: answer.room.summary,
                children_state: children_state.take(MAX_CHILDREN).collect(),
            },
            children: answer.children.into_iter().take(MAX_CHILDREN).collect(),
            inaccessible_children: answer.inaccessible_children,
        })
    }
}

fn public_room(room: PublicRoomsChunk) -> PublicRoom {
    PublicRoom {
        room_id: room.room_id,
        name: room.name,
        topic: room.topic,
        canonical_alias: room.canonical_alias,
        avatar_url: room.avatar_url.map(|url| url.to_string()),
        joined_members: room.num_joined_members.into(),
        join_rule: room.join_rule.to_string(),
        room_type: room.room_type.map(|room_type| room_type.to_string()),
        world_readable: room.world_readable,
        guest_can_join: room.guest_can_join,
    }
}
