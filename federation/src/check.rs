//! The first three checks on receipt of a PDU: form, signatures, content hash (SS "Checks performed on
//! receipt of a PDU"). What passes is a [`CheckedPdu`].
//!
//! An event is parsed once. Parsing and proving run off the async threads, in chunks on all cores;
//! between the two all keys that the events need are looked up together.

use std::{
    collections::BTreeSet, iter, num::NonZeroUsize, sync::Arc, thread::available_parallelism,
};

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use hearth_rooms::CheckedPdu;
use hearth_storage::run_blocking;
use hearth_types::{Pdu, limits::MAX_PDU_BYTES};
use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, MilliSecondsSinceUnixEpoch, OwnedEventId,
    OwnedServerName, OwnedServerSigningKeyId, RoomId, RoomVersionId, UInt,
    canonical_json::redact,
    room_version_rules::RoomVersionRules,
    signatures::{
        Verified, reference_hash, required_server_signatures_to_verify_event, verify_event,
    },
    state_res::check_pdu_format,
};
use serde_json::value::RawValue;

use crate::keys::{KeyRing, KnownKeys, WantedKeys};

/// Events that are parsed at a time: an event takes some times its bytes then, and answers may hold hundreds
/// of thousands. (Tests go beyond with fewer.)
const WINDOW: usize = if cfg!(test) { 100 } else { 4_096 };
/// Events that one job works on: some milliseconds, so that the cores share the work evenly.
const CHUNK: usize = 64;
/// So few events are worked on in place: the way to another thread would cost as much.
const INLINE: usize = 2;
/// Signatures of one server on one event that are looked at. Servers make one, or two while they
/// change keys.
const MAX_SIGNATURES_PER_SERVER: usize = 8;
/// Longest quotation of what is wrong with an event, in bytes: the reason may hold parts of the event.
const MAX_REASON_BYTES: usize = 300;

/// Checks events. Cheap to clone.
#[derive(Clone, Debug)]
pub struct PduChecker {
    keys: KeyRing,
}

/// Why an event is dropped.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Dropped {
    /// Its ID, if it has one.
    pub event_id: Option<OwnedEventId>,
    /// What is wrong.
    pub reason: String,
    /// Its signatures do not prove that it is of those who must have signed it.
    pub unproven: bool,
    /// Not even one key is known of a server that must have signed it, and seems to have: it may have been
    /// out of reach, and the event may be as good as any.
    pub keyless: bool,
    /// It is an event of another room, whoever says so: its ID is made of that, too.
    pub foreign: bool,
}

impl Dropped {
    fn new(event_id: Option<OwnedEventId>, reason: impl Into<String>) -> Self {
        let mut reason = reason.into();
        reason.truncate(reason.floor_char_boundary(MAX_REASON_BYTES));
        Self { event_id, reason, unproven: false, keyless: false, foreign: false }
    }
}

/// An event of the right form.
struct Formed {
    event_id: OwnedEventId,
    object: CanonicalJsonObject,
    /// Its canonical form.
    json: Bytes,
    /// Who must have signed it.
    signers: BTreeSet<OwnedServerName>,
    at: MilliSecondsSinceUnixEpoch,
}

/// A room version's rules, for the two kinds of events that they are read for.
#[derive(Debug)]
struct Rules {
    /// For joins: from room version 8 on whoever vouches for one has signed it, too.
    joins: RoomVersionRules,
    /// For all others. Whom their content names as a voucher means nothing (SS "Validating
    /// hashes and signatures on received events" speaks of joins), but ruma would ask for a signature.
    others: RoomVersionRules,
}

impl Rules {
    fn new(joins: RoomVersionRules) -> Self {
        let mut others = joins.clone();
        others.signatures.check_join_authorised_via_users_server = false;
        Self { joins, others }
    }

    /// Those for this event.
    fn of(&self, object: &CanonicalJsonObject) -> &RoomVersionRules {
        let says = |object: &CanonicalJsonObject, field: &str, wanted: &str| {
            object.get(field).and_then(CanonicalJsonValue::as_str) == Some(wanted)
        };
        let content = object.get("content").and_then(CanonicalJsonValue::as_object);
        let is_join = says(object, "type", "m.room.member")
            && content.is_some_and(|content| says(content, "membership", "join"));
        if is_join { &self.joins } else { &self.others }
    }
}

impl PduChecker {
    /// A checker that takes keys from the ring.
    #[must_use]
    pub fn new(keys: KeyRing) -> Self {
        Self { keys }
    }

    /// The ID of an event, from its bytes. Cheap: parses and hashes, verifies nothing.
    pub fn event_id(
        &self,
        version: &RoomVersionId,
        event: &RawValue,
    ) -> Result<OwnedEventId, Dropped> {
        let rules = rules(version)?;
        identify(&parse(event)?, &rules.joins)
    }

