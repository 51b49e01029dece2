//! The state at the end of a gap, and missing auth events.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    time::Duration,
};

use futures_util::{StreamExt as _, stream};
use hearth_rooms::{CheckedPdu, RoomError, Verdict};
use hearth_storage::run_blocking;
use ruma::{
    EventId, OwnedEventId,
    api::federation::{
        authorization::get_event_authorization,
        event::{get_event, get_room_state, get_room_state_ids},
    },
};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::Filling;
use crate::transport::Limits;

/// Events of a state, its auth chain among them, that are taken from another server.
const MAX_STATE_EVENTS: usize = 300_000;
/// Bytes of an answer that lists them.
const IDS_BYTES: usize = 32 * 1024 * 1024;
/// Bytes of an answer that holds them.
const STATE_BYTES: usize = 256 * 1024 * 1024;
/// How long a server may take for either.
const STATE_TIMEOUT: Duration = Duration::from_mins(3);
/// So many missing events are fetched one by one; for more, the whole state is.
const MAX_SINGLE: usize = 100;
/// Events that are fetched at once.
const SINGLE_AT_ONCE: usize = 10;
/// Attempts, in about five minutes, in which a state is not taken without those of its events whose
/// senders' servers are out of reach. Without them it is another state, for good; but the keys of
/// servers that are gone are not waited for.
const PATIENT_TRIES: u32 = 5;
/// Auth events of auth events that are fetched one by one: so many steps.
const MAX_AUTH_STEPS: usize = 8;
/// Auth events that are taken in one turn. Most of a room's auth events are here; those of a long absence
/// are some hundreds.
pub(super) const MAX_AUTH_EVENTS: usize = 5_000;

