//! Keys in a backup.

use std::collections::BTreeMap;

use hearth_storage::{Commit, Direction, Snapshot, StoreError};
use ruma::{OwnedRoomId, OwnedUserId, RoomId, UserId};

use super::{BackedUpKey, BackupKeys, BackupState, number_of, stored_json};
use crate::{
    E2ee, E2eeError,
    schema::{BACKUP_KEYS, BACKUP_VERSIONS, BackupKeyRow, BackupVersionRow},
};

/// Keys that one commit writes or deletes: more than clients send at once (a hundred or two), so that a
/// request is there as a whole or not at all, and no more than a commit has room for.
const KEYS_PER_COMMIT: usize = 900;
/// Bytes that one commit writes, give or take one key; below what the store takes.
const BYTES_PER_COMMIT: usize = 3 << 20;
/// Keys that are looked up without a job of their own.
const LOOKED_UP_INLINE: usize = 100;
/// Keys of one version: as many as a very busy user has in years.
const MAX_KEYS: u64 = 200_000;
/// The longest session ID in bytes: with a user and a room ID it fits a key of the store.
const MAX_SESSION_ID_BYTES: usize = 255;
/// The largest data of one key in bytes.
const MAX_SESSION_DATA_BYTES: usize = 64 * 1024;
/// Keys read at a time.
const PAGE: usize = 1_000;

/// Where a key stands.
type Place = (u64, OwnedRoomId, String);

/// Which keys of a version.
#[derive(Clone, Debug)]
enum Selection {
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

