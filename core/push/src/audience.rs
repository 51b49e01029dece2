//! Which users with a pusher are in a room.

use std::{
    collections::{BTreeSet, HashSet},
    sync::Arc,
};

use hearth_rooms::{
    Rooms,
    schema::{Membership, UserRoomRow},
};
use quick_cache::sync::Cache;
use ruma::{OwnedRoomId, OwnedUserId, RoomId, UserId};

use crate::{PushError, registry::Registry};

/// Rooms whose audience is known; the others' is found when something happens in them.
const MAX_ROOMS: usize = 20_000;
/// With at most so many users who have a pusher, each is looked for in a room, instead of looking at all of its
/// members.
const FEW_USERS: usize = 32;

/// The audiences of rooms. Only the router changes them; who is in one may have left meanwhile.
#[derive(Debug)]
pub(crate) struct Audiences(Cache<OwnedRoomId, Arc<BTreeSet<OwnedUserId>>>);

impl Audiences {
    pub(crate) fn new() -> Self {
        Self(Cache::new(MAX_ROOMS))
    }

    /// The users with a pusher in a room, or who were in it a while ago.
    pub(crate) async fn of(
        &self,
        rooms: &Rooms,
        registry: &Registry,
        room_id: &RoomId,
    ) -> Result<Arc<BTreeSet<OwnedUserId>>, PushError> {
        if let Some(known) = self.0.get(room_id) {
            return Ok(known);
        }
        let mut found = BTreeSet::new();
        if let Some(users) = registry.few_users(FEW_USERS) {
            for user_id in users {
                if is_joined(rooms.user_room(&user_id, room_id).await?.as_ref()) {
                    found.insert(user_id);
                }
            }
        } else {
            let joined = rooms.members_with(room_id, Membership::Join).await?.into_iter();
            found.extend(joined.map(|(user_id, _)| user_id).filter(|id| registry.contains(id)));
        }
        let found = Arc::new(found);
        self.0.insert(room_id.to_owned(), Arc::clone(&found));
        Ok(found)
    }

    /// Forgets who is where.
    pub(crate) fn clear(&self) {
        self.0.clear();
    }

    /// Somebody with a pusher came to a room, or left it.
    pub(crate) fn member(&self, room_id: &RoomId, user_id: &UserId, is_joined: bool) {
        let Some(known) = self.0.get(room_id) else { return };
        if known.contains(user_id) == is_joined {
            return;
        }
        let mut changed = BTreeSet::clone(&known);
        if is_joined {
            changed.insert(user_id.to_owned());
        } else {
            changed.remove(user_id);
        }
        self.0.insert(room_id.to_owned(), Arc::new(changed));
    }

    /// These got their first pusher.
    pub(crate) async fn welcome(
        &self,
        rooms: &Rooms,
        newcomers: &HashSet<OwnedUserId>,
    ) -> Result<(), PushError> {
        if self.0.is_empty() {
            return Ok(());
        }
        for user_id in newcomers {
            for (room_id, row) in rooms.user_rooms(user_id).await? {
                self.member(&room_id, user_id, is_joined(Some(&row)));
            }
        }
        Ok(())
    }
}

fn is_joined(row: Option<&UserRoomRow>) -> bool {
    row.is_some_and(|row| row.details.membership == Membership::Join)
}
