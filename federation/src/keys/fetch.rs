//! Asking servers, and notaries, for keys.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use futures_util::{
    FutureExt as _,
    future::{BoxFuture, Shared, join_all},
};
use hearth_storage::Commit;
use http::{Method, Request, header};
use parking_lot::Mutex;
use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, OwnedServerName, ServerName,
    api::{
        federation::discovery::{get_remote_server_keys_batch, get_server_keys},
        path_builder::PathBuilder as _,
    },
};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::sync::{Semaphore, oneshot};

use super::{
    ANSWERS, KEYS, KeyRing, WantedKeys,
    entry::{ServerKeys, Teller, verify_signed_by},
};
use crate::transport::Limits;

/// Answers with keys are small; larger ones are not read.
const MAX_ANSWER_BYTES: usize = 48 * 1024;
/// An answer of a notary holds several servers' keys.
const MAX_NOTARY_BYTES: usize = 4 * 1024 * 1024;
/// How long a server may take to tell its keys, where it is found out included: what it delegates to is
/// given some time, then addresses that do not answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// How long one look-up waits for all servers that it asks. Answers that come later still count for
/// the next one.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(20);
/// Servers that a notary is asked for at once.
const SERVERS_PER_NOTARY_REQUEST: usize = 100;
/// A server is not asked again for so long after it answered: whoever names unknown keys of it gains
/// nothing by repeating it.
const REFETCH_AFTER_MS: u64 = 3 * 60 * 1_000;
/// The same after it did not answer.
const RETRY_AFTER_MS: u64 = 60 * 1_000;

/// For whom keys are looked up. What one purpose fills up does not keep the others waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Purpose {
    /// For events, whoever passed them on. Servers that are backing off are left alone.
    Events,
    /// For somebody who is not known yet. They spoke to us, so that they may well be back; but they
    /// must not keep others from being asked.
    Stranger,
    /// For anybody who asks this server as a notary. Servers that are backing off are left alone.
    Notary,
}

impl Purpose {
    /// Servers that are asked at once.
    const fn at_once(self) -> usize {
        match self {
            Self::Events | Self::Stranger => 32,
            Self::Notary => 4,
        }
    }

    /// Servers that are asked or wait for it at once. Further ones are not asked.
    const fn max_pending(self) -> usize {
        match self {
            Self::Events | Self::Stranger => 2_048,
            Self::Notary => 64,
        }
    }
}

/// The fetches for one purpose.
pub(super) struct Desk {
    pending: Mutex<HashMap<OwnedServerName, Fetch>>,
    places: Semaphore,
}

/// The fetches of all purposes.
pub(super) struct Desks {
    events: Desk,
    strangers: Desk,
    notary: Desk,
}

impl Default for Desks {
    fn default() -> Self {
        let desk = |purpose: Purpose| Desk {
            pending: Mutex::default(),
            places: Semaphore::new(purpose.at_once()),
        };
        Self {
            events: desk(Purpose::Events),
            strangers: desk(Purpose::Stranger),
            notary: desk(Purpose::Notary),
        }
    }
}

impl Desks {
    fn of(&self, purpose: Purpose) -> &Desk {
        match purpose {
            Purpose::Events => &self.events,
            Purpose::Stranger => &self.strangers,
            Purpose::Notary => &self.notary,
        }
    }
}

/// The last time that a server was asked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Attempt {
    at_ms: u64,
    succeeded: bool,
}

/// A fetch that several may wait for.
pub(super) type Fetch = Shared<BoxFuture<'static, Option<Arc<ServerKeys>>>>;

impl KeyRing {
    /// Asks servers for their keys, in parallel, and waits for a bounded time.
    pub(super) async fn fetch_all(&self, servers: &BTreeSet<OwnedServerName>, purpose: Purpose) {
        let fetches: Vec<_> =
            servers.iter().filter_map(|server| self.fetch(server, purpose)).collect();
        if tokio::time::timeout(LOOKUP_TIMEOUT, join_all(fetches)).await.is_err() {
            tracing::debug!(servers = servers.len(), "not all servers told their keys in time");
        }
    }

