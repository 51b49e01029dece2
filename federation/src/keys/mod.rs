//! Server signing keys: other servers' (fetched, cached, vouched for) and our own as served (SS
//! "Retrieving server keys").
//!
//! A key counts for what was signed until its time: until it was replaced, or as long as the last answer
//! that named it is valid, at most seven days from its fetch. `entry` reads and merges answers, `fetch`
//! gets them, `own` keeps this server's keys, `notary` vouches for others'.

mod entry;
mod fetch;
mod notary;
mod own;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
};

use hearth_storage::{Keyspace, OwnerLocks, Store, bytes::Bytes};
use hearth_types::{Clock, ServerIdentity};
use quick_cache::sync::Cache;
use ruma::{
    MilliSecondsSinceUnixEpoch, OwnedServerName, OwnedServerSigningKeyId, ServerName,
    signatures::PublicKeyMap,
};

pub(crate) use self::{
    entry::{ServerKeys, read_answer},
    fetch::Purpose,
    own::OWN_KEYS,
};
use self::{
    fetch::{Attempt, Desks},
    own::OwnKeys,
};
use crate::{
    FederationConfig, FederationError, destinations::Destinations, tasks::Tasks,
    transport::Transport,
};

/// What is known of other servers' keys.
pub(crate) const KEYS: Keyspace<OwnedServerName, (), ServerKeys> =
    Keyspace::new("federation_server_keys");

/// The last answer of each server, as it gave it: what this server vouches for as a notary.
pub(crate) const ANSWERS: Keyspace<OwnedServerName, (), Bytes> =
    Keyspace::new("federation_server_key_answers");

/// Servers whose keys are held in memory: usually some hundred bytes each, 5 KiB at most.
const SERVERS_IN_MEMORY: usize = 10_000;
/// Servers of which is remembered when they were last asked.
const ATTEMPTS_IN_MEMORY: usize = 50_000;
/// Keys that will not count for so long any more are fetched again while they still do.
const REFRESH_AHEAD_MS: u64 = 3_600 * 1_000;

/// The keys of other servers. Cheap to clone.
#[derive(Clone)]
pub struct KeyRing(Arc<Inner>);

struct Inner {
    store: Store,
    identity: Arc<ServerIdentity>,
    clock: Arc<dyn Clock>,
    transport: Arc<dyn Transport>,
    destinations: Destinations,
    config: FederationConfig,
    own: OwnKeys,
    own_known: Arc<ServerKeys>,
    memory: Cache<OwnedServerName, Arc<ServerKeys>>,
    attempts: Cache<OwnedServerName, Attempt>,
    desks: Desks,
    owners: OwnerLocks,
    tasks: Tasks,
}

/// Keys that are needed: for each server and key ID, the time at which the key must be valid.
pub type WantedKeys =
    BTreeMap<OwnedServerName, BTreeMap<OwnedServerSigningKeyId, MilliSecondsSinceUnixEpoch>>;

/// Keys of several servers, each with its time.
#[derive(Clone, Debug, Default)]
pub struct KnownKeys(BTreeMap<OwnedServerName, Arc<ServerKeys>>);

impl KnownKeys {
    /// Is any key of the server known, of whatever time?
    pub(crate) fn has_any_of(&self, server: &ServerName) -> bool {
        self.0.contains_key(server)
    }

    /// Those keys of these servers that were valid at a time, as ruma's functions want them. A server
    /// without keys has an entry too.
    pub fn valid_at<'a>(
        &self,
        servers: impl Iterator<Item = &'a OwnedServerName>,
        at: MilliSecondsSinceUnixEpoch,
    ) -> PublicKeyMap {
        let keys = servers.map(|server| {
            let known = self.0.get(server);
            (
                server.to_string(),
                known.map(|keys| keys.valid_at(at.get().into())).unwrap_or_default(),
            )
        });
        keys.collect()
    }
}

/// Remembers the key that this server signs with, and that those of earlier runs are replaced. To be done
/// on every start, federating or not: what is signed today may be shown to other servers one day.
pub async fn record_own_key(
    store: &Store,
    identity: &ServerIdentity,
    clock: &dyn Clock,
) -> Result<(), FederationError> {
    OwnKeys::open(store, identity, clock.now_ms()).await.map(drop)
}

impl fmt::Debug for KeyRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyRing").field("identity", &self.0.identity).finish_non_exhaustive()
    }
}

