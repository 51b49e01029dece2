//! Presence (CS "Presence"): in memory, aged by time, the last message and time stored lazily.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
};

use hearth_storage::{Commit, Keyspace, Topic, postcard_record};
use parking_lot::Mutex;
use ruma::{OwnedUserId, RoomId, UserId, presence::PresenceState};
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use crate::{Users, UsersError};

pub(crate) const PRESENCE: Keyspace<OwnedUserId, (), PresenceRow> = Keyspace::new("presence");

/// Somebody who did something so lately is currently active.
const ACTIVE_MS: u64 = 60_000;
/// Somebody who did nothing for so long is idle.
const IDLE_MS: u64 = 5 * 60_000;
/// Somebody of whom no client was heard for so long is offline.
const OFFLINE_MS: u64 = 30_000;
/// Everybody's age is looked at this often.
const AGING_INTERVAL_MS: u64 = 5_000;
/// What changed is written this often.
const WRITE_INTERVAL_MS: u64 = 60_000;
/// A user of another server of whom nothing was heard for so long is offline: servers repeat what lasts.
const REMOTE_OFFLINE_MS: u64 = 30 * 60_000;
/// Users in memory; when there are more, those who are offline go.
const MAX_USERS: usize = 100_000;
/// When there are so many, nobody of another server is added: they take no places of this one's users.
const MAX_USERS_FOR_REMOTE: usize = MAX_USERS / 2;
/// The longest status message in bytes.
const MAX_STATUS_BYTES: usize = 1_024;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PresenceRow {
    pub(crate) last_active_ms: Option<u64>,
    pub(crate) status_msg: Option<String>,
}
postcard_record!(PresenceRow, version = 1);

/// What others see of a user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Presence {
    /// Online, idle or offline.
    pub state: PresenceState,
    /// What the user says about it.
    pub status_msg: Option<String>,
    /// When the user last did something, in milliseconds since the epoch.
    pub last_active_ms: Option<u64>,
    /// Did they do it within the last minute or so?
    pub currently_active: bool,
    /// When this last changed, in the process's own counting ([`Users::presence_serial`]); 0: not
    /// since the process started.
    pub serial: u64,
}

/// What another server says of one of its users.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemotePresence {
    /// Online, idle or offline.
    pub state: PresenceState,
    /// What the user says about it.
    pub status_msg: Option<String>,
    /// How long ago the user did something, in milliseconds, if they ever did.
    pub last_active_ago_ms: Option<u64>,
    /// Did they do it within the last minute or so?
    pub currently_active: bool,
}

/// Who is to be woken when a user's presence changes; plugged in by whoever knows the rooms.
#[async_trait::async_trait]
pub trait PresenceAudience: std::fmt::Debug + Send + Sync + 'static {
    /// The topics to poke: rooms of the user that are small enough for presence.
    async fn topics(&self, user_id: &UserId) -> Vec<Topic>;

    /// Is the room too large for receipts and presence to be passed on?
    async fn is_large(&self, room_id: &RoomId) -> bool;
}

/// Everybody's presence.
#[derive(Debug)]
pub(crate) struct PresenceTable {
    people: Mutex<People>,
    audience: OnceLock<Arc<dyn PresenceAudience>>,
    changed: Arc<Notify>,
    last_aged_ms: AtomicU64,
    last_written_ms: AtomicU64,
}

#[derive(Debug, Default)]
struct People {
    known: HashMap<OwnedUserId, Person>,
    serial: u64,
    /// Whose audience is still to be woken: at most those who are known.
    to_wake: BTreeSet<OwnedUserId>,
    /// Whose row is older than what is known.
    to_write: HashSet<OwnedUserId>,
}

#[derive(Debug)]
struct Person {
    /// What their clients last asked for.
    asked: PresenceState,
    status_msg: Option<String>,
    last_active_ms: Option<u64>,
    /// Syncs under way.
    syncing: u32,
    /// When a client was last heard of; or their server, if it is another one.
    last_heard_ms: u64,
    /// What their server says, if it is another one: state and whether currently active.
    told: Option<(PresenceState, bool)>,
    /// What others were last shown: state and whether currently active.
    shown: (PresenceState, bool),
    serial: u64,
}

impl Person {
    fn new(stored: Option<PresenceRow>) -> Self {
        let stored = stored.unwrap_or(PresenceRow { last_active_ms: None, status_msg: None });
        Self {
            asked: PresenceState::Offline,
            status_msg: stored.status_msg,
            last_active_ms: stored.last_active_ms,
            syncing: 0,
            last_heard_ms: 0,
            told: None,
            shown: (PresenceState::Offline, false),
            serial: 0,
        }
    }

    fn idle_ms(&self, now_ms: u64) -> u64 {
        now_ms.saturating_sub(self.last_active_ms.unwrap_or(0))
    }

