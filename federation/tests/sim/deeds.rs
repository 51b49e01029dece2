//! What users do.

use hearth_rooms::{Draft, MemberProfile, RemoteMembership, RoomError, Rooms};
use ruma::{
    OwnedEventId, OwnedRoomId, OwnedServerName, OwnedUserId, RoomId, UserId,
    events::TimelineEventType,
};
use serde_json::{Value, json, value::RawValue};

/// Kinds of deeds: see [`Deed::kind`].
pub(crate) const KINDS: u32 = 28;

/// One user's deed.
pub(crate) struct Deed {
    pub(crate) room_id: OwnedRoomId,
    /// What is done.
    pub(crate) kind: u32,
    /// Tells it from others.
    pub(crate) step: usize,
    /// Who does it.
    pub(crate) me: OwnedUserId,
    /// The anchor of the same server.
    pub(crate) anchor: OwnedUserId,
    /// A guest who may be dealt with.
    pub(crate) target: OwnedUserId,
    /// From 0 to 100.
    pub(crate) level: i64,
    /// Servers to ask.
    pub(crate) via: Vec<OwnedServerName>,
}

/// What came of a deed.
pub(crate) enum Done {
    /// An event that the room has now.
    Event(OwnedEventId),
    /// A user is in the room now.
    Joined(OwnedEventId),
    /// An invitation or a knock ended, with the knowledge of others or without.
    Ended,
}

impl Deed {
    pub(crate) async fn be_done(self, rooms: Rooms) -> Result<Done, RoomError> {
        let Self { room_id, me, anchor, target, kind, .. } = &self;
        let event = match kind {
            13 => rooms.kick(room_id, anchor, target, None).await,
            14 => rooms.ban(room_id, anchor, target, None).await,
            15 => rooms.unban(room_id, anchor, target, None).await,
            16 if me != anchor && rooms.is_resident(room_id).await? => {
                rooms.leave(room_id, me, None).await
            }
            17 => redact_last(&rooms, room_id, anchor.clone()).await,
            20..22 => {
                let profile = MemberProfile::default();
                rooms.invite(room_id, anchor, target, &profile, None, false).await
            }
            22 => {
                let (profile, via) = (MemberProfile::default(), self.via.clone());
                rooms.knock_via(room_id, me, &profile, None, via).await
            }
            23..25 if me != anchor => {
                return rooms.leave(room_id, me, None).await.map(|_| Done::Ended);
            }
            0..13 => self.send(&rooms).await,
            _ => {
                let (user_id, via) = (self.me.clone(), self.via.clone());
                return join(rooms, self.room_id, user_id, via).await.map(Done::Joined);
            }
        };
        event.map(Done::Event)
    }

    /// Sends a message or state.
    async fn send(&self, rooms: &Rooms) -> Result<OwnedEventId, RoomError> {
        let Self { room_id, me, anchor, target, step, level, kind, .. } = self;
        let state = |sender: &UserId, event_type: &str, content: Value| {
            Draft::state(sender.to_owned(), event_type.into(), String::new(), raw(&content))
        };
        let draft = match kind {
            0..8 => message(me.clone(), &format!("message {step}")),
            8..10 => state(anchor, "m.room.name", json!({ "name": format!("name {step}") })),
            10 => state(me, "m.room.topic", json!({ "topic": format!("topic {step}") })),
            11 => {
                let mut content = current_levels(rooms, room_id).await?;
                content["users"][target.as_str()] = json!(level / 2);
                state(anchor, "m.room.power_levels", content)
            }
            _ => {
                let rule = ["public", "invite", "knock"][usize::try_from(level % 3).unwrap()];
                state(anchor, "m.room.join_rules", json!({ "join_rule": rule }))
            }
        };
        rooms.send(room_id, draft, None).await
    }
}

/// A text message.
pub(crate) fn message(sender: OwnedUserId, body: &str) -> Draft {
    let text = raw(&json!({ "msgtype": "m.text", "body": body }));
    Draft::message(sender, "m.room.message".into(), text)
}

/// Joins, by way of another server where the room is not here.
pub(crate) async fn join(
    rooms: Rooms,
    room_id: OwnedRoomId,
    user_id: OwnedUserId,
    via: Vec<OwnedServerName>,
) -> Result<OwnedEventId, RoomError> {
    match rooms.join(&room_id, &user_id, &MemberProfile::default(), None).await {
        Err(RoomError::UnknownRoom) => {
            let remote = rooms.remote().expect("a way out").clone();
            let profile = MemberProfile::default();
            remote.join(RemoteMembership { room_id, user_id, profile, reason: None, via }).await
        }
        other => other,
    }
}

fn raw(json: &Value) -> Box<RawValue> {
    RawValue::from_string(json.to_string()).unwrap()
}

async fn current_levels(rooms: &Rooms, room_id: &RoomId) -> Result<Value, RoomError> {
    let head = rooms.head(room_id).await?.ok_or(RoomError::UnknownRoom)?;
    let levels = rooms.state_event(room_id, head.state, "m.room.power_levels", "").await?;
    let content = levels.and_then(|event| serde_json::from_str(event.pdu.content().get()).ok());
    Ok(content.unwrap_or_else(|| json!({})))
}

async fn redact_last(
    rooms: &Rooms,
    room_id: &RoomId,
    sender: OwnedUserId,
) -> Result<OwnedEventId, RoomError> {
    let head = rooms.head(room_id).await?.ok_or(RoomError::UnknownRoom)?;
    let last = head.extremities.first().copied().ok_or(RoomError::UnknownEvent)?;
    let target = rooms.event(room_id, last).await?;
    if target.pdu.state_key().is_some() {
        return Err(RoomError::UnknownEvent);
    }
    let redacts = Some(target.header.event_id.clone());
    let draft = Draft::message(sender, TimelineEventType::RoomRedaction, raw(&json!({})));
    rooms.send(room_id, Draft { redacts, ..draft }, None).await
}
