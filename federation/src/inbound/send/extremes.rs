use hearth_rooms::{CreateRoomOptions, MemberProfile, schema::Standing};
use http::Method;
use ruma::{UserId, server_name, user_id};
use serde_json::{Value, json};
use tower::ServiceExt as _;

use super::*;
use crate::{
    inbound::{auth::tests::signed_anyway, gaps::tests::bench},
    remote::Remote,
    testing::{Network, Server},
};

/// A transaction to `us.example`, and its answer.
async fn transact(us: &Server, from: &Server, pdus: &[String], edus: &[String]) -> (u16, Value) {
    let origin = from.federation.identity().server_name();
    let (pdus, edus) = (pdus.join(","), edus.join(","));
    let body =
        format!(r#"{{"origin":"{origin}","origin_server_ts":1,"pdus":[{pdus}],"edus":[{edus}]}}"#);
    let uri = "/_matrix/federation/v1/send/one";
    let request = signed_anyway(from, Method::PUT, uri, body).map(axum::body::Body::from);
    let router = hearth_http::finish(us.federation.router(us.http.clone()));
    let response = router.oneshot(request).await.unwrap();
    let status = response.status().as_u16();
    let body = axum::body::to_bytes(response.into_body(), usize::MAX).await.unwrap();
    (status, serde_json::from_slice(&body).unwrap())
}

#[tokio::test]
async fn an_event_that_is_nested_too_deep_is_lost_alone() {
    let bench = bench().await;
    let id = bench.say(1).await.remove(0);
    let good = bench.theirs(&id).await.get().to_owned();
    // The deepest that an event of the greatest size may hold.
    let depth = MAX_PDU_BYTES / 2 - 100;
    let deep = format!(
        r#"{{"type":"m.x","room_id":"{}","content":{{"a":{}{}}}}}"#,
        bench.room_id,
        "[".repeat(depth),
        "]".repeat(depth),
    );
    let edu = format!(r#"{{"edu_type":"m.x","content":{}{}}}"#, "[".repeat(500), "]".repeat(500));
    let (status, answer) = transact(&bench.us, &bench.them, &[deep, good], &[edu]).await;
    assert_eq!((status, &answer["pdus"]), (200, &json!({ id.as_str(): {} })), "{answer}");
    assert_eq!(bench.standing(&id).await, Some(Standing::Accepted));
}

#[tokio::test]
async fn transactions_may_be_as_large_as_others_make_them() {
    let network = Network::default();
    let us = Server::open("us.example", &network).await;
    let them = Server::open("them.example", &network).await;
    let edu =
        |bytes: usize| format!(r#"{{"edu_type":"m.x","content":{{"a":"{}"}}}}"#, "x".repeat(bytes));
    let (status, answer) = transact(&us, &them, &[], &vec![edu(131_072); 100]).await;
    assert_eq!(status, 200, "{answer}");
    let (status, _) = transact(&us, &them, &[], &vec![edu(180_000); 100]).await;
    assert_eq!(status, 413);
}

#[tokio::test]
async fn the_end_of_an_invitation_that_cannot_be_written_is_not_answered() {
    let network = Network::default();
    let us = Server::open("us.example", &network).await;
    let them = Server::open("them.example", &network).await;
    let (alice, bob) = (user_id!("@alice:them.example"), user_id!("@bob:us.example"));
    let account = hearth_users::NewAccount { username: "bob".to_owned(), ..Default::default() };
    us.federation.users().create_account(account).await.unwrap();
    let theirs = them.federation.rooms();
    theirs.set_remote(Arc::new(Remote::new(them.federation.clone())));
    let room_id = theirs.create_room(alice, CreateRoomOptions::default()).await.unwrap();
    let profile = MemberProfile::default();
    theirs.invite(&room_id, alice, bob, &profile, None, false).await.unwrap();
    let kick = theirs.kick(&room_id, alice, bob, None).await.unwrap();
    let kick = theirs.event_by_id(&room_id, &kick).await.unwrap().unwrap();
    let kick = String::from_utf8(kick.pdu.json().to_vec()).unwrap();
    let receive = async || {
        let pdus = vec![RawValue::from_string(kick.clone()).unwrap()];
        receive_room(&us.federation, server_name!("them.example"), &room_id, pdus).await
    };
    assert!(is_invited(&us, &room_id, bob).await);
    us.federation.store().close().await.unwrap();
    let failed = receive().await;
    assert!(failed.as_ref().is_err_and(store_failed), "{failed:?}");
}

async fn is_invited(server: &Server, room_id: &RoomId, user_id: &UserId) -> bool {
    server.federation.rooms().out_of_band(room_id, user_id).await.unwrap().is_some()
}
