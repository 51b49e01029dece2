//! `/register`, `/account/*`: accounts and what proves them.

use std::{net::IpAddr, time::Duration};

use bytes::Bytes;
use hearth_http::{MatrixError, RawJson, Ruma};
use hearth_users::{Guesser, NewAccount, NewSession};
use ruma::{
    OwnedDeviceId, OwnedUserId, UserId,
    api::client::{
        account::{
            ThirdPartyIdRemovalStatus, change_password, check_registration_token_validity,
            deactivate, get_3pids, get_username_availability,
            register::{self, LoginType, RegistrationKind},
            request_openid_token, whoami,
        },
        uiaa::{AuthData, AuthType, UserIdentifier},
    },
    authentication::TokenType,
};
use serde::Serialize;
use serde_json::json;

use crate::{
    ApiError, ClientApi, LocalUser,
    routes::membership::leave_all,
    uia::{Bound, interact},
};

/// `POST /_matrix/client/*/register`
pub(crate) async fn register(
    app: ClientApi,
    request: Ruma<register::v3::Request>,
) -> Result<RawJson, ApiError> {
    let users = app.users();
    if request.kind == RegistrationKind::Guest {
        return register_guest(&app, &request).await;
    }
    if request.login_type == Some(LoginType::ApplicationService) {
        return Err(MatrixError::missing_token("No application service has this token").into());
    }
    let flows = users.registration_flows();
    if flows.is_empty() {
        return Err(MatrixError::forbidden("Registration is closed on this server").into());
    }
    // A name that cannot be had is worth knowing before the stages (CS "register").
    if let Some(username) = &request.username {
        users.check_username_available(username).await?;
    }
    let proof = interact(&app, &request, None, &flows, request.auth.as_ref(), Bound::Path).await?;
    let username = match &request.username {
        Some(username) => username.clone(),
        None => users.generate_username().await?,
    };
    let user_id = users
        .create_account(NewAccount {
            username,
            password: request.password.clone(),
            registration_token: proof.registration_token,
            ..NewAccount::default()
        })
        .await?;
    if request.inhibit_login {
        // Ruma's type would say that the device is null.
        return Ok(RawJson(Bytes::from(json!({ "user_id": user_id }).to_string())));
    }
    let session = NewSession {
        device_id: request.device_id.clone(),
        initial_display_name: request.initial_device_display_name.clone(),
        refreshable: request.refresh_token,
    };
    log_in(&app, &user_id, session, request.address).await
}

/// Logs a new user in.
async fn log_in(
    app: &ClientApi,
    user_id: &UserId,
    session: NewSession,
    address: Option<IpAddr>,
) -> Result<RawJson, ApiError> {
    let users = app.users();
    let tokens = users.create_session(user_id, session).await?;
    users.note_login(&tokens.user_id, &tokens.device_id, address);
    let answer = Registered {
        user_id: tokens.user_id,
        device_id: tokens.device_id,
        access_token: tokens.access_token,
        refresh_token: tokens.refresh_token,
        expires_in_ms: tokens.expires_in_ms,
    };
    answer.into_json()
}

/// A guest: an account that nobody can log in to a second time. Of the request only the device's name
/// counts (CS "register").
async fn register_guest(
    app: &ClientApi,
    request: &Ruma<register::v3::Request>,
) -> Result<RawJson, ApiError> {
    let users = app.users();
    if !users.config().allow_guests {
        return Err(MatrixError::forbidden("This server has no guest accounts").into());
    }
    let username = users.generate_username().await?;
    let guest = NewAccount { username, is_guest: true, ..NewAccount::default() };
    let user_id = users.create_account(guest).await?;
    let session = NewSession {
        initial_display_name: request.initial_device_display_name.clone(),
        ..NewSession::default()
    };
    log_in(app, &user_id, session, request.address).await
}

/// The answer to a registration that logs in.
#[derive(Serialize)]
struct Registered {
    user_id: OwnedUserId,
    device_id: OwnedDeviceId,
    access_token: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    refresh_token: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_in_ms: Option<u64>,
}

impl Registered {
    fn into_json(self) -> Result<RawJson, ApiError> {
        let json = serde_json::to_vec(&self).map_err(|error| MatrixError::internal(&error))?;
        Ok(RawJson(Bytes::from(json)))
    }
}

/// `GET /_matrix/client/*/register/available`
pub(crate) async fn username_availability(
    app: ClientApi,
    request: Ruma<get_username_availability::v3::Request>,
) -> Result<get_username_availability::v3::Response, ApiError> {
    app.users().check_username_available(&request.username).await?;
    Ok(get_username_availability::v3::Response::new(true))
}

