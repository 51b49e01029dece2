//! User-interactive authentication in front of a handler (CS "User-Interactive Authentication API").

use bytes::Bytes;
use hearth_http::{MatrixError, Ruma};
use hearth_users::{Guesser, UiaChallenge, UiaError, UiaFlow, UiaOutcome, UiaProof, UiaRequest};
use ruma::{
    UserId,
    api::{
        client::uiaa::{AuthData, AuthFlow, AuthType, UiaaInfo},
        error::{ErrorKind, StandardErrorBody},
    },
};
use serde_json::{Map, Value};

use crate::{ApiError, ClientApi, LocalUser};

/// What may not change between the attempts of one request.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Bound {
    /// Method, path and body (without `auth`).
    Body,
    /// Method and path: clients complete the body while they pass the stages.
    Path,
}

/// Passes the request on once the user has shown their password for it.
pub(crate) async fn confirm_password<T>(
    app: &ClientApi,
    request: &Ruma<T, LocalUser>,
    auth: Option<&AuthData>,
) -> Result<(), ApiError> {
    let user_id = request.identity.user_id();
    let flows = [vec![AuthType::Password]];
    let whose = Some((user_id, Guesser::Session));
    interact(app, request, whose, &flows, auth, Bound::Body).await.map(drop)
}

/// Passes the request on once one of the flows is complete; otherwise the error is the 401 that says
/// what to do next, or a 403 if that is of no use. `whose` password counts, and who shows it.
pub(crate) async fn interact<T, I>(
    app: &ClientApi,
    request: &Ruma<T, I>,
    whose: Option<(&UserId, Guesser)>,
    flows: &[UiaFlow],
    auth: Option<&AuthData>,
    bound: Bound,
) -> Result<UiaProof, ApiError> {
    let body = match bound {
        Bound::Body => without_auth(&request.json),
        Bound::Path => Vec::new(),
    };
    let user_id = whose.map(|(user_id, _)| user_id);
    let guesser = whose.map_or(Guesser::Address(request.address), |(_, guesser)| guesser);
    let tied_to = UiaRequest::new("", request.uri.path(), user_id, &body);
    match app.users().uia(&tied_to, flows, user_id, guesser, auth).await? {
        UiaOutcome::Done(proof) => Ok(proof),
        UiaOutcome::Challenge(challenge) => Err(MatrixError::from(info(challenge)).into()),
        UiaOutcome::Refused(why) => Err(MatrixError::forbidden(why.to_string()).into()),
    }
}

/// The body with its keys in order and without `auth`, so that repeated attempts compare equal.
fn without_auth(json: &Bytes) -> Vec<u8> {
    // The extractor has parsed these bytes as an object before.
    let mut fields: Map<String, Value> = serde_json::from_slice(json).unwrap_or_default();
    fields.remove("auth");
    serde_json::to_vec(&fields).unwrap_or_default()
}

fn info(challenge: UiaChallenge) -> UiaaInfo {
    let mut info = UiaaInfo::new(challenge.flows.into_iter().map(AuthFlow::new).collect());
    info.completed = challenge.completed;
    // Optional, but clients exist that refuse a challenge without it.
    info.params = serde_json::value::to_raw_value(&Map::new()).ok();
    info.session = Some(challenge.session);
    info.auth_error = challenge.error.map(|error| {
        let kind = match error {
            UiaError::WrongCredentials | UiaError::OtherUser | UiaError::OtherRequest => {
                ErrorKind::Forbidden
            }
            UiaError::InvalidRegistrationToken => ErrorKind::Unauthorized,
            UiaError::UnexpectedStage => ErrorKind::InvalidParam,
            UiaError::UnknownSession => ErrorKind::Unknown,
        };
        Box::new(StandardErrorBody::new(kind, error.to_string()))
    });
    info
}
