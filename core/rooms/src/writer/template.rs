//! Events that somebody else will finish: built and authorized as if they were this server's own, but
//! neither signed nor stored.

use bytes::Bytes;
use hearth_types::Pdu;
use ruma::{CanonicalJsonObject, owned_event_id};

use super::{
    Context, NewEvent, Room, StepError,
    append::{Links, event_object},
};
use crate::error::RoomError;

impl Room {
    /// The event on top of the forward extremities, without hashes and signatures. Changes nothing.
    pub(crate) fn template(
        &mut self,
        view: &Context<'_>,
        mut event: NewEvent,
    ) -> Result<CanonicalJsonObject, StepError> {
        let auth_events = self.auth_events(view, &event)?;
        let auth_ids = auth_events.iter().map(|(_, auth)| auth.header.event_id.as_str());
        let prev_ids = self.prev_tips().iter().map(|tip| tip.event_id.as_str());
        let links = Links { room_id: Some(&self.id), depth: self.next_depth() };
        let object = event_object(&mut event, &links, auth_ids, prev_ids, &self.rules);
        let json =
            serde_json::to_vec(&object).map_err(|error| RoomError::internal(error.to_string()))?;
        // It has no ID before its hashes are in it, and no rule asks for the ID of a membership event.
        let pdu = Pdu::parse(owned_event_id!("$template"), Bytes::from(json))
            .map_err(|error| RoomError::internal(error.to_string()))?;
        self.authorize(view, &pdu, &auth_events)?;
        Ok(object)
    }
}
