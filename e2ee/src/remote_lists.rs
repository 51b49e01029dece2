//! Device lists of other servers' users: kept while a room is shared with them, followed by their
//! servers' updates, fetched again when one is missing (SS "Device Management").
//!
//! A list is used for answers while its row says that nothing is missing. It says so after the whole list
//! was fetched, and as long as every update named only predecessors that are known: the list as fetched
//! has all up to its `stream_id`, and updates since then are remembered by theirs. Anything else marks the
//! list as stale, durably, before the update is answered, and it is fetched behind that: at once, then in
//! growing pauses, and again whenever somebody asks or another update comes.
//!
//! Servers tell updates only to those who share a room. So whoever leaves any room ends the trust in what
//! is kept of them, also if other rooms are shared still: that costs a fetch, when somebody asks next, and
//! needs no bookkeeping of who shared what since when. `follow` reads that from the log, with a cursor of
//! its own that outlives restarts. Whoever comes to share the first room with this server may have other
//! devices than when they left: that is noted as a change of their list.
//!
//! `updates` takes what servers tell · `fetch` and `keep` get whole lists · `resync` repeats that.

mod fetch;
pub(crate) mod follow;
mod keep;
mod resync;
mod shares;
mod updates;

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use bytes::Bytes;
use hearth_storage::{Direction, Snapshot, StoreError};
use parking_lot::Mutex;
use ruma::{OwnedDeviceId, OwnedUserId, UserId, encryption::KeyUsage};
use tokio::sync::Semaphore;

use self::{fetch::Fetch, resync::Resync, shares::Shares};
use crate::{
    E2ee, E2eeError,
    schema::{CROSS_SIGNING_KEYS, REMOTE_DEVICES, REMOTE_LISTS, RemoteDeviceRow, RemoteListRow},
};

/// Devices that are kept of one user. Of longer lists the rest is not known here.
pub(crate) const MAX_REMOTE_DEVICES: usize = 1_000;
/// Bytes of the devices of a list that is fetched. Of larger ones the rest is not known here: those of a
/// thousand devices as clients make them fit.
const MAX_LIST_BYTES: usize = 1 << 20;
/// Lists that are fetched at once, over all servers.
const FETCHES_AT_ONCE: usize = 50;
/// Of these, so many from one server: one that is slow, or means ill, holds up its own users' alone.
const FETCHES_AT_ONCE_FROM_ONE: usize = 4;
/// Users of one server whose lists are fetched or wait for their turn.
const FETCHES_OF_ONE: usize = 100;
/// Users of one server whose lists are fetched again until it succeeds.
const RESYNCS_OF_ONE: usize = 50;
/// Rooms of a user that are looked at to find one that this server is in still.
const ROOMS_LOOKED_AT: usize = 1_000;
/// Devices of a list that is read inline; longer ones are read in a blocking job.
const INLINE_DEVICES: u32 = 100;

/// Who fetches which list.
#[derive(Debug)]
pub(crate) struct RemoteLists {
    /// The fetches that are under way.
    fetches: Mutex<HashMap<OwnedUserId, Fetch>>,
    /// The lists that are fetched again until it succeeds.
    resyncs: Mutex<HashMap<OwnedUserId, Arc<Resync>>>,
    places: Semaphore,
    /// What each server may have of the places, of the fetches, and of the resyncs.
    places_of_each: Shares,
    fetches_of_each: Shares,
    resyncs_of_each: Shares,
}

impl Default for RemoteLists {
    fn default() -> Self {
        Self {
            fetches: Mutex::default(),
            resyncs: Mutex::default(),
            places: Semaphore::new(FETCHES_AT_ONCE),
            places_of_each: Shares::new(FETCHES_AT_ONCE_FROM_ONE),
            fetches_of_each: Shares::new(FETCHES_OF_ONE),
            resyncs_of_each: Shares::new(RESYNCS_OF_ONE),
        }
    }
}

/// What is kept of a user of another server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct KeptList {
    /// All devices, those without keys too.
    pub(crate) devices: BTreeMap<OwnedDeviceId, RemoteDeviceRow>,
    pub(crate) master: Option<Bytes>,
    pub(crate) self_signing: Option<Bytes>,
}

impl KeptList {
    /// Reads everything at one time.
    fn read(view: &Snapshot, user_id: &OwnedUserId) -> Result<Self, StoreError> {
        let devices =
            view.page(&REMOTE_DEVICES, user_id, .., Direction::Forward, 2 * MAX_REMOTE_DEVICES)?;
        let signing_key =
            |usage: KeyUsage| view.get(&CROSS_SIGNING_KEYS, user_id, &usage.as_str().to_owned());
        Ok(Self {
            devices: devices.into_iter().collect(),
            master: signing_key(KeyUsage::Master)?,
            self_signing: signing_key(KeyUsage::SelfSigning)?,
        })
    }
}

impl E2ee {
    /// What is kept of a user of another server, if anything is; not if something is missing in it,
    /// unless it need not be `fresh`.
    pub(crate) async fn kept_list(
        &self,
        user_id: &UserId,
        fresh: bool,
    ) -> Result<Option<KeptList>, StoreError> {
        let user_id = user_id.to_owned();
        let usable = move |row: &RemoteListRow| !fresh || !row.stale;
        let Some(row) = self.remote_list(&user_id).await?.filter(usable) else { return Ok(None) };
        let read = move |view: &Snapshot| {
            let row = view.get(&REMOTE_LISTS, &user_id, &())?.filter(usable);
            row.map(|_| KeptList::read(view, &user_id)).transpose()
        };
        if row.devices > INLINE_DEVICES {
            return self.store().bulk(read).await;
        }
        read(&self.store().snapshot())
    }

    /// Is a user of another server in a room that this server is in?
    pub(crate) async fn shares_room_with(&self, user_id: &UserId) -> Result<bool, E2eeError> {
        for room_id in self.rooms().rooms_of_remote_user(user_id, ROOMS_LOOKED_AT).await? {
            if self.rooms().is_resident(&room_id).await? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    async fn remote_list(&self, user_id: &UserId) -> Result<Option<RemoteListRow>, StoreError> {
        self.store().get(&REMOTE_LISTS, &user_id.to_owned(), &()).await
    }
}

#[cfg(test)]
mod tests;
