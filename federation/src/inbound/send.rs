//! Transactions: events and EDUs that another server pushes (SS "Transactions").
//!
//! A transaction is worked on by a task of its own, so that it comes to an end though its sender may not
//! wait for it; whoever sends it again meanwhile waits for the same task, and later gets the same answer.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use futures_util::{
    FutureExt as _, StreamExt as _,
    future::{BoxFuture, Shared},
    stream,
};
use hearth_http::{Endpoints, MatrixError, Policy, RawJson, Ruma};
use hearth_rooms::{RoomError, Verdict};
use hearth_storage::{Commit, CommitError, Keyspace, OwnerLocks, StoreError, postcard_record};
use hearth_types::limits::MAX_PDU_BYTES;
use parking_lot::Mutex;
use ruma::{
    OwnedEventId, OwnedRoomId, OwnedServerName, RoomId, RoomVersionId, ServerName,
    api::federation::transactions::{edu::Edu, send_transaction_message},
    serde::Raw,
};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio::sync::oneshot;

use super::{Api, Gaps, Origin, edus, ended, gaps::Pusher};
use crate::{Federation, check::Dropped};

/// Events of one transaction (SS "Transactions").
const MAX_PDUS: usize = 50;
/// EDUs of one transaction (SS "Transactions").
const MAX_EDUS: usize = 100;
/// Bytes of a transaction: other implementations make and take up to 200 times 64 KiB, and repeat one
/// that is refused forever.
const MAX_BYTES: usize = 16 * 1024 * 1024;
/// Nesting of a transaction. No event of the greatest size is deeper; what is too deep for the checks
/// on events is dropped alone.
const MAX_DEPTH: usize = MAX_PDU_BYTES;
/// Rooms of one transaction that are worked on at once.
const ROOMS_AT_ONCE: usize = 8;
/// Transactions of one server that are worked on at once. Servers send one after the other; those with
/// several senders a few.
const MAX_IN_FLIGHT_PER_ORIGIN: usize = 8;
/// Transactions of all servers that are worked on at once.
const MAX_IN_FLIGHT: usize = 1_024;
/// Bytes of all transactions that are worked on at once. A full one has millions; ordinary ones some
/// thousands.
const MAX_BYTES_IN_FLIGHT: usize = 256 * 1024 * 1024;
/// How long a server is told to wait beyond these bounds.
const BUSY_RETRY_AFTER: Duration = Duration::from_secs(5);
/// Answers of one server that are remembered. A server repeats its last transactions, not older ones.
const REMEMBERED: usize = 100;

/// Answers by origin and transaction ID.
pub(crate) const ANSWERED: Keyspace<OwnedServerName, String, Bytes> =
    Keyspace::new("federation_transactions");

/// The IDs of the remembered transactions of an origin, oldest first.
pub(crate) const ANSWERED_ORDER: Keyspace<OwnedServerName, (), AnsweredOrder> =
    Keyspace::new("federation_transaction_order");

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct AnsweredOrder(VecDeque<String>);
postcard_record!(AnsweredOrder, version = 1);

/// The endpoints of this module.
pub(super) fn endpoints() -> Endpoints<Api> {
    Endpoints::new().ruma_with(Policy::default().json_body(MAX_BYTES).json_depth(MAX_DEPTH), send)
}

/// What becomes of a transaction: its answer, or nothing if working on it failed.
type Work = Shared<BoxFuture<'static, Option<Bytes>>>;

/// The transactions that are being worked on.
#[derive(Clone, Default)]
pub(crate) struct Transactions(Arc<TransactionsInner>);

struct TransactionsInner {
    in_flight: Mutex<InFlight>,
    /// Bytes of the transactions in flight at most.
    max_bytes: usize,
    /// One writer at a time for each origin's remembered answers.
    owners: OwnerLocks,
}

impl Default for TransactionsInner {
    fn default() -> Self {
        Self {
            in_flight: Mutex::default(),
            max_bytes: MAX_BYTES_IN_FLIGHT,
            owners: OwnerLocks::default(),
        }
    }
}

#[derive(Default)]
struct InFlight {
    origins: HashMap<OwnedServerName, HashMap<String, Work>>,
    /// How many there are.
    count: usize,
    bytes: usize,
}

