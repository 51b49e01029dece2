//! What an operator is told of a server, against servers on loopback.

use std::sync::Arc;

use hearth_federation::{
    FederationConfig,
    diagnosis::{self, Finding},
};
use hearth_types::{Clock, ServerIdentity, SystemClock};
use http::{Response, StatusCode};
use http_body_util::Full;
use ruma::{CanonicalJsonObject, OwnedServerName, signatures::sign_json};
use serde_json::json;

use crate::{
    CLOSED, HERE, delegates,
    fake::{self, Authority, Machine, Names, Seen, says, transport},
    redirects,
};

/// What was told, and whether the server was found to be reachable.
struct Told {
    reached: bool,
    findings: Vec<Finding>,
}

impl Told {
    fn steps(&self) -> Vec<&str> {
        let mut steps = Vec::new();
        for finding in &self.findings {
            if let Finding::Step(text) = finding {
                steps.push(text.as_str());
            }
        }
        steps
    }

    /// Everything in lines, each behind a letter for its kind.
    fn text(&self) -> String {
        let line = |finding: &Finding| match finding {
            Finding::Step(text) => format!("# {text}\n"),
            Finding::Good(text) => format!("+ {text}\n"),
            Finding::Note(text) => format!("  {text}\n"),
            Finding::Warning(text) => format!("? {text}\n"),
            Finding::Bad(text) => format!("! {text}\n"),
        };
        self.findings.iter().map(line).collect()
    }

    #[track_caller]
    fn says(&self, lines: &[&str]) {
        let text = self.text();
        for line in lines {
            assert!(text.contains(line), "no {line:?} in:\n{text}");
        }
    }
}

async fn diagnose_with(
    config: &FederationConfig,
    names: Names,
    ports: (u16, u16),
    server: &str,
) -> Told {
    let transport = transport(config, &Arc::new(names), ports.0, ports.1);
    let server: OwnedServerName = server.try_into().unwrap();
    let mut findings = Vec::new();
    let mut tell = |finding| findings.push(finding);
    let reached = diagnosis::diagnose(&transport, config, &SystemClock, &server, &mut tell).await;
    Told { reached, findings }
}

fn identity(name: &str) -> ServerIdentity {
    let key = ServerIdentity::generate_key();
    ServerIdentity::from_der(name.try_into().unwrap(), &key, "one".to_owned()).unwrap()
}

/// The keys of a server, valid for so many milliseconds, as it publishes them.
fn keys(of: &ServerIdentity, valid_ms: i64) -> String {
    let public = base64(&of.key_pair().public_key());
    let now = i64::try_from(SystemClock.now_ms()).unwrap();
    let mut keys: CanonicalJsonObject = serde_json::from_value(json!({
        "server_name": of.server_name(),
        "valid_until_ts": now + valid_ms,
        "verify_keys": { "ed25519:one": { "key": public } },
        "old_verify_keys": { "ed25519:zero": { "key": public, "expired_ts": 7 } },
    }))
    .unwrap();
    sign_json(of.server_name().as_str(), of.key_pair(), &mut keys).unwrap();
    serde_json::to_string(&keys).unwrap()
}

fn base64(bytes: &[u8]) -> String {
    ruma::serde::Base64::<ruma::serde::base64::Standard, _>::new(bytes).encode()
}

/// A homeserver with these keys.
fn homeserver(keys: String) -> fake::Answer {
    Arc::new(move |seen: &Seen| {
        let body = match seen.path.as_str() {
            "/_matrix/key/v2/server" => keys.clone(),
            "/_matrix/federation/v1/version" => {
                json!({ "server": { "name": "Rival\u{7}", "version": "1.2" } }).to_string()
            }
            _ => {
                let head = Response::builder().status(StatusCode::NOT_FOUND);
                return head.body(Full::default()).unwrap();
            }
        };
        Response::new(Full::from(body))
    })
}

const HOUR_MS: i64 = 3_600_000;

#[tokio::test]
async fn a_server_that_works_is_told_step_by_step() {
    let ca = Authority::new();
    let answers = homeserver(keys(&identity("a.example"), HOUR_MS));
    let server = Machine::start(&ca, &["b.example"], 0, answers).await;
    let last = Machine::start(&ca, &["www.example"], 0, delegates("b.example")).await;
    let moved = format!("https://www.example:{}/there", last.port());
    let web = Machine::start(&ca, &["a.example"], 0, redirects(&moved)).await;
    let names = Names::default()
        .host("a.example", &[HERE])
        .host("www.example", &[HERE])
        .host("machine.example", &[HERE, [10, 0, 0, 1]])
        .service("_matrix._tcp.b.example", "machine.example", server.port());
    let told = diagnose_with(&ca.config(), names, (CLOSED, web.port()), "a.example").await;
    assert!(told.reached, "{}", told.text());
    assert_eq!(
        told.steps(),
        [
            "The name a.example",
            "https://a.example/.well-known/matrix/server",
            "Where b.example is",
            "TLS with a certificate for b.example",
            "GET /_matrix/key/v2/server",
            "GET /_matrix/federation/v1/version",
        ]
    );
    told.says(&[
        &format!("  redirects to {moved}\n"),
        "+ delegates to b.example; good for 24 hours\n",
        "  there is no SRV record _matrix-fed._tcp.b.example\n",
        "+ the SRV record _matrix._tcp.b.example names the machines\n",
        &format!("+ {}\n", server.address),
        "? 10.0.0.1 is private, and not in federation.allow_networks\n",
        "is connected, by TLS 1.3\n",
        "  its certificate is for b.example\n",
        "+ keys of a.example: ed25519:one\n",
        "+ signed with ed25519:one\n",
        "  keys that it had before: ed25519:zero\n",
        "+ Rival 1.2\n",
    ]);
}

