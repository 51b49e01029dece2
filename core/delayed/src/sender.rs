//! How a due event gets into its room: declared here, plugged in by the client-server API.

use std::time::Duration;

use async_trait::async_trait;
use ruma::{OwnedDeviceId, OwnedEventId, OwnedRoomId, OwnedUserId};
use serde_json::value::RawValue;

/// An event that is to be sent now.
#[derive(Clone, Debug)]
pub struct Due {
    /// Its ID while it was delayed, and that of its transaction.
    pub delay_id: String,
    /// What is to be sent.
    pub event: Unsent,
}

/// An event that is not in its room yet.
#[derive(Clone, Debug)]
pub struct Unsent {
    /// Whose it is.
    pub user_id: OwnedUserId,
    /// The device that schedules it; it may be gone when the event is sent.
    pub device_id: OwnedDeviceId,
    /// The room that it is for.
    pub room_id: OwnedRoomId,
    /// Its type.
    pub event_type: String,
    /// Its state key, if it is state.
    pub state_key: Option<String>,
    /// Its content.
    pub content: Box<RawValue>,
}

/// Why an event was not sent, as its sender would have been told.
#[derive(Clone, Debug)]
pub struct Refusal {
    /// The HTTP status.
    pub status: u16,
    /// `errcode`.
    pub errcode: String,
    /// `error`.
    pub message: String,
    /// How long to wait, where that is the reason.
    pub retry_after: Option<Duration>,
    /// The account is gone, and whatever it left with it.
    pub is_orphaned: bool,
}

impl Refusal {
    /// May the same event be taken a little later? A busy room and a fault of the server's pass.
    pub(crate) fn may_pass(&self) -> bool {
        self.status == 429 || self.status >= 500
    }
}

/// A way to send events into rooms.
#[async_trait]
pub trait Sender: Send + Sync + 'static {
    /// Sends an event as its user would now. One that was sent before under the same
    /// [`delay_id`](Due::delay_id) is not sent again: the answer is the one that there is.
    async fn send(&self, due: Due) -> Result<OwnedEventId, Refusal>;
}
