//! Versions of a user's backup.

use std::ops::ControlFlow;

use hearth_storage::{Commit, Direction};
use ruma::{OwnedUserId, UserId};
use serde_json::value::RawValue;

use super::{BackupState, BackupVersion, keys::Selection, no_such_backup, number_of, stored_json};
use crate::{
    E2ee, E2eeError,
    schema::{BACKUP_VERSIONS, BackupVersionRow},
};

/// The largest data of a version in bytes.
const MAX_AUTH_DATA_BYTES: usize = 64 * 1024;
/// The longest name of an algorithm in bytes.
const MAX_ALGORITHM_BYTES: usize = 255;
/// Versions of one user, not counting deleted ones: clients have one, and delete it when they make
/// another.
const MAX_VERSIONS: usize = 20;
/// Versions that are read at a time, the newest first. Deleted ones are among them until they are empty.
const PAGE: usize = 40;
/// Versions that are looked at for the current one.
const MAX_LOOKED_AT: usize = 10_000;

impl E2ee {
    /// Makes a version, which becomes the current one. Returns its number.
    ///
    /// # Errors
    ///
    /// [`E2eeError::InvalidParam`], [`E2eeError::BadJson`], [`E2eeError::TooLarge`], also if there are too
    /// many.
    pub async fn create_backup(
        &self,
        user_id: &UserId,
        algorithm: String,
        auth_data: Box<RawValue>,
    ) -> Result<String, E2eeError> {
        checked(&algorithm, &auth_data)?;
        let (e2ee, owner) = (self.clone(), user_id.to_owned());
        let work = move || async move {
            let known = e2ee.store().page(&BACKUP_VERSIONS, &owner, .., Direction::Backward, PAGE);
            let known = known.await?;
            if known.iter().filter(|(_, row)| !row.deleted).count() >= MAX_VERSIONS {
                let text = format!("You have {MAX_VERSIONS} backups: delete one first");
                return Err(E2eeError::TooLarge(text));
            }
            let newest = known.first();
            let number = newest.map_or(1, |(number, _)| number.saturating_add(1));
            let auth_data = auth_data.get().to_owned();
            let row = BackupVersionRow { algorithm, auth_data, ..BackupVersionRow::default() };
            let mut commit = Commit::new(&owner);
            commit.put(&BACKUP_VERSIONS, &owner, &number, &row);
            if let Some((number, _)) = newest.filter(|(_, row)| row.is_buried()) {
                commit.delete(&BACKUP_VERSIONS, &owner, number);
            }
            e2ee.store().commit(commit).await?;
            Ok(number.to_string())
        };
        self.users().in_turn(user_id, work).await
    }

    /// One version, or the current one.
    ///
    /// # Errors
    ///
    /// [`E2eeError::NotFound`]
    pub async fn backup(
        &self,
        user_id: &UserId,
        version: Option<&str>,
    ) -> Result<BackupVersion, E2eeError> {
        let owner = user_id.to_owned();
        let (number, row) = match version {
            Some(version) => {
                let number = number_of(version)?;
                (number, self.version_row(&owner, number).await?)
            }
            None => self.current_version(&owner).await?.ok_or_else(no_such_backup)?,
        };
        Ok(BackupVersion {
            version: number.to_string(),
            state: BackupState::of(&row),
            algorithm: row.algorithm,
            auth_data: stored_json(row.auth_data)?,
        })
    }

    /// Replaces a version's data; its algorithm stays.
    ///
    /// # Errors
    ///
    /// [`E2eeError::NotFound`]; [`E2eeError::InvalidParam`] for another algorithm;
    /// [`E2eeError::BadJson`], [`E2eeError::TooLarge`].
    pub async fn update_backup(
        &self,
        user_id: &UserId,
        version: &str,
        algorithm: &str,
        auth_data: Box<RawValue>,
    ) -> Result<(), E2eeError> {
        checked(algorithm, &auth_data)?;
        let number = number_of(version)?;
        let (e2ee, owner, algorithm) = (self.clone(), user_id.to_owned(), algorithm.to_owned());
        let work = move || async move {
            let mut row = e2ee.version_row(&owner, number).await?;
            if row.algorithm != algorithm {
                let text = "The algorithm of a backup does not change".to_owned();
                return Err(E2eeError::InvalidParam(text));
            }
            auth_data.get().clone_into(&mut row.auth_data);
            e2ee.put_version(&owner, number, &row).await
        };
        self.users().in_turn(user_id, work).await
    }

    /// Deletes a version. From then on it is not there; its keys go behind this call, or after a restart.
    ///
    /// # Errors
    ///
    /// [`E2eeError::NotFound`]
    pub async fn delete_backup(&self, user_id: &UserId, version: &str) -> Result<(), E2eeError> {
        let number = number_of(version)?;
        let (e2ee, owner) = (self.clone(), user_id.to_owned());
        let work = move || async move {
            let mut row = e2ee.version_row(&owner, number).await?;
            row.deleted = true;
            e2ee.put_version(&owner, number, &row).await
        };
        self.users().in_turn(user_id, work).await?;
        let (e2ee, owner) = (self.clone(), user_id.to_owned());
        self.spawn(async move {
            if let Err(error) = e2ee.empty_version(&owner, number).await {
                tracing::error!(%error, user_id = %owner, "a deleted backup stays for now");
            }
        });
        Ok(())
    }

