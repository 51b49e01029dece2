//! Keys in a backup.

use std::collections::BTreeMap;

use hearth_storage::{Commit, Direction, Snapshot, StoreError};
use ruma::{OwnedRoomId, OwnedUserId, RoomId, UserId};

use super::{BackedUpKey, BackupKeys, BackupPage, BackupState, number_of, stored_json};
use crate::{
    E2ee, E2eeError,
    schema::{BACKUP_KEYS, BACKUP_VERSIONS, BackupKeyRow, BackupVersionRow},
};

/// Keys that one commit writes: more than clients send at once (a hundred or two), so that a request is
/// there as a whole or not at all, and no more than a commit has room for.
const KEYS_PER_COMMIT: usize = 900;
/// Bytes that one commit writes, give or take one key; below what the store takes.
const BYTES_PER_COMMIT: usize = 3 << 20;
/// Keys that are looked up at a time.
const LOOKED_UP_AT_ONCE: usize = 100;
/// Keys that are deleted at a time, in one commit. In between others get their turn.
const DELETED_AT_ONCE: usize = 450;
/// Keys of one version: as many as a very busy user has in years.
pub(super) const MAX_KEYS: u64 = 200_000;
/// Bytes of the data of all keys of one version: twice what so many keys of clients have.
pub(super) const MAX_BYTES: u64 = 256 << 20;
/// The longest session ID in bytes: with a user and a room ID it fits a key of the store.
const MAX_SESSION_ID_BYTES: usize = 255;
/// The largest data of one key in bytes. Clients' have about 700; older ones may be larger here.
const MAX_SESSION_DATA_BYTES: usize = 8 << 10;
/// Keys of one page: few, so that clients that read slowly take little memory.
const PAGE: usize = 32;

/// Where a key stands.
type Place = (u64, OwnedRoomId, String);

/// Which keys of a version.
#[derive(Clone, Debug)]
pub(super) enum Selection {
    All,
    Room(OwnedRoomId),
    Session(OwnedRoomId, String),
}

impl Selection {
    fn new(room_id: Option<&RoomId>, session_id: Option<&str>) -> Self {
        match (room_id, session_id) {
            (None, _) => Self::All,
            (Some(room_id), None) => Self::Room(room_id.to_owned()),
            (Some(room_id), Some(session_id)) => {
                Self::Session(room_id.to_owned(), session_id.to_owned())
            }
        }
    }

    /// The first keys of a version, from behind `after`. If they are fewer than `limit`, they are all.
    fn page(
        &self,
        snapshot: &Snapshot,
        owner: &OwnedUserId,
        number: u64,
        after: Option<&Place>,
        limit: usize,
    ) -> Result<Vec<(Place, BackupKeyRow)>, StoreError> {
        use std::ops::Bound::{Excluded, Included, Unbounded};
        if let Self::Session(room_id, session_id) = self {
            let place = (number, room_id.clone(), session_id.clone());
            let row = snapshot.get(&BACKUP_KEYS, owner, &place)?.filter(|_| after.is_none());
            return Ok(row.map(|row| (place, row)).into_iter().collect());
        }
        let mut rows = match (after, self) {
            (Some(after), _) => {
                let range = (Excluded(after.clone()), Unbounded);
                snapshot.page(&BACKUP_KEYS, owner, range, Direction::Forward, limit)?
            }
            (None, Self::Room(room_id)) => {
                let first = (number, room_id.clone(), String::new());
                let range = (Included(first), Unbounded);
                snapshot.page(&BACKUP_KEYS, owner, range, Direction::Forward, limit)?
            }
            (None, _) => {
                snapshot.page_prefix(&BACKUP_KEYS, owner, &number, Direction::Forward, limit)?
            }
        };
        rows.retain(|((version, room_id, _), _)| {
            *version == number && !matches!(self, Self::Room(wanted) if wanted != room_id)
        });
        Ok(rows)
    }
}

/// A key that is new, or better than the one that is there.
struct Change {
    place: Place,
    row: BackupKeyRow,
    /// The bytes of the one that is there.
    replaced: Option<u64>,
}

