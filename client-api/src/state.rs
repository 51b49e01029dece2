//! What handlers hold.

use std::{net::IpAddr, sync::Arc};

use hearth_delayed::Delayed;
use hearth_e2ee::E2ee;
use hearth_http::{ApiState, Authenticate, Http, MatrixError, Session, TokenError};
use hearth_media::Media;
use hearth_push::Push;
use hearth_rooms::Rooms;
use hearth_sync::SyncService;
use hearth_types::{Clock, ServerIdentity};
use hearth_users::{AuthError, Users};
use ruma::{DeviceId, UserId};

use crate::{ApiError, ClientConfig, delayed::DelayedSender};

/// The state of the client-server API: handles of the domain crates. Cheap to clone.
#[derive(Clone, Debug)]
pub struct ClientApi(Arc<Parts>);

#[derive(Debug)]
struct Parts {
    http: Http,
    identity: Arc<ServerIdentity>,
    clock: Arc<dyn Clock>,
    users: Users,
    rooms: Rooms,
    e2ee: E2ee,
    media: Media,
    sync: SyncService,
    push: Push,
    delayed: Delayed,
    config: ClientConfig,
}

impl ClientApi {
    /// The API over these services.
    #[must_use]
    #[expect(clippy::too_many_arguments, reason = "one handle for each service")]
    pub fn new(
        http: Http,
        identity: Arc<ServerIdentity>,
        clock: Arc<dyn Clock>,
        users: Users,
        rooms: Rooms,
        e2ee: E2ee,
        media: Media,
        sync: SyncService,
        push: Push,
        delayed: Delayed,
        config: ClientConfig,
    ) -> Self {
        let parts =
            Parts { http, identity, clock, users, rooms, e2ee, media, sync, push, delayed, config };
        Self(Arc::new(parts))
    }

    /// Who this server is.
    pub(crate) fn identity(&self) -> &ServerIdentity {
        &self.0.identity
    }

    /// The time.
    pub(crate) fn clock(&self) -> &dyn Clock {
        &*self.0.clock
    }

    /// Accounts and what belongs to them.
    pub(crate) fn users(&self) -> &Users {
        &self.0.users
    }

    /// Rooms.
    pub(crate) fn rooms(&self) -> &Rooms {
        &self.0.rooms
    }

    /// Keys and messages to devices.
    pub(crate) fn e2ee(&self) -> &E2ee {
        &self.0.e2ee
    }

    /// What users upload.
    pub(crate) fn media(&self) -> &Media {
        &self.0.media
    }

    /// Refuses a session that has ended or was locked since it was proven, as a new request of it
    /// would be.
    pub(crate) async fn must_last(&self, caller: &LocalUser) -> Result<(), MatrixError> {
        let session = self.users().authenticate_again(&caller.0).await.map_err(no_session)?;
        if session.is_locked() { Err(MatrixError::user_locked()) } else { Ok(()) }
    }

    /// What changed for whom.
    pub(crate) fn sync(&self) -> &SyncService {
        &self.0.sync
    }

    /// Pushers, and what users were notified of.
    pub(crate) fn push(&self) -> &Push {
        &self.0.push
    }

    /// Events that are sent later.
    pub(crate) fn delayed(&self) -> &Delayed {
        &self.0.delayed
    }

    /// Begins to send delayed events that are due.
    pub fn start_delayed(&self) {
        self.delayed().start(Arc::new(DelayedSender(self.clone())));
    }

    /// The section `[client]`.
    pub(crate) fn config(&self) -> &ClientConfig {
        &self.0.config
    }
}

impl ApiState for ClientApi {
    fn http(&self) -> &Http {
        &self.0.http
    }
}

impl Authenticate for ClientApi {
    type Session = LocalUser;

    async fn authenticate(
        &self,
        token: &str,
        address: Option<IpAddr>,
    ) -> Result<LocalUser, TokenError> {
        let session = self.users().authenticate(token).await.map_err(no_session)?;
        self.users().note_seen(&session, address);
        Ok(LocalUser(session))
    }
}

fn no_session(error: AuthError) -> TokenError {
    match error {
        AuthError::UnknownToken { soft_logout: true } => TokenError::Expired,
        AuthError::UnknownToken { soft_logout: false } => TokenError::Unknown,
        AuthError::Internal(error) => TokenError::Other(ApiError::from(*error).into()),
    }
}

/// Proof that a request came from a device of a local user.
#[derive(Clone, Debug)]
pub struct LocalUser(pub(crate) hearth_users::Session);

impl LocalUser {
    /// Who is asking.
    #[must_use]
    pub fn user_id(&self) -> &UserId {
        self.0.user_id()
    }

    /// From which device.
    #[must_use]
    pub fn device_id(&self) -> &DeviceId {
        self.0.device_id()
    }

    /// Refuses a suspended account (CS "Account suspension"). For everything that writes, but for
    /// leaving rooms and redacting one's own events.
    pub fn may_write(&self) -> Result<&Self, MatrixError> {
        if self.0.is_suspended() {
            return Err(MatrixError::suspended("Your account is suspended"));
        }
        Ok(self)
    }

    /// Refuses requests about another user's things.
    pub fn must_be(&self, user_id: &UserId) -> Result<&Self, MatrixError> {
        if self.user_id() != user_id {
            return Err(MatrixError::forbidden("You cannot do this for another user"));
        }
        Ok(self)
    }

    /// Refuses users who do not administer this server.
    pub fn must_be_admin(&self) -> Result<&Self, MatrixError> {
        if !self.0.is_admin() {
            return Err(MatrixError::forbidden("You are not an administrator of this server"));
        }
        Ok(self)
    }
}

impl Session for LocalUser {
    fn user_id(&self) -> &UserId {
        self.0.user_id()
    }

    fn is_locked(&self) -> bool {
        self.0.is_locked()
    }

    fn is_guest(&self) -> bool {
        self.0.is_guest()
    }
}
