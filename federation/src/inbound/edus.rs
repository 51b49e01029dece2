//! What a transaction carries beside events (SS "EDUs"). A bad one is dropped alone and in silence: no
//! answer tells of EDUs.

mod kept;

use std::{borrow::Cow, collections::BTreeMap, time::Duration};

use hearth_e2ee::E2eeError;
use hearth_rooms::{RoomError, schema::Membership};
use hearth_users::{ReceiptUpdate, RemotePresence, UsersError};
use ruma::{
    OwnedEventId, OwnedRoomId, OwnedUserId, RoomId, ServerName, UserId,
    api::federation::transactions::edu::{
        DirectDeviceContent, Edu, ReceiptContent, ReceiptData, TypingContent,
    },
    events::receipt::{ReceiptThread, ReceiptType},
    presence::PresenceState,
    serde::Raw,
};
use serde::Deserialize;
use serde_json::value::RawValue;

pub(crate) use self::kept::{KEPT_EDU_COUNTS, KEPT_EDUS, hand_over_kept};
use super::send::store_failed;
use crate::Federation;

/// The largest EDU in bytes, but for messages to devices: servers put those for all users of one request
/// into one EDU, which is as large as its transaction may be.
const MAX_EDU_BYTES: usize = 512 * 1024;
/// Receipts of one transaction that are looked at. Each costs a few look-ups.
const MAX_RECEIPTS: usize = 1_000;
/// Users of one transaction whose presence is looked at. Each costs a walk over the rooms that are
/// shared with their server.
const MAX_PRESENCE: usize = 200;
/// Users in no room here that one transaction may tell of. Servers tell of those with whom a room is
/// shared, but for some who leave meanwhile.
const MAX_STRANGERS: usize = 20;
/// How long somebody of another server types if nothing more is heard: their server repeats it.
const TYPING_TIMEOUT: Duration = Duration::from_mins(1);