#[tokio::test]
async fn a_name_without_anything_is_told_to_be_at_the_default_port() {
    let ca = Authority::new();
    let answers = homeserver(keys(&identity("a.example"), HOUR_MS));
    let server = Machine::start(&ca, &["a.example"], 0, answers).await;
    let names = Names::default().host("a.example", &[HERE]);
    let told = diagnose_with(&ca.config(), names, (server.port(), CLOSED), "a.example").await;
    assert!(told.reached, "{}", told.text());
    told.says(&[
        "? cannot be had: ",
        "  so the rules are applied to a.example itself\n",
        "  there is no SRV record _matrix-fed._tcp.a.example\n",
        "  there is no SRV record _matrix._tcp.a.example\n",
        &format!("+ the default port, {}\n", server.port()),
    ]);
}

#[tokio::test]
async fn names_with_ports_and_addresses_skip_what_does_not_concern_them() {
    let ca = Authority::new();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let name = format!("127.0.0.1:{port}");
    let answers = homeserver(keys(&identity(&name), HOUR_MS));
    let _server = Machine::start(&ca, &["127.0.0.1"], port, answers).await;
    let told = diagnose_with(&ca.config(), Names::default(), (CLOSED, CLOSED), &name).await;
    assert!(told.reached, "{}", told.text());
    told.says(&["+ an address: it is connected to as it is\n"]);
    assert!(!told.text().contains("well-known"), "{}", told.text());

    let told = diagnose_with(&ca.config(), Names::default(), (CLOSED, CLOSED), "a.example:1").await;
    assert!(!told.reached);
    told.says(&[
        "+ a name with a port: port 1 of its addresses, and no other rule\n",
        "! a.example has no address: no A and no AAAA record\n",
    ]);
}

#[tokio::test]
async fn refusals_of_this_server_itself_are_told() {
    let ca = Authority::new();
    let config = FederationConfig { deny: vec!["*.example".to_owned()], ..ca.config() };
    let told = diagnose_with(&config, Names::default(), (CLOSED, CLOSED), "a.example").await;
    assert!(!told.reached);
    told.says(&["! federation.allow and federation.deny of the configuration rule it out\n"]);
    assert_eq!(told.steps().len(), 1);

    let config = FederationConfig { allow_networks: Vec::new(), ..ca.config() };
    let told = diagnose_with(&config, Names::default(), (CLOSED, CLOSED), "127.0.0.1").await;
    assert!(!told.reached);
    told.says(&[
        "? 127.0.0.1 is loopback, and not in federation.allow_networks\n",
        "! no address is left that requests may go to\n",
    ]);
}

#[tokio::test]
async fn certificates_that_are_not_believed_are_told_with_what_they_say() {
    let (ca, other) = (Authority::new(), Authority::new());
    let wrong = Machine::start(&ca, &["machine.example"], 0, says("")).await;
    let names = || Names::default().host("a.example", &[HERE]);
    let told = diagnose_with(&ca.config(), names(), (wrong.port(), CLOSED), "a.example").await;
    assert!(!told.reached);
    told.says(&[
        "  its certificate is for machine.example\n",
        "  it must be for a.example: the name that the server has or delegates to",
        "! no address can be used\n",
    ]);
    assert!(!told.text().contains("GET /_matrix"), "{}", told.text());

    let unknown = Machine::start(&other, &["a.example"], 0, says("")).await;
    let told = diagnose_with(&ca.config(), names(), (unknown.port(), CLOSED), "a.example").await;
    assert!(!told.reached);
    told.says(&["  its certificate is for a.example\n", "  whoever issued it is not trusted"]);

    let told = diagnose_with(&ca.config(), names(), (CLOSED, CLOSED), "a.example").await;
    assert!(!told.reached);
    told.says(&["? 127.0.0.1:9: ", "! no address can be used\n"]);
}

#[tokio::test]
async fn answers_that_are_not_believed_are_told() {
    let ca = Authority::new();
    let (a, b) = (identity("a.example"), identity("b.example"));
    let altered = keys(&a, HOUR_MS).replace("expired_ts\":7", "expired_ts\":8");
    let cases = [
        (
            homeserver(keys(&b, HOUR_MS)),
            "! the answer is not believed: the keys are another server's",
        ),
        (homeserver(altered), "! the answer is not believed: "),
        (homeserver("{}".to_owned()), "! the answer is not believed: "),
        (homeserver(keys(&a, -HOUR_MS)), "! they were valid until "),
        (redirects("/elsewhere"), "! answered 302 Found: is it a Matrix server"),
    ];
    for (answer, line) in cases {
        let server = Machine::start(&ca, &["a.example"], 0, answer).await;
        let names = Names::default().host("a.example", &[HERE]);
        let told = diagnose_with(&ca.config(), names, (server.port(), CLOSED), "a.example").await;
        assert!(!told.reached);
        told.says(&[line]);
        assert!(!told.text().contains("federation/v1/version"), "{}", told.text());
    }
}
