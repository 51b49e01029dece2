//! Messages to devices: a queue for each, in order, until the device proves that it has them (CS
//! "Send-to-Device messaging").
//!
//! What is sent or received at once goes into one commit, together with the row by which a repetition is
//! known. What is too much for one goes into several, of which the last has that row: a crash between
//! them may let the repetition bring some messages a second time, but none is lost. Each message takes a
//! position of its own, so that a queue is in the order of the commits.

mod lengths;
mod letters;
mod received;
mod send;
mod sweep;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use bytes::Bytes;
use hearth_storage::{Commit, Direction};
use hearth_types::StreamPosition;
use ruma::{
    DeviceId, OwnedDeviceId, OwnedTransactionId, OwnedUserId, UserId,
    events::AnyToDeviceEventContent, serde::Raw, to_device::DeviceIdOrAllDevices,
};

pub(crate) use self::{lengths::QueueLengths, received::ReceivedCounts, sweep::sweep};
use crate::{E2ee, E2eeError, schema::TO_DEVICE, user_topic};

/// Messages of one response.
pub(crate) const PAGE: usize = 100;
/// Bytes of the messages of one response; one message is always given.
const MAX_PAGE_BYTES: usize = 1 << 20;
/// Messages that are read at a time for a response: few enough that large ones do not fill memory.
const READ_AT_ONCE: usize = 25;
/// Messages that are deleted by one commit.
const DELETED_AT_ONCE: usize = 100;

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

impl E2ee {
    /// The first messages of a device behind `since`, up to `until`: a hundred at most, and a mebibyte.
    /// [`ToDevicePage::until`] is `until` if these are all, else the place of the last one.
    pub async fn to_device(
        &self,
        user_id: &UserId,
        device_id: &DeviceId,
        since: StreamPosition,
        until: StreamPosition,
    ) -> Result<ToDevicePage, E2eeError> {
        self.first_to_device(user_id, device_id, (since, until), PAGE).await
    }

    /// The same with at most so many messages.
    pub async fn first_to_device(
        &self,
        user_id: &UserId,
        device_id: &DeviceId,
        (since, until): (StreamPosition, StreamPosition),
        limit: usize,
    ) -> Result<ToDevicePage, E2eeError> {
        let limit = limit.min(PAGE);
        let (user_id, device_id) = (user_id.to_owned(), device_id.to_owned());
        let (mut events, mut bytes, mut after) = (Vec::new(), 0, since);
        while after < until {
            let range = (device_id.clone(), after.next())..=(device_id.clone(), until);
            let rows = self
                .store()
                .page(&TO_DEVICE, &user_id, range, Direction::Forward, READ_AT_ONCE)
                .await?;
            let is_last = rows.len() < READ_AT_ONCE;
            for ((_, position), event) in rows {
                bytes += event.len();
                if !events.is_empty() && (events.len() >= limit || bytes > MAX_PAGE_BYTES) {
                    return Ok(ToDevicePage { events, until: after });
                }
                events.push(event);
                after = position;
            }
            if is_last {
                break;
            }
        }
        Ok(ToDevicePage { events, until })
    }

    /// The device has all messages up to here, which is published: they are forgotten. What a crash of
    /// the machine brings back is behind every token that the device may show. Reads nothing if no
    /// message came since the last call.
    pub async fn acknowledge_to_device(
        &self,
        user_id: &UserId,
        device_id: &DeviceId,
        until: StreamPosition,
    ) -> Result<(), E2eeError> {
        let queue = self.inner.queue_lengths.of_device(user_id, device_id);
        let deleted = queue.deleted();
        if until <= deleted {
            return Ok(());
        }
        if self.store().notifier().changed_since(&user_topic(user_id), deleted) {
            let (user_id, device_id) = (user_id.to_owned(), device_id.to_owned());
            // Positions of the device that begin before `deleted` are gone.
            let range = (device_id.clone(), deleted)..=(device_id, until);
            loop {
                let read = self.store().page(
                    &TO_DEVICE,
                    &user_id,
                    range.clone(),
                    Direction::Forward,
                    DELETED_AT_ONCE,
                );
                let rows = read.await?;
                if rows.is_empty() {
                    break;
                }
                let mut commit = Commit::new(&user_id).lazy();
                for (key, _) in &rows {
                    commit.delete(&TO_DEVICE, &user_id, key);
                }
                self.store().commit(commit).await?;
                queue.shrink(rows.len());
                if rows.len() < DELETED_AT_ONCE {
                    break;
                }
            }
        }
        queue.set_deleted(until);
        Ok(())
    }
}