    /// What others should see now.
    fn visible(&self, now_ms: u64) -> (PresenceState, bool) {
        if let Some(told) = &self.told {
            let lasts = now_ms < self.last_heard_ms.saturating_add(REMOTE_OFFLINE_MS);
            return if lasts { told.clone() } else { (PresenceState::Offline, false) };
        }
        let heard = self.syncing > 0 || now_ms < self.last_heard_ms.saturating_add(OFFLINE_MS);
        match self.asked {
            _ if !heard => (PresenceState::Offline, false),
            PresenceState::Online if self.idle_ms(now_ms) < IDLE_MS => {
                (PresenceState::Online, self.idle_ms(now_ms) < ACTIVE_MS)
            }
            PresenceState::Online | PresenceState::Unavailable => {
                (PresenceState::Unavailable, false)
            }
            _ => (PresenceState::Offline, false),
        }
    }

    fn presence(&self) -> Presence {
        Presence {
            state: self.shown.0.clone(),
            status_msg: self.status_msg.clone(),
            last_active_ms: self.last_active_ms,
            currently_active: self.shown.1,
            serial: self.serial,
        }
    }

    fn row(&self) -> PresenceRow {
        PresenceRow { last_active_ms: self.last_active_ms, status_msg: self.status_msg.clone() }
    }
}

impl People {
    /// Changes one person; `None` if there is no room for another one. Says whether others see a
    /// difference.
    fn change(
        &mut self,
        user_id: &UserId,
        stored: Option<PresenceRow>,
        now_ms: u64,
        change: impl FnOnce(&mut Person),
    ) -> bool {
        if !self.known.contains_key(user_id) && !self.has_room() {
            return false;
        }
        let person = self.known.entry(user_id.to_owned()).or_insert_with(|| Person::new(stored));
        let before = (person.status_msg.clone(), person.last_active_ms);
        change(person);
        let moved = before != (person.status_msg.clone(), person.last_active_ms);
        if moved && person.told.is_none() {
            self.to_write.insert(user_id.to_owned());
        }
        let differs = person.visible(now_ms) != person.shown || before.0 != person.status_msg;
        if differs {
            person.shown = person.visible(now_ms);
            self.serial += 1;
            person.serial = self.serial;
            self.to_wake.insert(user_id.to_owned());
        }
        differs
    }

    fn has_room(&mut self) -> bool {
        self.has_room_below(MAX_USERS)
    }

    fn has_room_below(&mut self, limit: usize) -> bool {
        if self.known.len() >= limit {
            let kept = &self.to_write;
            self.known.retain(|user_id, person| {
                person.shown.0 != PresenceState::Offline || kept.contains(user_id)
            });
        }
        self.known.len() < limit
    }

    fn age(&mut self, now_ms: u64) -> bool {
        let mut changed = false;
        for (user_id, person) in &mut self.known {
            let visible = person.visible(now_ms);
            if visible != person.shown {
                person.shown = visible;
                self.serial += 1;
                person.serial = self.serial;
                self.to_wake.insert(user_id.clone());
                changed = true;
            }
        }
        changed
    }
}

impl PresenceTable {
    pub(crate) fn new(now_ms: u64) -> Self {
        Self {
            people: Mutex::default(),
            audience: OnceLock::new(),
            changed: Arc::default(),
            last_aged_ms: AtomicU64::new(now_ms),
            last_written_ms: AtomicU64::new(now_ms),
        }
    }
}

/// Ends the task that wakes audiences.
impl Drop for PresenceTable {
    fn drop(&mut self) {
        self.changed.notify_one();
    }
}

/// Keeps a user from going offline while one of their clients is connected. Held over a long poll or
/// a WebSocket's life.
#[derive(Debug)]
#[must_use]
pub struct PresenceGuard {
    /// `None`: this sync does not count.
    of: Option<(Users, OwnedUserId)>,
}

impl Drop for PresenceGuard {
    fn drop(&mut self) {
        let Some((users, user_id)) = self.of.take() else { return };
        let now_ms = users.now_ms();
        if let Some(person) = users.inner.presence.people.lock().known.get_mut(&user_id) {
            person.syncing = person.syncing.saturating_sub(1);
            person.last_heard_ms = now_ms;
        }
    }
}

impl Users {
    /// Plugs in who is woken by presence; once, at start. Without it only the user's own topic is.
    pub fn set_presence_audience(&self, audience: Arc<dyn PresenceAudience>) {
        if self.inner.presence.audience.set(audience).is_err() {
            tracing::warn!("a second presence audience was not plugged in");
        }
    }

