//! The long poll.

use std::{
    fmt,
    hash::{BuildHasher, RandomState},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use hearth_types::StreamPosition;
use hearth_users::TaggedRooms;
use quick_cache::sync::Cache;
use ruma::{OwnedDeviceId, OwnedUserId, presence::PresenceState};
use tokio::time::{Instant, timeout_at};

use super::{
    activity::Activity,
    connections::{Connections, Slot},
    extensions::to_device_since,
    facets::FacetCache,
    pass,
    pos::Pos,
    request::{Rules, RulesHash, SlidingBody},
    rooms::Helpers,
    unread::UnreadCache,
};
use crate::{SyncError, SyncService, hub::Session};

/// Users whose tags are remembered for filters.
const MAX_TAGGERS: usize = 10_000;

/// A sliding sync request of either form.
#[derive(Clone, Debug)]
pub struct SlidingRequest {
    /// Who asks.
    pub user_id: OwnedUserId,
    /// On which device.
    pub device_id: OwnedDeviceId,
    /// What for.
    pub body: SlidingBody,
    /// The `pos` of the last response on this connection; `None` begins one.
    pub pos: Option<String>,
    /// How long to wait when there is nothing to tell; not without a `pos`.
    pub timeout: Duration,
    /// What the request says about the user's presence; `Offline` leaves it alone.
    pub set_presence: PresenceState,
}

/// The response.
#[derive(Clone, Debug)]
pub struct SlidingResponse {
    /// The body, as JSON: to be sent as it is.
    pub body: Bytes,
    /// Is there nothing new in it?
    pub is_empty: bool,
}

/// What all sliding syncs share.
pub(crate) struct Sliding {
    pub(crate) connections: Connections,
    pub(crate) activity: Activity,
    pub(crate) facets: FacetCache,
    /// Tags by user, right up to a position.
    pub(crate) tags: Cache<OwnedUserId, (StreamPosition, Arc<TaggedRooms>)>,
    pub(crate) unread: UnreadCache,
    pub(crate) helpers: Helpers,
    hasher: RandomState,
}

impl Sliding {
    pub(crate) fn new() -> Self {
        Self {
            connections: Connections::default(),
            activity: Activity::new(),
            facets: FacetCache::new(),
            tags: Cache::new(MAX_TAGGERS),
            unread: UnreadCache::new(),
            helpers: Helpers::new(),
            hasher: RandomState::new(),
        }
    }

    /// What tells rules apart.
    pub(crate) fn hash(&self, rules: &Rules) -> RulesHash {
        RulesHash(self.hasher.hash_one(rules))
    }
}

impl fmt::Debug for Sliding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sliding").finish_non_exhaustive()
    }
}

impl SyncService {
    /// What changed on a connection since its last response; waits up to the request's timeout when
    /// nothing did. [`SyncError::UnknownPos`] if the connection is not remembered. A request that is
    /// dropped leaves everything as it was.
    pub async fn sliding(&self, request: SlidingRequest) -> Result<SlidingResponse, SyncError> {
        let pos = request.pos.as_deref().map(str::parse::<Pos>).transpose()?;
        let to_device = to_device_since(&self.inner, &request)?;
        let connection = self.inner.hub.connect(&request.user_id);
        let slot = self.slot(&request, pos)?;
        if let Some(until) = to_device {
            self.arrived(&request, until).await;
        }
        let _present =
            self.inner.users.presence_syncing(&request.user_id, request.set_presence.clone());
        let timeout = match pos {
            Some(_) => request.timeout.min(self.inner.config.max_timeout()),
            None => Duration::ZERO,
        };
        let deadline = Instant::now() + timeout;
        self.wait_for_news(connection.session(), &Arc::new(request), &slot, pos, deadline).await
    }

    fn slot(&self, request: &SlidingRequest, pos: Option<Pos>) -> Result<Arc<Slot>, SyncError> {
        let connections = &self.inner.sliding.connections;
        let boot = self.inner.users.boot_id();
        match pos {
            None => Ok(connections.begin(boot)),
            Some(pos) => {
                let key = (&*request.user_id, &*request.device_id, &*request.body.conn_id);
                connections.find(key, pos, boot, self.inner.clock.now_ms())
            }
        }
    }

    /// The device has its messages up to here. Failures are logged only: they stay, and are sent again
    /// to a client that asks for them.
    async fn arrived(&self, request: &SlidingRequest, until: StreamPosition) {
        let (user_id, device_id) = (&request.user_id, &request.device_id);
        if let Err(error) = self.inner.e2ee.acknowledge_to_device(user_id, device_id, until).await {
            tracing::error!(%error, "delivered messages to a device stay for now");
        }
    }

    /// Registers, reads, waits, until there is something to tell, the time is over, or another request
    /// takes over the connection.
    async fn wait_for_news(
        &self,
        session: &Arc<Session>,
        request: &Arc<SlidingRequest>,
        slot: &Arc<Slot>,
        pos: Option<Pos>,
        deadline: Instant,
    ) -> Result<SlidingResponse, SyncError> {
        let mut closing = self.inner.closing();
        let turn = slot.take_turn();
        loop {
            let waiter = session.listen();
            let superseded = slot.superseded();
            // Boxed, so that what a pass needs does not stay with a request while it waits.
            let response = Box::pin(self.look(session, request, (slot, turn), pos)).await?;
            if !response.is_empty
                || pos.is_none()
                || !slot.has_turn(turn)
                || *closing.borrow_and_update()
                || Instant::now() >= deadline
            {
                return Ok(response);
            }
            let woken = async {
                tokio::select! {
                    () = waiter.changed(self.inner.config.quiet_interval()) => {}
                    () = superseded => {}
                    _ = closing.changed() => {}
                }
            };
            if timeout_at(deadline, woken).await.is_err() || !slot.has_turn(turn) {
                return Ok(response);
            }
        }
    }

    async fn look(
        &self,
        session: &Arc<Session>,
        request: &Arc<SlidingRequest>,
        (slot, turn): (&Arc<Slot>, u64),
        pos: Option<Pos>,
    ) -> Result<SlidingResponse, SyncError> {
        let Some(mut connection) = slot.in_turn(turn).await else {
            return Ok(SlidingResponse { body: pass::nothing(request), is_empty: true });
        };
        let proven = match pos {
            Some(pos) => connection.enter(pos)?,
            None => Vec::new(),
        };
        let answer = pass::answer(&self.inner, session, request, &mut connection).await?;
        let weight = connection.weight();
        drop(connection);
        let key = (&*request.user_id, &*request.device_id, &*request.body.conn_id);
        let now_ms = self.inner.clock.now_ms();
        self.inner.sliding.connections.keep(key, slot, weight, now_ms);
        if self.inner.config.delivery_receipts {
            self.tell_delivered(&request.user_id, proven).await;
        }
        Ok(SlidingResponse { body: answer.body, is_empty: answer.is_empty })
    }
}
