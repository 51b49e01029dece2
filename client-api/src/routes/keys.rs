//! `/keys`: a device's own keys, and claims of others' (CS "End-to-End Encryption").

use std::{collections::BTreeMap, time::Duration};

use hearth_e2ee::KeyUpload;
use hearth_http::{MatrixError, RawJson, Ruma};
use ruma::{
    OwnedUserId, UInt,
    api::client::keys::{
        claim_keys::{self, v3::OneTimeKeys},
        get_key_changes, upload_keys,
    },
};
use serde::Serialize;
use serde_json::{Value, json};

use crate::{ApiError, ClientApi, LocalUser};

/// `POST /_matrix/client/*/keys/upload`
pub(crate) async fn upload(
    app: ClientApi,
    request: Ruma<upload_keys::v3::Request, LocalUser>,
) -> Result<upload_keys::v3::Response, ApiError> {
    let Ruma { body, identity, .. } = request;
    let upload = KeyUpload {
        device_keys: body.device_keys,
        one_time_keys: body.one_time_keys,
        fallback_keys: body.fallback_keys,
    };
    let (user_id, device_id) = (identity.user_id(), identity.device_id());
    let token = Some(identity.0.token_hash());
    let counts = app.e2ee().upload_keys(user_id, device_id, token, upload).await?;
    let counts = counts.one_time_keys.iter();
    let counts = counts.map(|(algorithm, count)| (algorithm.clone(), UInt::new_saturating(*count)));
    Ok(upload_keys::v3::Response::new(counts.collect()))
}

/// `POST /_matrix/client/*/keys/claim`
pub(crate) async fn claim(
    app: ClientApi,
    request: Ruma<claim_keys::v3::Request, LocalUser>,
) -> Result<RawJson, ApiError> {
    let timeout = request.timeout.unwrap_or(DEFAULT_TIMEOUT);
    let claimed = app.e2ee().claim_keys(request.one_time_keys.clone(), timeout).await?;
    let failures = claimed.failures.into_iter();
    // Present even when it is empty, which Ruma's type would leave out: Hydrogen shares no key without it.
    let answer = ClaimAnswer {
        failures: failures.map(|(server, why)| (server.to_string(), failure(&why))).collect(),
        one_time_keys: claimed.one_time_keys,
    };
    let json = serde_json::to_vec(&answer).map_err(|error| MatrixError::internal(&error))?;
    Ok(RawJson::from(json))
}

/// The answer to a claim.
#[derive(Serialize)]
struct ClaimAnswer {
    failures: BTreeMap<String, Value>,
    one_time_keys: BTreeMap<OwnedUserId, OneTimeKeys>,
}

/// `GET /_matrix/client/*/keys/changes`
pub(crate) async fn changes(
    app: ClientApi,
    request: Ruma<get_key_changes::v3::Request, LocalUser>,
) -> Result<get_key_changes::v3::Response, ApiError> {
    let (user_id, from, to) = (request.identity.user_id(), &request.from, &request.to);
    let lists = app.sync().device_list_changes(user_id, from, to).await?;
    let (changed, left) = (lists.changed.into_iter().collect(), lists.left.into_iter().collect());
    Ok(get_key_changes::v3::Response::new(changed, left))
}

/// What is told about a server that did not answer, which the specification leaves open: what Synapse
/// tells in this place, and some clients show.
pub(crate) fn failure(why: &str) -> Value {
    json!({ "status": 503, "message": why })
}

/// How long other servers may take if the client does not say.
pub(crate) const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);
