//! Accounts: existence, rights, passwords, deactivation.

use hearth_storage::{Commit, CommitError, Keyspace, Topic, postcard_record};
use hearth_types::limits::MAX_ID_BYTES;
use ruma::{DeviceId, OwnedDeviceId, OwnedUserId, UserId};
use serde::{Deserialize, Serialize};

use crate::{
    DeviceChange, LogKind, Users, UsersError, log::user_entry, profiles::PROFILES,
    profiles::initial_profile, registration::REGISTRATION_TOKENS, tokens::random_bytes,
    users::detached,
};

pub(crate) const ACCOUNTS: Keyspace<OwnedUserId, (), AccountRow> = Keyspace::new("accounts");

/// The accounts that are guests' (CS "Guest Access").
pub(crate) const GUESTS: Keyspace<OwnedUserId, (), ()> = Keyspace::new("guests");

/// Random user names tried before giving up.
const NAME_ATTEMPTS: usize = 8;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct AccountRow {
    /// PHC string; `None` if the account has no password.
    pub(crate) password_hash: Option<String>,
    pub(crate) account: Account,
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
    /// Make a guest of the user? Allowed or not is the caller's question.
    pub is_guest: bool,
}

impl Users {
    /// The user ID that this name would have here, if the name is one that a new user may have
    /// (Appendices "User Identifiers": `a-z0-9._=-/+`, at most 255 bytes with the server's name).
    /// Capital letters become small ones.
    pub fn check_username(&self, username: &str) -> Result<OwnedUserId, UsersError> {
        let localpart = username.to_ascii_lowercase();
        if localpart.is_empty() {
            return Err(UsersError::InvalidUsername("it is empty"));
        }
        let allowed =
            |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._=-/+".contains(&b);
        if !localpart.bytes().all(allowed) {
            return Err(UsersError::InvalidUsername("only a-z, 0-9 and ._=-/+ are allowed"));
        }
        let user_id = format!("@{localpart}:{}", self.inner.identity.server_name());
        if user_id.len() > MAX_ID_BYTES {
            return Err(UsersError::InvalidUsername("it is too long"));
        }
        UserId::parse(user_id).map_err(|_| UsersError::InvalidUsername("not a user ID"))
    }

    /// [`Self::check_username`], and nobody has it: otherwise [`UsersError::UserInUse`].
    pub async fn check_username_available(
        &self,
        username: &str,
    ) -> Result<OwnedUserId, UsersError> {
        let user_id = self.check_username(username)?;
        match self.account(&user_id).await? {
            Some(_) => Err(UsersError::UserInUse),
            None => Ok(user_id),
        }
    }

    /// A free user name for a client that asked for none.
    pub async fn generate_username(&self) -> Result<String, UsersError> {
        for _ in 0..NAME_ATTEMPTS {
            let letters = random_bytes::<12>()?.map(|byte| char::from(b'a' + byte % 26));
            let username: String = letters.iter().collect();
            if self.check_username_available(&username).await.is_ok() {
                return Ok(username);
            }
        }
        Err(UsersError::UserInUse)
    }

    /// Makes an account.
    pub async fn create_account(&self, account: NewAccount) -> Result<OwnedUserId, UsersError> {
        let user_id = self.check_username_available(&account.username).await?;
        let password_hash = match &account.password {
            Some(password) => Some(self.hash_new_password(password).await?),
            None => None,
        };
        let Some(token) = account.registration_token.clone() else {
            return self.insert_account(user_id, account, password_hash, None).await;
        };
        let users = self.clone();
        detached(async move {
            // One at a time, so that a token never pays twice with its last use.
            let _turn = users.inner.registration.uses.lock().await;
            users.check_registration_token(&token).await?;
            users.insert_account(user_id, account, password_hash, Some(token)).await
        })
        .await
    }

