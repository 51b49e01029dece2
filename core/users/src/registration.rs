//! Registration: which flows there are, registration tokens, shared-secret registration.

use std::{
    fmt,
    ops::ControlFlow,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use hearth_storage::{Commit, Keyspace, Store, StoreError, postcard_record};
use hmac::{Hmac, KeyInit, Mac};
use parking_lot::Mutex;
use ruma::{OwnedUserId, api::client::uiaa::AuthType};
use serde::{Deserialize, Serialize};
use sha1::Sha1;
use subtle::ConstantTimeEq;

use crate::{
    NewAccount, UiaFlow, Users, UsersError, config::is_registration_token, expiring::Expiring,
    tokens::new_token, users::detached,
};

pub(crate) const REGISTRATION_TOKENS: Keyspace<String, (), RegistrationToken> =
    Keyspace::new("registration_tokens");

/// How long a nonce is good for.
const NONCE_LIFETIME: Duration = Duration::from_mins(1);
/// Nonces at a time; older ones make room.
const MAX_NONCES: usize = 1_000;
/// Registration tokens that are listed at once.
const MAX_TOKENS: usize = 10_000;

/// What registration keeps in memory.
#[derive(Debug)]
pub(crate) struct RegistrationDesk {
    /// Held while a token pays for an account, or changes.
    pub(crate) uses: tokio::sync::Mutex<()>,
    /// How many stored tokens there are: without any, the flow is not offered.
    stored_tokens: AtomicUsize,
    nonces: Mutex<Expiring<String, ()>>,
}

impl RegistrationDesk {
    pub(crate) async fn load(store: &Store) -> Result<Self, StoreError> {
        let tokens = all_tokens(store).await?;
        Ok(Self {
            uses: tokio::sync::Mutex::new(()),
            stored_tokens: AtomicUsize::new(tokens.len()),
            nonces: Mutex::new(Expiring::new(NONCE_LIFETIME, MAX_NONCES)),
        })
    }

    pub(crate) fn expire(&self, now_ms: u64) {
        self.nonces.lock().expire(now_ms);
    }
}

/// A registration token, made by an administrator.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegistrationToken {
    /// The token.
    pub token: String,
    /// How many accounts it pays for; `None`: any number.
    pub uses_allowed: Option<u64>,
    /// How many it has paid for.
    pub uses: u64,
    /// When it expires, in milliseconds since the epoch.
    pub expires_ms: Option<u64>,
}
postcard_record!(RegistrationToken, version = 1);

/// A request to make an account with the shared secret. The MAC is over
/// `nonce NUL user NUL password NUL "admin"|"notadmin" [NUL user_type]`.
#[derive(Clone)]
pub struct SharedSecretRegistration {
    /// A nonce of [`Users::create_registration_nonce`].
    pub nonce: String,
    /// The user name, as signed.
    pub username: String,
    /// The password, as signed.
    pub password: String,
    /// The display name, unsigned; `None`: the user name.
    pub display_name: Option<String>,
    /// Make an administrator?
    pub is_admin: bool,
    /// The user type, as signed; kept nowhere.
    pub user_type: Option<String>,
    /// HMAC-SHA1 in hexadecimal digits.
    pub mac: String,
}

/// Without the token itself.
impl fmt::Debug for RegistrationToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RegistrationToken")
            .field("uses_allowed", &self.uses_allowed)
            .field("uses", &self.uses)
            .field("expires_ms", &self.expires_ms)
            .finish_non_exhaustive()
    }
}

impl RegistrationToken {
    fn pays(&self, now_ms: u64) -> bool {
        self.uses_allowed.is_none_or(|allowed| self.uses < allowed)
            && self.expires_ms.is_none_or(|at| now_ms < at)
    }
}

impl Users {
    /// The flows that registration offers now; none: registration is closed (`M_FORBIDDEN`).
    #[must_use]
    pub fn registration_flows(&self) -> Vec<UiaFlow> {
        let desk = &self.inner.registration;
        let tokens = !self.inner.config.registration_tokens.is_empty()
            || desk.stored_tokens.load(Ordering::Relaxed) > 0;
        let mut flows = Vec::new();
        if self.inner.config.open_registration {
            flows.push(vec![AuthType::Dummy]);
        }
        if tokens {
            flows.push(vec![AuthType::RegistrationToken]);
        }
        flows
    }

    /// Would this registration token pay for an account now? (`/register/m.login.registration_token/validity`)
    pub async fn is_registration_token_valid(&self, token: &str) -> Result<bool, UsersError> {
        if self.is_configured_token(token) {
            return Ok(true);
        }
        let found = self.stored_token(token).await?;
        Ok(found.is_some_and(|found| found.pays(self.now_ms())))
    }

    /// Makes a registration token, or replaces the limits of one; `None` lets the server choose it.
    pub async fn put_registration_token(
        &self,
        token: Option<String>,
        uses_allowed: Option<u64>,
        expires_ms: Option<u64>,
    ) -> Result<RegistrationToken, UsersError> {
        let token = match token {
            Some(token) => token,
            None => new_token("")?,
        };
        if !is_registration_token(&token) {
            return Err(UsersError::InvalidName(
                "a registration token has 1 to 64 of A-Za-z0-9._~-",
            ));
        }
        let users = self.clone();
        detached(async move {
            let desk = &users.inner.registration;
            let _turn = desk.uses.lock().await;
            let old = users.stored_token(&token).await?;
            let spent = old.as_ref().map_or(0, |old| old.uses);
            let row = RegistrationToken { token, uses_allowed, uses: spent, expires_ms };
            let mut commit = Commit::new(&row.token);
            commit.put(&REGISTRATION_TOKENS, &row.token, &(), &row);
            users.store().commit(commit).await?;
            desk.stored_tokens.fetch_add(usize::from(old.is_none()), Ordering::Relaxed);
            Ok(row)
        })
        .await
    }

