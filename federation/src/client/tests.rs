//! Requests against a network that is a list of answers, under simulated time.

use std::collections::VecDeque;

use async_trait::async_trait;
use hearth_storage::{EngineKind, Store, StoreOptions, engine::memory::MemoryEngine};
use hearth_types::ManualClock;
use parking_lot::Mutex;
use ruma::{
    api::federation::{authentication::XMatrix, discovery::get_server_version, event::get_event},
    event_id, owned_server_name, server_name,
    signatures::verify_canonical_json_bytes,
};
use serde_json::json;
use tokio::time::Instant;

use super::*;

/// Gives one answer after the other; then nobody is there.
#[derive(Default)]
struct Network {
    answers: Mutex<VecDeque<Response<Bytes>>>,
    requests: Mutex<Vec<Request<Bytes>>>,
}

#[async_trait]
impl Transport for Network {
    async fn send(
        &self,
        destination: &ServerName,
        request: Request<Bytes>,
        _: Limits,
    ) -> Result<Response<Bytes>, TransportError> {
        self.requests.lock().push(request);
        let server = destination.to_owned();
        let gone = || TransportError::Unreachable { server, reason: "nobody is there".to_owned() };
        self.answers.lock().pop_front().ok_or_else(gone)
    }
}

struct Bench {
    client: Client,
    network: Arc<Network>,
    destinations: Destinations,
    identity: Arc<ServerIdentity>,
}

fn there() -> &'static ServerName {
    server_name!("there.example")
}

async fn bench(config: FederationConfig) -> Bench {
    let clock = Arc::new(ManualClock::new(1_700_000_000_000));
    let options =
        StoreOptions::for_tests(EngineKind::Memory, std::path::Path::new(""), crate::KEYSPACES);
    let engine = Arc::new(MemoryEngine::new(options.all_keyspaces().len()));
    let store = Store::open_in_task(engine, &options, Duration::from_millis(1)).unwrap();
    let key = ServerIdentity::generate_key();
    let name = owned_server_name!("here.example");
    let identity = Arc::new(ServerIdentity::from_der(name, &key, "1".to_owned()).unwrap());
    let own_name = identity.server_name();
    let destinations = Destinations::open(store, own_name, clock, &config).await.unwrap();
    let network = Arc::new(Network::default());
    let transport: Arc<dyn Transport> = Arc::<Network>::clone(&network);
    let client = Client::new(Arc::clone(&identity), transport, destinations.clone(), config);
    Bench { client, network, destinations, identity }
}

#[expect(clippy::needless_pass_by_value, reason = "what tests write in place")]
fn answer(status: u16, body: Value) -> Response<Bytes> {
    Response::builder().status(status).body(Bytes::from(body.to_string())).unwrap()
}

fn busy(retry_after: Option<&str>, body: Value) -> Response<Bytes> {
    let mut answer = answer(429, body);
    if let Some(value) = retry_after {
        answer.headers_mut().insert(header::RETRY_AFTER, value.parse().unwrap());
    }
    answer
}

fn version() -> Response<Bytes> {
    answer(200, json!({ "server": { "name": "There", "version": "1" } }))
}

impl Bench {
    /// Asks for a version, with these answers.
    async fn ask(
        &self,
        answers: impl IntoIterator<Item = Response<Bytes>>,
    ) -> Result<String, RemoteError> {
        self.network.answers.lock().extend(answers);
        let request = get_server_version::v1::Request::new();
        let answer = self.client.send_unsigned(there(), request, self.client.limits()).await;
        self.network.answers.lock().clear();
        answer.map(|answer| answer.server.unwrap().name.unwrap())
    }

    fn asked(&self) -> usize {
        self.network.requests.lock().len()
    }
}

#[tokio::test(start_paused = true)]
async fn requests_are_signed_for_their_destination() {
    let bench = bench(FederationConfig::default()).await;
    let request = get_event::v1::Request::new(event_id!("$a/b?c").to_owned());
    let sent = bench.client.send(there(), request, bench.client.limits()).await;
    assert!(matches!(sent, Err(RemoteError::Transport(_))));
    let request = bench.network.requests.lock().pop().unwrap();
    assert_eq!(request.uri(), "/_matrix/federation/v1/event/$a%2Fb%3Fc");
    let value = request.headers()[header::AUTHORIZATION].to_str().unwrap().to_owned();
    let claim = XMatrix::parse(&value).unwrap();
    assert_eq!(claim.origin, "here.example");
    assert_eq!(claim.destination.as_deref(), Some(there()));
    assert_eq!(claim.key, "ed25519:1");
    let own_name = bench.identity.server_name();
    let object = XMatrix::request_object(&request, own_name, there()).unwrap();
    let object = serde_json::to_vec(&object).unwrap();
    let public_key = bench.identity.key_pair().public_key();
    verify_canonical_json_bytes(&claim.key.algorithm(), &public_key, claim.sig.as_bytes(), &object)
        .unwrap();
}

