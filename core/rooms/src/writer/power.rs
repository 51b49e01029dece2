//! Who may do what: power levels as the authorization rules read them.

use std::collections::HashSet;

use hearth_types::Pdu;
use ruma::{
    Int, OwnedUserId, UserId,
    events::{TimelineEventType, room::power_levels::UserPowerLevel},
    int,
    room_version_rules::AuthorizationRules,
    state_res::events::{RoomCreateEvent, RoomPowerLevelsEvent, RoomPowerLevelsIntField},
};

use crate::error::RoomError;

/// The power levels of a room at one moment.
pub(crate) struct Power<'a> {
    rules: &'a AuthorizationRules,
    creators: HashSet<OwnedUserId>,
    levels: Option<RoomPowerLevelsEvent<&'a Pdu>>,
}

/// A content that should never have been accepted.
fn malformed(error: String) -> RoomError {
    RoomError::internal(error)
}

impl<'a> Power<'a> {
    /// Reads a room's create and power levels events.
    pub(crate) fn new(
        rules: &'a AuthorizationRules,
        create: &Pdu,
        levels: Option<&'a Pdu>,
    ) -> Result<Self, RoomError> {
        let creators = RoomCreateEvent::new(create).creators(rules).map_err(malformed)?;
        Ok(Self { rules, creators, levels: levels.map(RoomPowerLevelsEvent::new) })
    }

    /// A user's level.
    pub(crate) fn user(&self, user_id: &UserId) -> Result<UserPowerLevel, RoomError> {
        if self.rules.explicitly_privilege_room_creators && self.creators.contains(user_id) {
            return Ok(UserPowerLevel::Infinite);
        }
        let level = match &self.levels {
            Some(levels) => levels.user_power_level(user_id, self.rules).map_err(malformed)?,
            // While a room has no power levels its creator has 100.
            None if self.creators.contains(user_id) => int!(100),
            None => int!(0),
        };
        Ok(UserPowerLevel::Int(level))
    }

    /// The level that one of the fixed fields asks for.
    pub(crate) fn field(&self, field: RoomPowerLevelsIntField) -> Result<Int, RoomError> {
        match &self.levels {
            Some(levels) => levels.get_as_int_or_default(field, self.rules).map_err(malformed),
            None => Ok(field.default_value()),
        }
    }

    /// The level that sending a state event asks for.
    pub(crate) fn state_event(&self, event_type: &TimelineEventType) -> Result<Int, RoomError> {
        match &self.levels {
            Some(levels) => {
                levels.event_power_level(event_type, Some(""), self.rules).map_err(malformed)
            }
            None => Ok(RoomPowerLevelsIntField::StateDefault.default_value()),
        }
    }

    /// May the user send this kind of state event?
    pub(crate) fn can_send_state(
        &self,
        user_id: &UserId,
        event_type: &TimelineEventType,
    ) -> Result<bool, RoomError> {
        Ok(self.user(user_id)? >= self.state_event(event_type)?)
    }

    /// May the user do what one of the fixed fields guards?
    pub(crate) fn can(
        &self,
        user_id: &UserId,
        field: RoomPowerLevelsIntField,
    ) -> Result<bool, RoomError> {
        Ok(self.user(user_id)? >= self.field(field)?)
    }

    /// May the user notify the whole room?
    pub(crate) fn can_notify_room(&self, user_id: &UserId) -> Result<bool, RoomError> {
        let notifications = match &self.levels {
            Some(levels) => levels.notifications(self.rules).map_err(malformed)?,
            None => None,
        };
        let needed = notifications.and_then(|levels| levels.get("room").copied());
        Ok(self.user(user_id)? >= needed.unwrap_or(int!(50)))
    }

    /// Users who are named with a level, and the creators.
    pub(crate) fn named_users(&self) -> Result<Vec<OwnedUserId>, RoomError> {
        let mut users: Vec<_> = self.creators.iter().cloned().collect();
        if let Some(levels) = &self.levels
            && let Some(named) = levels.users(self.rules).map_err(malformed)?
        {
            users.extend(named.keys().cloned());
        }
        Ok(users)
    }
}
