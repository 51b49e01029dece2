//! Invitations and knocks in rooms that this server is not in, and how they end.

use bytes::Bytes;
use hearth_storage::{Commit, LogEntry, Topic};
use hearth_types::{Pdu, StreamPosition};
use ruma::{OwnedRoomId, OwnedUserId, RoomId, UserId, events::TimelineEventType};
use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};

use super::{Admission, OutOfBand, order::outlier_header};
use crate::{
    CheckedPdu, Rooms, Verdict,
    error::RoomError,
    format::{Unsigned, client_event},
    schema::{
        self, Membership, OUT_OF_BAND_EVENT, OutOfBandRow, Standing, StoredEvent, UserRoomDetails,
        UserRoomRow,
    },
    state::StateRoot,
    writer::{Action, Outcome},
};

/// Stripped state events that are kept of one room.
const MAX_STRIPPED_EVENTS: usize = 100;
/// Bytes of them: with a membership event of 64 KiB they still fit into a row.
const MAX_STRIPPED_BYTES: usize = 28 * 1024;

/// A state event as somebody sees it who is not in the room. Whatever else it came with is left out.
#[derive(Serialize, Deserialize)]
struct Stripped {
    content: Box<RawValue>,
    sender: OwnedUserId,
    state_key: String,
    #[serde(rename = "type")]
    kind: String,
}

impl Rooms {
    /// Keeps an invitation, a knock, or the end of either, of a local user in a room that this server is
    /// not in. The user's syncs show it. The end of what is not kept is passed over, and so is an end by
    /// somebody else that does not name what is kept among its auth events: it ended an earlier membership.
    ///
    /// In a room that this server is in, the event is received in the ordinary way, but for an invitation:
    /// that is only judged. Whoever made it makes it part of the room when it is countersigned, and sends it
    /// to all servers of the room. Without the answer there is no such event, and it must not be here alone.
    ///
    /// # Errors
    ///
    /// [`RoomError::InvalidParam`] if the event is no membership event of this user in this room;
    /// [`RoomError::Forbidden`] if it is an invitation that the room does not allow;
    /// [`RoomError::Busy`] if the room became known meanwhile.
    pub async fn admit_out_of_band(&self, membership: OutOfBand) -> Result<(), RoomError> {
        if self.is_resident(&membership.room_id).await? {
            return self.admit_as_resident(membership).await;
        }
        let room_id = membership.room_id.clone();
        let admission = Admission::OutOfBand(Box::new(membership));
        self.act_anywhere(&room_id, Action::Admit(admission)).await.map(drop)
    }

    /// The same in a room that is here.
    async fn admit_as_resident(&self, membership: OutOfBand) -> Result<(), RoomError> {
        let OutOfBand { room_id, user_id, event, .. } = membership;
        if kept_membership(self, &room_id, &user_id, event.pdu())? != Membership::Invite {
            // If something before it is missing, it comes again with the room's other events.
            return self.receive(&room_id, vec![event]).await.map(drop);
        }
        let event_id = event.pdu().id().to_owned();
        let refused = |reason: &str| Err(RoomError::Forbidden(reason.to_owned()));
        match self.judge(&room_id, event).await? {
            Verdict::Rejected(reason) => refused(&reason),
            Verdict::SoftFailed => refused("the room does not allow it any more"),
            // It may have been pushed first.
            Verdict::Known => {
                let known = self.event_by_id(&room_id, &event_id).await?;
                match known.map(|known| known.header.standing) {
                    Some(Standing::Rejected | Standing::SoftFailed) => {
                        refused("the room did not allow it")
                    }
                    _ => Ok(()),
                }
            }
            // What comes before it comes with it.
            Verdict::Accepted | Verdict::MissingPrev(_) | Verdict::MissingAuth(_) => Ok(()),
        }
    }

    /// The membership event of a user in a room that this server is not in, with the room's version.
    pub async fn out_of_band(
        &self,
        room_id: &RoomId,
        user_id: &UserId,
    ) -> Result<Option<OutOfBand>, RoomError> {
        let Some(own) = self.user_room(user_id, room_id).await? else { return Ok(None) };
        if !own.details.is_out_of_band() {
            return self.left_behind(room_id, user_id, &own).await;
        }
        let (room_id, user_id) = (room_id.to_owned(), user_id.to_owned());
        let Some(row) = self.store().get(&schema::OUT_OF_BAND, &room_id, &user_id).await? else {
            return Ok(None);
        };
        let damaged = |error: &dyn std::fmt::Display| {
            RoomError::internal(format!("a kept membership cannot be read: {error}"))
        };
        let pdu = Pdu::parse(row.event_id, Bytes::from(row.json)).map_err(|e| damaged(&e))?;
        let stripped_state =
            serde_json::from_str(&row.stripped_state).map_err(|error| damaged(&error))?;
        let event = CheckedPdu::new(pdu);
        let room_version = row.room_version;
        Ok(Some(OutOfBand { room_id, room_version, user_id, event, stripped_state }))
    }

