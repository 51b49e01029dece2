//! Account data, global and per room (CS "Client Config").

use std::{
    collections::{BTreeSet, HashMap},
    ops::Bound,
};

use hearth_storage::{Commit, Direction, Keyspace, Positioned, Topic, postcard_record};
use hearth_types::{StreamPosition, limits::MAX_ID_BYTES};
use ruma::{EventId, OwnedRoomId, OwnedUserId, RoomId, UserId};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json, value::RawValue};

use crate::{LogKind, Users, UsersError, log::user_entry};

/// One content.
pub(crate) const MAX_CONTENT_BYTES: usize = 64 * 1024;
/// Rows read or deleted at once.
const BATCH: usize = 100;
/// Rows of several rooms that are read at once, at first.
const FIRST_BATCH: usize = 8;
/// The same where most of them are of rooms in between.
const MIN_BATCH: usize = 4;

pub(crate) const FULLY_READ: &str = "m.fully_read";
pub(crate) const PUSH_RULES: &str = "m.push_rules";
pub(crate) const DIRECT: &str = "m.direct";
pub(crate) const IGNORED_USERS: &str = "m.ignored_user_list";

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

impl AccountDataScope<'_> {
    fn as_str(&self) -> &str {
        match self {
            Self::Global => "",
            Self::Room(room_id) => room_id.as_str(),
        }
    }
}

