//! Password hashes: argon2id, computed off the async threads, a few at a time.

use std::{
    net::IpAddr,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
};

use argon2::{Algorithm, Argon2, PasswordHasher as _, PasswordVerifier, Version};
use ruma::{OwnedUserId, UserId};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{Argon2Config, Guesser, Users, UsersError, tokens::random_bytes};

/// Jobs that may wait for their turn; more are told to come back later.
const MAX_WAITING: usize = 512;
/// Of these, so many by users who confirm a request of a session that they have: the others are for
/// those who want to log in.
const MAX_CONFIRMING: usize = 128;
/// The longest password in bytes: more protects nobody.
const MAX_PASSWORD_BYTES: usize = 1024;

/// The bounded place where hashes are computed.
#[derive(Debug)]
pub(crate) struct PasswordHasher {
    argon2: Argon2<'static>,
    turns: Arc<Semaphore>,
    waiting: Arc<AtomicUsize>,
    confirming: Arc<Semaphore>,
    /// What passwords of users who are not there are compared with.
    decoy: Arc<OnceLock<String>>,
}

/// A place in the line for a turn.
struct Waiting(Arc<AtomicUsize>);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl PasswordHasher {
    pub(crate) fn new(config: &Argon2Config) -> Result<Self, UsersError> {
        let params = config
            .params()
            .map_err(|error| UsersError::Internal(format!("users.argon2: {error}")))?;
        Ok(Self {
            argon2: Argon2::new(Algorithm::Argon2id, Version::V0x13, params),
            turns: Arc::new(Semaphore::new(config.concurrency)),
            waiting: Arc::default(),
            confirming: Arc::new(Semaphore::new(MAX_CONFIRMING)),
            decoy: Arc::default(),
        })
    }

    async fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> Result<T, UsersError> + Send + 'static,
    ) -> Result<T, UsersError> {
        let place = Waiting(Arc::clone(&self.waiting));
        if self.waiting.fetch_add(1, Ordering::Relaxed) >= MAX_WAITING {
            return Err(UsersError::Busy("password checks"));
        }
        let internal = |error: &dyn std::fmt::Display| UsersError::Internal(error.to_string());
        let turn =
            Arc::clone(&self.turns).acquire_owned().await.map_err(|error| internal(&error))?;
        // Turn and place go with the job: a caller that leaves does not make room for one too many.
        hearth_storage::run_blocking(move || {
            let _held = (turn, place);
            job()
        })
        .await
        .map_err(|error| internal(&error))?
    }

    async fn hash(&self, password: String) -> Result<String, UsersError> {
        let argon2 = self.argon2.clone();
        self.run(move || hash(&argon2, &password)).await
    }

    /// Without a hash the same work is done against a decoy, and the answer is no.
    async fn verify(
        &self,
        password: String,
        expected: Option<String>,
        place: Option<OwnedSemaphorePermit>,
    ) -> Result<bool, UsersError> {
        let argon2 = self.argon2.clone();
        let decoy = Arc::clone(&self.decoy);
        self.run(move || {
            let _held = place;
            let exists = expected.is_some();
            let expected = match (expected, decoy.get()) {
                (Some(expected), _) => expected,
                (None, Some(decoy)) => decoy.clone(),
                (None, None) => {
                    let made = hash(&argon2, "decoy")?;
                    decoy.get_or_init(|| made).clone()
                }
            };
            let matches = argon2.verify_password(password.as_bytes(), expected.as_str()).is_ok();
            Ok(exists && matches)
        })
        .await
    }
}

fn hash(argon2: &Argon2<'_>, password: &str) -> Result<String, UsersError> {
    let salt = random_bytes::<16>()?;
    argon2
        .hash_password_with_salt(password.as_bytes(), &salt)
        .map(|hash| hash.to_string())
        .map_err(|error| UsersError::Internal(format!("hashing a password: {error}")))
}

impl Users {
    /// Checks a new password against the policy and hashes it.
    pub(crate) async fn hash_new_password(&self, password: &str) -> Result<String, UsersError> {
        let min_length = self.inner.config.password_min_length;
        if password.chars().count() < min_length {
            return Err(UsersError::WeakPassword { min_length });
        }
        if password.len() > MAX_PASSWORD_BYTES {
            return Err(UsersError::PasswordTooLong);
        }
        self.inner.passwords.hash(password.to_owned()).await
    }

    /// Is this the user's password? `false` also for accounts without one, after the same time. Says
    /// nothing about locks.
    pub async fn verify_password(
        &self,
        user_id: &UserId,
        password: &str,
    ) -> Result<bool, UsersError> {
        self.check_password(user_id, password, None).await
    }

    /// The same for who has a session already and confirms a request of it.
    pub(crate) async fn confirm_password(
        &self,
        user_id: &UserId,
        password: &str,
    ) -> Result<bool, UsersError> {
        let place = Arc::clone(&self.inner.passwords.confirming).try_acquire_owned();
        let place = place.map_err(|_| UsersError::Busy("password checks"))?;
        self.check_password(user_id, password, Some(place)).await
    }

