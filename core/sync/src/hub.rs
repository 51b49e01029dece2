//! Who is connected, and what they listen to.
//!
//! A [`Session`] stands for one user with at least one connected client, or one who was connected a
//! moment ago. It listens to the user's topic and to those of the rooms they are in, holds the list of
//! these rooms, and wakes the user's waiting requests. The [`Hub`] keeps sessions for a while after
//! their last request, since the next poll follows at once.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use hearth_rooms::{
    Rooms,
    schema::{Membership, UserRoomRow},
};
use hearth_storage::{Listener, Notifier, Topic};
use hearth_types::{Clock, StreamPosition};
use parking_lot::{Mutex, RwLock};
use ruma::{DeviceId, OwnedDeviceId, OwnedRoomId, OwnedUserId, RoomId, UserId};
use tokio::{
    sync::futures::Notified,
    time::{Instant, sleep_until, timeout},
};

use crate::{SyncConfig, SyncError, delivery::Deliveries, members::KnownMembers};

/// Devices of one user whose memory is kept; one more and all are forgotten, which costs some
/// memberships sent twice.
const MAX_DEVICES: usize = 100;
/// How long what is visible in the store may take to be published; the disk decides.
const MAX_PUBLISHING: Duration = Duration::from_mins(1);

/// The registry of sessions.
pub(crate) struct Hub {
    notifier: Arc<Notifier>,
    clock: Arc<dyn Clock>,
    max_idle: usize,
    idle: Duration,
    state: Mutex<HubState>,
}

#[derive(Default)]
struct HubState {
    sessions: HashMap<OwnedUserId, Entry>,
    /// Sessions without a connection, the longest idle first; entries of sessions that were used
    /// again are passed over.
    idle: VecDeque<(OwnedUserId, u64)>,
}

struct Entry {
    session: Arc<Session>,
    connections: usize,
    /// When the last connection ended, in milliseconds.
    idle_since: u64,
}

impl Hub {
    pub(crate) fn new(notifier: Arc<Notifier>, clock: Arc<dyn Clock>, config: &SyncConfig) -> Self {
        Self {
            notifier,
            clock,
            max_idle: config.max_idle_sessions,
            idle: config.session_idle(),
            state: Mutex::default(),
        }
    }

    /// A connection of this user; the session lives at least as long.
    pub(crate) fn connect(self: &Arc<Self>, user_id: &UserId) -> Connection {
        let mut state = self.state.lock();
        let entry = state.sessions.entry(user_id.to_owned()).or_insert_with(|| Entry {
            session: Session::start(user_id, &self.notifier, &self.clock),
            connections: 0,
            idle_since: 0,
        });
        entry.connections += 1;
        let session = Arc::clone(&entry.session);
        let retired = self.retire(&mut state);
        drop(state);
        for session in retired {
            session.stop();
        }
        Connection { hub: Arc::clone(self), session }
    }

    /// The session of a user who is or was just connected.
    pub(crate) fn session(&self, user_id: &UserId) -> Option<Arc<Session>> {
        self.state.lock().sessions.get(user_id).map(|entry| Arc::clone(&entry.session))
    }

    fn disconnect(&self, user_id: &UserId) {
        let now = self.clock.now_ms();
        let mut state = self.state.lock();
        let HubState { sessions, idle } = &mut *state;
        if let Some(entry) = sessions.get_mut(user_id) {
            entry.connections = entry.connections.saturating_sub(1);
            if entry.connections == 0 {
                entry.idle_since = now;
                idle.push_back((user_id.to_owned(), now));
            }
        }
        let retired = self.retire(&mut state);
        drop(state);
        for session in retired {
            session.stop();
        }
    }

    /// Takes out sessions that were idle for too long, or are too many.
    fn retire(&self, state: &mut HubState) -> Vec<Arc<Session>> {
        let idle_ms = u64::try_from(self.idle.as_millis()).unwrap_or(u64::MAX);
        let now = self.clock.now_ms();
        let mut retired = Vec::new();
        while let Some((user_id, since)) = state.idle.front() {
            let too_many = state.idle.len() > self.max_idle;
            let too_old = now.saturating_sub(*since) >= idle_ms;
            let current = state
                .sessions
                .get(user_id)
                .is_some_and(|entry| entry.connections == 0 && entry.idle_since == *since);
            if current && !too_many && !too_old {
                break;
            }
            if current && let Some(entry) = state.sessions.remove(user_id) {
                retired.push(entry.session);
            }
            state.idle.pop_front();
        }
        retired
    }
}

impl fmt::Debug for Hub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sessions = self.state.lock().sessions.len();
        f.debug_struct("Hub").field("sessions", &sessions).finish_non_exhaustive()
    }
}

