//! The state at a gap where its near end's is not told: the state before the one event that is missing
//! there, and what that event changes.

use hearth_rooms::{CheckedPdu, RoomError, Verdict, schema::Standing};
use hearth_types::Pdu;
use ruma::{EventId, OwnedEventId};

use super::Filling;

impl Filling<'_> {
    /// The state after a missing event: the state before it as the server tells it, with the event itself,
    /// which is kept as an outlier. `None` if either is not told, or if more than one event is missing:
    /// only the writer resolves states. Who has told nothing of the gap is not asked.
    pub(super) async fn fetch_state_after(
        &mut self,
        missing: &[OwnedEventId],
    ) -> Result<Option<Vec<OwnedEventId>>, RoomError> {
        let [event_id] = missing else { return Ok(None) };
        if !self.told_some {
            return Ok(None);
        }
        let told = self.ask_singly(&[event_id.clone()].into()).await;
        let mut told = self.check(told).await;
        told.retain(|event| event.pdu().id() == event_id);
        let Some(event) = told.pop() else { return Ok(None) };
        let Some(mut state) = self.fetch_state(event_id).await? else { return Ok(None) };
        self.keep_as_outlier(&event).await?;
        let kept = self.federation.rooms().event_by_id(self.room_id, event_id).await?;
        let Some(kept) = kept else { return Ok(None) };
        if kept.header.standing != Standing::Rejected && event.pdu().state_key().is_some() {
            self.replace(&mut state, event.pdu()).await?;
        }
        Ok(Some(state))
    }

    async fn keep_as_outlier(&mut self, event: &CheckedPdu) -> Result<(), RoomError> {
        let rooms = self.federation.rooms();
        let verdicts = rooms.receive_outliers(self.room_id, vec![event.clone()]).await?;
        if let Some(Verdict::MissingAuth(missing)) = verdicts.first()
            && self.fetch_auth(event, missing).await?
        {
            rooms.receive_outliers(self.room_id, vec![event.clone()]).await?;
        }
        Ok(())
    }

    /// Puts a state event into a state, in the place of the one that it replaces.
    async fn replace(&self, state: &mut Vec<OwnedEventId>, by: &Pdu) -> Result<(), RoomError> {
        let mut after = Vec::with_capacity(state.len() + 1);
        for (count, event_id) in state.drain(..).enumerate() {
            if !self.is_at_the_key_of(&event_id, by).await? {
                after.push(event_id);
            }
            // A whole state takes long enough to let others in between.
            if count % 100 == 99 {
                tokio::task::yield_now().await;
            }
        }
        after.push(by.id().to_owned());
        *state = after;
        Ok(())
    }

    async fn is_at_the_key_of(&self, event_id: &EventId, other: &Pdu) -> Result<bool, RoomError> {
        let event = self.federation.rooms().event_by_id(self.room_id, event_id).await?;
        Ok(event.is_some_and(|event| {
            event.pdu.kind() == other.kind() && event.pdu.state_key() == other.state_key()
        }))
    }
}
