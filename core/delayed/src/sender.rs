//! How a due event gets into its room: what the client-server API plugs in, and the order in which it is asked.

use std::time::Duration;

use async_trait::async_trait;
use ruma::{OwnedDeviceId, OwnedEventId, OwnedRoomId, OwnedUserId, UserId};
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
    /// What it means for the event.
    pub fate: Fate,
}

/// What a refusal means for an event that is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It may be taken a little later: its room is busy, or the fault is the server's.
    Later,
    /// It is refused for good. A user's rate limit is such a reason: MSC4140 wants what is over it told to
    /// the user, and not tried again.
    Refused,
    /// The account is gone, and whatever it left with it.
    Orphaned,
}

/// A way to send events into rooms.
#[async_trait]
pub trait Sender: Send + Sync + 'static {
    /// The event that is in the room already under this [`delay_id`](Due::delay_id).
    async fn sent(&self, due: &Due) -> Result<Option<OwnedEventId>, Refusal>;

    /// Refuses what a user leaves behind whose account may not send anything now.
    async fn check_account(&self, user_id: &UserId) -> Result<(), Refusal>;

    /// Charges one event to its user's rate limit, or refuses it.
    fn charge(&self, user_id: &UserId) -> Result<(), Refusal>;

    /// Sends an event as its user would now. One that was sent before under the same
    /// [`delay_id`](Due::delay_id) is not sent again: the answer is the one that there is.
    async fn send(&self, due: Due) -> Result<OwnedEventId, Refusal>;
}
