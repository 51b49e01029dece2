//! `/rooms/{roomId}/state`: the current state, or that at the reader's leave.

use hearth_http::{RawJson, Ruma};
use hearth_rooms::{Draft, schema::TransactionKey};
use ruma::{
    OwnedEventId, RoomId, UserId,
    api::client::state::{get_state_event_for_key, get_state_events, send_state_event},
    events::{TimelineEventType, room::member::MembershipState},
};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::{
    ApiError, ClientApi, LocalUser,
    routes::{
        delayed_events::{Scheduled, delay_of, schedule},
        events::{client_events, list},
        membership::{must_be_joined, must_take_invites},
        message::sent,
    },
};

/// `GET /_matrix/client/*/rooms/{roomId}/state`
pub(crate) async fn all(
    app: ClientApi,
    request: Ruma<get_state_events::v3::Request, LocalUser>,
) -> Result<RawJson, ApiError> {
    let caller = &request.identity;
    let events = app.rooms().readable_state(&request.room_id, caller.user_id()).await?;
    Ok(list(&client_events(&app, caller, &request.room_id, &events).await?))
}

/// `GET /_matrix/client/*/rooms/{roomId}/state/{eventType}/{stateKey}`
pub(crate) async fn one(
    app: ClientApi,
    request: Ruma<get_state_event_for_key::v3::Request, LocalUser>,
) -> Result<RawJson, ApiError> {
    use get_state_event_for_key::v3::StateEventFormat;
    let caller = &request.identity;
    let (room_id, state_key) = (&request.room_id, &request.state_key);
    let event_type = request.event_type.to_string();
    let event =
        app.rooms().readable_state_event(room_id, caller.user_id(), &event_type, state_key).await?;
    if request.format == StateEventFormat::Event {
        let shown = client_events(&app, caller, room_id, &[event]).await?;
        let text = shown.into_iter().next().map(|event| String::from(Box::<str>::from(event)));
        return Ok(RawJson(text.unwrap_or_default().into()));
    }
    Ok(RawJson(event.pdu.content().get().to_owned().into()))
}

/// `PUT /_matrix/client/*/rooms/{roomId}/state/{eventType}/{stateKey}`
pub(crate) async fn send(
    app: ClientApi,
    request: Ruma<send_state_event::v3::Request, LocalUser>,
) -> Result<RawJson, ApiError> {
    let delay_ms = delay_of(&request.uri)?;
    let send_state_event::v3::Request { room_id, event_type, state_key, body, .. } = request.body;
    let event_type = TimelineEventType::from(event_type);
    let content = body.into_json();
    if let Some(delay_ms) = delay_ms {
        let (state_key, transaction_id) = (Some(state_key), None);
        let event = Scheduled { room_id, event_type, state_key, content, delay_ms, transaction_id };
        return schedule(&app, &request.identity, event).await;
    }
    let event_id =
        send_event(&app, &request.identity, &room_id, event_type, state_key, content).await?;
    Ok(sent(&event_id))
}

/// Sets a state of a room.
pub(crate) async fn send_event(
    app: &ClientApi,
    caller: &LocalUser,
    room_id: &RoomId,
    event_type: TimelineEventType,
    state_key: String,
    content: Box<RawValue>,
) -> Result<OwnedEventId, ApiError> {
    let sender = caller.may_write()?.user_id();
    let event_id = set(app, sender, room_id, event_type, state_key, content, None).await?;
    app.users().presence_active(sender);
    app.sync().viewed(sender, room_id);
    Ok(event_id)
}

/// Sets a state of a room in the name of somebody who may have asked for it long ago.
pub(crate) async fn set(
    app: &ClientApi,
    sender: &UserId,
    room_id: &RoomId,
    event_type: TimelineEventType,
    state_key: String,
    content: Box<RawValue>,
    transaction: Option<TransactionKey>,
) -> Result<OwnedEventId, ApiError> {
    let member = UserId::parse(&state_key).ok();
    let member = member.filter(|_| event_type == TimelineEventType::RoomMember);
    // What is no user ID the room refuses.
    if let Some(target) = &member
        && is_invite(&content)
    {
        must_take_invites(app, target).await?;
    }
    let draft = Draft::state(sender.to_owned(), event_type, state_key, content);
    let event_id = app.rooms().send(room_id, draft, transaction).await?;
    if let Some(member) = member
        && must_be_joined(app, room_id, &member).await.is_err()
    {
        app.users().set_typing(room_id, &member, None);
    }
    Ok(event_id)
}

fn is_invite(content: &RawValue) -> bool {
    #[derive(Deserialize)]
    struct Member {
        membership: MembershipState,
    }
    serde_json::from_str::<Member>(content.get())
        .is_ok_and(|member| member.membership == MembershipState::Invite)
}