/// One waiting or working request of a user.
#[derive(Debug)]
pub(crate) struct Connection {
    hub: Arc<Hub>,
    session: Arc<Session>,
}

impl Connection {
    pub(crate) fn session(&self) -> &Arc<Session> {
        &self.session
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.hub.disconnect(&self.session.user_id);
    }
}

/// A room that a user is in.
#[derive(Clone, Debug)]
pub(crate) struct JoinedRoom {
    pub(crate) room_id: OwnedRoomId,
    pub(crate) row: UserRoomRow,
}

/// The rooms of a user, as of a position or later.
#[derive(Debug, Default)]
pub(crate) struct RoomList {
    pub(crate) loaded_at: StreamPosition,
    /// The newest change in the list, perhaps one that is not published yet.
    newest: StreamPosition,
    pub(crate) joined: Vec<JoinedRoom>,
    /// The topics of `joined`, in the same order.
    pub(crate) topics: Vec<Topic>,
    /// Invitations, knocks, and rooms that the user left; forgotten ones too, since other devices of
    /// theirs may not know yet that they left.
    pub(crate) others: Vec<(OwnedRoomId, UserRoomRow)>,
}

impl RoomList {
    pub(crate) fn place_of(&self, room_id: &RoomId) -> Option<usize> {
        self.joined.binary_search_by(|room| room.room_id.as_str().cmp(room_id.as_str())).ok()
    }
}

/// What is remembered of one device.
#[derive(Debug, Default)]
pub(crate) struct DeviceMemory {
    pub(crate) members: KnownMembers,
    pub(crate) deliveries: Deliveries,
}

/// One user's connections.
pub(crate) struct Session {
    pub(crate) user_id: OwnedUserId,
    topic: Topic,
    e2ee_topic: Topic,
    notifier: Arc<Notifier>,
    clock: Arc<dyn Clock>,
    wake: tokio::sync::Notify,
    /// Large rooms, and until when (in milliseconds) each counts as viewed.
    quiet: RwLock<HashMap<Topic, u64>>,
    quiet_wake: tokio::sync::Notify,
    quiet_pending: AtomicBool,
    list: Mutex<Listening>,
    devices: Mutex<HashMap<OwnedDeviceId, Arc<Mutex<DeviceMemory>>>>,
}

#[derive(Default)]
struct Listening {
    list: Option<Arc<RoomList>>,
    topics: HashSet<Topic>,
    stopped: bool,
    /// This session, as the notifier knows it.
    listener: Option<Arc<dyn Listener>>,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("user_id", &self.user_id).finish_non_exhaustive()
    }
}

impl Listener for Session {
    fn changed(&self, topic: &Topic, _position: StreamPosition) {
        let quiet = self
            .quiet
            .read()
            .get(topic)
            .is_some_and(|viewed_until| self.clock.now_ms() >= *viewed_until);
        if !quiet {
            self.wake.notify_waiters();
        } else if !self.quiet_pending.swap(true, Ordering::AcqRel) {
            self.quiet_wake.notify_waiters();
        }
    }
}

impl Session {
    fn start(user_id: &UserId, notifier: &Arc<Notifier>, clock: &Arc<dyn Clock>) -> Arc<Self> {
        let session = Arc::new(Self {
            user_id: user_id.to_owned(),
            topic: Topic::new(user_id.as_str()),
            e2ee_topic: hearth_e2ee::user_topic(user_id),
            notifier: Arc::clone(notifier),
            clock: Arc::clone(clock),
            wake: tokio::sync::Notify::new(),
            quiet: RwLock::default(),
            quiet_wake: tokio::sync::Notify::new(),
            quiet_pending: AtomicBool::new(false),
            list: Mutex::default(),
            devices: Mutex::default(),
        });
        let listener: Arc<dyn Listener> = Arc::clone(&session) as Arc<dyn Listener>;
        notifier.subscribe(&session.topic, &listener);
        notifier.subscribe(&session.e2ee_topic, &listener);
        session.list.lock().listener = Some(listener);
        session
    }

    /// Stops listening. A request that still holds the session reads on, and is woken no more.
    fn stop(&self) {
        let mut listening = self.list.lock();
        listening.stopped = true;
        let topics = std::mem::take(&mut listening.topics);
        let listener = listening.listener.take();
        drop(listening);
        if let Some(listener) = listener {
            self.notifier.unsubscribe(&self.topic, &listener);
            self.notifier.unsubscribe(&self.e2ee_topic, &listener);
            for topic in &topics {
                self.notifier.unsubscribe(topic, &listener);
            }
        }
    }

    /// The user's topic: account data, memberships, receipts of their own.
    pub(crate) fn topic(&self) -> &Topic {
        &self.topic
    }