    /// Checks events of one room, on as many cores as there are: the answer has one entry for each, in
    /// order. Keys are fetched first, all at once for as many events as are held parsed at a time.
    ///
    /// `unsigned` is dropped: it is what another server says for itself, and signed by nobody.
    pub async fn check(
        &self,
        version: &RoomVersionId,
        room_id: &RoomId,
        events: Vec<Box<RawValue>>,
    ) -> Vec<Result<CheckedPdu, Dropped>> {
        let rules = match rules(version) {
            Ok(rules) => Arc::new(rules),
            Err(dropped) => return events.iter().map(|_| Err(dropped.clone())).collect(),
        };
        let mut results = Vec::with_capacity(events.len());
        let mut events = events.into_iter();
        while events.len() > 0 {
            let window = events.by_ref().take(WINDOW).collect();
            results.extend(self.check_window(&rules, room_id, window).await);
        }
        results
    }

    async fn check_window(
        &self,
        rules: &Arc<Rules>,
        room_id: &RoomId,
        events: Vec<Box<RawValue>>,
    ) -> Vec<Result<CheckedPdu, Dropped>> {
        let formed = {
            let (rules, room_id) = (Arc::clone(rules), room_id.to_owned());
            in_chunks(events, move |event| form(&event, &room_id, &rules)).await
        };
        let wanted = wanted_keys(formed.iter().flatten());
        let keys = Arc::new(self.keys.known(&wanted).await);
        let rules = Arc::clone(rules);
        in_chunks(formed, move |formed| formed.and_then(|formed| prove(formed, &keys, &rules)))
            .await
    }
}

/// The rules of a version that this server takes part in. Canonical JSON is strict in all of them.
fn rules(version: &RoomVersionId) -> Result<Rules, Dropped> {
    let served = hearth_rooms::SUPPORTED_VERSIONS.contains(version);
    served
        .then(|| version.rules())
        .flatten()
        .map(Rules::new)
        .ok_or_else(|| Dropped::new(None, format!("room version {version} is not served here")))
}

/// Maps in order, on several threads if it is worth it.
async fn in_chunks<T, U>(
    items: Vec<T>,
    map: impl Fn(T) -> Result<U, Dropped> + Send + Sync + 'static,
) -> Vec<Result<U, Dropped>>
where
    T: Send + 'static,
    U: Send + 'static,
{
    if items.len() <= INLINE {
        return items.into_iter().map(map).collect();
    }
    let map = Arc::new(map);
    let count = items.len();
    let mut items = items.into_iter();
    let mut chunks = Vec::with_capacity(count.div_ceil(CHUNK));
    while items.len() > 0 {
        chunks.push(items.by_ref().take(CHUNK).collect::<Vec<_>>());
    }
    let jobs = chunks.into_iter().map(|chunk| {
        let map = Arc::clone(&map);
        let length = chunk.len();
        let job = run_blocking(move || chunk.into_iter().map(|item| map(item)).collect::<Vec<_>>());
        async move { job.await.map_err(|error| (error, length)) }
    });
    let cores = available_parallelism().map_or(1, NonZeroUsize::get);
    let mut results = Vec::with_capacity(count);
    let mut done = stream::iter(jobs).buffered(cores);
    while let Some(chunk) = done.next().await {
        match chunk {
            Ok(chunk) => results.extend(chunk),
            Err((error, length)) => {
                tracing::error!(%error, "events could not be checked");
                let dropped = || Err(Dropped::new(None, "the event could not be checked"));
                results.extend(iter::repeat_with(dropped).take(length));
            }
        }
    }
    results
}

/// The first check: form and size.
fn form(event: &RawValue, room_id: &RoomId, rules: &Rules) -> Result<Formed, Dropped> {
    let mut object = parse(event)?;
    let rules = rules.of(&object);
    object.remove("unsigned");
    let event_id = identify(&object, rules)?;
    let dropped = |reason: String| Dropped::new(Some(event_id.clone()), reason);
    let json = canonical(&object).map_err(dropped)?;
    check_fields(&mut object, rules).map_err(dropped)?;
    check_room(&object, &event_id, room_id)
        .map_err(|reason| Dropped { foreign: true, ..dropped(reason) })?;
    let at = origin_server_ts(&object).map_err(dropped)?;
    let signers = required_server_signatures_to_verify_event(&object, &rules.signatures)
        .map_err(|error| dropped(error.to_string()))?;
    Ok(Formed { event_id, object, json, signers, at })
}

fn parse(event: &RawValue) -> Result<CanonicalJsonObject, Dropped> {
    // Refuses floats and integers beyond 53 bits.
    serde_json::from_str(event.get())
        .map_err(|error| Dropped::new(None, format!("not canonical JSON: {error}")))
}

