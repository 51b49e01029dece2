//! `/initialSync`, of all rooms and of one: where the event stream begins.

use std::time::Duration;

use axum::extract::{FromRequestParts as _, Path, Request, State};
use hearth_http::{ApiState as _, Lane, MatrixError, RawJson};
use hearth_rooms::{format::membership_name, schema::Membership};
use ruma::{
    OwnedRoomId, RoomId, api::client::filter::FilterDefinition, events::GlobalAccountDataEventType,
};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{
    question, read,
    sections::{Answer, Section, in_room},
};
use crate::{
    ApiError, ClientApi, LocalUser,
    routes::{
        events::{Body, Chunk, body},
        peeking,
    },
};

/// Messages of a room when the client names no limit.
const USUAL_MESSAGES: u32 = 20;

/// The parameters of `/initialSync`.
#[derive(Deserialize)]
struct Parameters {
    limit: Option<u32>,
    #[serde(default)]
    archived: bool,
}

/// `GET /_matrix/client/*/initialSync`: all rooms of the user.
pub(crate) async fn of_user(
    State(app): State<ClientApi>,
    request: Request,
) -> Result<RawJson, ApiError> {
    let _place = app.http().admit(Lane::Short)?;
    let (caller, asked): (_, Parameters) = read(&app, request).await?;
    let mut filter = FilterDefinition::default();
    filter.room.timeline.limit = Some(asked.limit.unwrap_or(USUAL_MESSAGES).into());
    filter.room.include_leave = asked.archived;
    if !app.users().has_own_push_rules(caller.user_id()).await? {
        // Account data is what the user made; the server's own rules are not that.
        filter.account_data.not_types.push(GlobalAccountDataEventType::PushRules.to_string());
    }
    let response = app.sync().events(question(&caller, None, filter, Duration::ZERO)).await?;
    let found = Answer::read(&response.body)?;
    let (mut rooms, mut receipts) = (Chunk::new(), Chunk::new());
    for (room_id, section) in found.rooms.join.iter().chain(&found.rooms.leave) {
        let room = room(&app, &caller, room_id, section, &response.next_batch).await?;
        rooms.push(room.into_raw()?);
        receipts.extend(receipts_of(room_id, section)?);
    }
    for (stripped, name) in [(&found.rooms.invite, "invite"), (&found.rooms.knock, "knock")] {
        for (room_id, stripped) in stripped {
            let mut room = body();
            room.text("room_id", room_id.as_str());
            room.text("membership", name);
            if let Some((event, sender)) = stripped.membership(room_id, caller.user_id())? {
                if name == "invite" {
                    room.text("inviter", sender.as_deref().unwrap_or_default());
                }
                room.raw(name, &event);
            }
            rooms.push(room.into_raw()?);
        }
    }
    let mut answer = body();
    answer.text("end", &response.next_batch);
    answer.events("presence", &found.presence()?);
    answer.events("receipts", &receipts);
    answer.events("account_data", &found.account_data.events);
    answer.events("rooms", &rooms);
    Ok(answer.finish())
}

/// `GET /_matrix/client/*/rooms/{roomId}/initialSync`: one room, which may also be one that the user has
/// left or only looks into (CS "Room Previews").
pub(crate) async fn of_room(
    State(app): State<ClientApi>,
    request: Request,
) -> Result<RawJson, ApiError> {
    let _place = app.http().admit(Lane::Short)?;
    let (mut head, rest) = request.into_parts();
    let Path(room_id): Path<OwnedRoomId> = Path::from_request_parts(&mut head, &app)
        .await
        .map_err(|error| MatrixError::invalid_param(error.body_text()))?;
    let request = Request::from_parts(head, rest);
    let (caller, asked): (_, Parameters) = read(&app, request).await?;
    let limit = asked.limit.unwrap_or(USUAL_MESSAGES);
    let row = app.rooms().user_room(caller.user_id(), &room_id).await?;
    if row.is_none_or(|row| row.details.membership != Membership::Join) {
        return peeking::snapshot(&app, &caller, &room_id, limit).await;
    }
    let mut filter = FilterDefinition::default();
    filter.room.timeline.limit = Some(limit.into());
    filter.room.rooms = Some(vec![room_id.clone()]);
    let response = app.sync().events(question(&caller, None, filter, Duration::ZERO)).await?;
    let found = Answer::read(&response.body)?;
    // Who left in this moment may ask again.
    let section = found.rooms.join.get(&room_id);
    let section = section.ok_or_else(|| MatrixError::forbidden("You are not in this room"))?;
    let mut answer = room(&app, &caller, &room_id, section, &response.next_batch).await?;
    let members = members(&section.state_after.events);
    let mut presence = found.presence()?;
    presence.retain(|event| sender(event).is_some_and(|sender| members.contains(&sender)));
    answer.events("presence", &presence);
    answer.events("receipts", &receipts_of(&room_id, section)?);
    Ok(answer.finish())
}

/// What both endpoints say about a room that the user is in, or was.
async fn room(
    app: &ClientApi,
    caller: &LocalUser,
    room_id: &RoomId,
    section: &Section,
    end: &str,
) -> Result<Body, ApiError> {
    let mut room = body();
    room.text("room_id", room_id.as_str());
    if let Some(row) = app.rooms().user_room(caller.user_id(), room_id).await? {
        room.text("membership", membership_name(row.details.membership));
    }
    let visibility = if app.rooms().is_published(room_id).await? { "public" } else { "private" };
    room.text("visibility", visibility);
    let mut messages = body();
    messages.text("start", section.timeline.prev_batch.as_deref().unwrap_or(end));
    messages.text("end", end);
    messages.events("chunk", &in_room(room_id, &section.timeline.events)?);
    room.raw("messages", &messages.into_raw()?);
    room.events("state", &in_room(room_id, &section.state_after.events)?);
    room.events("account_data", &section.account_data.events);
    Ok(room)
}

/// The receipts among what is told beside a room's events.
fn receipts_of(room_id: &RoomId, section: &Section) -> Result<Chunk, MatrixError> {
    let mut receipts = in_room(room_id, &section.ephemeral.events)?;
    receipts.retain(|event| part(event).is_some_and(|part| part.kind == "m.receipt"));
    Ok(receipts)
}

/// Who a membership event among these is about.
fn members(state: &[Box<RawValue>]) -> Vec<String> {
    let parts = state.iter().filter_map(|event| part(event));
    parts.filter(|part| part.kind == "m.room.member").filter_map(|part| part.state_key).collect()
}

fn sender(event: &RawValue) -> Option<String> {
    part(event)?.sender
}

/// What has to be known of an event here.
#[derive(Deserialize)]
struct Part {
    #[serde(rename = "type")]
    kind: String,
    state_key: Option<String>,
    sender: Option<String>,
}

fn part(event: &RawValue) -> Option<Part> {
    serde_json::from_str(event.get()).ok()
}
