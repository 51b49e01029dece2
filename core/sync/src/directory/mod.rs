//! The user directory beyond this server: users of others, by the names that they have in rooms that this
//! server is in (CS "User Directory").
//!
//! The index is in memory and nobody's work but a search's: the first one after the start reads the members of
//! all rooms with users of other servers, later ones those whose state differs from what was read. Of a
//! room's members only what changed is read.

mod index;

use std::{
    collections::{HashMap, HashSet},
    ops::ControlFlow,
    sync::Arc,
    time::Duration,
};

use hearth_rooms::{
    read::StatePart,
    schema::{LOG_ROOM_EVENT, Membership, ROOMS, StoredEvent},
    state::StateRoot,
};
use hearth_types::StreamPosition;
use hearth_users::NameWords;
use parking_lot::RwLock;
use ruma::{OwnedRoomId, RoomId, UserId, room::JoinRuleSummary};
use serde::Deserialize;
use serde_json::Value;
use tokio::{
    sync::{Mutex, OwnedMutexGuard},
    time::timeout,
};

pub use self::index::RemoteMatch;
use self::index::{Index, Profile, RoomNumber};
use crate::{SyncError, SyncService, service::Inner};

/// How long a search waits for the index to be brought up to date; then it goes on with what is there.
const PATIENCE: Duration = Duration::from_secs(2);
/// Log entries that are read at a time.
const LOG_PAGE: usize = 1_000;
/// Pages of the log that are read; after more, all rooms are looked at instead.
const MAX_PAGES: usize = 20;
/// Members whose events are read at a time.
const MEMBERS_PAGE: usize = 500;

/// The index, and how far it goes.
#[derive(Debug, Default)]
pub(crate) struct RemoteDirectory {
    known: RwLock<Known>,
    /// The rooms are as of this position; zero if they were never read. Held by who reads them.
    as_of: Arc<Mutex<StreamPosition>>,
}

#[derive(Debug, Default)]
struct Known {
    index: Index,
    rooms: HashMap<OwnedRoomId, KnownRoom>,
    /// Those that anybody may join or read.
    open: HashSet<RoomNumber>,
    next: RoomNumber,
}

/// A room as it was read.
#[derive(Clone, Copy, Debug)]
struct KnownRoom {
    number: RoomNumber,
    state: StateRoot,
    /// When this server's stay in the room began, in depth: states of different stays have nothing in common.
    stay: u64,
}

impl SyncService {
    /// Users of other servers of whom every word of `term` starts a word of the user name, or of the display
    /// name in a room that is among the `shared` ones, or that anybody may join or read. Returns at most
    /// `limit` matches, whole words first, and whether there are or may be more.
    ///
    /// # Errors
    ///
    /// [`SyncError::Internal`] if the rooms cannot be read.
    pub async fn search_remote_users(
        &self,
        term: &str,
        limit: usize,
        shared: &HashSet<OwnedRoomId>,
    ) -> Result<(Vec<RemoteMatch>, bool), SyncError> {
        let inner = Arc::clone(&self.inner);
        let reading = async move {
            let as_of = Arc::clone(&inner.directory.as_of).lock_owned().await;
            // It goes on when the search does not wait for it any longer, so that the next one finds more. Searches
            // that wait for their turn leave nothing behind.
            tokio::spawn(async move { inner.read_rooms(as_of).await }).await
        };
        let is_whole = match timeout(PATIENCE, reading).await {
            Ok(Ok(read)) => read.map(|()| true)?,
            Ok(Err(error)) => return Err(SyncError::Internal(Box::new(error))),
            Err(_) => false,
        };
        let mut matches = self.inner.directory.search(term, shared);
        let is_limited = !is_whole || matches.len() > limit;
        matches.truncate(limit);
        Ok((matches, is_limited))
    }
}

impl RemoteDirectory {
    fn search(&self, term: &str, shared: &HashSet<OwnedRoomId>) -> Vec<RemoteMatch> {
        let known = self.known.read();
        let rooms = shared.iter().filter_map(|room_id| known.rooms.get(room_id));
        let shared: HashSet<RoomNumber> = rooms.map(|room| room.number).collect();
        let visible = |room| shared.contains(&room) || known.open.contains(&room);
        match UserId::parse(term.trim()) {
            Ok(user_id) => {
                let mut found =
                    known.index.search(&NameWords::searched(user_id.localpart()), visible);
                found.retain(|one| one.user_id == user_id);
                found
            }
            Err(_) => known.index.search(&NameWords::searched(term), visible),
        }
    }
}

impl Inner {
    /// Brings the index up to date with the rooms.
    async fn read_rooms(
        &self,
        mut as_of: OwnedMutexGuard<StreamPosition>,
    ) -> Result<(), SyncError> {
        let until = self.notifier().published();
        if *as_of >= until {
            return Ok(());
        }
        let rooms = match self.rooms_since(*as_of).await? {
            Some(changed) => changed,
            None => self.shared_rooms().await?,
        };
        for room_id in rooms {
            if *self.closing().borrow() {
                return Ok(());
            }
            if let Err(error) = self.read_room(&room_id).await {
                tracing::error!(%error, %room_id, "members are missing in the user directory");
            }
        }
        *as_of = until;
        Ok(())
    }

