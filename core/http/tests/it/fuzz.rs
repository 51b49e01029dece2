//! No request, however strange, is the server's fault.

use hearth_http::HttpConfig;
use proptest::prelude::*;
use tokio::runtime::Builder;

use crate::app::{Answer, fixture_with, request};

fn answer(method: &str, path: &str, body: Vec<u8>) -> Answer {
    let mut config = HttpConfig::default();
    config.rate_limits.enabled = false;
    let app = fixture_with(config);
    // Long-polls answer at once.
    app.http.shutdown().request();
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(app.send(request(method, path, Some("token_of_alice"), body)))
}

/// A response of the protocol's own: no 5xx, and JSON.
fn check(answer: &Answer) {
    assert!(!answer.status.is_server_error(), "{answer:?}");
    if !answer.body.is_empty() {
        answer.json();
    }
}

const TARGETS: [(&str, &str); 9] = [
    ("PUT", "/_matrix/client/v3/rooms/!a:b/send/m.x/1"),
    ("PUT", "/_matrix/client/v3/rooms/!a:b/state/m.x/"),
    ("POST", "/_matrix/client/v3/createRoom"),
    ("POST", "/_matrix/client/v3/join/!a:b"),
    ("POST", "/_matrix/client/v3/login"),
    ("POST", "/_matrix/client/v3/logout"),
    ("POST", "/_matrix/client/v3/account/password"),
    ("POST", "/_matrix/media/v3/upload"),
    ("GET", "/_matrix/client/v3/account/whoami"),
];

/// Text near enough to JSON to get past the first checks.
fn almost_json() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        Just("{".to_owned()),
        Just("}".to_owned()),
        Just("[".to_owned()),
        Just("]".to_owned()),
        Just(",".to_owned()),
        Just(":".to_owned()),
        Just(r#""type""#.to_owned()),
        Just(r#""m.login.password""#.to_owned()),
        Just(r#""identifier""#.to_owned()),
        Just(r#""initial_state""#.to_owned()),
        Just(r#""auth""#.to_owned()),
        Just("null".to_owned()),
        Just("1e400".to_owned()),
        "-?[0-9]{1,25}",
        r#""[^"\\]{0,8}""#,
    ];
    proptest::collection::vec(piece, 0..30)
        .prop_map(|pieces| format!("{{{}", pieces.concat()).into())
}

fn percent_encode(bytes: &[u8]) -> String {
    let digit = |value: u8| char::from(b"0123456789abcdef"[usize::from(value)]);
    bytes.iter().flat_map(|byte| ['%', digit(byte >> 4), digit(byte & 15)]).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_bodies(target in 0..TARGETS.len(), body in proptest::collection::vec(any::<u8>(), 0..200)) {
        let (method, path) = TARGETS[target];
        check(&answer(method, path, body));
    }

    #[test]
    fn bodies_that_are_almost_json(target in 0..TARGETS.len(), body in almost_json()) {
        let (method, path) = TARGETS[target];
        check(&answer(method, path, body));
    }

    #[test]
    fn arbitrary_paths(
        method in prop_oneof![Just("GET"), Just("PUT"), Just("POST"), Just("DELETE"), Just("HEAD")],
        prefix in prop_oneof![
            Just("/"),
            Just("/_matrix/client/v3/rooms/"),
            Just("/_matrix/client/v3/rooms/!a:b/state/"),
            Just("/_matrix/client/v3/directory/room/"),
            Just("/_matrix/client/v3/sync?"),
        ],
        tail in proptest::collection::vec(any::<u8>(), 0..300),
        escaped in any::<bool>(),
    ) {
        let tail: String = if escaped {
            percent_encode(&tail)
        } else {
            tail.iter().map(|byte| char::from(b'!' + byte % 94)).collect()
        };
        let path = format!("{prefix}{tail}");
        if path.parse::<http::Uri>().is_ok() {
            check(&answer(method, &path, b"{}".to_vec()));
        }
    }
}
