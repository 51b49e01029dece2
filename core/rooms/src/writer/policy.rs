//! Does an event need the signature of the room's policy server (SS "Policy Servers", check 7 on
//! receipt)? Judged by the current state.

use hearth_types::Pdu;
use ruma::ServerName;

use super::{Batch, Context, Facts, NewEvent, Outcome, Room, StepError, effects::Effects};
use crate::{
    CheckedPdu,
    error::RoomError,
    policy::{POLICY, PolicyServer, names_policy},
    schema::PARTIAL_SERVERS,
};

impl Room {
    /// The policy server that the room uses now: the one that its state names, if that has a joined user
    /// in the room.
    fn policy_server(&mut self, view: &Context<'_>) -> Result<Option<PolicyServer>, RoomError> {
        let event = self.state_event(view, POLICY, "")?;
        let Some(policy) = event.as_deref().and_then(PolicyServer::named_by) else {
            return Ok(None);
        };
        Ok(self.has_joined(view, policy.server())?.then_some(policy))
    }

    /// Has a server a joined user in the room? While the state is partial, those that are said to be in
    /// it count, as in [`crate::Rooms::has_joined_server`].
    fn has_joined(&mut self, view: &Context<'_>, server: &ServerName) -> Result<bool, RoomError> {
        if server == view.rooms.identity().server_name() {
            return Ok(self.head.joined_local_members > 0);
        }
        if self.joined_of(view, server)? > 0 {
            return Ok(true);
        }
        let server = server.to_owned();
        Ok(self.is_partial() && view.snapshot.get(&PARTIAL_SERVERS, &self.id, &server)?.is_some())
    }

    /// Lacks a received event a signature that it needs?
    pub(super) fn lacks_recommendation(
        &mut self,
        view: &Context<'_>,
        pdu: &Pdu,
    ) -> Result<bool, RoomError> {
        let policy = self.policy_server(view)?;
        Ok(policy.is_some_and(|policy| !policy.recommends(&self.rules, pdu)))
    }

    /// Appends an event; or, where the room's policy server is to be asked first, makes and authorizes it
    /// without making it part of the room.
    ///
    /// After an error nothing has changed, and `event` is whole if it was [`StepError::Settle`].
    pub(crate) fn append_or_prepare(
        &mut self,
        view: &Context<'_>,
        batch: &mut Batch,
        event: &mut NewEvent,
    ) -> Result<Outcome, StepError> {
        let event_type = event.event_type.to_string();
        if names_policy(&event_type, event.state_key.as_deref())
            || self.policy_server(view)?.is_none()
        {
            return self.append(view, batch, event).map(Outcome::Event);
        }
        if let Some(existing) = self.identical_state(view, event)? {
            return Ok(Outcome::Event(existing));
        }
        // What is refused shall be refused before anybody is asked.
        let facts = Facts::of(&event_type, event.state_key.as_deref(), &event.content);
        drop(Effects::plan(self, view, batch, event, facts)?);
        self.prepare(view, event).map(|pdu| Outcome::Prepared(Box::new(CheckedPdu::new(pdu))))
    }
}
