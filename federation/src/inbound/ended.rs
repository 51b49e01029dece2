//! Invitations and knocks in rooms that this server is not in, ended by a server of the room (SS
//! "Checks performed on receipt of a PDU" cannot be made: the room's state is not here).

use std::borrow::Cow;

use hearth_rooms::{OutOfBand, RoomError};
use ruma::{OwnedUserId, RoomId, UserId, events::TimelineEventType};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::send::store_failed;
use crate::{Federation, remote::servers_of};

/// What is read of an event before it costs anything.
#[derive(Deserialize)]
struct Outline<'a> {
    #[serde(rename = "type")]
    kind: TimelineEventType,
    state_key: OwnedUserId,
    sender: OwnedUserId,
    #[serde(borrow)]
    content: Content<'a>,
}

#[derive(Deserialize)]
struct Content<'a> {
    #[serde(borrow)]
    membership: Cow<'a, str>,
}

/// Takes those of the events that end an invitation or a knock of a local user. All others are events
/// of a room that is not here, and are dropped. Fails if what would be lost with an answer could not be
/// read or written.
pub(super) async fn receive(
    federation: &Federation,
    room_id: &RoomId,
    pdus: Vec<Box<RawValue>>,
) -> Result<(), RoomError> {
    for pdu in pdus {
        match receive_one(federation, room_id, pdu).await {
            Ok(()) => {}
            Err(error) if store_failed(&error) => return Err(error),
            Err(error) => {
                tracing::debug!(%room_id, %error, "the end of a membership was not taken");
            }
        }
    }
    Ok(())
}

async fn receive_one(
    federation: &Federation,
    room_id: &RoomId,
    pdu: Box<RawValue>,
) -> Result<(), RoomError> {
    let Some(outline) = outline(federation, &pdu) else { return Ok(()) };
    let (rooms, user_id) = (federation.rooms(), outline.state_key);
    let Some(known) = rooms.out_of_band(room_id, &user_id).await? else { return Ok(()) };
    if !may_end(&known, &outline.sender) {
        tracing::debug!(%room_id, sender = %outline.sender, "a stranger ends a membership");
        return Ok(());
    }
    let checked = federation.checker().check(&known.room_version, room_id, vec![pdu]).await;
    for event in checked {
        match event {
            Ok(event) => {
                let ended = OutOfBand { event, stripped_state: Vec::new(), ..known.clone() };
                rooms.admit_out_of_band(ended).await?;
            }
            Err(dropped) => tracing::debug!(%room_id, %dropped, "an event was dropped"),
        }
    }
    Ok(())
}

/// What the event says, if it is the leave or the ban of a local user by another server's: what a local
/// user does is made here.
fn outline<'a>(federation: &Federation, pdu: &'a RawValue) -> Option<Outline<'a>> {
    let outline: Outline<'_> = serde_json::from_str(pdu.get()).ok()?;
    let ends = matches!(&*outline.content.membership, "leave" | "ban");
    let identity = federation.identity();
    let by_another = identity.is_local(&outline.state_key) && !identity.is_local(&outline.sender);
    (outline.kind == TimelineEventType::RoomMember && ends && by_another).then_some(outline)
}

/// May a user of another server end this? Whether the room allows it cannot be known here. It is
/// believed of servers that made the membership or what is shown of the room: they could end it by
/// other means, and what they end can be begun again.
fn may_end(known: &OutOfBand, sender: &UserId) -> bool {
    servers_of(known).any(|server| server == sender.server_name())
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use hearth_rooms::CheckedPdu;
    use hearth_types::Pdu;
    use ruma::{EventId, RoomVersionId, user_id};
    use serde_json::{json, value::to_raw_value};

    use super::*;

    #[test]
    fn a_stranger_ends_no_invitation() {
        let invite = json!({
            "auth_events": [], "content": { "membership": "invite" }, "depth": 5,
            "origin_server_ts": 1, "prev_events": [], "room_id": "!r:creator.test",
            "sender": "@ann:a.test", "state_key": "@bob:b.test", "type": "m.room.member",
        });
        let json = Bytes::from(serde_json::to_vec(&invite).unwrap());
        let name = json!({
            "content": { "name": "Study" }, "sender": "@carl:c.test", "state_key": "",
            "type": "m.room.name",
        });
        let known = OutOfBand {
            room_id: RoomId::parse("!r:creator.test").unwrap(),
            room_version: RoomVersionId::V10,
            user_id: user_id!("@bob:b.test").to_owned(),
            event: CheckedPdu::new(Pdu::parse(EventId::parse("$invite").unwrap(), json).unwrap()),
            stripped_state: vec![to_raw_value(&name).unwrap()],
        };
        assert!(may_end(&known, user_id!("@ann:a.test")));
        assert!(may_end(&known, user_id!("@moderator:c.test")));
        assert!(!may_end(&known, user_id!("@mallory:m.test")));
    }
}
