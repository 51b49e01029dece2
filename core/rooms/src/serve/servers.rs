//! Which servers are in a room.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::{Bound, ControlFlow},
    sync::Arc,
};

use hearth_storage::{Direction, Snapshot, StoreError};
use ruma::{OwnedRoomId, OwnedServerName, RoomId, ServerName, UserId};

use super::cache::{CachedServers, members_of};
use crate::{
    Rooms,
    error::RoomError,
    schema::{self, EventOrdinal, Membership, ServerRow},
};

/// Servers of one room that are read at all: more than any room of the public federation has.
const MAX_SERVERS: usize = 50_000;
/// Servers that are read inline; more are read in one job.
const INLINE_SERVERS: usize = 100;
/// Rooms shared with one server that are looked at for one of its users: no server shares as many.
/// (Tests share as many in less time.)
const MAX_ROOMS_LOOKED_AT: usize = if cfg!(test) { 500 } else { 100_000 };
/// Partial rooms that are looked at at a time: a room is partial for seconds.
const MAX_PARTIAL_ROOMS: usize = 1_000;
/// Rooms read at a time while those of one server are listed.
const PAGE: usize = 100;

impl Rooms {
    /// The other servers that have joined members in a room: from memory until its members change.
    /// While the room's state is partial, those that the join's answer named are among them.
    ///
    /// # Errors
    ///
    /// [`RoomError::UnknownRoom`] if the room is not here.
    pub async fn remote_servers(
        &self,
        room_id: &RoomId,
    ) -> Result<Arc<BTreeSet<OwnedServerName>>, RoomError> {
        Ok(self.cached_servers(room_id).await?.servers)
    }

    /// Those of them that were in the room before this event, which therefore concerns them. Whoever
    /// came later, and learned the state by joining, must not be sent what was said before.
    ///
    /// # Errors
    ///
    /// [`RoomError::UnknownRoom`] if the room is not here.
    pub async fn remote_servers_before(
        &self,
        room_id: &RoomId,
        event: EventOrdinal,
    ) -> Result<Arc<BTreeSet<OwnedServerName>>, RoomError> {
        let CachedServers { servers, since, last_since, .. } = self.cached_servers(room_id).await?;
        if last_since < event {
            return Ok(servers);
        }
        let before = servers.iter().zip(&*since).filter(|(_, since)| **since < event);
        Ok(Arc::new(before.map(|(server, _)| server.clone()).collect()))
    }

    async fn cached_servers(&self, room_id: &RoomId) -> Result<CachedServers, RoomError> {
        let head = self.head(room_id).await?.ok_or(RoomError::UnknownRoom)?;
        let members = members_of(&head);
        if let Some(cached) = self.served().servers.get(room_id)
            && cached.members == members
        {
            return Ok(cached);
        }
        // The rows are at least as new as the head. If they are newer, they are read again with the
        // next head.
        let mut servers = self.read_servers(room_id).await?;
        let named = self.partial_servers(room_id).await?;
        servers.extend(named.into_iter().map(|server| (server, 0)));
        servers.remove(self.identity().server_name());
        let last_since = servers.values().copied().max().unwrap_or_default();
        let since = servers.values().copied().collect();
        let servers = Arc::new(servers.into_keys().collect());
        let cached = CachedServers { members, servers, since, last_since };
        self.served().servers.insert(room_id.to_owned(), cached.clone());
        Ok(cached)
    }

    async fn read_servers(
        &self,
        room_id: &RoomId,
    ) -> Result<BTreeMap<OwnedServerName, EventOrdinal>, RoomError> {
        let room_id = room_id.to_owned();
        let joined = |rows: Vec<(OwnedServerName, ServerRow)>| {
            let joined = rows.into_iter().filter(|(_, row)| row.joined > 0);
            joined.map(|(server, row)| (server, row.since)).collect()
        };
        let keyspace = &schema::ROOM_SERVERS;
        let rows =
            self.store().page(keyspace, &room_id, .., Direction::Forward, INLINE_SERVERS).await?;
        if rows.len() < INLINE_SERVERS {
            return Ok(joined(rows));
        }
        let read = move |snapshot: &Snapshot| {
            snapshot.page(&schema::ROOM_SERVERS, &room_id, .., Direction::Forward, MAX_SERVERS)
        };
        Ok(joined(self.store().bulk(read).await?))
    }

