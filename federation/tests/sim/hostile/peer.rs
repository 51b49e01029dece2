//! A server that is only a script: it has keys, signs what it is told to, and answers as it is told.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use axum::{
    Router,
    body::{Body, to_bytes},
    extract::{Request, State},
    response::{IntoResponse as _, Response},
};
use bytes::Bytes;
use hearth_federation::transport::{Limits, Transport as _};
use hearth_types::ServerIdentity;
use http::StatusCode;
use parking_lot::Mutex;
use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, OwnedRoomId, OwnedServerName, OwnedUserId,
    RoomVersionId, ServerName, UserId,
    api::federation::authentication::{XMatrix, XMatrixSigningInput},
    canonical_json::redact,
    room_version_rules::RoomVersionRules,
    serde::Base64,
    signatures::{
        Ed25519KeyPair, JsonError, KeyPair as _, hash_and_sign_event, reference_hash, sign_json,
    },
};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::time::Instant;

use crate::{
    engine::Life,
    network::{Network, SimTransport},
    server::{SimClock, key_of},
};

/// Stands for the number in bodies of [`Peer::put_odd`].
pub(crate) const ODD: &str = "an odd number";

/// Answers of a peer by the beginning of the path: status and body.
type Script = Arc<Mutex<BTreeMap<String, (u16, Value)>>>;

/// Requests that came: method and path with query.
type Heard = Arc<Mutex<Vec<(String, Value)>>>;

/// A scripted server.
pub(crate) struct Peer {
    pub(crate) name: OwnedServerName,
    identity: Arc<ServerIdentity>,
    transport: SimTransport,
    script: Script,
    heard: Heard,
    clock: SimClock,
}

#[derive(Clone)]
struct Actor {
    identity: Arc<ServerIdentity>,
    script: Script,
    heard: Heard,
    started: Instant,
}

impl Peer {
    /// A peer with a key of its own, reachable by its name.
    pub(crate) fn new(name: &str, number: u8, network: &Network) -> Self {
        let name = OwnedServerName::try_from(name).unwrap();
        let key = key_of(number);
        let identity = ServerIdentity::from_der(name.clone(), &key, "sim".to_owned()).unwrap();
        let identity = Arc::new(identity);
        let (script, heard) = (Script::default(), Heard::default());
        let started = Instant::now();
        let actor = Actor {
            identity: Arc::clone(&identity),
            script: Arc::clone(&script),
            heard: Arc::clone(&heard),
            started,
        };
        let life = Life::new();
        network.plug_in(&name, Router::new().fallback(act).with_state(actor), life.clone());
        let transport = SimTransport { network: network.clone(), origin: name.clone(), life };
        Self { name, identity, transport, script, heard, clock: SimClock(started) }
    }

    /// A user of this peer.
    pub(crate) fn user(&self, localpart: &str) -> OwnedUserId {
        UserId::parse(format!("@{localpart}:{}", self.name)).unwrap()
    }

    /// The time as the servers see it, in milliseconds.
    pub(crate) fn now_ms(&self) -> u64 {
        hearth_types::Clock::now_ms(&self.clock)
    }

    /// From now on, requests whose path begins so are answered with this.
    pub(crate) fn answers(&self, path: &str, status: u16, body: Value) {
        self.script.lock().insert(path.to_owned(), (status, body));
    }

    /// Requests whose path begins so, with their bodies.
    pub(crate) fn heard(&self, path: &str) -> Vec<Value> {
        let heard = self.heard.lock();
        heard
            .iter()
            .filter(|(came, _)| came.starts_with(path))
            .map(|(_, body)| body.clone())
            .collect()
    }

    /// Sends a signed request.
    pub(crate) async fn ask(
        &self,
        to: &ServerName,
        method: &str,
        path: &str,
        body: Option<Value>,
    ) -> (StatusCode, Value) {
        let body = body.map(|body| body.to_string()).unwrap_or_default();
        let request = http::Request::builder().method(method).uri(path);
        let mut request = request.body(Bytes::from(body)).unwrap();
        let input =
            XMatrixSigningInput::new(self.name.clone(), to.to_owned(), self.identity.key_pair());
        let header = XMatrix::sign_http_request(&request, input).unwrap();
        let headers = request.headers_mut();
        headers.insert("authorization", http::HeaderValue::from(&header));
        headers.insert("content-type", http::HeaderValue::from_static("application/json"));
        self.ask_as_is(to, request).await
    }

