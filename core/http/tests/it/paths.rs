//! Routes, decoding and parameters.

use serde_json::json;

use crate::app::{fixture, request};

#[tokio::test]
async fn every_path_of_an_endpoint_is_served() {
    let app = fixture();
    for version in ["r0", "v3"] {
        let whoami = app.get(&format!("/_matrix/client/{version}/account/whoami")).await;
        assert_eq!(whoami.status, 200, "{version}");
        let path = format!("/_matrix/client/{version}/rooms/!a:b/send/m.x/1");
        assert_eq!(app.ask("PUT", &path, "{}").await.status, 200, "{version}");
    }
}

#[tokio::test]
async fn unknown_paths_and_methods_are_told_apart() {
    let app = fixture();
    for path in ["/", "/_matrix", "/_matrix/client/v3/nothing", "/_matrix/client/v99/logout"] {
        let answer = app.get(path).await;
        assert_eq!(answer.error(), (404, "M_UNRECOGNIZED".to_owned()), "{path}");
    }
    for (method, path) in
        [("POST", "/_matrix/client/v3/account/whoami"), ("PATCH", "/_matrix/client/v3/logout")]
    {
        let answer = app.send(request(method, path, None, "")).await;
        assert_eq!(answer.error(), (405, "M_UNRECOGNIZED".to_owned()), "{path}");
    }
}

#[tokio::test]
async fn parameters_are_decoded_once() {
    let app = fixture();
    let alias = app.get("/_matrix/client/v3/directory/room/%23a%2Fb%252F:example.org").await;
    assert_eq!(alias.json(), json!({ "alias": "#a/b%2F:example.org" }));
    let path = "/_matrix/client/v3/rooms/%21a%3Ab/send/m.room.message/t%20x+y";
    let sent = app.ask("PUT", path, "{}").await.json();
    assert_eq!((&sent["room_id"], &sent["txn_id"]), (&json!("!a:b"), &json!("t x+y")));
}

#[tokio::test]
async fn a_state_key_may_be_empty_or_hold_slashes() {
    let app = fixture();
    let base = "/_matrix/client/v3/rooms/!a:b/state";
    for (tail, key) in [
        ("m.x", ""),
        ("m.x/", ""),
        ("m.x/k", "k"),
        ("m.x/%2Fa%2Fb%2F", "/a/b/"),
        ("m.x/@a:b", "@a:b"),
    ] {
        let expected = json!({ "type": "m.x", "state_key": key });
        let path = format!("{base}/{tail}");
        assert_eq!(app.get(&path).await.json(), expected, "GET {path}");
        assert_eq!(app.ask("PUT", &path, "{}").await.json(), expected, "PUT {path}");
    }
    assert_eq!(app.get(&format!("{base}/m.x/a/b")).await.status, 404);
}

#[tokio::test]
async fn the_slash_after_push_rules_may_be_left_out() {
    let app = fixture();
    for path in ["/_matrix/client/v3/pushrules/", "/_matrix/client/v3/pushrules"] {
        assert_eq!(app.get(path).await.status, 200, "{path}");
    }
}

#[tokio::test]
async fn endpoints_may_name_the_same_parameter_differently() {
    let app = fixture();
    let by_id = app.ask("POST", "/_matrix/client/v3/rooms/!x:y/join", "").await;
    assert_eq!(by_id.json(), json!({ "room_id": "!x:y" }));
    let by_alias = app.ask("POST", "/_matrix/client/v3/join/!x:y", "").await;
    assert_eq!(by_alias.json(), json!({ "room_id": "!a:example.org" }));
}

#[tokio::test]
async fn bad_parameters_are_the_clients_fault() {
    let app = fixture();
    let invalid = (400, "M_INVALID_PARAM".to_owned());
    let send = |room: &str, txn: &str| format!("/_matrix/client/v3/rooms/{room}/send/m.x/{txn}");
    let long = "x".repeat(256);
    let paths = [
        send("no_room", "1"),
        send("%ff", "1"),
        send(&format!("!{long}:b"), "1"),
        send("!a:b", &long),
        format!("/_matrix/client/v3/rooms/!a:b/send/{long}/1"),
        format!("/_matrix/client/v3/rooms/!a:b/state/m.x/{long}"),
    ];
    for path in paths {
        assert_eq!(app.ask("PUT", &path, "{}").await.error(), invalid, "{path}");
    }
    assert_eq!(app.get("/_matrix/client/v3/directory/room/nonsense").await.error(), invalid);
    assert_eq!(app.get("/_matrix/client/v3/sync?timeout=soon").await.error(), invalid);
    let full_state = app.get("/_matrix/client/v3/sync?full_state=maybe").await;
    assert_eq!(full_state.error(), invalid);
}

#[tokio::test]
async fn head_is_served_like_get() {
    let answer = fixture().ask("HEAD", "/_matrix/client/v3/account/whoami", "").await;
    assert_eq!((answer.status.as_u16(), answer.body.len()), (200, 0));
}

#[tokio::test]
async fn routes_without_a_type_follow_the_same_rules() {
    let app = fixture();
    let path = "/_matrix/client/unstable/org.example/name";
    let named = app.ask("POST", path, r#"{"name":"x"}"#).await;
    assert_eq!(named.json(), json!({ "caller": "@alice:example.org", "name": "x" }));
    let refusal = async |token, body: &str| {
        app.send(request("POST", path, token, body.to_owned())).await.error()
    };
    assert_eq!(refusal(None, "{}").await, (401, "M_MISSING_TOKEN".to_owned()));
    assert_eq!(refusal(Some("x"), "{}").await, (401, "M_UNKNOWN_TOKEN".to_owned()));
    let alice = Some("token_of_alice");
    assert_eq!(refusal(alice, "{").await, (400, "M_NOT_JSON".to_owned()));
    assert_eq!(refusal(alice, "[1]").await, (400, "M_BAD_JSON".to_owned()));
    assert_eq!(refusal(alice, "").await, (400, "M_BAD_JSON".to_owned()));
    let large = format!(r#"{{"name":"{}"}}"#, "x".repeat(1 << 20));
    assert_eq!(refusal(alice, &large).await, (413, "M_TOO_LARGE".to_owned()));
    assert_eq!(app.get(path).await.error(), (405, "M_UNRECOGNIZED".to_owned()));
}

#[test]
#[should_panic(expected = "Overlapping method route")]
fn registering_an_endpoint_twice_is_a_mistake() {
    use axum::routing::get;
    use hearth_http::Endpoints;

    let twice = Endpoints::<crate::app::App>::new()
        .route("/a/{b}", get(async || "1"))
        .route("/a/{c}", get(async || "2"));
    drop(twice);
}
