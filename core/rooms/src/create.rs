//! Making rooms (CS "Creation").

use ruma::{CanonicalJsonObject, OwnedRoomId, OwnedUserId, RoomVersionId, UserId};
use serde_json::value::RawValue;

use crate::{MemberProfile, Rooms, error::RoomError};

/// A set of initial state that clients choose by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Preset {
    /// By invitation; history is shared with new members.
    PrivateChat,
    /// The same, and everybody who is invited has the creator's power.
    TrustedPrivateChat,
    /// Anyone may join.
    PublicChat,
}

/// Somebody to be invited, with the profile that the invitation shows.
#[derive(Clone, Debug)]
pub struct Invitee {
    /// A local user.
    pub user_id: OwnedUserId,
    /// Their profile.
    pub profile: MemberProfile,
}

/// A state event of a new room.
#[derive(Clone, Debug)]
pub struct InitialState {
    /// The type.
    pub event_type: String,
    /// The state key.
    pub state_key: String,
    /// The content.
    pub content: Box<RawValue>,
}

/// What a new room shall be like: the body of `POST /createRoom`.
#[derive(Clone, Debug, Default)]
pub struct CreateRoomOptions {
    /// Publish it in the directory?
    pub public: bool,
    /// `None`: the public or the private chat, as `public` says.
    pub preset: Option<Preset>,
    /// The local part of an alias, which becomes the canonical one.
    pub alias_localpart: Option<String>,
    /// The room's name.
    pub name: Option<String>,
    /// The room's topic.
    pub topic: Option<String>,
    /// Who is invited.
    pub invite: Vec<Invitee>,
    /// Are the invitations to a direct chat?
    pub is_direct: bool,
    /// State that goes over the preset's.
    pub initial_state: Vec<InitialState>,
    /// Further fields of the create event.
    pub creation_content: CanonicalJsonObject,
    /// Fields that replace those of the default power levels.
    pub power_level_content_override: CanonicalJsonObject,
    /// The version; the configured default if `None`.
    pub room_version: Option<RoomVersionId>,
    /// What the creator's membership shows.
    pub creator_profile: MemberProfile,
}

impl Rooms {
    /// Makes a room: its initial state is one commit, so that after a crash the room is there as a
    /// whole or not at all. Of very many invitations the later ones follow in further commits.
    ///
    /// # Errors
    ///
    /// [`RoomError::UnsupportedVersion`]; [`RoomError::AliasInUse`]; [`RoomError::InvalidRoomState`]
    /// if the initial state contradicts itself; [`RoomError::InvalidParam`] and
    /// [`RoomError::BadJson`] for contents that cannot stand.
    pub async fn create_room(
        &self,
        creator: &UserId,
        options: CreateRoomOptions,
    ) -> Result<OwnedRoomId, RoomError> {
        let _ = (creator, options);
        todo!("the next step of this branch")
    }
}

/// Reads the JSON object of a request, such as `creation_content`.
pub fn json_object(json: &RawValue) -> Result<CanonicalJsonObject, RoomError> {
    crate::writer::parse_object(json)
}
