//! A server that is only a script: it has a key, signs what it is told to, and answers as it is told.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    body::{Body, to_bytes},
    extract::State,
    response::{IntoResponse as _, Response},
};
use bytes::Bytes;
use hearth_federation::transport::{Limits, Transport};
use hearth_types::{Clock, ServerIdentity, SystemClock};
use http::{HeaderValue, Method, Request, StatusCode, header};
use parking_lot::Mutex;
use ruma::{
    CanonicalJsonObject, OwnedEventId, OwnedServerName, OwnedUserId, RoomId, RoomVersionId,
    ServerName, UserId,
    api::federation::authentication::{XMatrix, XMatrixSigningInput},
    room_version_rules::RoomVersionRules,
    serde::{Base64, base64::Standard},
    signatures::{hash_and_sign_event, reference_hash, sign_event, sign_json},
};
use serde_json::{Value, json};

use crate::{Network, encode};

/// Bytes of a request or an answer at most.
const MAX_BYTES: usize = 64 * 1024 * 1024;
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_mins(1);
/// How long the peer's key counts, in milliseconds.
const KEY_VALIDITY_MS: u64 = 24 * 3_600 * 1_000;

/// A request as the peer got it.
#[derive(Clone, Debug)]
pub struct Heard {
    /// Path and query.
    pub path: String,
    /// The body; null if there was none.
    pub body: Value,
}

/// A scripted server on a [`Network`].
#[derive(Clone)]
pub struct Peer {
    name: OwnedServerName,
    transport: Arc<dyn Transport>,
    actor: Arc<Actor>,
}

struct Actor {
    identity: ServerIdentity,
    script: Mutex<BTreeMap<String, (StatusCode, Value)>>,
    heard: Mutex<Vec<Heard>>,
    transactions: AtomicU64,
}

