//! Device keys: what an upload must look like, and what is stored of it (CS "Device keys").

use std::ops::Bound;

use bytes::Bytes;
use hearth_storage::Commit;
use ruma::{
    DeviceId, OwnedDeviceId, UserId,
    encryption::{DeviceKeys, KeyUsage},
    serde::Raw,
};
use serde_json::{Map, Value};
use vodozemac::{Curve25519PublicKey, Ed25519PublicKey};

use crate::{
    E2ee, E2eeError,
    schema::{CROSS_SIGNING_KEYS, DEHYDRATED, DEVICE_KEYS},
    verify::verify_object,
};

/// The device keys of one device, as JSON: identity keys, algorithms, two signatures. Clients need less
/// than a quarter; everybody who asks for this user's keys is told all of it.
const MAX_DEVICE_KEYS_BYTES: usize = 4 << 10;
/// Keys in one object of device keys; clients have two.
const MAX_IDENTITY_KEYS: usize = 20;

/// Device keys that are this device's own and signed by it. Without `unsigned`; `signatures` holds the
/// device's own and those that could be verified.
#[derive(Clone, Debug)]
pub(crate) struct CheckedDeviceKeys {
    object: Map<String, Value>,
    /// The key that signs the device's one-time keys.
    pub(crate) ed25519: String,
    /// Signatures by the user's other keys, not verified yet.
    others: Map<String, Value>,
}

impl CheckedDeviceKeys {
    /// Checks what a device uploads as its keys.
    pub(crate) fn new(
        user_id: &UserId,
        device_id: &DeviceId,
        raw: &Raw<DeviceKeys>,
    ) -> Result<Self, E2eeError> {
        let text = raw.json().get();
        if text.len() > MAX_DEVICE_KEYS_BYTES {
            return Err(E2eeError::TooLarge("the device keys are too large".to_owned()));
        }
        // The whole shape first, then the fields that ruma leaves open.
        raw.deserialize().map_err(|error| E2eeError::BadJson(format!("device_keys: {error}")))?;
        let mut object: Map<String, Value> = serde_json::from_str(text)
            .map_err(|error| E2eeError::BadJson(format!("device_keys: {error}")))?;
        object.remove("unsigned");
        must_say(&object, "user_id", user_id.as_str())?;
        must_say(&object, "device_id", device_id.as_str())?;
        let ed25519 = identity_keys(&object, device_id)?;
        let own_id = format!("ed25519:{device_id}");
        verify_object(&object, user_id, &own_id, &ed25519)?;
        let mut others = of_user(object.get("signatures"), user_id);
        let own = others.remove(&own_id).unwrap_or_default();
        set_signatures(&mut object, user_id, Map::from_iter([(own_id, own)]));
        Ok(Self { object, ed25519, others })
    }

    /// What is to be stored, if it is not what is stored already.
    ///
    /// # Errors
    ///
    /// [`E2eeError::InvalidParam`] if the device had other identity keys before.
    fn to_store(
        &self,
        user_id: &UserId,
        stored: Option<&Bytes>,
        others: Map<String, Value>,
    ) -> Result<Option<Map<String, Value>>, E2eeError> {
        let stored = stored.map(parse_stored).transpose()?;
        let mut object = self.object.clone();
        let mut signatures = Map::new();
        if let Some(stored) = &stored {
            if stored.get("keys") != object.get("keys") {
                return Err(E2eeError::InvalidParam(
                    "the identity keys of a device cannot change: log in as a new one".to_owned(),
                ));
            }
            // Signatures that came later cover what was signed, so they are good for the same alone.
            if covered(stored) == covered(&object) {
                signatures.extend(of_user(stored.get("signatures"), user_id));
            }
        }
        signatures.extend(others);
        signatures.extend(of_user(object.get("signatures"), user_id));
        set_signatures(&mut object, user_id, signatures);
        Ok((stored.as_ref() != Some(&object)).then_some(object))
    }
}

/// The Ed25519 key of stored device keys.
pub(crate) fn stored_ed25519(
    device_id: &DeviceId,
    stored: &Bytes,
) -> Result<Option<String>, E2eeError> {
    let object = parse_stored(stored)?;
    let key = object.get("keys").and_then(|keys| keys.get(format!("ed25519:{device_id}")));
    Ok(key.and_then(Value::as_str).map(ToOwned::to_owned))
}

/// A stored JSON object.
pub(crate) fn parse_stored(stored: &Bytes) -> Result<Map<String, Value>, E2eeError> {
    serde_json::from_slice(stored)
        .map_err(|error| E2eeError::Internal(format!("a stored key is no JSON object: {error}")))
}

