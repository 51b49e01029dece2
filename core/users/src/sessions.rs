//! Sessions: access tokens, refresh tokens, login tokens, logout (CS "Client Authentication").

use std::{net::IpAddr, sync::Arc};

use hearth_storage::{Keyspace, postcard_record};
use ruma::{DeviceId, OwnedDeviceId, OwnedUserId, UserId};
use serde::{Deserialize, Serialize};

use crate::{AuthError, TokenHash, Users, UsersError};

pub(crate) const ACCESS_TOKENS: Keyspace<TokenHash, (), TokenRow> = Keyspace::new("access_tokens");
pub(crate) const REFRESH_TOKENS: Keyspace<TokenHash, (), TokenRow> =
    Keyspace::new("refresh_tokens");

/// Where a token leads. The device's row says whether it still counts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TokenRow {
    pub(crate) user_id: OwnedUserId,
    pub(crate) device_id: OwnedDeviceId,
}
postcard_record!(TokenRow, version = 1);

/// A request's proven identity. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Session(pub(crate) Arc<SessionData>);

#[derive(Debug)]
pub(crate) struct SessionData {
    pub(crate) user_id: OwnedUserId,
    pub(crate) device_id: OwnedDeviceId,
    pub(crate) is_admin: bool,
    pub(crate) is_locked: bool,
    pub(crate) is_suspended: bool,
    pub(crate) token: TokenHash,
}

impl Session {
    /// Who is asking.
    #[must_use]
    pub fn user_id(&self) -> &UserId {
        &self.0.user_id
    }

    /// From which device.
    #[must_use]
    pub fn device_id(&self) -> &DeviceId {
        &self.0.device_id
    }

    /// Is the user an administrator of this server?
    #[must_use]
    pub fn is_admin(&self) -> bool {
        self.0.is_admin
    }

    /// Is the account locked? Then everything but logging out is 401 `M_USER_LOCKED` with
    /// `soft_logout`.
    #[must_use]
    pub fn is_locked(&self) -> bool {
        self.0.is_locked
    }

    /// Is the account suspended? Then what writes is 403 `M_USER_SUSPENDED`, but for leaving,
    /// redacting one's own events and a few more (CS "Account suspension").
    #[must_use]
    pub fn is_suspended(&self) -> bool {
        self.0.is_suspended
    }

    /// The hash of the access token: a key for rate limits and caches.
    #[must_use]
    pub fn token_hash(&self) -> TokenHash {
        self.0.token
    }
}

/// A login that was allowed and now needs tokens.
#[derive(Clone, Debug, Default)]
pub struct NewSession {
    /// The device to log in again, if the client names one; its old tokens end.
    pub device_id: Option<OwnedDeviceId>,
    /// The name of the device, if it is new.
    pub initial_display_name: Option<String>,
    /// Does the client know how to refresh tokens?
    pub refreshable: bool,
}

/// Fresh tokens; they exist nowhere else.
#[derive(Clone)]
pub struct IssuedTokens {
    /// Whose.
    pub user_id: OwnedUserId,
    /// For which device.
    pub device_id: OwnedDeviceId,
    /// The access token.
    pub access_token: String,
    /// The refresh token, if the client can refresh.
    pub refresh_token: Option<String>,
    /// Milliseconds until the access token expires; `None`: with the logout.
    pub expires_in_ms: Option<u64>,
}

impl Users {
    /// Who sends this access token. Answered from memory after the first time; exact after a logout or
    /// a lock. Locked and suspended users are found too: the caller judges by the endpoint.
    pub async fn authenticate(&self, access_token: &str) -> Result<Session, AuthError> {
        todo!()
    }

    /// Notes that the session's device was in use, for its `last_seen_ts` and `last_seen_ip`. Costs
    /// next to nothing and waits for nothing: written at most once per five minutes per device.
    pub fn note_seen(&self, session: &Session, ip: Option<IpAddr>) {
        todo!()
    }

    /// Logs a user in on a device. The caller has proven that they may.
    pub async fn create_session(
        &self,
        user_id: &UserId,
        session: NewSession,
    ) -> Result<IssuedTokens, UsersError> {
        todo!()
    }

    /// Exchanges a refresh token (CS "Refreshing access tokens"). The old pair stays usable until one
    /// of the new tokens is used, so that a client that misses the answer may ask again.
    pub async fn refresh(&self, refresh_token: &str) -> Result<IssuedTokens, UsersError> {
        todo!()
    }

    /// Ends a session: its device and tokens are gone.
    pub async fn logout(&self, session: &Session) -> Result<(), UsersError> {
        todo!()
    }

    /// Ends all sessions of a user; returns the devices that went.
    pub async fn logout_all(&self, user_id: &UserId) -> Result<Vec<OwnedDeviceId>, UsersError> {
        todo!()
    }

    /// A token that logs in one more client of this user, once, within two minutes; and its lifetime in
    /// milliseconds (`m.login.token`, CS "Token-based user login"). Kept in memory.
    pub fn create_login_token(&self, user_id: &UserId) -> Result<(String, u64), UsersError> {
        todo!()
    }

    /// Who logs in with this login token, which is spent by the question.
    pub async fn login_with_token(&self, login_token: &str) -> Result<OwnedUserId, UsersError> {
        todo!()
    }
}
