//! `/report`: what users tell the operator. That the operator reads it is tested with the command line.

use hearth_testkit::{TestServer, TestUser, encode};
use serde_json::{Value, json};

use crate::support::{V3, at, refused};

const MAX_OF_USER: usize = 100;

async fn report_user(user: &TestUser, target: &str, body: Value) -> (http::StatusCode, Value) {
    user.post(&format!("{V3}/users/{}/report", encode(target)), body).await
}

#[tokio::test]
async fn whatever_is_reported_is_taken() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let room = bob.create_room(json!({})).await;
    let event = bob.send_text(&room, "something rude").await;
    let reason = json!({ "reason": "rude" });
    // Neither what is hidden from her nor what does not exist is told apart from the rest.
    for target in ["@bob:localhost", "@nobody:localhost", "@nobody:other.example"] {
        let (status, answer) = report_user(&alice, target, reason.clone()).await;
        assert_eq!((status.as_u16(), answer), (200, json!({})));
    }
    let nowhere: ruma::OwnedRoomId = "!nowhere:localhost".try_into().unwrap();
    for room in [&room, &nowhere] {
        for path in ["report".to_owned(), format!("report/{event}"), "report/$none".to_owned()] {
            assert_eq!(alice.post_ok(&at(room, path), reason.clone()).await, json!({}));
        }
    }
    assert_eq!(bob.post_ok(&at(&room, format!("report/{event}")), json!({})).await, json!({}));
}

#[tokio::test]
async fn reports_have_a_form_and_a_bound() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    refused(report_user(&alice, "@bob:localhost", json!({})).await, 400, "M_BAD_JSON");
    let reason = json!({ "reason": "a".repeat(5_000) });
    refused(report_user(&alice, "@bob:localhost", reason).await, 413, "M_TOO_LARGE");
    let reason = json!({ "reason": "" });
    refused(report_user(&alice, "bob", reason.clone()).await, 400, "M_INVALID_PARAM");
    let path = format!("{V3}/users/@bob:localhost/report");
    let anonymous = alice.without_token().post(&path, reason.clone()).await;
    refused(anonymous, 401, "M_MISSING_TOKEN");
    for _ in 0..MAX_OF_USER {
        assert_eq!(report_user(&alice, "@bob:localhost", reason.clone()).await.0.as_u16(), 200);
    }
    refused(report_user(&alice, "@bob:localhost", reason).await, 429, "M_LIMIT_EXCEEDED");
}
