//! Sending what a local user drafts: messages, state, redactions.

use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, EventId, OwnedEventId, RoomId, UserId,
    events::TimelineEventType,
};

use crate::{
    Draft, Rooms,
    error::RoomError,
    membership::{MemberRequest, action_of_state},
    schema::TransactionKey,
    writer::{Action, NewEvent},
};

impl Rooms {
    /// Sends an event. Answers when it is durable.
    ///
    /// A repeated transaction gets the first one's event. State that is as wanted already, from the
    /// same sender, gets the event that says so. Membership events follow the same rules as the
    /// membership endpoints; redactions are applied at once.
    ///
    /// # Errors
    ///
    /// [`RoomError::NotJoined`] and [`RoomError::Forbidden`] as the authorization rules decide;
    /// [`RoomError::BadJson`], [`RoomError::TooLarge`], [`RoomError::InvalidParam`],
    /// [`RoomError::BadAlias`] and [`RoomError::DuplicateAnnotation`] for contents that cannot stand;
    /// [`RoomError::Busy`] if the room has too much to do.
    pub async fn send(
        &self,
        room_id: &RoomId,
        draft: Draft,
        transaction: Option<TransactionKey>,
    ) -> Result<OwnedEventId, RoomError> {
        let mut content = draft.check()?;
        if let Some(key) = &transaction {
            key.check()?;
        }
        let origin_server_ts = draft.origin_server_ts.unwrap_or_else(|| self.clock().now());
        let mut redacts = None;
        match (&draft.event_type, draft.state_key.as_deref()) {
            (TimelineEventType::RoomCreate, Some(_)) => {
                return Err(RoomError::Forbidden("a room is created only once".to_owned()));
            }
            (TimelineEventType::RoomMember, Some(target)) => {
                let target = UserId::parse(target).map_err(|_| {
                    RoomError::InvalidParam("the state key is not a user ID".to_owned())
                })?;
                let request = MemberRequest {
                    action: action_of_state(&draft.sender, &target, &mut content)?,
                    sender: draft.sender,
                    target,
                    content,
                    origin_server_ts,
                    transaction,
                };
                return self.request_member(room_id, request).await;
            }
            (TimelineEventType::RoomRedaction, None) => {
                redacts = Some(redaction_target(draft.redacts, &content)?);
            }
            (TimelineEventType::RoomCanonicalAlias, Some("")) => {
                self.check_canonical_alias(room_id, &content).await?;
            }
            _ => {}
        }
        let event = NewEvent {
            sender: draft.sender,
            event_type: draft.event_type,
            state_key: draft.state_key,
            content,
            redacts,
            origin_server_ts,
            transaction,
        };
        self.act_event(room_id, Action::Append(event)).await
    }
}

/// The target of a redaction, from the request's path or from its content.
fn redaction_target(
    from_path: Option<OwnedEventId>,
    content: &CanonicalJsonObject,
) -> Result<OwnedEventId, RoomError> {
    if let Some(target) = from_path {
        return Ok(target);
    }
    content
        .get("redacts")
        .and_then(CanonicalJsonValue::as_str)
        .and_then(|target| EventId::parse(target).ok())
        .ok_or_else(|| RoomError::InvalidParam("a redaction must name its target".to_owned()))
}