/// Why an EDU, or a part of one, was dropped.
#[derive(Debug, thiserror::Error)]
enum DropReason {
    #[error("{0}")]
    Bad(&'static str),
    #[error("it cannot be read: {0}")]
    Malformed(#[from] serde_json::Error),
    #[error(transparent)]
    Rooms(#[from] RoomError),
    #[error(transparent)]
    Users(#[from] UsersError),
    #[error(transparent)]
    E2ee(#[from] E2eeError),
}

/// Takes EDUs of one transaction. Those of users of other servers than `origin`, for rooms that it is
/// not in or that its ACL keeps it out of, are dropped one by one. Fails if what must not be lost could
/// not be written.
pub(super) async fn receive(
    federation: &Federation,
    origin: &ServerName,
    edus: Vec<Raw<Edu>>,
) -> Result<(), RoomError> {
    let mut taking = Taking {
        federation,
        origin,
        admitted: BTreeMap::new(),
        known: BTreeMap::new(),
        in_partial_room: None,
        receipts_left: MAX_RECEIPTS,
        presence_left: MAX_PRESENCE,
        to_device: Vec::new(),
    };
    for edu in edus {
        match taking.take(&edu).await {
            Ok(()) => {}
            // Nothing is wrong with it: its server sends it again.
            Err(DropReason::E2ee(error)) => return Err(failed(error)),
            Err(DropReason::Rooms(error)) if store_failed(&error) => return Err(error),
            Err(reason) => tracing::debug!(%origin, %reason, "an EDU was dropped"),
        }
    }
    let messages = taking.to_device;
    federation.e2ee().receive_to_device(origin, messages).await.map_err(failed)
}

/// Why what must not be lost could not be written.
fn failed(error: E2eeError) -> RoomError {
    match error {
        E2eeError::Store(error) => error.into(),
        E2eeError::Commit(error) => error.into(),
        error => RoomError::Internal(Box::new(error)),
    }
}

/// The work on one transaction's EDUs.
struct Taking<'a> {
    federation: &'a Federation,
    origin: &'a ServerName,
    /// Rooms looked at so far: is the origin in them, and admitted?
    admitted: BTreeMap<OwnedRoomId, bool>,
    /// Users looked at so far: do they share a room with this server?
    known: BTreeMap<OwnedUserId, bool>,
    /// Is the origin said to be in a room whose state is partial? `None` if that was not looked at.
    in_partial_room: Option<bool>,
    receipts_left: usize,
    presence_left: usize,
    /// Messages to devices, in their order.
    to_device: Vec<DirectDeviceContent>,
}

impl Taking<'_> {
    async fn take(&mut self, edu: &Raw<Edu>) -> Result<(), DropReason> {
        let edu_type = type_of(edu)?;
        if edu.json().get().len() > MAX_EDU_BYTES && edu_type != "m.direct_to_device" {
            return Err(DropReason::Bad("it is too large"));
        }
        if edu_type == "m.presence" {
            return self.presence(presence_of(edu)?).await;
        }
        match edu.deserialize()? {
            Edu::Typing(content) => self.typing(&content).await,
            Edu::Receipt(content) => self.receipts(content).await,
            Edu::DirectToDevice(content) => {
                self.is_of_origin(&content.sender)?;
                self.to_device.push(content);
                Ok(())
            }
            Edu::DeviceListUpdate(content) => {
                self.is_known(&content.user_id).await?;
                let e2ee = self.federation.e2ee();
                Ok(e2ee.receive_device_list_update(self.origin, content).await?)
            }
            Edu::SigningKeyUpdate(content) => {
                self.is_known(&content.user_id).await?;
                let e2ee = self.federation.e2ee();
                Ok(e2ee.receive_signing_key_update(self.origin, content).await?)
            }
            _ => Err(DropReason::Bad("its type is not known")),
        }
    }

    async fn typing(&mut self, content: &TypingContent) -> Result<(), DropReason> {
        let TypingContent { room_id, user_id, typing, .. } = content;
        self.is_of_origin(user_id)?;
        self.may_be_joined(room_id, user_id).await?;
        let timeout = typing.then_some(TYPING_TIMEOUT);
        self.federation.users().set_typing(room_id, user_id, timeout);
        Ok(())
    }

    /// Each receipt of one content for itself.
    async fn receipts(&mut self, content: ReceiptContent) -> Result<(), DropReason> {
        for (room_id, receipts) in content.receipts {
            for (user_id, data) in receipts.read {
                self.receipts_left = self
                    .receipts_left
                    .checked_sub(1)
                    .ok_or(DropReason::Bad("there are too many receipts"))?;
                if let Err(reason) = self.receipt(&room_id, user_id, data).await {
                    let origin = self.origin;
                    tracing::debug!(%origin, %room_id, %reason, "a receipt was dropped");
                }
            }
        }
        Ok(())
    }

    async fn receipt(
        &mut self,
        room_id: &RoomId,
        user_id: OwnedUserId,
        data: ReceiptData,
    ) -> Result<(), DropReason> {
        self.is_of_origin(&user_id)?;
        self.is_joined(room_id, &user_id).await?;
        let thread = data.data.thread;
        match &thread {
            ReceiptThread::Unthreaded | ReceiptThread::Main => {}
            // As many threads can be told apart as there are events to begin them.
            ReceiptThread::Thread(root) => {
                self.place_of(room_id, root).await?;
            }
            _ => return Err(DropReason::Bad("its thread_id is none")),
        }
        // The specification's list has one entry in practice; of several the last one counts.
        let event_id = data.event_ids.into_iter().next_back();
        let event_id = event_id.ok_or(DropReason::Bad("it names no event"))?;
        let timeline_position = self.place_of(room_id, &event_id).await?;
        let users = self.federation.users();
        let now_ms = self.federation.clock().now_ms();
        let ts_ms = data.data.ts.map(|ts| u64::from(ts.get()).min(now_ms));
        let update = ReceiptUpdate {
            room_id: room_id.to_owned(),
            user_id,
            receipt_type: ReceiptType::Read,
            thread,
            event_id,
            timeline_position,
            fan_out: !users.is_large_room(room_id).await,
            ts_ms,
        };
        users.set_receipt(update).await?;
        Ok(())
    }

    /// An event's place in the timeline. Receipts are ordered by it; one that comes before its event is
    /// dropped, and made up for by the same user's next one.
    async fn place_of(&self, room_id: &RoomId, event_id: &OwnedEventId) -> Result<u64, DropReason> {
        let event = self.federation.rooms().event_by_id(room_id, event_id).await?;
        let index = event.and_then(|event| event.index);
        let index = index.ok_or(DropReason::Bad("its event is not in the timeline here"))?;
        Ok(index.position().get())
    }

    /// Each user's presence for itself.
    async fn presence(&mut self, push: Vec<Box<RawValue>>) -> Result<(), DropReason> {
        if !self.federation.users().config().presence_enabled {
            return Ok(());
        }
        for update in push {
            self.presence_left = self
                .presence_left
                .checked_sub(1)
                .ok_or(DropReason::Bad("there is too much presence"))?;
            if let Err(reason) = self.presence_update(&update).await {
                let origin = self.origin;
                tracing::debug!(%origin, %reason, "a presence was dropped");
            }
        }
        Ok(())
    }

    async fn presence_update(&mut self, update: &RawValue) -> Result<(), DropReason> {
        let update: PresenceUpdate = serde_json::from_str(update.get())?;
        self.may_be_known(&update.user_id).await?;
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "clocks that differ tell of activity in the future: it was now"
        )]
        let last_active_ago_ms = update.last_active_ago.map(|ago| ago as u64);
        let told = RemotePresence {
            state: update.presence,
            status_msg: update.status_msg,
            last_active_ago_ms,
            currently_active: update.currently_active,
        };
        self.federation.users().set_remote_presence(&update.user_id, told);
        Ok(())
    }

    fn is_of_origin(&self, user_id: &UserId) -> Result<(), DropReason> {
        if user_id.server_name() == self.origin {
            return Ok(());
        }
        Err(DropReason::Bad("it is of another server's user"))
    }

    /// Is this a user of the origin who is in a room here?
    async fn is_known(&mut self, user_id: &UserId) -> Result<(), DropReason> {
        self.is_of_origin(user_id)?;
        let known = if let Some(known) = self.known.get(user_id) {
            *known
        } else {
            // Who is in no room here costs a walk over all rooms that are shared with their server.
            let strangers = self.known.values().filter(|known| !**known).count();
            if strangers >= MAX_STRANGERS {
                return Err(DropReason::Bad("there are too many users who are in no room here"));
            }
            let rooms = self.federation.rooms().rooms_of_remote_user(user_id, 1).await?;
            self.known.insert(user_id.to_owned(), !rooms.is_empty());
            !rooms.is_empty()
        };
        known.then_some(()).ok_or(DropReason::Bad("its user is in no room here"))
    }

    /// Is this a user of the origin who is in a room here, or may be: while a room's state is partial it is
    /// known which servers are in it, and not who?
    async fn may_be_known(&mut self, user_id: &UserId) -> Result<(), DropReason> {
        self.is_of_origin(user_id)?;
        let is_open = if let Some(is_open) = self.in_partial_room {
            is_open
        } else {
            let is_open = self.federation.rooms().is_named_in_partial_rooms(self.origin).await?;
            self.in_partial_room = Some(is_open);
            is_open
        };
        if is_open { Ok(()) } else { self.is_known(user_id).await }
    }

    /// Is this a user who is in a room that takes something from the origin, or may be in it?
    async fn may_be_joined(
        &mut self,
        room_id: &RoomId,
        user_id: &UserId,
    ) -> Result<(), DropReason> {
        let joined = self.is_joined(room_id, user_id).await;
        let rooms = self.federation.rooms();
        if joined.is_err()
            && rooms.is_named_in_partial_room(room_id, self.origin).await?
            && rooms.member_row(room_id, user_id).await?.is_none()
            && self.takes_from_origin(room_id).await?
        {
            return Ok(());
        }
        joined
    }

    /// Does this room take something from the origin?
    async fn takes_from_origin(&mut self, room_id: &RoomId) -> Result<bool, DropReason> {
        if let Some(admitted) = self.admitted.get(room_id) {
            return Ok(*admitted);
        }
        let rooms = self.federation.rooms();
        let admitted = rooms.has_joined_server(room_id, self.origin).await?
            && rooms.acl_admits(room_id, self.origin).await?;
        self.admitted.insert(room_id.to_owned(), admitted);
        Ok(admitted)
    }

    /// Is this user in a room that takes something from the origin?
    async fn is_joined(&mut self, room_id: &RoomId, user_id: &UserId) -> Result<(), DropReason> {
        if !self.takes_from_origin(room_id).await? {
            return Err(DropReason::Bad("the room takes nothing from its server"));
        }
        let row = self.federation.rooms().member_row(room_id, user_id).await?;
        let joined = row.is_some_and(|row| row.membership == Membership::Join);
        joined.then_some(()).ok_or(DropReason::Bad("its user is not in the room"))
    }
}

/// The presence of one user. ruma's type demands `last_active_ago`, which servers leave out of users who
/// never did anything, and that it is not negative.
#[derive(Deserialize)]
struct PresenceUpdate {
    user_id: OwnedUserId,
    presence: PresenceState,
    status_msg: Option<String>,
    last_active_ago: Option<f64>,
    #[serde(default)]
    currently_active: bool,
}

/// An EDU's type.
fn type_of(edu: &Raw<Edu>) -> serde_json::Result<Cow<'_, str>> {
    #[derive(Deserialize)]
    struct Outline<'a> {
        #[serde(borrow)]
        edu_type: Cow<'a, str>,
    }
    serde_json::from_str(edu.json().get()).map(|outline: Outline<'_>| outline.edu_type)
}

/// The updates of an EDU that holds presence; they are read one by one, because what one user's server
/// says of them must not lose what it says of others.
fn presence_of(edu: &Raw<Edu>) -> serde_json::Result<Vec<Box<RawValue>>> {
    #[derive(Deserialize)]
    struct Presence {
        content: Content,
    }
    #[derive(Deserialize)]
    struct Content {
        push: Vec<Box<RawValue>>,
    }
    serde_json::from_str(edu.json().get()).map(|edu: Presence| edu.content.push)
}

#[cfg(test)]
mod tests;
