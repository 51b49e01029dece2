//! Devices: list, rename, delete; when they were last seen.

use std::{collections::HashMap, net::IpAddr, ops::Bound, sync::atomic::Ordering};

use hearth_storage::{Commit, Keyspace, Topic, postcard_record};
use ruma::{DeviceId, OwnedDeviceId, OwnedUserId, UserId};
use serde::{Deserialize, Serialize};

use crate::{
    DeviceChange, LogKind, Session, TokenHash, Users, UsersError, log::user_entry,
    sessions::forget_tokens,
};

pub(crate) const DEVICES: Keyspace<OwnedUserId, OwnedDeviceId, DeviceRow> =
    Keyspace::new("devices");
pub(crate) const DEVICES_SEEN: Keyspace<OwnedUserId, OwnedDeviceId, SeenRow> =
    Keyspace::new("devices_seen");

/// Devices deleted by one commit: seven operations each at most, and eight of the keeper's.
const DEVICES_PER_COMMIT: usize = 50;
/// Devices of one user. People have dozens in years; what logs in anew each time it starts would make
/// thousands, which everybody who asks for this user's keys would be told.
pub(crate) const MAX_DEVICES: usize = 500;
/// The longest name of a device in bytes.
const MAX_NAME_BYTES: usize = 1024;
/// A device is noted at most this often.
const SEEN_INTERVAL_MS: u64 = 5 * 60 * 1000;
/// Devices noted and not yet written; beyond them notes are lost.
const MAX_SEEN_WAITING: usize = 50_000;
/// Users whose notes are written in one tick.
const SEEN_PER_TICK: usize = 200;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DeviceRow {
    pub(crate) display_name: Option<String>,
    /// The tokens in use.
    pub(crate) current: TokenPair,
    /// Refreshed tokens that nobody has used yet; their first use replaces `current`.
    pub(crate) next: Option<TokenPair>,
}
postcard_record!(DeviceRow, version = 1);

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TokenPair {
    pub(crate) access: TokenHash,
    pub(crate) access_expires_ms: Option<u64>,
    pub(crate) refresh: Option<TokenHash>,
    pub(crate) refresh_expires_ms: Option<u64>,
}

impl DeviceRow {
    pub(crate) fn pairs(&self) -> impl Iterator<Item = &TokenPair> {
        std::iter::once(&self.current).chain(&self.next)
    }

    pub(crate) fn pair_of_access(&self, token: TokenHash) -> Option<&TokenPair> {
        self.pairs().find(|pair| pair.access == token)
    }

    pub(crate) fn pair_of_refresh(&self, token: TokenHash) -> Option<&TokenPair> {
        self.pairs().find(|pair| pair.refresh == Some(token))
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SeenRow {
    pub(crate) ts_ms: u64,
    pub(crate) ip: Option<String>,
}
postcard_record!(SeenRow, version = 1);

/// What was seen of devices and is not written yet.
pub(crate) type SeenTable = HashMap<(OwnedUserId, OwnedDeviceId), SeenRow>;

/// A device of a user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// The device's ID.
    pub device_id: OwnedDeviceId,
    /// The name that its user gave it.
    pub display_name: Option<String>,
    /// When it last made a request, in milliseconds, give or take some minutes.
    pub last_seen_ts_ms: Option<u64>,
    /// From where.
    pub last_seen_ip: Option<String>,
}

impl Users {
    /// All devices of a user, by ID.
    pub async fn devices(&self, user_id: &UserId) -> Result<Vec<Device>, UsersError> {
        let owner = user_id.to_owned();
        let all = (Bound::Unbounded, Bound::Unbounded);
        let rows = self.store().page_all(&DEVICES, &owner, all.clone()).await?;
        let mut seen: HashMap<_, _> =
            self.store().page_all(&DEVICES_SEEN, &owner, all).await?.into_iter().collect();
        let devices = rows.into_iter().map(|(device_id, row)| {
            let seen = seen.remove(&device_id);
            self.device_of(&owner, device_id, row, seen)
        });
        Ok(devices.collect())
    }

    /// One device of a user.
    pub async fn device(
        &self,
        user_id: &UserId,
        device_id: &DeviceId,
    ) -> Result<Option<Device>, UsersError> {
        let (owner, device_id) = (user_id.to_owned(), device_id.to_owned());
        let Some(row) = self.store().get(&DEVICES, &owner, &device_id).await? else {
            return Ok(None);
        };
        let seen = self.store().get(&DEVICES_SEEN, &owner, &device_id).await?;
        Ok(Some(self.device_of(&owner, device_id, row, seen)))
    }