    /// The first keys of a version, from behind `after`.
    fn page(
        &self,
        snapshot: &Snapshot,
        owner: &OwnedUserId,
        number: u64,
        after: Option<&Place>,
    ) -> Result<Vec<(Place, BackupKeyRow)>, StoreError> {
        use std::ops::Bound::{Excluded, Included, Unbounded};
        if let Self::Session(room_id, session_id) = self {
            let place = (number, room_id.clone(), session_id.clone());
            let row = snapshot.get(&BACKUP_KEYS, owner, &place)?.filter(|_| after.is_none());
            return Ok(row.map(|row| (place, row)).into_iter().collect());
        }
        let mut rows = match after {
            Some(after) => {
                let range = (Excluded(after.clone()), Unbounded);
                snapshot.page(&BACKUP_KEYS, owner, range, Direction::Forward, PAGE)?
            }
            None => match self {
                Self::Room(room_id) => {
                    let first = (number, room_id.clone(), String::new());
                    let range = (Included(first), Unbounded);
                    snapshot.page(&BACKUP_KEYS, owner, range, Direction::Forward, PAGE)?
                }
                _ => {
                    snapshot.page_prefix(&BACKUP_KEYS, owner, &number, Direction::Forward, PAGE)?
                }
            },
        };
        rows.retain(|((version, room_id, _), _)| {
            *version == number && !matches!(self, Self::Room(wanted) if wanted != room_id)
        });
        Ok(rows)
    }
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
            for chunk in chunks(rows) {
                e2ee.add_chunk(&owner, current, &mut version, chunk).await?;
            }
            Ok(BackupState::of(&version))
        };
        self.users().in_turn(user_id, work).await
    }

    /// In the user's turn: one commit.
    async fn add_chunk(
        &self,
        owner: &OwnedUserId,
        number: u64,
        version: &mut BackupVersionRow,
        chunk: Vec<((OwnedRoomId, String), BackupKeyRow)>,
    ) -> Result<(), E2eeError> {
        let places: Vec<Place> = chunk
            .iter()
            .map(|((room_id, session_id), _)| (number, room_id.clone(), session_id.clone()))
            .collect();
        let known = self.known_keys(owner, &places).await?;
        let mut commit = Commit::new(owner);
        let mut added = 0;
        for ((place, known), (_, row)) in places.iter().zip(known).zip(chunk) {
            match known {
                Some(known) if !is_better(&row, &known) => continue,
                Some(_) => {}
                None => added += 1,
            }
            commit.put(&BACKUP_KEYS, owner, place, &row);
        }
        if commit.is_empty() {
            return Ok(());
        }
        let mut changed = version.clone();
        changed.count += added;
        changed.etag += 1;
        if changed.count > MAX_KEYS {
            return Err(E2eeError::TooLarge(format!("A backup has at most {MAX_KEYS} keys")));
        }
        commit.put(&BACKUP_VERSIONS, owner, &number, &changed);
        self.store().commit(commit).await?;
        *version = changed;
        Ok(())
    }

    async fn known_keys(
        &self,
        owner: &OwnedUserId,
        places: &[Place],
    ) -> Result<Vec<Option<BackupKeyRow>>, StoreError> {
        if places.len() <= LOOKED_UP_INLINE {
            return self.store().get_many(&BACKUP_KEYS, owner, places).await;
        }
        let (owner, places) = (owner.clone(), places.to_vec());
        let read = move |snapshot: &Snapshot| {
            places.iter().map(|place| snapshot.get(&BACKUP_KEYS, &owner, place)).collect()
        };
        self.store().bulk(read).await
    }

    /// Keys of a version: all, of a room, or of a session.
    ///
    /// # Errors
    ///
    /// [`E2eeError::NotFound`] if there is no such version, or no key for the session.
    pub async fn backup_keys(
        &self,
        user_id: &UserId,
        version: &str,
        room_id: Option<&RoomId>,
        session_id: Option<&str>,
    ) -> Result<BackupKeys, E2eeError> {
        let (owner, number) = (user_id.to_owned(), number_of(version)?);
        self.version_row(&owner, number).await?;
        let selection = Selection::new(room_id, session_id);
        let rows =
            self.store().bulk(move |snapshot| all_rows(snapshot, &owner, number, &selection));
        let mut keys = BackupKeys::new();
        for ((_, room_id, session_id), row) in rows.await? {
            let key = BackedUpKey {
                first_message_index: row.first_message_index,
                forwarded_count: row.forwarded_count,
                is_verified: row.is_verified,
                session_data: stored_json(row.session_data)?,
            };
            keys.entry(room_id).or_default().insert(session_id, key);
        }
        if session_id.is_some() && keys.is_empty() {
            return Err(E2eeError::NotFound("No key of this session is backed up".to_owned()));
        }
        Ok(keys)
    }

    /// Deletes keys of a version: all, of a room, or of a session.
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
        let (e2ee, owner) = (self.clone(), user_id.to_owned());
        let work = move || async move {
            let row = e2ee.version_row(&owner, number).await?;
            let row = e2ee.delete_selected(&owner, number, row, selection).await?;
            Ok(BackupState::of(&row))
        };
        self.users().in_turn(user_id, work).await
    }

    /// In the user's turn: deletes the keys of a deleted version.
    pub(super) async fn empty_version(
        &self,
        owner: &OwnedUserId,
        number: u64,
        row: BackupVersionRow,
    ) -> Result<(), E2eeError> {
        self.delete_selected(owner, number, row, Selection::All).await.map(drop)
    }

    async fn delete_selected(
        &self,
        owner: &OwnedUserId,
        number: u64,
        mut version: BackupVersionRow,
        selection: Selection,
    ) -> Result<BackupVersionRow, E2eeError> {
        loop {
            let (reader, selected) = (owner.clone(), selection.clone());
            let first = self.store().bulk(move |snapshot| {
                let rows = selected.page(snapshot, &reader, number, None)?;
                Ok(rows.into_iter().map(|(place, _)| place).collect::<Vec<_>>())
            });
            let places = first.await?;
            if places.is_empty() {
                return Ok(version);
            }
            for chunk in places.chunks(KEYS_PER_COMMIT) {
                let mut commit = Commit::new(owner);
                for place in chunk {
                    commit.delete(&BACKUP_KEYS, owner, place);
                }
                let deleted = u64::try_from(chunk.len()).unwrap_or(u64::MAX);
                version.count = version.count.saturating_sub(deleted);
                version.etag += 1;
                commit.put(&BACKUP_VERSIONS, owner, &number, &version);
                self.store().commit(commit).await?;
            }
        }
    }
}

fn all_rows(
    snapshot: &Snapshot,
    owner: &OwnedUserId,
    number: u64,
    selection: &Selection,
) -> Result<Vec<(Place, BackupKeyRow)>, StoreError> {
    let mut rows = Vec::new();
    loop {
        let after = rows.last().map(|(place, _): &(Place, BackupKeyRow)| place);
        let page = selection.page(snapshot, owner, number, after)?;
        if page.is_empty() {
            return Ok(rows);
        }
        rows.extend(page);
    }
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
fn chunks(rows: Checked) -> Vec<Vec<((OwnedRoomId, String), BackupKeyRow)>> {
    let (mut chunks, mut bytes) = (Vec::new(), 0);
    for (place, row) in rows {
        let full = chunks.last().is_none_or(|chunk: &Vec<_>| {
            chunk.len() >= KEYS_PER_COMMIT || bytes >= BYTES_PER_COMMIT
        });
        if full {
            chunks.push(Vec::new());
            bytes = 0;
        }
        bytes += row.session_data.len();
        if let Some(chunk) = chunks.last_mut() {
            chunk.push((place, row));
        }
    }
    chunks
}