    /// The topic of messages to the user's devices and of their keys.
    pub(crate) fn e2ee_topic(&self) -> &Topic {
        &self.e2ee_topic
    }

    /// The user's rooms, exact for the position that comes with them, which is published. All of the
    /// list's rooms are listened to when this returns.
    pub(crate) async fn rooms(
        &self,
        rooms: &Rooms,
    ) -> Result<(Arc<RoomList>, StreamPosition), SyncError> {
        loop {
            let known = self.list.lock().list.clone();
            if let Some(list) = known {
                let mut woken = Box::pin(self.wake.notified());
                woken.as_mut().enable();
                let until = self.notifier.published();
                // A change up to `until` touched the topic before `until` was published.
                if !self.notifier.changed_since(&self.topic, list.loaded_at) {
                    if list.newest <= until {
                        return Ok((list, until));
                    }
                    // A row can be read a moment before it is published. Up to `until` a room that
                    // was just left is still a joined one, and the list does not say so any more.
                    if timeout(MAX_PUBLISHING, woken).await.is_err() {
                        let text = "a membership is stored and never published";
                        return Err(SyncError::Internal(text.into()));
                    }
                    continue;
                }
            }
            self.load(rooms).await?;
        }
    }

    async fn load(&self, rooms: &Rooms) -> Result<(), SyncError> {
        let mut list = RoomList { loaded_at: self.notifier.published(), ..RoomList::default() };
        for (room_id, row) in rooms.user_rooms(&self.user_id).await? {
            list.newest = list.newest.max(row.position);
            if row.details.membership == Membership::Join {
                list.topics.push(Topic::new(room_id.as_str()));
                list.joined.push(JoinedRoom { room_id, row });
            } else {
                list.others.push((room_id, row));
            }
        }
        let mut listening = self.list.lock();
        let newer = listening.list.as_ref().is_none_or(|known| known.loaded_at <= list.loaded_at);
        if newer && let Some(listener) = listening.listener.clone() {
            let wanted: HashSet<Topic> = list.topics.iter().cloned().collect();
            for topic in listening.topics.difference(&wanted) {
                self.notifier.unsubscribe(topic, &listener);
            }
            for topic in wanted.difference(&listening.topics) {
                self.notifier.subscribe(topic, &listener);
            }
            listening.topics = wanted;
        }
        if newer {
            listening.list = Some(Arc::new(list));
        }
        Ok(())
    }

    /// What is remembered of a device.
    pub(crate) fn device(&self, device_id: &DeviceId) -> Arc<Mutex<DeviceMemory>> {
        let mut devices = self.devices.lock();
        if devices.len() >= MAX_DEVICES && !devices.contains_key(device_id) {
            devices.clear();
        }
        Arc::clone(devices.entry(device_id.to_owned()).or_default())
    }

    /// Whether wakes from a room are gathered.
    pub(crate) fn set_quiet(&self, topic: &Topic, quiet: bool) {
        let known = self.quiet.read().contains_key(topic);
        if quiet && !known {
            self.quiet.write().insert(topic.clone(), 0);
        } else if !quiet && known {
            self.quiet.write().remove(topic);
        }
    }

    /// The user looks at this room: it is not gathered until then (in milliseconds).
    pub(crate) fn viewed(&self, room_id: &RoomId, until_ms: u64) {
        if let Some(viewed_until) = self.quiet.write().get_mut(room_id.as_str()) {
            *viewed_until = until_ms;
        }
    }

    /// Registers a waiter. What happens from now on wakes it.
    pub(crate) fn listen(&self) -> Waiter<'_> {
        let mut wake = Box::pin(self.wake.notified());
        let mut quiet = Box::pin(self.quiet_wake.notified());
        wake.as_mut().enable();
        quiet.as_mut().enable();
        // Whoever waited for this before has been told; what is read after this line includes it.
        self.quiet_pending.store(false, Ordering::Release);
        Waiter { wake, quiet, started: Instant::now() }
    }
}

/// A registered waiter.
pub(crate) struct Waiter<'a> {
    wake: std::pin::Pin<Box<Notified<'a>>>,
    quiet: std::pin::Pin<Box<Notified<'a>>>,
    started: Instant,
}

impl Waiter<'_> {
    /// Waits for a change. Changes in large rooms that the user does not view count only when so much
    /// time has passed since the waiter was registered.
    pub(crate) async fn changed(mut self, quiet_interval: Duration) {
        tokio::select! {
            () = &mut self.wake => return,
            () = &mut self.quiet => {}
        }
        tokio::select! {
            () = &mut self.wake => {}
            () = sleep_until(self.started + quiet_interval) => {}
        }
    }
}