    fn device_of(
        &self,
        owner: &OwnedUserId,
        device_id: OwnedDeviceId,
        row: DeviceRow,
        written: Option<SeenRow>,
    ) -> Device {
        let key = (owner.clone(), device_id);
        let seen = self.inner.seen.lock().get(&key).cloned().or(written);
        let (last_seen_ts_ms, last_seen_ip) =
            seen.map_or((None, None), |seen| (Some(seen.ts_ms), seen.ip));
        Device { device_id: key.1, display_name: row.display_name, last_seen_ts_ms, last_seen_ip }
    }

    /// Names a device; `None` leaves the name as it is.
    pub async fn rename_device(
        &self,
        user_id: &UserId,
        device_id: &DeviceId,
        display_name: Option<String>,
    ) -> Result<(), UsersError> {
        let display_name = checked_device_name(display_name)?;
        let device_id = device_id.to_owned();
        self.exclusive(user_id, move |users, user_id| async move {
            let Some(mut row) = users.store().get(&DEVICES, &user_id, &device_id).await? else {
                return Err(UsersError::DeviceNotFound);
            };
            if display_name.is_none() || display_name == row.display_name {
                return Ok(());
            }
            row.display_name = display_name;
            let mut commit = Commit::new(&user_id);
            commit.put(&DEVICES, &user_id, &device_id, &row);
            log_device(&mut commit, &user_id, &device_id);
            let change = DeviceChange::Renamed(&device_id);
            users.commit_change(&user_id, change, commit).await
        })
        .await
    }

    /// Deletes devices with their tokens; unknown ones are passed over. Returns those that went.
    pub async fn delete_devices(
        &self,
        user_id: &UserId,
        device_ids: &[OwnedDeviceId],
    ) -> Result<Vec<OwnedDeviceId>, UsersError> {
        let device_ids = device_ids.to_vec();
        self.exclusive(user_id, move |users, user_id| async move {
            users.delete_devices_now(&user_id, &device_ids).await
        })
        .await
    }

    /// Under the user's lock: ends the sessions that were not in use for the longest time, as many as must
    /// go for one more to come.
    pub(crate) async fn make_room_for_device(
        &self,
        user_id: &OwnedUserId,
    ) -> Result<(), UsersError> {
        let all = (Bound::Unbounded, Bound::Unbounded);
        let count = self.store().page_all(&DEVICES, user_id, all).await?.len();
        let surplus = (count + 1).saturating_sub(MAX_DEVICES);
        if surplus == 0 {
            return Ok(());
        }
        let mut devices = self.devices(user_id).await?;
        devices.sort_by_key(|device| device.last_seen_ts_ms);
        let unused = devices.into_iter().take(surplus).map(|device| device.device_id);
        let gone = self.delete_devices_now(user_id, &unused.collect::<Vec<_>>()).await?;
        tracing::info!(%user_id, ?gone, "has as many devices as one may have: the least used went");
        Ok(())
    }

    /// Under the user's lock: deletes all devices but one.
    pub(crate) async fn delete_all_devices_now(
        &self,
        user_id: &OwnedUserId,
        keep: Option<&DeviceId>,
    ) -> Result<Vec<OwnedDeviceId>, UsersError> {
        let all = (Bound::Unbounded, Bound::Unbounded);
        let rows = self.store().page_all(&DEVICES, user_id, all).await?;
        let device_ids: Vec<_> = rows
            .into_iter()
            .map(|(device_id, _)| device_id)
            .filter(|device_id| keep != Some(device_id))
            .collect();
        self.delete_devices_now(user_id, &device_ids).await
    }

    /// Under the user's lock.
    async fn delete_devices_now(
        &self,
        user_id: &OwnedUserId,
        device_ids: &[OwnedDeviceId],
    ) -> Result<Vec<OwnedDeviceId>, UsersError> {
        let mut gone = Vec::new();
        for chunk in device_ids.chunks(DEVICES_PER_COMMIT) {
            let rows = self.store().get_many(&DEVICES, user_id, chunk).await?;
            let mut commit = Commit::new(user_id);
            let (mut ended, mut going) = (Vec::new(), Vec::new());
            for (device_id, row) in chunk.iter().zip(rows) {
                let Some(row) = row else { continue };
                commit.delete(&DEVICES, user_id, device_id);
                commit.delete(&DEVICES_SEEN, user_id, device_id);
                log_device(&mut commit, user_id, device_id);
                for pair in row.pairs() {
                    forget_tokens(&mut commit, pair);
                    ended.push(pair.clone());
                }
                going.push(device_id.clone());
            }
            if commit.is_empty() {
                continue;
            }
            // Before the commit, which wakes those who look whether their session has ended. Nobody takes it into memory again
            // meanwhile: that needs the user's lock.
            for pair in &ended {
                self.inner.sessions.remove(pair);
            }
            self.commit_change(user_id, DeviceChange::Removed(&going), commit).await?;
            gone.append(&mut going);
        }
        Ok(gone)
    }