impl AccountDataEntry {
    fn from_row(
        (scope, event_type): (String, String),
        row: Positioned<ContentRow>,
    ) -> Result<Self, UsersError> {
        let damaged = |error: &dyn std::fmt::Display| {
            UsersError::Internal(format!("stored account data {event_type}: {error}"))
        };
        let room_id = match &*scope {
            "" => None,
            room_id => Some(RoomId::parse(room_id).map_err(|error| damaged(&error))?),
        };
        let content = RawValue::from_string(row.record.json).map_err(|error| damaged(&error))?;
        Ok(Self { position: row.position, room_id, event_type, content })
    }
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
        if matches!(event_type, FULLY_READ | PUSH_RULES) {
            return Err(UsersError::ManagedAccountData);
        }
        if event_type.is_empty() || event_type.len() > MAX_ID_BYTES || event_type.contains('\0') {
            return Err(UsersError::InvalidName("account data types have 1 to 255 bytes"));
        }
        let json = content.get().trim().to_owned();
        if !json.starts_with('{') {
            return Err(UsersError::InvalidContent("account data must be an object".to_owned()));
        }
        self.write_account_data(user_id, scope, event_type, json).await
    }

    pub(crate) async fn write_account_data(
        &self,
        user_id: &UserId,
        scope: AccountDataScope<'_>,
        event_type: &str,
        json: String,
    ) -> Result<StreamPosition, UsersError> {
        let key = (scope.as_str().to_owned(), event_type.to_owned());
        self.exclusive(user_id, move |users, user_id| async move {
            users.write_account_data_now(&user_id, key, json).await
        })
        .await
    }

    /// Under the user's lock.
    pub(crate) async fn write_account_data_now(
        &self,
        user_id: &OwnedUserId,
        key: (String, String),
        json: String,
    ) -> Result<StreamPosition, UsersError> {
        if json.len() > MAX_CONTENT_BYTES {
            return Err(UsersError::TooLarge { max_bytes: MAX_CONTENT_BYTES });
        }
        let old = self.store().get(&ACCOUNT_DATA, user_id, &key).await?;
        let mut commit = Commit::new(user_id);
        let position = commit.next_position();
        if let Some(old) = old {
            commit.delete(&ACCOUNT_DATA_CHANGES, user_id, &old.position);
        }
        let row = Positioned { position, record: ContentRow { json } };
        commit.put(&ACCOUNT_DATA, user_id, &key, &row);
        let payload = format!("{}\0{}", key.0, key.1);
        commit.log(position, user_entry(LogKind::AccountData, user_id, payload.as_bytes()));
        let (scope, event_type) = key;
        let change = ChangeRow { scope, event_type };
        commit.put(&ACCOUNT_DATA_CHANGES, user_id, &position, &change);
        commit.touch(Topic::new(user_id.as_str()));
        let committed = self.store().commit(commit).await?;
        if change.scope.is_empty() {
            self.forget_parsed(user_id, &change.event_type);
        }
        Ok(committed.first)
    }

    /// What memory holds of this type is no longer so.
    fn forget_parsed(&self, user_id: &UserId, event_type: &str) {
        match event_type {
            IGNORED_USERS => self.inner.ignored.remove(user_id),
            PUSH_RULES => self.inner.push_rules.remove(user_id),
            _ => {}
        }
    }

    /// One content. Global `m.push_rules` is there even if it was never changed.
    pub async fn account_data(
        &self,
        user_id: &UserId,
        scope: AccountDataScope<'_>,
        event_type: &str,
    ) -> Result<Option<Box<RawValue>>, UsersError> {
        if scope == AccountDataScope::Global && event_type == PUSH_RULES {
            return self.push_rules_content(user_id).await.map(Some);
        }
        let key = (scope.as_str().to_owned(), event_type.to_owned());
        let row = self.store().get(&ACCOUNT_DATA, &user_id.to_owned(), &key).await?;
        Ok(row
            .map(|row| AccountDataEntry::from_row(key, row))
            .transpose()?
            .map(|entry| entry.content))
    }

    /// A content as a JSON object; empty if it was never set.
    pub(crate) async fn account_data_object(
        &self,
        user_id: &UserId,
        scope: AccountDataScope<'_>,
        event_type: &str,
    ) -> Result<Map<String, Value>, UsersError> {
        let key = (scope.as_str().to_owned(), event_type.to_owned());
        let row = self.store().get(&ACCOUNT_DATA, &user_id.to_owned(), &key).await?;
        Ok(row.and_then(|row| serde_json::from_str(&row.record.json).ok()).unwrap_or_default())
    }

    /// All global account data, the default push rules included.
    pub async fn global_account_data(
        &self,
        user_id: &UserId,
    ) -> Result<Vec<AccountDataEntry>, UsersError> {
        let mut entries = self.account_data_of(user_id, "").await?;
        let content = self.push_rules_content(user_id).await?;
        match entries.iter_mut().find(|entry| entry.event_type == PUSH_RULES) {
            Some(entry) => entry.content = content,
            None => entries.push(AccountDataEntry {
                position: StreamPosition::ZERO,
                room_id: None,
                event_type: PUSH_RULES.to_owned(),
                content,
            }),
        }
        Ok(entries)
    }

    /// All of the user's account data for a room, tags and `m.fully_read` included.
    pub async fn room_account_data(
        &self,
        user_id: &UserId,
        room_id: &RoomId,
    ) -> Result<Vec<AccountDataEntry>, UsersError> {
        self.account_data_of(user_id, room_id.as_str()).await
    }

    /// The same for several rooms: for those of them that have any. Where the user has account data for
    /// few other rooms, the rows of many rooms come with one read.
    pub async fn account_data_of_rooms(
        &self,
        user_id: &UserId,
        rooms: &BTreeSet<&RoomId>,
    ) -> Result<HashMap<OwnedRoomId, Vec<AccountDataEntry>>, UsersError> {
        let mut found: HashMap<OwnedRoomId, Vec<AccountDataEntry>> = HashMap::new();
        let (Some(first), Some(last)) = (rooms.first(), rooms.last()) else { return Ok(found) };
        let owner = user_id.to_owned();
        let end = Bound::Excluded((format!("{last}\0"), String::new()));
        let mut start = Bound::Included((first.as_str().to_owned(), String::new()));
        let mut limit = FIRST_BATCH;
        loop {
            let range = (start, end.clone());
            let rows =
                self.store().page(&ACCOUNT_DATA, &owner, range, Direction::Forward, limit).await?;
            let last_read = rows.last().filter(|_| rows.len() >= limit).map(|(key, _)| key.clone());
            let mut of_others = 0;
            for (key, row) in rows {
                let entry = AccountDataEntry::from_row(key, row)?;
                match entry.room_id.clone().filter(|room_id| rooms.contains(&**room_id)) {
                    Some(room_id) => found.entry(room_id).or_default().push(entry),
                    None => of_others += 1,
                }
            }
            let rest = last_read.and_then(|last_read| place_after(last_read, rooms));
            let Some(rest) = rest else { return Ok(found) };
            start = rest;
            // Not much is read in vain, however many other rooms there are in between.
            limit = if of_others * 2 > limit { limit / 2 } else { limit * 2 };
            limit = limit.clamp(MIN_BATCH, BATCH);
        }
    }

    async fn account_data_of(
        &self,
        user_id: &UserId,
        scope: &str,
    ) -> Result<Vec<AccountDataEntry>, UsersError> {
        // The next possible scope ends the range: no room ID holds a zero byte.
        let range = (
            Bound::Included((scope.to_owned(), String::new())),
            Bound::Excluded((format!("{scope}\0"), String::new())),
        );
        let rows = self.store().page_all(&ACCOUNT_DATA, &user_id.to_owned(), range).await?;
        rows.into_iter().map(|(key, row)| AccountDataEntry::from_row(key, row)).collect()
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
        if since >= until {
            return Ok(Vec::new());
        }
        let owner = user_id.to_owned();
        let range = (Bound::Excluded(since), Bound::Included(until));
        let changes = self.store().page_all(&ACCOUNT_DATA_CHANGES, &owner, range).await?;
        let mut entries = Vec::with_capacity(changes.len());
        let keys: Vec<_> =
            changes.into_iter().map(|(_, change)| (change.scope, change.event_type)).collect();
        for chunk in keys.chunks(BATCH) {
            let rows = self.store().get_many(&ACCOUNT_DATA, &owner, chunk).await?;
            for (key, row) in chunk.iter().zip(rows) {
                if let Some(row) = row.filter(|row| row.position <= until) {
                    entries.push(AccountDataEntry::from_row(key.clone(), row)?);
                }
            }
        }
        Ok(entries)
    }

    /// Sets `m.fully_read` of a room (CS "Fully read markers").
    pub async fn set_fully_read(
        &self,
        user_id: &UserId,
        room_id: &RoomId,
        event_id: &EventId,
    ) -> Result<StreamPosition, UsersError> {
        let json = json!({ "event_id": event_id }).to_string();
        self.write_account_data(user_id, AccountDataScope::Room(room_id), FULLY_READ, json).await
    }

    /// Under the user's lock: all account data of a deactivated user.
    pub(crate) async fn delete_account_data_now(
        &self,
        user_id: &OwnedUserId,
    ) -> Result<(), UsersError> {
        let all = (Bound::Unbounded, Bound::Unbounded);
        let rows = self.store().page_all(&ACCOUNT_DATA, user_id, all).await?;
        for chunk in rows.chunks(BATCH) {
            let mut commit = Commit::new(user_id);
            for (key, row) in chunk {
                commit.delete(&ACCOUNT_DATA, user_id, key);
                commit.delete(&ACCOUNT_DATA_CHANGES, user_id, &row.position);
            }
            self.store().commit(commit).await?;
        }
        self.inner.ignored.remove(user_id);
        self.inner.push_rules.remove(user_id);
        Ok(())
    }
}

/// Where to go on reading the rows of these rooms after this one.
fn place_after(
    last_read: (String, String),
    rooms: &BTreeSet<&RoomId>,
) -> Option<Bound<(String, String)>> {
    let room_id = <&RoomId>::try_from(&*last_read.0).ok()?;
    let next = rooms.range(room_id..).next()?;
    Some(if *next == room_id {
        Bound::Excluded(last_read)
    } else {
        Bound::Included((next.as_str().to_owned(), String::new()))
    })
}

#[cfg(test)]
mod tests;
