//! Who asks: `X-Matrix` (SS "Request Authentication").

use bytes::Bytes;
use hearth_http::{MatrixError, Policy, Scheme};
use hearth_storage::run_blocking;
use http::{HeaderMap, Request, header, request::Parts};
use ruma::{
    OwnedServerName, OwnedServerSigningKeyId, ServerName,
    api::federation::authentication::{ServerSignatures, XMatrix},
    serde::Base64,
    signatures::PublicKeyMap,
};

use super::Api;
use crate::keys::{Purpose, WantedKeys};

/// The name of the scheme in the `Authorization` header.
const SCHEME: &str = "X-Matrix";
/// Signatures of one request that are looked at: servers that change keys send one for each.
const MAX_SIGNATURES: usize = 4;
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
        if keys(state, &origin, &claims).await.values().all(|keys| keys.is_empty()) {
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
        let mut request = Request::new(body.clone());
        *request.method_mut() = head.method.clone();
        *request.uri_mut() = head.uri.clone();
        let is_large = body.len() > INLINE_BYTES;
        let job = move || is_signed(&request, &own_name, &claims, &keys);
        let is_signed = if is_large { run_blocking(job).await.unwrap_or_default() } else { job() };
        if is_signed { Ok(()) } else { Err(unauthorized("The request's signature is wrong")) }
    }
}

fn unauthorized(message: &'static str) -> MatrixError {
    MatrixError::new(http::StatusCode::UNAUTHORIZED, "M_UNAUTHORIZED", message)
}

/// What the request's `Authorization` headers say. A destination may be left out, but not be wrong.
fn claims(headers: &HeaderMap, own_name: &ServerName) -> Result<Vec<XMatrix>, MatrixError> {
    let values = headers.get_all(header::AUTHORIZATION).iter();
    let ours = values.filter_map(|value| value.to_str().ok()?.parse_scheme());
    let claims: Vec<_> =
        ours.take(MAX_SIGNATURES).map(parse).collect::<Result<_, _>>().map_err(unauthorized)?;
    if claims.is_empty() {
        return Err(unauthorized("Missing X-Matrix Authorization header"));
    }
    let is_ours = |claim: &XMatrix| claim.destination.as_deref().is_none_or(|to| to == own_name);
    if !claims.iter().all(is_ours) {
        return Err(unauthorized("The request is for another server"));
    }
    Ok(claims)
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
async fn keys(state: &Api, origin: &ServerName, claims: &[XMatrix]) -> PublicKeyMap {
    let now = state.federation.clock().now();
    let key_ids = claims.iter().map(|claim| (claim.key.clone(), now)).collect();
    let wanted = WantedKeys::from([(origin.to_owned(), key_ids)]);
    let known = state.federation.keys().look_up(&wanted, Purpose::Stranger).await;
    let mut keys = known.valid_at(wanted.keys(), now);
    for keys in keys.values_mut() {
        keys.retain(|key_id, _| claims.iter().any(|claim| claim.key.as_str() == key_id));
    }
    keys
}

/// Is one of the signatures right?
fn is_signed(
    request: &Request<Bytes>,
    own_name: &ServerName,
    claims: &[XMatrix],
    keys: &PublicKeyMap,
) -> bool {
    claims.iter().any(|claim| claim.verify_http_request(request, own_name, keys).is_ok())
}

trait ParseScheme {
    /// What follows the scheme's name, if it is `X-Matrix`.
    fn parse_scheme(&self) -> Option<&str>;
}

impl ParseScheme for str {
    fn parse_scheme(&self) -> Option<&str> {
        let (scheme, parameters) = self.split_once(is_blank)?;
        scheme.eq_ignore_ascii_case(SCHEME).then_some(parameters)
    }
}

/// Reads the parameters of `X-Matrix` credentials (RFC 9110 section 11.4). ruma's parser demands what
/// the specification tells servers to be lenient about: quotes around values with colons, one blank
/// behind the scheme.
fn parse(parameters: &str) -> Result<XMatrix, &'static str> {
    let (mut origin, mut destination, mut key, mut sig) = (None, None, None, None);
    let mut rest = parameters;
    loop {
        rest = rest.trim_start_matches(|next| is_blank(next) || next == ',');
        if rest.is_empty() {
            break;
        }
        let (name, value, behind) = parameter(rest)?;
        rest = behind;
        let slot = match name.to_ascii_lowercase().as_str() {
            "origin" => &mut origin,
            "destination" => &mut destination,
            "key" => &mut key,
            "sig" => &mut sig,
            _ => continue,
        };
        if slot.replace(value).is_some() {
            return Err("A parameter of the Authorization header is there twice");
        }
    }
    let (Some(origin), Some(key), Some(sig)) = (origin, key, sig) else {
        return Err("A parameter of the Authorization header is missing");
    };
    let server = |name: String| {
        OwnedServerName::try_from(name).map_err(|_| "The Authorization header names no server")
    };
    let key = OwnedServerSigningKeyId::try_from(key)
        .map_err(|_| "The Authorization header names no key")?;
    let sig = Base64::parse(sig).map_err(|_| "The Authorization header holds no signature")?;
    let origin = server(origin)?;
    // ruma makes only credentials with a destination.
    let mut claim = XMatrix::new(origin.clone(), origin, key, sig);
    claim.destination = destination.map(server).transpose()?;
    Ok(claim)
}

/// One parameter: its name, its value and what follows.
fn parameter(text: &str) -> Result<(&str, String, &str), &'static str> {
    const MALFORMED: &str = "The Authorization header is malformed";
    let (name, behind) = text.split_once('=').ok_or(MALFORMED)?;
    let name = name.trim_end_matches(is_blank);
    if name.is_empty() || name.contains(|next| is_blank(next) || matches!(next, ',' | '"')) {
        return Err(MALFORMED);
    }
    let behind = behind.trim_start_matches(is_blank);
    let (value, behind) = match behind.strip_prefix('"') {
        Some(quoted) => unquote(quoted).ok_or(MALFORMED)?,
        None => {
            let end = behind.find(|next| is_blank(next) || next == ',').unwrap_or(behind.len());
            let (value, behind) = behind.split_at(end);
            (value.to_owned(), behind)
        }
    };
    let behind = behind.trim_start_matches(is_blank);
    if behind.is_empty() || behind.starts_with(',') {
        Ok((name, value, behind))
    } else {
        Err(MALFORMED)
    }
}

/// The rest of a quoted string, without its escapes, and what follows it.
fn unquote(quoted: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut rest = quoted.chars();
    loop {
        match rest.next()? {
            '"' => return Some((value, rest.as_str())),
            '\\' => value.push(rest.next()?),
            other => value.push(other),
        }
    }
}

fn is_blank(next: char) -> bool {
    matches!(next, ' ' | '\t')
}
