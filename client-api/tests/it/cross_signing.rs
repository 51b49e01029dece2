//! `/keys/device_signing/upload`, `/keys/signatures/upload`, `/keys/query`.

use hearth_testkit::{ClientKey, TestServer, TestUser};
use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::{
    account::with_password,
    support::{V3, refused},
};

fn upload_path() -> String {
    format!("{V3}/keys/device_signing/upload")
}

/// A user's three cross-signing keys.
struct Identity {
    master: ClientKey,
    user_signing: ClientKey,
    body: Value,
}

impl Identity {
    fn new(user: &TestUser) -> Self {
        let [master, self_signing, user_signing] = [(); 3].map(|()| ClientKey::new());
        let id = &user.user_id;
        let signed = |key: &ClientKey, usage| {
            let mut key = key.cross_signing_key(id, usage);
            master.sign(&mut key, id);
            key
        };
        let body = json!({
            "master_key": master.cross_signing_key(id, "master"),
            "self_signing_key": signed(&self_signing, "self_signing"),
            "user_signing_key": signed(&user_signing, "user_signing"),
        });
        Self { master, user_signing, body }
    }
}

async fn query(asker: &TestUser, user: &TestUser) -> Value {
    let body = json!({ "device_keys": { user.user_id.as_str(): [] } });
    asker.post_ok(&format!("{V3}/keys/query"), body).await
}

#[tokio::test]
async fn a_first_upload_is_free_and_a_replacement_wants_the_password() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let first = Identity::new(&alice);
    assert_eq!(alice.post_ok(&upload_path(), first.body.clone()).await, json!({}));
    assert_eq!(alice.post_ok(&upload_path(), first.body.clone()).await, json!({}), "again");
    let second = Identity::new(&alice);
    let (path, body) = (upload_path(), second.body.clone());
    let (status, answer) =
        with_password(&alice, Method::POST, &path, body.clone(), "alice", "wrong").await;
    assert_eq!(status, StatusCode::UNAUTHORIZED, "{answer}");
    let id = alice.user_id.as_str();
    assert_eq!(query(&alice, &alice).await["master_keys"][id], first.body["master_key"]);
    let password = alice.password();
    let (status, answer) =
        with_password(&alice, Method::POST, &path, body, "alice", &password).await;
    assert_eq!((status, answer), (StatusCode::OK, json!({})));
    let answer = query(&alice, &alice).await;
    for (field, key) in [
        ("master_keys", "master_key"),
        ("self_signing_keys", "self_signing_key"),
        ("user_signing_keys", "user_signing_key"),
    ] {
        assert_eq!(answer[field][id], second.body[key], "{answer}");
    }
    assert_eq!(answer["device_keys"], json!({ id: {} }));
}

#[tokio::test]
async fn bad_keys_are_refused() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let (identity, other) = (Identity::new(&alice), Identity::new(&alice));
    let mut unsigned = identity.body.clone();
    unsigned["self_signing_key"] = other.body["self_signing_key"].clone();
    refused(alice.post(&upload_path(), unsigned).await, 400, "M_INVALID_SIGNATURE");
    let alone = json!({ "self_signing_key": identity.body["self_signing_key"] });
    refused(alice.post(&upload_path(), alone).await, 400, "M_MISSING_PARAM");
    let bob = server.register("bob").await;
    refused(bob.post(&upload_path(), identity.body).await, 400, "M_INVALID_PARAM");
}

#[tokio::test]
async fn what_is_signed_of_others_is_told_to_the_signer_alone() {
    let server = TestServer::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let (of_alice, of_bob) = (Identity::new(&alice), Identity::new(&bob));
    alice.post_ok(&upload_path(), of_alice.body.clone()).await;
    bob.post_ok(&upload_path(), of_bob.body.clone()).await;
    let path = format!("{V3}/keys/signatures/upload");
    let id = bob.user_id.as_str();
    let (master, key) = (&of_bob.body["master_key"], of_bob.master.public_key());
    let answer = alice.post_ok(&path, json!({ id: { &key: master } })).await;
    assert_eq!(answer["failures"][id][&key]["errcode"], "M_INVALID_SIGNATURE", "{answer}");
    let mut signed = master.clone();
    of_alice.user_signing.sign(&mut signed, &alice.user_id);
    let answer = alice.post_ok(&path, json!({ id: { &key: &signed, "UNKNOWN": &signed } })).await;
    assert_eq!(answer["failures"][id]["UNKNOWN"]["errcode"], "M_NOT_FOUND", "{answer}");
    assert!(answer["failures"][id].get(&key).is_none(), "{answer}");
    let seen = query(&alice, &bob).await;
    assert_eq!(seen["master_keys"][id], signed);
    assert!(seen.get("user_signing_keys").is_none(), "{seen}");
    assert_eq!(query(&bob, &bob).await["master_keys"][id], *master);
}