impl std::fmt::Debug for Peer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Peer").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Peer {
    /// A peer with a key of its own, reachable by its name.
    #[must_use]
    pub fn new(name: &str, network: &Network) -> Self {
        let name = OwnedServerName::try_from(name).expect("a server name");
        let key = ServerIdentity::generate_key();
        let identity = ServerIdentity::from_der(name.clone(), &key, "peer".to_owned());
        let actor = Arc::new(Actor {
            identity: identity.expect("a signing key"),
            script: Mutex::default(),
            heard: Mutex::default(),
            transactions: AtomicU64::new(0),
        });
        network.attach(&name, Router::new().fallback(act).with_state(Arc::clone(&actor)));
        Self { transport: network.transport(&name), name, actor }
    }

    /// The peer's name.
    #[must_use]
    pub fn name(&self) -> &ServerName {
        &self.name
    }

    /// A user of this peer.
    #[must_use]
    pub fn user(&self, localpart: &str) -> OwnedUserId {
        UserId::parse(format!("@{localpart}:{}", self.name)).expect("a user ID")
    }

    /// From now on, requests whose path begins so are answered with this; of several beginnings the
    /// last in the alphabet counts.
    pub fn answers(&self, path: &str, status: StatusCode, body: Value) {
        self.actor.script.lock().insert(path.to_owned(), (status, body));
    }

    /// The requests whose path begins so.
    #[must_use]
    pub fn heard(&self, path: &str) -> Vec<Heard> {
        let heard = self.actor.heard.lock();
        heard.iter().filter(|request| request.path.starts_with(path)).cloned().collect()
    }

    /// A signed `GET`: status and body.
    pub async fn get(&self, to: &ServerName, path: &str) -> (StatusCode, Value) {
        self.ask(to, Method::GET, path, None).await
    }

    /// A signed `GET` that must answer 200; its body.
    pub async fn get_ok(&self, to: &ServerName, path: &str) -> Value {
        let (status, answer) = self.get(to, path).await;
        assert_eq!(status, StatusCode::OK, "GET {path}: {answer}");
        answer
    }

    /// A signed `PUT`: status and body.
    pub async fn put(&self, to: &ServerName, path: &str, body: Value) -> (StatusCode, Value) {
        self.ask(to, Method::PUT, path, Some(body)).await
    }

    /// A signed `POST`: status and body.
    pub async fn post(&self, to: &ServerName, path: &str, body: Value) -> (StatusCode, Value) {
        self.ask(to, Method::POST, path, Some(body)).await
    }

    /// A signed request: status and body.
    pub async fn ask(
        &self,
        to: &ServerName,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> (StatusCode, Value) {
        as_json(&self.exchange(to, method, path, body).await)
    }

    /// A signed request: the whole answer, which need not be JSON.
    pub async fn exchange(
        &self,
        to: &ServerName,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> http::Response<Bytes> {
        let mut request = request(method, path, body);
        let key = self.actor.identity.key_pair();
        let input = XMatrixSigningInput::new(self.name.clone(), to.to_owned(), key);
        let signed = XMatrix::sign_http_request(&request, input).expect("a request to sign");
        request.headers_mut().insert(header::AUTHORIZATION, HeaderValue::from(&signed));
        self.carry(to, request).await
    }

    /// A request that nobody signed: status and body.
    pub async fn ask_unsigned(
        &self,
        to: &ServerName,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> (StatusCode, Value) {
        as_json(&self.carry(to, request(method, path, body)).await)
    }

    async fn carry(&self, to: &ServerName, request: Request<Bytes>) -> http::Response<Bytes> {
        let limits = Limits { timeout: PATIENCE, max_bytes: MAX_BYTES };
        self.transport.send(to, request, limits).await.expect("the server answers")
    }

    /// Sends events in a transaction of their own; the result of each by its ID.
    pub async fn send(&self, to: &ServerName, pdus: Vec<Value>) -> Value {
        let number = self.actor.transactions.fetch_add(1, Ordering::Relaxed);
        let (status, answer) = self.transaction(to, &format!("t{number}"), pdus, Vec::new()).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        answer["pdus"].clone()
    }

    /// Sends a transaction.
    pub async fn transaction(
        &self,
        to: &ServerName,
        id: &str,
        pdus: Vec<Value>,
        edus: Vec<Value>,
    ) -> (StatusCode, Value) {
        let now = SystemClock.now_ms();
        let body =
            json!({ "origin": self.name, "origin_server_ts": now, "pdus": pdus, "edus": edus });
        self.put(to, &format!("/_matrix/federation/v1/send/{id}"), body).await
    }

    /// Hashes and signs an event; adds the time if it has none.
    #[must_use]
    pub fn sign(&self, version: &RoomVersionId, mut event: Value) -> Value {
        if event.get("origin_server_ts").is_none() {
            event["origin_server_ts"] = json!(SystemClock.now_ms());
        }
        let mut object = object(&event);
        let key = self.actor.identity.key_pair();
        let redaction = &rules(version).redaction;
        hash_and_sign_event(self.name.as_str(), key, &mut object, redaction).expect("an event");
        serde_json::to_value(object).expect("JSON")
    }

    /// Asks for the template of a membership event (`make_join`, `make_leave`, `make_knock`) and
    /// finishes it.
    pub async fn signed_membership(
        &self,
        to: &ServerName,
        what: &str,
        (room_id, user_id): (&RoomId, &UserId),
        version: &RoomVersionId,
    ) -> Value {
        let path = format!("{}?ver={version}", template_path(what, room_id, user_id));
        let answer = self.get_ok(to, &path).await;
        assert_eq!(answer["room_version"], version.as_str());
        self.sign(version, unfinished(&answer["event"]))
    }

    /// Joins a user of this peer; the event and the answer to it.
    pub async fn join(
        &self,
        to: &ServerName,
        room_id: &RoomId,
        user_id: &UserId,
        version: &RoomVersionId,
    ) -> (Value, Value) {
        let who = (room_id, user_id);
        let event = self.signed_membership(to, "make_join", who, version).await;
        let path = event_path("v2/send_join", room_id, version, &event);
        let (status, answer) = self.put(to, &path, event.clone()).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        (event, answer)
    }
}

/// The path of a template for a user's membership.
#[must_use]
pub fn template_path(what: &str, room_id: &RoomId, user_id: &UserId) -> String {
    let (room_id, user_id) = (encode(room_id.as_str()), encode(user_id.as_str()));
    format!("/_matrix/federation/v1/{what}/{room_id}/{user_id}")
}

/// A path that ends in the IDs of a room and of this event of it: `event_path("v2/send_join", …)`.
#[must_use]
pub fn event_path(what: &str, room_id: &RoomId, version: &RoomVersionId, event: &Value) -> String {
    let event_id = event_id(version, event);
    let (room_id, event_id) = (encode(room_id.as_str()), encode(event_id.as_str()));
    format!("/_matrix/federation/{what}/{room_id}/{event_id}")
}

/// A template without what whoever finishes it puts in.
#[must_use]
pub fn unfinished(template: &Value) -> Value {
    let mut event = template.clone();
    if let Some(fields) = event.as_object_mut() {
        for field in ["hashes", "signatures", "origin_server_ts"] {
            fields.remove(field);
        }
    }
    event
}

/// The event's ID.
#[must_use]
pub fn event_id(version: &RoomVersionId, event: &Value) -> OwnedEventId {
    let hash = reference_hash(&object(event), &rules(version)).expect("an event");
    OwnedEventId::try_from(format!("${hash}")).expect("an event ID")
}

fn rules(version: &RoomVersionId) -> RoomVersionRules {
    version.rules().expect("a room version")
}

fn object(event: &Value) -> CanonicalJsonObject {
    serde_json::from_value(event.clone()).expect("canonical JSON")
}

/// Status and body of an answer; null if the body is no JSON.
fn as_json(answer: &http::Response<Bytes>) -> (StatusCode, Value) {
    (answer.status(), serde_json::from_slice(answer.body()).unwrap_or(Value::Null))
}

fn request(method: Method, path: &str, body: Option<Value>) -> Request<Bytes> {
    let has_body = body.is_some();
    let body = body.map(|body| Bytes::from(body.to_string())).unwrap_or_default();
    let mut request = Request::builder().method(method).uri(path);
    if has_body {
        request = request.header(header::CONTENT_TYPE, "application/json");
    }
    request.body(body).expect("a well-formed request")
}

/// Answers as the script says. What it does not speak of: keys are told, transactions and invitations
/// taken; there is nothing else.
async fn act(State(actor): State<Arc<Actor>>, request: Request<Body>) -> Response {
    let (head, body) = request.into_parts();
    let path = head.uri.path_and_query().map(ToString::to_string).unwrap_or_default();
    let body = to_bytes(body, MAX_BYTES).await.unwrap_or_default();
    let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
    let invite = body.clone();
    actor.heard.lock().push(Heard { path: path.clone(), body });
    let scripted = {
        let script = actor.script.lock();
        let found = script.iter().rev().find(|(begin, _)| path.starts_with(*begin));
        found.map(|(_, answer)| answer.clone())
    };
    let (status, answer) = match scripted {
        Some(answer) => answer,
        None if path.starts_with("/_matrix/key/v2/server") => (StatusCode::OK, actor.keys()),
        None if path.starts_with("/_matrix/federation/v1/send/") => {
            (StatusCode::OK, json!({ "pdus": {} }))
        }
        None if path.starts_with("/_matrix/federation/v2/invite/") => actor.countersign(&invite),
        None => {
            let error = json!({ "errcode": "M_NOT_FOUND", "error": "nothing is here" });
            (StatusCode::NOT_FOUND, error)
        }
    };
    (status, axum::Json(answer)).into_response()
}

impl Actor {
    /// Takes an invitation.
    fn countersign(&self, invite: &Value) -> (StatusCode, Value) {
        let version = invite["room_version"].as_str().unwrap_or_default();
        let version = RoomVersionId::try_from(version).expect("a room version");
        let mut event = object(&invite["event"]);
        let name = self.identity.server_name().as_str();
        sign_event(name, self.identity.key_pair(), &mut event, &rules(&version).redaction)
            .expect("an event");
        (StatusCode::OK, json!({ "event": event }))
    }

    fn keys(&self) -> Value {
        let pair = self.identity.key_pair();
        let name = self.identity.server_name();
        let key = Base64::<Standard>::new(pair.public_key().to_vec()).encode();
        let mut answer = object(&json!({
            "server_name": name,
            "valid_until_ts": SystemClock.now_ms() + KEY_VALIDITY_MS,
            "verify_keys": { format!("ed25519:{}", pair.version()): { "key": key } },
            "old_verify_keys": {},
        }));
        sign_json(name.as_str(), pair, &mut answer).expect("an object to sign");
        serde_json::to_value(answer).expect("JSON")
    }
}
