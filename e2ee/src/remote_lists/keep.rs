//! Whole lists as servers tell them, checked and kept.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::AtomicBool},
};

use bytes::Bytes;
use hearth_storage::{Commit, Snapshot};
use ruma::{
    OwnedDeviceId, OwnedUserId, UserId,
    api::federation::device::get_devices::v1::{Response, UserDevice},
    encryption::KeyUsage,
};
use serde_json::Value;

use super::{KeptList, MAX_LIST_BYTES, MAX_REMOTE_DEVICES};
use crate::{
    E2ee, E2eeError,
    query::{CheckedKeys, check_signing_keys, kept_name},
    schema::{
        CROSS_SIGNING_KEYS, DEVICE_LIST_CHANGES, DEVICE_LISTS, REMOTE_DEVICES, REMOTE_LISTS,
        RemoteDeviceRow, RemoteListRow,
    },
    signed::{checked_device_keys, to_bytes},
};

/// Rows of one commit: with the largest keys they stay below what a commit may have.
const ROWS_PER_COMMIT: usize = 100;

/// A list as a server told it, as far as it verifies.
pub(super) struct CheckedList {
    stream_id: u64,
    list: KeptList,
}

/// What became of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kept {
    /// It can be used.
    Fresh,
    /// Something happened since its server was asked.
    Stale,
    /// No room is shared any more: nothing was kept.
    Not,
}

/// A change of one row.
enum Change {
    Device(OwnedDeviceId, Option<RemoteDeviceRow>),
    SigningKey(KeyUsage, Option<Bytes>),
}

impl CheckedList {
    /// Checks an answer; devices whose keys do not verify are left out. The error is for clients.
    pub(super) fn check(user_id: &UserId, answer: Response) -> Result<Self, String> {
        if answer.user_id != user_id {
            return Err("it answered for another user".to_owned());
        }
        let (mut devices, mut bytes) = (BTreeMap::new(), 0);
        for device in answer.devices.into_iter().take(MAX_REMOTE_DEVICES) {
            let UserDevice { device_id, keys, device_display_name, .. } = device;
            match checked_device_keys(user_id, &device_id, &keys) {
                Ok(object) => {
                    let keys = Some(Value::from(object).to_string());
                    let display_name = kept_name(device_display_name);
                    bytes += [&keys, &display_name]
                        .into_iter()
                        .flatten()
                        .map(String::len)
                        .sum::<usize>();
                    if bytes > MAX_LIST_BYTES {
                        tracing::debug!(%user_id, "a device list is too large: the rest is not kept");
                        break;
                    }
                    devices.insert(device_id, RemoteDeviceRow { keys, display_name });
                }
                Err(error) => {
                    tracing::debug!(%user_id, %device_id, %error, "device keys are not kept");
                }
            }
        }
        let keys = (answer.master_key.as_ref(), answer.self_signing_key.as_ref());
        let CheckedKeys { master, self_signing } =
            check_signing_keys(user_id, None, keys.0, keys.1);
        let json = |key: Option<crate::cross_signing::SigningKey>| {
            key.map(|key| to_bytes(&key.object)).transpose().map_err(|error| error.to_string())
        };
        let list = KeptList { devices, master: json(master)?, self_signing: json(self_signing)? };
        Ok(Self { stream_id: answer.stream_id.into(), list })
    }
}

impl E2ee {
    /// Keeps a list that was fetched, in the place of what was kept. `fetch` is the fetch's mark.
    pub(super) async fn keep_list(
        &self,
        user_id: &OwnedUserId,
        fetch: &Arc<AtomicBool>,
        list: CheckedList,
    ) -> Result<Kept, E2eeError> {
        let (e2ee, owner, fetch) = (self.clone(), user_id.clone(), Arc::clone(fetch));
        let work = move || async move {
            match e2ee.is_unmarked(&owner, &fetch) {
                Some(is_fresh) => e2ee.keep_list_now(&owner, is_fresh, list).await,
                None => Ok(Kept::Not),
            }
        };
        self.users().in_turn(user_id, work).await
    }

