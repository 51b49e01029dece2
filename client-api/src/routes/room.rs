//! `/createRoom`, `/rooms/{roomId}/upgrade` and the summary of a room.

use hearth_http::{MatrixError, Ruma};
use hearth_rooms::{
    CreateRoomOptions, InitialState, Invitee, Preset, format::membership_name, json_object,
};
use ruma::{
    CanonicalJsonObject, RoomVersionId,
    api::client::room::{
        Visibility,
        create_room::{self, v3::RoomPreset},
        get_summary, upgrade_room,
    },
    serde::Raw,
};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::{
    ApiError, ClientApi, LocalUser,
    routes::{alias, membership::must_take_invites, profile::member_profile_of},
};

/// Users invited by one request.
const MAX_INVITES: usize = 500;

/// `POST /_matrix/client/*/createRoom`
pub(crate) async fn create(
    app: ClientApi,
    request: Ruma<create_room::v3::Request, LocalUser>,
) -> Result<create_room::v3::Response, ApiError> {
    let caller = request.identity.may_write()?.user_id().to_owned();
    if !request.invite_3pid.is_empty() {
        return Err(MatrixError::threepid_denied("This server invites Matrix users only").into());
    }
    let options = options(&app, &caller, request.body).await?;
    let room_id = app.rooms().create_room(&caller, options).await?;
    Ok(create_room::v3::Response::new(room_id))
}

async fn options(
    app: &ClientApi,
    creator: &ruma::UserId,
    request: create_room::v3::Request,
) -> Result<CreateRoomOptions, ApiError> {
    if request.invite.len() > MAX_INVITES {
        return Err(MatrixError::invalid_param("Too many invitations in one request").into());
    }
    let mut invite = Vec::with_capacity(request.invite.len());
    for user_id in request.invite {
        if app.identity().is_local(&user_id) && !app.users().is_active(&user_id).await? {
            return Err(MatrixError::not_found(format!("There is no user {user_id}")).into());
        }
        must_take_invites(app, &user_id).await?;
        let profile = member_profile_of(app, &user_id).await?;
        invite.push(Invitee { user_id, profile });
    }
    Ok(CreateRoomOptions {
        public: request.visibility == Visibility::Public,
        preset: request.preset.as_ref().map(preset).transpose()?,
        alias_localpart: request.room_alias_name,
        name: request.name,
        topic: request.topic,
        invite,
        is_direct: request.is_direct,
        initial_state: request
            .initial_state
            .iter()
            .map(|event| initial_state(event.json()))
            .collect::<Result<_, _>>()?,
        creation_content: optional_object(request.creation_content.as_ref())?,
        power_level_content_override: optional_object(
            request.power_level_content_override.as_ref(),
        )?,
        room_version: request.room_version,
        creator_profile: member_profile_of(app, creator).await?,
    })
}

fn preset(named: &RoomPreset) -> Result<Preset, MatrixError> {
    match named {
        RoomPreset::PrivateChat => Ok(Preset::PrivateChat),
        RoomPreset::PublicChat => Ok(Preset::PublicChat),
        RoomPreset::TrustedPrivateChat => Ok(Preset::TrustedPrivateChat),
        _ => Err(MatrixError::invalid_param("There is no such preset")),
    }
}

fn initial_state(json: &RawValue) -> Result<InitialState, MatrixError> {
    #[derive(Deserialize)]
    struct Event {
        #[serde(rename = "type")]
        kind: String,
        #[serde(default)]
        state_key: String,
        content: Box<RawValue>,
    }
    let event: Event = serde_json::from_str(json.get())
        .map_err(|error| MatrixError::bad_json(format!("initial_state: {error}")))?;
    Ok(InitialState { event_type: event.kind, state_key: event.state_key, content: event.content })
}

fn optional_object<T>(raw: Option<&Raw<T>>) -> Result<CanonicalJsonObject, ApiError> {
    Ok(raw.map(|raw| json_object(raw.json())).transpose()?.unwrap_or_default())
}

/// `POST /_matrix/client/*/rooms/{roomId}/upgrade`
pub(crate) async fn upgrade(
    app: ClientApi,
    request: Ruma<upgrade_room::v3::Request, LocalUser>,
) -> Result<upgrade_room::v3::Response, ApiError> {
    let caller = request.identity.may_write()?.user_id().to_owned();
    let profile = member_profile_of(&app, &caller).await?;
    let upgrade_room::v3::Request { room_id, new_version, additional_creators, .. } = request.body;
    let new_version: RoomVersionId = new_version;
    let replacement =
        app.rooms().upgrade(&room_id, &caller, &profile, new_version, additional_creators).await?;
    app.users().inherit_room_settings(&caller, &room_id, &replacement).await?;
    Ok(upgrade_room::v3::Response::new(replacement))
}

/// `GET /_matrix/client/v1/room_summary/{roomIdOrAlias}`
pub(crate) async fn summary(
    app: ClientApi,
    request: Ruma<get_summary::v1::Request, Option<LocalUser>>,
) -> Result<get_summary::v1::Response, ApiError> {
    let (room_id, via) =
        alias::resolve(&app, &request.room_id_or_alias, request.via.clone()).await?;
    let viewer = request.identity.as_ref().map(LocalUser::user_id);
    let preview = app.rooms().preview_via(&room_id, viewer, via).await?;
    let mut response = get_summary::v1::Response::new(preview.summary);
    response.membership = preview.membership.map(|membership| membership_name(membership).into());
    Ok(response)
}
