//! Serving keys: this server's own, and as a notary those of others (SS "Retrieving server keys").
//! Nobody need say who they are.

use std::collections::BTreeMap;

use axum::{
    extract::{Path, State},
    routing::get,
};
use futures_util::{StreamExt as _, stream};
use hearth_http::{ApiState as _, Class, Endpoints, Lane, MatrixError, RawJson, Ruma};
use http::{Uri, request::Parts};
use ruma::{
    CanonicalJsonObject, MilliSecondsSinceUnixEpoch, OwnedServerName,
    api::federation::discovery::{
        get_remote_server_keys, get_remote_server_keys_batch, get_server_keys,
    },
};
use serde::Serialize;

use super::Api;

/// Servers whose keys one request may ask for: each may cost a request to that server.
const MAX_SERVERS: usize = 100;
/// Servers of one request that are worked on at once.
const SERVERS_AT_ONCE: usize = 16;

/// The endpoints of this module.
pub(super) fn endpoints() -> Endpoints<Api> {
    // Nobody proves who they are, and each request may cost others some.
    Endpoints::new()
        .ruma(own_keys)
        .ruma_with(Class::General, query)
        .ruma_with(Class::General, query_batch)
        // Before v1.6 of the specification a key could be named; older servers still do.
        .route("/_matrix/key/v2/server/{key_id}", get(own_keys_named))
        .route("/_matrix/key/v2/query/{server_name}/{key_id}", get(query_named))
}

#[derive(Serialize)]
struct Answer {
    server_keys: Vec<CanonicalJsonObject>,
}

/// `GET /_matrix/key/v2/server`.
async fn own_keys(api: Api, _: Ruma<get_server_keys::v2::Request>) -> Result<RawJson, MatrixError> {
    own_answer(&api)
}

/// `GET /_matrix/key/v2/server/{keyId}`: all keys, whichever is named.
async fn own_keys_named(State(api): State<Api>) -> Result<RawJson, MatrixError> {
    own_answer(&api)
}

fn own_answer(api: &Api) -> Result<RawJson, MatrixError> {
    let keys = api.federation.keys().own_answer();
    json(&keys.map_err(|error| MatrixError::internal(&error))?)
}

/// `GET /_matrix/key/v2/query/{serverName}`.
async fn query(
    api: Api,
    request: Ruma<get_remote_server_keys::v2::Request>,
) -> Result<RawJson, MatrixError> {
    // Where the parameter is left out, ruma's type puts in the system's time, not this server's.
    let at = if has_minimum(&request.uri) {
        request.minimum_valid_until_ts
    } else {
        api.federation.clock().now()
    };
    let wanted = BTreeMap::from([(request.body.server_name, at)]);
    json(&Answer { server_keys: vouch_for(&api, wanted).await })
}

/// `GET /_matrix/key/v2/query/{serverName}/{keyId}`: all keys, whichever is named.
async fn query_named(
    State(api): State<Api>,
    Path((server_name, _)): Path<(OwnedServerName, String)>,
    head: Parts,
) -> Result<RawJson, MatrixError> {
    let _place = api.http().admit(Lane::Short)?;
    if let Some(address) = api.http().client_address(&head) {
        api.http().limiter().charge_address(Class::General, address)?;
    }
    let wanted = BTreeMap::from([(server_name, api.federation.clock().now())]);
    json(&Answer { server_keys: vouch_for(&api, wanted).await })
}

fn has_minimum(uri: &Uri) -> bool {
    let query = uri.query().unwrap_or_default();
    url::form_urlencoded::parse(query.as_bytes()).any(|(name, _)| name == "minimum_valid_until_ts")
}

/// `POST /_matrix/key/v2/query`. Which keys are asked for does not matter: the answers hold all that
/// their servers publish.
async fn query_batch(
    api: Api,
    request: Ruma<get_remote_server_keys_batch::v2::Request>,
) -> Result<RawJson, MatrixError> {
    if request.server_keys.len() > MAX_SERVERS {
        let message = format!("More than {MAX_SERVERS} servers are asked for");
        return Err(MatrixError::invalid_param(message));
    }
    let now = api.federation.clock().now();
    let wanted = request.body.server_keys.into_iter().map(|(server, keys)| {
        let minima = keys.values().filter_map(|criteria| criteria.minimum_valid_until_ts);
        (server, minima.max().unwrap_or(now))
    });
    let wanted = wanted.collect();
    json(&Answer { server_keys: vouch_for(&api, wanted).await })
}

/// The keys of these servers that count at least until the times given, or the last that were told.
/// Servers whose keys cannot be had are left out.
async fn vouch_for(
    api: &Api,
    wanted: BTreeMap<OwnedServerName, MilliSecondsSinceUnixEpoch>,
) -> Vec<CanonicalJsonObject> {
    let answers = stream::iter(wanted).map(|(server, at)| async move {
        api.federation.keys().vouch(&server, at.get().into()).await
    });
    answers.buffered(SERVERS_AT_ONCE).filter_map(std::future::ready).collect().await
}

fn json(answer: &impl Serialize) -> Result<RawJson, MatrixError> {
    let json = serde_json::to_vec(answer).map_err(|error| MatrixError::internal(&error))?;
    Ok(RawJson::from(json))
}
