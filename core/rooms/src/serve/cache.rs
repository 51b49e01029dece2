//! What is remembered for other servers' questions, so that neither each event sent nor each event
//! received reads a list of servers.

use std::{collections::BTreeSet, fmt, sync::Arc};

use quick_cache::{Weighter, sync::Cache};
use ruma::{OwnedRoomId, OwnedServerName};

use super::acl::CachedAcl;
use crate::{schema::MemberLag, state::NodeId};

/// Rooms whose access list is remembered.
const MAX_ACLS: usize = 2_000;
/// Names of servers that are remembered, over all rooms.
const MAX_SERVERS: u64 = 500_000;
/// Rooms whose servers are remembered, as the cache's first estimate.
const EXPECTED_ROOMS: usize = 5_000;

/// The servers of a room whose members stand at this root: they change together, in one commit, or in
/// the commits that make up for a lag.
#[derive(Clone, Debug)]
pub(super) struct CachedServers {
    pub(super) members: (NodeId, Option<MemberLag>),
    pub(super) servers: Arc<BTreeSet<OwnedServerName>>,
}

#[derive(Clone, Copy, Debug)]
struct ByServers;

impl Weighter<OwnedRoomId, CachedServers> for ByServers {
    fn weight(&self, _: &OwnedRoomId, cached: &CachedServers) -> u64 {
        1 + cached.servers.len() as u64
    }
}

/// The caches of this module.
pub(crate) struct Served {
    pub(super) acls: Cache<OwnedRoomId, CachedAcl>,
    pub(super) servers: ServersCache,
}

pub(super) struct ServersCache(Cache<OwnedRoomId, CachedServers, ByServers>);

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
            servers: ServersCache(Cache::with_weighter(EXPECTED_ROOMS, MAX_SERVERS, ByServers)),
        }
    }
}

impl fmt::Debug for Served {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Served").finish_non_exhaustive()
    }
}
