//! Profiles: display name, avatar and any other field (CS "Profiles").

use hearth_storage::{Keyspace, postcard_record};
use ruma::{OwnedUserId, UserId};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{Users, UsersError};

pub(crate) const PROFILES: Keyspace<OwnedUserId, (), ProfileRow> = Keyspace::new("profiles");

/// The whole profile as canonical JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ProfileRow {
    pub(crate) json: String,
}
postcard_record!(ProfileRow, version = 1);

/// A user's profile.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Profile {
    /// All fields by key.
    pub fields: Map<String, Value>,
}

impl Profile {
    /// The display name, if there is one.
    #[must_use]
    pub fn display_name(&self) -> Option<&str> {
        self.fields.get("displayname").and_then(Value::as_str)
    }

    /// The avatar's URL, if there is one.
    #[must_use]
    pub fn avatar_url(&self) -> Option<&str> {
        self.fields.get("avatar_url").and_then(Value::as_str)
    }
}

/// What a change did to a profile, for whoever tells the rooms.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProfileChange {
    /// Is anything different from before? If not, nothing was written.
    pub changed: bool,
    /// Must member events of the user's rooms follow (display name or avatar)?
    pub concerns_members: bool,
    /// The profile as it is now.
    pub profile: Profile,
}

impl Users {
    /// A local user's profile; `None` if there is no such account or it is deactivated.
    pub async fn profile(&self, user_id: &UserId) -> Result<Option<Profile>, UsersError> {
        todo!()
    }

    /// Sets a field. `displayname`, `avatar_url` and `m.tz` must be strings.
    pub async fn set_profile_field(
        &self,
        user_id: &UserId,
        key: &str,
        value: Value,
    ) -> Result<ProfileChange, UsersError> {
        todo!()
    }

    /// Removes a field; removing what is not there is no error.
    pub async fn delete_profile_field(
        &self,
        user_id: &UserId,
        key: &str,
    ) -> Result<ProfileChange, UsersError> {
        todo!()
    }
}