    /// Begins to ask a server, or joins who asks it already. `None` if it is not to be asked now.
    pub(super) fn fetch(&self, server: &ServerName, purpose: Purpose) -> Option<Fetch> {
        let mut pending = self.0.desks.of(purpose).pending.lock();
        if let Some(fetch) = pending.get(server) {
            return Some(fetch.clone());
        }
        if pending.len() >= purpose.max_pending() || !self.may_ask(server, purpose) {
            return None;
        }
        let place = Place { ring: self.clone(), server: server.to_owned(), purpose };
        let (told, hear) = oneshot::channel();
        let fetch = hear.map(|heard| heard.ok().flatten()).boxed().shared();
        pending.insert(server.to_owned(), fetch.clone());
        // A task that cannot be started any more gives its place back here and now.
        drop(pending);
        self.0.tasks.spawn(async move {
            let keys = place.ring.ask(&place.server, purpose).await;
            drop(place);
            // Nobody may be waiting any more.
            drop(told.send(keys));
        });
        Some(fetch)
    }

    fn may_ask(&self, server: &ServerName, purpose: Purpose) -> bool {
        let now_ms = self.0.clock.now_ms();
        let rested = self.0.attempts.get(server).is_none_or(|last| {
            let rest_ms = if last.succeeded { REFETCH_AFTER_MS } else { RETRY_AFTER_MS };
            now_ms >= last.at_ms.saturating_add(rest_ms)
        });
        rested
            && self.0.config.admits(server)
            && (purpose == Purpose::Stranger || self.0.destinations.due_in(server).is_none())
    }

    /// Asks one server, within the bound for all.
    async fn ask(&self, server: &ServerName, purpose: Purpose) -> Option<Arc<ServerKeys>> {
        let _place = self.0.desks.of(purpose).places.acquire().await.ok()?;
        let fetched = self.ask_directly(server, purpose).await;
        let succeeded = fetched.is_ok();
        let attempt = Attempt { at_ms: self.0.clock.now_ms(), succeeded };
        self.0.attempts.insert(server.to_owned(), attempt);
        match fetched {
            Ok(keys) => Some(keys),
            Err(reason) => {
                tracing::debug!(%server, reason, "a server did not tell its keys");
                None
            }
        }
    }

    async fn ask_directly(
        &self,
        server: &ServerName,
        purpose: Purpose,
    ) -> Result<Arc<ServerKeys>, String> {
        let mut request = Request::new(Bytes::new());
        *request.uri_mut() = path_of::<get_server_keys::v2::Request>()?;
        let limits = Limits { timeout: ANSWER_TIMEOUT, max_bytes: MAX_ANSWER_BYTES };
        let rests = |wait_ms| format!("it was unreachable; the next attempt is in {wait_ms} ms");
        let _turn = match purpose {
            Purpose::Events => {
                Some(self.0.destinations.turn(server, ANSWER_TIMEOUT).await.map_err(rests)?)
            }
            Purpose::Stranger | Purpose::Notary => None,
        };
        let answer = self.0.transport.send(server, request, limits).await;
        if purpose == Purpose::Events {
            match &answer {
                Ok(_) => self.0.destinations.succeeded(server),
                Err(error) => self.0.destinations.failed(server, &error.to_string()),
            }
        }
        let answer = answer.map_err(|error| error.to_string())?;
        if !answer.status().is_success() {
            return Err(format!("it answered {}", answer.status()));
        }
        let json = answer.into_body();
        let object = parse(&json)?;
        let keys = ServerKeys::read(server, &object, self.0.clock.now_ms())
            .map_err(|error| error.to_string())?;
        self.keep(server, keys, Some(json)).await
    }

    /// Merges an answer into what is known, and keeps it.
    async fn keep(
        &self,
        server: &ServerName,
        keys: ServerKeys,
        answer: Option<Bytes>,
    ) -> Result<Arc<ServerKeys>, String> {
        let owner = server.to_owned();
        // Two answers of one server at once would each forget the other's keys.
        let _turn = self.0.owners.lock(server.as_str()).await;
        let before = self.read(server).await;
        let teller = if answer.is_some() { Teller::Itself } else { Teller::Notary };
        let keys = Arc::new(match before {
            Some(before) => Arc::unwrap_or_clone(before).merge(keys, teller),
            None => keys,
        });
        let mut commit = Commit::new(&owner).lazy();
        commit.put(&KEYS, &owner, &(), &*keys);
        if let Some(answer) = answer {
            commit.put(&ANSWERS, &owner, &(), &answer);
        }
        if let Err(error) = self.0.store.commit(commit).await {
            // They can be fetched again.
            tracing::warn!(%server, %error, "a server's keys could not be kept");
        }
        self.0.memory.insert(owner, Arc::clone(&keys));
        Ok(keys)
    }

