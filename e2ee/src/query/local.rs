//! Keys of this server's users.

use std::collections::{BTreeMap, BTreeSet};

use ruma::{OwnedDeviceId, UserId, encryption::KeyUsage};

use super::{Budget, DeviceListForServer, KeysWanted, ServerKeys, TOO_MUCH, UserKeys};
use crate::{
    E2ee, E2eeError,
    schema::{DEHYDRATED, DEVICE_VERSIONS},
    signed::{shown, shown_device},
};

impl E2ee {
    /// The keys of users of this server, for another one. Those who are not here are left out.
    ///
    /// # Errors
    ///
    /// [`E2eeError::TooLarge`] if the answer would be too large: nobody may be left out, for they would
    /// seem to have no devices.
    pub async fn keys_for_server(&self, wanted: KeysWanted) -> Result<ServerKeys, E2eeError> {
        self.keys_within(wanted, &Budget::new()).await
    }

    pub(super) async fn keys_within(
        &self,
        wanted: KeysWanted,
        budget: &Budget,
    ) -> Result<ServerKeys, E2eeError> {
        let mut answer = ServerKeys::default();
        for (user_id, devices) in wanted {
            tokio::task::consume_budget().await;
            if !self.is_here(&user_id).await? {
                continue;
            }
            let keys = self.local_keys(&user_id, &devices).await?;
            if !budget.take(&keys) {
                return Err(E2eeError::TooLarge(TOO_MUCH.to_owned()));
            }
            answer.device_keys.insert(user_id.clone(), keys.devices);
            if let Some(key) = keys.master {
                answer.master_keys.insert(user_id.clone(), shown(&key)?);
            }
            if let Some(key) = keys.self_signing {
                answer.self_signing_keys.insert(user_id, shown(&key)?);
            }
        }
        Ok(answer)
    }

    /// The device list of a user of this server; `None` if there is no such user.
    pub async fn devices_for_server(
        &self,
        user_id: &UserId,
    ) -> Result<Option<DeviceListForServer>, E2eeError> {
        if !self.is_here(user_id).await? {
            return Ok(None);
        }
        // Before the list itself: what comes between them is told again, as an update, and nothing is
        // left out.
        let changed = self.store().get(&DEVICE_VERSIONS, &user_id.to_owned(), &()).await?;
        let mut names = self.device_names(user_id).await?;
        let mut devices = Vec::new();
        for (device_id, json) in self.all_device_keys(user_id).await? {
            let name = names.remove(&device_id);
            devices.push((device_id, shown(&json)?, name));
        }
        let master = self.signing_key_json(user_id, &KeyUsage::Master).await?;
        let self_signing = self.signing_key_json(user_id, &KeyUsage::SelfSigning).await?;
        Ok(Some(DeviceListForServer {
            stream_id: changed.map_or(0, hearth_types::StreamPosition::get),
            devices,
            master_key: master.map(|key| shown(&key)).transpose()?,
            self_signing_key: self_signing.map(|key| shown(&key)).transpose()?,
        }))
    }

    async fn is_here(&self, user_id: &UserId) -> Result<bool, E2eeError> {
        Ok(self.identity().is_local(user_id) && self.users().is_active(user_id).await?)
    }

    /// What everybody may see of the keys of a user of this server; nothing of one who has left for good.
    pub(super) async fn local_keys(
        &self,
        user_id: &UserId,
        wanted: &[OwnedDeviceId],
    ) -> Result<UserKeys, E2eeError> {
        if !self.users().is_active(user_id).await? {
            return Ok(UserKeys::default());
        }
        let wanted: BTreeSet<_> = wanted.iter().collect();
        let all = self.all_device_keys(user_id).await?;
        let mut names = BTreeMap::new();
        if !all.is_empty() {
            names = self.device_names(user_id).await?;
        }
        let mut devices = BTreeMap::new();
        for (device_id, json) in all {
            if wanted.is_empty() || wanted.contains(&device_id) {
                let name = names.get(&device_id).map(String::as_str);
                let keys = shown_device(&json, name)?;
                devices.insert(device_id, keys);
            }
        }
        Ok(UserKeys {
            devices,
            master: self.signing_key_json(user_id, &KeyUsage::Master).await?,
            self_signing: self.signing_key_json(user_id, &KeyUsage::SelfSigning).await?,
        })
    }

    /// The names that a user gave to devices, the dehydrated one too.
    pub(crate) async fn device_names(
        &self,
        user_id: &UserId,
    ) -> Result<BTreeMap<OwnedDeviceId, String>, E2eeError> {
        let mut names = BTreeMap::new();
        for device in self.users().devices(user_id).await? {
            if let Some(name) = device.display_name {
                names.insert(device.device_id, name);
            }
        }
        let dehydrated = self.store().get(&DEHYDRATED, &user_id.to_owned(), &()).await?;
        if let Some(row) = dehydrated
            && let Some(name) = row.display_name
        {
            names.insert(row.device_id.into(), name);
        }
        Ok(names)
    }
}
