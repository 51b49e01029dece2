//! `GET /notifications` (CS "Listing Notifications").

use std::slice;

use hearth_rooms::{
    RoomError,
    format::{ClientView, Unsigned, client_event},
    schema::Membership,
};
use hearth_types::StreamPosition;
use ruma::{DeviceId, MilliSecondsSinceUnixEpoch, OwnedRoomId, UserId, push::Action};
use serde_json::value::RawValue;

use crate::{
    Push, PushError,
    history::{Found, Source},
};

/// Notifications of one answer if the request does not say how many.
const DEFAULT_LIMIT: usize = 20;
/// Notifications of one answer at most.
const MAX_LIMIT: usize = 100;

/// What a user asks for.
#[derive(Clone, Debug, Default)]
pub struct NotificationsRequest {
    /// The `next_token` of the page before.
    pub from: Option<String>,
    /// How many.
    pub limit: Option<usize>,
    /// Only those that highlight.
    pub only_highlights: bool,
}

/// A page of what a user was notified of, newest first.
#[derive(Clone, Debug)]
pub struct Notifications {
    /// The notifications; perhaps none, though there are older ones.
    pub notified: Vec<Notified>,
    /// Where the next page begins; `None` if this is the last.
    pub next_token: Option<String>,
}

/// Something that a user was notified of.
#[derive(Clone, Debug)]
pub struct Notified {
    /// The room.
    pub room_id: OwnedRoomId,
    /// The event as clients see it.
    pub event: Box<RawValue>,
    /// What the push rules say.
    pub actions: Vec<Action>,
    /// Has the user read it?
    pub read: bool,
    /// When it was sent.
    pub sent: MilliSecondsSinceUnixEpoch,
}

impl Push {
    /// What a user was, or would have been, notified of. From the timelines of the rooms that they are in and by
    /// their rules of today: a page looks at a bounded number of events, and the next goes on from there.
    ///
    /// # Errors
    ///
    /// [`PushError::InvalidParam`] for a token that is none.
    pub async fn notifications(
        &self,
        user_id: &UserId,
        device_id: &DeviceId,
        request: &NotificationsRequest,
    ) -> Result<Notifications, PushError> {
        let now = self.inner.parts.store.notifier().published();
        let until = match &request.from {
            None => now,
            Some(token) => position_of(token)?.previous().min(now),
        };
        let limit = request.limit.unwrap_or(DEFAULT_LIMIT).clamp(1, MAX_LIMIT);
        let stretch = (StreamPosition::ZERO, until);
        let looked = self.inner.look_back(user_id, stretch, limit, request.only_highlights).await?;
        let mut notified = Vec::with_capacity(looked.found.len());
        for found in looked.found {
            notified.push(self.shown(user_id, device_id, found).await?);
        }
        let next_token = looked.rest.map(|rest| rest.to_string());
        Ok(Notifications { notified, next_token })
    }

    async fn shown(
        &self,
        user_id: &UserId,
        device_id: &DeviceId,
        found: Found,
    ) -> Result<Notified, PushError> {
        let read = self.inner.was_read(user_id, &found).await?;
        let sent = found.source.pdu().origin_server_ts();
        let (rooms, room_id) = (&self.inner.parts.rooms, &found.room_id);
        let event = match &found.source {
            Source::Invitation(_) => rooms.client_out_of_band(room_id, user_id).await?,
            Source::Event(event) if found.row.details.membership == Membership::Join => {
                let view = ClientView::sync(user_id, Some(device_id), true);
                let shown = rooms.client_events(room_id, slice::from_ref(event), &view).await?;
                shown.into_iter().next()
            }
            Source::Event(event) => Some(client_event(event, None, &Unsigned::default())?),
        };
        let event = event.ok_or(RoomError::UnknownEvent)?;
        Ok(Notified { room_id: found.room_id, event, actions: found.actions, read, sent })
    }
}

/// A token is the position after which nothing is on its page.
fn position_of(token: &str) -> Result<StreamPosition, PushError> {
    token
        .parse()
        .map(StreamPosition::new)
        .map_err(|_| PushError::InvalidParam("from: unknown token".to_owned()))
}