impl E2ee {
    /// Adds keys to the current version; of two for a session the better one stays. A request that is
    /// too large for one commit, as those of clients are not, is written in several, each of which is
    /// whole in itself.
    ///
    /// # Errors
    ///
    /// [`E2eeError::NotFound`], [`E2eeError::WrongBackupVersion`] for a version that is not current,
    /// [`E2eeError::InvalidParam`], [`E2eeError::TooLarge`].
    pub async fn add_backup_keys(
        &self,
        user_id: &UserId,
        version: &str,
        keys: BackupKeys,
    ) -> Result<BackupState, E2eeError> {
        let rows = checked_rows(keys)?;
        let number = number_of(version);
        let (e2ee, owner) = (self.clone(), user_id.to_owned());
        let work = move || async move {
            let current = e2ee.current_version(&owner).await?;
            let (current, mut version) = current.ok_or_else(super::no_such_backup)?;
            // A version that never was is told apart from one that is no longer current only by those
            // who know them all: for a client both mean to look which one is.
            if number.ok() != Some(current) {
                return Err(E2eeError::WrongBackupVersion { current: current.to_string() });
            }
            let changes = e2ee.better_keys(&owner, current, rows).await?;
            // Nothing is written unless everything has a place.
            let after = with_changes(&version, &changes);
            if after.count > MAX_KEYS || after.bytes > MAX_BYTES {
                let text = format!("A backup has at most {MAX_KEYS} keys and {MAX_BYTES} bytes");
                return Err(E2eeError::TooLarge(text));
            }
            for chunk in chunks(changes) {
                version = with_changes(&version, &chunk);
                let mut commit = Commit::new(&owner);
                for Change { place, row, .. } in &chunk {
                    commit.put(&BACKUP_KEYS, &owner, place, row);
                }
                commit.put(&BACKUP_VERSIONS, &owner, &current, &version);
                e2ee.store().commit(commit).await?;
            }
            Ok(BackupState::of(&version))
        };
        self.users().in_turn(user_id, work).await
    }

    /// In the user's turn: those that are new or better than what is there, which is looked up some at a
    /// time, because it may be much larger.
    async fn better_keys(
        &self,
        owner: &OwnedUserId,
        number: u64,
        rows: Checked,
    ) -> Result<Vec<Change>, E2eeError> {
        let (mut changes, mut rows) = (Vec::new(), rows.into_iter().peekable());
        while rows.peek().is_some() {
            let some: Vec<_> = rows.by_ref().take(LOOKED_UP_AT_ONCE).collect();
            let place = |(room_id, session_id): &(OwnedRoomId, String)| {
                (number, room_id.clone(), session_id.clone())
            };
            let places: Vec<Place> = some.iter().map(|(key, _)| place(key)).collect();
            let known = self.store().get_many(&BACKUP_KEYS, owner, &places).await?;
            for ((place, known), (_, row)) in places.into_iter().zip(known).zip(some) {
                if known.as_ref().is_none_or(|known| is_better(&row, known)) {
                    let replaced = known.map(|known| bytes_of(&known));
                    changes.push(Change { place, row, replaced });
                }
            }
        }
        Ok(changes)
    }

    /// Some keys of a version, or of a room in it, from behind `after`: in order of rooms and sessions,
    /// as they are when they are read.
    ///
    /// # Errors
    ///
    /// [`E2eeError::NotFound`] if there is no such version.
    pub async fn backup_page(
        &self,
        user_id: &UserId,
        version: &str,
        room_id: Option<&RoomId>,
        after: Option<(OwnedRoomId, String)>,
    ) -> Result<BackupPage, E2eeError> {
        let (owner, number) = (user_id.to_owned(), number_of(version)?);
        self.version_row(&owner, number).await?;
        let after = after.map(|(room_id, session_id)| (number, room_id, session_id));
        let selection = Selection::new(room_id, None);
        let snapshot = self.store().snapshot();
        let rows = selection.page(&snapshot, &owner, number, after.as_ref(), PAGE)?;
        let is_last = rows.len() < PAGE;
        let key = |((_, room_id, session_id), row)| Ok((room_id, session_id, shown(row)?));
        let keys: Result<_, E2eeError> = rows.into_iter().map(key).collect();
        Ok(BackupPage { keys: keys?, is_last })
    }

    /// The key of one session.
    ///
    /// # Errors
    ///
    /// [`E2eeError::NotFound`] if there is no such version, or no key.
    pub async fn backup_key(
        &self,
        user_id: &UserId,
        version: &str,
        room_id: &RoomId,
        session_id: &str,
    ) -> Result<BackedUpKey, E2eeError> {
        let (owner, number) = (user_id.to_owned(), number_of(version)?);
        self.version_row(&owner, number).await?;
        let place = (number, room_id.to_owned(), session_id.to_owned());
        let row = self.store().get(&BACKUP_KEYS, &owner, &place).await?;
        let none = || E2eeError::NotFound("No key of this session is backed up".to_owned());
        shown(row.ok_or_else(none)?)
    }

    /// Deletes keys of a version: all, of a room, or of a session. Others of this user's requests may
    /// come in between; those keys that were there at the beginning are gone in the end.
    ///
    /// # Errors
    ///
    /// [`E2eeError::NotFound`] if there is no such version.
    pub async fn delete_backup_keys(
        &self,
        user_id: &UserId,
        version: &str,
        room_id: Option<&RoomId>,
        session_id: Option<&str>,
    ) -> Result<BackupState, E2eeError> {
        let number = number_of(version)?;
        let selection = Selection::new(room_id, session_id);
        let mut after = None;
        loop {
            let (e2ee, owner, selection) = (self.clone(), user_id.to_owned(), selection.clone());
            let work = move || async move {
                let row = e2ee.version_row(&owner, number).await?;
                e2ee.delete_some(&owner, number, row, selection, after).await
            };
            let (row, last) = self.users().in_turn(user_id, work).await?;
            if last.is_none() {
                return Ok(BackupState::of(&row));
            }
            after = last;
        }
    }

