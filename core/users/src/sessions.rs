//! Sessions: access tokens, refresh tokens, login tokens, logout (CS "Client Authentication").

use std::{
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use hearth_storage::{Commit, Keyspace, Topic, postcard_record};
use hearth_types::limits::MAX_ID_BYTES;
use quick_cache::{UnitWeighter, sync::Cache};
use ruma::{DeviceId, OwnedDeviceId, OwnedUserId, UserId};
use serde::{Deserialize, Serialize};

use crate::{
    AuthError, DeviceChange, LogKind, TokenHash, Users, UsersError,
    devices::{DEVICES, DeviceRow, TokenPair, checked_device_name},
    expiring::Expiring,
    log::user_entry,
    tokens::{new_device_id, new_token},
};

pub(crate) const ACCESS_TOKENS: Keyspace<TokenHash, (), TokenRow> = Keyspace::new("access_tokens");
pub(crate) const REFRESH_TOKENS: Keyspace<TokenHash, (), TokenRow> =
    Keyspace::new("refresh_tokens");

/// Sessions kept in memory.
const MAX_CACHED_SESSIONS: u64 = 100_000;
/// Sessions that room is made for at once.
const USUAL_SESSIONS: usize = 1_000;
/// How long a login token is good for.
const LOGIN_TOKEN_LIFETIME: Duration = Duration::from_mins(2);
/// Login tokens at a time; older ones make room.
const MAX_LOGIN_TOKENS: usize = 10_000;

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
#[expect(clippy::struct_excessive_bools, reason = "independent properties of an account")]
pub(crate) struct SessionData {
    pub(crate) user_id: OwnedUserId,
    pub(crate) device_id: OwnedDeviceId,
    pub(crate) is_admin: bool,
    pub(crate) is_locked: bool,
    pub(crate) is_suspended: bool,
    pub(crate) is_guest: bool,
    pub(crate) token: TokenHash,
    pub(crate) expires_ms: Option<u64>,
    /// When [`Users::note_seen`] last took note of this session.
    pub(crate) noted_ms: AtomicU64,
}

/// The sessions that were in use lately, by the hashes of their access tokens. Filled and emptied
/// under the lock of the session's user, so that nothing ended stays. Emptied before the commit that
/// ends a session: whom that commit wakes no longer finds it.
#[derive(Debug)]
pub(crate) struct SessionCache(Cache<TokenHash, Session>);

impl SessionCache {
    pub(crate) fn new() -> Self {
        Self(Cache::with_weighter(USUAL_SESSIONS, MAX_CACHED_SESSIONS, UnitWeighter))
    }

    pub(crate) fn remove(&self, pair: &TokenPair) {
        self.0.remove(&pair.access);
    }

    pub(crate) fn remove_user(&self, user_id: &UserId) {
        self.0.retain(|_, session| session.user_id() != user_id);
    }
}

/// Can a device have this ID? A star means all devices to those who send messages to them.
fn check_device_id(device_id: &DeviceId) -> Result<(), UsersError> {
    let id = device_id.as_str();
    if id.is_empty() || id.len() > MAX_ID_BYTES || id.contains('\0') || id == "*" {
        return Err(UsersError::InvalidDeviceId);
    }
    Ok(())
}

/// Login tokens and whom they log in.
#[derive(Debug)]
pub(crate) struct LoginTokens(Expiring<TokenHash, OwnedUserId>);

impl LoginTokens {
    pub(crate) fn new() -> Self {
        Self(Expiring::new(LOGIN_TOKEN_LIFETIME, MAX_LOGIN_TOKENS))
    }

    pub(crate) fn expire(&mut self, now_ms: u64) {
        self.0.expire(now_ms);
    }
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

    /// Is the user a guest, who may do little? (CS "Guest Access")
    #[must_use]
    pub fn is_guest(&self) -> bool {
        self.0.is_guest
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
        self.session(TokenHash::of(access_token)).await
    }

    /// The session as it is now: for requests that wait, since it may have ended or been locked
    /// meanwhile. Logouts, locks and deactivations touch the user's topic.
    pub async fn authenticate_again(&self, session: &Session) -> Result<Session, AuthError> {
        self.session(session.token_hash()).await
    }

    /// Does this device still have the session with this access token? Who changes what belongs to a device
    /// asks in the user's [turn](Users::in_turn).
    ///
    /// # Errors
    ///
    /// [`UsersError::UnknownToken`]: the device has gone, or logged in anew or refreshed its tokens
    /// (then with `soft_logout`, so that the client looks for newer ones).
    pub async fn must_be_session(
        &self,
        user_id: &UserId,
        device_id: &DeviceId,
        token: TokenHash,
    ) -> Result<(), UsersError> {
        let place = (user_id.to_owned(), device_id.to_owned());
        let Some(device) = self.store().get(&DEVICES, &place.0, &place.1).await? else {
            return Err(UsersError::UnknownToken { soft_logout: false });
        };
        if device.pair_of_access(token).is_none() {
            return Err(UsersError::UnknownToken { soft_logout: true });
        }
        Ok(())
    }

    async fn session(&self, token: TokenHash) -> Result<Session, AuthError> {
        let session = match self.inner.sessions.0.get(&token) {
            Some(session) => session,
            None => self.admit(token).await?,
        };
        if session.0.expires_ms.is_some_and(|expires_ms| expires_ms <= self.now_ms()) {
            return Err(AuthError::UnknownToken { soft_logout: true });
        }
        Ok(session)
    }

    /// Looks a token up in the store and keeps what it finds in memory.
    async fn admit(&self, token: TokenHash) -> Result<Session, UsersError> {
        let unknown = UsersError::UnknownToken { soft_logout: false };
        let Some(row) = self.store().get(&ACCESS_TOKENS, &token, &()).await? else {
            return Err(unknown);
        };
        self.exclusive(&row.user_id, move |users, user_id| async move {
            let device_id = row.device_id;
            let device = users.store().get(&DEVICES, &user_id, &device_id).await?;
            let account = users.account(&user_id).await?.filter(|found| !found.is_deactivated);
            let (Some(device), Some(account)) = (device, account) else {
                return Err(unknown);
            };
            let Some(pair) = device.pair_of_access(token).cloned() else {
                return Err(unknown);
            };
            let expired = pair.access_expires_ms.is_some_and(|at| at <= users.now_ms());
            if !expired && device.current.access != token {
                users.promote(&user_id, &device_id, device).await?;
            }
            let is_guest = users.is_guest(&user_id).await?;
            let session = Session(Arc::new(SessionData {
                user_id,
                device_id,
                is_admin: account.is_admin,
                is_locked: account.is_locked,
                is_suspended: account.is_suspended,
                is_guest,
                token,
                expires_ms: pair.access_expires_ms,
                noted_ms: AtomicU64::new(0),
            }));
            users.inner.sessions.0.insert(token, session.clone());
            Ok(session)
        })
        .await
    }

    /// The first use of refreshed tokens: the pair before them ends. Under the user's lock. Lazily
    /// durable, since the older pair's return after a crash gives nobody anything new.
    async fn promote(
        &self,
        user_id: &OwnedUserId,
        device_id: &OwnedDeviceId,
        mut device: DeviceRow,
    ) -> Result<DeviceRow, UsersError> {
        let Some(next) = device.next.take() else { return Ok(device) };
        let ended = std::mem::replace(&mut device.current, next);
        let mut commit = Commit::new(user_id).lazy();
        commit.put(&DEVICES, user_id, device_id, &device);
        forget_tokens(&mut commit, &ended);
        self.inner.sessions.remove(&ended);
        self.store().commit(commit).await?;
        Ok(device)
    }

    /// Logs a user in on a device. The caller has proven that they may. Of a user with as many devices as
    /// one may have, the one that was not in use for the longest time goes.
    pub async fn create_session(
        &self,
        user_id: &UserId,
        session: NewSession,
    ) -> Result<IssuedTokens, UsersError> {
        let display_name = checked_device_name(session.initial_display_name)?;
        let device_id = match session.device_id {
            Some(device_id) => device_id,
            None => new_device_id()?.into(),
        };
        check_device_id(&device_id)?;
        let fresh = self.fresh_tokens(session.refreshable)?;
        self.exclusive(user_id, move |users, user_id| async move {
            match users.account(&user_id).await? {
                None => return Err(UsersError::UserNotFound),
                Some(account) if account.is_deactivated => return Err(UsersError::Deactivated),
                Some(account) if account.is_locked => return Err(UsersError::Locked),
                Some(_) => {}
            }
            let old = users.store().get(&DEVICES, &user_id, &device_id).await?;
            if old.is_none() {
                users.make_room_for_device(&user_id).await?;
            }
            let mut commit = Commit::new(&user_id);
            let created = old.is_none().then_some(DeviceChange::Created(&device_id));
            let ended: Vec<_> = old.iter().flat_map(DeviceRow::pairs).cloned().collect();
            for pair in &ended {
                forget_tokens(&mut commit, pair);
            }
            let device = DeviceRow {
                display_name: old.map_or(display_name, |old| old.display_name),
                current: fresh.pair.clone(),
                next: None,
            };
            commit.put(&DEVICES, &user_id, &device_id, &device);
            let issued = fresh.record(&mut commit, user_id.clone(), device_id.clone());
            let position = commit.next_position();
            let entry = user_entry(LogKind::Device, &user_id, device_id.as_bytes());
            commit.log(position, entry);
            commit.touch(Topic::new(user_id.as_str()));
            // Before the commit, which wakes those who look whether their session has ended.
            for pair in &ended {
                users.inner.sessions.remove(pair);
            }
            match created {
                Some(created) => users.commit_change(&user_id, created, commit).await?,
                None => drop(users.store().commit(commit).await?),
            }
            Ok(issued)
        })
        .await
    }

    /// Exchanges a refresh token (CS "Refreshing access tokens"). The old pair stays usable until one
    /// of the new tokens is used, so that a client that misses the answer may ask again.
    pub async fn refresh(&self, refresh_token: &str) -> Result<IssuedTokens, UsersError> {
        let token = TokenHash::of(refresh_token);
        let unknown = UsersError::UnknownToken { soft_logout: false };
        let Some(row) = self.store().get(&REFRESH_TOKENS, &token, &()).await? else {
            return Err(unknown);
        };
        let fresh = self.fresh_tokens(true)?;
        self.exclusive(&row.user_id, move |users, user_id| async move {
            let device_id = row.device_id;
            let device = users.store().get(&DEVICES, &user_id, &device_id).await?;
            let account = users.account(&user_id).await?.filter(|found| !found.is_deactivated);
            let (Some(mut device), Some(account)) = (device, account) else {
                return Err(unknown);
            };
            let Some(pair) = device.pair_of_refresh(token) else { return Err(unknown) };
            if pair.refresh_expires_ms.is_some_and(|at| at <= users.now_ms()) {
                return Err(UsersError::UnknownToken { soft_logout: true });
            }
            if account.is_locked {
                return Err(UsersError::Locked);
            }
            if device.current.refresh != Some(token) {
                device = users.promote(&user_id, &device_id, device).await?;
            }
            let unused = device.next.replace(fresh.pair.clone());
            let mut commit = Commit::new(&user_id);
            commit.put(&DEVICES, &user_id, &device_id, &device);
            if let Some(unused) = &unused {
                forget_tokens(&mut commit, unused);
            }
            let issued = fresh.record(&mut commit, user_id, device_id);
            users.store().commit(commit).await?;
            Ok(issued)
        })
        .await
    }

    /// Ends a session: its device and tokens are gone.
    pub async fn logout(&self, session: &Session) -> Result<(), UsersError> {
        let devices = [session.device_id().to_owned()];
        self.delete_devices(session.user_id(), &devices).await.map(|_| ())
    }

    /// Ends all sessions of a user; returns the devices that went.
    pub async fn logout_all(&self, user_id: &UserId) -> Result<Vec<OwnedDeviceId>, UsersError> {
        self.exclusive(user_id, move |users, user_id| async move {
            users.delete_all_devices_now(&user_id, None).await
        })
        .await
    }

    /// A token that logs in one more client of this user, once, within two minutes; and its lifetime in
    /// milliseconds (`m.login.token`, CS "Token-based user login"). Kept in memory.
    pub fn create_login_token(&self, user_id: &UserId) -> Result<(String, u64), UsersError> {
        let token = new_token("hl_")?;
        let mut tokens = self.inner.login_tokens.lock();
        tokens.0.insert(self.now_ms(), TokenHash::of(&token), user_id.to_owned());
        Ok((token, tokens.0.lifetime_ms()))
    }

    /// Who logs in with this login token, which is spent by the question.
    pub async fn login_with_token(&self, login_token: &str) -> Result<OwnedUserId, UsersError> {
        let token = TokenHash::of(login_token);
        let user_id = self.inner.login_tokens.lock().0.take(self.now_ms(), &token);
        let user_id = user_id.ok_or(UsersError::WrongCredentials)?;
        match self.account(&user_id).await? {
            None => Err(UsersError::WrongCredentials),
            Some(account) if account.is_deactivated => Err(UsersError::Deactivated),
            Some(account) if account.is_locked => Err(UsersError::Locked),
            Some(_) => Ok(user_id),
        }
    }

    fn fresh_tokens(&self, refreshable: bool) -> Result<FreshTokens, UsersError> {
        let config = &self.inner.config;
        let now_ms = self.now_ms();
        let expiry = |lifetime: Option<Duration>| {
            lifetime.map(|lifetime| now_ms.saturating_add(millis(lifetime)))
        };
        let lifetime = config.access_token_lifetime(refreshable);
        let access_token = new_token("ha_")?;
        let refresh_token = if refreshable { Some(new_token("hr_")?) } else { None };
        let refresh_expires_ms =
            if refreshable { expiry(config.refresh_token_lifetime()) } else { None };
        Ok(FreshTokens {
            pair: TokenPair {
                access: TokenHash::of(&access_token),
                access_expires_ms: expiry(lifetime),
                refresh: refresh_token.as_deref().map(TokenHash::of),
                refresh_expires_ms,
            },
            access_token,
            refresh_token,
            expires_in_ms: lifetime.map(millis),
        })
    }
}

/// Tokens on their way to the client, and what is stored of them.
struct FreshTokens {
    pair: TokenPair,
    access_token: String,
    refresh_token: Option<String>,
    expires_in_ms: Option<u64>,
}

impl FreshTokens {
    /// Makes the tokens known under their hashes.
    fn record(
        self,
        commit: &mut Commit,
        user_id: OwnedUserId,
        device_id: OwnedDeviceId,
    ) -> IssuedTokens {
        let row = TokenRow { user_id, device_id };
        commit.effect_put(&ACCESS_TOKENS, &self.pair.access, &(), &row);
        if let Some(refresh) = &self.pair.refresh {
            commit.effect_put(&REFRESH_TOKENS, refresh, &(), &row);
        }
        IssuedTokens {
            user_id: row.user_id,
            device_id: row.device_id,
            access_token: self.access_token,
            refresh_token: self.refresh_token,
            expires_in_ms: self.expires_in_ms,
        }
    }
}

/// Takes the tokens of a pair out of the look-up rows.
pub(crate) fn forget_tokens(commit: &mut Commit, pair: &TokenPair) {
    commit.effect_delete(&ACCESS_TOKENS, &pair.access, &());
    if let Some(refresh) = &pair.refresh {
        commit.effect_delete(&REFRESH_TOKENS, refresh, &());
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