    /// The `Authorization` of a request.
    pub(crate) fn authorization(
        &self,
        to: &ServerName,
        method: &str,
        path: &str,
        body: Option<&Value>,
    ) -> String {
        let body = body.map(ToString::to_string).unwrap_or_default();
        let request = http::Request::builder().method(method).uri(path).body(body).unwrap();
        let input =
            XMatrixSigningInput::new(self.name.clone(), to.to_owned(), self.identity.key_pair());
        XMatrix::sign_http_request(&request, input).unwrap().to_string()
    }

    /// Sends a body with an odd number in the place of [`ODD`], signed as it is written, as servers do
    /// that take more for JSON than the canonical form has.
    pub(crate) async fn put_odd(
        &self,
        to: &ServerName,
        path: &str,
        body: &Value,
        odd: &str,
    ) -> (StatusCode, Value) {
        let signed = json!({
            "method": "PUT", "uri": path, "origin": self.name, "destination": to, "content": body,
        });
        let write = |value: &Value| value.to_string().replace(&format!("\"{ODD}\""), odd);
        let pair = self.identity.key_pair();
        let signature = pair.sign(write(&signed).as_bytes());
        let header = format!(
            r#"X-Matrix origin="{}",destination="{to}",key="{}",sig="{}""#,
            self.name,
            signature.id(),
            signature.base64(),
        );
        let request = http::Request::builder().method("PUT").uri(path);
        let request = request.header("authorization", header);
        self.ask_as_is(to, request.body(Bytes::from(write(body))).unwrap()).await
    }

    /// Sends a request as it is.
    pub(crate) async fn ask_as_is(
        &self,
        to: &ServerName,
        request: http::Request<Bytes>,
    ) -> (StatusCode, Value) {
        let limits = Limits { timeout: Duration::from_mins(5), max_bytes: 1 << 26 };
        let answer = self.transport.send(to, request, limits).await.unwrap();
        let body = serde_json::from_slice(answer.body()).unwrap_or(Value::Null);
        (answer.status(), body)
    }

    /// Sends a transaction; the result of each event by its ID.
    pub(crate) async fn send(&self, to: &ServerName, id: &str, pdus: Vec<Value>) -> Value {
        let (status, answer) = self.transaction(to, id, pdus, Vec::new()).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        answer["pdus"].clone()
    }

    /// Sends a transaction.
    pub(crate) async fn transaction(
        &self,
        to: &ServerName,
        id: &str,
        pdus: Vec<Value>,
        edus: Vec<Value>,
    ) -> (StatusCode, Value) {
        let body = json!({
            "origin": self.name, "origin_server_ts": self.now_ms(), "pdus": pdus, "edus": edus,
        });
        let path = format!("/_matrix/federation/v1/send/{id}");
        self.ask(to, "PUT", &path, Some(body)).await
    }

    /// Hashes and signs an event; adds the time if it has none.
    pub(crate) fn sign(&self, version: &RoomVersionId, mut event: Value) -> Value {
        if event.get("origin_server_ts").is_none() {
            event["origin_server_ts"] = json!(self.now_ms());
        }
        let mut object = object(&event);
        let rules = rules(version);
        let name = self.name.as_str();
        let pair = self.identity.key_pair();
        match hash_and_sign_event(name, pair, &mut object, &rules.redaction) {
            Err(JsonError::PduTooLarge) => sign_large(name, pair, &mut object, &rules),
            signed => signed.unwrap(),
        }
        serde_json::to_value(object).unwrap()
    }

    /// Joins a user of this peer by `make_join` and `send_join`; the event and the answer.
    pub(crate) async fn join(
        &self,
        to: &ServerName,
        room_id: &OwnedRoomId,
        user_id: &UserId,
        version: &RoomVersionId,
    ) -> (Value, Value) {
        let template = self.join_template(to, room_id, user_id, version).await;
        let event = self.sign(version, template);
        let id = event_id(version, &event);
        let path = format!("/_matrix/federation/v2/send_join/{room_id}/{id}");
        let (status, answer) = self.ask(to, "PUT", &path, Some(event.clone())).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        (event, answer)
    }

