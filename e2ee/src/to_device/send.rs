//! Sending and receiving.

use std::collections::BTreeMap;

use ruma::{
    OwnedDeviceId, OwnedServerName, OwnedUserId, ServerName,
    api::federation::transactions::edu::DirectDeviceContent, serde::Raw,
    to_device::DeviceIdOrAllDevices,
};
use serde_json::value::RawValue;

use super::{
    ToDeviceMessage,
    letters::{Contents, Letters, MAX_CONTENT_BYTES, is_name},
    received::note_received,
};
use crate::{
    E2ee, E2eeError,
    schema::{RECEIVED_MESSAGES, SENT_TRANSACTIONS, Timestamp},
};

/// Messages that one request may become, each device of a `*` counted.
const MAX_MESSAGES: usize = 10_000;
/// Bytes of the contents that one request may become, those of a `*` counted for each device.
const MAX_BYTES: usize = 32 << 20;
/// Other servers that one request is for: clients name 250 devices at a time. Each has a queue of its own,
/// which costs this server much more than a message.
const MAX_SERVERS: usize = 500;
/// The messages of one transaction of another server: as many as a hundred requests have that its clients
/// send, and as many bytes as fit it, or several times as many if they are for all devices of somebody.
const OF_TRANSACTION: Allowance = Allowance { messages: 50_000, bytes: 64 << 20 };

/// What may still be put into queues. Also users without devices count: each is looked up.
#[derive(Clone, Copy, Debug)]
struct Allowance {
    messages: usize,
    bytes: usize,
}

impl Allowance {
    /// Whether there was enough for this many bytes of a message.
    fn take(&mut self, bytes: usize) -> bool {
        match (self.messages.checked_sub(1), self.bytes.checked_sub(bytes)) {
            (Some(messages), Some(bytes)) => {
                *self = Self { messages, bytes };
                true
            }
            _ => false,
        }
    }
}

/// A message for a device of this server.
struct Addressed<'a> {
    user_id: &'a OwnedUserId,
    device_id: OwnedDeviceId,
    content: &'a RawValue,
}

impl E2ee {
    /// Sends a message to devices anywhere: durable when this returns, once for each transaction ID.
    /// Users and devices that do not exist are passed over.
    ///
    /// # Errors
    ///
    /// [`E2eeError::InvalidParam`], [`E2eeError::BadJson`], [`E2eeError::TooLarge`]: nothing was sent.
    pub async fn send_to_device(&self, message: ToDeviceMessage) -> Result<(), E2eeError> {
        check(&message)?;
        let e2ee = self.clone();
        // Somebody who goes away does not leave half of it behind.
        let task = tokio::spawn(async move { e2ee.send(message).await });
        task.await
            .map_err(|error| E2eeError::Internal(format!("a task did not finish: {error}")))?
    }

    async fn send(&self, message: ToDeviceMessage) -> Result<(), E2eeError> {
        let ToDeviceMessage { sender, device_id, transaction_id, event_type, messages } = message;
        let key = (device_id, event_type, transaction_id);
        if self.store().get(&SENT_TRANSACTIONS, &sender, &key).await?.is_some() {
            return Ok(());
        }
        let (here, elsewhere) = self.sorted(messages);
        if elsewhere.len() > MAX_SERVERS {
            let text = format!("a request for users of more than {MAX_SERVERS} other servers");
            return Err(E2eeError::TooLarge(text));
        }
        let mut allowance = Allowance { messages: MAX_MESSAGES, bytes: MAX_BYTES };
        let addressed = self.addressed(&here, &mut allowance).await?;
        let mut letters = Letters::new(self, sender.clone(), &sender, &key.1);
        for Addressed { user_id, device_id, content } in &addressed {
            letters.add_local(user_id, device_id, content).await?;
        }
        for (server, contents) in elsewhere {
            letters.add_remote(&key, &server, contents).await?;
        }
        let now = Timestamp(self.now_ms());
        letters.post(&SENT_TRANSACTIONS, &sender, &key, &now).await
    }

    /// Those for users of this server, and those for other servers.
    fn sorted(&self, messages: Contents) -> (Contents, BTreeMap<OwnedServerName, Contents>) {
        let (mut here, mut elsewhere) = (Contents::new(), BTreeMap::<_, Contents>::new());
        for (user_id, contents) in messages {
            if self.identity().is_local(&user_id) {
                here.insert(user_id, contents);
            } else {
                let server = user_id.server_name().to_owned();
                elsewhere.entry(server).or_default().insert(user_id, contents);
            }
        }
        (here, elsewhere)
    }

