//! Typing and presence of this server's users, on their way to the servers that share their rooms.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Weak},
    time::Duration,
};

use hearth_rooms::{RoomError, schema::Membership};
use hearth_users::EphemeralWatcher;
use parking_lot::Mutex;
use ruma::{
    OwnedRoomId, OwnedServerName, OwnedUserId, RoomId, ServerName, UserId, presence::PresenceState,
};
use tokio::{
    sync::Notify,
    time::{Instant, MissedTickBehavior, sleep},
};

use super::{Inner, edus::GATHER};

/// Users of whom something is to be told, of each kind; there are never as many at once.
const MAX_PENDING: usize = 10_000;
/// Rooms of one user whose servers are told of their presence.
const MAX_ROOMS: usize = 200;
/// Users whose presence is repeated, or told to a server that comes to a room.
const MAX_PRESENT: usize = 10_000;
/// How often is looked for what must be repeated.
const REPEAT_CHECK: Duration = Duration::from_secs(10);
/// Who types on is repeated so often. Other servers give up a user of whom they hear nothing for about
/// a minute.
const REPEAT_TYPING: Duration = Duration::from_secs(40);
/// Who is present is repeated so often: other servers give up after half an hour.
const REPEAT_PRESENCE: Duration = Duration::from_mins(25);

/// What is to be told.
#[derive(Debug, Default)]
pub(super) struct Pending {
    waiting: Mutex<Waiting>,
    added: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    typing: BTreeMap<(OwnedRoomId, OwnedUserId), bool>,
    presence: BTreeSet<OwnedUserId>,
}

/// Hears from the users.
pub(super) struct Watcher(pub(super) Weak<Inner>);

impl EphemeralWatcher for Watcher {
    fn typing(&self, room_id: &RoomId, user_id: &UserId, typing: bool) {
        let Some(inner) = self.0.upgrade() else { return };
        let mut waiting = inner.pending.waiting.lock();
        if waiting.typing.len() < MAX_PENDING {
            waiting.typing.insert((room_id.to_owned(), user_id.to_owned()), typing);
            inner.pending.added.notify_one();
        }
    }

    fn presence(&self, user_id: &UserId) {
        let Some(inner) = self.0.upgrade() else { return };
        let mut waiting = inner.pending.waiting.lock();
        if waiting.presence.len() < MAX_PENDING {
            waiting.presence.insert(user_id.to_owned());
            inner.pending.added.notify_one();
        }
    }
}

/// Who types, and when other servers were last told.
type Typists = BTreeMap<(OwnedRoomId, OwnedUserId), Instant>;

/// Tells what comes, and repeats what lasts, for as long as the server runs.
pub(super) async fn run(inner: Arc<Inner>) {
    let mut typists = Typists::new();
    let mut presence_told = Instant::now();
    let mut interval = tokio::time::interval(REPEAT_CHECK);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            () = inner.pending.added.notified() => inner.tell_pending(&mut typists).await,
            _ = interval.tick() => {
                inner.repeat_typing(&mut typists).await;
                if presence_told.elapsed() >= REPEAT_PRESENCE {
                    presence_told = Instant::now();
                    for user_id in inner.users.present_users(MAX_PRESENT) {
                        inner.tell_presence(&user_id).await;
                    }
                }
            }
        }
    }
}

impl Inner {
    async fn tell_pending(self: &Arc<Self>, typists: &mut Typists) {
        let Waiting { typing, presence } = std::mem::take(&mut *self.pending.waiting.lock());
        for (key, typing) in typing {
            self.tell_typing(&key, typing).await;
            if typing && typists.len() < MAX_PENDING {
                typists.insert(key, Instant::now());
            } else {
                typists.remove(&key);
            }
        }
        for user_id in presence {
            self.tell_presence(&user_id).await;
        }
    }

    async fn repeat_typing(self: &Arc<Self>, typists: &mut Typists) {
        let now = Instant::now();
        typists
            .retain(|(room_id, user_id), _| self.users.typing(room_id).user_ids.contains(user_id));
        for (key, told) in typists.iter_mut() {
            if now.duration_since(*told) >= REPEAT_TYPING {
                self.tell_typing(key, true).await;
                *told = now;
            }
        }
    }