    /// The rooms in which something happened since a position; `None` if that is not known any more, or
    /// was too much.
    async fn rooms_since(
        &self,
        position: StreamPosition,
    ) -> Result<Option<HashSet<OwnedRoomId>>, SyncError> {
        let mut rooms = HashSet::new();
        if position == StreamPosition::ZERO {
            return Ok(None);
        }
        let mut after = position;
        for _ in 0..MAX_PAGES {
            let page = self.store.log_after(after, LOG_PAGE).await?;
            for record in &page {
                if record.entry.kind == LOG_ROOM_EVENT {
                    rooms.extend(RoomId::parse(record.entry.topic.as_str()));
                }
                after = record.position;
            }
            if page.len() < LOG_PAGE {
                let is_whole = self.store.log_trimmed() <= position;
                return Ok(is_whole.then_some(rooms));
            }
        }
        Ok(None)
    }

    /// The rooms that this server is in with others, and those that the index has.
    async fn shared_rooms(&self) -> Result<HashSet<OwnedRoomId>, SyncError> {
        let read = self.store.bulk(|snapshot| {
            let mut rooms = HashSet::new();
            snapshot.for_each(&ROOMS, |room_id, (), head| {
                if head.joined_members > head.joined_local_members && head.joined_local_members > 0
                {
                    rooms.insert(room_id);
                }
                ControlFlow::Continue(())
            })?;
            Ok(rooms)
        });
        let mut rooms = read.await?;
        rooms.extend(self.directory.known.read().rooms.keys().cloned());
        Ok(rooms)
    }

    /// Brings the index up to date with one room.
    async fn read_room(&self, room_id: &RoomId) -> Result<(), SyncError> {
        let Some(head) = self.rooms.head(room_id).await? else { return Ok(()) };
        if head.joined_local_members == 0 || head.joined_members == head.joined_local_members {
            self.directory.known.write().forget(room_id);
            return Ok(());
        }
        let read = self.directory.known.write().room(room_id, head.forks.from_depth);
        let taken = self.take_over(room_id, read, head.state).await;
        if taken.is_err() {
            // What was read of it in part would be in the way.
            self.directory.known.write().forget(room_id);
        }
        taken
    }

    /// Takes over what differs between a room as it was read and as it is.
    async fn take_over(
        &self,
        room_id: &RoomId,
        read: KnownRoom,
        state: StateRoot,
    ) -> Result<(), SyncError> {
        if read.state.members != state.members {
            self.read_members(room_id, read, state).await?;
        }
        if read.state.rest != state.rest {
            let room = self.rooms.room_summary(room_id).await?;
            let is_open = room.is_some_and(|room| {
                room.world_readable || matches!(room.join_rule, JoinRuleSummary::Public)
            });
            let mut known = self.directory.known.write();
            if is_open {
                known.open.insert(read.number);
            } else {
                known.open.remove(&read.number);
            }
        }
        let read = KnownRoom { state, ..read };
        self.directory.known.write().rooms.insert(room_id.to_owned(), read);
        Ok(())
    }

    /// Takes over what differs between the members.
    async fn read_members(
        &self,
        room_id: &RoomId,
        read: KnownRoom,
        state: StateRoot,
    ) -> Result<(), SyncError> {
        let changes = self.rooms.state_changes(room_id, read.state, state, StatePart::Members)?;
        for page in changes.chunks(MEMBERS_PAGE) {
            // What has no event any more was put there by a resolution that was taken back.
            let ordinals: Vec<_> =
                page.iter().filter_map(|change| change.after.or(change.before)).collect();
            let gone: HashSet<_> =
                page.iter().filter(|change| change.after.is_none()).map(|c| c.before).collect();
            let events = self.rooms.events(room_id, &ordinals).await?;
            let mut known = self.directory.known.write();
            for event in events {
                let is_gone = gone.contains(&Some(event.ordinal));
                self.take_member(&mut known.index, read.number, &event, is_gone);
            }
        }
        Ok(())
    }

    fn take_member(&self, index: &mut Index, room: RoomNumber, event: &StoredEvent, is_gone: bool) {
        let user_id = event.pdu.state_key().and_then(|key| UserId::parse(key).ok());
        let Some(user_id) = user_id.filter(|user_id| !self.rooms.identity().is_local(user_id))
        else {
            return;
        };
        if is_gone || Membership::of(&event.pdu) != Some(Membership::Join) {
            index.remove(room, &user_id);
        } else {
            index.put(room, &user_id, profile_of(event));
        }
    }
}

impl Known {
    /// A room as it was read in this stay; of one that is new to the index that is nothing.
    fn room(&mut self, room_id: &RoomId, stay: u64) -> KnownRoom {
        match self.rooms.get(room_id) {
            Some(room) if room.stay == stay => return *room,
            Some(_) => self.forget(room_id),
            None => {}
        }
        let room = KnownRoom { number: self.next, state: StateRoot::default(), stay };
        self.next = self.next.wrapping_add(1);
        self.rooms.insert(room_id.to_owned(), room);
        room
    }

    fn forget(&mut self, room_id: &RoomId) {
        if let Some(room) = self.rooms.remove(room_id) {
            self.open.remove(&room.number);
            self.index.remove_room(room.number);
        }
    }
}

/// What a membership event says of its user.
fn profile_of(event: &StoredEvent) -> Profile {
    #[derive(Default, Deserialize)]
    struct Content {
        displayname: Option<Value>,
        avatar_url: Option<Value>,
    }
    let content: Content = event.pdu.content_as().unwrap_or_default();
    let text = |value: &Option<Value>| value.as_ref().and_then(Value::as_str).map(str::to_owned);
    Profile::new(text(&content.displayname).as_deref(), text(&content.avatar_url).as_deref())
}
