//! `/keys/upload`, `/keys/claim`, and the counts in syncs.

use std::collections::BTreeSet;

use hearth_olm_client::Account;
use hearth_testkit::{TestServer, TestUser};
use serde_json::{Value, json};

use crate::support::{V3, next, refused};

fn upload() -> String {
    format!("{V3}/keys/upload")
}

fn account_of(user: &TestUser) -> Account {
    Account::new(&user.user_id, &user.device_id)
}

/// Claims a key of a device; returns its ID and the key, if there is one.
async fn claim(user: &TestUser, of: &TestUser) -> Option<(String, Value)> {
    let wanted =
        json!({ "one_time_keys": { &of.user_id: { &of.device_id: "signed_curve25519" } } });
    let answer = user.post_ok(&format!("{V3}/keys/claim"), wanted).await;
    let keys = answer["one_time_keys"][of.user_id.as_str()][of.device_id.as_str()].as_object()?;
    assert_eq!(keys.len(), 1);
    keys.iter().next().map(|(id, key)| (id.clone(), key.clone()))
}

#[tokio::test]
async fn keys_are_uploaded_claimed_once_and_counted() {
    let server = TestServer::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let mut account = account_of(&alice);
    assert_eq!(alice.post_ok(&upload(), json!({})).await, json!({ "one_time_key_counts": {} }));
    let keys = account.one_time_keys(3);
    let body = json!({ "device_keys": account.device_keys(), "one_time_keys": keys });
    let three = json!({ "one_time_key_counts": { "signed_curve25519": 3 } });
    assert_eq!(alice.post_ok(&upload(), body.clone()).await, three);
    assert_eq!(alice.post_ok(&upload(), body.clone()).await, three, "repeated");
    let fallback = account.fallback_key();
    alice.post_ok(&upload(), json!({ "fallback_keys": fallback })).await;

    let mut since = alice.now().await;
    let mut seen = BTreeSet::new();
    for left in [2, 1, 0] {
        let (id, key) = claim(&bob, &alice).await.unwrap();
        assert_eq!(keys[&id], key, "as it was uploaded");
        assert!(seen.insert(id));
        let sync = alice.wait_for_sync(&since).await;
        assert_eq!(sync["device_one_time_keys_count"], json!({ "signed_curve25519": left }));
        assert_eq!(sync["device_unused_fallback_key_types"], json!(["signed_curve25519"]));
        since = next(&sync);
    }
    for _ in 0..2 {
        let (id, key) = claim(&bob, &alice).await.unwrap();
        assert_eq!(fallback[&id], key);
    }
    let sync = alice.wait_for_sync(&since).await;
    assert_eq!(sync["device_unused_fallback_key_types"], json!([]));
    let none = json!({ "one_time_key_counts": { "signed_curve25519": 0 } });
    assert_eq!(alice.post_ok(&upload(), body).await, none, "what was claimed does not come back");
}

#[tokio::test]
async fn claimed_keys_are_gone_after_a_restart() {
    let mut server = TestServer::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let mut account = account_of(&alice);
    let keys = account.one_time_keys(2);
    let body = json!({ "device_keys": account.device_keys(), "one_time_keys": keys });
    alice.post_ok(&upload(), body).await;
    let first = claim(&bob, &alice).await.unwrap();
    server.restart().await;
    let (alice, bob) = (moved(&server, &alice), moved(&server, &bob));
    let wanted = json!({ "one_time_keys": { &alice.1: { &alice.2: "signed_curve25519" } } });
    let answer = bob.0.post_ok(&format!("{V3}/keys/claim"), wanted.clone()).await;
    let again = &answer["one_time_keys"][alice.1.as_str()][alice.2.as_str()];
    assert!(again.is_object() && again[&first.0].is_null(), "{answer}");
    let answer = bob.0.post_ok(&format!("{V3}/keys/claim"), wanted).await;
    let none = json!({ "failures": {}, "one_time_keys": {} });
    assert_eq!(answer, none, "there is no fallback key, and Hydrogen needs `failures`");
}

/// A user's client for the server's new address, and their user and device ID.
fn moved(server: &TestServer, user: &TestUser) -> (hearth_testkit::Client, String, String) {
    let client = server.client().with_token(&user.token);
    (client, user.user_id.to_string(), user.device_id.to_string())
}

#[tokio::test]
async fn keys_that_do_not_verify_are_refused() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let (mut account, mut other) = (account_of(&alice), account_of(&alice));
    let post = async |body: Value| alice.post(&upload(), body).await;
    let mut forged = account.device_keys();
    forged["algorithms"] = json!([]);
    refused(post(json!({ "device_keys": forged })).await, 400, "M_INVALID_SIGNATURE");
    let mut foreign = account.device_keys();
    foreign["user_id"] = json!("@bob:hearth.test");
    refused(post(json!({ "device_keys": foreign })).await, 400, "M_INVALID_PARAM");
    let keys = account.one_time_keys(1);
    refused(post(json!({ "one_time_keys": keys })).await, 400, "M_INVALID_PARAM");
    let body =
        json!({ "device_keys": account.device_keys(), "one_time_keys": other.one_time_keys(1) });
    refused(post(body).await, 400, "M_INVALID_SIGNATURE");
    let body = json!({ "one_time_keys": { "signed_curve25519:A": "AAAA" } });
    refused(post(body).await, 400, "M_BAD_JSON");
    let nothing = alice.post_ok(&upload(), json!({})).await;
    assert_eq!(nothing["one_time_key_counts"], json!({}), "nothing was stored");

    alice.post_ok(&upload(), json!({ "device_keys": account.device_keys() })).await;
    refused(post(json!({ "device_keys": other.device_keys() })).await, 400, "M_INVALID_PARAM");
}

#[tokio::test]
async fn a_device_that_logs_out_has_no_keys() {
    let server = TestServer::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let phone = server.login("alice").await;
    let mut account = account_of(&phone);
    let body = json!({
        "one_time_keys": account.one_time_keys(2),
        "fallback_keys": account.fallback_key(),
        "device_keys": account.device_keys(),
    });
    phone.post_ok(&upload(), body).await;
    assert!(claim(&bob, &phone).await.is_some());
    phone.post_ok(&format!("{V3}/logout"), json!({})).await;
    assert!(claim(&bob, &phone).await.is_none());
    assert!(claim(&bob, &alice).await.is_none(), "a device without keys");
}
