//! Request bodies: bounded in size, time and depth before anything parses them.

use std::{borrow::Cow, collections::HashMap, error::Error, time::Duration};

use axum::body::{Body, to_bytes};
use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode, header};
use http_body_util::LengthLimitError;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;

use crate::{HttpConfig, MatrixError};

/// Greatest nesting of a JSON body, unless its endpoint's policy has another. Below the parsers' own
/// bound (128) by enough that an accepted event can still be read inside a response's envelope.
pub(crate) const MAX_JSON_DEPTH: usize = 100;

/// The whole body; 413 `M_TOO_LARGE` beyond `max_bytes`, 408 beyond `timeout`.
pub(crate) async fn read(
    headers: &HeaderMap,
    body: Body,
    max_bytes: usize,
    timeout: Duration,
) -> Result<Bytes, MatrixError> {
    let too_large = || MatrixError::too_large(format!("The body has more than {max_bytes} bytes"));
    let announced = headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok());
    if announced
        .and_then(|length| length.parse().ok())
        .is_some_and(|bytes: usize| bytes > max_bytes)
    {
        return Err(too_large());
    }
    match tokio::time::timeout(timeout, to_bytes(body, max_bytes)).await {
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(error)) if error.source().is_some_and(<dyn Error>::is::<LengthLimitError>) => {
            Err(too_large())
        }
        Ok(Err(_)) => Err(MatrixError::bad_request("The body was cut short")),
        Err(_) => Err(MatrixError::bad_request("The body did not arrive in time")
            .with_status(StatusCode::REQUEST_TIMEOUT)),
    }
}

/// The body as bytes that hold one JSON object of bounded depth.
///
/// Where nothing was sent, clients that call `join` or `logout` mean `{}`. A `PUT` names what it stores,
/// so there it is an error. The syntax is checked to the last byte: endpoints' parsers may stop at the end
/// of a first value.
pub(crate) fn object(
    bytes: Bytes,
    method: &Method,
    max_depth: usize,
) -> Result<Bytes, MatrixError> {
    if std::str::from_utf8(&bytes).is_err() {
        return Err(MatrixError::not_json("The body is not UTF-8"));
    }
    match bytes.trim_ascii_start().first() {
        None if method == Method::PUT => return Err(MatrixError::not_json("The body is empty")),
        None => return Ok(Bytes::from_static(b"{}")),
        Some(b'{') => {}
        Some(_) if is_json(&bytes) => {
            return Err(MatrixError::bad_json("The body is not an object"));
        }
        Some(_) => return Err(MatrixError::not_json("The body is not JSON")),
    }
    if is_deeper_than(max_depth, &bytes) {
        let message = format!("The body is nested deeper than {max_depth} levels");
        return Err(MatrixError::bad_json(message));
    }
    if !is_json(&bytes) {
        return Err(MatrixError::not_json("The body is not JSON"));
    }
    Ok(bytes)
}

/// Reads a bounded object from a request, by the rules of [`read`] and [`object`].
pub(crate) async fn read_object(
    config: &HttpConfig,
    headers: &HeaderMap,
    body: Body,
    method: &Method,
) -> Result<Bytes, MatrixError> {
    let bytes = read(headers, body, config.max_json_bytes, config.body_timeout()).await?;
    object(bytes, method, MAX_JSON_DEPTH)
}

/// Refuses an object that lacks a field.
pub(crate) fn require(field: &str, json: &[u8]) -> Result<(), MatrixError> {
    let fields: HashMap<Cow<'_, str>, &RawValue> =
        serde_json::from_slice(json).map_err(|error| refusal(&error, json))?;
    if fields.contains_key(field) {
        Ok(())
    } else {
        Err(MatrixError::bad_json(format!("missing field `{field}`")))
    }
}

/// The response to a body that its parser refused: the parser may stop at a wrong type before it
/// reaches broken syntax, which weighs more.
pub(crate) fn refusal(error: &serde_json::Error, json: &[u8]) -> MatrixError {
    // What the parser calls syntax may be a key that it did not expect to come next.
    if is_json(json) {
        MatrixError::bad_json(error.to_string())
    } else {
        MatrixError::not_json("The body is not JSON")
    }
}

/// Passes over the values without recursion, however deep they are.
fn is_json(bytes: &[u8]) -> bool {
    serde_json::from_slice::<IgnoredAny>(bytes).is_ok()
}

/// Counts open brackets outside of strings. Meaningful for valid JSON; harmless for anything else.
fn is_deeper_than(max_depth: usize, json: &[u8]) -> bool {
    let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
    for byte in json {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            _ if in_string => {}
            b'{' | b'[' => {
                depth += 1;
                if depth > max_depth {
                    return true;
                }
            }
            b'}' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_depth_outside_of_strings_only() {
        assert!(!is_deeper_than(2, br#"{"a":[1],"b":{}}"#));
        assert!(is_deeper_than(2, br#"{"a":[{}]}"#));
        assert!(!is_deeper_than(2, br#"{"[[[[\"[[[":"{{{{\\"}"#));
        assert!(is_deeper_than(2, br#"{"\\":[[]]}"#));
    }

    #[test]
    fn bodies_are_as_deep_as_their_endpoint_lets_them_be() {
        let nested = |depth: usize| {
            let body = format!(r#"{{"a":{}{}}}"#, "[".repeat(depth - 1), "]".repeat(depth - 1));
            object(Bytes::from(body), &Method::PUT, 50_000)
        };
        assert!(nested(50_000).is_ok());
        assert!(nested(50_001).is_err());
        let cut = format!(r#"{{"a":{}}}"#, "[".repeat(10_000));
        assert!(object(Bytes::from(cut), &Method::PUT, 50_000).is_err());
    }
}