    async fn insert_account(
        &self,
        user_id: OwnedUserId,
        account: NewAccount,
        password_hash: Option<String>,
        token: Option<String>,
    ) -> Result<OwnedUserId, UsersError> {
        let display_name =
            account.display_name.clone().unwrap_or_else(|| user_id.localpart().to_owned());
        let profile = initial_profile(&display_name)?;
        let row = AccountRow {
            password_hash,
            account: Account {
                created_ms: self.now_ms(),
                is_admin: account.is_admin,
                ..Account::default()
            },
        };
        let paid = match token {
            Some(token) => self.registration_token_used(&token).await?,
            None => None,
        };
        self.exclusive(&user_id, move |users, user_id| async move {
            let mut commit = Commit::new(&user_id);
            commit.require_absent(&ACCOUNTS, &user_id, &());
            commit.put(&ACCOUNTS, &user_id, &(), &row);
            if account.is_guest {
                commit.put(&GUESTS, &user_id, &(), &());
            }
            commit.put(&PROFILES, &user_id, &(), &profile);
            if let Some(token) = paid {
                commit.effect_put(&REGISTRATION_TOKENS, &token.token.clone(), &(), &token);
            }
            let position = commit.next_position();
            commit.log(position, user_entry(LogKind::Account, &user_id, b""));
            users.store().commit(commit).await.map_err(|error| match error {
                CommitError::Precondition => UsersError::UserInUse,
                other => other.into(),
            })?;
            users.inner.directory.write().put(&user_id, Some(&display_name), None);
            Ok(user_id)
        })
        .await
    }

    /// The account of a user of this server, deactivated ones included.
    pub async fn account(&self, user_id: &UserId) -> Result<Option<Account>, UsersError> {
        Ok(self.account_row(user_id).await?.map(|row| row.account))
    }

    /// Is this a user of this server whose account is not deactivated?
    pub async fn is_active(&self, user_id: &UserId) -> Result<bool, UsersError> {
        Ok(self.account(user_id).await?.is_some_and(|account| !account.is_deactivated))
    }

    /// Is this the account of a guest of this server?
    pub async fn is_guest(&self, user_id: &UserId) -> Result<bool, UsersError> {
        Ok(self.store().get(&GUESTS, &user_id.to_owned(), &()).await?.is_some())
    }

    pub(crate) async fn account_row(
        &self,
        user_id: &UserId,
    ) -> Result<Option<AccountRow>, UsersError> {
        Ok(self.store().get(&ACCOUNTS, &user_id.to_owned(), &()).await?)
    }

    /// Sets a new password. `end_sessions_but`: `None` leaves all sessions; `Some(keep)` ends all but
    /// the kept device's (CS "Password management").
    pub async fn change_password(
        &self,
        user_id: &UserId,
        password: &str,
        end_sessions_but: Option<Option<&DeviceId>>,
    ) -> Result<(), UsersError> {
        let hash = self.hash_new_password(password).await?;
        let end_sessions_but: Option<Option<OwnedDeviceId>> =
            end_sessions_but.map(|keep| keep.map(ToOwned::to_owned));
        self.exclusive(user_id, move |users, user_id| async move {
            users.change_account(&user_id, move |row| row.password_hash = Some(hash)).await?;
            if let Some(keep) = end_sessions_but {
                users.delete_all_devices_now(&user_id, keep.as_deref()).await?;
            }
            Ok(())
        })
        .await
    }

    /// Deactivates an account for good: no password, no devices, no profile, no account data. The user
    /// ID stays taken. Leaving the rooms is the caller's. Twice is the same as once.
    pub async fn deactivate(&self, user_id: &UserId, erase: bool) -> Result<(), UsersError> {
        self.exclusive(user_id, move |users, user_id| async move {
            let Some(mut row) = users.account_row(&user_id).await? else {
                return Err(UsersError::UserNotFound);
            };
            row.password_hash = None;
            row.account.is_deactivated = true;
            row.account.is_erased |= erase;
            let mut commit = account_commit(&user_id, &row);
            commit.delete(&PROFILES, &user_id, &());
            users.inner.sessions.remove_user(&user_id);
            users.commit_change(&user_id, DeviceChange::Deactivating, commit).await?;
            // From here on nobody gets in any more; what follows only tidies up. The device keeper knows
            // from this commit on that it is due: it calls this again after a crash.
            users.inner.directory.write().remove(&user_id);
            users.delete_all_devices_now(&user_id, None).await?;
            let kept = Commit::new(&user_id);
            users.commit_change(&user_id, DeviceChange::Deactivated, kept).await?;
            users.delete_account_data_now(&user_id).await?;
            users.delete_filters_now(&user_id).await?;
            users.forget_presence(&user_id).await
        })
        .await
    }

