//! Small questions: aliases, profiles, the directory, spaces, OpenID tokens, keys, devices.

use hearth_testkit::{Peer, TestUser, encode};
use http::{Method, StatusCode};
use ruma::RoomVersionId;
use serde_json::{Value, json};

use super::{Scene, assert_error};

async fn ask(scene: &Scene, path: &str) -> (StatusCode, Value) {
    scene.peer.get(scene.name(), &format!("/_matrix/federation/v1/{path}")).await
}

#[tokio::test]
async fn an_alias_leads_to_the_room_and_its_servers() {
    let scene = Scene::start().await;
    let body = json!({ "preset": "public_chat", "room_alias_name": "lounge" });
    let room = scene.room(RoomVersionId::V11, body).await;
    let (status, answer) = ask(&scene, "query/directory?room_alias=%23lounge:hs.test").await;
    let wanted = json!({ "room_id": room.id, "servers": ["hs.test"] });
    assert_eq!((status, answer), (StatusCode::OK, wanted));
    scene.join(&room, &scene.peer.user("bob")).await;
    let (_, answer) = ask(&scene, "query/directory?room_alias=%23lounge:hs.test").await;
    assert_eq!(answer["servers"], json!(["hs.test", "peer.test"]));
    for alias in ["%23none:hs.test", "%23lounge:other.test"] {
        let answer = ask(&scene, &format!("query/directory?room_alias={alias}")).await;
        assert_error(&answer, StatusCode::NOT_FOUND, "M_NOT_FOUND");
    }
}

#[tokio::test]
async fn profiles_are_told_whole_or_by_field() {
    let scene = Scene::start().await;
    let user = encode(scene.ann.user_id.as_str());
    let path = format!("/_matrix/client/v3/profile/{user}/displayname");
    scene.ann.put_ok(&path, json!({ "displayname": "Ann" })).await;
    let (status, answer) = ask(&scene, &format!("query/profile?user_id={user}")).await;
    assert_eq!((status, answer), (StatusCode::OK, json!({ "displayname": "Ann" })));
    let path = format!("query/profile?user_id={user}&field=displayname");
    assert_eq!(ask(&scene, &path).await.1, json!({ "displayname": "Ann" }));
    let path = format!("query/profile?user_id={user}&field=avatar_url");
    assert_eq!(ask(&scene, &path).await, (StatusCode::OK, json!({})));
    for user in ["@nobody:hs.test", "@ann:other.test"] {
        let answer = ask(&scene, &format!("query/profile?user_id={user}")).await;
        assert_error(&answer, StatusCode::NOT_FOUND, "M_NOT_FOUND");
    }
    let answer = ask(&scene, "query/weather").await;
    assert_error(&answer, StatusCode::NOT_FOUND, "M_NOT_FOUND");
}

#[tokio::test]
async fn the_directory_is_listed_and_searched() {
    let scene = Scene::start().await;
    for name in ["alpha", "beta", "gamma"] {
        let body = json!({ "preset": "public_chat", "visibility": "public", "name": name });
        scene.room(RoomVersionId::V11, body).await;
    }
    scene.public_room(RoomVersionId::V11).await;
    let (status, answer) = ask(&scene, "publicRooms?limit=2").await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    assert_eq!(answer["total_room_count_estimate"], 3);
    assert_eq!(answer["chunk"].as_array().unwrap().len(), 2);
    let first = &answer["chunk"][0];
    assert_eq!((&first["num_joined_members"], &first["join_rule"]), (&json!(1), &json!("public")));
    assert!(first["world_readable"].is_boolean() && first["guest_can_join"].is_boolean());
    let next = encode(answer["next_batch"].as_str().unwrap());
    let (_, rest) = ask(&scene, &format!("publicRooms?limit=2&since={next}")).await;
    assert_eq!(rest["chunk"].as_array().unwrap().len(), 1);
    assert!(rest.get("next_batch").is_none() && rest["prev_batch"].is_string());

    let path = "/_matrix/federation/v1/publicRooms";
    let search = json!({ "filter": { "generic_search_term": "BET" } });
    let (status, answer) = scene.peer.post(scene.name(), path, search).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    assert_eq!(answer["chunk"].as_array().unwrap().len(), 1);
    assert_eq!(answer["chunk"][0]["name"], "beta");
}

