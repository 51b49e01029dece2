//! `/keys/query`, `/keys/device_signing/upload` and `/keys/signatures/upload` (CS "Key management API",
//! "Cross-signing").

use std::{collections::BTreeMap, time::Duration};

use hearth_e2ee::{CrossSigningOutcome, CrossSigningUpload};
use hearth_http::{MatrixError, Ruma};
use ruma::api::client::keys::{
    get_keys,
    upload_signatures::{self, v3::Failure},
    upload_signing_keys,
};
use serde_json::json;

use super::keys::failure;
use crate::{ApiError, ClientApi, LocalUser, uia::confirm_password};

/// How long other servers are waited for if the client does not say.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);

/// `POST /_matrix/client/*/keys/query`
pub(crate) async fn query(
    app: ClientApi,
    request: Ruma<get_keys::v3::Request, LocalUser>,
) -> Result<get_keys::v3::Response, ApiError> {
    let Ruma { body, identity, .. } = request;
    let timeout = body.timeout.unwrap_or(DEFAULT_TIMEOUT);
    let found = app.e2ee().query_keys(identity.user_id(), body.device_keys, timeout).await?;
    let mut answer = get_keys::v3::Response::new();
    answer.device_keys = found.device_keys;
    answer.master_keys = found.master_keys;
    answer.self_signing_keys = found.self_signing_keys;
    answer.user_signing_keys = found.user_signing_keys;
    let failures = found.failures.into_iter();
    answer.failures = failures.map(|(server, why)| (server.to_string(), failure(&why))).collect();
    Ok(answer)
}

/// `POST /_matrix/client/*/keys/device_signing/upload`
pub(crate) async fn upload_keys(
    app: ClientApi,
    request: Ruma<upload_signing_keys::v3::Request, LocalUser>,
) -> Result<upload_signing_keys::v3::Response, ApiError> {
    let user_id = request.identity.user_id();
    let upload = CrossSigningUpload {
        master_key: request.master_key.clone(),
        self_signing_key: request.self_signing_key.clone(),
        user_signing_key: request.user_signing_key.clone(),
    };
    let stored = app.e2ee().upload_cross_signing_keys(user_id, upload.clone(), false).await?;
    if stored == CrossSigningOutcome::MustConfirm {
        confirm_password(&app, &request, request.auth.as_ref()).await?;
        app.e2ee().upload_cross_signing_keys(user_id, upload, true).await?;
    }
    Ok(upload_signing_keys::v3::Response::new())
}

/// `POST /_matrix/client/*/keys/signatures/upload`
pub(crate) async fn upload_signatures(
    app: ClientApi,
    request: Ruma<upload_signatures::v3::Request, LocalUser>,
) -> Result<upload_signatures::v3::Response, ApiError> {
    let signed_keys = request.body.signed_keys;
    let failed = app.e2ee().upload_signatures(request.identity.user_id(), signed_keys).await?;
    let mut answer = upload_signatures::v3::Response::new();
    for (user_id, keys) in failed {
        let told = keys.into_iter().map(|(id, (errcode, error))| {
            let failure: Failure =
                serde_json::from_value(json!({ "errcode": errcode, "error": error }))?;
            Ok((id, failure))
        });
        let told: Result<BTreeMap<_, _>, serde_json::Error> = told.collect();
        answer.failures.insert(user_id, told.map_err(|error| MatrixError::internal(&error))?);
    }
    Ok(answer)
}
