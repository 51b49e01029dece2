//! The configuration section `[rooms]`.

use ruma::RoomVersionId;
use serde::{Deserialize, Serialize};

/// How rooms are made and kept.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RoomsConfig {
    /// The version of rooms whose creator does not name one: 6 to 12.
    pub default_version: RoomVersionId,
    /// Memory for recently used events and state nodes, in MiB, shared by all rooms.
    pub cache_mib: usize,
    /// Rooms whose writer may be in memory at a time; idle ones leave after five minutes.
    pub max_active_rooms: usize,
    /// May any user publish a room that they administer in the directory?
    pub allow_publishing: bool,
}

impl Default for RoomsConfig {
    fn default() -> Self {
        Self {
            default_version: RoomVersionId::V12,
            cache_mib: 64,
            max_active_rooms: 10_000,
            allow_publishing: true,
        }
    }
}

impl RoomsConfig {
    /// Checks what the types cannot: names the key that is wrong.
    pub fn validate(&self) -> Result<(), String> {
        if !SUPPORTED_VERSIONS.contains(&self.default_version) {
            return Err("default_version: this server makes rooms of versions 6 to 12".to_owned());
        }
        if self.max_active_rooms == 0 {
            return Err("max_active_rooms: must be at least 1".to_owned());
        }
        Ok(())
    }
}

/// Room versions that this server takes part in.
pub const SUPPORTED_VERSIONS: &[RoomVersionId] = &[
    RoomVersionId::V6,
    RoomVersionId::V7,
    RoomVersionId::V8,
    RoomVersionId::V9,
    RoomVersionId::V10,
    RoomVersionId::V11,
    RoomVersionId::V12,
];
