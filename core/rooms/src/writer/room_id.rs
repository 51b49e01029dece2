//! IDs of rooms whose version lets the server choose them (before 12).

use hearth_types::ServerIdentity;
use ruma::{
    MilliSecondsSinceUnixEpoch, OwnedRoomId, RoomId,
    serde::{Base64, base64::UrlSafe},
    signatures::KeyPair as _,
};

use crate::error::RoomError;

/// Characters of the local part: 108 bits of a signature.
const LENGTH: usize = 18;

/// The ID of a new room, where the server chooses it: from the server's signature over the time of
/// creation, of which no two rooms have the same (`Rooms::creation_time`). Nobody else can guess it,
/// and simulated servers choose the same in every run.
pub(super) fn chosen_room_id(
    identity: &ServerIdentity,
    at: MilliSecondsSinceUnixEpoch,
) -> Result<OwnedRoomId, RoomError> {
    let signature = identity.key_pair().sign(format!("room created at {}", at.get()).as_bytes());
    let letters = Base64::<UrlSafe>::new(signature.as_bytes().to_vec()).encode();
    let letters: String = letters.chars().take(LENGTH).collect();
    RoomId::parse(format!("!{letters}:{}", identity.server_name()))
        .map_err(|error| RoomError::internal(error.to_string()))
}