#[tokio::test]
async fn a_space_shows_the_children_that_the_server_may_join() {
    let scene = Scene::start().await;
    let version = RoomVersionId::V11;
    let space = json!({
        "preset": "public_chat", "name": "space", "creation_content": { "type": "m.space" },
    });
    let space = scene.room(version.clone(), space).await;
    let open = scene.public_room(version.clone()).await;
    let closed = scene.room(version.clone(), json!({ "preset": "private_chat" })).await;
    for child in [&open, &closed] {
        let content = json!({ "via": ["hs.test"], "suggested": child.id == open.id });
        scene.ann.send_state(&space.id, "m.space.child", child.id.as_str(), content).await;
    }
    let elsewhere = json!({ "via": ["other.test"] });
    scene.ann.send_state(&space.id, "m.space.child", "!x:other.test", elsewhere).await;
    let (status, answer) = scene.peer.get(scene.name(), &space.path("hierarchy", "")).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    assert_eq!(answer["room"]["room_id"], space.id.as_str());
    assert_eq!(answer["room"]["room_type"], "m.space");
    assert_eq!(answer["room"]["children_state"].as_array().unwrap().len(), 3);
    assert_eq!(answer["children"].as_array().unwrap().len(), 1);
    assert_eq!(answer["children"][0]["room_id"], open.id.as_str());
    assert_eq!(answer["inaccessible_children"], json!([closed.id]));
    let path = space.path("hierarchy", "?suggested_only=true");
    let answer = scene.peer.get_ok(scene.name(), &path).await;
    assert_eq!(answer["room"]["children_state"].as_array().unwrap().len(), 1);
    let answer = scene.peer.get(scene.name(), &closed.path("hierarchy", "")).await;
    assert_error(&answer, StatusCode::NOT_FOUND, "M_NOT_FOUND");
    // Who is invited could join, though nobody of their server is in the room (any more).
    let bob = scene.peer.user("bob");
    let rule = json!({ "join_rule": "public" });
    scene.ann.send_state(&closed.id, "m.room.join_rules", "", rule).await;
    scene.join(&closed, &bob).await;
    scene.ann.invite(&closed.id, &scene.peer.user("bea")).await;
    let rule = json!({ "join_rule": "invite" });
    scene.ann.send_state(&closed.id, "m.room.join_rules", "", rule).await;
    let gone = json!({ "membership": "leave" });
    scene.ann.send_state(&closed.id, "m.room.member", bob.as_str(), gone).await;
    let answer = scene.peer.get_ok(scene.name(), &closed.path("hierarchy", "")).await;
    assert_eq!(answer["room"]["join_rule"], "invite");
}

#[tokio::test]
async fn an_open_id_token_tells_its_user() {
    let scene = Scene::start().await;
    let user = encode(scene.ann.user_id.as_str());
    let path = format!("/_matrix/client/v3/user/{user}/openid/request_token");
    let token = scene.ann.post_ok(&path, json!({})).await;
    let token = token["access_token"].as_str().unwrap();
    let ask = async |token: &str| {
        let path = format!("/_matrix/federation/v1/openid/userinfo?access_token={token}");
        scene.peer.ask_unsigned(scene.name(), Method::GET, &path, None).await
    };
    assert_eq!(ask(token).await, (StatusCode::OK, json!({ "sub": scene.ann.user_id })));
    assert_error(&ask("guessed").await, StatusCode::UNAUTHORIZED, "M_UNKNOWN_TOKEN");
    // The token of a device is another matter.
    assert_error(&ask(&scene.ann.token).await, StatusCode::UNAUTHORIZED, "M_UNKNOWN_TOKEN");
}

