//! [`SyncService`]: the crate's face, and the loop of a long poll.

use std::{fmt, sync::Arc, time::Duration};

use bytes::Bytes;
use hearth_e2ee::E2ee;
use hearth_rooms::{Rooms, read::UnreadTotals};
use hearth_storage::{Notifier, Store};
use hearth_types::Clock;
use hearth_users::Users;
use ruma::{
    DeviceId, OwnedDeviceId, OwnedUserId, RoomId, UserId,
    api::client::{filter::FilterDefinition, sync::sync_events::v3::Filter},
    presence::PresenceState,
};
use tokio::{
    sync::watch,
    time::{Instant, timeout_at},
};

use crate::{
    SyncConfig, SyncError, SyncStream, SyncToken,
    counts::CountCache,
    directory::RemoteDirectory,
    echoes::{Echoes, Unanswered},
    filter::SyncFilter,
    hub::{Connection, Hub},
    judge::{LevelsCache, levels_cache},
    pass::{Pass, Question},
    presence::{PresenceLog, RoomAudience},
    sliding::Sliding,
};

/// The section of a room that has the state after its timeline.
const STATE_AFTER: &str = "state_after";
/// What it was called before the specification had it (MSC4222).
const UNSTABLE_STATE_AFTER: &str = "org.matrix.msc4222.state_after";

/// One `/sync` request (CS "GET /sync").
#[derive(Clone, Debug)]
pub struct SyncRequest {
    /// Who asks.
    pub user_id: OwnedUserId,
    /// On which device.
    pub device_id: OwnedDeviceId,
    /// The `next_batch` of the response that the device got last.
    pub since: Option<String>,
    /// The filter: inline, or the ID of a stored one.
    pub filter: Option<Filter>,
    /// Send whole states although there is a `since`.
    pub full_state: bool,
    /// What the request says about the user's presence; `Offline` leaves it alone.
    pub set_presence: PresenceState,
    /// How long to wait when there is nothing to tell.
    pub timeout: Duration,
    /// Send the state after the timeline instead of before it.
    pub use_state_after: bool,
    /// That was asked for by its name from before the specification had it (MSC4222), under which the
    /// answer has it, too.
    pub unstable_state_after: bool,
}

/// One `/sync` response.
#[derive(Clone, Debug)]
pub struct SyncResponse {
    /// The token that stands in the body as `next_batch`.
    pub next_batch: String,
    /// The body, as JSON: to be sent as it is.
    pub body: Bytes,
    /// Does the body hold nothing but the token?
    pub is_empty: bool,
}

/// Answers what changed for whom. Cheap to clone.
#[derive(Clone)]
pub struct SyncService {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) rooms: Rooms,
    pub(crate) users: Users,
    pub(crate) e2ee: E2ee,
    pub(crate) store: Store,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) config: SyncConfig,
    pub(crate) hub: Arc<Hub>,
    pub(crate) counts: CountCache,
    pub(crate) levels: LevelsCache,
    pub(crate) presence: Arc<PresenceLog>,
    pub(crate) sliding: Sliding,
    pub(crate) directory: RemoteDirectory,
    pub(crate) echoes: Arc<Echoes>,
    closing: watch::Sender<bool>,
}

impl fmt::Debug for SyncService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SyncService").field("hub", &self.inner.hub).finish_non_exhaustive()
    }
}

