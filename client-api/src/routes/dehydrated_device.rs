//! `/dehydrated_device` (MSC3814, under its unstable name).

use bytes::Bytes;
use hearth_e2ee::{DehydratedUpload, KeyUpload};
use hearth_http::{MatrixError, Ruma};
use ruma::{
    api::client::dehydrated_device::{
        delete_dehydrated_device, get_dehydrated_device, get_events, put_dehydrated_device,
    },
    events::AnyToDeviceEvent,
    serde::Raw,
};

use crate::{ApiError, ClientApi, LocalUser};

/// `PUT …/dehydrated_device`
pub(crate) async fn put(
    app: ClientApi,
    request: Ruma<put_dehydrated_device::unstable::Request, LocalUser>,
) -> Result<put_dehydrated_device::unstable::Response, ApiError> {
    let Ruma { body, identity, .. } = request;
    let device_id = body.device_id.clone();
    let upload = DehydratedUpload {
        device_id: body.device_id,
        display_name: body.initial_device_display_name,
        device_data: body.device_data.into_json(),
        keys: KeyUpload {
            device_keys: Some(body.device_keys),
            one_time_keys: body.one_time_keys,
            fallback_keys: body.fallback_keys,
        },
    };
    app.e2ee().put_dehydrated_device(identity.may_write()?.user_id(), upload).await?;
    Ok(put_dehydrated_device::unstable::Response::new(device_id))
}

/// `GET …/dehydrated_device`
pub(crate) async fn get(
    app: ClientApi,
    request: Ruma<get_dehydrated_device::unstable::Request, LocalUser>,
) -> Result<get_dehydrated_device::unstable::Response, ApiError> {
    let device = app.e2ee().dehydrated_device(request.identity.user_id()).await?;
    let data = Raw::from_json(device.device_data);
    Ok(get_dehydrated_device::unstable::Response::new(device.device_id, data))
}

/// `DELETE …/dehydrated_device`
pub(crate) async fn delete(
    app: ClientApi,
    request: Ruma<delete_dehydrated_device::unstable::Request, LocalUser>,
) -> Result<delete_dehydrated_device::unstable::Response, ApiError> {
    let device_id = app.e2ee().delete_dehydrated_device(request.identity.user_id()).await?;
    Ok(delete_dehydrated_device::unstable::Response::new(device_id))
}

/// `POST …/dehydrated_device/{device_id}/events`
pub(crate) async fn events(
    app: ClientApi,
    request: Ruma<get_events::unstable::Request, LocalUser>,
) -> Result<get_events::unstable::Response, ApiError> {
    let (user_id, since) = (request.identity.user_id(), request.next_batch.as_deref());
    let page = app.e2ee().dehydrated_events(user_id, &request.device_id, since).await?;
    let events: Result<Vec<_>, ApiError> = page.events.iter().map(raw).collect();
    let mut response = get_events::unstable::Response::new(events?);
    response.next_batch = Some(page.next_batch);
    Ok(response)
}

fn raw(event: &Bytes) -> Result<Raw<AnyToDeviceEvent>, ApiError> {
    serde_json::from_slice(event).map_err(|error| MatrixError::internal(&error).into())
}