/// `GET /_matrix/client/*/register/m.login.registration_token/validity`
pub(crate) async fn registration_token_validity(
    app: ClientApi,
    request: Ruma<check_registration_token_validity::v1::Request>,
) -> Result<check_registration_token_validity::v1::Response, ApiError> {
    let valid = app.users().is_registration_token_valid(&request.token).await?;
    Ok(check_registration_token_validity::v1::Response::new(valid))
}

/// `GET /_matrix/client/*/account/whoami`
pub(crate) async fn whoami(
    _app: ClientApi,
    request: Ruma<whoami::v3::Request, LocalUser>,
) -> Result<whoami::v3::Response, ApiError> {
    let session = &request.identity.0;
    let mut response = whoami::v3::Response::new(session.user_id().to_owned(), session.is_guest());
    response.device_id = Some(request.identity.device_id().to_owned());
    Ok(response)
}

/// `GET /_matrix/client/*/account/3pid`: this server knows no third-party identifiers, so nobody has any.
pub(crate) async fn third_party_ids(
    _app: ClientApi,
    _request: Ruma<get_3pids::v3::Request, LocalUser>,
) -> Result<get_3pids::v3::Response, ApiError> {
    Ok(get_3pids::v3::Response::new(Vec::new()))
}

/// `POST /_matrix/client/*/account/password`
pub(crate) async fn change_password(
    app: ClientApi,
    request: Ruma<change_password::v3::Request, Option<LocalUser>>,
) -> Result<change_password::v3::Response, ApiError> {
    let user_id = whose(&app, request.identity.as_ref(), request.auth.as_ref())?;
    let flows = [vec![AuthType::Password]];
    let whose = Some((&*user_id, guesser(&request)));
    interact(&app, &request, whose, &flows, request.auth.as_ref(), Bound::Body).await?;
    let kept = request.identity.as_ref().map(LocalUser::device_id);
    let end_sessions_but = request.logout_devices.then_some(kept);
    app.users().change_password(&user_id, &request.new_password, end_sessions_but).await?;
    Ok(change_password::v3::Response::new())
}

/// `POST /_matrix/client/*/account/deactivate`
pub(crate) async fn deactivate(
    app: ClientApi,
    request: Ruma<deactivate::v3::Request, Option<LocalUser>>,
) -> Result<deactivate::v3::Response, ApiError> {
    let user_id = whose(&app, request.identity.as_ref(), request.auth.as_ref())?;
    let flows = [vec![AuthType::Password]];
    let whose = Some((&*user_id, guesser(&request)));
    interact(&app, &request, whose, &flows, request.auth.as_ref(), Bound::Body).await?;
    // In this order: whoever is interrupted in between can still log in and ask again.
    leave_all(&app, &user_id).await?;
    app.users().deactivate(&user_id, request.erase).await?;
    Ok(deactivate::v3::Response::new(ThirdPartyIdRemovalStatus::NoSupport))
}

/// `POST /_matrix/client/*/user/{userId}/openid/request_token`
pub(crate) async fn openid_token(
    app: ClientApi,
    request: Ruma<request_openid_token::v3::Request, LocalUser>,
) -> Result<request_openid_token::v3::Response, ApiError> {
    request.identity.must_be(&request.user_id)?;
    let token = app.users().create_openid_token(&request.user_id).await?;
    Ok(request_openid_token::v3::Response::new(
        token.access_token,
        TokenType::Bearer,
        app.identity().server_name().to_owned(),
        Duration::from_secs(token.expires_in_s),
    ))
}

/// Who shows the password of a request that may come with or without a token.
fn guesser<T>(request: &Ruma<T, Option<LocalUser>>) -> Guesser {
    match &request.identity {
        Some(_) => Guesser::Session,
        None => Guesser::Address(request.address),
    }
}

/// Whose account a request is about that may come with or without a token: the token's owner, else the
/// user named for the password stage.
fn whose(
    app: &ClientApi,
    caller: Option<&LocalUser>,
    auth: Option<&AuthData>,
) -> Result<OwnedUserId, ApiError> {
    if let Some(caller) = caller {
        return Ok(caller.user_id().to_owned());
    }
    match auth {
        Some(AuthData::Password(password)) => match &password.identifier {
            UserIdentifier::Matrix(named) => {
                let server = app.identity().server_name();
                UserId::parse_with_server_name(named.user.as_str(), server)
                    .map_err(|_| MatrixError::invalid_param("Not a user ID").into())
            }
            _ => Err(MatrixError::forbidden("Only Matrix user IDs identify accounts here").into()),
        },
        _ => Err(MatrixError::missing_token("Log in, or give your password").into()),
    }
}