impl SyncService {
    /// Sync over these rooms and users. Plugs itself into presence, which it routes to the rooms of a
    /// user. [`SyncError::InvalidParam`] if the configuration is not valid.
    pub fn open(
        rooms: Rooms,
        users: Users,
        e2ee: E2ee,
        store: Store,
        clock: Arc<dyn Clock>,
        config: SyncConfig,
    ) -> Result<Self, SyncError> {
        config.validate().map_err(SyncError::InvalidParam)?;
        let hub = Arc::new(Hub::new(Arc::clone(store.notifier()), Arc::clone(&clock), &config));
        let presence = Arc::new(PresenceLog::default());
        let audience =
            RoomAudience::new(rooms.clone(), Arc::clone(&presence), config.large_room_members);
        users.set_presence_audience(Arc::new(audience));
        let counts = CountCache::new();
        let closing = watch::Sender::new(false);
        let inner = Inner {
            rooms,
            users,
            e2ee,
            store,
            clock,
            config,
            hub,
            counts,
            levels: levels_cache(),
            presence,
            sliding: Sliding::new(),
            directory: RemoteDirectory::default(),
            echoes: Arc::default(),
            closing,
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// What changed since the request's token; waits up to its timeout when nothing did.
    pub async fn sync(&self, request: SyncRequest) -> Result<SyncResponse, SyncError> {
        let question = self.question(&request).await?;
        if let Some(since) = question.since {
            self.acknowledged(&request.user_id, &request.device_id, &since).await;
        }
        self.poll(request, question).await
    }

    /// What the endpoints of before `/sync` show (CS `GET /events`, `GET /initialSync`). They do not carry
    /// messages to devices, so that their tokens prove nothing and those messages stay; and a room that
    /// the user came into since the token tells what happened since, not what was before.
    pub async fn events(&self, request: SyncRequest) -> Result<SyncResponse, SyncError> {
        let mut question = self.question(&request).await?;
        question.news_only = true;
        self.poll(request, question).await
    }

    /// The token of now: what happens from here on is news to it.
    #[must_use]
    pub fn now(&self) -> SyncToken {
        let position = self.inner.notifier().published();
        SyncToken {
            position,
            boot: self.inner.users.boot_id(),
            typing: self.inner.users.typing_serial(),
            presence: self.inner.presence.serial(),
            to_device: position,
        }
    }

    async fn poll(
        &self,
        request: SyncRequest,
        mut question: Question,
    ) -> Result<SyncResponse, SyncError> {
        let connection = self.inner.hub.connect(&request.user_id);
        let _present = self.inner.users.presence_syncing(&request.user_id, request.set_presence);
        let timeout = request.timeout.min(self.inner.config.max_timeout());
        let deadline = Instant::now() + timeout;
        self.wait_for_change(&connection, &mut question, deadline).await
    }

    /// The same responses pushed as they come; see [`SyncStream`]. The timeout is not used.
    pub async fn stream(&self, request: SyncRequest) -> Result<SyncStream, SyncError> {
        let mut question = self.question(&request).await?;
        question.after_answers = false;
        let connection = self.inner.hub.connect(&request.user_id);
        let present =
            self.inner.users.presence_syncing(&request.user_id, request.set_presence.clone());
        if let Some(since) = question.since {
            self.acknowledged(&request.user_id, &request.device_id, &since).await;
        }
        Ok(SyncStream::new(self.clone(), question, connection, present))
    }

    /// What is unread for a user in a room, by their own push rules and receipts.
    pub async fn unread(
        &self,
        user_id: &UserId,
        room_id: &RoomId,
    ) -> Result<UnreadTotals, SyncError> {
        let until = self.inner.store.notifier().published();
        match self.inner.rooms.user_room(user_id, room_id).await? {
            Some(row) => self.inner.unread(user_id, room_id, &row, until).await,
            None => Ok(UnreadTotals::default()),
        }
    }

    /// Has the room more joined members than receipts and presence are passed on to?
    pub async fn is_large(&self, room_id: &RoomId) -> Result<bool, SyncError> {
        let head = self.inner.rooms.head(room_id).await?;
        Ok(head.is_some_and(|head| head.joined_members > self.inner.config.large_room_members))
    }

    /// The user looks at this room (sent something, a receipt or typing there): for a while their
    /// clients are woken by it at once, however large it is.
    pub fn viewed(&self, user_id: &UserId, room_id: &RoomId) {
        if let Some(session) = self.inner.hub.session(user_id) {
            let viewing = u64::try_from(self.inner.config.viewing().as_millis());
            let until = self.inner.clock.now_ms().saturating_add(viewing.unwrap_or(u64::MAX));
            session.viewed(room_id, until);
        }
    }

    /// This device begins to send or make something. Until the result is dropped, which is to happen when
    /// the answer has left, syncs of this device wait with what came of it; for a moment at most.
    pub fn unanswered(&self, user_id: &UserId, device_id: &DeviceId) -> Unanswered {
        let published = self.inner.notifier().published();
        self.inner.echoes.unanswered(user_id, device_id, published)
    }

    /// Lets every waiting request answer at once with what there is, and streams end. For shutdown.
    pub fn close(&self) {
        self.inner.closing.send_replace(true);
    }

    /// Has [`Self::close`] been called?
    #[must_use]
    pub fn is_closing(&self) -> bool {
        *self.inner.closing.borrow()
    }

    async fn question(&self, request: &SyncRequest) -> Result<Question, SyncError> {
        let since = match &request.since {
            Some(text) => Some(self.inner.read_token(text)?),
            None => None,
        };
        Ok(Question {
            user_id: request.user_id.clone(),
            device_id: request.device_id.clone(),
            since,
            filter: self.filter(&request.user_id, request.filter.as_ref()).await?,
            full_state: request.full_state,
            state_after: request.use_state_after.then_some(if request.unstable_state_after {
                UNSTABLE_STATE_AFTER
            } else {
                STATE_AFTER
            }),
            news_only: false,
            after_answers: true,
        })
    }

    async fn filter(
        &self,
        user_id: &UserId,
        filter: Option<&Filter>,
    ) -> Result<Arc<SyncFilter>, SyncError> {
        let definition = match filter {
            None => Arc::new(FilterDefinition::default()),
            Some(Filter::FilterDefinition(definition)) => Arc::new(definition.clone()),
            Some(Filter::FilterId(id)) => self
                .inner
                .users
                .filter_definition(user_id, id)
                .await?
                .ok_or(SyncError::UnknownFilter)?,
            Some(_) => return Err(SyncError::InvalidParam("filter: unknown form".to_owned())),
        };
        Ok(Arc::new(SyncFilter::new(definition, &self.inner.config)))
    }

    /// The long poll: registers, reads, waits, until there is something to tell or the time is over.
    pub(crate) async fn wait_for_change(
        &self,
        connection: &Connection,
        question: &mut Question,
        deadline: Instant,
    ) -> Result<SyncResponse, SyncError> {
        let session = connection.session();
        let mut closing = self.inner.closing.subscribe();
        loop {
            let waiter = session.listen();
            // Boxed, so that what a pass needs does not stay with a request while it waits.
            let response = Box::pin(Pass::answer(&self.inner, session, question)).await?;
            if !response.is_empty
                || question.since.is_none()
                || question.full_state
                || *closing.borrow_and_update()
                || Instant::now() >= deadline
            {
                return Ok(response);
            }
            // Nothing happened up to here: the next look need not go further back.
            question.since = Some(self.inner.read_token(&response.next_batch)?);
            let woken = async {
                tokio::select! {
                    () = waiter.changed(self.inner.config.quiet_interval()) => {}
                    _ = closing.changed() => {}
                }
            };
            if timeout_at(deadline, woken).await.is_err() {
                return Ok(response);
            }
        }
    }
}

impl Inner {
    pub(crate) fn notifier(&self) -> &Notifier {
        self.store.notifier()
    }

    /// Becomes true when the service is closed.
    pub(crate) fn closing(&self) -> watch::Receiver<bool> {
        self.closing.subscribe()
    }

    /// Reads a token of a client. One from the future is not ours: this store never was there.
    pub(crate) fn read_token(&self, text: &str) -> Result<SyncToken, SyncError> {
        let token: SyncToken = text.parse()?;
        if token.position > self.notifier().published() {
            return Err(SyncError::InvalidParam("since: unknown token".to_owned()));
        }
        Ok(token.in_run(self.users.boot_id()))
    }
}