impl std::fmt::Debug for Transactions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let origins = self.0.in_flight.lock().origins.len();
        f.debug_struct("Transactions").field("origins", &origins).finish_non_exhaustive()
    }
}

/// A transaction on its way in.
struct Transaction {
    origin: OwnedServerName,
    id: String,
    pdus: Vec<Box<RawValue>>,
    edus: Vec<Raw<Edu>>,
}

impl Transaction {
    /// About the memory that it takes.
    fn bytes(&self) -> usize {
        let pdus = self.pdus.iter().map(|pdu| pdu.get().len());
        let edus = self.edus.iter().map(|edu| edu.json().get().len());
        pdus.chain(edus).sum()
    }
}

/// `PUT /_matrix/federation/v1/send/{txnId}`.
async fn send(
    api: Api,
    request: Ruma<send_transaction_message::v1::Request, Origin>,
) -> Result<RawJson, MatrixError> {
    let Origin(origin) = request.identity;
    api.federation.destinations().heard_from(&origin);
    let body = request.body;
    if body.pdus.len() > MAX_PDUS || body.edus.len() > MAX_EDUS {
        let message = format!("More than {MAX_PDUS} PDUs or {MAX_EDUS} EDUs");
        return Err(MatrixError::invalid_param(message));
    }
    let transaction = Transaction {
        origin,
        id: body.transaction_id.to_string(),
        pdus: body.pdus,
        edus: body.edus,
    };
    let answer = api.transactions.run(&api.federation, transaction).await?;
    Ok(RawJson(answer))
}

impl Transactions {
    /// Works on a transaction, or waits for who does, or finds the answer that it was given.
    async fn run(
        &self,
        federation: &Federation,
        transaction: Transaction,
    ) -> Result<Bytes, MatrixError> {
        let answered =
            federation.store().get(&ANSWERED, &transaction.origin, &transaction.id).await;
        if let Some(answer) = answered.map_err(|error| MatrixError::internal(&error))? {
            return Ok(answer);
        }
        let failed = || MatrixError::internal(&"the work on a transaction was cut off");
        self.join(federation, transaction)?.await.ok_or_else(failed)
    }

    fn join(&self, federation: &Federation, transaction: Transaction) -> Result<Work, MatrixError> {
        let mut in_flight = self.0.in_flight.lock();
        let of_origin = in_flight.origins.get(&transaction.origin);
        if let Some(work) = of_origin.and_then(|of_origin| of_origin.get(&transaction.id)) {
            return Ok(work.clone());
        }
        let bytes = transaction.bytes();
        // An origin has an entry for as long as it has work.
        if of_origin.map_or(0, HashMap::len) >= MAX_IN_FLIGHT_PER_ORIGIN
            || in_flight.count >= MAX_IN_FLIGHT
            || in_flight.bytes.saturating_add(bytes) > self.0.max_bytes
        {
            return Err(MatrixError::limit_exceeded(BUSY_RETRY_AFTER));
        }
        in_flight.count += 1;
        in_flight.bytes += bytes;
        let (origin, id) = (transaction.origin.clone(), transaction.id.clone());
        let place =
            Place { transactions: self.clone(), origin: origin.clone(), id: id.clone(), bytes };
        let (told, hear) = oneshot::channel();
        let answer = hear.map(Result::ok).boxed().shared();
        in_flight.origins.entry(origin).or_default().insert(id, answer.clone());
        // A task that cannot be started any more gives its place back here and now.
        drop(in_flight);
        let (transactions, parts) = (self.clone(), federation.clone());
        federation.spawn(async move {
            let (origin, id) = (transaction.origin.clone(), transaction.id.clone());
            match work(&parts, transaction).await {
                Ok(answer) => {
                    // Nobody may be waiting any more. Who waits need not wait for what only spares
                    // work: a repeated transaction finds its events here.
                    drop(told.send(answer.clone()));
                    transactions.remember(&parts, &origin, id, &answer).await;
                    drop(place);
                }
                Err(error) => tracing::error!(%error, %origin, "a transaction is not taken"),
            }
        });
        Ok(answer)
    }

