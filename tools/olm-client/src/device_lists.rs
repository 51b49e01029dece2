//! Other users' devices, as far as their servers tell and their keys verify (Client-Server API, "Tracking
//! the device list for a user").

use std::collections::{BTreeMap, BTreeSet};

use ruma::{DeviceId, OwnedDeviceId, OwnedUserId, UserId};
use serde_json::{Map, Value, json};
use vodozemac::{Curve25519PublicKey, Ed25519PublicKey};

use crate::{Error, Homeserver, homeserver::post, signed::verify};

#[cfg(test)]
mod tests;

/// A device and the keys that it is known by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PeerDevice {
    pub(crate) user_id: OwnedUserId,
    pub(crate) device_id: OwnedDeviceId,
    pub(crate) curve25519: Curve25519PublicKey,
    pub(crate) ed25519: Ed25519PublicKey,
}

impl PeerDevice {
    /// Reads device keys and verifies that the device signed them.
    ///
    /// # Errors
    ///
    /// [`Error::Keys`]
    pub(crate) fn from_keys(
        user_id: &UserId,
        device_id: &DeviceId,
        keys: &Value,
    ) -> Result<Self, Error> {
        let refused = |why: &str| Error::keys(format!("{device_id} of {user_id}"), why);
        let is = |field: &str, id: &str| keys.get(field).is_some_and(|told| told == id);
        if !is("user_id", user_id.as_str()) || !is("device_id", device_id.as_str()) {
            return Err(refused("they name another device"));
        }
        let key = |algorithm: &str| {
            let key =
                keys.get("keys").and_then(|keys| keys.get(format!("{algorithm}:{device_id}")));
            key.and_then(Value::as_str).ok_or_else(|| refused("a key is missing"))
        };
        let curve25519 = Curve25519PublicKey::from_base64(key("curve25519")?)
            .map_err(|_| refused("a malformed Curve25519 key"))?;
        let ed25519 = Ed25519PublicKey::from_base64(key("ed25519")?)
            .map_err(|_| refused("a malformed Ed25519 key"))?;
        verify(keys, user_id, device_id, &ed25519)?;
        let (user_id, device_id) = (user_id.to_owned(), device_id.to_owned());
        Ok(Self { user_id, device_id, curve25519, ed25519 })
    }
}

type Devices = BTreeMap<OwnedDeviceId, PeerDevice>;

/// The lists of the users to whom this device encrypts.
#[derive(Debug, Default)]
pub(crate) struct DeviceLists {
    lists: BTreeMap<OwnedUserId, Devices>,
    /// Those of them that must be asked for again.
    outdated: BTreeSet<OwnedUserId>,
}

impl DeviceLists {
    /// Notes what a sync tells of lists.
    pub(crate) fn note(&mut self, changed: &[OwnedUserId], left: &[OwnedUserId]) {
        let tracked = changed.iter().filter(|user_id| self.lists.contains_key(*user_id));
        self.outdated.extend(tracked.cloned());
        for user_id in left {
            self.lists.remove(user_id);
            self.outdated.remove(user_id);
        }
    }

    /// The devices of users; asks for the lists that are not known or not current.
    ///
    /// # Errors
    ///
    /// [`Error::Server`], [`Error::Keys`]: a device's keys do not verify, or are others than before.
    pub(crate) async fn of<S: Homeserver + Sync>(
        &mut self,
        server: &S,
        users: &[OwnedUserId],
    ) -> Result<Vec<PeerDevice>, Error> {
        let is_current = |user_id: &OwnedUserId| {
            self.lists.contains_key(user_id) && !self.outdated.contains(user_id)
        };
        let wanted: Vec<_> = users.iter().filter(|user_id| !is_current(user_id)).cloned().collect();
        if !wanted.is_empty() {
            self.query(server, &wanted).await?;
        }
        let lists = users.iter().filter_map(|user_id| self.lists.get(user_id));
        Ok(lists.flat_map(BTreeMap::values).cloned().collect())
    }

    /// Asks for lists. One that its server does not tell now stays outdated.
    async fn query<S: Homeserver + Sync>(
        &mut self,
        server: &S,
        users: &[OwnedUserId],
    ) -> Result<(), Error> {
        let asked: Map<_, _> = users.iter().map(|id| (id.to_string(), json!([]))).collect();
        let answer = post(server, "keys/query", json!({ "device_keys": asked })).await?;
        for user_id in users {
            let told = answer.get("device_keys").and_then(|keys| keys.get(user_id.as_str()));
            let Some(told) = told.and_then(Value::as_object) else { continue };
            let mut devices = Devices::new();
            for (device_id, keys) in told {
                let device_id = OwnedDeviceId::from(device_id.as_str());
                let device = PeerDevice::from_keys(user_id, &device_id, keys)?;
                let before = self.lists.get(user_id).and_then(|list| list.get(&device_id));
                if before.is_some_and(|before| *before != device) {
                    let whose = format!("{device_id} of {user_id}");
                    return Err(Error::keys(whose, "they are others than before"));
                }
                devices.insert(device_id, device);
            }
            self.lists.insert(user_id.clone(), devices);
            self.outdated.remove(user_id);
        }
        Ok(())
    }
}