#[tokio::test(start_paused = true)]
async fn who_is_not_to_be_asked_is_not() {
    let config = FederationConfig { deny: vec!["*.example".to_owned()], ..Default::default() };
    let denied = bench(config).await;
    assert!(matches!(denied.ask([version()]).await, Err(RemoteError::NotAllowed(_))));
    assert_eq!(denied.asked(), 0);

    let bench = bench(FederationConfig::default()).await;
    let request = get_server_version::v1::Request::new();
    let own_name = bench.identity.server_name();
    let answer = bench.client.send_unsigned(own_name, request, bench.client.limits()).await;
    assert!(matches!(answer, Err(RemoteError::Transport(TransportError::NotFound { .. }))));
    assert_eq!(bench.asked(), 0);

    bench.destinations.failed(there(), "it is down");
    assert!(matches!(bench.ask([version()]).await, Err(RemoteError::BackingOff { .. })));
    assert_eq!(bench.asked(), 0);
}

#[tokio::test(start_paused = true)]
async fn who_does_not_answer_is_left_alone_and_who_does_is_well() {
    let bench = bench(FederationConfig::default()).await;
    assert!(matches!(bench.ask([]).await, Err(RemoteError::Transport(_))));
    assert!(bench.destinations.due_in(there()).is_some());
    assert!(matches!(bench.ask([version()]).await, Err(RemoteError::BackingOff { .. })));
    bench.destinations.succeeded(there());
    assert_eq!(bench.ask([version()]).await.unwrap(), "There");
    // An error of its own is an answer.
    let error = json!({ "errcode": "M_UNKNOWN", "error": "Something broke" });
    let failed = bench.ask([answer(500, error.clone())]).await;
    assert!(matches!(failed, Err(RemoteError::Matrix { .. })));
    assert!(matches!(bench.ask([answer(503, error)]).await, Err(RemoteError::Matrix { .. })));
    assert!(bench.destinations.due_in(there()).is_none());
}

#[tokio::test(start_paused = true)]
async fn a_proxy_without_a_server_behind_it_is_no_answer() {
    for status in [502, 503, 504] {
        let bench = bench(FederationConfig::default()).await;
        let error = bench.ask([answer(status, json!("<html>"))]).await.unwrap_err();
        assert!(matches!(error, RemoteError::Transport(TransportError::Unreachable { .. })));
        assert!(bench.destinations.due_in(there()).is_some(), "{status}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_asks_for_a_moment_gets_it() {
    let bench = bench(FederationConfig::default()).await;
    let start = Instant::now();
    let moments =
        [busy(Some("3"), json!({})), busy(None, json!({ "retry_after_ms": 1_500 })), version()];
    assert_eq!(bench.ask(moments).await.unwrap(), "There");
    assert_eq!(start.elapsed(), Duration::from_millis(4_500));

    // Not for ever, and not for long.
    let error = bench.ask((0..5).map(|_| busy(Some("1"), json!({})))).await.unwrap_err();
    assert!(matches!(error, RemoteError::Matrix { status: StatusCode::TOO_MANY_REQUESTS, .. }));
    assert_eq!(bench.asked(), 6);
    let error = bench.ask([busy(Some("6"), json!({})), version()]).await.unwrap_err();
    assert!(matches!(error, RemoteError::Matrix { .. }));
    assert_eq!(bench.asked(), 7);
    assert!(bench.destinations.due_in(there()).is_none());
}

#[tokio::test(start_paused = true)]
async fn errors_are_told_with_a_bound() {
    let bench = bench(FederationConfig::default()).await;
    let body =
        json!({ "errcode": "M_FORBIDDEN", "error": "é".repeat(10_000), "room_version": "9" });
    match bench.ask([answer(403, body)]).await.unwrap_err() {
        RemoteError::Matrix { server, status, errcode, message, body, .. } => {
            assert_eq!((server.as_ref(), status), (there(), StatusCode::FORBIDDEN));
            assert_eq!((errcode.as_str(), message.len()), ("M_FORBIDDEN", MAX_MESSAGE_BYTES));
            assert_eq!(body.unwrap()["room_version"], "9");
        }
        other => panic!("{other}"),
    }
    // Redirects are not followed, and what is no answer is told.
    let moved = bench.ask([answer(302, json!({}))]).await.unwrap_err();
    assert!(matches!(moved, RemoteError::Matrix { status: StatusCode::FOUND, .. }), "{moved}");
    let odd = bench.ask([answer(200, json!({ "server": 1 }))]).await.unwrap_err();
    assert!(matches!(odd, RemoteError::BadAnswer { .. }), "{odd}");
}
