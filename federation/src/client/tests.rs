//! Requests against a network that is a list of answers, under simulated time.

use std::collections::VecDeque;

use async_trait::async_trait;
use hearth_storage::{EngineKind, Store, StoreOptions, engine::memory::MemoryEngine};
use hearth_types::ManualClock;
use parking_lot::Mutex;
use ruma::{
    api::federation::{
        authenticated_media::get_content, authentication::XMatrix, discovery::get_server_version,
        event::get_event,
    },
    event_id, owned_server_name, server_name,
    signatures::verify_canonical_json_bytes,
};
use serde_json::json;
use tokio::time::Instant;

use super::*;

/// Gives one answer after the other; then nobody is there.
#[derive(Default)]
struct Network {
    answers: Mutex<VecDeque<Result<Response<Bytes>, TransportError>>>,
    requests: Mutex<Vec<Request<Bytes>>>,
    delay: Mutex<Duration>,
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
        let delay = *self.delay.lock();
        if !delay.is_zero() {
            sleep(delay).await;
        }
        let gone = || TransportError::Unreachable { server, reason: "nobody is there".to_owned() };
        self.answers.lock().pop_front().unwrap_or_else(|| Err(gone()))
    }
}

struct Bench {
    client: Client,
    network: Arc<Network>,
    clock: Arc<ManualClock>,
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
    let destinations = Destinations::open(store, own_name, clock.clone(), &config).await.unwrap();
    let network = Arc::new(Network::default());
    let transport: Arc<dyn Transport> = Arc::<Network>::clone(&network);
    let client = Client::new(Arc::clone(&identity), transport, destinations.clone(), config);
    Bench { client, network, clock, destinations, identity }
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
        self.network.answers.lock().extend(answers.into_iter().map(Ok));
        let request = get_server_version::v1::Request::new();
        let answer = self.client.send_unsigned(there(), request, self.client.limits()).await;
        self.network.answers.lock().clear();
        answer.map(|answer| answer.server.unwrap().name.unwrap())
    }

    /// Asks for content, of which this becomes.
    async fn open(
        &self,
        answer: Result<Response<Bytes>, TransportError>,
    ) -> Result<StatusCode, RemoteError> {
        self.network.answers.lock().push_back(answer);
        let request = get_content::v1::Request::new("abc".to_owned());
        let opened = self.client.open(there(), request, self.client.limits()).await;
        self.network.answers.lock().clear();
        opened.map(|answer| answer.status())
    }

    /// How often the server has failed.
    fn failures(&self) -> u32 {
        self.destinations.rows().get(there()).map_or(0, |row| row.failures)
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

/// What may become of a request for content while the server is well.
fn broken_content_services() -> Vec<Result<Response<Bytes>, TransportError>> {
    let server = || there().to_owned();
    let mut answers: Vec<_> =
        [502, 503, 504].map(|status| Ok(answer(status, json!("<html>")))).into();
    answers.push(Err(TransportError::TimedOut(server())));
    answers.push(Err(TransportError::BrokeOff { server: server(), reason: "reset".to_owned() }));
    answers
}

#[tokio::test(start_paused = true)]
async fn content_that_does_not_come_is_not_the_rest_of_the_server() {
    let bench = bench(FederationConfig::default()).await;
    for answer in broken_content_services() {
        assert!(matches!(bench.open(answer).await, Err(RemoteError::Transport(_))));
        assert_eq!(bench.failures(), 0);
    }
    assert_eq!(bench.ask([version()]).await.unwrap(), "There");
    // Without a connection nothing else goes either.
    let (server, reason) = (there().to_owned(), "refused".to_owned());
    bench.open(Err(TransportError::Unreachable { server, reason })).await.unwrap_err();
    assert_eq!(bench.failures(), 1);
    let asked = bench.asked();
    let resting = bench.open(Ok(version())).await;
    assert!(matches!(resting, Err(RemoteError::BackingOff { .. })));
    assert_eq!(bench.asked(), asked);
}

#[tokio::test(start_paused = true)]
async fn content_does_not_find_out_whether_a_server_is_well() {
    let bench = bench(FederationConfig::default()).await;
    bench.ask([]).await.unwrap_err();
    for answer in broken_content_services() {
        bench.clock.advance(Duration::from_millis(bench.destinations.due_in(there()).unwrap_or(0)));
        bench.open(answer).await.unwrap_err();
        assert_eq!((bench.failures(), bench.destinations.due_in(there())), (1, None));
    }
    // Nor does an answer end the backoff: what takes events may be down still.
    assert_eq!(bench.open(Ok(version())).await.unwrap(), StatusCode::OK);
    assert_eq!(bench.failures(), 1);
    // While one request finds out, content need not wait for it.
    let turn = bench.destinations.turn(there(), Duration::ZERO).await;
    assert_eq!(bench.open(Ok(version())).await.unwrap(), StatusCode::OK);
    drop(turn);
    assert_eq!(bench.ask([version()]).await.unwrap(), "There");
    assert_eq!(bench.failures(), 0);
}

#[tokio::test(start_paused = true)]
async fn an_answer_with_content_makes_a_server_worth_a_try() {
    let bench = bench(FederationConfig::default()).await;
    // It is asked, and fails meanwhile.
    let refused = answer(404, json!({ "errcode": "M_NOT_FOUND" }));
    bench.network.answers.lock().push_back(Ok(refused));
    let request = get_content::v1::Request::new("abc".to_owned());
    let opening = bench.client.open(there(), request, bench.client.limits());
    let fails = async { bench.destinations.failed(there(), "it is down") };
    *bench.network.delay.lock() = Duration::from_secs(1);
    let (opened, ()) = tokio::join!(opening, fails);
    assert!(matches!(opened, Err(RemoteError::Matrix { .. })));
    assert_eq!((bench.failures(), bench.destinations.due_in(there())), (1, None));
}
