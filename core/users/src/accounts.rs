//! Accounts: existence, rights, passwords, deactivation.

use hearth_storage::{Keyspace, postcard_record};
use ruma::{DeviceId, OwnedUserId, UserId};
use serde::{Deserialize, Serialize};

use crate::{Users, UsersError};

pub(crate) const ACCOUNTS: Keyspace<OwnedUserId, (), AccountRow> = Keyspace::new("accounts");

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct AccountRow {
    pub(crate) created_ms: u64,
    /// PHC string; `None` if the account has no password.
    pub(crate) password_hash: Option<String>,
    pub(crate) flags: Account,
}
postcard_record!(AccountRow, version = 1);

/// What there is to know about an account.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[expect(clippy::struct_excessive_bools, reason = "independent properties of an account")]
pub struct Account {
    /// When it was made, in milliseconds since the epoch.
    pub created_ms: u64,
    /// Is the user an administrator of this server?
    pub is_admin: bool,
    /// May nobody use the account, but for logging out? (CS "Account locking")
    pub is_locked: bool,
    /// May the user only read, leave and redact their own events? (CS "Account suspension")
    pub is_suspended: bool,
    /// Was it deactivated, for good?
    pub is_deactivated: bool,
    /// Did the user ask for their messages to be hidden from future members, on deactivation?
    pub is_erased: bool,
}

/// An account to be made.
#[derive(Clone, Default)]
pub struct NewAccount {
    /// The part before the colon; see [`Users::check_username`].
    pub username: String,
    /// `None`: nobody can log in by password.
    pub password: Option<String>,
    /// Make the user an administrator of this server?
    pub is_admin: bool,
    /// The first display name; `None`: the user name.
    pub display_name: Option<String>,
    /// The registration token that pays for the account, counted as used with the same commit.
    pub registration_token: Option<String>,
}

impl Users {
    /// The user ID that this name would have here, if the name is one that a new user may have
    /// (Appendices "User Identifiers": `a-z0-9._=-/+`, at most 255 bytes with the server's name).
    pub fn check_username(&self, username: &str) -> Result<OwnedUserId, UsersError> {
        todo!()
    }

    /// [`Self::check_username`], and nobody has it: otherwise [`UsersError::UserInUse`].
    pub async fn check_username_available(
        &self,
        username: &str,
    ) -> Result<OwnedUserId, UsersError> {
        todo!()
    }

    /// A free user name for a client that asked for none.
    pub async fn generate_username(&self) -> Result<String, UsersError> {
        todo!()
    }

    /// Makes an account.
    pub async fn create_account(&self, account: NewAccount) -> Result<OwnedUserId, UsersError> {
        todo!()
    }

    /// The account of a user of this server, deactivated ones included.
    pub async fn account(&self, user_id: &UserId) -> Result<Option<Account>, UsersError> {
        todo!()
    }

    /// Is this a user of this server whose account is not deactivated?
    pub async fn is_active(&self, user_id: &UserId) -> Result<bool, UsersError> {
        todo!()
    }

    /// Sets a new password. `end_sessions_but`: `None` leaves all sessions; `Some(keep)` ends all but
    /// the kept device's (CS "Password management").
    pub async fn change_password(
        &self,
        user_id: &UserId,
        password: &str,
        end_sessions_but: Option<Option<&DeviceId>>,
    ) -> Result<(), UsersError> {
        todo!()
    }

    /// Deactivates an account for good: no password, no devices, no profile, no account data. The user
    /// ID stays taken. Leaving the rooms is the caller's. Twice is the same as once.
    pub async fn deactivate(&self, user_id: &UserId, erase: bool) -> Result<(), UsersError> {
        todo!()
    }

    /// Locks or unlocks an account (CS "Account locking").
    pub async fn set_locked(&self, user_id: &UserId, locked: bool) -> Result<(), UsersError> {
        todo!()
    }

    /// Suspends an account or ends its suspension (CS "Account suspension").
    pub async fn set_suspended(&self, user_id: &UserId, suspended: bool) -> Result<(), UsersError> {
        todo!()
    }

    /// Gives or takes the rights of a server administrator.
    pub async fn set_admin(&self, user_id: &UserId, admin: bool) -> Result<(), UsersError> {
        todo!()
    }
}