    /// Under the user's lock: commits a change of devices together with what its keepers add.
    pub(crate) async fn commit_change(
        &self,
        user_id: &UserId,
        change: DeviceChange<'_>,
        mut commit: Commit,
    ) -> Result<(), UsersError> {
        let keepers = self.device_keepers();
        for keeper in &keepers {
            keeper.changing(user_id, change, &mut commit).await?;
        }
        if !commit.is_empty() {
            self.store().commit(commit).await?;
        }
        for keeper in &keepers {
            keeper.changed(user_id, change).await;
        }
        Ok(())
    }

    /// Notes that the session's device was in use, for its `last_seen_ts` and `last_seen_ip`. Costs
    /// next to nothing and waits for nothing: written at most once per five minutes per device.
    pub fn note_seen(&self, session: &Session, ip: Option<IpAddr>) {
        let now_ms = self.now_ms();
        let noted = &session.0.noted_ms;
        let last = noted.load(Ordering::Relaxed);
        if last != 0 && now_ms < last.saturating_add(SEEN_INTERVAL_MS) {
            return;
        }
        if noted.compare_exchange(last, now_ms, Ordering::Relaxed, Ordering::Relaxed).is_err() {
            return;
        }
        self.note(session.0.user_id.clone(), session.0.device_id.clone(), now_ms, ip);
    }

    /// Notes that a device has just logged in, for its `last_seen_ts` and `last_seen_ip`.
    pub fn note_login(&self, user_id: &UserId, device_id: &DeviceId, ip: Option<IpAddr>) {
        self.note(user_id.to_owned(), device_id.to_owned(), self.now_ms(), ip);
    }

    fn note(&self, user_id: OwnedUserId, device_id: OwnedDeviceId, ts_ms: u64, ip: Option<IpAddr>) {
        let key = (user_id, device_id);
        let row = SeenRow { ts_ms, ip: ip.map(|ip| ip.to_string()) };
        let mut seen = self.inner.seen.lock();
        if seen.len() < MAX_SEEN_WAITING || seen.contains_key(&key) {
            seen.insert(key, row);
        }
    }

