//! What is remembered for other servers' questions, so that neither each event sent nor each event
//! received reads a list of servers.

use std::{collections::BTreeSet, fmt, sync::Arc};

use quick_cache::{Weighter, sync::Cache};
use ruma::{OwnedRoomId, OwnedServerName};

use super::acl::CachedAcl;
use crate::{
    schema::{EventOrdinal, MemberLag, RoomHead, TimelineIndex},
    state::NodeId,
};

/// Rooms whose access list is remembered.
const MAX_ACLS: usize = 2_000;
/// Names of servers that are remembered, over all rooms.
const MAX_SERVERS: u64 = 500_000;
/// Rooms whose servers are remembered, as the cache's first estimate.
const EXPECTED_ROOMS: usize = 5_000;

/// Servers in rooms which they have left, for which it is remembered when that was.
const MAX_DEPARTURES: usize = 20_000;
/// State keys of servers' users that are remembered, over all rooms.
const MAX_MEMBER_KEYS: u64 = 1_000_000;
/// Servers in rooms whose users' state keys are remembered, as the cache's first estimate.
const EXPECTED_KEYS: usize = 5_000;

/// Where the members of a room stand: what depends on them changes together, in one commit, or in the
/// commits that make up for a lag.
pub(super) type Members = (NodeId, Option<MemberLag>);

/// The members of the room as its head has them.
pub(super) fn members_of(head: &RoomHead) -> Members {
    (head.state.members, head.forks.lag)
}

/// The servers of a room with these members.
#[derive(Clone, Debug)]
pub(super) struct CachedServers {
    pub(super) members: Members,
    pub(super) servers: Arc<BTreeSet<OwnedServerName>>,
    /// The events since which they are in the room, in the same order.
    pub(super) since: Arc<[EventOrdinal]>,
    /// The last of these.
    pub(super) last_since: EventOrdinal,
}

/// A server, in a room.
pub(super) type InRoom = (OwnedRoomId, OwnedServerName);

/// When the last of a server's users left a room with these members; where that is not known, history may
/// tell it.
#[derive(Clone, Copy, Debug)]
pub(super) struct CachedDeparture {
    pub(super) members: Members,
    pub(super) next_event: EventOrdinal,
    pub(super) place: Option<TimelineIndex>,
}

/// The numbers of the state keys of a server's users, in a room with these members; also history brings
/// new ones.
#[derive(Clone, Debug)]
pub(super) struct CachedKeys {
    pub(super) members: Members,
    pub(super) next_key: u32,
    pub(super) keys: Arc<[u32]>,
}

/// By how much is held.
#[derive(Clone, Copy, Debug)]
pub(super) struct ByLength;

impl Weighter<InRoom, CachedKeys> for ByLength {
    fn weight(&self, _: &InRoom, cached: &CachedKeys) -> u64 {
        1 + cached.keys.len() as u64
    }
}

impl Weighter<OwnedRoomId, CachedServers> for ByLength {
    fn weight(&self, _: &OwnedRoomId, cached: &CachedServers) -> u64 {
        1 + cached.servers.len() as u64
    }
}

/// The caches of this module.
pub(crate) struct Served {
    pub(super) acls: Cache<OwnedRoomId, CachedAcl>,
    pub(super) servers: ServersCache,
    pub(super) departures: Cache<InRoom, CachedDeparture>,
    pub(super) member_keys: Cache<InRoom, CachedKeys, ByLength>,
}

pub(super) struct ServersCache(Cache<OwnedRoomId, CachedServers, ByLength>);

impl ServersCache {
    pub(super) fn get(&self, room_id: &ruma::RoomId) -> Option<CachedServers> {
        self.0.get(room_id)
    }

    pub(super) fn insert(&self, room_id: OwnedRoomId, cached: CachedServers) {
        self.0.insert(room_id, cached);
    }
}

impl Default for Served {
    fn default() -> Self {
        Self {
            acls: Cache::new(MAX_ACLS),
            servers: ServersCache(Cache::with_weighter(EXPECTED_ROOMS, MAX_SERVERS, ByLength)),
            departures: Cache::new(MAX_DEPARTURES),
            member_keys: Cache::with_weighter(EXPECTED_KEYS, MAX_MEMBER_KEYS, ByLength),
        }
    }
}

impl fmt::Debug for Served {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Served").finish_non_exhaustive()
    }
}
