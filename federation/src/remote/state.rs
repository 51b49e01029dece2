//! The state at an event, as another server tells it.

use futures_util::future::join_all;
use hearth_rooms::{CheckedPdu, RoomError};
use ruma::{
    OwnedEventId, RoomId, RoomVersionId, ServerName,
    api::federation::event::{
        get_event::v1 as get_event, get_room_state::v1 as get_state,
        get_room_state_ids::v1 as get_state_ids,
    },
};
use serde_json::value::RawValue;

use super::{
    Remote,
    asking::{MAX_STATE_IDS, brief, large, many_ids, refusal, unfit},
    join::apart,
};

/// Events that are fetched one by one; if more are missing, the whole state is.
const MAX_SINGLE: usize = 50;
/// Whole states that are fetched at a time, for whatever reason: each may take hundreds of megabytes. Apart
/// from those of gaps, so that who pushes events keeps nobody from joining.
pub(super) const MAX_STATES: usize = 4;
/// Lists of a state's IDs that are held at a time: each may have 32 MiB.
pub(super) const MAX_LISTS: usize = 8;
/// Events that are fetched at a time.
const CONCURRENCY: usize = 8;

impl Remote {
    /// The whole state before an event and its auth chain, checked, and how many of its events nobody
    /// could judge.
    pub(super) async fn whole_state(
        &self,
        server: &ServerName,
        version: &RoomVersionId,
        room_id: &RoomId,
        event_id: OwnedEventId,
    ) -> Result<(Vec<CheckedPdu>, Vec<CheckedPdu>, usize), RoomError> {
        let _place = self.state_places().acquire().await.map_err(|_| RoomError::Busy)?;
        let request = get_state::Request::new(event_id, room_id.to_owned());
        let client = self.federation().client();
        let answer = client.send(server, request, large()).await.map_err(refusal)?;
        let (state, auth_chain) = apart(answer.pdus, answer.auth_chain);
        let (state, keyless) = self.checked_and_keyless(version, room_id, state).await;
        Ok((state, self.checked(version, room_id, auth_chain).await, keyless))
    }

    /// The IDs of the state before an event. When it answers, all those events are here.
    pub(super) async fn state_before(
        &self,
        server: &ServerName,
        version: &RoomVersionId,
        room_id: &RoomId,
        event_id: &OwnedEventId,
    ) -> Result<Vec<OwnedEventId>, RoomError> {
        let _place = self.list_places().acquire().await.map_err(|_| RoomError::Busy)?;
        let request = get_state_ids::Request::new(event_id.clone(), room_id.to_owned());
        let client = self.federation().client();
        let answer = client.send(server, request, many_ids()).await.map_err(refusal)?;
        if answer.pdu_ids.len() + answer.auth_chain_ids.len() > MAX_STATE_IDS {
            return Err(unfit(server, "the state is too large"));
        }
        let wanted = answer.pdu_ids.iter().chain(&answer.auth_chain_ids);
        let missing = self.unknown(room_id, wanted).await?;
        if !missing.is_empty() {
            let fetched = if missing.len() > MAX_SINGLE {
                let (mut state, auth_chain, _) =
                    self.whole_state(server, version, room_id, event_id.clone()).await?;
                state.extend(auth_chain);
                state
            } else {
                let events = self.single_events(server, &missing).await;
                self.checked(version, room_id, events).await
            };
            self.federation().rooms().receive_outliers(room_id, fetched).await?;
            if !self.unknown(room_id, answer.pdu_ids.iter()).await?.is_empty() {
                return Err(unfit(server, "events of the state cannot be had"));
            }
        }
        Ok(answer.pdu_ids)
    }

    /// Which of these events are not here.
    pub(super) async fn unknown(
        &self,
        room_id: &RoomId,
        events: impl Iterator<Item = &OwnedEventId>,
    ) -> Result<Vec<OwnedEventId>, RoomError> {
        let mut unknown = Vec::new();
        for event_id in events {
            if self.federation().rooms().ordinal_of(room_id, event_id).await?.is_none() {
                unknown.push(event_id.clone());
            }
        }
        Ok(unknown)
    }

    /// Events one by one; those that the server does not have are left out.
    async fn single_events(
        &self,
        server: &ServerName,
        wanted: &[OwnedEventId],
    ) -> Vec<Box<RawValue>> {
        let mut fetched = Vec::with_capacity(wanted.len());
        for some in wanted.chunks(CONCURRENCY) {
            let asked = some.iter().map(|event_id| self.single_event(server, event_id.clone()));
            fetched.extend(join_all(asked).await.into_iter().flatten());
        }
        fetched
    }

    async fn single_event(
        &self,
        server: &ServerName,
        event_id: OwnedEventId,
    ) -> Option<Box<RawValue>> {
        let federation = self.federation();
        let request = get_event::Request::new(event_id);
        let answer = federation.client().send(server, request, brief(federation)).await;
        answer.ok().map(|answer| answer.pdu)
    }
}