    /// Rooms in which another server has joined members, or is said to have them while the room's state
    /// is partial, in order of their IDs, from behind `after`.
    pub async fn rooms_shared_with(
        &self,
        server: &ServerName,
        after: Option<&RoomId>,
        limit: usize,
    ) -> Result<Vec<OwnedRoomId>, RoomError> {
        let server = server.to_owned();
        let after: Option<OwnedRoomId> = after.map(ToOwned::to_owned);
        let read = move |snapshot: &Snapshot| {
            let mut shared = rooms_with_members(snapshot, &server, after.clone(), limit)?;
            shared.extend(rooms_that_name(snapshot, &server, after)?);
            shared.sort_unstable();
            shared.dedup();
            shared.truncate(limit);
            Ok(shared)
        };
        Ok(self.store().bulk(read).await?)
    }

    /// Rooms in which a user of another server is joined, in order of their IDs, at most `limit`. Looks
    /// at one room that is shared with that server after the other until it has found so many.
    pub async fn rooms_of_remote_user(
        &self,
        user_id: &UserId,
        limit: usize,
    ) -> Result<Vec<OwnedRoomId>, RoomError> {
        let (user_id, server) = (user_id.to_owned(), user_id.server_name().to_owned());
        let read = move |snapshot: &Snapshot| {
            let (mut joined, mut after, mut seen) = (Vec::new(), Bound::Unbounded, 0);
            while seen < MAX_ROOMS_LOOKED_AT {
                let (keyspace, range) = (&schema::SERVER_ROOMS, (after, Bound::Unbounded));
                let rows = snapshot.page(keyspace, &server, range, Direction::Forward, PAGE)?;
                seen += rows.len();
                let is_last = rows.len() < PAGE;
                after =
                    rows.last().map_or(Bound::Unbounded, |(last, _)| Bound::Excluded(last.clone()));
                for (room_id, _) in rows {
                    let row = snapshot.get(&schema::MEMBERS, &room_id, &user_id)?;
                    if row.is_some_and(|row| row.membership == Membership::Join) {
                        joined.push(room_id);
                    }
                    if joined.len() >= limit {
                        return Ok(joined);
                    }
                }
                if is_last {
                    break;
                }
            }
            Ok(joined)
        };
        Ok(self.store().bulk(read).await?)
    }

    /// Every other server that has joined members, and in how many rooms. Reads a row for each server
    /// of each room: for operators, not for requests.
    pub async fn servers_with_rooms(&self) -> Result<BTreeMap<OwnedServerName, u64>, RoomError> {
        let count = |snapshot: &Snapshot| {
            let mut servers: BTreeMap<OwnedServerName, u64> = BTreeMap::new();
            snapshot.for_each(&schema::ROOM_SERVERS, |_: OwnedRoomId, server, row| {
                if row.joined > 0 {
                    *servers.entry(server).or_default() += 1;
                }
                ControlFlow::Continue(())
            })?;
            Ok(servers)
        };
        Ok(self.store().bulk(count).await?)
    }

    /// Has this other server a joined member? In a room whose state is partial, servers that are said to
    /// be in it count.
    pub async fn has_joined_server(
        &self,
        room_id: &RoomId,
        server: &ServerName,
    ) -> Result<bool, RoomError> {
        self.has_joined_server_before(room_id, server, EventOrdinal::MAX).await
    }

