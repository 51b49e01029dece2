//! Asking a room's policy server about an event (SS "Policy Servers").

use hearth_rooms::{CheckedPdu, RoomError};
use ruma::{ServerName, api::federation::policy::sign_event::v1 as sign_event};

use super::{
    Remote,
    asking::{brief, raw, unfit},
};
use crate::RemoteError;

/// The longest signature that is looked at, in bytes: one of Ed25519 has 86.
const MAX_SIGNATURE_BYTES: usize = 256;
/// The longest error code that is passed on, in bytes.
const MAX_ERRCODE_BYTES: usize = 255;

impl Remote {
    /// Asks for the signature on an event.
    pub(super) async fn sign_policy(
        &self,
        server: &ServerName,
        event: &CheckedPdu,
    ) -> Result<String, RoomError> {
        let federation = self.federation();
        let request = sign_event::Request::new(raw(event)?);
        let answer = federation.client().send_to_any(server, request, brief(federation)).await;
        let answer = answer.map_err(verbatim)?;
        let signature = answer.ed25519_signature(server).map(str::to_owned);
        signature
            .filter(|signature| signature.len() <= MAX_SIGNATURE_BYTES)
            .ok_or_else(|| unfit(server, "the signature is missing"))
    }
}

/// What the policy server says, for the client who wants to send the event.
fn verbatim(error: RemoteError) -> RoomError {
    match error {
        RemoteError::Matrix { status, errcode, message, .. }
            if (1..=MAX_ERRCODE_BYTES).contains(&errcode.len()) =>
        {
            RoomError::Refused { status: status.as_u16(), errcode, message }
        }
        error => RoomError::Remote(error.to_string()),
    }
}
