//! Changes of the devices and cross-signing keys of this server's users, on their way to the servers that
//! share a room with them (SS "Device Management").
//!
//! They stand in the log and have their place there: what is not delivered is found again. What is told
//! of a device is how it stands when it is sent. A server that came to share a room, was long away, or
//! missed many changes of one user is told of one change without the ones before it, which makes it
//! fetch the whole list.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use hearth_e2ee::{DeviceListLog, E2eeError, LogKind};
use hearth_rooms::{RoomError, schema::Membership};
use hearth_storage::LogRecord;
use hearth_types::StreamPosition;
use ruma::{
    OwnedDeviceId, OwnedServerName, OwnedUserId, RoomId, ServerName, UInt, UserId,
    api::federation::transactions::edu::{DeviceListUpdateContent, Edu, SigningKeyUpdateContent},
    serde::Raw,
};
use tokio::task::yield_now;

use super::{Inner, is_lasting, lanes::Absence};

/// Users whose changes wait for one destination; further ones are read from the log again.
const MAX_USERS: usize = 500;
/// Changes of one user that wait for one destination; instead of more it is told to fetch the list.
const MAX_CHANGES: usize = 8;
/// Changes in one transaction, an EDU each; all of one user go together.
const CHANGES_AT_ONCE: usize = 15;
/// Users whose lists are looked at at a time after a long absence.
const LIST_PAGE: usize = 100;
/// Names a device to servers that are to fetch a list without devices: there is none of this name.
const NO_DEVICE: &str = "NONE";

/// What changed of a user.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Change {
    /// A device, and the version of the list before it.
    Device { device_id: OwnedDeviceId, previous: Option<u64> },
    /// The cross-signing keys.
    SigningKeys,
    /// Much, or what is not known.
    List,
}

/// A change on its way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ListChange {
    /// Its place in the log.
    pub(super) position: StreamPosition,
    pub(super) user_id: OwnedUserId,
    /// The version of the list.
    stream_id: StreamPosition,
    change: Change,
}

impl ListChange {
    /// Makes a server fetch the whole list.
    pub(super) fn whole(
        position: StreamPosition,
        user_id: OwnedUserId,
        stream_id: StreamPosition,
    ) -> Self {
        Self { position, user_id, stream_id, change: Change::List }
    }
}

/// Changes that wait for one destination.
#[derive(Debug, Default)]
pub(super) struct ListQueue {
    by_user: BTreeMap<OwnedUserId, Vec<ListChange>>,
}

impl ListQueue {
    pub(super) fn is_empty(&self) -> bool {
        self.by_user.is_empty()
    }

    /// Whether there was a place for it. One that was taken before comes before those that came since:
    /// each names the one before it.
    pub(super) fn add(&mut self, change: ListChange) -> bool {
        if self.by_user.len() >= MAX_USERS && !self.by_user.contains_key(&change.user_id) {
            return false;
        }
        let changes = self.by_user.entry(change.user_id.clone()).or_default();
        let place = changes.partition_point(|known| known.position <= change.position);
        changes.insert(place, change);
        if changes.len() > MAX_CHANGES {
            let first = changes.iter().map(|change| change.position).min();
            let newest = changes.iter().max_by_key(|change| change.stream_id).cloned();
            if let (Some(first), Some(newest)) = (first, newest) {
                *changes = vec![ListChange::whole(first, newest.user_id, newest.stream_id)];
            }
        }
        true
    }

    /// The place of the first change that waits.
    pub(super) fn first(&self) -> Option<StreamPosition> {
        self.by_user.values().flatten().map(|change| change.position).min()
    }

    pub(super) fn clear(&mut self) {
        self.by_user.clear();
    }

    /// The changes of some users for one transaction; of one user if they go `alone`.
    pub(super) fn take(&mut self, alone: bool) -> Vec<ListChange> {
        let mut taken = Vec::new();
        while let Some(entry) = self.by_user.first_entry() {
            let fits = !alone && taken.len() + entry.get().len() <= CHANGES_AT_ONCE;
            if !taken.is_empty() && !fits {
                break;
            }
            taken.extend(entry.remove());
        }
        taken
    }
}

/// Of how many users are these?
pub(super) fn users_among(changes: &[ListChange]) -> usize {
    changes.iter().map(|change| &change.user_id).collect::<BTreeSet<_>>().len()
}