    /// The devices of this server that messages are for; an error if they are too many.
    async fn addressed<'a>(
        &self,
        messages: &'a Contents,
        allowance: &mut Allowance,
    ) -> Result<Vec<Addressed<'a>>, E2eeError> {
        let too_many = || E2eeError::TooLarge("a request of too many or too large messages".into());
        let mut addressed = Vec::new();
        for (user_id, contents) in messages {
            let to_all = contents.get(&DeviceIdOrAllDevices::AllDevices);
            let device_ids = self.addressable_devices(user_id).await?;
            if device_ids.is_empty() && !allowance.take(0) {
                return Err(too_many());
            }
            for device_id in device_ids {
                // What is for this device counts before what is for all.
                let own = contents.get(&DeviceIdOrAllDevices::DeviceId(device_id.clone()));
                if let Some(content) = own.or(to_all).map(Raw::json) {
                    if !allowance.take(content.get().len()) {
                        return Err(too_many());
                    }
                    addressed.push(Addressed { user_id, device_id, content });
                }
            }
        }
        Ok(addressed)
    }

    /// Takes messages that another server sends for users of this one: durable when this returns, once
    /// for each message ID. Those of users of other servers than `origin`, for nobody here, too large, or
    /// beyond what one transaction may bring, are passed over.
    pub async fn receive_to_device(
        &self,
        origin: &ServerName,
        messages: Vec<DirectDeviceContent>,
    ) -> Result<(), E2eeError> {
        let (e2ee, origin) = (self.clone(), origin.to_owned());
        let task = tokio::spawn(async move {
            let mut allowance = OF_TRANSACTION;
            for message in messages {
                e2ee.receive(&origin, message, &mut allowance).await?;
            }
            Ok(())
        });
        task.await
            .map_err(|error| E2eeError::Internal(format!("a task did not finish: {error}")))?
    }

    async fn receive(
        &self,
        origin: &OwnedServerName,
        message: DirectDeviceContent,
        allowance: &mut Allowance,
    ) -> Result<(), E2eeError> {
        let DirectDeviceContent { sender, ev_type, message_id, mut messages, .. } = message;
        let event_type = ev_type.to_string();
        let key = (sender.clone(), message_id.to_string());
        if sender.server_name() != origin || !is_name(&key.1) || !is_name(&event_type) {
            tracing::debug!(%origin, %sender, "a message to devices is not one of its server");
            return Ok(());
        }
        if self.store().get(&RECEIVED_MESSAGES, origin, &key).await?.is_some() {
            return Ok(());
        }
        messages.retain(|user_id: &OwnedUserId, contents| {
            contents.retain(|_, content| is_content(content.json().get()).is_ok());
            self.identity().is_local(user_id) && !contents.is_empty()
        });
        let left = allowance.bytes;
        let addressed = match self.addressed(&messages, allowance).await {
            Ok(addressed) if addressed.is_empty() => return Ok(()),
            Ok(addressed) => addressed,
            Err(E2eeError::TooLarge(reason)) => {
                tracing::warn!(%origin, %sender, reason, "a message to devices is dropped");
                // What it would have become costs the others nothing; looking it up did.
                allowance.bytes = left;
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        let mut letters = Letters::new(self, origin.clone(), &sender, &event_type);
        for Addressed { user_id, device_id, content } in &addressed {
            letters.add_local(user_id, device_id, content).await?;
        }
        let now = Timestamp(self.now_ms());
        note_received(&mut letters, origin, &key, now.0);
        letters.post(&RECEIVED_MESSAGES, origin, &key, &now).await?;
        self.count_received(origin).await
    }
}

fn check(message: &ToDeviceMessage) -> Result<(), E2eeError> {
    if !is_name(&message.event_type) || !is_name(message.transaction_id.as_str()) {
        let text = "the event type and the transaction ID may have 255 bytes";
        return Err(E2eeError::InvalidParam(text.to_owned()));
    }
    let contents = message.messages.values().flat_map(BTreeMap::values);
    for (number, content) in contents.enumerate() {
        if number >= MAX_MESSAGES {
            let text = format!("a request of more than {MAX_MESSAGES} messages");
            return Err(E2eeError::TooLarge(text));
        }
        is_content(content.json().get())?;
    }
    let ids = message.messages.values().flat_map(BTreeMap::keys);
    if ids
        .into_iter()
        .any(|id| matches!(id, DeviceIdOrAllDevices::DeviceId(id) if !is_name(id.as_str())))
    {
        return Err(E2eeError::InvalidParam("a device ID may have 255 bytes".to_owned()));
    }
    Ok(())
}

/// Is this a content that can be sent?
fn is_content(json: &str) -> Result<(), E2eeError> {
    if json.len() > MAX_CONTENT_BYTES {
        let text = format!("a message may have {MAX_CONTENT_BYTES} bytes");
        return Err(E2eeError::TooLarge(text));
    }
    if !json.starts_with('{') {
        return Err(E2eeError::BadJson("a message must be an object".to_owned()));
    }
    Ok(())
}
