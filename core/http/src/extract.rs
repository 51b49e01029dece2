//! A request as its endpoint's type.

use std::{
    any::type_name,
    error::Error as _,
    fmt,
    net::IpAddr,
    ops::Deref,
    panic::{AssertUnwindSafe, catch_unwind},
};

use axum::{
    extract::{FromRequestParts as _, RawPathParams, Request},
    http::request::Parts,
};
use bytes::Bytes;
use http::{Method, Uri};
use ruma::api::{
    IncomingRequest, IncomingRequestExt as _,
    error::{DeserializationError, FromHttpRequestError},
};

use crate::{ApiState, MatrixError, Policy, Scheme, body};

/// Greatest length of one path parameter in bytes, after decoding. Identifiers, event types and state
/// keys are bounded so by the specification; it also keeps transaction IDs and filter IDs within a
/// stored key.
const MAX_PATH_PARAM_BYTES: usize = 255;

/// A profile's field names have an error code of their own (`M_KEY_TOO_LARGE`), left to its endpoints.
const UNBOUNDED_PATH_PARAM: &str = "field";

/// A request to the endpoint `T`, parsed, from the identity that the endpoint's auth scheme promises:
/// the state's [`Session`](crate::Authenticate::Session), an `Option` of it, or nothing.
///
/// Dereferences to the body, so that `request.room_id` reads well.
#[derive(Clone)]
#[non_exhaustive]
pub struct Ruma<T, I = ()> {
    /// The endpoint's request: path, query, headers and body.
    pub body: T,
    /// Who sent it.
    pub identity: I,
    /// The address of the client; `None` if the listener does not tell.
    pub address: Option<IpAddr>,
    /// The body's bytes as they came (`{}` if a body was due and none came; empty for `GET`).
    pub json: Bytes,
    /// The URI, for parameters that the endpoint's type does not know. Holds tokens: never log it.
    pub uri: Uri,
}

impl<T, I> Deref for Ruma<T, I> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.body
    }
}

/// Names the endpoint and shows nothing of the request: bodies hold passwords, URIs hold tokens.
impl<T, I> fmt::Debug for Ruma<T, I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct(type_name::<T>()).field("address", &self.address).finish_non_exhaustive()
    }
}

/// Checks and reads a request, the cheap refusals first: address, token and user before the body.
pub(crate) async fn extract<S, T>(
    state: &S,
    policy: &Policy,
    request: Request,
) -> Result<Ruma<T, <T::Authentication as Scheme<S>>::Identity>, MatrixError>
where
    S: ApiState,
    T: IncomingRequest,
    T::Authentication: Scheme<S>,
{
    let http = state.http();
    let (mut head, body) = request.into_parts();
    let address = http.client_address(&head);
    if let (Some(class), Some(address)) = (policy.limited_as(), address) {
        http.limiter().charge_address(class, address)?;
    }
    let identity = T::Authentication::identify(state, &head, policy).await?;

    let (sent, json) = if T::METHOD == Method::GET {
        (Bytes::new(), Bytes::new())
    } else {
        let config = http.config();
        let raw_bytes = policy.raw_body_bytes();
        let max_bytes = raw_bytes.or(policy.json_bytes()).unwrap_or(config.max_json_bytes);
        let sent = body::read(&head.headers, body, max_bytes, config.body_timeout()).await?;
        let json = match raw_bytes {
            Some(_) => sent.clone(),
            None => body::object(sent.clone(), &T::METHOD, policy.max_json_depth())?,
        };
        (sent, json)
    };
    T::Authentication::verify(state, &identity, &head, &sent).await?;
    if let Some(field) = policy.required_field() {
        body::require(field, &json)?;
    }
    let uri = head.uri.clone();
    let params = path_params(&mut head).await?;
    let args: Vec<&str> = params.iter().flatten().map(|(_, value)| value).collect();
    let body = parse(http::Request::from_parts(head, &*json), &args)?;
    Ok(Ruma { body, identity, address, json, uri })
}

/// The request as its endpoint's type. Some of ruma's parsers panic on input that they did not expect
/// (0.17's login type without a `type`), which is the sender's fault and none of the server's.
fn parse<T: IncomingRequest>(
    request: http::Request<&[u8]>,
    args: &[&str],
) -> Result<T, MatrixError> {
    let json = *request.body();
    let parsed = catch_unwind(AssertUnwindSafe(|| T::try_from_http_request(request, args)));
    let Ok(parsed) = parsed else {
        tracing::debug!(endpoint = type_name::<T>(), "the request's parser panicked");
        return Err(MatrixError::bad_json("The request has an unexpected form"));
    };
    parsed.map_err(|error| refusal(&error, json))
}

/// The decoded path parameters; `None` if the path has none.
async fn path_params(head: &mut Parts) -> Result<Option<RawPathParams>, MatrixError> {
    use axum::extract::rejection::RawPathParamsRejection::{
        InvalidUtf8InPathParam, MissingPathParams,
    };

    let params = match RawPathParams::from_request_parts(head, &()).await {
        Ok(params) => params,
        Err(MissingPathParams(_)) => return Ok(None),
        Err(InvalidUtf8InPathParam(_)) => {
            return Err(MatrixError::invalid_param("The path is not UTF-8"));
        }
        Err(_) => return Err(MatrixError::invalid_param("The path cannot be decoded")),
    };
    for (name, value) in &params {
        if value.len() > MAX_PATH_PARAM_BYTES && name != UNBOUNDED_PATH_PARAM {
            let message = format!("`{name}` has more than {MAX_PATH_PARAM_BYTES} bytes");
            return Err(MatrixError::invalid_param(message));
        }
    }
    Ok(Some(params))
}

/// What is wrong with a request that ruma could not read.
fn refusal(error: &FromHttpRequestError, json: &[u8]) -> MatrixError {
    match error {
        FromHttpRequestError::Deserialization(DeserializationError::Json(error)) => {
            body::refusal(error, json)
        }
        // Path and query alike: ruma reports both through its query deserializer.
        FromHttpRequestError::Deserialization(DeserializationError::Query(error)) => {
            let message = error.to_string();
            if message.starts_with("missing field") {
                MatrixError::missing_param(message)
            } else {
                MatrixError::invalid_param(message)
            }
        }
        FromHttpRequestError::Deserialization(error) => {
            // Some of ruma's hand-written endpoints wrap the parser's error once more.
            match error.source().and_then(|source| source.downcast_ref()) {
                Some(error) => body::refusal(error, json),
                None => MatrixError::invalid_param(error.to_string()),
            }
        }
        FromHttpRequestError::MethodMismatch { .. } => {
            MatrixError::method_not_allowed("Unrecognized request")
        }
        _ => MatrixError::bad_request("The request cannot be read"),
    }
}
