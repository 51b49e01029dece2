//! Keys of other servers' users.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use futures_util::{StreamExt as _, TryStreamExt as _, future::join, stream};
use hearth_storage::run_blocking;
use ruma::{
    OwnedDeviceId, OwnedServerName, OwnedUserId, ServerName, UserId,
    api::federation::keys::get_keys,
    encryption::{CrossSigningKey, DeviceKeys, KeyUsage, UnsignedDeviceInfo},
    serde::Raw,
};
use tokio::time::{Instant, timeout_at};

use super::{Budget, KeysWanted, QueriedKeys, TOO_MUCH, UserKeys};
use crate::{
    E2ee, E2eeError, RemoteKeysError,
    cross_signing::SigningKey,
    remote::patience,
    remote_lists::{KeptList, MAX_REMOTE_DEVICES},
    signed::{checked_device_keys, only_signatures_of, shown_device, to_bytes},
};

/// Servers that one request has asked at once. Each may answer with some mebibytes.
const SERVERS_AT_ONCE: usize = 64;
/// Lists of one server's users that one request has fetched whole, to be kept. Keys of further users are
/// asked for without that, as those of users are with whom no room is shared.
const LISTS_PER_SERVER: usize = 20;
/// Of these, so many at once.
const LISTS_AT_ONCE: usize = 5;
/// Users whose keys one request to a server asks for: other servers have bounds of their own, and bounds on
/// the answers that they take.
const USERS_PER_REQUEST: usize = 250;
/// How often questions of one request are split because the answer is too large.
const MAX_SPLITS: usize = 32;
/// The longest name of a device in bytes.
const MAX_NAME_BYTES: usize = 1024;

/// What was found of one server's users.
#[derive(Debug, Default)]
pub(super) struct FromServer {
    pub(super) keys: Vec<(OwnedUserId, UserKeys)>,
    pub(super) failure: Option<String>,
}

impl FromServer {
    /// Adds a user's keys, if the answer has room for them.
    fn add(&mut self, user_id: OwnedUserId, keys: UserKeys, budget: &Budget) {
        if budget.take(&keys) {
            self.keys.push((user_id, keys));
        } else {
            self.failure = Some(TOO_MUCH.to_owned());
        }
    }

    /// Takes in what was found besides.
    fn take(&mut self, other: Self) {
        self.keys.extend(other.keys);
        self.failure = self.failure.take().or(other.failure);
    }
}

impl E2ee {
    /// Adds what other servers' users have, all servers side by side.
    pub(super) async fn add_remote_keys(
        &self,
        answer: &mut QueriedKeys,
        wanted: BTreeMap<OwnedServerName, KeysWanted>,
        budget: &Budget,
        timeout: Duration,
    ) -> Result<(), E2eeError> {
        let deadline = Instant::now() + timeout;
        let asked = wanted.into_iter().map(|(server, wanted)| async move {
            let found = self.keys_of_server(&server, wanted, budget, deadline).await?;
            Ok::<_, E2eeError>((server, found))
        });
        let found: Vec<_> =
            stream::iter(asked).buffer_unordered(SERVERS_AT_ONCE).try_collect().await?;
        for (server, found) in found {
            for (user_id, keys) in found.keys {
                answer.add(user_id, keys)?;
            }
            if let Some(failure) = found.failure {
                answer.failures.insert(server, failure);
            }
        }
        Ok(())
    }

    /// The keys of one server's users: from the lists that are kept, from those that are fetched to be
    /// kept, and in the server's answer to a query.
    pub(super) async fn keys_of_server(
        &self,
        server: &ServerName,
        wanted: KeysWanted,
        budget: &Budget,
        deadline: Instant,
    ) -> Result<FromServer, E2eeError> {
        let mut found = FromServer::default();
        let (mut lists, mut others) = (KeysWanted::new(), KeysWanted::new());
        for (user_id, devices) in wanted {
            tokio::task::consume_budget().await;
            if budget.is_spent() {
                found.failure = Some(TOO_MUCH.to_owned());
                return Ok(found);
            }
            if let Some(kept) = self.kept_list(&user_id, true).await? {
                let keys = shown_list(kept, &devices)?;
                found.add(user_id, keys, budget);
            } else if lists.len() < LISTS_PER_SERVER && self.shares_room_with(&user_id).await? {
                lists.insert(user_id, devices);
            } else {
                others.insert(user_id, devices);
            }
        }
        let asked = self.fetched_or_asked(server, lists, others, budget, deadline).await?;
        found.take(asked);
        Ok(found)
    }