    /// Locks or unlocks an account (CS "Account locking").
    pub async fn set_locked(&self, user_id: &UserId, locked: bool) -> Result<(), UsersError> {
        self.change_account_alone(user_id, move |row| row.account.is_locked = locked).await
    }

    /// Suspends an account or ends its suspension (CS "Account suspension").
    pub async fn set_suspended(&self, user_id: &UserId, suspended: bool) -> Result<(), UsersError> {
        self.change_account_alone(user_id, move |row| row.account.is_suspended = suspended).await
    }

    /// Gives or takes the rights of a server administrator.
    pub async fn set_admin(&self, user_id: &UserId, admin: bool) -> Result<(), UsersError> {
        self.change_account_alone(user_id, move |row| row.account.is_admin = admin).await
    }

    async fn change_account_alone(
        &self,
        user_id: &UserId,
        change: impl FnOnce(&mut AccountRow) + Send + 'static,
    ) -> Result<(), UsersError> {
        self.exclusive(user_id, move |users, user_id| async move {
            users.change_account(&user_id, change).await
        })
        .await
    }

    /// Under the user's lock.
    async fn change_account(
        &self,
        user_id: &OwnedUserId,
        change: impl FnOnce(&mut AccountRow) + Send,
    ) -> Result<(), UsersError> {
        let Some(mut row) = self.account_row(user_id).await? else {
            return Err(UsersError::UserNotFound);
        };
        if row.account.is_deactivated {
            return Err(UsersError::Deactivated);
        }
        change(&mut row);
        // Before the commit, which wakes those who look what has become of their session.
        self.inner.sessions.remove_user(user_id);
        self.store().commit(account_commit(user_id, &row)).await?;
        Ok(())
    }
}