fn identify(
    object: &CanonicalJsonObject,
    rules: &RoomVersionRules,
) -> Result<OwnedEventId, Dropped> {
    let hash = reference_hash(object, rules)
        .map_err(|error| Dropped::new(None, format!("the event has no ID: {error}")))?;
    OwnedEventId::try_from(format!("${hash}"))
        .map_err(|error| Dropped::new(None, format!("the event has no ID: {error}")))
}

/// The canonical form, if it is not too large.
fn canonical(object: &CanonicalJsonObject) -> Result<Bytes, String> {
    let json = serde_json::to_vec(object).map_err(|error| error.to_string())?;
    if json.len() > MAX_PDU_BYTES {
        return Err(format!("the event has {} bytes, more than {MAX_PDU_BYTES}", json.len()));
    }
    Ok(Bytes::from(json))
}

/// ruma's checks of the fields. The content is out of its sight: they would serialize it for its size,
/// and admit one byte less than the specification does.
fn check_fields(object: &mut CanonicalJsonObject, rules: &RoomVersionRules) -> Result<(), String> {
    let Some(content @ CanonicalJsonValue::Object(_)) = object.remove("content") else {
        return Err("`content` is not an object".to_owned());
    };
    check_pdu_format(object, &rules.event_format)?;
    object.insert("content".to_owned(), content);
    Ok(())
}

/// The event must be of this room. A create event that names no room makes the room that is called as
/// itself (rooms/v12 "Room IDs as hashes").
fn check_room(
    object: &CanonicalJsonObject,
    event_id: &OwnedEventId,
    room_id: &RoomId,
) -> Result<(), String> {
    let matches = match object.get("room_id") {
        Some(named) => named.as_str() == Some(room_id.as_str()),
        None => event_id.as_str().strip_prefix('$') == room_id.as_str().strip_prefix('!'),
    };
    if matches { Ok(()) } else { Err(format!("the event is not of the room {room_id}")) }
}

fn origin_server_ts(object: &CanonicalJsonObject) -> Result<MilliSecondsSinceUnixEpoch, String> {
    object
        .get("origin_server_ts")
        .and_then(CanonicalJsonValue::as_integer)
        .and_then(|at| UInt::try_from(i64::from(at)).ok())
        .map(MilliSecondsSinceUnixEpoch)
        .ok_or_else(|| "`origin_server_ts` is not a time".to_owned())
}

/// Every key that one of the events was signed with by a server that must have signed it, at the
/// latest time at which any of them needs it.
fn wanted_keys<'a>(events: impl Iterator<Item = &'a Formed>) -> WantedKeys {
    let mut wanted = WantedKeys::new();
    for event in events {
        for signer in &event.signers {
            for key_id in signing_keys(&event.object, signer) {
                let keys = wanted.entry(signer.clone()).or_default();
                let at = keys.entry(key_id).or_insert(event.at);
                *at = event.at.max(*at);
            }
        }
    }
    wanted
}

fn signing_keys(
    object: &CanonicalJsonObject,
    signer: &OwnedServerName,
) -> impl Iterator<Item = OwnedServerSigningKeyId> {
    let signatures = object
        .get("signatures")
        .and_then(CanonicalJsonValue::as_object)
        .and_then(|signatures| signatures.get(signer.as_str()))
        .and_then(CanonicalJsonValue::as_object);
    let key_ids = signatures.into_iter().flat_map(|signatures| signatures.keys());
    key_ids
        .take(MAX_SIGNATURES_PER_SERVER)
        .filter_map(|key_id| OwnedServerSigningKeyId::try_from(key_id.as_str()).ok())
}

/// The second and third check: signatures, content hash.
fn prove(formed: Formed, keys: &KnownKeys, rules: &Rules) -> Result<CheckedPdu, Dropped> {
    let Formed { event_id, object, json, signers, at } = formed;
    let rules = rules.of(&object);
    let dropped = |reason: String| Dropped::new(Some(event_id.clone()), reason);
    let signed_by = |signer| signing_keys(&object, signer).next().is_some();
    let keyless = signers.iter().any(|signer| signed_by(signer) && !keys.has_any_of(signer));
    let keys = keys.valid_at(signers.iter(), at);
    let verified = verify_event(&keys, &object, rules).map_err(|error| Dropped {
        unproven: true,
        keyless,
        ..dropped(error.to_string())
    })?;
    let json = match verified {
        Verified::All => json,
        // The content is not what was signed: the event is kept without it.
        Verified::Signatures => {
            let redacted = redact(object, &rules.redaction, None);
            canonical(&redacted.map_err(|error| dropped(error.to_string()))?).map_err(dropped)?
        }
    };
    let pdu = Pdu::parse(event_id.clone(), json).map_err(|error| dropped(error.to_string()))?;
    Ok(CheckedPdu::new(pdu))
}

#[cfg(test)]
mod tests;
