//! Who asks: `X-Matrix` (SS "Request Authentication").

mod canonical;
mod header;
#[cfg(test)]
pub(super) mod tests;

use bytes::Bytes;
use hearth_http::{MatrixError, Policy, Scheme};
use hearth_storage::run_blocking;
use http::{StatusCode, request::Parts};
use ruma::{
    OwnedServerName, ServerName,
    api::federation::authentication::{ServerSignatures, XMatrix},
    signatures::{PublicKeySet, verify_canonical_json_bytes},
};

use self::header::claims;
use super::Api;
use crate::keys::{Purpose, WantedKeys};

/// Larger bodies are verified off the async threads.
const INLINE_BYTES: usize = 32 * 1024;

/// The server that has proven to have sent a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin(pub OwnedServerName);

impl Scheme<Api> for ServerSignatures {
    type Identity = Origin;

    /// What can be told without the body: that the request is for this server, from one that may ask,
    /// and that there is a key to verify it with.
    async fn identify(state: &Api, head: &Parts, _: &Policy) -> Result<Origin, MatrixError> {
        let federation = &state.federation;
        let claims = claims(&head.headers, federation.identity().server_name())?;
        let origin = origin(&claims)?;
        if !federation.config().admits(&origin) {
            return Err(MatrixError::forbidden("This server does not federate with yours"));
        }
        if keys(state, &origin, &claims).await.is_empty() {
            return Err(unauthorized("The key of the request's signature cannot be had"));
        }
        Ok(Origin(origin))
    }

    async fn verify(
        state: &Api,
        origin: &Origin,
        head: &Parts,
        body: &Bytes,
    ) -> Result<(), MatrixError> {
        let own_name = state.federation.identity().server_name().to_owned();
        let claims = claims(&head.headers, &own_name)?;
        let keys = keys(state, &origin.0, &claims).await;
        let (method, uri, body) = (head.method.clone(), head.uri.clone(), body.clone());
        let (origin, is_large) = (origin.0.clone(), body.len() > INLINE_BYTES);
        let job = move || {
            let uri = uri.path_and_query().map_or("/", |uri| uri.as_str());
            let request = [own_name.as_str(), method.as_str(), origin.as_str(), uri];
            let signed = canonical::request_object(request, &body);
            signed.is_some_and(|signed| is_signed(&signed, &claims, &keys))
        };
        let is_signed = if is_large { run_blocking(job).await.unwrap_or_default() } else { job() };
        if is_signed { Ok(()) } else { Err(unauthorized("The request's signature is wrong")) }
    }
}

fn unauthorized(message: &'static str) -> MatrixError {
    MatrixError::new(StatusCode::UNAUTHORIZED, "M_UNAUTHORIZED", message)
}

/// The one server that all claims name.
fn origin(claims: &[XMatrix]) -> Result<OwnedServerName, MatrixError> {
    match claims {
        [first, rest @ ..] if rest.iter().all(|claim| claim.origin == first.origin) => {
            Ok(first.origin.clone())
        }
        _ => Err(unauthorized("The request is signed by several servers")),
    }
}

/// The keys of the claims, as far as they are valid now.
async fn keys(state: &Api, origin: &ServerName, claims: &[XMatrix]) -> PublicKeySet {
    let now = state.federation.clock().now();
    let key_ids = claims.iter().map(|claim| (claim.key.clone(), now)).collect();
    let wanted = WantedKeys::from([(origin.to_owned(), key_ids)]);
    let known = state.federation.keys().look_up(&wanted, Purpose::Stranger).await;
    let mut keys = known.valid_at(wanted.keys(), now).remove(origin.as_str()).unwrap_or_default();
    keys.retain(|key_id, _| claims.iter().any(|claim| claim.key.as_str() == key_id));
    keys
}

/// Is one of the signatures right?
fn is_signed(object: &str, claims: &[XMatrix], keys: &PublicKeySet) -> bool {
    claims.iter().any(|claim| {
        let (algorithm, sig) = (claim.key.algorithm(), claim.sig.as_bytes());
        keys.get(claim.key.as_str()).is_some_and(|key| {
            verify_canonical_json_bytes(&algorithm, key.as_bytes(), sig, object.as_bytes()).is_ok()
        })
    })
}