    async fn tell_typing(
        self: &Arc<Self>,
        (room_id, user_id): &(OwnedRoomId, OwnedUserId),
        typing: bool,
    ) {
        let servers = match self.rooms.remote_servers(room_id).await {
            Ok(servers) => servers,
            Err(RoomError::UnknownRoom) => return,
            Err(error) => {
                tracing::warn!(%error, %room_id, "other servers do not hear who types");
                return;
            }
        };
        self.add_edus(servers.iter(), |lanes, server, now| {
            lanes.push_typing(server, room_id, user_id, typing, now)
        });
    }

    /// Tells a user's presence to the servers of their rooms that are not large.
    async fn tell_presence(self: &Arc<Self>, user_id: &UserId) {
        let servers = match self.presence_servers(user_id).await {
            Ok(servers) => servers,
            Err(error) => {
                tracing::warn!(%error, %user_id, "other servers do not hear of a presence");
                return;
            }
        };
        self.add_edus(servers.iter(), |lanes, server, now| {
            lanes.push_presence(server, user_id, now)
        });
    }

    async fn presence_servers(
        &self,
        user_id: &UserId,
    ) -> Result<BTreeSet<OwnedServerName>, RoomError> {
        let rows = self.rooms.user_rooms(user_id).await?;
        let joined = rows.iter().filter(|(_, row)| row.details.membership == Membership::Join);
        let mut servers = BTreeSet::new();
        for (room_id, _) in joined.take(MAX_ROOMS) {
            if !self.users.is_large_room(room_id).await {
                servers.extend(self.rooms.remote_servers(room_id).await?.iter().cloned());
            }
        }
        Ok(servers)
    }

    /// Somebody of this server who is present came to a room with these servers.
    pub(super) async fn introduce(
        self: &Arc<Self>,
        room_id: &RoomId,
        user_id: &UserId,
        servers: &BTreeSet<OwnedServerName>,
    ) {
        let presence = self.users.presence(user_id).await;
        let away = presence.is_ok_and(|presence| presence.state == PresenceState::Offline);
        if self.users.config().presence_enabled && !away && !self.users.is_large_room(room_id).await
        {
            self.add_edus(servers.iter(), |lanes, server, now| {
                lanes.push_presence(server, user_id, now)
            });
        }
    }

    /// A server came to a room: it is told who of this server's users is there.
    pub(super) async fn greet(self: &Arc<Self>, server: &ServerName, room_id: &RoomId) {
        if self.users.is_large_room(room_id).await {
            return;
        }
        let server = server.to_owned();
        for user_id in self.users.present_users(MAX_PRESENT) {
            let row = self.rooms.member_row(room_id, &user_id).await.ok().flatten();
            if row.is_some_and(|row| row.membership == Membership::Join) {
                self.add_edus([&server], |lanes, server, now| {
                    lanes.push_presence(server, &user_id, now)
                });
            }
        }
    }

    /// Adds something to the lanes of these servers, and comes back when it has waited for company.
    /// `add` says whether that is needed.
    pub(super) fn add_edus<'a>(
        self: &Arc<Self>,
        servers: impl IntoIterator<Item = &'a OwnedServerName>,
        mut add: impl FnMut(&mut super::lanes::Lanes, &ServerName, Instant) -> bool,
    ) {
        let own_name = self.identity.server_name();
        let mut waiting = Vec::new();
        {
            let (now, mut lanes) = (Instant::now(), self.lanes.lock());
            for server in servers {
                if server != own_name && self.config.admits(server) && add(&mut lanes, server, now)
                {
                    waiting.push(server.clone());
                }
            }
        }
        self.come_back(waiting);
    }

    /// Starts to send to these when what was added has waited for company.
    pub(super) fn come_back(self: &Arc<Self>, mut waiting: Vec<OwnedServerName>) {
        if waiting.is_empty() {
            return;
        }
        let inner = Arc::clone(self);
        self.spawn(async move {
            sleep(GATHER).await;
            let now = Instant::now();
            waiting.retain(|server| inner.lanes.lock().start_if_due(server, now));
            inner.start_senders(waiting);
        });
    }
}