    /// Sets a user's presence for a client (`PUT /presence/{userId}/status`). A missing `status_msg`
    /// clears it.
    pub async fn set_presence(
        &self,
        user_id: &UserId,
        state: PresenceState,
        status_msg: Option<String>,
    ) -> Result<(), UsersError> {
        if status_msg.as_ref().is_some_and(|message| message.len() > MAX_STATUS_BYTES) {
            return Err(UsersError::TooLarge { max_bytes: MAX_STATUS_BYTES });
        }
        if !self.inner.config.presence_enabled {
            return Ok(());
        }
        let stored = self.store().get(&PRESENCE, &user_id.to_owned(), &()).await?;
        let status_msg = status_msg.filter(|message| !message.is_empty());
        self.change_presence(user_id, stored, |person, now_ms| {
            if state == PresenceState::Online {
                person.last_active_ms = Some(now_ms);
            }
            person.asked = state;
            person.status_msg = status_msg;
            person.last_heard_ms = now_ms;
        });
        Ok(())
    }

    /// A client of the user starts to sync with this `set_presence`. `Offline` leaves everything as it
    /// is. Drop the guard when the sync ends: half a minute after the last one the user is offline.
    pub fn presence_syncing(&self, user_id: &UserId, state: PresenceState) -> PresenceGuard {
        if !self.inner.config.presence_enabled || state == PresenceState::Offline {
            return PresenceGuard { of: None };
        }
        // The row is read inline, and only for people who are not in memory.
        let stored = self.stored_presence_of_unknown(user_id);
        let mut counted = false;
        self.change_presence(user_id, stored, |person, now_ms| {
            if state == PresenceState::Online && person.shown.0 == PresenceState::Offline {
                person.last_active_ms = Some(now_ms);
            }
            person.asked = state;
            person.syncing = person.syncing.saturating_add(1);
            person.last_heard_ms = now_ms;
            counted = true;
        });
        PresenceGuard { of: counted.then(|| (self.clone(), user_id.to_owned())) }
    }

    /// The user did something (sent an event, a receipt, typed): they are active.
    pub fn presence_active(&self, user_id: &UserId) {
        if !self.inner.config.presence_enabled {
            return;
        }
        let stored = self.stored_presence_of_unknown(user_id);
        self.change_presence(user_id, stored, |person, now_ms| {
            person.last_active_ms = Some(now_ms);
            person.last_heard_ms = now_ms;
            // Activity ends idleness, even one that a client asked for (CS "Idle timeout").
            if person.asked == PresenceState::Unavailable {
                person.asked = PresenceState::Online;
            }
        });
    }

    /// What another server says of its user counts until it says something else, or nothing for half an
    /// hour. The caller has checked that the user is that server's, and somebody to know about. What is
    /// too long, and what there is no room for, is passed over.
    pub fn set_remote_presence(&self, user_id: &UserId, told: RemotePresence) {
        let too_long = |message: &String| message.len() > MAX_STATUS_BYTES;
        if !self.inner.config.presence_enabled || told.status_msg.as_ref().is_some_and(too_long) {
            return;
        }
        {
            let mut people = self.inner.presence.people.lock();
            if !people.known.contains_key(user_id) && !people.has_room_below(MAX_USERS_FOR_REMOTE) {
                return;
            }
        }
        self.change_presence(user_id, None, |person, now_ms| {
            person.status_msg = told.status_msg.filter(|message| !message.is_empty());
            person.last_active_ms =
                told.last_active_ago_ms.map(|ago_ms| now_ms.saturating_sub(ago_ms));
            person.last_heard_ms = now_ms;
            person.told = Some((told.state, told.currently_active));
        });
    }

    /// This server's users who are not offline, by ID: at most so many.
    #[must_use]
    pub fn present_users(&self, limit: usize) -> Vec<OwnedUserId> {
        let people = self.inner.presence.people.lock();
        let present = people.known.iter().filter(|(_, person)| {
            person.told.is_none() && person.shown.0 != PresenceState::Offline
        });
        let mut ids: Vec<_> = present.map(|(user_id, _)| user_id.clone()).collect();
        ids.sort_unstable();
        ids.truncate(limit);
        ids
    }

    /// Is the room too large for receipts and presence to be passed on? Nobody plugged in says no.
    pub async fn is_large_room(&self, room_id: &RoomId) -> bool {
        match self.inner.presence.audience.get() {
            Some(audience) => audience.is_large(room_id).await,
            None => false,
        }
    }

    /// A user's presence; offline for users that nothing is known of.
    pub async fn presence(&self, user_id: &UserId) -> Result<Presence, UsersError> {
        if let Some(person) = self.inner.presence.people.lock().known.get(user_id) {
            return Ok(person.presence());
        }
        let stored = self.store().get(&PRESENCE, &user_id.to_owned(), &()).await?;
        Ok(Person::new(stored).presence())
    }