impl Inner {
    /// The change that a log entry announces, if other servers learn of it.
    pub(super) fn list_change_of(&self, record: &LogRecord) -> Option<ListChange> {
        let LogRecord { position, entry } = record;
        if entry.kind != LogKind::DeviceList as u8 {
            return None;
        }
        let user_id = UserId::parse(entry.topic.as_str()).ok()?;
        if !self.identity.is_local(&user_id) {
            return None;
        }
        let log: DeviceListLog = serde_json::from_slice(&entry.payload).ok()?;
        let previous = log.previous(*position);
        let change = match log.device_id {
            Some(device_id) => Change::Device { device_id, previous },
            None => Change::SigningKeys,
        };
        Some(ListChange { position: *position, user_id, stream_id: *position, change })
    }

    /// The servers that share a room with a user of this one.
    pub(super) async fn list_servers(
        &self,
        user_id: &UserId,
    ) -> Result<Arc<BTreeSet<OwnedServerName>>, RoomError> {
        let servers = self.servers_sharing(user_id, None).await?;
        Ok(self.admitted(Arc::new(servers)))
    }

    /// Those that share a room other than this one.
    pub(super) async fn servers_sharing_other_rooms(
        &self,
        user_id: &UserId,
        room_id: &RoomId,
    ) -> Result<BTreeSet<OwnedServerName>, RoomError> {
        self.servers_sharing(user_id, Some(room_id)).await
    }

