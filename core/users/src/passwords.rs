//! Password hashes: argon2id, computed off the async threads, a few at a time.

use ruma::{OwnedUserId, UserId};

use crate::{Users, UsersError};

impl Users {
    /// Is this the user's password? `false` also for accounts without one, after the same time. Says
    /// nothing about locks.
    pub async fn verify_password(
        &self,
        user_id: &UserId,
        password: &str,
    ) -> Result<bool, UsersError> {
        todo!()
    }

    /// Who logs in with this name (a localpart, or a user ID of this server) and password:
    /// [`UsersError::WrongCredentials`], [`UsersError::Deactivated`] or [`UsersError::Locked`] if
    /// nobody does.
    pub async fn login_with_password(
        &self,
        user: &str,
        password: &str,
    ) -> Result<OwnedUserId, UsersError> {
        todo!()
    }
}
