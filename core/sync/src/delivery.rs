//! Delivery status: what a device's next token proves (docs/delivery-status.md).
//!
//! A device that asks with the `next_batch` of a response, or acknowledges it over a WebSocket, has
//! taken that response in. If the server's operator allows it, the newest message of others in each
//! room of the response is then marked with a receipt of the device's user, which only the message's
//! sender is shown. Nothing of this is stored but the receipts.

use hearth_rooms::{
    Rooms,
    schema::{StoredEvent, TimelineIndex},
};
use hearth_types::StreamPosition;
use hearth_users::ReceiptUpdate;
use ruma::{
    DeviceId, OwnedEventId, OwnedRoomId, RoomId, UserId,
    events::receipt::{ReceiptThread, ReceiptType},
};

use crate::{SyncService, SyncToken};

/// The type of the receipt by which a sender learns that a message is on another member's device.
pub const DELIVERED_RECEIPT: &str = "org.hearth.delivered";

/// Deliveries of one device that wait for proof; the oldest are given up beyond that.
const MAX_WAITING: usize = 200;

/// Messages that went out to a device and are not proven to have arrived.
///
/// `R` tells responses apart, later ones being greater: by the position in a sync token, or by the serial
/// of a response of sliding sync.
#[derive(Debug)]
pub(crate) struct Deliveries<R = StreamPosition> {
    /// By the response that each went out in.
    waiting: Vec<(R, Delivery)>,
}

/// The newest message of a room in a response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Delivery {
    room_id: OwnedRoomId,
    event_id: OwnedEventId,
    index: StreamPosition,
}

impl<R> Default for Deliveries<R> {
    fn default() -> Self {
        Self { waiting: Vec::new() }
    }
}

impl<R: Copy + Ord> Deliveries<R> {
    /// The newest of these messages that another user sent goes out in the response with this token.
    pub(crate) fn sent(
        &mut self,
        room_id: &RoomId,
        user_id: &UserId,
        events: &[std::sync::Arc<StoredEvent>],
        in_response: R,
    ) {
        let newest = events
            .iter()
            .rev()
            .find(|event| event.pdu.state_key().is_none() && event.pdu.sender() != user_id);
        if let Some(event) = newest
            && let Some(TimelineIndex::Live(index)) = event.index
        {
            if self.waiting.len() >= MAX_WAITING {
                self.waiting.remove(0);
            }
            let (room_id, event_id) = (room_id.to_owned(), event.pdu.id().to_owned());
            self.waiting.push((in_response, Delivery { room_id, event_id, index }));
        }
    }

    /// The response with this token did not arrive.
    pub(crate) fn lost(&mut self, response: R) {
        self.waiting.retain(|(in_response, _)| *in_response != response);
    }

    /// Takes out what a device that shows this token has.
    pub(crate) fn proven(&mut self, token: R) -> Vec<Delivery> {
        let (proven, waiting): (Vec<_>, Vec<_>) = std::mem::take(&mut self.waiting)
            .into_iter()
            .partition(|(in_response, _)| *in_response <= token);
        self.waiting = waiting;
        let mut newest: Vec<Delivery> = Vec::new();
        for (_, delivery) in proven {
            match newest.iter_mut().find(|known| known.room_id == delivery.room_id) {
                Some(known) if known.index < delivery.index => *known = delivery,
                Some(_) => {}
                None => newest.push(delivery),
            }
        }
        newest
    }
}

impl SyncService {
    /// A device has shown that it took in everything up to this token. Failures are logged only: the
    /// request that brought the proof has another purpose.
    pub(crate) async fn acknowledged(
        &self,
        user_id: &UserId,
        device_id: &DeviceId,
        token: &SyncToken,
    ) {
        let e2ee = &self.inner.e2ee;
        if let Err(error) = e2ee.acknowledge_to_device(user_id, device_id, token.to_device).await {
            tracing::error!(%error, "delivered messages to a device stay for now");
        }
        if !self.inner.config.delivery_receipts {
            return;
        }
        let Some(session) = self.inner.hub.session(user_id) else { return };
        let proven = session.device(device_id).lock().deliveries.proven(token.position);
        self.tell_delivered(user_id, proven).await;
    }

    /// Tells the senders of these messages that they arrived.
    pub(crate) async fn tell_delivered(&self, user_id: &UserId, proven: Vec<Delivery>) {
        for delivery in proven {
            match self.is_small(&self.inner.rooms, &delivery.room_id).await {
                Ok(true) => {}
                Ok(false) => continue,
                Err(error) => {
                    tracing::error!(%error, "delivery is not told");
                    continue;
                }
            }
            let update = ReceiptUpdate {
                room_id: delivery.room_id,
                user_id: user_id.to_owned(),
                receipt_type: ReceiptType::from(DELIVERED_RECEIPT),
                thread: ReceiptThread::Unthreaded,
                event_id: delivery.event_id,
                timeline_position: delivery.index.get(),
                fan_out: true,
                ts_ms: None,
            };
            if let Err(error) = self.inner.users.set_receipt(update).await {
                tracing::error!(%error, "delivery is not told");
            }
        }
    }

    async fn is_small(
        &self,
        rooms: &Rooms,
        room_id: &RoomId,
    ) -> Result<bool, hearth_rooms::RoomError> {
        let head = rooms.head(room_id).await?;
        Ok(head.is_some_and(|head| head.joined_members <= self.inner.config.delivery_room_members))
    }
}