    /// In the user's turn: deletes the first of the selected keys from behind `after`. Returns the
    /// version's row, and the last key if there may be more. When there are none, all are gone durably.
    pub(super) async fn delete_some(
        &self,
        owner: &OwnedUserId,
        number: u64,
        mut version: BackupVersionRow,
        selection: Selection,
        after: Option<Place>,
    ) -> Result<(BackupVersionRow, Option<Place>), E2eeError> {
        let is_first = after.is_none();
        let reader = owner.clone();
        let read = self.store().bulk(move |snapshot| {
            let limit = DELETED_AT_ONCE;
            let rows = selection.page(snapshot, &reader, number, after.as_ref(), limit)?;
            Ok(rows.into_iter().map(|(place, row)| (place, bytes_of(&row))).collect::<Vec<_>>())
        });
        let found = read.await?;
        if found.is_empty() && is_first {
            return Ok((version, None));
        }
        let is_last = found.len() < DELETED_AT_ONCE;
        let commit = Commit::new(owner);
        let mut commit = if is_last { commit } else { commit.lazy() };
        for (place, bytes) in &found {
            commit.delete(&BACKUP_KEYS, owner, place);
            version.count = version.count.saturating_sub(1);
            version.bytes = version.bytes.saturating_sub(*bytes);
        }
        version.etag += u64::from(!found.is_empty());
        commit.put(&BACKUP_VERSIONS, owner, &number, &version);
        self.store().commit(commit).await?;
        let last = found.into_iter().next_back().map(|(place, _)| place);
        Ok((version, last.filter(|_| !is_last)))
    }
}

fn shown(row: BackupKeyRow) -> Result<BackedUpKey, E2eeError> {
    Ok(BackedUpKey {
        first_message_index: row.first_message_index,
        forwarded_count: row.forwarded_count,
        is_verified: row.is_verified,
        session_data: stored_json(row.session_data)?,
    })
}

/// The bytes of a key that count.
fn bytes_of(row: &BackupKeyRow) -> u64 {
    u64::try_from(row.session_data.len()).unwrap_or(u64::MAX)
}

/// A version's row when these changes are made by one commit.
fn with_changes(version: &BackupVersionRow, changes: &[Change]) -> BackupVersionRow {
    let mut after = version.clone();
    after.etag += u64::from(!changes.is_empty());
    for Change { row, replaced, .. } in changes {
        after.count += u64::from(replaced.is_none());
        after.bytes = after.bytes.saturating_sub(replaced.unwrap_or_default()) + bytes_of(row);
    }
    after
}

/// Which of two keys of a session stays (CS "Recovering keys", on conflicts): one that is verified, then
/// the one that decrypts more, then the one that was forwarded less, then the one that was there first.
fn is_better(new: &BackupKeyRow, old: &BackupKeyRow) -> bool {
    if new.is_verified != old.is_verified {
        return new.is_verified;
    }
    let order = |row: &BackupKeyRow| (row.first_message_index, row.forwarded_count);
    order(new) < order(old)
}

type Checked = BTreeMap<(OwnedRoomId, String), BackupKeyRow>;

fn checked_rows(keys: BackupKeys) -> Result<Checked, E2eeError> {
    let mut rows = BTreeMap::new();
    for (room_id, sessions) in keys {
        for (session_id, key) in sessions {
            if session_id.is_empty() || session_id.len() > MAX_SESSION_ID_BYTES {
                let text = "A session ID has 1 to 255 bytes".to_owned();
                return Err(E2eeError::InvalidParam(text));
            }
            let session_data = key.session_data.get().to_owned();
            if session_data.len() > MAX_SESSION_DATA_BYTES {
                let text = format!("The key of {session_id} is too large to be backed up");
                return Err(E2eeError::TooLarge(text));
            }
            let row = BackupKeyRow {
                first_message_index: key.first_message_index,
                forwarded_count: key.forwarded_count,
                is_verified: key.is_verified,
                session_data,
            };
            rows.insert((room_id.clone(), session_id), row);
        }
    }
    Ok(rows)
}

/// Parts that fit a commit.
fn chunks(changes: Vec<Change>) -> Vec<Vec<Change>> {
    let (mut chunks, mut bytes) = (Vec::new(), 0);
    for change in changes {
        let full = chunks.last().is_none_or(|chunk: &Vec<_>| {
            chunk.len() >= KEYS_PER_COMMIT || bytes >= BYTES_PER_COMMIT
        });
        if full {
            chunks.push(Vec::new());
            bytes = 0;
        }
        bytes += change.row.session_data.len();
        if let Some(chunk) = chunks.last_mut() {
            chunk.push(change);
        }
    }
    chunks
}
