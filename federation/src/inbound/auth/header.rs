//! The `Authorization` header of requests between servers.

use hearth_http::MatrixError;
use http::{HeaderMap, header};
use ruma::{
    OwnedServerName, OwnedServerSigningKeyId, ServerName, api::federation::authentication::XMatrix,
    serde::Base64,
};

use super::unauthorized;

/// The name of the scheme in the `Authorization` header.
const SCHEME: &str = "X-Matrix";
/// Signatures of one request that are looked at: servers that change keys send one for each.
const MAX_SIGNATURES: usize = 4;

/// What the request's `Authorization` headers say. A destination may be left out, but not be wrong.
pub(super) fn claims(
    headers: &HeaderMap,
    own_name: &ServerName,
) -> Result<Vec<XMatrix>, MatrixError> {
    let values = headers.get_all(header::AUTHORIZATION).iter();
    let ours = values.filter_map(|value| parameters(value.to_str().ok()?));
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

/// What follows the scheme's name, if it is `X-Matrix`.
fn parameters(value: &str) -> Option<&str> {
    let (scheme, parameters) = value.split_once(is_blank)?;
    scheme.eq_ignore_ascii_case(SCHEME).then_some(parameters)
}

/// Reads the parameters of `X-Matrix` credentials (RFC 9110 section 11.4). ruma's parser demands what
/// the specification tells servers to be lenient about: quotes around values with colons, one blank
/// behind the scheme.
pub(super) fn parse(parameters: &str) -> Result<XMatrix, &'static str> {
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
    let (value, behind) = if let Some(quoted) = behind.strip_prefix('"') {
        unquote(quoted).ok_or(MALFORMED)?
    } else {
        let end = behind.find(|next| is_blank(next) || next == ',').unwrap_or(behind.len());
        let (value, behind) = behind.split_at(end);
        (value.to_owned(), behind)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fuzz_credentials() {
        let seeds: &[&[u8]] = &[
            b"origin=them.example,destination=us.example,key=\"ed25519:1\",sig=\"dGVzdA\"",
            b" origin=\"them.example:8448\" , KEY=ed25519:a_b, sig=dGVzdA== , other=\"a\\\"b\"",
        ];
        let words: &[&[u8]] = &[
            b"origin=",
            b"destination=",
            b"key=",
            b"sig=",
            b"\"",
            b"\\",
            b",",
            b", ,",
            b"\t",
            b"ed25519:",
            b"[::1]:1",
            b"=",
            b"\xc3\xa4",
        ];
        hearth_fuzz::fuzz(seeds, words, |input| {
            let text = String::from_utf8_lossy(input);
            let Ok(read) = parse(&text) else { return };
            // What is read can be written, and means the same then.
            let key = read.key.as_str().replace('\\', "\\\\").replace('"', "\\\"");
            let mut written =
                format!("origin=\"{}\",key=\"{key}\",sig={}", read.origin, read.sig.encode());
            if let Some(name) = &read.destination {
                written.extend([",destination=", name.as_str()]);
            }
            let again = parse(&written).unwrap();
            assert_eq!((&again.origin, &again.key), (&read.origin, &read.key));
            assert_eq!(again.sig.as_bytes(), read.sig.as_bytes());
            assert_eq!(again.destination, read.destination);
        });
    }
}