    /// An invitation or a knock that became part of the room while local users were in it: they have
    /// all left, and this server cannot change the room any more.
    async fn left_behind(
        &self,
        room_id: &RoomId,
        user_id: &UserId,
        own: &UserRoomRow,
    ) -> Result<Option<OutOfBand>, RoomError> {
        let open = matches!(own.details.membership, Membership::Invite | Membership::Knock);
        let head = self.head(room_id).await?.filter(|head| head.joined_local_members == 0);
        let (true, Some(head)) = (open, head) else { return Ok(None) };
        let event = self.event(room_id, own.details.event).await?;
        Ok(Some(OutOfBand {
            room_id: room_id.to_owned(),
            room_version: head.version.clone(),
            user_id: user_id.to_owned(),
            event: CheckedPdu::new(event.pdu.clone()),
            stripped_state: Vec::new(),
        }))
    }

    /// What an invited or knocking user is told about the room, wherever their membership is kept.
    pub async fn stripped_state_for(
        &self,
        room_id: &RoomId,
        user_id: &UserId,
        row: &UserRoomRow,
    ) -> Result<Vec<Box<RawValue>>, RoomError> {
        if !row.details.is_out_of_band() {
            return self.stripped_state(room_id, row.details.state, user_id).await;
        }
        let Some(kept) = self.out_of_band(room_id, user_id).await? else { return Ok(Vec::new()) };
        let is_own = |raw: &RawValue| {
            serde_json::from_str(raw.get()).is_ok_and(|event: Stripped| {
                event.kind == "m.room.member" && event.state_key == user_id.as_str()
            })
        };
        let mut shown = kept.stripped_state;
        shown.retain(|raw| !is_own(raw));
        shown.extend(strip(kept.event.pdu()));
        Ok(shown)
    }

    /// The event of such a membership as clients see it.
    pub async fn client_out_of_band(
        &self,
        room_id: &RoomId,
        user_id: &UserId,
    ) -> Result<Option<Box<RawValue>>, RoomError> {
        let Some(kept) = self.out_of_band(room_id, user_id).await? else { return Ok(None) };
        let pdu = kept.event.into_pdu();
        let sent_ms = u64::from(pdu.origin_server_ts().get());
        let unsigned =
            Unsigned { age: self.clock().now_ms().saturating_sub(sent_ms), ..Unsigned::default() };
        let event = StoredEvent {
            ordinal: OUT_OF_BAND_EVENT,
            index: None,
            header: outlier_header(&pdu, &[], Standing::Outlier),
            pdu,
        };
        client_event(&event, None, &unsigned).map(Some)
    }

    /// Forgets a membership that is kept out of band.
    pub(crate) async fn forget_out_of_band(
        &self,
        room_id: &RoomId,
        user_id: &UserId,
    ) -> Result<(), RoomError> {
        let admission = Admission::Forget(room_id.to_owned(), user_id.to_owned());
        self.act_anywhere(room_id, Action::Admit(admission)).await.map(drop)
    }
}

/// Keeps a membership; only by the room's writer.
pub(super) async fn keep(rooms: &Rooms, kept: OutOfBand) -> Result<Outcome, RoomError> {
    let OutOfBand { room_id, room_version, user_id, event, stripped_state } = kept;
    let membership = kept_membership(rooms, &room_id, &user_id, event.pdu())?;
    if rooms.is_resident(&room_id).await? {
        return Err(RoomError::Busy);
    }
    let own = rooms.user_room(&user_id, &room_id).await?;
    let now = own.as_ref().map(|own| own.details.membership);
    let ends = matches!(membership, Membership::Leave | Membership::Ban);
    if ends && !matches!(now, Some(Membership::Invite | Membership::Knock)) {
        return Ok(Outcome::Done);
    }
    if ends && event.pdu().sender() != user_id {
        let known = rooms.out_of_band(&room_id, &user_id).await?;
        if known.is_none_or(|known| !follows(event.pdu(), known.event.pdu())) {
            return Ok(Outcome::Done);
        }
    }
    let mut commit = Commit::new(&room_id);
    let position = commit.next_position();
    let details = UserRoomDetails {
        membership,
        event: OUT_OF_BAND_EVENT,
        sender: event.pdu().sender().to_owned(),
        state: StateRoot::default(),
        was_joined: false,
        has_joined: own.is_some_and(|own| own.details.has_joined),
        forgotten: false,
    };
    // Since when they were in the room, if they ever were, matters to nobody until they are again.
    let own = UserRoomRow { position, joined_at: StreamPosition::ZERO, details };
    let json = std::str::from_utf8(event.pdu().json())
        .map_err(|_| RoomError::BadJson("the event is not UTF-8".to_owned()))?;
    let row = OutOfBandRow {
        room_version,
        event_id: event.pdu().id().to_owned(),
        json: json.to_owned(),
        stripped_state: stripped_list(&stripped_state),
    };
    commit.put(&schema::OUT_OF_BAND, &room_id, &user_id, &row);
    commit.effect_put(&schema::USER_ROOMS, &user_id, &room_id, &own);
    let entry = LogEntry {
        kind: schema::LOG_OUT_OF_BAND,
        topic: Topic::new(user_id.as_str()),
        payload: Bytes::copy_from_slice(room_id.as_str().as_bytes()),
    };
    commit.log(position, entry);
    commit.touch(Topic::new(user_id.as_str()));
    rooms.store().commit(commit).await?;
    Ok(Outcome::Event(event.pdu().id().to_owned()))
}

