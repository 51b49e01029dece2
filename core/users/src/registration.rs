//! Registration: which flows there are, registration tokens, shared-secret registration.

use hearth_storage::{Keyspace, postcard_record};
use ruma::OwnedUserId;
use serde::{Deserialize, Serialize};

use crate::{UiaFlow, Users, UsersError};

pub(crate) const REGISTRATION_TOKENS: Keyspace<String, (), RegistrationToken> =
    Keyspace::new("registration_tokens");

/// A registration token, made by an administrator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
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

impl Users {
    /// The flows that registration offers now; none: registration is closed (`M_FORBIDDEN`).
    #[must_use]
    pub fn registration_flows(&self) -> Vec<UiaFlow> {
        todo!()
    }

    /// Would this registration token pay for an account now? (`/register/m.login.registration_token/validity`)
    pub async fn is_registration_token_valid(&self, token: &str) -> Result<bool, UsersError> {
        todo!()
    }

    /// Makes a registration token, or replaces the limits of one; `None` lets the server choose it.
    pub async fn put_registration_token(
        &self,
        token: Option<String>,
        uses_allowed: Option<u64>,
        expires_ms: Option<u64>,
    ) -> Result<RegistrationToken, UsersError> {
        todo!()
    }

    /// Deletes a registration token; `false`: there was none. Configured ones stay.
    pub async fn delete_registration_token(&self, token: &str) -> Result<bool, UsersError> {
        todo!()
    }

    /// All registration tokens that are not in the configuration.
    pub async fn registration_tokens(&self) -> Result<Vec<RegistrationToken>, UsersError> {
        todo!()
    }

    /// A nonce for one shared-secret registration within a minute.
    pub fn create_registration_nonce(&self) -> Result<String, UsersError> {
        todo!()
    }

    /// Makes an account for somebody who knows the shared secret. The nonce is spent by the attempt.
    pub async fn register_with_shared_secret(
        &self,
        request: SharedSecretRegistration,
    ) -> Result<OwnedUserId, UsersError> {
        todo!()
    }
}
