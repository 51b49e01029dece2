//! `/pushers` and `/pushers/set`.

use hearth_testkit::{PushGateway, TestUser};
use http::Method;
use serde_json::{Value, json};

use super::pushing;
use crate::{
    account::with_password,
    support::{V3, outcome, refused},
};

const SET: &str = "/_matrix/client/v3/pushers/set";

fn wanted(pushkey: &str) -> Value {
    json!({
        "app_id": "org.example.app", "pushkey": pushkey, "kind": "http", "lang": "en",
        "app_display_name": "Example", "device_display_name": "Phone", "profile_tag": "tag",
        "data": {
            "url": "https://push.example.org/_matrix/push/v1/notify", "format": "event_id_only",
            "default_payload": { "aps": {} },
        },
    })
}

async fn keys(user: &TestUser) -> Vec<String> {
    let answer = user.get_ok(&format!("{V3}/pushers")).await;
    let pushers = answer["pushers"].as_array().unwrap();
    pushers.iter().map(|pusher| pusher["pushkey"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn are_listed_as_they_were_set_until_they_are_deleted() {
    let mut server = pushing().start().await;
    let alice = server.register("alice").await;
    assert_eq!(alice.get_ok(&format!("{V3}/pushers")).await, json!({ "pushers": [] }));
    assert_eq!(alice.post_ok(SET, wanted("one")).await, json!({}));
    alice.post_ok(SET, wanted("two")).await;
    let mut changed = wanted("one");
    changed["device_display_name"] = json!("Tablet");
    alice.post_ok(SET, changed.clone()).await;
    let listed = json!({ "pushers": [changed, wanted("two")] });
    assert_eq!(alice.get_ok(&format!("{V3}/pushers")).await, listed);
    server.restart().await;
    let after = alice.get_ok(&format!("{V3}/pushers")).await;
    assert_eq!(after["pushers"].as_array().unwrap().len(), 2);
    let gone = json!({ "app_id": "org.example.app", "pushkey": "one", "kind": null });
    alice.post_ok(SET, gone.clone()).await;
    assert_eq!(keys(&alice).await, ["two"]);
    // What is gone already is no error.
    alice.post_ok(SET, gone).await;
}

#[tokio::test]
async fn bad_input_is_refused() {
    let server = hearth_testkit::TestServer::start().await;
    let alice = server.register("alice").await;
    let with = |pointer: &str, value: Value| {
        let mut body = wanted("key");
        *body.pointer_mut(pointer).unwrap() = value;
        body
    };
    let url = |url: &str| with("/data/url", json!(url));
    for body in [
        url("http://push.example.org/_matrix/push/v1/notify"),
        url("https://push.example.org/"),
        url("https://push.example.org/_matrix/push/v1/notify/x"),
        url("not a url"),
        with("/kind", json!("email")),
        with("/kind", json!("org.example.other")),
        with("/app_id", json!("a".repeat(65))),
        with("/pushkey", json!("a".repeat(513))),
        with("/pushkey", json!("")),
        with("/lang", json!("a".repeat(10_000))),
    ] {
        refused(alice.post(SET, body).await, 400, "M_INVALID_PARAM");
    }
    for field in ["app_id", "pushkey", "kind", "lang", "app_display_name", "data"] {
        let mut body = wanted("key");
        body.as_object_mut().unwrap().remove(field);
        let answer = alice.post(SET, body).await;
        assert_eq!(answer.0.as_u16(), 400, "{field}: {}", answer.1);
    }
    let anybody = server.client().post(SET, wanted("key")).await;
    assert_eq!(outcome(&anybody), (401, "M_MISSING_TOKEN"));
    assert!(keys(&alice).await.is_empty());
}

#[tokio::test]
async fn one_user_has_a_bounded_number() {
    let server = pushing().start().await;
    let alice = server.register("alice").await;
    for number in 0..50 {
        alice.post_ok(SET, wanted(&number.to_string())).await;
    }
    refused(alice.post(SET, wanted("one more")).await, 413, "M_TOO_LARGE");
    alice.post_ok(SET, wanted("7")).await;
}

#[tokio::test]
async fn of_another_user_with_the_same_key_give_way_unless_appended() {
    let server = pushing().start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    alice.post_ok(SET, wanted("phone")).await;
    let mut appended = wanted("phone");
    appended["append"] = json!(true);
    bob.post_ok(SET, appended).await;
    assert_eq!((keys(&alice).await.len(), keys(&bob).await.len()), (1, 1));
    bob.post_ok(SET, wanted("phone")).await;
    assert_eq!((keys(&alice).await.len(), keys(&bob).await.len()), (0, 1));
}

#[tokio::test]
async fn go_with_the_device_that_set_them() {
    let server = pushing().start().await;
    let phone = server.register("alice").await;
    let laptop = server.login("alice").await;
    let tablet = server.login("alice").await;
    for (device, key) in [(&phone, "phone"), (&laptop, "laptop"), (&tablet, "tablet")] {
        device.post_ok(SET, wanted(key)).await;
    }
    tablet.post_ok(&format!("{V3}/logout"), json!({})).await;
    assert_eq!(keys(&phone).await, ["phone", "laptop"]);
    let body = json!({ "new_password": "something else entirely" });
    let (path, password) = (format!("{V3}/account/password"), phone.password());
    let changed = with_password(&phone, Method::POST, &path, body, "alice", &password).await;
    assert_eq!(changed.0.as_u16(), 200, "{}", changed.1);
    assert_eq!(keys(&phone).await, ["phone"], "that of the device that changed it stays");
}

#[tokio::test]
async fn rejected_by_their_gateway_are_dropped() {
    let super::Scene { gateway, alice, bob, room, .. } = super::scene(pushing()).await;
    alice.post_ok(SET, gateway.pusher("app", "other")).await;
    gateway.reject("key");
    bob.send_text(&room, "hello").await;
    gateway.events(2).await;
    bob.send_text(&room, "again").await;
    let pushed = gateway.events(3).await;
    assert_eq!(pushed[2]["devices"][0]["pushkey"], "other");
    assert_eq!(keys(&alice).await, ["other"]);
}

#[tokio::test]
async fn do_not_lead_into_the_operators_network() {
    let some = pushing().config(|config| {
        config.push.allow_networks = vec!["127.0.0.2/32".parse().unwrap()];
    });
    let server = some.start().await;
    let forbidden = PushGateway::start().await;
    let allowed = PushGateway::start_at([127, 0, 0, 2].into()).await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let room = bob.create_public_room().await;
    alice.join(&room).await;
    alice.post_ok(SET, forbidden.pusher("app", "one")).await;
    alice.post_ok(SET, allowed.pusher("app", "two")).await;
    for body in ["one", "two", "three"] {
        bob.send_text(&room, body).await;
    }
    allowed.events(3).await;
    assert!(forbidden.taken().is_empty());
}