    /// In the user's turn.
    async fn keep_list_now(
        &self,
        user_id: &OwnedUserId,
        is_fresh: bool,
        CheckedList { stream_id, list }: CheckedList,
    ) -> Result<Kept, E2eeError> {
        let was_kept = self.remote_list(user_id).await?.is_some();
        let devices = u32::try_from(list.devices.len()).unwrap_or(u32::MAX);
        let row =
            RemoteListRow { fetched: stream_id, updates: Vec::new(), devices, stale: !is_fresh };
        let changes = changes(self.all_rows(user_id).await?, list);
        let has_changed = was_kept && !changes.is_empty();
        let stale = RemoteListRow { stale: true, ..row.clone() };
        let mut commit = self.write(user_id, changes, stale).await?;
        commit.put(&REMOTE_LISTS, user_id, &(), &row);
        if has_changed {
            self.note_list_change(&mut commit, user_id, None).await?;
        }
        self.store().commit(commit).await?;
        if has_changed {
            self.announce_list(user_id).await;
        }
        if !is_fresh {
            return Ok(Kept::Stale);
        }
        self.end_fetch(user_id);
        Ok(Kept::Fresh)
    }

    /// Forgets everything that is kept of a user with whom no room is shared any more.
    pub(super) async fn forget_list(&self, user_id: &UserId) -> Result<(), E2eeError> {
        let (e2ee, owner) = (self.clone(), user_id.to_owned());
        let work = move || async move {
            e2ee.end_fetch(&owner);
            let changes = changes(e2ee.all_rows(&owner).await?, KeptList::default());
            let stale = RemoteListRow { stale: true, ..RemoteListRow::default() };
            let mut commit = e2ee.write(&owner, changes, stale).await?;
            commit.delete(&REMOTE_LISTS, &owner, &());
            if let Some(changed) = e2ee.store().get(&DEVICE_LISTS, &owner, &()).await? {
                commit.delete(&DEVICE_LISTS, &owner, &());
                commit.effect_delete(&DEVICE_LIST_CHANGES, &(), &changed);
            }
            e2ee.store().commit(commit).await?;
            Ok::<_, E2eeError>(())
        };
        self.users().in_turn(user_id, work).await
    }

    /// The rows, those too that a crash left of a list that is not kept any more.
    async fn all_rows(&self, user_id: &OwnedUserId) -> Result<KeptList, E2eeError> {
        let user_id = user_id.clone();
        Ok(self.store().bulk(move |view: &Snapshot| KeptList::read(view, &user_id)).await?)
    }

    /// Writes changes; the last ones are in the commit that comes back. Until that one nobody trusts
    /// rows of which some are new and some old: that is what `stale` is for.
    async fn write(
        &self,
        user_id: &OwnedUserId,
        changes: Vec<Change>,
        stale: RemoteListRow,
    ) -> Result<Commit, E2eeError> {
        let mut commit = Commit::new(user_id);
        for (number, change) in changes.into_iter().enumerate() {
            if number > 0 && number % ROWS_PER_COMMIT == 0 {
                commit.put(&REMOTE_LISTS, user_id, &(), &stale);
                let full = std::mem::replace(&mut commit, Commit::new(user_id));
                self.store().commit(full).await?;
            }
            match change {
                Change::Device(device_id, Some(device)) => {
                    commit.put(&REMOTE_DEVICES, user_id, &device_id, &device);
                }
                Change::Device(device_id, None) => {
                    commit.delete(&REMOTE_DEVICES, user_id, &device_id);
                }
                Change::SigningKey(usage, Some(key)) => {
                    commit.put(&CROSS_SIGNING_KEYS, user_id, &usage.as_str().to_owned(), &key);
                }
                Change::SigningKey(usage, None) => {
                    commit.delete(&CROSS_SIGNING_KEYS, user_id, &usage.as_str().to_owned());
                }
            }
        }
        Ok(commit)
    }
}

/// What must change to make one list of another.
fn changes(mut old: KeptList, new: KeptList) -> Vec<Change> {
    let mut changes = Vec::new();
    for (device_id, device) in new.devices {
        if old.devices.remove(&device_id).as_ref() != Some(&device) {
            changes.push(Change::Device(device_id, Some(device)));
        }
    }
    changes.extend(old.devices.into_keys().map(|device_id| Change::Device(device_id, None)));
    if old.master != new.master {
        changes.push(Change::SigningKey(KeyUsage::Master, new.master));
    }
    if old.self_signing != new.self_signing {
        changes.push(Change::SigningKey(KeyUsage::SelfSigning, new.self_signing));
    }
    changes
}