/// Does an event rest on a membership? Who changes that of somebody else names the one that they
/// change (SS "Auth events selection"): by it, late and repeated ends are told from those that count.
fn follows(event: &Pdu, membership: &Pdu) -> bool {
    event.auth_events().iter().any(|named| named == membership.id())
}

/// Marks a kept membership as forgotten; only by the room's writer. Its event stays: to the user's other
/// devices, it says that the invitation is over. What they were told about the room goes.
pub(super) async fn forget(
    rooms: &Rooms,
    room_id: OwnedRoomId,
    user_id: OwnedUserId,
) -> Result<Outcome, RoomError> {
    let own = rooms.user_room(&user_id, &room_id).await?.ok_or(RoomError::UnknownRoom)?;
    if !matches!(own.details.membership, Membership::Leave | Membership::Ban) {
        return Err(RoomError::InvalidParam("you have not left this room".to_owned()));
    }
    let details = UserRoomDetails { forgotten: true, ..own.details };
    let own = UserRoomRow { details, ..own };
    let mut commit = Commit::new(&room_id);
    if let Some(row) = rooms.store().get(&schema::OUT_OF_BAND, &room_id, &user_id).await? {
        let row = OutOfBandRow { stripped_state: stripped_list(&[]), ..row };
        commit.put(&schema::OUT_OF_BAND, &room_id, &user_id, &row);
    }
    commit.effect_put(&schema::USER_ROOMS, &user_id, &room_id, &own);
    commit.touch(Topic::new(user_id.as_str()));
    rooms.store().commit(commit).await?;
    Ok(Outcome::Done)
}

/// The membership that the event gives this user in this room.
fn kept_membership(
    rooms: &Rooms,
    room_id: &RoomId,
    user_id: &UserId,
    pdu: &Pdu,
) -> Result<Membership, RoomError> {
    let wrong = |text: &str| RoomError::InvalidParam(text.to_owned());
    if *pdu.kind() != TimelineEventType::RoomMember
        || pdu.state_key() != Some(user_id.as_str())
        || pdu.room_id_field() != Some(room_id)
    {
        return Err(wrong("the event is not this user's membership of this room"));
    }
    if !rooms.identity().is_local(user_id) {
        return Err(wrong("the user is on another server"));
    }
    match Membership::of(pdu) {
        None | Some(Membership::Join) => Err(wrong("no membership that is kept out of band")),
        Some(membership) => Ok(membership),
    }
}

/// As many of the events as are kept, in stripped form, as a JSON list.
fn stripped_list(events: &[Box<RawValue>]) -> String {
    let mut list = String::from("[");
    for event in events.iter().take(MAX_STRIPPED_EVENTS) {
        // Servers may send full events (SS "Inviting to a room"): clients get the stripped form.
        let Ok(event) = serde_json::from_str::<Stripped>(event.get()) else { continue };
        let Ok(json) = serde_json::to_string(&event) else { continue };
        if list.len() + json.len() + 2 > MAX_STRIPPED_BYTES {
            continue;
        }
        if list.len() > 1 {
            list.push(',');
        }
        list.push_str(&json);
    }
    list.push(']');
    list
}

/// A membership event in stripped form.
fn strip(pdu: &Pdu) -> Option<Box<RawValue>> {
    to_raw_value(&Stripped {
        content: pdu.content().to_owned(),
        sender: pdu.sender().to_owned(),
        state_key: pdu.state_key()?.to_owned(),
        kind: pdu.kind().to_string(),
    })
    .ok()
}
