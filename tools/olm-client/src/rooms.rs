//! What a device does to speak in a room: who is to read it, who of them lacks the room key, with whom
//! there is no Olm session yet.

use std::collections::BTreeMap;

use http::Method;
use ruma::{DeviceId, OwnedDeviceId, OwnedUserId, RoomId, UserId};
use serde_json::{Value, json};
use vodozemac::{Curve25519PublicKey, olm::SessionConfig};

use crate::{
    Device, Error, Homeserver, SIGNED_CURVE25519, ToDeviceRequest, Undecryptable,
    device_lists::PeerDevice,
    homeserver::{post, server_error},
    megolm::Outbound,
    signed::verify,
};

#[cfg(test)]
mod tests;

impl Device {
    /// Encrypts an event for the devices of a room's members: the content to send as
    /// `m.room.encrypted`. Those that lack the room key are sent it first.
    ///
    /// # Errors
    ///
    /// [`Error::Server`], [`Error::Answer`], [`Error::Keys`]
    pub async fn encrypt<S: Homeserver + Sync>(
        &mut self,
        server: &S,
        room_id: &RoomId,
        event_type: &str,
        content: &Value,
    ) -> Result<Value, Error> {
        let request = self.room_key(server, room_id).await?;
        if !request.is_empty() {
            request.send(server).await?;
        }
        self.seal(room_id, event_type, content)
    }

    /// The room key for the devices that lack it, to be sent by the caller, who repeats it until the server has
    /// answered. A session whose key a device has that is not to read what comes next (its user left, or it is
    /// gone) is replaced by a new one first.
    ///
    /// # Errors
    ///
    /// [`Error::Server`], [`Error::Answer`], [`Error::Keys`]
    pub async fn room_key<S: Homeserver + Sync>(
        &mut self,
        server: &S,
        room_id: &RoomId,
    ) -> Result<ToDeviceRequest, Error> {
        let members = members(server, room_id).await?;
        let mut readers = self.lists.of(server, &members).await?;
        let own = self.account.olm.curve25519_key();
        readers.retain(|device| device.curve25519 != own);
        if self.outbound.get(room_id).is_none_or(|session| !session.suits(&readers)) {
            self.rotate(room_id)?;
        }
        readers.retain(|device| {
            self.outbound.get(room_id).is_none_or(|session| session.held_by(device).is_none())
        });
        self.start_missing_sessions(server, &readers).await?;
        let mut request = self.new_request();
        if let Some(session) = self.outbound.get_mut(room_id) {
            let key = session.room_key(room_id.as_str());
            for device in &readers {
                // One without one-time keys gets it when it has some.
                if let Some(sealed) = self.olm.seal(&self.account, device, "m.room_key", &key) {
                    request.add(device, sealed);
                    session.note_holder(device, key.clone());
                }
            }
        }
        Ok(request)
    }

    /// The room key once more for a device that was sent it and could not read it, as it was sent then.
    ///
    /// # Errors
    ///
    /// [`Error::Server`], [`Error::Keys`]: the device is not known.
    pub async fn room_key_again<S: Homeserver + Sync>(
        &mut self,
        server: &S,
        room_id: &RoomId,
        user_id: &UserId,
        device_id: &DeviceId,
    ) -> Result<ToDeviceRequest, Error> {
        let device = self.device_of(server, user_id, device_id).await?;
        let mut request = self.new_request();
        let session = self.outbound.get(room_id);
        if let Some(key) = session.and_then(|session| session.held_by(&device))
            && let Some(sealed) = self.olm.seal(&self.account, &device, "m.room_key", key)
        {
            request.add(&device, sealed);
        }
        Ok(request)
    }

    /// The IDs of a user's devices, by their list as it is now.
    ///
    /// # Errors
    ///
    /// [`Error::Server`], [`Error::Keys`]
    pub async fn devices_of<S: Homeserver + Sync>(
        &mut self,
        server: &S,
        user_id: &UserId,
    ) -> Result<Vec<OwnedDeviceId>, Error> {
        let devices = self.lists.of(server, &[user_id.to_owned()]).await?;
        Ok(devices.into_iter().map(|device| device.device_id).collect())
    }

    /// Encrypts with the room's session as it is.
    ///
    /// # Errors
    ///
    /// [`Error::NoOutboundSession`]
    pub fn seal(
        &mut self,
        room_id: &RoomId,
        event_type: &str,
        content: &Value,
    ) -> Result<Value, Error> {
        let session = self.outbound.get_mut(room_id);
        let session = session.ok_or_else(|| Error::NoOutboundSession(room_id.to_string()))?;
        let payload = json!({ "room_id": room_id, "type": event_type, "content": content });
        Ok(session.seal(&self.account, &payload))
    }

    /// Reads an `m.room.encrypted` event of a room: type and content.
    ///
    /// # Errors
    ///
    /// Any but [`Undecryptable::NoOlmSession`].
    pub fn decrypt(
        &mut self,
        room_id: &RoomId,
        event: &Value,
    ) -> Result<(String, Value), Undecryptable> {
        let mut payload = self.inbound.open(room_id.as_str(), event)?;
        let event_type = payload.get("type").and_then(Value::as_str);
        let event_type = event_type.ok_or(Undecryptable::Malformed("no type"))?.to_owned();
        let content = payload.get_mut("content").map(Value::take).unwrap_or_default();
        Ok((event_type, content))
    }

