//! Account data, global and per room (CS "Client Config").

use hearth_storage::{Keyspace, Positioned, postcard_record};
use hearth_types::StreamPosition;
use ruma::{OwnedRoomId, OwnedUserId, RoomId, UserId};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::{Users, UsersError};

/// Clustering: the room's ID or nothing, then the type.
pub(crate) const ACCOUNT_DATA: Keyspace<OwnedUserId, (String, String), Positioned<ContentRow>> =
    Keyspace::new("account_data");
/// One row per row of [`ACCOUNT_DATA`], by position, so that sync finds what changed.
pub(crate) const ACCOUNT_DATA_CHANGES: Keyspace<OwnedUserId, StreamPosition, ChangeRow> =
    Keyspace::new("account_data_changes");

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ContentRow {
    pub(crate) json: String,
}
postcard_record!(ContentRow, version = 1);

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ChangeRow {
    pub(crate) scope: String,
    pub(crate) event_type: String,
}
postcard_record!(ChangeRow, version = 1);

/// Where account data belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccountDataScope<'a> {
    /// To the user as a whole.
    Global,
    /// To the user in this room.
    Room(&'a RoomId),
}

/// One piece of account data.
#[derive(Clone, Debug)]
pub struct AccountDataEntry {
    /// When it last changed; [`StreamPosition::ZERO`] for defaults that were never written.
    pub position: StreamPosition,
    /// The room; `None`: global.
    pub room_id: Option<OwnedRoomId>,
    /// The type.
    pub event_type: String,
    /// The content, a JSON object.
    pub content: Box<RawValue>,
}

impl Users {
    /// Sets account data for a client. `m.fully_read` and `m.push_rules` are refused with
    /// [`UsersError::ManagedAccountData`]. The content must be a JSON object of at most 64 KiB.
    pub async fn set_account_data(
        &self,
        user_id: &UserId,
        scope: AccountDataScope<'_>,
        event_type: &str,
        content: &RawValue,
    ) -> Result<StreamPosition, UsersError> {
        todo!()
    }

    /// One content. Global `m.push_rules` is there even if it was never changed.
    pub async fn account_data(
        &self,
        user_id: &UserId,
        scope: AccountDataScope<'_>,
        event_type: &str,
    ) -> Result<Option<Box<RawValue>>, UsersError> {
        todo!()
    }

    /// All global account data, the default push rules included.
    pub async fn global_account_data(
        &self,
        user_id: &UserId,
    ) -> Result<Vec<AccountDataEntry>, UsersError> {
        todo!()
    }

    /// All of the user's account data for a room, tags and `m.fully_read` included.
    pub async fn room_account_data(
        &self,
        user_id: &UserId,
        room_id: &RoomId,
    ) -> Result<Vec<AccountDataEntry>, UsersError> {
        todo!()
    }

    /// The account data, global and of any room, that changed after `since` and up to `until`, oldest
    /// first: each piece once, with its newest content. What changed again after `until` is left for
    /// the next question. Costs what changed.
    pub async fn account_data_changes(
        &self,
        user_id: &UserId,
        since: StreamPosition,
        until: StreamPosition,
    ) -> Result<Vec<AccountDataEntry>, UsersError> {
        todo!()
    }

    /// Sets `m.fully_read` of a room (CS "Fully read markers").
    pub async fn set_fully_read(
        &self,
        user_id: &UserId,
        room_id: &RoomId,
        event_id: &ruma::EventId,
    ) -> Result<StreamPosition, UsersError> {
        todo!()
    }
}
