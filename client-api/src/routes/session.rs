//! `/login`, `/logout`, `/refresh`: how devices come and go (CS "Legacy API").

use std::time::Duration;

use hearth_http::{MatrixError, Ruma};
use hearth_users::NewSession;
use ruma::api::client::{
    session::{
        get_login_token,
        get_login_types::{self, v3::LoginType},
        login::{
            self,
            v3::{DiscoveryInfo, HomeserverInfo, LoginInfo},
        },
        logout, logout_all, refresh_token,
    },
    uiaa::UserIdentifier,
};

use crate::{ApiError, ClientApi, LocalUser, uia::confirm_password};

/// `GET /_matrix/client/*/login`
pub(crate) async fn login_types(
    app: ClientApi,
    _request: Ruma<get_login_types::v3::Request>,
) -> Result<get_login_types::v3::Response, ApiError> {
    let mut flows = vec![LoginType::Password(get_login_types::v3::PasswordLoginType::new())];
    if app.users().config().login_token_enabled {
        let mut token = get_login_types::v3::TokenLoginType::new();
        token.get_login_token = true;
        flows.push(LoginType::Token(token));
    }
    Ok(get_login_types::v3::Response::new(flows))
}

/// `POST /_matrix/client/*/login`
pub(crate) async fn login(
    app: ClientApi,
    request: Ruma<login::v3::Request>,
) -> Result<login::v3::Response, ApiError> {
    let users = app.users();
    let user_id = match &request.login_info {
        LoginInfo::Password(password) => {
            #[expect(deprecated, reason = "old clients name the user outside of the identifier")]
            let named = match (&password.identifier, &password.user) {
                (Some(UserIdentifier::Matrix(named)), _) => &named.user,
                (None, Some(user)) => user,
                (None, None) => {
                    return Err(MatrixError::missing_param("identifier is missing").into());
                }
                (Some(_), _) => {
                    return Err(MatrixError::forbidden(
                        "Only Matrix user IDs identify accounts here",
                    )
                    .into());
                }
            };
            users.login_with_password(named, &password.password, request.address).await?
        }
        LoginInfo::Token(token) => users.login_with_token(&token.token).await?,
        _ => return Err(MatrixError::bad_request("This login type is not offered").into()),
    };
    let session = NewSession {
        device_id: request.device_id.clone(),
        initial_display_name: request.initial_device_display_name.clone(),
        refreshable: request.refresh_token,
    };
    let tokens = users.create_session(&user_id, session).await?;
    users.note_login(&tokens.user_id, &tokens.device_id, request.address);
    let mut response =
        login::v3::Response::new(tokens.user_id, tokens.access_token, tokens.device_id);
    response.refresh_token = tokens.refresh_token;
    response.expires_in = tokens.expires_in_ms.map(Duration::from_millis);
    response.well_known =
        app.config().base_url().map(|base_url| DiscoveryInfo::new(HomeserverInfo::new(base_url)));
    Ok(response)
}

/// `POST /_matrix/client/*/login/get_token`
pub(crate) async fn login_token(
    app: ClientApi,
    request: Ruma<get_login_token::v1::Request, LocalUser>,
) -> Result<get_login_token::v1::Response, ApiError> {
    if !app.users().config().login_token_enabled {
        return Err(MatrixError::forbidden("Login tokens are switched off on this server").into());
    }
    confirm_password(&app, &request, request.auth.as_ref()).await?;
    let (token, expires_in_ms) = app.users().create_login_token(request.identity.user_id())?;
    Ok(get_login_token::v1::Response::new(Duration::from_millis(expires_in_ms), token))
}

/// `POST /_matrix/client/*/refresh`
pub(crate) async fn refresh(
    app: ClientApi,
    request: Ruma<refresh_token::v3::Request>,
) -> Result<refresh_token::v3::Response, ApiError> {
    let tokens = app.users().refresh(&request.refresh_token).await?;
    let mut response = refresh_token::v3::Response::new(tokens.access_token);
    response.refresh_token = tokens.refresh_token;
    response.expires_in_ms = tokens.expires_in_ms.map(Duration::from_millis);
    Ok(response)
}

/// `POST /_matrix/client/*/logout`
pub(crate) async fn logout(
    app: ClientApi,
    request: Ruma<logout::v3::Request, LocalUser>,
) -> Result<logout::v3::Response, ApiError> {
    app.users().logout(&request.identity.0).await?;
    Ok(logout::v3::Response::new())
}

/// `POST /_matrix/client/*/logout/all`
pub(crate) async fn logout_all(
    app: ClientApi,
    request: Ruma<logout_all::v3::Request, LocalUser>,
) -> Result<logout_all::v3::Response, ApiError> {
    app.users().logout_all(request.identity.user_id()).await?;
    Ok(logout_all::v3::Response::new())
}
