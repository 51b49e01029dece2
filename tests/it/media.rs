use hearth_testkit::Client;
use http::StatusCode;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::command::{Home, Server, block_on};

/// Logs in; the token.
fn login(server: &Server) -> String {
    let body = json!({
        "type": "m.login.password",
        "identifier": { "type": "m.id.user", "user": "alice" },
        "password": "password",
    });
    let answer = block_on(async {
        Client::new(&server.base()).post_ok("/_matrix/client/v3/login", body).await
    });
    answer.get("access_token").and_then(Value::as_str).unwrap().to_owned()
}

/// Uploads; the content's URI.
fn upload(server: &Server, token: &str) -> String {
    let client = Client::new(&server.base()).with_token(token);
    let path = "/_matrix/media/v3/upload";
    let answer = block_on(async { client.post_ok(path, json!({ "a": "picture" })).await });
    answer.get("content_uri").and_then(Value::as_str).unwrap().to_owned()
}

/// The status of downloading.
fn download(server: &Server, token: &str, uri: &str) -> StatusCode {
    let client = Client::new(&server.base()).with_token(token);
    let item = uri.strip_prefix("mxc://").unwrap();
    let path = format!("/_matrix/client/v1/media/download/{item}");
    block_on(async { client.get(&path).await.0 })
}

#[test]
fn content_is_hidden_and_removed_by_the_operator() {
    let home = Home::new();
    let server = home.serve();
    home.run_with_input(&["user", "create", "alice", "--password-stdin"], "password\n");
    let token = login(&server);
    let (one, same) = (upload(&server, &token), upload(&server, &token));
    assert_eq!(download(&server, &token, &one), StatusCode::OK);
    let output = home.run_ok(&["media", "quarantine", &one]);
    assert!(output.contains(&format!("{one} is quarantined")), "{output}");
    for uri in [&one, &same] {
        assert_eq!(download(&server, &token, uri), StatusCode::NOT_FOUND);
    }
    home.run_ok(&["media", "end-quarantine", &same]);
    assert_eq!(download(&server, &token, &one), StatusCode::OK);
    server.stop(Signal::TERM);

    // The same while no server runs.
    home.run_ok(&["media", "remove", &one]);
    let server = home.serve();
    assert_eq!(download(&server, &token, &one), StatusCode::NOT_FOUND);
    assert_eq!(download(&server, &token, &same), StatusCode::OK);
    for (uri, reason) in [
        (one.as_str(), "no such content"),
        ("mxc://localhost/..", "malformed"),
        ("https://localhost/a", "https://localhost/a"),
    ] {
        let error = home.run_err(&["media", "remove", uri]);
        assert!(error.contains(reason), "{error}");
    }
}
