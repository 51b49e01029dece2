//! Making users, in the ways that servers offer.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use bytes::Bytes;
use hmac::{Hmac, KeyInit as _, Mac as _};
use http::{Method, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};
use sha1::Sha1;

use crate::client::{Account, Client};
use crate::connection::RequestError;
use crate::paths;
use crate::scan;

/// Most stages of user-interactive authentication that registration goes through.
const MAX_STAGES: u32 = 4;

/// How users are made.
#[derive(Clone, Debug)]
pub(crate) enum Registration {
    /// By the dummy stage.
    Open,
    /// By a registration token and, where asked for, the dummy stage.
    Token(String),
    /// By a secret that the server shares.
    SharedSecret(String),
}

/// Registers `username`.
pub(crate) async fn register(
    client: &mut Client,
    username: &str,
    registration: &Registration,
) -> Result<Account, RequestError> {
    let answer = match registration {
        Registration::Open => interactively(client, username, None).await?,
        Registration::Token(token) => interactively(client, username, Some(token)).await?,
        Registration::SharedSecret(secret) => with_secret(client, username, secret).await?,
    };
    let token = scan::string_field(&answer, "access_token");
    Account::new(token.ok_or(RequestError::Missing("access_token"))?)
}

fn password_of(username: &str) -> String {
    format!("load {username} generator")
}

async fn interactively(
    client: &mut Client,
    username: &str,
    token: Option<&str>,
) -> Result<Bytes, RequestError> {
    let mut auth = None;
    for _ in 0..MAX_STAGES {
        let mut request = json!({"username": username, "password": password_of(username)});
        if let (Some(auth), Some(fields)) = (auth.take(), request.as_object_mut()) {
            fields.insert("auth".to_owned(), auth);
        }
        let body = Bytes::from(request.to_string());
        match client.patient(Method::POST, paths::REGISTER, None, Some(body)).await {
            Err(RequestError::Status { status: StatusCode::UNAUTHORIZED, body, excerpt }) => {
                auth = next_stage(&body, token);
                if auth.is_none() {
                    return Err(RequestError::Status {
                        status: StatusCode::UNAUTHORIZED,
                        body,
                        excerpt,
                    });
                }
            }
            result => return result,
        }
    }
    Err(RequestError::Missing("registration flow that can be completed"))
}

/// The `auth` of the next stage that can be completed, out of a 401 answer's flows.
fn next_stage(body: &[u8], token: Option<&str>) -> Option<Value> {
    #[derive(Deserialize)]
    struct Flow {
        stages: Vec<String>,
    }
    #[derive(Deserialize)]
    struct Offer {
        flows: Vec<Flow>,
        #[serde(default)]
        completed: Vec<String>,
        session: Option<String>,
    }
    let offer: Offer = serde_json::from_slice(body).ok()?;
    let mut forms = BTreeMap::from([("m.login.dummy", json!({"type": "m.login.dummy"}))]);
    if let Some(token) = token {
        forms.insert(
            "m.login.registration_token",
            json!({"type": "m.login.registration_token", "token": token}),
        );
    }
    offer.flows.iter().find_map(|flow| {
        let mut open = flow.stages.iter().filter(|stage| !offer.completed.contains(stage));
        let first = forms.get(open.next()?.as_str())?;
        if !open.all(|stage| forms.contains_key(stage.as_str())) {
            return None;
        }
        let mut auth = first.clone();
        if let (Some(session), Some(fields)) = (&offer.session, auth.as_object_mut()) {
            fields.insert("session".to_owned(), json!(session));
        }
        Some(auth)
    })
}

async fn with_secret(
    client: &mut Client,
    username: &str,
    secret: &str,
) -> Result<Bytes, RequestError> {
    let offer = client.patient(Method::GET, paths::REGISTER_WITH_SECRET, None, None).await?;
    let nonce = scan::string_field(&offer, "nonce").ok_or(RequestError::Missing("nonce"))?;
    let password = password_of(username);
    let mac = proof(secret, nonce, username, &password);
    let request = json!({"nonce": nonce, "username": username, "password": password, "admin": false, "mac": mac});
    let body = Bytes::from(request.to_string());
    client.patient(Method::POST, paths::REGISTER_WITH_SECRET, None, Some(body)).await
}

/// HMAC-SHA1 over the fields with a zero byte between them, in hexadecimal.
fn proof(secret: &str, nonce: &str, username: &str, password: &str) -> String {
    // HMAC takes keys of every length.
    let Ok(mut mac) = Hmac::<Sha1>::new_from_slice(secret.as_bytes()) else {
        return String::new();
    };
    mac.update(format!("{nonce}\0{username}\0{password}\0notadmin").as_bytes());
    let mut hexadecimal = String::new();
    for byte in mac.finalize().into_bytes() {
        // Writing to a string cannot fail.
        write!(hexadecimal, "{byte:02x}").unwrap_or_default();
    }
    hexadecimal
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn picks_the_flow_that_can_be_completed() {
        let body = br#"{"session":"s","flows":[{"stages":["m.login.recaptcha"]},{"stages":["m.login.dummy"]}]}"#;
        assert_eq!(next_stage(body, None), Some(json!({"type": "m.login.dummy", "session": "s"})));
    }

    #[test]
    fn goes_on_behind_the_completed_stages() {
        let body = br#"{"session":"s","completed":["m.login.registration_token"],
            "flows":[{"stages":["m.login.registration_token","m.login.dummy"]}]}"#;
        assert_eq!(
            next_stage(body, Some("t")),
            Some(json!({"type": "m.login.dummy", "session": "s"}))
        );
    }

    #[test]
    fn gives_up_without_a_token_or_a_flow() {
        let body = br#"{"session":"s","flows":[{"stages":["m.login.registration_token"]}]}"#;
        assert_eq!(next_stage(body, None), None);
        assert_eq!(
            next_stage(body, Some("t")),
            Some(json!({"type": "m.login.registration_token", "token": "t", "session": "s"}))
        );
        assert_eq!(next_stage(b"{}", None), None);
    }

    #[test]
    fn proves_that_it_knows_the_secret() {
        // Computed with Python's hmac module.
        assert_eq!(
            proof("secret", "nonce", "user", "pass"),
            "a62633a505e2bc2e61569cf3c6847ee41ef09bae"
        );
    }
}