    /// Writes what was noted: some of it, or all.
    pub(crate) async fn write_seen(&self, all: bool) -> Result<(), UsersError> {
        let limit = if all { usize::MAX } else { SEEN_PER_TICK };
        let waiting: Vec<_> = {
            let seen = self.inner.seen.lock();
            seen.iter().take(limit).map(|(key, row)| (key.clone(), row.clone())).collect()
        };
        for ((user_id, device_id), row) in waiting {
            let written = row.clone();
            let id = device_id.clone();
            self.exclusive(&user_id, move |users, user_id| async move {
                // The device may have been deleted meanwhile.
                if users.store().get(&DEVICES, &user_id, &id).await?.is_none() {
                    return Ok(());
                }
                let mut commit = Commit::new(&user_id).lazy();
                commit.put(&DEVICES_SEEN, &user_id, &id, &written);
                users.store().commit(commit).await?;
                Ok(())
            })
            .await?;
            // What was noted later stays for the next time.
            let mut seen = self.inner.seen.lock();
            let key = (user_id, device_id);
            if seen.get(&key) == Some(&row) {
                seen.remove(&key);
            }
        }
        Ok(())
    }
}

fn log_device(commit: &mut Commit, user_id: &OwnedUserId, device_id: &OwnedDeviceId) {
    let position = commit.next_position();
    commit.log(position, user_entry(LogKind::Device, user_id, device_id.as_bytes()));
    commit.touch(Topic::new(user_id.as_str()));
}

/// A name that may be given to a device.
pub(crate) fn checked_device_name(name: Option<String>) -> Result<Option<String>, UsersError> {
    match name {
        Some(name) if name.len() > MAX_NAME_BYTES => {
            Err(UsersError::TooLarge { max_bytes: MAX_NAME_BYTES })
        }
        name => Ok(name),
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::{NewSession, users::testing::Bench};

    #[tokio::test]
    async fn devices_are_renamed_and_deleted() {
        let bench = Bench::new().await;
        let (alice, bob) = (bench.user("alice").await, bench.user("bob").await);
        let users = &bench.users;
        let one = users.create_session(&alice, NewSession::default()).await.unwrap().device_id;
        let two = users.create_session(&alice, NewSession::default()).await.unwrap().device_id;
        users.rename_device(&alice, &one, Some("laptop".to_owned())).await.unwrap();
        users.rename_device(&alice, &one, None).await.unwrap();
        let device = users.device(&alice, &one).await.unwrap().unwrap();
        assert_eq!(device.display_name.as_deref(), Some("laptop"));
        let foreign = users.rename_device(&bob, &one, Some("mine".to_owned())).await;
        assert!(matches!(foreign, Err(UsersError::DeviceNotFound)));
        let long = users.rename_device(&alice, &one, Some("x".repeat(2000))).await;
        assert!(matches!(long, Err(UsersError::TooLarge { .. })));
        let unknown: OwnedDeviceId = "UNKNOWN".into();
        let gone = users.delete_devices(&alice, &[unknown, one.clone()]).await.unwrap();
        assert_eq!(gone, std::slice::from_ref(&one));
        assert_eq!(users.device(&alice, &one).await.unwrap(), None);
        let left = users.devices(&alice).await.unwrap();
        assert_eq!(left.into_iter().map(|device| device.device_id).collect::<Vec<_>>(), [two]);
    }

    #[tokio::test]
    async fn whoever_has_very_many_devices_loses_the_least_used() {
        let bench = Bench::new().await;
        let alice = bench.user("alice").await;
        let users = &bench.users;
        let login = async || {
            bench.advance_s(1);
            let tokens = users.create_session(&alice, NewSession::default()).await.unwrap();
            users.note_login(&alice, &tokens.device_id, None);
            tokens
        };
        let (first, second) = (login().await, login().await);
        for _ in 2..MAX_DEVICES {
            login().await;
        }
        assert_eq!(users.devices(&alice).await.unwrap().len(), MAX_DEVICES);
        bench.advance_s(300);
        let session = users.authenticate(&first.access_token).await.unwrap();
        users.note_seen(&session, None);
        // Logging in again on a device makes none more.
        let again =
            NewSession { device_id: Some(second.device_id.clone()), ..NewSession::default() };
        let second = users.create_session(&alice, again).await.unwrap();
        assert!(users.authenticate(&first.access_token).await.is_ok());
        let last = login().await;
        assert_eq!(users.devices(&alice).await.unwrap().len(), MAX_DEVICES);
        assert!(users.authenticate(&first.access_token).await.is_ok());
        assert!(users.authenticate(&second.access_token).await.is_err(), "seen least lately");
        assert!(users.authenticate(&last.access_token).await.is_ok());
    }

    #[tokio::test]
    async fn being_seen_is_noted_seldom_and_written_late() {
        let bench = Bench::new().await;
        let alice = bench.user("alice").await;
        let users = &bench.users;
        let tokens = users.create_session(&alice, NewSession::default()).await.unwrap();
        let session = users.authenticate(&tokens.access_token).await.unwrap();
        let ip = |last| Some(IpAddr::from(Ipv4Addr::new(192, 0, 2, last)));
        let seen = async || {
            let device = users.device(&alice, &tokens.device_id).await.unwrap().unwrap();
            (device.last_seen_ts_ms, device.last_seen_ip)
        };
        assert_eq!(seen().await, (None, None));
        users.note_seen(&session, ip(1));
        bench.advance_s(299);
        users.note_seen(&session, ip(2));
        assert_eq!(seen().await, (Some(1_000_000), Some("192.0.2.1".to_owned())));
        bench.advance_s(1);
        users.note_seen(&session, ip(3));
        users.flush().await.unwrap();
        assert!(users.inner.seen.lock().is_empty());
        assert_eq!(seen().await, (Some(1_300_000), Some("192.0.2.3".to_owned())));
    }

    #[tokio::test]
    async fn a_deleted_device_leaves_no_trace_of_being_seen() {
        let bench = Bench::new().await;
        let alice = bench.user("alice").await;
        let users = &bench.users;
        let tokens = users.create_session(&alice, NewSession::default()).await.unwrap();
        let session = users.authenticate(&tokens.access_token).await.unwrap();
        users.note_seen(&session, None);
        users.logout(&session).await.unwrap();
        users.flush().await.unwrap();
        let row = users.store().get(&DEVICES_SEEN, &alice, &tokens.device_id).await.unwrap();
        assert_eq!(row, None);
    }
}
