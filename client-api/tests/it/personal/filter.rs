//! `/user/{userId}/filter`.

use hearth_testkit::TestServer;
use serde_json::json;

use crate::support::{V3, of_user, outcome, refused, text};

#[tokio::test]
async fn is_stored_and_read() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let filter = json!({
        "event_fields": ["type", "content", "sender"],
        "presence": { "not_senders": ["@alice:localhost"], "types": ["m.presence"] },
        "room": { "timeline": { "limit": 10, "lazy_load_members": true } },
    });
    let answer = alice.post_ok(&of_user(&alice, "filter"), filter.clone()).await;
    let filter_id = text(&answer, "filter_id");
    assert!(!filter_id.starts_with('{'), "must not look like JSON: {filter_id}");
    let path = of_user(&alice, format!("filter/{filter_id}"));
    let stored = alice.get_ok(&path).await;
    for (field, value) in filter.as_object().unwrap() {
        assert_eq!(stored[field], *value);
    }
    refused(bob.get(&path).await, 403, "M_FORBIDDEN");
    refused(bob.post(&of_user(&alice, "filter"), filter).await, 403, "M_FORBIDDEN");
    refused(alice.get(&of_user(&alice, "filter/99999")).await, 404, "M_NOT_FOUND");
}

#[tokio::test]
async fn bad_ones_are_refused() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    for bad in [
        json!({ "room": "all" }),
        json!({ "room": { "timeline": { "limit": "ten" } } }),
        json!({ "presence": { "types": "m.presence" } }),
        json!([]),
    ] {
        let answer = alice.post(&of_user(&alice, "filter"), bad).await;
        assert_eq!(outcome(&answer), (400, "M_BAD_JSON"), "{answer:?}");
    }
    let (status, answer) =
        alice.get(&format!("{V3}/sync?timeout=0&filter=%7B%22room%22:5%7D")).await;
    assert_eq!(status, 400, "{answer}");
    let (status, answer) = alice.get(&format!("{V3}/sync?timeout=0&filter=12345")).await;
    assert!(status == 400 || status == 404, "{answer}");
}