impl KeyRing {
    /// Reads what is kept, and records this server's own key.
    pub(crate) async fn open(
        store: Store,
        identity: Arc<ServerIdentity>,
        clock: Arc<dyn Clock>,
        transport: Arc<dyn Transport>,
        destinations: Destinations,
        config: FederationConfig,
        tasks: Tasks,
    ) -> Result<Self, FederationError> {
        let own = OwnKeys::open(&store, &identity, clock.now_ms()).await?;
        Ok(Self(Arc::new(Inner {
            store,
            identity,
            clock,
            transport,
            destinations,
            config,
            own_known: Arc::new(own.known()),
            own,
            memory: Cache::new(SERVERS_IN_MEMORY),
            attempts: Cache::new(ATTEMPTS_IN_MEMORY),
            desks: Desks::default(),
            owners: OwnerLocks::new(),
            tasks,
        })))
    }

    /// The keys that can be had of those wanted: from memory, from the store, from their servers (in
    /// parallel, bounded), else from the notaries. Missing ones are left out.
    pub async fn keys(&self, wanted: &WantedKeys) -> PublicKeyMap {
        let known = self.known(wanted).await;
        let keys = wanted.iter().filter_map(|(server, wanted)| {
            let known = known.0.get(server)?;
            let valid = wanted.iter().filter_map(|(key_id, at)| {
                let mut valid = known.valid_at(at.get().into());
                valid.remove_entry(key_id.as_str())
            });
            Some((server.to_string(), valid.collect()))
        });
        keys.collect()
    }

    /// The same with the keys' times, for events of different times.
    pub async fn known(&self, wanted: &WantedKeys) -> KnownKeys {
        self.look_up(wanted, Purpose::Events).await
    }

    pub(crate) async fn look_up(&self, wanted: &WantedKeys, purpose: Purpose) -> KnownKeys {
        let missing = self.missing(wanted).await;
        if !missing.is_empty() {
            self.fetch_all(&missing, purpose).await;
            if purpose == Purpose::Events {
                self.ask_notaries(wanted).await;
            }
        }
        let mut known = BTreeMap::new();
        for server in wanted.keys() {
            if let Some(keys) = self.entry(server).await {
                self.refresh(server, &keys, purpose);
                known.insert(server.clone(), keys);
            }
        }
        KnownKeys(known)
    }

    /// The servers of which a wanted key is not known for its time.
    async fn missing(&self, wanted: &WantedKeys) -> BTreeSet<OwnedServerName> {
        let mut missing = BTreeSet::new();
        for (server, keys) in wanted {
            let known = self.entry(server).await;
            let has_all = known.is_some_and(|known| {
                keys.iter().all(|(key_id, at)| known.has(key_id.as_str(), at.get().into()))
            });
            if !has_all && server != self.0.identity.server_name() {
                missing.insert(server.clone());
            }
        }
        missing
    }

    /// What is known of a server's keys, from memory or from the store.
    async fn entry(&self, server: &ServerName) -> Option<Arc<ServerKeys>> {
        if server == self.0.identity.server_name() {
            return Some(Arc::clone(&self.0.own_known));
        }
        if let Some(keys) = self.0.memory.get(server) {
            return Some(keys);
        }
        // What is read must not be put over what is being written.
        let _turn = self.0.owners.lock(server.as_str()).await;
        self.read(server).await
    }

    /// The same for who holds the server's lock.
    async fn read(&self, server: &ServerName) -> Option<Arc<ServerKeys>> {
        if let Some(keys) = self.0.memory.get(server) {
            return Some(keys);
        }
        let owner = server.to_owned();
        match self.0.store.get(&KEYS, &owner, &()).await {
            Ok(keys) => {
                let keys = Arc::new(keys?);
                self.0.memory.insert(owner, Arc::clone(&keys));
                Some(keys)
            }
            Err(error) => {
                tracing::error!(%server, %error, "a server's keys cannot be read");
                None
            }
        }
    }

    /// Fetches keys again that are about to end, without waiting.
    fn refresh(&self, server: &ServerName, keys: &ServerKeys, purpose: Purpose) {
        let now_ms = self.0.clock.now_ms();
        let ends_soon = keys.valid_until_ms > now_ms
            && keys.valid_until_ms < now_ms.saturating_add(REFRESH_AHEAD_MS);
        if ends_soon {
            drop(self.fetch(server, purpose));
        }
    }
}