    /// Keeps an answer, and forgets the oldest one beyond those that are kept. Not at once durable:
    /// after a crash the transaction is worked on again, and finds its events here.
    async fn remember(
        &self,
        federation: &Federation,
        origin: &OwnedServerName,
        id: String,
        answer: &Bytes,
    ) {
        let _turn = self.0.owners.lock(origin.as_str()).await;
        let store = federation.store();
        let mut commit = Commit::new(origin).lazy();
        let order = store.get(&ANSWERED_ORDER, origin, &()).await;
        let kept = async {
            let mut order = order?.unwrap_or_default();
            commit.put(&ANSWERED, origin, &id, answer);
            order.0.push_back(id);
            while order.0.len() > REMEMBERED {
                if let Some(oldest) = order.0.pop_front() {
                    commit.delete(&ANSWERED, origin, &oldest);
                }
            }
            commit.put(&ANSWERED_ORDER, origin, &(), &order);
            store.commit(commit).await.map_err(|error| StoreError::Engine(error.to_string()))
        };
        if let Err(error) = kept.await {
            tracing::warn!(%origin, %error, "the answer to a transaction could not be kept");
        }
    }
}

/// A transaction's place among those worked on; given back when dropped.
struct Place {
    transactions: Transactions,
    origin: OwnedServerName,
    id: String,
    bytes: usize,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut in_flight = self.transactions.0.in_flight.lock();
        in_flight.count = in_flight.count.saturating_sub(1);
        in_flight.bytes = in_flight.bytes.saturating_sub(self.bytes);
        if let Some(of_origin) = in_flight.origins.get_mut(&self.origin) {
            of_origin.remove(&self.id);
            if of_origin.is_empty() {
                in_flight.origins.remove(&self.origin);
            }
        }
    }
}

/// What became of each event that has an ID.
pub(super) type Results = BTreeMap<OwnedEventId, Result<(), String>>;

/// The events, room by room, and beside them the rest.
/// Fails if what would be lost with an answer could not be written: then the origin sends it again.
async fn work(federation: &Federation, transaction: Transaction) -> Result<Bytes, RoomError> {
    let Transaction { origin, pdus, edus, .. } = transaction;
    let rooms = by_room(pdus).into_iter().map(|(room_id, pdus)| {
        let origin = &origin;
        async move { receive_room(federation, origin, &room_id, pdus).await }
    });
    let results: Vec<Result<Results, RoomError>> =
        stream::iter(rooms).buffer_unordered(ROOMS_AT_ONCE).collect().await;
    edus::receive(federation, &origin, edus).await?;
    let results: Vec<Results> = results.into_iter().collect::<Result<_, _>>()?;
    Ok(answer(results.into_iter().flatten().collect()))
}

/// The events of each room, in their order. Those that name no room are dropped: no event that begins
/// a room comes by a transaction.
fn by_room(pdus: Vec<Box<RawValue>>) -> BTreeMap<OwnedRoomId, Vec<Box<RawValue>>> {
    #[derive(Deserialize)]
    struct Place {
        room_id: OwnedRoomId,
    }

    let mut rooms: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for pdu in pdus {
        match serde_json::from_str::<Place>(pdu.get()) {
            Ok(Place { room_id }) => rooms.entry(room_id).or_default().push(pdu),
            Err(error) => tracing::debug!(%error, "an event of no room was dropped"),
        }
    }
    rooms
}

/// The version of a room that this server is in, or will be in when a join under way has ended. What is
/// left of others is not kept up to date.
async fn version_of_resident(
    federation: &Federation,
    room_id: &RoomId,
) -> Result<RoomVersionId, RoomError> {
    let rooms = federation.rooms();
    if rooms.is_resident(room_id).await?
        || federation.arrivals().awaited(room_id).await && rooms.is_resident(room_id).await?
    {
        rooms.version(room_id).await
    } else {
        Err(RoomError::UnknownRoom)
    }
}

