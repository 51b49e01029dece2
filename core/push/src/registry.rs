//! All pushers of this server, in memory.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use parking_lot::{Mutex, RwLock};
use ruma::{OwnedUserId, UserId};
use tokio::sync::Mutex as TurnMutex;
use url::Url;

use crate::pushers::{ProgressRow, PusherRow};

/// An application's ID and a pushkey.
pub(crate) type Key = (String, String);

/// One pusher, for as long as it is there. Its row changes in its user's turn, its progress in its own.
#[derive(Debug)]
pub(crate) struct Entry {
    /// Its number within this run.
    pub(crate) serial: u64,
    pub(crate) user_id: OwnedUserId,
    pub(crate) key: Key,
    /// Held while its progress changes. Whoever has the user's turn, too, has taken that first.
    pub(crate) turn: TurnMutex<()>,
    row: RwLock<Arc<PusherRow>>,
    target: RwLock<Arc<Target>>,
    progress: Mutex<ProgressRow>,
    gone: AtomicBool,
}

/// Where a pusher's notifications go: the URL of its row, read.
#[derive(Debug)]
pub(crate) struct Target {
    /// `None`: it is no URL.
    pub(crate) url: Option<Url>,
    /// What gateways are told apart by.
    pub(crate) host: Arc<str>,
}

impl Target {
    fn of(row: &PusherRow) -> Arc<Self> {
        let url = Url::parse(&row.url).ok();
        let host = url.as_ref().and_then(Url::host_str).unwrap_or_default().into();
        Arc::new(Self { url, host })
    }
}

impl Entry {
    pub(crate) fn target(&self) -> Arc<Target> {
        Arc::clone(&self.target.read())
    }

    pub(crate) fn row(&self) -> Arc<PusherRow> {
        Arc::clone(&self.row.read())
    }

    pub(crate) fn progress(&self) -> ProgressRow {
        self.progress.lock().clone()
    }

    pub(crate) fn set_progress(&self, progress: ProgressRow) {
        *self.progress.lock() = progress;
    }

    pub(crate) fn update(&self, row: PusherRow) {
        *self.target.write() = Target::of(&row);
        *self.row.write() = Arc::new(row);
    }

    /// Was it deleted?
    pub(crate) fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Acquire)
    }
}

/// The pushers by user and by key.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    next_serial: AtomicU64,
    tables: RwLock<Tables>,
    /// Users who had no pusher before, for the router, which knows the rooms' audiences.
    newcomers: Mutex<HashSet<OwnedUserId>>,
}

#[derive(Debug, Default)]
struct Tables {
    by_user: HashMap<OwnedUserId, Vec<Arc<Entry>>>,
    by_key: HashMap<Key, Vec<OwnedUserId>>,
}

impl Registry {
    pub(crate) fn insert(
        &self,
        user_id: OwnedUserId,
        key: Key,
        row: PusherRow,
        progress: ProgressRow,
    ) {
        let entry = Arc::new(Entry {
            serial: self.next_serial.fetch_add(1, Ordering::Relaxed),
            user_id: user_id.clone(),
            key: key.clone(),
            turn: TurnMutex::default(),
            target: RwLock::new(Target::of(&row)),
            row: RwLock::new(Arc::new(row)),
            progress: Mutex::new(progress),
            gone: AtomicBool::new(false),
        });
        let mut tables = self.tables.write();
        tables.by_key.entry(key).or_default().push(user_id.clone());
        let entries = tables.by_user.entry(user_id.clone()).or_default();
        entries.push(entry);
        if entries.len() == 1 {
            self.newcomers.lock().insert(user_id);
        }
    }

    pub(crate) fn remove(&self, entry: &Entry) {
        entry.gone.store(true, Ordering::Release);
        let mut tables = self.tables.write();
        if let Some(entries) = tables.by_user.get_mut(&entry.user_id) {
            entries.retain(|other| other.serial != entry.serial);
            if entries.is_empty() {
                tables.by_user.remove(&entry.user_id);
                self.newcomers.lock().remove(&entry.user_id);
            }
        }
        if let Some(users) = tables.by_key.get_mut(&entry.key) {
            users.retain(|user_id| *user_id != entry.user_id);
            if users.is_empty() {
                tables.by_key.remove(&entry.key);
            }
        }
    }

    /// Has nobody a pusher?
    pub(crate) fn is_empty(&self) -> bool {
        self.tables.read().by_user.is_empty()
    }

    /// Has this user one?
    pub(crate) fn contains(&self, user_id: &UserId) -> bool {
        self.tables.read().by_user.contains_key(user_id)
    }

    /// The users who have one, if they are at most so many.
    pub(crate) fn few_users(&self, max: usize) -> Option<Vec<OwnedUserId>> {
        let tables = self.tables.read();
        (tables.by_user.len() <= max).then(|| tables.by_user.keys().cloned().collect())
    }

    pub(crate) fn of_user(&self, user_id: &UserId) -> Vec<Arc<Entry>> {
        self.tables.read().by_user.get(user_id).cloned().unwrap_or_default()
    }

    pub(crate) fn find(&self, user_id: &UserId, key: &Key) -> Option<Arc<Entry>> {
        let tables = self.tables.read();
        tables.by_user.get(user_id)?.iter().find(|entry| entry.key == *key).cloned()
    }

    /// The users who have a pusher of this application and key.
    pub(crate) fn users_with(&self, key: &Key) -> Vec<OwnedUserId> {
        self.tables.read().by_key.get(key).cloned().unwrap_or_default()
    }

    /// Every pusher.
    pub(crate) fn all(&self) -> Vec<Arc<Entry>> {
        self.tables.read().by_user.values().flatten().cloned().collect()
    }

    /// Those who got their first pusher since the last call.
    pub(crate) fn take_newcomers(&self) -> HashSet<OwnedUserId> {
        std::mem::take(&mut *self.newcomers.lock())
    }
}

/// So many pushers of one user at this host.
#[cfg(test)]
pub(crate) fn entries(count: usize, host: &str) -> Vec<Arc<Entry>> {
    let registry = Registry::default();
    let user_id = ruma::owned_user_id!("@a:hearth.test");
    for number in 0..count {
        let row = PusherRow {
            device_id: "D".into(),
            app_display_name: String::new(),
            device_display_name: String::new(),
            profile_tag: None,
            lang: String::new(),
            url: format!("https://{host}/_matrix/push/v1/notify"),
            format: None,
            data: "{}".to_owned(),
            set_ms: 0,
        };
        let key = ("app".to_owned(), number.to_string());
        registry.insert(user_id.clone(), key, row, ProgressRow::default());
    }
    registry.of_user(&user_id)
}