#[tokio::test]
async fn the_version_and_the_keys_are_told_to_everybody() {
    let scene = Scene::start().await;
    let ask = async |method: Method, path: &str, body: Option<Value>| {
        let (status, answer) = scene.peer.ask_unsigned(scene.name(), method, path, body).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        answer
    };
    let version = ask(Method::GET, "/_matrix/federation/v1/version", None).await;
    assert_eq!(version["server"]["name"], "Hearth");
    let own = ask(Method::GET, "/_matrix/key/v2/server", None).await;
    assert_eq!(own["server_name"], "hs.test");
    assert_eq!(own["verify_keys"].as_object().unwrap().len(), 1);
    assert!(own["signatures"]["hs.test"].is_object() && own["valid_until_ts"].is_u64());
    let named = ask(Method::GET, "/_matrix/key/v2/server/ed25519%3Aolder", None).await;
    assert_eq!(named["verify_keys"], own["verify_keys"], "older servers name a key");

    // As a notary, it adds its signature to what others say of themselves.
    let query = ask(Method::GET, "/_matrix/key/v2/query/peer.test", None).await;
    let body = json!({ "server_keys": { "peer.test": {}, "silent.test": {} } });
    let batch = ask(Method::POST, "/_matrix/key/v2/query", Some(body)).await;
    for answer in [query, batch] {
        let keys = answer["server_keys"].as_array().unwrap();
        assert_eq!(keys.len(), 1, "{answer}");
        assert_eq!(keys[0]["server_name"], "peer.test");
        for signer in ["hs.test", "peer.test"] {
            assert!(keys[0]["signatures"][signer].is_object(), "{answer}");
        }
    }
    assert_eq!(scene.peer.heard("/_matrix/key/v2/server").len(), 1, "asked once");
}

#[tokio::test]
async fn delegation_is_told_where_it_is_configured() {
    let scene = Scene::start().await;
    let path = "/.well-known/matrix/server";
    let answer = scene.peer.ask_unsigned(scene.name(), Method::GET, path, None).await;
    assert_error(&answer, StatusCode::NOT_FOUND, "M_NOT_FOUND");
    let delegated = hearth_testkit::TestServer::builder()
        .federating("far.test", &scene.network)
        .config(|config| {
            config.federation.well_known = Some("near.test:443".try_into().unwrap());
        })
        .start()
        .await;
    let answer = scene.peer.ask_unsigned(delegated.name(), Method::GET, path, None).await;
    assert_eq!(answer, (StatusCode::OK, json!({ "m.server": "near.test:443" })));
}

#[tokio::test]
async fn devices_without_keys_are_in_no_list() {
    let scene = Scene::start().await;
    let user = scene.ann.user_id.as_str();
    let (status, answer) = ask(&scene, &format!("user/devices/{}", encode(user))).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    assert_eq!((&answer["user_id"], &answer["devices"]), (&json!(user), &json!([])));
    assert!(answer["stream_id"].is_u64());
    for user in ["@nobody:hs.test", "@bob:peer.test"] {
        let answer = ask(&scene, &format!("user/devices/{}", encode(user))).await;
        assert_error(&answer, StatusCode::NOT_FOUND, "M_NOT_FOUND");
    }
    let path = "/_matrix/federation/v1/user/keys/query";
    let body = json!({ "device_keys": { user: [], "@nobody:hs.test": [], "@bob:peer.test": [] } });
    let answer = scene.peer.post(scene.name(), path, body).await;
    assert_eq!(answer, (StatusCode::OK, json!({ "device_keys": { user: {} } })));
    let path = "/_matrix/federation/v1/user/keys/claim";
    let body =
        json!({ "one_time_keys": { user: { scene.ann.device_id.as_str(): "signed_curve25519" } } });
    let answer = scene.peer.post(scene.name(), path, body).await;
    assert_eq!(answer, (StatusCode::OK, json!({ "one_time_keys": {} })));
    let answer = ask(&scene, "media/download/abc").await;
    assert_error(&answer, StatusCode::NOT_FOUND, "M_NOT_FOUND");
}