/// The events of one room. One that cannot be taken harms no other.
pub(super) async fn receive_room(
    federation: &Federation,
    origin: &ServerName,
    room_id: &RoomId,
    pdus: Vec<Box<RawValue>>,
) -> Result<Results, RoomError> {
    let version = match version_of_resident(federation, room_id).await {
        Ok(version) => version,
        Err(error) if store_failed(&error) => return Err(error),
        Err(error) => {
            // Without the room's version its events have no ID to report them by.
            tracing::debug!(%origin, %room_id, %error, "events of a room that is not here");
            ended::receive(federation, room_id, pdus).await?;
            return Ok(Results::new());
        }
    };
    let checker = federation.checker();
    let refuse_all = |reason: &str| {
        let ids = pdus.iter().filter_map(|pdu| checker.event_id(&version, pdu).ok());
        ids.map(|id| (id, Err(reason.to_owned()))).collect()
    };
    match federation.rooms().acl_admits(room_id, origin).await {
        Ok(true) => {}
        Ok(false) => return Ok(refuse_all("your server is banned from the room")),
        Err(error) if store_failed(&error) => return Err(error),
        Err(error) => return Ok(refuse_all(&told(&error))),
    }
    let mut results = Results::new();
    let mut passed = Vec::with_capacity(pdus.len());
    let mut unjudged = Vec::new();
    for event in checker.check(&version, room_id, pdus).await {
        match event {
            Ok(event) => passed.push(event),
            Err(Dropped { event_id: Some(event_id), reason, keyless, .. }) => {
                if keyless {
                    unjudged.push(event_id.clone());
                }
                results.insert(event_id, Err(reason));
            }
            Err(Dropped { event_id: None, reason, .. }) => {
                tracing::debug!(%origin, %room_id, reason, "an event without an ID was dropped");
            }
        }
    }
    if !unjudged.is_empty() {
        // Perhaps their servers can be reached later, and who pushed them does not push them again.
        let pusher = Pusher::of(federation, room_id, origin).await?;
        federation.holes().note_pushed(room_id, &unjudged, &pusher).await?;
    }
    let ids: Vec<_> = passed.iter().map(|event| event.pdu().id().to_owned()).collect();
    match Gaps::new(federation.clone()).receive(origin, room_id, passed).await {
        Ok(verdicts) => results.extend(ids.into_iter().zip(verdicts.iter().map(result))),
        Err(error) => {
            if matches!(error, RoomError::Busy | RoomError::Internal(_)) {
                // Nothing is wrong with the events, and who pushed them does not push them again.
                let pusher = Pusher::of(federation, room_id, origin).await?;
                federation.holes().note_pushed(room_id, &ids, &pusher).await?;
            }
            results.extend(ids.into_iter().map(|id| (id, Err(told(&error)))));
        }
    }
    Ok(results)
}

/// Is it the store that does not answer, rather than one room that is damaged?
pub(super) fn store_failed(error: &RoomError) -> bool {
    let RoomError::Internal(cause) = error else { return false };
    cause.is::<StoreError>() || cause.is::<CommitError>()
}

/// Whether an event was handled. Soft-failed and rejected ones were: this server has judged them, for good,
/// and sending them again would change nothing.
fn result(verdict: &Verdict) -> Result<(), String> {
    match verdict {
        Verdict::Known | Verdict::Accepted | Verdict::SoftFailed | Verdict::Rejected(_) => Ok(()),
        Verdict::MissingPrev(_) => Err("its previous events could not be had".to_owned()),
        Verdict::MissingAuth(_) => Err("its auth events could not be had".to_owned()),
    }
}

/// An error as another server may read it.
fn told(error: &RoomError) -> String {
    if let RoomError::Internal(cause) = error {
        tracing::error!(cause, "events could not be received");
    }
    error.to_string()
}

/// The body of the answer (SS "PUT /_matrix/federation/v1/send/{txnId}").
fn answer(results: Results) -> Bytes {
    #[derive(Serialize)]
    struct Answer {
        pdus: BTreeMap<OwnedEventId, PduResult>,
    }
    #[derive(Serialize)]
    struct PduResult {
        #[serde(skip_serializing_if = "Option::is_none")]
        error: Option<String>,
    }

    let pdus = results.into_iter().map(|(id, result)| (id, PduResult { error: result.err() }));
    // Strings cannot fail to serialize.
    let json = serde_json::to_vec(&Answer { pdus: pdus.collect() });
    json.map_or_else(|_| Bytes::from_static(br#"{"pdus":{}}"#), Bytes::from)
}

#[cfg(test)]
mod extremes;
#[cfg(test)]
mod tests;
