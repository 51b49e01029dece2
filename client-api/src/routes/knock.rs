//! `/knock/{roomIdOrAlias}` (CS "Knocking on rooms").

use hearth_http::Ruma;
use ruma::api::client::knock::knock_room;

use crate::{
    ApiError, ClientApi, LocalUser,
    routes::{alias, profile::member_profile_of},
};

/// `POST /_matrix/client/*/knock/{roomIdOrAlias}`
pub(crate) async fn knock(
    app: ClientApi,
    request: Ruma<knock_room::v3::Request, LocalUser>,
) -> Result<knock_room::v3::Response, ApiError> {
    let caller = request.identity.may_write()?.user_id();
    let (room_id, via) =
        alias::resolve(&app, &request.room_id_or_alias, request.via.clone()).await?;
    let profile = member_profile_of(&app, caller).await?;
    let reason = request.reason.as_deref();
    app.rooms().knock_via(&room_id, caller, &profile, reason, via).await?;
    Ok(knock_room::v3::Response::new(room_id))
}
