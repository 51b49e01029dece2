//! Requests that prove nothing about who sends them.

use bytes::Bytes;
use http::{HeaderValue, Request, StatusCode};
use serde_json::json;

use super::{peer::Peer, play};

fn get(path: &str, authorization: Option<&str>) -> Request<Bytes> {
    let mut request = Request::builder().uri(path).body(Bytes::new()).unwrap();
    if let Some(value) = authorization {
        let value = HeaderValue::from_str(value).unwrap();
        request.headers_mut().insert("authorization", value);
    }
    request
}

#[test]
fn unsigned_requests_are_refused() {
    play(|scene| async move {
        let path = format!("/_matrix/federation/v1/state/{}?event_id=$x", scene.room_id);
        let headers = [
            None,
            Some("Bearer something"),
            Some("X-Matrix"),
            Some("X-Matrix origin=mallory.sim"),
            Some("X-Matrix origin=mallory.sim,destination=s0.sim,key=\"ed25519:sim\",sig=\"AAAA\""),
            Some("X-Matrix origin=\"\",destination=\"\",key=\"\",sig=\"\""),
        ];
        for header in headers {
            let (status, answer) =
                scene.peer.ask_as_is(&scene.victim.name, get(&path, header)).await;
            assert_eq!(status, StatusCode::UNAUTHORIZED, "{header:?}: {answer}");
        }
        scene.must_go_on().await;
    });
}

#[test]
fn requests_signed_for_another_server_or_path_are_refused() {
    play(|scene| async move {
        let room = &scene.room_id;
        let path = format!("/_matrix/federation/v1/event_auth/{room}/$x");
        let other = format!("/_matrix/federation/v1/event_auth/{room}/$y");
        let third = ruma::owned_server_name!("third.sim");
        for (name, signed) in [(&third, &path), (&scene.victim.name, &other)] {
            let header = scene.peer.authorization(name, "GET", signed, None);
            let request = get(&path, Some(&header));
            let (status, answer) = scene.peer.ask_as_is(&scene.victim.name, request).await;
            assert_eq!(status, StatusCode::UNAUTHORIZED, "{answer}");
        }
        scene.must_go_on().await;
    });
}

#[test]
fn a_body_that_was_not_signed_is_refused() {
    play(|scene| async move {
        let path = "/_matrix/federation/v1/send/swapped";
        let signed = json!({ "origin": "mallory.sim", "origin_server_ts": 1, "pdus": [] });
        let header = scene.peer.authorization(&scene.victim.name, "PUT", path, Some(&signed));
        let event = scene.peer.sign(&scene.version, scene.message());
        let body = json!({ "origin": "mallory.sim", "origin_server_ts": 1, "pdus": [event] });
        let mut request = get(path, Some(&header)).map(|_| Bytes::from(body.to_string()));
        *request.method_mut() = http::Method::PUT;
        let (status, answer) = scene.peer.ask_as_is(&scene.victim.name, request).await;
        assert_eq!(status, StatusCode::UNAUTHORIZED, "{answer}");
        assert!(!scene.holds(&event).await);
        scene.must_go_on().await;
    });
}

#[test]
fn a_server_with_another_ones_name_is_refused() {
    play(|scene| async move {
        // Its key is not the one that the real server serves.
        let liar = Peer::new("liar.sim", 90, &scene.network);
        let _real = Peer::new("liar.sim", 91, &scene.network);
        let path = format!("/_matrix/federation/v1/event_auth/{}/$x", scene.room_id);
        let (status, answer) = liar.ask(&scene.victim.name, "GET", &path, None).await;
        assert_eq!(status, StatusCode::UNAUTHORIZED, "{answer}");
    });
}

#[test]
fn a_server_that_is_not_in_the_room_learns_nothing() {
    play(|scene| async move {
        let stranger = Peer::new("stranger.sim", 92, &scene.network);
        let (room, event) = (&scene.room_id, super::event_id(&scene.version, &scene.join));
        let paths = [
            format!("/_matrix/federation/v1/state/{room}?event_id={event}"),
            format!("/_matrix/federation/v1/state_ids/{room}?event_id={event}"),
            format!("/_matrix/federation/v1/backfill/{room}?v={event}&limit=5"),
            format!("/_matrix/federation/v1/event_auth/{room}/{event}"),
            format!("/_matrix/federation/v1/event/{event}"),
        ];
        for path in paths {
            let (status, answer) = stranger.ask(&scene.victim.name, "GET", &path, None).await;
            assert!(matches!(status.as_u16(), 403 | 404), "{path}: {status} {answer}");
        }
    });
}