fn must_say(object: &Map<String, Value>, field: &str, expected: &str) -> Result<(), E2eeError> {
    if object.get(field).and_then(Value::as_str) == Some(expected) {
        return Ok(());
    }
    Err(E2eeError::InvalidParam(format!("device_keys: {field} is not {expected}")))
}

/// Checks the identity keys; returns the Ed25519 one.
fn identity_keys(object: &Map<String, Value>, device_id: &DeviceId) -> Result<String, E2eeError> {
    let invalid = |text: String| E2eeError::InvalidParam(format!("device_keys: {text}"));
    let keys = object.get("keys").and_then(Value::as_object);
    let keys = keys.ok_or_else(|| invalid("keys is not an object".to_owned()))?;
    if keys.len() > MAX_IDENTITY_KEYS {
        return Err(E2eeError::TooLarge("device_keys: too many keys".to_owned()));
    }
    for key_id in keys.keys() {
        if key_id.split_once(':').is_none_or(|(_, name)| name != device_id.as_str()) {
            return Err(invalid(format!("the key {key_id} is not one of the device {device_id}")));
        }
    }
    let find = |algorithm: &str| {
        let key = keys.get(&format!("{algorithm}:{device_id}")).and_then(Value::as_str);
        key.ok_or_else(|| invalid(format!("there is no {algorithm} key")))
    };
    Curve25519PublicKey::from_base64(find("curve25519")?)
        .map_err(|error| invalid(format!("not a curve25519 key: {error}")))?;
    let ed25519 = find("ed25519")?;
    Ed25519PublicKey::from_base64(ed25519)
        .map_err(|error| invalid(format!("not an ed25519 key: {error}")))?;
    Ok(ed25519.to_owned())
}

/// The signatures of one user.
fn of_user(signatures: Option<&Value>, user_id: &UserId) -> Map<String, Value> {
    let of_user = signatures.and_then(|signatures| signatures.get(user_id.as_str()));
    of_user.and_then(Value::as_object).cloned().unwrap_or_default()
}

fn set_signatures(object: &mut Map<String, Value>, user_id: &UserId, of_user: Map<String, Value>) {
    let signatures = Map::from_iter([(user_id.as_str().to_owned(), Value::Object(of_user))]);
    object.insert("signatures".to_owned(), Value::Object(signatures));
}

/// The fields that signatures cover.
fn covered(object: &Map<String, Value>) -> Vec<(&String, &Value)> {
    object.iter().filter(|(field, _)| *field != "signatures").collect()
}

impl E2ee {
    /// The stored keys of one device of a user of this server.
    pub(crate) async fn device_keys(
        &self,
        user_id: &UserId,
        device_id: &DeviceId,
    ) -> Result<Option<Bytes>, E2eeError> {
        let (owner, device_id) = (user_id.to_owned(), device_id.to_owned());
        Ok(self.store().get(&DEVICE_KEYS, &owner, &device_id).await?)
    }

    /// The stored keys of all devices of a user of this server.
    pub(crate) async fn all_device_keys(
        &self,
        user_id: &UserId,
    ) -> Result<Vec<(OwnedDeviceId, Bytes)>, E2eeError> {
        let all = (Bound::Unbounded, Bound::Unbounded);
        Ok(self.store().page_all(&DEVICE_KEYS, &user_id.to_owned(), all).await?)
    }

    /// Can this user of this server be sent something on this device? True for devices with a session
    /// and for a dehydrated one.
    pub(crate) async fn is_device(
        &self,
        user_id: &UserId,
        device_id: &DeviceId,
    ) -> Result<bool, E2eeError> {
        if self.users().device(user_id, device_id).await?.is_some() {
            return Ok(true);
        }
        Ok(self.dehydrated_device_id(user_id).await?.is_some_and(|known| known == device_id))
    }

    /// All devices that this user of this server can be sent something on.
    pub(crate) async fn addressable_devices(
        &self,
        user_id: &UserId,
    ) -> Result<Vec<OwnedDeviceId>, E2eeError> {
        let devices = self.users().devices(user_id).await?;
        let mut device_ids: Vec<_> = devices.into_iter().map(|device| device.device_id).collect();
        if let Some(dehydrated) = self.dehydrated_device_id(user_id).await?
            && !device_ids.contains(&dehydrated)
        {
            device_ids.push(dehydrated);
        }
        Ok(device_ids)
    }

