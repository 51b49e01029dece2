//! What is asked of other servers in the name of local users.
//!
//! `asking` puts a question to several servers in turn · `join` with its `template`s and signatures
//! (`signed`), `joins` sees that nothing is joined twice at a time · `partial` completes rooms that were
//! joined without their members · `knock`, `leave`, `invite` · `policy` asks policy servers · `history` and the `state` at its events ·
//! `queries` are aliases, directories and spaces · `profiles` · `keys` of devices · `media`.

mod asking;
mod history;
mod invite;
mod join;
mod joins;
mod keys;
mod knock;
mod leave;
mod media;
mod partial;
mod policy;
mod profiles;
mod queries;
mod signed;
mod state;
mod template;

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use async_trait::async_trait;
use hearth_rooms::{
    CheckedPdu, DirectoryPage, DirectoryQuery, RemoteAlias, RemoteHierarchy, RemoteInvite,
    RemoteMembership, RemoteRooms, RoomError,
};
use ruma::{
    MilliSecondsSinceUnixEpoch, OwnedEventId, OwnedRoomAliasId, OwnedRoomId, OwnedServerName,
    RoomId, api::Direction,
};
use tokio::sync::{Notify, Semaphore};

use self::{
    joins::{Joins, MAX_ANSWERS, MAX_WISHES, RoomLocks},
    profiles::Profiles,
    state::{MAX_LISTS, MAX_STATES},
};
pub(crate) use self::{leave::servers_of, partial::PARTIAL_JOINS};
use crate::Federation;

/// [`RemoteRooms`], [`hearth_users::RemoteProfiles`], [`hearth_e2ee::RemoteKeys`] and [`hearth_media::RemoteMedia`] over
/// the network. Cheap to clone.
#[derive(Clone)]
pub struct Remote(Arc<Inner>);

struct Inner {
    federation: Federation,
    joins: Joins,
    /// Who joins a room or knocks on it does so alone.
    room_locks: RoomLocks,
    /// Who fetches a room's history does so alone.
    history_locks: RoomLocks,
    profiles: Profiles,
    /// A room was joined with part of its state.
    completion: Notify,
    /// Places for whole states.
    state_places: Semaphore,
    /// Places for lists of the IDs of states.
    list_places: Semaphore,
    /// Places for answers to joins.
    answer_places: Semaphore,
    /// Places for memberships other than joins.
    wishes: Arc<Semaphore>,
    /// Counts questions about history, so that each is put to other servers first.
    history_turn: AtomicUsize,
}

impl fmt::Debug for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Remote").field("joins", &self.0.joins).finish_non_exhaustive()
    }
}

impl Remote {
    /// The way out for this server.
    #[must_use]
    pub fn new(federation: Federation) -> Self {
        Self(Arc::new(Inner {
            federation,
            joins: Joins::default(),
            room_locks: RoomLocks::default(),
            history_locks: RoomLocks::default(),
            profiles: Profiles::default(),
            completion: Notify::new(),
            state_places: Semaphore::new(MAX_STATES),
            list_places: Semaphore::new(MAX_LISTS),
            answer_places: Semaphore::new(MAX_ANSWERS),
            wishes: Arc::new(Semaphore::new(MAX_WISHES)),
            history_turn: AtomicUsize::new(0),
        }))
    }

    fn federation(&self) -> &Federation {
        &self.0.federation
    }

    fn joins(&self) -> &Joins {
        &self.0.joins
    }

    fn room_locks(&self) -> &RoomLocks {
        &self.0.room_locks
    }

    fn history_locks(&self) -> &RoomLocks {
        &self.0.history_locks
    }

    fn profiles(&self) -> &Profiles {
        &self.0.profiles
    }

    fn completion(&self) -> &Notify {
        &self.0.completion
    }

    fn state_places(&self) -> &Semaphore {
        &self.0.state_places
    }

    fn list_places(&self) -> &Semaphore {
        &self.0.list_places
    }

    fn answer_places(&self) -> &Semaphore {
        &self.0.answer_places
    }

    fn wishes(&self) -> &Arc<Semaphore> {
        &self.0.wishes
    }

    fn next_history_turn(&self) -> usize {
        self.0.history_turn.fetch_add(1, Ordering::Relaxed)
    }

    /// A room's state is to be completed.
    fn wake_completion(&self) {
        self.0.completion.notify_one();
    }
}

#[async_trait]
impl RemoteRooms for Remote {
    async fn join(&self, wish: RemoteMembership) -> Result<OwnedEventId, RoomError> {
        self.join_once(wish).await
    }

    async fn knock(&self, wish: RemoteMembership) -> Result<OwnedEventId, RoomError> {
        let remote = self.clone();
        self.to_its_end(async move { remote.knock_in_turn(wish).await }).await
    }

    async fn leave(&self, wish: RemoteMembership) -> Result<OwnedEventId, RoomError> {
        let remote = self.clone();
        self.to_its_end(async move { remote.leave_in_turn(wish).await }).await
    }

    async fn invite(&self, invite: RemoteInvite) -> Result<CheckedPdu, RoomError> {
        let remote = self.clone();
        self.to_its_end(async move { remote.invite_by(invite).await }).await
    }

    async fn policy_signature(
        &self,
        server: OwnedServerName,
        event: CheckedPdu,
    ) -> Result<String, RoomError> {
        self.sign_policy(&server, &event).await
    }

    async fn backfill(&self, room_id: &RoomId, limit: usize) -> Result<bool, RoomError> {
        self.backfill_in_turn(room_id, limit).await
    }

    async fn resolve_alias(&self, alias: OwnedRoomAliasId) -> Result<RemoteAlias, RoomError> {
        self.alias(alias).await
    }

    async fn public_rooms(
        &self,
        server: OwnedServerName,
        query: DirectoryQuery,
    ) -> Result<DirectoryPage, RoomError> {
        self.directory(server, query).await
    }

    async fn hierarchy(
        &self,
        room_id: OwnedRoomId,
        suggested_only: bool,
        via: Vec<OwnedServerName>,
    ) -> Result<RemoteHierarchy, RoomError> {
        self.space(room_id, suggested_only, via).await
    }

    async fn timestamp_to_event(
        &self,
        room_id: &RoomId,
        at: MilliSecondsSinceUnixEpoch,
        direction: Direction,
    ) -> Result<Option<(OwnedEventId, MilliSecondsSinceUnixEpoch)>, RoomError> {
        self.event_at(room_id, at, direction).await
    }
}
