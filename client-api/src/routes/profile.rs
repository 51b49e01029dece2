//! `/profile` (CS "Profiles"): display name, avatar and any other field.

use bytes::Bytes;
use hearth_http::{MatrixError, RawJson, Ruma};
use hearth_users::{Profile, ProfileChange, UsersError};
use ruma::{
    UserId,
    api::client::profile::{
        delete_profile_field, get_profile, get_profile_field, set_profile_field,
    },
};
use serde_json::{Value, json};

use crate::{ApiError, ClientApi, LocalUser};

/// `GET /_matrix/client/*/profile/{userId}`
pub(crate) async fn get(
    app: ClientApi,
    request: Ruma<get_profile::v3::Request>,
) -> Result<RawJson, ApiError> {
    let profile = read(&app, &request.user_id).await?;
    Ok(RawJson(Bytes::from(Value::Object(profile.fields).to_string())))
}

/// `GET /_matrix/client/*/profile/{userId}/{keyName}`
pub(crate) async fn get_field(
    app: ClientApi,
    request: Ruma<get_profile_field::v3::Request>,
) -> Result<RawJson, ApiError> {
    let mut profile = read(&app, &request.user_id).await?;
    let key = request.field.as_str();
    let value = profile
        .fields
        .remove(key)
        .ok_or_else(|| MatrixError::not_found("The profile has no such field"))?;
    Ok(RawJson(Bytes::from(json!({ key: value }).to_string())))
}

/// `PUT /_matrix/client/*/profile/{userId}/{keyName}`
pub(crate) async fn set_field(
    app: ClientApi,
    request: Ruma<set_profile_field::v3::Request, LocalUser>,
) -> Result<set_profile_field::v3::Response, ApiError> {
    request.identity.must_be(&request.user_id)?.may_write()?;
    let key = request.value.field_name();
    let value = request.value.value().into_owned();
    let change = app.users().set_profile_field(&request.user_id, key.as_str(), value).await?;
    tell_rooms(&app, &request.user_id, change).await?;
    Ok(set_profile_field::v3::Response::new())
}

/// `DELETE /_matrix/client/*/profile/{userId}/{keyName}`
pub(crate) async fn delete_field(
    app: ClientApi,
    request: Ruma<delete_profile_field::v3::Request, LocalUser>,
) -> Result<delete_profile_field::v3::Response, ApiError> {
    request.identity.must_be(&request.user_id)?.may_write()?;
    let change = app.users().delete_profile_field(&request.user_id, request.field.as_str()).await?;
    tell_rooms(&app, &request.user_id, change).await?;
    Ok(delete_profile_field::v3::Response::new())
}

async fn read(app: &ClientApi, user_id: &UserId) -> Result<Profile, ApiError> {
    let profile = app.users().find_profile(user_id).await?;
    profile.ok_or_else(|| MatrixError::not_found("There is no such profile").into())
}

/// Display names and avatars are part of member events (CS "Events on Change of Profile Information").
async fn tell_rooms(
    app: &ClientApi,
    user_id: &UserId,
    change: ProfileChange,
) -> Result<(), ApiError> {
    if change.concerns_members {
        let profile = member_profile(&change.profile);
        app.rooms().update_member_profile(user_id, &profile).await?;
    }
    Ok(())
}

/// The part of a profile that goes into member events.
pub(crate) fn member_profile(profile: &Profile) -> hearth_rooms::MemberProfile {
    hearth_rooms::MemberProfile {
        displayname: profile.display_name().map(ToOwned::to_owned),
        avatar_url: profile.avatar_url().map(ToOwned::to_owned),
    }
}

/// The same for a user who may be anybody: of somebody whose server does not tell, nothing is shown.
pub(crate) async fn member_profile_of(
    app: &ClientApi,
    user_id: &UserId,
) -> Result<hearth_rooms::MemberProfile, ApiError> {
    let profile = match app.users().find_profile(user_id).await {
        Err(UsersError::Remote(error)) => {
            tracing::debug!(%user_id, %error, "a profile is not shown");
            None
        }
        found => found?,
    };
    Ok(member_profile(&profile.unwrap_or_default()))
}