    /// The event of a `make_join`, without hashes and signatures.
    pub(crate) async fn join_template(
        &self,
        to: &ServerName,
        room_id: &OwnedRoomId,
        user_id: &UserId,
        version: &RoomVersionId,
    ) -> Value {
        self.template(to, "join", room_id, user_id, version).await
    }

    /// The event of a `make_join`, `make_leave` or `make_knock`, without hashes and signatures.
    pub(crate) async fn template(
        &self,
        to: &ServerName,
        kind: &str,
        room_id: &OwnedRoomId,
        user_id: &UserId,
        version: &RoomVersionId,
    ) -> Value {
        // A leave is given in any version.
        let version = if kind == "leave" { String::new() } else { format!("?ver={version}") };
        let path = format!("/_matrix/federation/v1/make_{kind}/{room_id}/{user_id}{version}");
        let (status, answer) = self.ask(to, "GET", &path, None).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        let mut event = answer["event"].clone();
        let fields = event.as_object_mut().unwrap();
        fields.remove("hashes");
        fields.remove("signatures");
        fields.remove("origin_server_ts");
        event
    }
}

/// Hashes and signs an event that is too large to be one.
fn sign_large(
    name: &str,
    pair: &Ed25519KeyPair,
    object: &mut CanonicalJsonObject,
    rules: &RoomVersionRules,
) {
    let hash = Sha256::digest(CanonicalJsonValue::Object(object.clone()).to_string());
    let hash = Base64::<ruma::serde::base64::Standard, _>::new(hash.to_vec()).encode();
    object.insert("hashes".to_owned(), json!({ "sha256": hash }).try_into().unwrap());
    let mut redacted = redact(object.clone(), &rules.redaction, None).unwrap();
    sign_json(name, pair, &mut redacted).unwrap();
    object.insert("signatures".to_owned(), redacted.remove("signatures").unwrap());
}

/// The rules of a room version.
pub(crate) fn rules(version: &RoomVersionId) -> RoomVersionRules {
    version.rules().unwrap()
}

/// The event's ID.
pub(crate) fn event_id(version: &RoomVersionId, event: &Value) -> String {
    format!("${}", reference_hash(&object(event), &rules(version)).unwrap())
}

fn object(event: &Value) -> CanonicalJsonObject {
    let CanonicalJsonValue::Object(object) = event.clone().try_into().unwrap() else {
        panic!("not an object")
    };
    object
}

/// Answers with the keys, or as the script says, or that there is nothing.
async fn act(State(actor): State<Actor>, request: Request<Body>) -> Response {
    let (head, body) = request.into_parts();
    let path = head.uri.path_and_query().map(ToString::to_string).unwrap_or_default();
    let body = to_bytes(body, 1 << 26).await.unwrap();
    let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
    actor.heard.lock().push((path.clone(), body));
    let scripted = {
        let script = actor.script.lock();
        script.iter().rev().find(|(begin, _)| path.starts_with(*begin)).map(|(_, a)| a.clone())
    };
    let (status, answer) = match scripted {
        Some(answer) => answer,
        None if path.starts_with("/_matrix/key/v2/server") => (200, actor.keys()),
        None if path.starts_with("/_matrix/federation/v1/send/") => (200, json!({ "pdus": {} })),
        None => (404, json!({ "errcode": "M_NOT_FOUND", "error": "nothing here" })),
    };
    (StatusCode::from_u16(status).unwrap(), axum::Json(answer)).into_response()
}

impl Actor {
    fn keys(&self) -> Value {
        let now = hearth_types::Clock::now_ms(&SimClock(self.started));
        let pair = self.identity.key_pair();
        let key = Base64::<ruma::serde::base64::Standard>::new(pair.public_key().to_vec());
        let mut object = object(&json!({
            "server_name": self.identity.server_name(),
            "valid_until_ts": now + 86_400_000,
            "verify_keys": { format!("ed25519:{}", pair.version()): { "key": key.encode() } },
            "old_verify_keys": {},
        }));
        sign_json(self.identity.server_name().as_str(), pair, &mut object).unwrap();
        serde_json::to_value(object).unwrap()
    }
}