    /// Fetches whole lists, and asks a server for the keys of others; at last also of those whose lists
    /// were not to be had. Some of the time is kept for that.
    pub(super) async fn fetched_or_asked(
        &self,
        server: &ServerName,
        lists: KeysWanted,
        others: KeysWanted,
        budget: &Budget,
        deadline: Instant,
    ) -> Result<FromServer, E2eeError> {
        let for_lists = deadline.saturating_duration_since(Instant::now()) * 2 / 3;
        let fetched = self.fetched_lists(lists, Instant::now() + for_lists);
        let asked = self.asked_keys(server, others, budget, deadline);
        let (fetched, mut found) = join(fetched, asked).await;
        let (fetched, missing) = fetched?;
        for (user_id, keys) in fetched {
            found.add(user_id, keys, budget);
        }
        found.take(self.asked_keys(server, missing, budget, deadline).await);
        Ok(found)
    }

    /// Fetches whole lists of users with whom a room is shared. What could not be had comes back.
    async fn fetched_lists(
        &self,
        lists: KeysWanted,
        deadline: Instant,
    ) -> Result<(Vec<(OwnedUserId, UserKeys)>, KeysWanted), E2eeError> {
        let wanted = lists.into_iter().map(|(user_id, devices)| async move {
            let mut keys = None;
            match self.fetch_list(&user_id, deadline).await {
                // Updates may have come already; it is newer than the question in any case.
                Ok(()) => {
                    if let Some(list) = self.kept_list(&user_id, false).await? {
                        keys = Some(shown_list(list, &devices)?);
                    }
                }
                Err(error) => tracing::debug!(%user_id, error, "a device list was not fetched"),
            }
            Ok::<_, E2eeError>((user_id, devices, keys))
        });
        let fetched: Vec<_> =
            stream::iter(wanted).buffer_unordered(LISTS_AT_ONCE).try_collect().await?;
        let (mut found, mut missing) = (Vec::new(), KeysWanted::new());
        for (user_id, devices, keys) in fetched {
            if let Some(keys) = keys {
                found.push((user_id, keys));
            } else {
                missing.insert(user_id, devices);
            }
        }
        Ok((found, missing))
    }

    /// Asks a server for keys that are not to be kept: of some users at a time, and of fewer where the
    /// answer is too large.
    async fn asked_keys(
        &self,
        server: &ServerName,
        wanted: KeysWanted,
        budget: &Budget,
        deadline: Instant,
    ) -> FromServer {
        let mut found = FromServer::default();
        let mut questions: VecDeque<_> = parts(wanted, USERS_PER_REQUEST).into();
        let mut splits_left = MAX_SPLITS;
        while let Some(users) = questions.pop_front() {
            if budget.is_spent() {
                found.failure = Some(TOO_MUCH.to_owned());
                break;
            }
            match self.ask_for_keys(server, users.clone(), deadline).await {
                Ok(keys) => {
                    for (user_id, keys) in keys {
                        found.add(user_id, keys, budget);
                    }
                }
                Err(RemoteKeysError::TooLarge(_)) if users.len() > 1 && splits_left > 0 => {
                    splits_left -= 1;
                    let half = users.len().div_ceil(2);
                    for part in parts(users, half).into_iter().rev() {
                        questions.push_front(part);
                    }
                }
                // The others' may not be.
                Err(RemoteKeysError::TooLarge(why)) => found.failure = Some(why),
                Err(RemoteKeysError::Failed(why)) => {
                    found.failure = Some(why);
                    break;
                }
            }
        }
        found
    }

    async fn ask_for_keys(
        &self,
        server: &ServerName,
        wanted: KeysWanted,
        deadline: Instant,
    ) -> Result<Vec<(OwnedUserId, UserKeys)>, RemoteKeysError> {
        let failed = |why: &str| RemoteKeysError::Failed(why.to_owned());
        let remote = self.remote().ok_or_else(|| failed("this server does not federate"))?;
        let patience = patience(deadline);
        if patience.is_zero() {
            return Err(failed(TOO_LATE));
        }
        let asked = timeout_at(deadline, remote.query(server, wanted.clone(), patience));
        let answer = asked.await.map_err(|_| failed(TOO_LATE))??;
        // Thousands of signatures take a while.
        run_blocking(move || check_answer(wanted, answer))
            .await
            .map_err(|error| failed(&error.to_string()))?
            .map_err(|error| failed(&error.to_string()))
    }
}

/// Users in parts of this size.
fn parts(users: KeysWanted, size: usize) -> Vec<KeysWanted> {
    let (mut users, mut parts) = (users.into_iter(), Vec::new());
    loop {
        let part: KeysWanted = users.by_ref().take(size).collect();
        if part.is_empty() {
            return parts;
        }
        parts.push(part);
    }
}

