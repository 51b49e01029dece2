//! OpenID tokens: proof of identity for third parties (CS "OpenID").

use hearth_storage::{Keyspace, postcard_record};
use ruma::{OwnedUserId, UserId};
use serde::{Deserialize, Serialize};

use crate::{TokenHash, Users, UsersError};

pub(crate) const OPENID_TOKENS: Keyspace<TokenHash, (), OpenIdRow> = Keyspace::new("openid_tokens");

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct OpenIdRow {
    pub(crate) user_id: OwnedUserId,
    pub(crate) expires_ms: u64,
}
postcard_record!(OpenIdRow, version = 1);

/// A fresh OpenID token.
#[derive(Clone)]
pub struct OpenIdToken {
    /// The token.
    pub access_token: String,
    /// Seconds until it expires.
    pub expires_in_s: u64,
}

impl Users {
    /// Issues an OpenID token for a user.
    pub async fn create_openid_token(&self, user_id: &UserId) -> Result<OpenIdToken, UsersError> {
        todo!()
    }

    /// Whom an OpenID token names; `None` if it is unknown or expired.
    pub async fn openid_user(&self, token: &str) -> Result<Option<OwnedUserId>, UsersError> {
        todo!()
    }
}
