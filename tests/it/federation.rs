//! `hearth federation` on the real binary.

use std::{fs, net::TcpListener};

use hearth_testkit::Client;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustix::process::Signal;
use serde_json::json;

use crate::command::{Home, block_on, stderr};

/// A port that nobody listens on.
pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Has the server listen on this port of `localhost`, which is a part of its name.
pub(crate) fn configure(home: &Home, port: u16) {
    let (name, address) = (format!("localhost:{port}"), format!("127.0.0.1:{port}"));
    configure_as(home, &name, "localhost", &address);
}

/// Writes a certificate for a host and that of its private authority, and a configuration that uses
/// them and trusts the authority.
pub(crate) fn configure_as(home: &Home, name: &str, host: &str, tls_address: &str) {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec![host.to_owned()]).unwrap();
    let certificate = params.signed_by(&key, &authority).unwrap();
    home.write("ca.pem", &authority.pem());
    home.write("certificate.pem", &certificate.pem());
    home.write("key.pem", &key.serialize_pem());
    home.write(
        "hearth.toml",
        &format!(
            r#"
            [server]
            name = "{name}"
            [listen]
            tls_addresses = ["{tls_address}"]
            tls_certificate = "certificate.pem"
            tls_key = "key.pem"
            [federation]
            ca_files = ["ca.pem"]
            allow_networks = ["127.0.0.0/8"]
            backoff_min_s = 3600
            "#
        ),
    );
}

#[test]
fn check_explains_how_a_server_is_reached_and_fails_if_it_is_not() {
    let home = Home::federating();
    let port = free_port();
    configure(&home, port);
    let server = home.serve();
    let name = format!("localhost:{port}");
    let text = home.run_ok(&["federation", "check", &name]);
    for part in [
        &format!("ok       a name with a port: port {port} of its addresses"),
        &format!("ok       127.0.0.1:{port}"),
        "its certificate is for localhost",
        &format!("ok       keys of {name}: ed25519:a_"),
        &format!("ok       Hearth {}", env!("CARGO_PKG_VERSION")),
        &format!("{name} can be reached from here."),
    ] {
        assert!(text.contains(part), "no {part:?} in:\n{text}");
    }

    server.stop(Signal::TERM);
    let output = home.run(&["federation", "check", &name]);
    assert!(!output.status.success());
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("FAILED   no address can be used"), "{text}");
    assert!(!text.contains("can be reached"), "{text}");
    assert!(stderr(&output).contains(&format!("{name} cannot be reached from here")));
}

#[test]
fn check_needs_no_configuration_and_writes_none() {
    let home = Home::federating();
    let output = home.run(&["federation", "check", "127.0.0.1"]);
    assert!(!output.status.success());
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("127.0.0.1 is loopback, and not in federation.allow_networks"), "{text}");
    assert_eq!(fs::read_dir(home.path(".")).unwrap().count(), 0);
}

#[test]
fn destinations_are_listed_whether_or_not_the_server_runs() {
    let home = Home::federating();
    configure(&home, free_port());
    let server = home.serve();
    let list = || home.run_ok(&["federation", "destinations"]);
    assert_eq!(list(), "This server shares no room with another yet.\n");

    home.run_with_input(&["user", "create", "alice", "--password-stdin"], "password\n");
    let nobody = format!("localhost:{}", free_port());
    block_on(async {
        let client = Client::new(&server.base());
        let login = json!({
            "type": "m.login.password",
            "identifier": { "type": "m.id.user", "user": "alice" },
            "password": "password",
        });
        let answer = client.post_ok("/_matrix/client/v3/login", login).await;
        let alice = client.with_token(answer["access_token"].as_str().unwrap());
        let path = format!("/_matrix/client/v3/join/%23room:{nobody}");
        let (status, answer) = alice.post(&path, json!({})).await;
        assert!(!status.is_success(), "{answer}");
    });
    let check = |text: String| {
        assert!(
            text.starts_with("1 other servers; 1 have something waiting or failed.\n"),
            "{text}"
        );
        let line = text.lines().find(|line| line.starts_with(&nobody)).expect(&text);
        assert!(line.contains("  in "), "{line}");
        assert!(line.contains(&format!("{nobody} cannot be reached: 127.0.0.1:")), "{line}");
    };
    check(list());
    server.stop(Signal::TERM);
    check(list());
}

#[test]
fn destinations_of_a_server_that_does_not_federate_are_none() {
    let home = Home::new();
    home.serve().stop(Signal::TERM);
    let error = home.run_err(&["federation", "destinations"]);
    assert!(error.contains("federation.enabled"), "{error}");
}

#[test]
fn a_replaced_key_is_served_as_an_old_one_even_if_it_never_federated() {
    let home = Home::new();
    home.serve().stop(Signal::TERM);
    let version = || {
        let file = fs::read_to_string(home.path("data/signing.key")).unwrap();
        format!("ed25519:{}", file.split_whitespace().nth(1).unwrap())
    };
    let old = version();
    fs::rename(home.path("data/signing.key"), home.path("old.key")).unwrap();
    home.serve_with(&["--replace-lost-key"]).stop(Signal::TERM);
    let new = version();
    assert_ne!(old, new);

    let home = home.federate();
    let server = home.serve();
    let keys =
        block_on(async { Client::new(&server.base()).get_ok("/_matrix/key/v2/server").await });
    assert!(keys["verify_keys"][&new]["key"].is_string(), "{keys}");
    assert!(keys["old_verify_keys"][&old]["key"].is_string(), "{keys}");
    assert!(keys["old_verify_keys"][&old]["expired_ts"].is_u64(), "{keys}");
    assert!(keys["verify_keys"].get(&old).is_none(), "{keys}");
}