/// What a server says of the users that it was asked for; what does not verify is left out.
fn check_answer(
    wanted: KeysWanted,
    mut answer: get_keys::v1::Response,
) -> Result<Vec<(OwnedUserId, UserKeys)>, E2eeError> {
    let mut checked = Vec::new();
    for (user_id, wanted) in wanted {
        let devices = answer.device_keys.remove(&user_id).unwrap_or_default();
        let master = answer.master_keys.remove(&user_id);
        let self_signing = answer.self_signing_keys.remove(&user_id);
        let CheckedKeys { master, self_signing } =
            check_signing_keys(&user_id, None, master.as_ref(), self_signing.as_ref());
        let mut keys = UserKeys {
            devices: BTreeMap::new(),
            master: master.map(|key| to_bytes(&key.object)).transpose()?,
            self_signing: self_signing.map(|key| to_bytes(&key.object)).transpose()?,
        };
        let wanted: BTreeSet<_> = wanted.into_iter().collect();
        let devices = devices.into_iter().take(MAX_REMOTE_DEVICES);
        for (device_id, raw) in
            devices.filter(|(device_id, _)| wanted.is_empty() || wanted.contains(device_id))
        {
            match check_device(&user_id, &device_id, &raw) {
                Ok(device) => {
                    keys.devices.insert(device_id, device);
                }
                Err(error) => {
                    tracing::debug!(%user_id, %device_id, %error, "device keys are not shown");
                }
            }
        }
        checked.push((user_id, keys));
    }
    Ok(checked)
}

fn check_device(
    user_id: &UserId,
    device_id: &OwnedDeviceId,
    raw: &Raw<DeviceKeys>,
) -> Result<Raw<DeviceKeys>, E2eeError> {
    let object = checked_device_keys(user_id, device_id, raw)?;
    let unsigned = raw.get_field::<UnsignedDeviceInfo>("unsigned").ok().flatten();
    let name = kept_name(unsigned.and_then(|unsigned| unsigned.device_display_name));
    shown_device(&to_bytes(&object)?, name.as_deref())
}

/// A name of a device, if it is not too long for one.
pub(crate) fn kept_name(name: Option<String>) -> Option<String> {
    name.filter(|name| name.len() <= MAX_NAME_BYTES)
}

/// Cross-signing keys as another server tells them, as far as they verify.
pub(crate) struct CheckedKeys {
    pub(crate) master: Option<SigningKey>,
    pub(crate) self_signing: Option<SigningKey>,
}

/// Checks keys of another server's user. A self-signing key must be signed by the master key that comes
/// with it, or by the one that is known.
pub(crate) fn check_signing_keys(
    user_id: &UserId,
    known_master: Option<&SigningKey>,
    master: Option<&Raw<CrossSigningKey>>,
    self_signing: Option<&Raw<CrossSigningKey>>,
) -> CheckedKeys {
    let check = |usage: KeyUsage, key: Option<&Raw<CrossSigningKey>>| {
        let checked = SigningKey::check(user_id, &usage, key?.json().get());
        let told = |error: &E2eeError| tracing::debug!(%user_id, %usage, %error, "a bad key");
        let mut key = checked.inspect_err(told).ok()?;
        // Nobody here is to see whom else's keys signed it.
        key.object = only_signatures_of(user_id, key.object);
        Some(key)
    };
    let master = check(KeyUsage::Master, master);
    let signer = master.as_ref().or(known_master);
    let self_signing = check(KeyUsage::SelfSigning, self_signing)
        .filter(|key| signer.is_some_and(|signer| signer.verify(user_id, &key.object).is_ok()));
    CheckedKeys { master, self_signing }
}

/// A list that is kept, as clients get it.
fn shown_list(list: KeptList, wanted: &[OwnedDeviceId]) -> Result<UserKeys, E2eeError> {
    let wanted: BTreeSet<_> = wanted.iter().collect();
    let mut devices = BTreeMap::new();
    for (device_id, row) in list.devices {
        if let Some(keys) = row.keys
            && (wanted.is_empty() || wanted.contains(&device_id))
        {
            let keys = shown_device(keys.as_bytes(), row.display_name.as_deref())?;
            devices.insert(device_id, keys);
        }
    }
    Ok(UserKeys { devices, master: list.master, self_signing: list.self_signing })
}

/// Why a server that is too slow is said to have failed.
pub(crate) const TOO_LATE: &str = "it did not answer in time";
