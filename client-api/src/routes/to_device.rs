//! `/sendToDevice/{eventType}/{txnId}` (CS "Send-to-Device messaging").

use hearth_e2ee::ToDeviceMessage;
use hearth_http::Ruma;
use ruma::api::client::to_device::send_event_to_device;

use crate::{ApiError, ClientApi, LocalUser};

/// The largest body in bytes: contents for some thousands of devices, as are in large rooms.
pub(crate) const MAX_BYTES: usize = 8 << 20;

/// `PUT /_matrix/client/*/sendToDevice/{eventType}/{txnId}`
pub(crate) async fn send(
    app: ClientApi,
    request: Ruma<send_event_to_device::v3::Request, LocalUser>,
) -> Result<send_event_to_device::v3::Response, ApiError> {
    // A suspended account may still end its sessions and verify its devices: it goes on to send these.
    let send_event_to_device::v3::Request { event_type, txn_id, messages, .. } = request.body;
    let caller = &request.identity;
    let message = ToDeviceMessage {
        sender: caller.user_id().to_owned(),
        device_id: caller.device_id().to_owned(),
        transaction_id: txn_id,
        event_type: event_type.to_string(),
        messages,
    };
    app.e2ee().send_to_device(message).await?;
    Ok(send_event_to_device::v3::Response::new())
}