fn account_commit(user_id: &OwnedUserId, row: &AccountRow) -> Commit {
    let mut commit = Commit::new(user_id);
    commit.put(&ACCOUNTS, user_id, &(), row);
    let position = commit.next_position();
    commit.log(position, user_entry(LogKind::Account, user_id, b""));
    commit.touch(Topic::new(user_id.as_str()));
    commit
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{NewSession, users::testing::Bench};

    #[tokio::test]
    async fn user_names_follow_the_grammar() {
        let bench = Bench::new().await;
        let check = |name: &str| bench.users.check_username(name);
        assert_eq!(check("Alice").unwrap(), "@alice:hearth.test");
        assert_eq!(check("a.b_c=d-e/f+1").unwrap(), "@a.b_c=d-e/f+1:hearth.test");
        assert_eq!(check("12345").unwrap(), "@12345:hearth.test");
        for bad in ["", "a b", "é", "a:b", "@a", "a#b", "a\0"] {
            assert!(matches!(check(bad), Err(UsersError::InvalidUsername(_))), "{bad:?}");
        }
        let fits = 255 - "@:hearth.test".len();
        assert!(check(&"x".repeat(fits)).is_ok());
        assert!(check(&"x".repeat(fits + 1)).is_err());
    }

    #[tokio::test]
    async fn a_name_is_given_once_and_stays_taken() {
        let bench = Bench::new().await;
        let alice = bench.user("alice").await;
        let again = NewAccount { username: "ALICE".to_owned(), ..NewAccount::default() };
        let result = bench.users.create_account(again.clone()).await;
        assert!(matches!(result, Err(UsersError::UserInUse)));
        bench.users.deactivate(&alice, true).await.unwrap();
        bench.users.deactivate(&alice, false).await.unwrap();
        let result = bench.users.create_account(again).await;
        assert!(matches!(result, Err(UsersError::UserInUse)));
        let account = bench.users.account(&alice).await.unwrap().unwrap();
        assert!(account.is_deactivated && account.is_erased);
        assert!(!bench.users.is_active(&alice).await.unwrap());
        assert_eq!(bench.users.profile(&alice).await.unwrap(), None);
    }

    #[tokio::test]
    async fn guests_are_known_as_such() {
        let bench = Bench::new().await;
        let users = &bench.users;
        let username = users.generate_username().await.unwrap();
        let guest = NewAccount { username, is_guest: true, ..NewAccount::default() };
        let guest = users.create_account(guest).await.unwrap();
        let alice = bench.user("alice").await;
        assert!(users.is_guest(&guest).await.unwrap() && !users.is_guest(&alice).await.unwrap());
        for (user_id, is_guest) in [(&guest, true), (&alice, false)] {
            let tokens = users.create_session(user_id, NewSession::default()).await.unwrap();
            let session = users.authenticate(&tokens.access_token).await.unwrap();
            assert_eq!(session.is_guest(), is_guest);
        }
    }

    #[tokio::test]
    async fn of_many_who_want_one_name_one_gets_it() {
        let bench = Bench::new().await;
        let attempts: Vec<_> = (0..8)
            .map(|_| {
                let users = bench.users.clone();
                let account = NewAccount { username: "bob".to_owned(), ..NewAccount::default() };
                tokio::spawn(async move { users.create_account(account).await.is_ok() })
            })
            .collect();
        let mut won = 0;
        for attempt in attempts {
            won += usize::from(attempt.await.unwrap());
        }
        assert_eq!(won, 1);
    }

    #[tokio::test]
    async fn locks_and_suspensions_show_at_once() {
        let bench = Bench::new().await;
        let alice = bench.user("alice").await;
        let users = &bench.users;
        let tokens = users.create_session(&alice, NewSession::default()).await.unwrap();
        let session = users.authenticate(&tokens.access_token).await.unwrap();
        assert!(!session.is_locked() && !session.is_suspended() && !session.is_admin());
        users.set_locked(&alice, true).await.unwrap();
        users.set_suspended(&alice, true).await.unwrap();
        users.set_admin(&alice, true).await.unwrap();
        let session = users.authenticate(&tokens.access_token).await.unwrap();
        assert!(session.is_locked() && session.is_suspended() && session.is_admin());
        users.set_locked(&alice, false).await.unwrap();
        assert!(!users.authenticate(&tokens.access_token).await.unwrap().is_locked());
    }

    #[tokio::test]
    async fn a_changed_password_ends_the_other_sessions() {
        let bench = Bench::new().await;
        let alice = bench.user("alice").await;
        let users = &bench.users;
        let one = users.create_session(&alice, NewSession::default()).await.unwrap();
        let two = users.create_session(&alice, NewSession::default()).await.unwrap();
        users.change_password(&alice, "battery staple", None).await.unwrap();
        assert!(users.authenticate(&two.access_token).await.is_ok());
        let keep = Some(Some(&*one.device_id));
        users.change_password(&alice, "paperclip 12", keep).await.unwrap();
        assert!(users.authenticate(&one.access_token).await.is_ok());
        assert!(users.authenticate(&two.access_token).await.is_err());
        assert!(users.verify_password(&alice, "paperclip 12").await.unwrap());
        assert!(!users.verify_password(&alice, "battery staple").await.unwrap());
        let short = users.change_password(&alice, "short", None).await;
        assert!(matches!(short, Err(UsersError::WeakPassword { min_length: 8 })));
    }

    #[tokio::test]
    async fn unknown_users_cannot_be_changed() {
        let bench = Bench::new().await;
        let nobody = bench.users.check_username("nobody").unwrap();
        let result = bench.users.set_locked(&nobody, true).await;
        assert!(matches!(result, Err(UsersError::UserNotFound)));
        let result = bench.users.deactivate(&nobody, false).await;
        assert!(matches!(result, Err(UsersError::UserNotFound)));
    }
}
