//! Messages from this device to others.

use std::collections::BTreeMap;

use http::Method;
use ruma::{DeviceId, OwnedDeviceId, OwnedUserId, UserId};
use serde_json::{Value, json};

use crate::{Error, Homeserver, device_lists::PeerDevice, homeserver::server_error};

/// A `PUT /sendToDevice` of `m.room.encrypted`, to be sent until the server has answered: it has one
/// transaction ID, so that whoever repeats it sends it once.
#[derive(Clone, Debug)]
pub struct ToDeviceRequest {
    transaction_id: String,
    messages: BTreeMap<OwnedUserId, BTreeMap<OwnedDeviceId, Value>>,
}

impl ToDeviceRequest {
    pub(crate) fn new(transaction_id: String) -> Self {
        Self { transaction_id, messages: BTreeMap::new() }
    }

    pub(crate) fn add(&mut self, device: &PeerDevice, content: Value) {
        let of_user = self.messages.entry(device.user_id.clone()).or_default();
        of_user.insert(device.device_id.clone(), content);
    }

    /// Is it for nobody?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// Is there a message for this device?
    #[must_use]
    pub fn is_for(&self, user_id: &UserId, device_id: &DeviceId) -> bool {
        self.messages.get(user_id).is_some_and(|of_user| of_user.contains_key(device_id))
    }

    /// Sends it, or sends it again.
    ///
    /// # Errors
    ///
    /// [`Error::Server`]
    pub async fn send<S: Homeserver + Sync>(&self, server: &S) -> Result<(), Error> {
        let id = &self.transaction_id;
        let path = format!("/_matrix/client/v3/sendToDevice/m.room.encrypted/{id}");
        let body = json!({ "messages": self.messages });
        server.ask(Method::PUT, &path, Some(body)).await.map_err(server_error).map(drop)
    }
}