    /// Those of these users whose presence changed after `since`, from memory. With `since` 0: those
    /// whose presence changed since the process started, and so all who are not offline.
    #[must_use]
    pub fn presence_changes<'a>(
        &self,
        user_ids: impl IntoIterator<Item = &'a UserId>,
        since: u64,
    ) -> Vec<(OwnedUserId, Presence)> {
        let people = self.inner.presence.people.lock();
        if people.serial <= since {
            return Vec::new();
        }
        let changed = user_ids.into_iter().filter_map(|user_id| {
            let person = people.known.get(user_id).filter(|person| person.serial > since)?;
            Some((user_id.to_owned(), person.presence()))
        });
        changed.collect()
    }

    /// The number of presence changes so far, within this process (see [`Users::boot_id`]).
    #[must_use]
    pub fn presence_serial(&self) -> u64 {
        self.inner.presence.people.lock().serial
    }

    fn stored_presence_of_unknown(&self, user_id: &UserId) -> Option<PresenceRow> {
        if self.inner.presence.people.lock().known.contains_key(user_id) {
            return None;
        }
        self.store().snapshot().get(&PRESENCE, &user_id.to_owned(), &()).ok().flatten()
    }

    fn change_presence(
        &self,
        user_id: &UserId,
        stored: Option<PresenceRow>,
        change: impl FnOnce(&mut Person, u64),
    ) {
        let now_ms = self.now_ms();
        let mut people = self.inner.presence.people.lock();
        let changed = people.change(user_id, stored, now_ms, |person| change(person, now_ms));
        drop(people);
        if changed {
            self.inner.presence.changed.notify_one();
        }
    }

    pub(crate) fn age_presence(&self) {
        let (table, now_ms) = (&self.inner.presence, self.now_ms());
        if now_ms < table.last_aged_ms.load(Ordering::Relaxed).saturating_add(AGING_INTERVAL_MS) {
            return;
        }
        table.last_aged_ms.store(now_ms, Ordering::Relaxed);
        let changed = table.people.lock().age(now_ms);
        if changed {
            table.changed.notify_one();
        }
    }

    /// Writes what changed since the last time.
    pub(crate) async fn write_presence(&self, at_once: bool) -> Result<(), UsersError> {
        let (table, now_ms) = (&self.inner.presence, self.now_ms());
        let due = table.last_written_ms.load(Ordering::Relaxed).saturating_add(WRITE_INTERVAL_MS);
        if !at_once && now_ms < due {
            return Ok(());
        }
        table.last_written_ms.store(now_ms, Ordering::Relaxed);
        let rows: Vec<_> = {
            let mut people = table.people.lock();
            let waiting = std::mem::take(&mut people.to_write);
            waiting
                .into_iter()
                .filter_map(|user_id| Some((people.known.get(&user_id)?.row(), user_id)))
                .collect()
        };
        for (row, user_id) in rows {
            self.exclusive(&user_id, move |users, user_id| async move {
                // Somebody deactivated meanwhile has no presence any more.
                if users.is_active(&user_id).await? {
                    let mut commit = Commit::new(&user_id).lazy();
                    commit.put(&PRESENCE, &user_id, &(), &row);
                    users.store().commit(commit).await?;
                }
                Ok(())
            })
            .await?;
        }
        Ok(())
    }

    /// Under the user's lock: what a deactivated user leaves.
    pub(crate) async fn forget_presence(&self, user_id: &OwnedUserId) -> Result<(), UsersError> {
        {
            let mut people = self.inner.presence.people.lock();
            people.known.remove(user_id);
            people.to_write.remove(user_id);
        }
        let mut commit = Commit::new(user_id);
        commit.delete(&PRESENCE, user_id, &());
        self.store().commit(commit).await?;
        Ok(())
    }

    /// Wakes the audiences of those whose presence changed, in a task, since who they are may have to
    /// be read. Changes that come meanwhile are gathered.
    pub(crate) fn start_presence_wakes(&self) {
        let weak = Arc::downgrade(&self.inner);
        let changed = Arc::clone(&self.inner.presence.changed);
        tokio::spawn(async move {
            loop {
                changed.notified().await;
                let Some(inner) = weak.upgrade() else { return };
                Self { inner }.wake_presence_audiences().await;
            }
        });
    }

    async fn wake_presence_audiences(&self) {
        let table = &self.inner.presence;
        let waiting = std::mem::take(&mut table.people.lock().to_wake);
        let mut topics = HashSet::new();
        for user_id in waiting {
            topics.insert(Topic::new(user_id.as_str()));
            self.tell_presence(&user_id);
            if let Some(audience) = table.audience.get() {
                topics.extend(audience.topics(&user_id).await);
            }
        }
        for topic in topics {
            self.store().notifier().poke(&topic);
        }
    }
}

#[cfg(test)]
mod tests;
