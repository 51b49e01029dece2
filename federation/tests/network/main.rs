//! Finding and reaching servers, over real sockets and certificates on loopback.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod content;
mod diagnosis;
mod fake;
mod pages;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use fake::{Authority, Machine, Names, says, transport};
use hearth_federation::{
    FederationConfig,
    transport::{HttpTransport, Limits, Transport as _, TransportError},
};
use http::{Request, Response, StatusCode, header};
use http_body_util::Full;
use ruma::ServerName;

const LIMITS: Limits = Limits { timeout: Duration::from_secs(20), max_bytes: 1024 };
const HERE: [u8; 4] = [127, 0, 0, 1];
/// A port that nobody listens on.
const CLOSED: u16 = 9;

async fn ask_within(
    transport: &HttpTransport,
    server: &str,
    limits: Limits,
) -> Result<Response<Bytes>, TransportError> {
    let request = Request::get("/_matrix/federation/v1/version?a=b").body(Bytes::new()).unwrap();
    let server = <&ServerName>::try_from(server).unwrap();
    transport.send(server, request, limits).await
}

async fn ask(transport: &HttpTransport, server: &str) -> Result<Response<Bytes>, TransportError> {
    ask_within(transport, server, LIMITS).await
}

/// A document that delegates.
fn delegates(name: &str) -> fake::Answer {
    says(format!(r#"{{"m.server":"{name}"}}"#))
}

fn redirects(to: &str) -> fake::Answer {
    let to = to.to_owned();
    Arc::new(move |_| {
        let head = Response::builder().status(StatusCode::FOUND).header(header::LOCATION, &to);
        head.body(Full::default()).unwrap()
    })
}

#[tokio::test]
async fn an_address_is_its_own_name_and_nothing_else_is_asked() {
    let ca = Authority::new();
    let server = Machine::start(&ca, &["127.0.0.1"], 0, says("hello")).await;
    let names = Arc::new(Names::default());
    let transport = transport(&ca.config(), &names, server.port(), CLOSED);
    let answer = ask(&transport, "127.0.0.1").await.unwrap();
    assert_eq!((answer.status(), &answer.body()[..]), (StatusCode::OK, &b"hello"[..]));
    let with_port = format!("127.0.0.1:{}", server.port());
    ask(&transport, &with_port).await.unwrap();
    assert_eq!(server.hosts(), ["127.0.0.1", &with_port]);
    assert_eq!(server.paths()[0], "/_matrix/federation/v1/version?a=b");
    assert!(names.asked().is_empty(), "{:?}", names.asked());
}

#[tokio::test]
async fn a_name_with_a_port_delegates_to_nobody() {
    let ca = Authority::new();
    let server = Machine::start(&ca, &["a.example"], 0, says("")).await;
    let names = Arc::new(Names::default().host("a.example", &[HERE]));
    let transport = transport(&ca.config(), &names, CLOSED, CLOSED);
    let name = format!("a.example:{}", server.port());
    ask(&transport, &name).await.unwrap();
    assert_eq!(server.hosts(), [name]);
    assert_eq!(names.asked(), ["a.example"]);
}

#[tokio::test]
async fn a_name_without_anything_is_at_the_default_port() {
    let ca = Authority::new();
    let server = Machine::start(&ca, &["a.example"], 0, says("")).await;
    let web = Machine::start(&ca, &["a.example"], 0, says("no document")).await;
    let names = Arc::new(Names::default().host("a.example", &[HERE]));
    let transport = transport(&ca.config(), &names, server.port(), web.port());
    ask(&transport, "a.example").await.unwrap();
    assert_eq!(server.hosts(), ["a.example"]);
    assert_eq!(web.paths(), ["/.well-known/matrix/server"]);
    let asked = ["a.example", "_matrix-fed._tcp.a.example", "_matrix._tcp.a.example", "a.example"];
    assert_eq!(names.asked(), asked);
}

#[tokio::test]
async fn services_come_before_the_default_port_and_the_new_one_first() {
    let ca = Authority::new();
    // The certificate is for the server's name, not for the machine's.
    let server = Machine::start(&ca, &["a.example", "b.example"], 0, says("")).await;
    let names = Names::default()
        .host("machine.example", &[HERE])
        .service("_matrix-fed._tcp.a.example", "machine.example", server.port())
        .service("_matrix._tcp.a.example", "machine.example", CLOSED)
        .service("_matrix._tcp.b.example", "machine.example", server.port());
    let transport = transport(&ca.config(), &Arc::new(names), CLOSED, CLOSED);
    ask(&transport, "a.example").await.unwrap();
    ask(&transport, "b.example").await.unwrap();
    assert_eq!(server.hosts(), ["a.example", "b.example"]);
}

#[tokio::test]
async fn a_certificate_of_the_machine_is_not_the_servers() {
    let ca = Authority::new();
    let server = Machine::start(&ca, &["machine.example"], 0, says("")).await;
    let names = Names::default().host("machine.example", &[HERE]).service(
        "_matrix-fed._tcp.a.example",
        "machine.example",
        server.port(),
    );
    let transport = transport(&ca.config(), &Arc::new(names), CLOSED, CLOSED);
    let error = ask(&transport, "a.example").await.unwrap_err();
    assert!(matches!(error, TransportError::Unreachable { .. }), "{error}");
    assert!(error.to_string().contains("certificate"), "{error}");
    assert!(server.hosts().is_empty());
}

#[tokio::test]
async fn a_certificate_of_nobody_known_is_refused() {
    let (ca, other) = (Authority::new(), Authority::new());
    let server = Machine::start(&other, &["127.0.0.1"], 0, says("")).await;
    let transport = transport(&ca.config(), &Arc::default(), server.port(), CLOSED);
    let error = ask(&transport, "127.0.0.1").await.unwrap_err().to_string();
    assert!(error.contains("certificate"), "{error}");
}

#[tokio::test]
async fn a_delegated_name_is_found_by_the_same_rules() {
    let ca = Authority::new();
    let server = Machine::start(&ca, &["b.example", "127.0.0.1"], 0, says("")).await;
    let port = server.port();
    let with_port = format!("b.example:{port}");
    let cases = [
        ("b.example", "b.example"),
        (with_port.as_str(), with_port.as_str()),
        ("127.0.0.1", "127.0.0.1"),
    ];
    for (delegated, host) in cases {
        let web = Machine::start(&ca, &["a.example"], 0, delegates(delegated)).await;
        let names = Names::default()
            .host("a.example", &[HERE])
            .host("b.example", &[HERE])
            .host("machine.example", &[HERE])
            .service("_matrix-fed._tcp.b.example", "machine.example", port)
            // The delegating name's own service counts no more.
            .service("_matrix-fed._tcp.a.example", "machine.example", CLOSED);
        let transport = transport(&ca.config(), &Arc::new(names), port, web.port());
        ask(&transport, "a.example").await.unwrap();
        assert_eq!(server.hosts().last().unwrap(), host);
        // Asked once, remembered.
        ask(&transport, "a.example").await.unwrap();
        assert_eq!(web.hosts(), ["a.example"]);
    }
}

#[tokio::test]
async fn what_is_no_delegation_is_none() {
    let ca = Authority::new();
    let server = Machine::start(&ca, &["a.example"], 0, says("")).await;
    let large = format!(r#"{{"pad":"{}","m.server":"b.example"}}"#, "x".repeat(70_000));
    let not_found: fake::Answer = Arc::new(|_| {
        let body = Full::from(r#"{"m.server":"b.example"}"#);
        Response::builder().status(StatusCode::NOT_FOUND).body(body).unwrap()
    });
    let answers = [
        not_found,
        delegates("not a name"),
        delegates("https://b.example"),
        says("[]"),
        says(large),
        redirects("http://b.example/.well-known/matrix/server"),
        redirects("/round/and/round"),
    ];
    for answer in answers {
        let web = Machine::start(&ca, &["a.example"], 0, answer).await;
        let names =
            Arc::new(Names::default().host("a.example", &[HERE]).host("b.example", &[HERE]));
        let transport = transport(&ca.config(), &names, server.port(), web.port());
        ask(&transport, "a.example").await.unwrap();
        assert_eq!(server.hosts().last().unwrap(), "a.example");
        assert!((1..=6).contains(&web.paths().len()), "{:?}", web.paths());
    }
}

#[tokio::test]
async fn redirects_of_the_document_are_followed_with_their_addresses_checked() {
    let ca = Authority::new();
    let server = Machine::start(&ca, &["a.example", "b.example"], 0, says("")).await;
    let last = Machine::start(&ca, &["www.example"], 0, delegates("b.example")).await;
    let to = format!("https://www.example:{}/moved", last.port());
    let web = Machine::start(&ca, &["a.example"], 0, redirects(&to)).await;
    let here = || Names::default().host("a.example", &[HERE]).host("b.example", &[HERE]);

    let names = Arc::new(here().host("www.example", &[HERE]));
    let reached = transport(&ca.config(), &names, server.port(), web.port());
    ask(&reached, "a.example").await.unwrap();
    assert_eq!(last.paths(), ["/moved"]);
    assert_eq!(server.hosts(), ["b.example"]);

    // The same, but the hop leads to where requests may not go: this machine, by another address.
    let names = Arc::new(here().host("www.example", &[[127, 0, 0, 2]]));
    let config =
        FederationConfig { allow_networks: vec!["127.0.0.1/32".parse().unwrap()], ..ca.config() };
    let refused = transport(&config, &names, server.port(), web.port());
    ask(&refused, "a.example").await.unwrap();
    assert_eq!(last.paths().len(), 1);
    assert_eq!(server.hosts(), ["b.example", "a.example"]);
}

#[tokio::test]
async fn addresses_that_are_not_allowed_are_not_connected_to() {
    let ca = Authority::new();
    let server = Machine::start(&ca, &["127.0.0.1", "a.example"], 0, says("")).await;
    let config = FederationConfig { allow_networks: Vec::new(), ..ca.config() };
    let names = Names::default()
        .host("a.example", &[HERE])
        .host("machine.example", &[HERE])
        .service("_matrix-fed._tcp.b.example", "machine.example", server.port());
    let transport = transport(&config, &Arc::new(names), server.port(), server.port());
    let mapped = format!("[::ffff:127.0.0.1]:{}", server.port());
    for name in ["127.0.0.1", "a.example", "b.example", &mapped] {
        let error = ask(&transport, name).await.unwrap_err();
        assert!(matches!(error, TransportError::ForbiddenAddress { .. }), "{name}: {error}");
    }
    assert_eq!(server.connections(), 0);
}

#[tokio::test]
async fn each_address_is_tried() {
    let ca = Authority::new();
    let server = Machine::start(&ca, &["a.example"], 0, says("")).await;
    let names = Names::default().host("a.example", &[[10, 0, 0, 1], [127, 0, 0, 9], HERE]);
    let transport = transport(&ca.config(), &Arc::new(names), CLOSED, CLOSED);
    ask(&transport, &format!("a.example:{}", server.port())).await.unwrap();
    assert_eq!(server.connections(), 1);
}

#[tokio::test]
async fn an_address_that_is_silent_leaves_time_for_the_others() {
    let ca = Authority::new();
    let server = Machine::start(&ca, &["a.example"], 0, says("")).await;
    // Its queue is full: what comes is not even refused.
    let silent = tokio::net::TcpSocket::new_v4().unwrap();
    silent.bind(([127, 0, 0, 2], server.port()).into()).unwrap();
    let silent = silent.listen(1).unwrap();
    let mut queue = Vec::new();
    for _ in 0..4 {
        let connecting = tokio::net::TcpStream::connect(silent.local_addr().unwrap());
        queue.push(tokio::time::timeout(Duration::from_millis(200), connecting).await);
    }
    assert!(queue.last().unwrap().is_err());
    let names = Names::default().host("a.example", &[[127, 0, 0, 2], HERE]);
    let transport = transport(&ca.config(), &Arc::new(names), CLOSED, CLOSED);
    let limits = Limits { timeout: Duration::from_secs(6), ..LIMITS };
    ask_within(&transport, &format!("a.example:{}", server.port()), limits).await.unwrap();
    assert_eq!(server.connections(), 1);
}

#[tokio::test]
async fn a_name_that_leads_nowhere_is_not_found() {
    let ca = Authority::new();
    let transport = transport(&ca.config(), &Arc::default(), CLOSED, CLOSED);
    let error = ask(&transport, "a.example").await.unwrap_err();
    assert!(matches!(error, TransportError::NotFound { .. }), "{error}");
    let error = ask(&transport, "127.0.0.1").await.unwrap_err();
    assert!(matches!(error, TransportError::Unreachable { .. }), "{error}");
}

#[tokio::test]
async fn a_connection_that_is_broken_off_was_there() {
    let ca = Authority::new();
    let address = Machine::breaking_off(&ca, &["127.0.0.1"]).await;
    let transport = transport(&ca.config(), &Arc::default(), CLOSED, CLOSED);
    let error = ask(&transport, &address.to_string()).await.unwrap_err();
    assert!(matches!(error, TransportError::BrokeOff { .. }), "{error}");
}

#[tokio::test]
async fn connections_are_kept() {
    let ca = Authority::new();
    let server = Machine::start(&ca, &["127.0.0.1"], 0, says("again")).await;
    let transport = transport(&ca.config(), &Arc::default(), server.port(), CLOSED);
    for _ in 0..5 {
        ask(&transport, "127.0.0.1").await.unwrap();
    }
    assert_eq!((server.connections(), server.hosts().len()), (1, 5));
}

#[tokio::test]
async fn answers_are_bounded_in_size_and_time() {
    let ca = Authority::new();
    let server = Machine::start(&ca, &["127.0.0.1"], 0, says("x".repeat(1025))).await;
    let transport = transport(&ca.config(), &Arc::default(), server.port(), CLOSED);
    let error = ask(&transport, "127.0.0.1").await.unwrap_err();
    assert!(matches!(error, TransportError::TooLarge(_)), "{error}");
    ask_within(&transport, "127.0.0.1", Limits { max_bytes: 1025, ..LIMITS }).await.unwrap();

    // Accepts, and never says a word.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let name = silent.local_addr().unwrap().to_string();
    let limits = Limits { timeout: Duration::from_millis(200), ..LIMITS };
    let error = ask_within(&transport, &name, limits).await.unwrap_err();
    assert!(matches!(error, TransportError::TimedOut(_)), "{error}");
}

#[tokio::test]
async fn redirects_of_requests_are_not_followed() {
    let ca = Authority::new();
    let server = Machine::start(&ca, &["127.0.0.1"], 0, redirects("/elsewhere")).await;
    let transport = transport(&ca.config(), &Arc::default(), server.port(), CLOSED);
    let answer = ask(&transport, "127.0.0.1").await.unwrap();
    assert_eq!(answer.status(), StatusCode::FOUND);
    assert_eq!(server.paths().len(), 1);
}
