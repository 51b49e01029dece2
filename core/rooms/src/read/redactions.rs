//! Which redactions clients are shown (rooms/v3 "Handling redactions").

use ruma::{
    RoomId, events::TimelineEventType, room_version_rules::RoomVersionRules,
    state_res::events::RoomPowerLevelsIntField,
};

use crate::{
    ReadError, RoomError, Rooms,
    redaction::received_target,
    schema::{Standing, StoredEvent},
    writer::Power,
};

impl Rooms {
    /// Is this a redaction that clients are not to see: one whose target is not in this room, as far as is
    /// known here, or may not be redacted by its sender? It is seen as soon as its target came, which then
    /// comes redacted.
    pub(super) async fn withholds(
        &self,
        room_id: &RoomId,
        event: &StoredEvent,
    ) -> Result<bool, ReadError> {
        let is_redaction = *event.pdu.kind() == TimelineEventType::RoomRedaction
            && event.pdu.state_key().is_none();
        // What is left of a redaction that was redacted may not say any more what it was about.
        if !is_redaction || event.header.redacted_by.is_some() {
            return Ok(false);
        }
        let head = self.head(room_id).await?.ok_or(RoomError::UnknownRoom)?;
        let version = &head.version;
        let rules =
            version.rules().ok_or_else(|| RoomError::UnsupportedVersion(version.to_string()))?;
        let Some(target_id) = received_target(&rules, &event.pdu) else { return Ok(true) };
        match self.event_by_id(room_id, &target_id).await? {
            Some(target) if target.header.redacted_by == Some(event.ordinal) => Ok(false),
            Some(target) if target.header.standing != Standing::Rejected => {
                Ok(!self.could_redact(room_id, &rules, event, &target).await?)
            }
            _ => Ok(true),
        }
    }

    /// Could this redaction have redacted an event, had no other been before it?
    async fn could_redact(
        &self,
        room_id: &RoomId,
        rules: &RoomVersionRules,
        redaction: &StoredEvent,
        target: &StoredEvent,
    ) -> Result<bool, ReadError> {
        if target.ordinal == 0 {
            return Ok(false);
        }
        let sender = redaction.pdu.sender();
        if sender.server_name() == target.pdu.sender().server_name() {
            return Ok(true);
        }
        let before = redaction.header.state_before;
        let Some(create) = self.state_event(room_id, before, "m.room.create", "").await? else {
            return Ok(false);
        };
        let levels = self.state_event(room_id, before, "m.room.power_levels", "").await?;
        let levels = levels.as_ref().map(|event| &event.pdu);
        let power = Power::new(&rules.authorization, &create.pdu, levels)?;
        power.can(sender, RoomPowerLevelsIntField::Redact)
    }
}