impl Filling<'_> {
    /// The state before an event as the server tells it: its events are here afterwards. Those that
    /// do not pass the checks are left out. `None` if the server does not tell all of it.
    pub(super) async fn fetch_state(
        &self,
        event_id: &EventId,
    ) -> Result<Option<Vec<OwnedEventId>>, RoomError> {
        let (id, room_id) = (event_id.to_owned(), self.room_id.to_owned());
        let request = get_room_state_ids::v1::Request::new(id, room_id);
        let limits = Limits { timeout: STATE_TIMEOUT, max_bytes: IDS_BYTES };
        let _list = self.turn.list_place().await;
        let ids = match self.federation.client().send(self.origin, request, limits).await {
            Ok(ids) if ids.pdu_ids.len() + ids.auth_chain_ids.len() <= MAX_STATE_EVENTS => ids,
            Ok(_) => return Ok(None),
            Err(error) => {
                let (origin, room_id) = (self.origin, self.room_id);
                tracing::debug!(%origin, %room_id, %error, "no state was told");
                return Ok(None);
            }
        };
        let all = [ids.pdu_ids.as_slice(), &ids.auth_chain_ids].concat();
        let missing = self.unknown(&all).await?;
        if !missing.is_empty() {
            let is_kept = if missing.len() <= MAX_SINGLE {
                self.keep(self.ask_singly(&missing).await, &missing).await?
            } else {
                let _place = self.turn.state_place().await;
                self.keep(self.ask_for_state(event_id).await, &missing).await?
            };
            if !is_kept {
                return Ok(None);
            }
        }
        let unusable = self.unknown(&ids.pdu_ids).await?;
        let mut state = ids.pdu_ids;
        state.retain(|id| !unusable.contains(id));
        Ok(Some(state))
    }

    /// Fetches auth events of an event; says whether anything came of it.
    pub(super) async fn fetch_auth(
        &mut self,
        event: &CheckedPdu,
        missing: &[OwnedEventId],
    ) -> Result<bool, RoomError> {
        let before = self.unknown(missing).await?;
        self.fetch_auth_chain(event, &before).await?;
        let left = self.unknown(missing).await?;
        self.fetch_singly(left).await?;
        let left = self.unknown(missing).await?;
        if left.iter().any(|id| self.foreign.contains(id)) {
            // There is nothing to wait for.
            self.federation.rooms().refuse_foreign(self.room_id, event.clone()).await?;
            return Ok(true);
        }
        Ok(left.len() < before.len())
    }

    /// Fetches the auth chain of an event, and keeps what the missing events rest on.
    async fn fetch_auth_chain(
        &mut self,
        event: &CheckedPdu,
        missing: &HashSet<OwnedEventId>,
    ) -> Result<(), RoomError> {
        let (event_id, room_id) = (event.pdu().id().to_owned(), self.room_id.to_owned());
        let request = get_event_authorization::v1::Request::new(room_id, event_id);
        let limits = Limits { timeout: STATE_TIMEOUT, max_bytes: IDS_BYTES };
        let turn = self.turn;
        let _list = turn.list_place().await;
        match self.federation.client().send(self.origin, request, limits).await {
            Ok(answer) => {
                let needed = self.needed(missing, answer.auth_chain).await?;
                self.auth_left = self.auth_left.saturating_sub(needed.len());
                let chain = self.check(needed).await;
                self.federation.rooms().receive_outliers(self.room_id, chain).await?;
            }
            Err(error) => {
                let (origin, room_id) = (self.origin, self.room_id);
                tracing::debug!(%origin, %room_id, %error, "no auth chain was told");
            }
        }
        Ok(())
    }

    /// Those events of an answer that are missing, or that these rest on and that are not here. Nobody
    /// asked for the others.
    async fn needed(
        &self,
        missing: &HashSet<OwnedEventId>,
        told: Vec<Box<RawValue>>,
    ) -> Result<Vec<Box<RawValue>>, RoomError> {
        let (checker, version) = (self.federation.checker().clone(), self.version.clone());
        let identify = move || {
            let told = told.into_iter();
            told.filter_map(|event| Some((checker.event_id(&version, &event).ok()?, event)))
                .collect::<HashMap<_, _>>()
        };
        let mut told =
            run_blocking(identify).await.map_err(|error| RoomError::Internal(Box::new(error)))?;
        let mut wanted: Vec<_> = missing.iter().cloned().collect();
        let mut needed = Vec::new();
        while let Some(event_id) = wanted.pop() {
            let Some(event) = told.remove(&event_id) else { continue };
            if needed.len() >= self.auth_left {
                break;
            }
            wanted.extend(self.unknown(&auth_events(&event)).await?);
            needed.push(event);
        }
        Ok(needed)
    }

    /// Fetches events one by one, then their auth events, and so on for some steps.
    async fn fetch_singly(&mut self, wanted: HashSet<OwnedEventId>) -> Result<(), RoomError> {
        let (mut wanted, mut events) = (wanted, Vec::new());
        let mut asked = HashSet::new();
        for _ in 0..MAX_AUTH_STEPS {
            let Some(left) = self.auth_left.checked_sub(wanted.len()) else { return Ok(()) };
            if wanted.is_empty() || wanted.len() + events.len() > MAX_SINGLE {
                return Ok(());
            }
            self.auth_left = left;
            asked.extend(wanted.iter().cloned());
            let told = self.ask_singly(&wanted).await;
            let told = self.check(told).await;
            events.extend(told.into_iter().filter(|event| wanted.contains(event.pdu().id())));
            let verdicts = self.keep_singly(&events).await?;
            let missing = verdicts.into_iter().filter_map(|verdict| match verdict {
                Verdict::MissingAuth(missing) => Some(missing),
                _ => None,
            });
            // Those that wait for others were told already.
            wanted = missing.flatten().filter(|id| !asked.contains(id)).collect();
        }
        Ok(())
    }

    /// Keeps events as outliers; as rejected those that rest on events of other rooms.
    async fn keep_singly(&self, events: &[CheckedPdu]) -> Result<Vec<Verdict>, RoomError> {
        let rooms = self.federation.rooms();
        let verdicts = rooms.receive_outliers(self.room_id, events.to_vec()).await?;
        let is_foreign = |verdict: &Verdict| {
            matches!(verdict, Verdict::MissingAuth(missing)
                if missing.iter().any(|id| self.foreign.contains(id)))
        };
        if !verdicts.iter().any(is_foreign) {
            return Ok(verdicts);
        }
        for (event, verdict) in std::iter::zip(events, &verdicts) {
            if is_foreign(verdict) {
                rooms.refuse_foreign(self.room_id, event.clone()).await?;
            }
        }
        // Others may have waited for these.
        rooms.receive_outliers(self.room_id, events.to_vec()).await
    }

    /// Keeps events that were asked for as outliers. Says whether all of them were told, usable or not.
    async fn keep(
        &self,
        told: Vec<Box<RawValue>>,
        wanted: &HashSet<OwnedEventId>,
    ) -> Result<bool, RoomError> {
        let checker = self.federation.checker();
        let mut told_ids = BTreeSet::new();
        let mut events = Vec::new();
        for checked in checker.check(&self.version, self.room_id, told).await {
            match checked {
                Ok(event) if wanted.contains(event.pdu().id()) => {
                    told_ids.insert(event.pdu().id().to_owned());
                    events.push(event);
                }
                Ok(_) => {}
                Err(dropped) => {
                    let (origin, room_id) = (self.origin, self.room_id);
                    tracing::debug!(%origin, %room_id, reason = dropped.reason, "an event was dropped");
                    if !(dropped.keyless && self.tries < PATIENT_TRIES) {
                        told_ids.extend(dropped.event_id);
                    }
                }
            }
        }
        self.federation.rooms().receive_outliers(self.room_id, events).await?;
        Ok(wanted.iter().all(|id| told_ids.contains(id)))
    }

    async fn ask_for_state(&self, event_id: &EventId) -> Vec<Box<RawValue>> {
        let request =
            get_room_state::v1::Request::new(event_id.to_owned(), self.room_id.to_owned());
        let limits = Limits { timeout: STATE_TIMEOUT, max_bytes: STATE_BYTES };
        match self.federation.client().send(self.origin, request, limits).await {
            Ok(answer) => answer.pdus.into_iter().chain(answer.auth_chain).collect(),
            Err(error) => {
                let (origin, room_id) = (self.origin, self.room_id);
                tracing::debug!(%origin, %room_id, %error, "no state was told");
                Vec::new()
            }
        }
    }

    /// Events by their IDs, as far as the server tells them.
    pub(super) async fn ask_singly(&self, wanted: &HashSet<OwnedEventId>) -> Vec<Box<RawValue>> {
        // In an order that is the same each time.
        let wanted: BTreeSet<_> = wanted.iter().cloned().collect();
        let requests: Vec<_> = wanted.into_iter().map(get_event::v1::Request::new).collect();
        let answers = stream::iter(requests)
            .map(|request| self.federation.client().send(self.origin, request, self.limits()))
            .buffer_unordered(SINGLE_AT_ONCE);
        let answers: Vec<_> = answers.collect().await;
        answers.into_iter().filter_map(|answer| Some(answer.ok()?.pdu)).collect()
    }

    /// Those events that are not here, not even as outliers.
    async fn unknown(&self, ids: &[OwnedEventId]) -> Result<HashSet<OwnedEventId>, RoomError> {
        let mut unknown = HashSet::new();
        for (count, id) in ids.iter().enumerate() {
            if self.federation.rooms().ordinal_of(self.room_id, id).await?.is_none() {
                unknown.insert(id.clone());
            }
            // Look-ups of a whole state take long enough to let others in between.
            if count % 100 == 99 {
                tokio::task::yield_now().await;
            }
        }
        Ok(unknown)
    }
}

/// The auth events that an event names; none if it cannot be read.
fn auth_events(event: &RawValue) -> Vec<OwnedEventId> {
    #[derive(Deserialize)]
    struct Links {
        auth_events: Vec<OwnedEventId>,
    }
    let links = serde_json::from_str(event.get());
    links.map(|Links { auth_events }| auth_events).unwrap_or_default()
}