    async fn servers_sharing(
        &self,
        user_id: &UserId,
        but_for: Option<&RoomId>,
    ) -> Result<BTreeSet<OwnedServerName>, RoomError> {
        let mut servers = BTreeSet::new();
        for (room_id, row) in self.rooms.user_rooms(user_id).await? {
            let counts = but_for.is_none_or(|but_for| *room_id != *but_for);
            if counts && row.details.membership == Membership::Join {
                match self.rooms.remote_servers(&room_id).await {
                    Ok(found) => servers.extend(found.iter().cloned()),
                    Err(RoomError::UnknownRoom) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(servers)
    }

    /// Does that server share a room with a user of this one?
    async fn shares_room(&self, server: &ServerName, user_id: &UserId) -> Result<bool, RoomError> {
        for (room_id, row) in self.rooms.user_rooms(user_id).await? {
            if row.details.membership == Membership::Join
                && self.rooms.has_joined_server(&room_id, server).await?
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// A user of this server came to a room: those of its servers that were not told of the user's
    /// devices before have an old list, or none. `None` if the user has no list.
    pub(super) async fn list_of_newcomer(
        &self,
        position: StreamPosition,
        user_id: &UserId,
    ) -> Result<Option<ListChange>, RoomError> {
        let version = self.e2ee.list_version(user_id).await.map_err(into_room_error)?;
        Ok(version.map(|version| ListChange::whole(position, user_id.to_owned(), version)))
    }

    /// The changes that a destination missed in a long absence, some users at a time.
    pub(super) async fn read_lists(
        &self,
        server: &ServerName,
        after: StreamPosition,
        absence: Absence,
    ) -> Result<(), RoomError> {
        let from = absence.lists_after.unwrap_or(after);
        let read = self.e2ee.list_changes(from, absence.until, LIST_PAGE);
        let page = read.await.map_err(into_room_error)?;
        let lists_after = page.last().map(|(position, _)| *position);
        let mut changes = Vec::new();
        for (stream_id, user_id) in page {
            if self.identity.is_local(&user_id) && self.shares_room(server, &user_id).await? {
                // They all stand where the destination stopped, as its rooms' newest events do.
                changes.push(ListChange::whole(after.next(), user_id, stream_id));
            }
            yield_now().await;
        }
        let mut lanes = self.lanes.lock();
        let absence = match lanes.add_list_changes(server, changes) {
            None => Absence { lists_after, ..absence },
            // The same are read again.
            Some(_) => absence,
        };
        lanes.refill_absence(server, Vec::new(), absence);
        Ok(())
    }

    /// The EDUs that tell of changes, as things stand now.
    pub(super) async fn list_edus(
        &self,
        changes: &[ListChange],
    ) -> Result<Vec<Raw<Edu>>, RoomError> {
        let mut edus = Vec::with_capacity(changes.len());
        for change in changes {
            let edu = match &change.change {
                Change::Device { device_id, previous } => {
                    self.device_edu(change, device_id.clone(), *previous).await
                }
                Change::SigningKeys => self.signing_keys_edu(&change.user_id).await,
                Change::List => self.whole_list_edu(change).await,
            };
            match edu.map_err(into_room_error) {
                // Made of strings and JSON; cannot fail to become JSON.
                Ok(edu) => edus.extend(Raw::new(&edu).ok()),
                Err(error) if is_lasting(&error) => {
                    tracing::error!(%error, user_id = %change.user_id, "a change is not told");
                }
                Err(error) => return Err(error),
            }
        }
        Ok(edus)
    }

    async fn device_edu(
        &self,
        change: &ListChange,
        device_id: OwnedDeviceId,
        previous: Option<u64>,
    ) -> Result<Edu, E2eeError> {
        let ListChange { user_id, stream_id, .. } = change;
        let device = self.e2ee.device_for_servers(user_id, &device_id).await?;
        let version = UInt::new_saturating(stream_id.get());
        let mut content = DeviceListUpdateContent::new(user_id.clone(), device_id, version);
        content.prev_id = previous.into_iter().map(UInt::new_saturating).collect();
        match device {
            Some(device) => {
                content.keys = device.keys;
                content.device_display_name = device.display_name;
            }
            None => content.deleted = Some(true),
        }
        Ok(Edu::DeviceListUpdate(content))
    }

    /// About any device, and none that was told before: whoever gets it fetches the list.
    async fn whole_list_edu(&self, change: &ListChange) -> Result<Edu, E2eeError> {
        let device_id = self.e2ee.any_device(&change.user_id).await?;
        let device_id = device_id.unwrap_or_else(|| NO_DEVICE.into());
        self.device_edu(change, device_id, None).await
    }

    async fn signing_keys_edu(&self, user_id: &UserId) -> Result<Edu, E2eeError> {
        let (master_key, self_signing_key) = self.e2ee.signing_keys_for_servers(user_id).await?;
        let mut content = SigningKeyUpdateContent::new(user_id.to_owned());
        content.master_key = master_key;
        content.self_signing_key = self_signing_key;
        Ok(Edu::SigningKeyUpdate(content))
    }
}

/// The store's failures are waited out, as those of rooms are.
pub(super) fn into_room_error(error: E2eeError) -> RoomError {
    match error {
        E2eeError::Store(error) => error.into(),
        E2eeError::Commit(error) => error.into(),
        E2eeError::Rooms(error) => error,
        error => RoomError::Internal(Box::new(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(user: usize, position: u64) -> ListChange {
        let position = StreamPosition::new(position);
        ListChange {
            position,
            user_id: format!("@u{user}:here.test").try_into().unwrap(),
            stream_id: position,
            change: Change::Device { device_id: "D".into(), previous: Some(position.get() - 1) },
        }
    }

    #[test]
    fn many_changes_of_one_user_become_one() {
        let mut queue = ListQueue::default();
        for position in 1..=20 {
            assert!(queue.add(change(0, position)));
        }
        assert_eq!(queue.first(), Some(StreamPosition::new(1)), "nothing before it is lost");
        let taken = queue.take(false);
        assert!(taken.len() <= MAX_CHANGES);
        let newest = taken.iter().map(|change| change.stream_id).max();
        assert_eq!(newest, Some(StreamPosition::new(20)));
        assert_eq!(taken[0].change, Change::List);
        assert!(queue.is_empty() && queue.first().is_none());
    }

    #[test]
    fn what_was_taken_and_comes_back_is_told_before_what_came_since() {
        let mut queue = ListQueue::default();
        assert!(queue.add(change(0, 10)));
        let taken = queue.take(false);
        assert!(queue.add(change(0, 20)));
        for change in taken {
            assert!(queue.add(change));
        }
        let positions = queue.take(false).into_iter().map(|change| change.position.get());
        assert_eq!(positions.collect::<Vec<_>>(), [10, 20]);
    }

    #[test]
    fn a_transaction_has_few_and_what_waits_is_bounded() {
        let mut queue = ListQueue::default();
        for user in 0..MAX_USERS {
            assert!(queue.add(change(user, 10)) && queue.add(change(user, 20)));
        }
        assert!(!queue.add(change(MAX_USERS, 30)));
        assert!(queue.add(change(0, 30)));
        assert_eq!(users_among(&queue.take(true)), 1);
        let taken = queue.take(false);
        assert_eq!((taken.len(), users_among(&taken)), (14, 7));
    }
}