    /// Asks the notaries, one after the other, for what is still missing of `wanted`.
    pub(super) async fn ask_notaries(&self, wanted: &WantedKeys) {
        for notary in &self.0.config.notaries {
            let missing: Vec<_> = self.missing(wanted).await.into_iter().collect();
            if missing.is_empty() {
                return;
            }
            for servers in missing.chunks(SERVERS_PER_NOTARY_REQUEST) {
                if let Err(reason) = self.ask_notary(notary, servers, wanted).await {
                    tracing::debug!(%notary, reason, "a notary did not help");
                    break;
                }
            }
        }
    }

    async fn ask_notary(
        &self,
        notary: &ServerName,
        servers: &[OwnedServerName],
        wanted: &WantedKeys,
    ) -> Result<(), String> {
        if !self.0.config.admits(notary) || self.0.identity.server_name() == notary {
            return Err("it is not to be asked".to_owned());
        }
        let mut notary_keys = self.entry(notary).await;
        let now_ms = self.0.clock.now_ms();
        if notary_keys.as_ref().is_none_or(|keys| keys.valid_until_ms < now_ms)
            && let Some(fetch) = self.fetch(notary, Purpose::Events)
        {
            notary_keys = fetch.await;
        }
        let notary_keys = notary_keys.ok_or("its own keys are unknown")?.valid_at(now_ms);
        let limits = Limits { timeout: ANSWER_TIMEOUT, max_bytes: MAX_NOTARY_BYTES };
        let request = notary_request(servers, wanted)?;
        let answer = self.0.transport.send(notary, request, limits).await;
        let answer = answer.map_err(|error| error.to_string())?;
        if !answer.status().is_success() {
            return Err(format!("it answered {}", answer.status()));
        }
        let answers: NotaryAnswer =
            serde_json::from_slice(answer.body()).map_err(|error| error.to_string())?;
        for answer in answers.server_keys {
            let kept = self.keep_vouched(notary, &notary_keys, servers, &answer).await;
            if let Err(reason) = kept {
                tracing::debug!(%notary, reason, "a notary's answer is not believed");
            }
        }
        Ok(())
    }

    /// Keeps one server's keys as a notary tells them: asked for, signed by both.
    async fn keep_vouched(
        &self,
        notary: &ServerName,
        notary_keys: &ruma::signatures::PublicKeySet,
        asked: &[OwnedServerName],
        answer: &RawValue,
    ) -> Result<(), String> {
        let object = parse(answer.get().as_bytes())?;
        let name = object.get("server_name").and_then(CanonicalJsonValue::as_str);
        let server = asked.iter().find(|asked| Some(asked.as_str()) == name);
        let server = server.ok_or("nobody asked for this server")?;
        verify_signed_by(notary, notary_keys.clone(), &object)
            .map_err(|error| error.to_string())?;
        let keys = ServerKeys::read(server, &object, self.0.clock.now_ms())
            .map_err(|error| error.to_string())?;
        self.keep(server, keys, None).await.map(drop)
    }
}

/// A server's place among those that are asked; given back when dropped.
struct Place {
    ring: KeyRing,
    server: OwnedServerName,
    purpose: Purpose,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.ring.0.desks.of(self.purpose).pending.lock().remove(&self.server);
    }
}

/// A notary's answer; ruma's type would parse each server's keys a second time.
#[derive(Deserialize)]
struct NotaryAnswer {
    server_keys: Vec<Box<RawValue>>,
}

fn notary_request(
    servers: &[OwnedServerName],
    wanted: &WantedKeys,
) -> Result<Request<Bytes>, String> {
    let server_keys = servers.iter().filter_map(|server| {
        let keys = wanted.get(server)?.iter().map(|(key_id, at)| {
            (key_id.to_string(), serde_json::json!({ "minimum_valid_until_ts": at }))
        });
        Some((server.to_string(), keys.collect::<serde_json::Map<_, _>>().into()))
    });
    let server_keys: serde_json::Map<_, serde_json::Value> = server_keys.collect();
    let body = serde_json::json!({ "server_keys": server_keys });
    Request::builder()
        .method(Method::POST)
        .uri(path_of::<get_remote_server_keys_batch::v2::Request>()?)
        .header(header::CONTENT_TYPE, "application/json")
        .body(Bytes::from(body.to_string()))
        .map_err(|error| error.to_string())
}

/// The path of an endpoint that has no parameters.
fn path_of<T: ruma::api::Metadata>() -> Result<http::Uri, String> {
    let path = T::PATH_BUILDER.all_paths().next().ok_or("an endpoint without a path")?;
    path.parse().map_err(|_| "a path that is no URI".to_owned())
}

pub(super) fn parse(json: &[u8]) -> Result<CanonicalJsonObject, String> {
    serde_json::from_slice(json).map_err(|error| error.to_string())
}