    /// Deletes, behind this call, the keys of versions that were deleted when a former run ended.
    pub(crate) fn finish_backup_deletions(&self) {
        let e2ee = self.clone();
        self.spawn(async move {
            if let Err(error) = e2ee.empty_deleted_versions().await {
                tracing::error!(%error, "deleted backups stay for now");
            }
        });
    }

    async fn empty_deleted_versions(&self) -> Result<(), E2eeError> {
        let read = |snapshot: &hearth_storage::Snapshot| {
            let mut found = Vec::new();
            snapshot.for_each(&BACKUP_VERSIONS, |owner: OwnedUserId, number, row| {
                if row.deleted && !row.is_buried() {
                    found.push((owner, number));
                }
                ControlFlow::Continue(())
            })?;
            Ok(found)
        };
        for (owner, number) in self.store().bulk(read).await? {
            self.empty_version(&owner, number).await?;
        }
        Ok(())
    }

    /// Deletes everything of a deleted version, some at a time.
    async fn empty_version(&self, owner: &OwnedUserId, number: u64) -> Result<(), E2eeError> {
        loop {
            let (e2ee, user_id) = (self.clone(), owner.clone());
            let work = move || async move { e2ee.empty_some(&user_id, number).await };
            if self.users().in_turn(owner, work).await? {
                return Ok(());
            }
        }
    }

    /// In the user's turn; whether nothing is left.
    async fn empty_some(&self, owner: &OwnedUserId, number: u64) -> Result<bool, E2eeError> {
        let row = self.store().get(&BACKUP_VERSIONS, owner, &number).await?;
        let Some(row) = row.filter(|row| row.deleted) else { return Ok(true) };
        let (_, last) = self.delete_some(owner, number, row, Selection::All, None).await?;
        if last.is_some() {
            return Ok(false);
        }
        let newest = self.store().page(&BACKUP_VERSIONS, owner, .., Direction::Backward, 1);
        let is_newest = newest.await?.first().is_some_and(|(newest, _)| *newest == number);
        let mut commit = Commit::new(owner);
        if is_newest {
            commit.put(&BACKUP_VERSIONS, owner, &number, &BackupVersionRow::buried());
        } else {
            commit.delete(&BACKUP_VERSIONS, owner, &number);
        }
        self.store().commit(commit).await?;
        Ok(true)
    }

    /// A version that was not deleted.
    pub(super) async fn version_row(
        &self,
        owner: &OwnedUserId,
        number: u64,
    ) -> Result<BackupVersionRow, E2eeError> {
        let row = self.store().get(&BACKUP_VERSIONS, owner, &number).await?;
        row.filter(|row| !row.deleted).ok_or_else(no_such_backup)
    }

    /// The newest version that was not deleted.
    pub(super) async fn current_version(
        &self,
        owner: &OwnedUserId,
    ) -> Result<Option<(u64, BackupVersionRow)>, E2eeError> {
        let (mut before, mut seen) = (u64::MAX, 0);
        while seen < MAX_LOOKED_AT {
            let page =
                self.store().page(&BACKUP_VERSIONS, owner, ..before, Direction::Backward, PAGE);
            let page = page.await?;
            seen += page.len();
            let Some((oldest, _)) = page.last() else { return Ok(None) };
            before = *oldest;
            if let Some(current) = page.into_iter().find(|(_, row)| !row.deleted) {
                return Ok(Some(current));
            }
        }
        Ok(None)
    }

    async fn put_version(
        &self,
        owner: &OwnedUserId,
        number: u64,
        row: &BackupVersionRow,
    ) -> Result<(), E2eeError> {
        let mut commit = Commit::new(owner);
        commit.put(&BACKUP_VERSIONS, owner, &number, row);
        self.store().commit(commit).await?;
        Ok(())
    }
}

impl BackupVersionRow {
    /// What stays of the newest version when it is deleted and empty: its number.
    fn buried() -> Self {
        Self { deleted: true, ..Self::default() }
    }

    fn is_buried(&self) -> bool {
        *self == Self::buried()
    }
}

fn checked(algorithm: &str, auth_data: &RawValue) -> Result<(), E2eeError> {
    if algorithm.is_empty() || algorithm.len() > MAX_ALGORITHM_BYTES {
        return Err(E2eeError::InvalidParam("algorithm: not the name of one".to_owned()));
    }
    if auth_data.get().len() > MAX_AUTH_DATA_BYTES {
        return Err(E2eeError::TooLarge("auth_data: larger than a backup's may be".to_owned()));
    }
    if !auth_data.get().starts_with('{') {
        return Err(E2eeError::BadJson("auth_data: not an object".to_owned()));
    }
    Ok(())
}