    /// Deletes a registration token; `false`: there was none. Configured ones stay.
    pub async fn delete_registration_token(&self, token: &str) -> Result<bool, UsersError> {
        let (users, token) = (self.clone(), token.to_owned());
        detached(async move {
            let desk = &users.inner.registration;
            let _turn = desk.uses.lock().await;
            if users.stored_token(&token).await?.is_none() {
                return Ok(false);
            }
            let mut commit = Commit::new(&token);
            commit.delete(&REGISTRATION_TOKENS, &token, &());
            users.store().commit(commit).await?;
            desk.stored_tokens.fetch_sub(1, Ordering::Relaxed);
            Ok(true)
        })
        .await
    }

    /// All registration tokens that are not in the configuration.
    pub async fn registration_tokens(&self) -> Result<Vec<RegistrationToken>, UsersError> {
        Ok(all_tokens(self.store()).await?)
    }

    /// Does this token pay for an account? Asked while [`RegistrationDesk::uses`] is held.
    pub(crate) async fn check_registration_token(&self, token: &str) -> Result<(), UsersError> {
        if self.is_registration_token_valid(token).await? {
            return Ok(());
        }
        Err(UsersError::InvalidRegistrationToken)
    }

    /// The token's row after one more use; `None` for those of the configuration, which nobody counts.
    pub(crate) async fn registration_token_used(
        &self,
        token: &str,
    ) -> Result<Option<RegistrationToken>, UsersError> {
        if self.is_configured_token(token) {
            return Ok(None);
        }
        let mut row =
            self.stored_token(token).await?.ok_or(UsersError::InvalidRegistrationToken)?;
        row.uses = row.uses.saturating_add(1);
        Ok(Some(row))
    }

    async fn stored_token(&self, token: &str) -> Result<Option<RegistrationToken>, UsersError> {
        if !is_registration_token(token) {
            return Ok(None);
        }
        Ok(self.store().get(&REGISTRATION_TOKENS, &token.to_owned(), &()).await?)
    }

    fn is_configured_token(&self, token: &str) -> bool {
        let configured = &self.inner.config.registration_tokens;
        configured.iter().any(|known| bool::from(known.expose().as_bytes().ct_eq(token.as_bytes())))
    }

    /// A nonce for one shared-secret registration within a minute.
    pub fn create_registration_nonce(&self) -> Result<String, UsersError> {
        if self.inner.config.registration_shared_secret.is_none() {
            return Err(UsersError::SharedSecretDisabled);
        }
        let nonce = new_token("")?;
        self.inner.registration.nonces.lock().insert(self.now_ms(), nonce.clone(), ());
        Ok(nonce)
    }

    /// Makes an account for somebody who knows the shared secret. The nonce is spent by the attempt.
    pub async fn register_with_shared_secret(
        &self,
        request: SharedSecretRegistration,
    ) -> Result<OwnedUserId, UsersError> {
        let Some(secret) = &self.inner.config.registration_shared_secret else {
            return Err(UsersError::SharedSecretDisabled);
        };
        let nonce = self.inner.registration.nonces.lock().take(self.now_ms(), &request.nonce);
        nonce.ok_or(UsersError::UnknownNonce)?;
        if !request.is_signed_with(secret.expose()) {
            return Err(UsersError::WrongMac);
        }
        self.create_account(NewAccount {
            username: request.username,
            password: Some(request.password),
            is_admin: request.is_admin,
            display_name: request.display_name,
            registration_token: None,
            is_guest: false,
        })
        .await
    }
}

impl SharedSecretRegistration {
    fn is_signed_with(&self, secret: &str) -> bool {
        let Ok(mut mac) = Hmac::<Sha1>::new_from_slice(secret.as_bytes()) else { return false };
        let rights = if self.is_admin { "admin" } else { "notadmin" };
        let mut parts = vec![&*self.nonce, &*self.username, &*self.password, rights];
        parts.extend(self.user_type.as_deref());
        // A NUL inside a part could shift its border to the next one.
        if parts.iter().any(|part| part.contains('\0')) {
            return false;
        }
        mac.update(parts.join("\0").as_bytes());
        from_hex(&self.mac).is_some_and(|given| mac.verify_slice(&given).is_ok())
    }
}

/// The bytes behind hexadecimal digits of either case.
fn from_hex(digits: &str) -> Option<Vec<u8>> {
    let (pairs, []) = digits.as_bytes().as_chunks::<2>() else { return None };
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    pairs.iter().map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?)).collect()
}

async fn all_tokens(store: &Store) -> Result<Vec<RegistrationToken>, StoreError> {
    store
        .bulk(|view| {
            let mut tokens = Vec::new();
            view.for_each(&REGISTRATION_TOKENS, |_, (), token| {
                tokens.push(token);
                if tokens.len() < MAX_TOKENS {
                    ControlFlow::Continue(())
                } else {
                    ControlFlow::Break(())
                }
            })?;
            Ok(tokens)
        })
        .await
}

#[cfg(test)]
mod tests;