    /// Has the room's next event encrypted with a new session, which nobody else has the key of yet.
    ///
    /// # Errors
    ///
    /// [`Error::Keys`]
    pub fn rotate(&mut self, room_id: &RoomId) -> Result<(), Error> {
        let session = Outbound::new();
        let own = self.account.user_id().to_owned();
        let key = session.room_key(room_id.as_str());
        let kept = self.inbound.put(own, &key);
        kept.map_err(|why| Error::keys(room_id.as_str(), why.to_string()))?;
        self.outbound.insert(room_id.to_owned(), session);
        Ok(())
    }

    /// Starts a new Olm session with a device, whatever sessions there are, and says `m.dummy` in it, so that it is
    /// used from now on ("Recovering from undecryptable messages"). The caller sends the request.
    ///
    /// # Errors
    ///
    /// [`Error::Server`], [`Error::Keys`]: the device is not known, or has no one-time key that verifies.
    pub async fn start_over<S: Homeserver + Sync>(
        &mut self,
        server: &S,
        user_id: &UserId,
        device_id: &DeviceId,
    ) -> Result<ToDeviceRequest, Error> {
        let refused = |why: &str| Error::keys(format!("{device_id} of {user_id}"), why);
        let device = self.device_of(server, user_id, device_id).await?;
        if self.start_sessions(server, &[&device]).await? == 0 {
            return Err(refused("no one-time key"));
        }
        let mut request = self.new_request();
        let dummy = self.olm.seal(&self.account, &device, "m.dummy", &json!({}));
        request.add(&device, dummy.ok_or_else(|| refused("no session"))?);
        Ok(request)
    }

    /// Forgets every Olm session, as a device does that was restored from an old backup.
    pub fn lose_olm_sessions(&mut self) {
        self.olm.forget_all();
    }

    async fn device_of<S: Homeserver + Sync>(
        &mut self,
        server: &S,
        user_id: &UserId,
        device_id: &DeviceId,
    ) -> Result<PeerDevice, Error> {
        let devices = self.lists.of(server, &[user_id.to_owned()]).await?;
        let device = devices.into_iter().find(|device| device.device_id == device_id);
        device.ok_or_else(|| Error::keys(format!("{device_id} of {user_id}"), "no such device"))
    }

    fn new_request(&mut self) -> ToDeviceRequest {
        self.requests += 1;
        ToDeviceRequest::new(format!("olm{}", self.requests))
    }

    async fn start_missing_sessions<S: Homeserver + Sync>(
        &mut self,
        server: &S,
        devices: &[PeerDevice],
    ) -> Result<(), Error> {
        let lacking: Vec<_> = devices.iter().filter(|device| !self.olm.has(device)).collect();
        if !lacking.is_empty() {
            self.start_sessions(server, &lacking).await?;
        }
        Ok(())
    }

    /// Claims a one-time key of each device and starts a session with it; how many have one.
    async fn start_sessions<S: Homeserver + Sync>(
        &mut self,
        server: &S,
        devices: &[&PeerDevice],
    ) -> Result<usize, Error> {
        let mut wanted = BTreeMap::<&UserId, BTreeMap<&DeviceId, &str>>::new();
        for device in devices {
            let of_user = wanted.entry(&device.user_id).or_default();
            of_user.insert(&device.device_id, SIGNED_CURVE25519);
        }
        let answer = post(server, "keys/claim", json!({ "one_time_keys": wanted })).await?;
        let mut started = 0;
        for device in devices {
            let Some(key) = one_time_key(device, &answer)? else { continue };
            let config = SessionConfig::version_1();
            let session = self.account.olm.create_outbound_session(config, device.curve25519, key);
            let session =
                session.map_err(|error| Error::keys(device.user_id.as_str(), error.to_string()))?;
            self.olm.put(device.curve25519, session);
            started += 1;
        }
        Ok(started)
    }
}

/// A claimed key of a device, which has signed it; none if it has none left.
fn one_time_key(device: &PeerDevice, answer: &Value) -> Result<Option<Curve25519PublicKey>, Error> {
    let PeerDevice { user_id, device_id, ed25519, .. } = device;
    let keys = answer.get("one_time_keys").and_then(|keys| keys.get(user_id.as_str()));
    let keys = keys.and_then(|keys| keys.get(device_id.as_str())).and_then(Value::as_object);
    let Some(key) = keys.and_then(|keys| keys.values().next()) else { return Ok(None) };
    verify(key, user_id, device_id, ed25519)?;
    let key = key.get("key").and_then(Value::as_str);
    let key = key.and_then(|key| Curve25519PublicKey::from_base64(key).ok());
    let malformed = || Error::keys(format!("{device_id} of {user_id}"), "a malformed one-time key");
    key.ok_or_else(malformed).map(Some)
}

/// The users who are in a room.
async fn members<S: Homeserver + Sync>(
    server: &S,
    room_id: &RoomId,
) -> Result<Vec<OwnedUserId>, Error> {
    let path = format!("/_matrix/client/v3/rooms/{room_id}/joined_members");
    let answer = server.ask(Method::GET, &path, None).await.map_err(server_error)?;
    let joined = answer.get("joined").and_then(Value::as_object);
    let joined = joined.ok_or(Error::Answer("the members of a room"))?;
    Ok(joined.keys().filter_map(|user_id| user_id.as_str().try_into().ok()).collect())
}