#[tokio::test]
async fn an_invitation_to_an_address_becomes_one_of_its_user() {
    use super::third_party::Identity;
    let scene = Scene::start().await;
    let room = scene.public_room(RoomVersionId::V11).await;
    let identity = Identity::new();
    let content = json!({
        "display_name": "b...@example.org", "key_validity_url": "https://id.test/valid",
        "public_key": identity.key(), "public_keys": [{ "public_key": identity.key() }],
    });
    scene.ann.send_state(&room.id, "m.room.third_party_invite", "token", content).await;
    let bob = scene.peer.user("bob");
    let exchange = |signed: Value| {
        json!({
            "type": "m.room.member", "room_id": room.id, "sender": scene.ann.user_id,
            "state_key": bob, "content": {
                "membership": "invite",
                "third_party_invite": { "display_name": "somebody", "signed": signed },
            },
        })
    };
    let path = room.path("exchange_third_party_invite", "");
    let forged = exchange(Identity::new().sign(&bob, "token"));
    let answer = scene.peer.put(scene.name(), &path, forged).await;
    assert_error(&answer, StatusCode::FORBIDDEN, "M_FORBIDDEN");
    let unknown = exchange(identity.sign(&bob, "another"));
    let answer = scene.peer.put(scene.name(), &path, unknown).await;
    assert_error(&answer, StatusCode::NOT_FOUND, "M_NOT_FOUND");

    let answer = scene.peer.put(scene.name(), &path, exchange(identity.sign(&bob, "token"))).await;
    assert_eq!(answer, (StatusCode::OK, json!({})));
    let rest = format!("state/m.room.member/{}", encode(bob.as_str()));
    let member = scene.ann.get_ok(&TestUser::room_path(&room.id, &rest)).await;
    assert_eq!(member["membership"], "invite");
    // The name is the one that the inviter gave, not the one that came with the proof.
    assert_eq!(member["third_party_invite"]["display_name"], "b...@example.org");
    assert_eq!(scene.peer.heard("/_matrix/federation/v2/invite/").len(), 1);
}

#[tokio::test]
async fn an_identity_server_tells_of_an_address_that_found_its_user() {
    use super::third_party::Identity;
    let scene = Scene::start().await;
    let other = Peer::new("other.test", &scene.network);
    let identity = Identity::new();
    let ann = &scene.ann.user_id;
    let inviter = other.user("cat");
    let body = json!({
        "medium": "email", "address": "ann@example.org", "mxid": ann,
        "invites": [{
            "medium": "email", "address": "ann@example.org", "mxid": ann, "sender": inviter,
            "room_id": "!theirs:other.test", "signed": identity.sign(ann, "token"),
        }],
    });
    other.answers("/_matrix/federation/v1/exchange_third_party_invite/", StatusCode::OK, json!({}));
    let path = "/_matrix/federation/v1/3pid/onbind";
    let answer = scene.peer.ask_unsigned(scene.name(), Method::PUT, path, Some(body.clone())).await;
    assert_eq!(answer, (StatusCode::OK, json!({})));
    let heard = other.heard("/_matrix/federation/v1/exchange_third_party_invite/");
    assert_eq!(heard.len(), 1);
    assert_eq!(heard[0].body["state_key"], ann.as_str());
    assert_eq!(heard[0].body["content"]["third_party_invite"]["signed"]["token"], "token");

    let mut stranger = body;
    stranger["mxid"] = json!("@nobody:hs.test");
    let answer = scene.peer.ask_unsigned(scene.name(), Method::PUT, path, Some(stranger)).await;
    assert_error(&answer, StatusCode::NOT_FOUND, "M_NOT_FOUND");
}
