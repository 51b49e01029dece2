//! Messages to devices: a queue for each, in order, until the device proves that it has them (CS
//! "Send-to-Device messaging").

use std::collections::BTreeMap;

use bytes::Bytes;
use hearth_types::StreamPosition;
use ruma::{
    DeviceId, OwnedDeviceId, OwnedTransactionId, OwnedUserId, ServerName, UserId,
    api::federation::transactions::edu::DirectDeviceContent, events::AnyToDeviceEventContent,
    serde::Raw, to_device::DeviceIdOrAllDevices,
};

use crate::{E2ee, E2eeError};

/// Messages of one response.
pub(crate) const PAGE: usize = 100;

/// What a client sends (CS "PUT /sendToDevice/{eventType}/{txnId}").
#[derive(Clone, Debug)]
pub struct ToDeviceMessage {
    /// Who sends.
    pub sender: OwnedUserId,
    /// From which device.
    pub device_id: OwnedDeviceId,
    /// A repeated one does nothing.
    pub transaction_id: OwnedTransactionId,
    /// The event type.
    pub event_type: String,
    /// Contents by receiving user and device; `*` is every device.
    pub messages:
        BTreeMap<OwnedUserId, BTreeMap<DeviceIdOrAllDevices, Raw<AnyToDeviceEventContent>>>,
}

/// Some messages of a queue.
#[derive(Clone, Debug, Default)]
pub struct ToDevicePage {
    /// Events as JSON, in order.
    pub events: Vec<Bytes>,
    /// These are all up to here.
    pub until: StreamPosition,
}

/// How many messages wait for whom, as far as is remembered.
#[derive(Debug, Default)]
pub(crate) struct QueueLengths {}

impl E2ee {
    /// Sends a message to devices anywhere: durable when this returns, once for each transaction ID.
    ///
    /// # Errors
    ///
    /// [`E2eeError::InvalidParam`], [`E2eeError::TooLarge`].
    pub async fn send_to_device(&self, message: ToDeviceMessage) -> Result<(), E2eeError> {
        let _ = message;
        unimplemented!("to-device")
    }

    /// Takes messages that another server sends for users of this one: durable when this returns, once
    /// for each message ID. Those of users of other servers than `origin` are passed over.
    pub async fn receive_to_device(
        &self,
        origin: &ServerName,
        messages: Vec<DirectDeviceContent>,
    ) -> Result<(), E2eeError> {
        let _ = (origin, messages);
        unimplemented!("to-device")
    }

    /// The first messages of a device behind `since`, up to `until`. Costs nothing if the user's
    /// [topic](crate::user_topic) has not changed.
    pub async fn to_device(
        &self,
        user_id: &UserId,
        device_id: &DeviceId,
        since: StreamPosition,
        until: StreamPosition,
    ) -> Result<ToDevicePage, E2eeError> {
        let _ = (user_id, device_id, since);
        Ok(ToDevicePage { events: Vec::new(), until })
    }

    /// The device has all messages up to here: they are forgotten.
    pub async fn acknowledge_to_device(
        &self,
        user_id: &UserId,
        device_id: &DeviceId,
        until: StreamPosition,
    ) -> Result<(), E2eeError> {
        let _ = (user_id, device_id, until);
        Ok(())
    }
}