    async fn check_password(
        &self,
        user_id: &UserId,
        password: &str,
        place: Option<OwnedSemaphorePermit>,
    ) -> Result<bool, UsersError> {
        if password.len() > MAX_PASSWORD_BYTES {
            return Ok(false);
        }
        let hash = self.account_row(user_id).await?.and_then(|row| row.password_hash);
        self.inner.passwords.verify(password.to_owned(), hash, place).await
    }

    /// Who logs in with this name (a localpart, or a user ID of this server) and password:
    /// [`UsersError::WrongCredentials`], [`UsersError::Deactivated`] or [`UsersError::Locked`] if
    /// nobody does, [`UsersError::TooManyGuesses`] if too many wrong ones came from this address.
    pub async fn login_with_password(
        &self,
        user: &str,
        password: &str,
        address: Option<IpAddr>,
    ) -> Result<OwnedUserId, UsersError> {
        let user_id = self.local_user_id(user).ok_or(UsersError::WrongCredentials)?;
        let guesser = Guesser::Address(address);
        let correct = self.guess_password(&user_id, password, guesser).await?;
        let account = self.account(&user_id).await?.ok_or(UsersError::WrongCredentials)?;
        if account.is_deactivated {
            return Err(UsersError::Deactivated);
        }
        if !correct {
            return Err(UsersError::WrongCredentials);
        }
        if account.is_locked {
            return Err(UsersError::Locked);
        }
        Ok(user_id)
    }

    /// The local user that a client means by a localpart or a whole user ID.
    pub(crate) fn local_user_id(&self, user: &str) -> Option<OwnedUserId> {
        let identity = &self.inner.identity;
        let user = user.to_ascii_lowercase();
        let user_id = UserId::parse_with_server_name(user, identity.server_name()).ok()?;
        identity.is_local(&user_id).then_some(user_id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{NewAccount, users::testing::Bench};

    #[tokio::test]
    async fn login_takes_localparts_and_user_ids() {
        let bench = Bench::new().await;
        let alice = bench.user("alice").await;
        let login = async |user: &str, password: &str| {
            bench.users.login_with_password(user, password, None).await
        };
        assert_eq!(login("alice", "correct horse").await.unwrap(), alice);
        assert_eq!(login("Alice", "correct horse").await.unwrap(), alice);
        assert_eq!(login("@alice:hearth.test", "correct horse").await.unwrap(), alice);
        for (user, password) in [
            ("alice", "wrong horse"),
            ("bob", "correct horse"),
            ("@alice:elsewhere", "correct horse"),
            ("", ""),
            ("@alice", "correct horse"),
        ] {
            let result = login(user, password).await;
            assert!(matches!(result, Err(UsersError::WrongCredentials)), "{user}");
        }
    }

    #[tokio::test]
    async fn locked_and_deactivated_users_are_told() {
        let bench = Bench::new().await;
        let alice = bench.user("alice").await;
        bench.users.set_locked(&alice, true).await.unwrap();
        let login =
            async |password: &str| bench.users.login_with_password("alice", password, None).await;
        assert!(matches!(login("correct horse").await, Err(UsersError::Locked)));
        assert!(matches!(login("wrong horse").await, Err(UsersError::WrongCredentials)));
        bench.users.deactivate(&alice, false).await.unwrap();
        assert!(matches!(login("correct horse").await, Err(UsersError::Deactivated)));
    }

    #[tokio::test]
    async fn those_who_confirm_leave_places_to_those_who_log_in() {
        let bench = Bench::new().await;
        let alice = bench.user("alice").await;
        let all = u32::try_from(MAX_CONFIRMING).unwrap();
        let confirming = Arc::clone(&bench.users.inner.passwords.confirming);
        let others = confirming.acquire_many_owned(all).await.unwrap();
        let confirmed = bench.users.confirm_password(&alice, "correct horse").await;
        assert!(matches!(confirmed, Err(UsersError::Busy(_))));
        bench.users.login_with_password("alice", "correct horse", None).await.unwrap();
        drop(others);
        assert!(bench.users.confirm_password(&alice, "correct horse").await.unwrap());
        let free = bench.users.inner.passwords.confirming.available_permits();
        assert_eq!(free, MAX_CONFIRMING);
    }

    #[tokio::test]
    async fn an_account_without_password_has_no_right_one() {
        let bench = Bench::new().await;
        let account = NewAccount { username: "robot".to_owned(), ..NewAccount::default() };
        let robot = bench.users.create_account(account).await.unwrap();
        for password in ["", "decoy", "anything"] {
            assert!(!bench.users.verify_password(&robot, password).await.unwrap());
        }
    }

    #[tokio::test]
    async fn hashes_are_salted_argon2id() {
        let bench = Bench::new().await;
        let one = bench.users.hash_new_password("correct horse").await.unwrap();
        let two = bench.users.hash_new_password("correct horse").await.unwrap();
        assert!(one.starts_with("$argon2id$v=19$"));
        assert_ne!(one, two);
        let long = bench.users.hash_new_password(&"x".repeat(MAX_PASSWORD_BYTES + 1)).await;
        assert!(matches!(long, Err(UsersError::PasswordTooLong)));
    }
}