    /// In the user's turn: adds uploaded device keys to a commit. Did they change?
    pub(crate) async fn add_device_keys(
        &self,
        commit: &mut Commit,
        user_id: &UserId,
        device_id: &DeviceId,
        uploaded: &CheckedDeviceKeys,
    ) -> Result<bool, E2eeError> {
        let stored = self.device_keys(user_id, device_id).await?;
        if stored.is_none() {
            self.must_be_no_signing_key(user_id, device_id).await?;
        }
        let others = self.verified_others(user_id, uploaded).await?;
        let Some(object) = uploaded.to_store(user_id, stored.as_ref(), others)? else {
            return Ok(false);
        };
        let json =
            serde_json::to_vec(&object).map_err(|error| E2eeError::Internal(error.to_string()))?;
        commit.put(&DEVICE_KEYS, &user_id.to_owned(), &device_id.to_owned(), &json.into());
        Ok(true)
    }

    /// Device IDs and public keys share one space of names (CS "Cross-signing").
    async fn must_be_no_signing_key(
        &self,
        user_id: &UserId,
        device_id: &DeviceId,
    ) -> Result<(), E2eeError> {
        for usage in [KeyUsage::Master, KeyUsage::SelfSigning, KeyUsage::UserSigning] {
            let key = self.signing_key(user_id, &usage).await?;
            if key.is_some_and(|key| key.public_key == device_id.as_str()) {
                let text = "the device's ID is in use by a cross-signing key".to_owned();
                return Err(E2eeError::Forbidden(text));
            }
        }
        Ok(())
    }

    /// Of the signatures that came with device keys beside the device's own: the one by the user's
    /// self-signing key. Others are left out, because nobody can say whether they are any good; they can
    /// be uploaded when their key is known.
    pub(crate) async fn verified_others(
        &self,
        user_id: &UserId,
        uploaded: &CheckedDeviceKeys,
    ) -> Result<Map<String, Value>, E2eeError> {
        let mut verified = Map::new();
        if uploaded.others.is_empty() {
            return Ok(verified);
        }
        let usage = "self_signing".to_owned();
        let row = self.store().get(&CROSS_SIGNING_KEYS, &user_id.to_owned(), &usage).await?;
        let Some(row) = row else { return Ok(verified) };
        let key = parse_stored(&row)?;
        let keys = key.get("keys").and_then(Value::as_object).into_iter().flatten();
        for (key_id, public_key) in keys {
            let Some(signature) = uploaded.others.get(key_id) else { continue };
            let mut object = uploaded.object.clone();
            let signatures = Map::from_iter([(key_id.clone(), signature.clone())]);
            set_signatures(&mut object, user_id, signatures);
            verify_object(&object, user_id, key_id, public_key.as_str().unwrap_or_default())?;
            verified.insert(key_id.clone(), signature.clone());
        }
        Ok(verified)
    }

    pub(crate) async fn dehydrated_device_id(
        &self,
        user_id: &UserId,
    ) -> Result<Option<OwnedDeviceId>, E2eeError> {
        let row = self.store().get(&DEHYDRATED, &user_id.to_owned(), &()).await?;
        Ok(row.map(|row| row.device_id.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{schema::DehydratedRow, testing::Bench};

    #[tokio::test]
    async fn devices_with_a_session_and_the_dehydrated_one_can_be_addressed() {
        let bench = Bench::new().await;
        let (alice, first) = bench.user_with_device("alice").await;
        let second = bench.device(&alice).await;
        let (bob, _) = bench.user_with_device("bob").await;
        let dehydrated: OwnedDeviceId = "DEHYDRATED".into();
        assert!(!bench.e2ee.is_device(&alice, &dehydrated).await.unwrap());
        let mut commit = Commit::new(&alice);
        let row = DehydratedRow {
            device_id: dehydrated.to_string(),
            device_data: "{}".to_owned(),
            display_name: None,
        };
        commit.put(&DEHYDRATED, &alice, &(), &row);
        bench.store.commit(commit).await.unwrap();
        for device_id in [&first, &second, &dehydrated] {
            assert!(bench.e2ee.is_device(&alice, device_id).await.unwrap());
            assert!(!bench.e2ee.is_device(&bob, device_id).await.unwrap());
        }
        let mut expected = vec![first, second, dehydrated];
        let mut devices = bench.e2ee.addressable_devices(&alice).await.unwrap();
        expected.sort();
        devices.sort();
        assert_eq!(devices, expected);
    }
}