    /// Is this other server one of [`Self::remote_servers_before`]? Reads its row alone.
    pub async fn has_joined_server_before(
        &self,
        room_id: &RoomId,
        server: &ServerName,
        event: EventOrdinal,
    ) -> Result<bool, RoomError> {
        let row = self.server_row(room_id, server).await?;
        if row.is_some_and(|row| row.joined > 0 && row.since < event) {
            return Ok(true);
        }
        Ok(self.named_since(room_id, server).await?.is_some())
    }

    /// The join of this server whose answer says that another server is in the room, for as long as the
    /// room's state is partial.
    pub(super) async fn named_since(
        &self,
        room_id: &RoomId,
        server: &ServerName,
    ) -> Result<Option<EventOrdinal>, RoomError> {
        let (room_id, server) = (room_id.to_owned(), server.to_owned());
        if self.store().get(&schema::PARTIAL_SERVERS, &room_id, &server).await?.is_none() {
            return Ok(None);
        }
        let partial = self.store().get(&schema::PARTIAL, &room_id, &()).await?;
        Ok(partial.map(|row| row.join))
    }

    /// Is the room's state partial, and this other server said to be in it? Which of its users are is not
    /// known then.
    pub async fn is_named_in_partial_room(
        &self,
        room_id: &RoomId,
        server: &ServerName,
    ) -> Result<bool, RoomError> {
        Ok(self.named_since(room_id, server).await?.is_some())
    }

    /// Is there a room of which that can be said?
    pub async fn is_named_in_partial_rooms(&self, server: &ServerName) -> Result<bool, RoomError> {
        let server = server.to_owned();
        let read = move |snapshot: &Snapshot| rooms_that_name(snapshot, &server, None);
        Ok(!self.store().bulk(read).await?.is_empty())
    }

    /// What is known of another server's members; `None` if it never had any.
    pub(super) async fn server_row(
        &self,
        room_id: &RoomId,
        server: &ServerName,
    ) -> Result<Option<ServerRow>, RoomError> {
        let (room_id, server) = (room_id.to_owned(), server.to_owned());
        Ok(self.store().get(&schema::ROOM_SERVERS, &room_id, &server).await?)
    }
}

/// The next rooms in which a server has joined members.
fn rooms_with_members(
    snapshot: &Snapshot,
    server: &OwnedServerName,
    mut after: Option<OwnedRoomId>,
    limit: usize,
) -> Result<Vec<OwnedRoomId>, StoreError> {
    let mut shared = Vec::new();
    loop {
        let range = (after.take().map_or(Bound::Unbounded, Bound::Excluded), Bound::Unbounded);
        let keyspace = &schema::SERVER_ROOMS;
        let rows = snapshot.page(keyspace, server, range, Direction::Forward, PAGE)?;
        let last_page = rows.len() < PAGE;
        for (room_id, _) in rows {
            if shared.len() >= limit {
                return Ok(shared);
            }
            after = Some(room_id.clone());
            // The row under the server's prefix outlives its members; the room's own counts.
            let row = snapshot.get(&schema::ROOM_SERVERS, &room_id, server)?;
            if row.is_some_and(|row| row.joined > 0) {
                shared.push(room_id);
            }
        }
        if last_page {
            return Ok(shared);
        }
    }
}

/// The next partial rooms that a server is said to be in.
fn rooms_that_name(
    snapshot: &Snapshot,
    server: &OwnedServerName,
    after: Option<OwnedRoomId>,
) -> Result<Vec<OwnedRoomId>, StoreError> {
    let range = (after.map_or(Bound::Unbounded, Bound::Excluded), Bound::Unbounded);
    let (keyspace, forward) = (&schema::PARTIAL_ROOMS, Direction::Forward);
    let mut named = Vec::new();
    for (room_id, ()) in snapshot.page(keyspace, &(), range, forward, MAX_PARTIAL_ROOMS)? {
        if snapshot.get(&schema::PARTIAL_SERVERS, &room_id, server)?.is_some() {
            named.push(room_id);
        }
    }
    Ok(named)
}
