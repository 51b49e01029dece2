//! `GET /notifications`.

use hearth_testkit::{TestServer, encode};
use serde_json::{Value, json};

use crate::support::{V3, at, message, refused};

fn said(page: &Value) -> Vec<String> {
    let list = page["notifications"].as_array().unwrap();
    let body = |one: &Value| one["event"]["content"]["body"].as_str().unwrap().to_owned();
    list.iter().map(body).collect()
}

#[tokio::test]
async fn come_newest_first_over_all_rooms_in_pages() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let rooms = [bob.create_public_room().await, bob.create_public_room().await];
    for room in &rooms {
        alice.join(room).await;
    }
    let path = format!("{V3}/notifications");
    assert_eq!(alice.get_ok(&path).await, json!({ "notifications": [] }));
    let mut first = None;
    for number in 0..5 {
        let room = &rooms[number % 2];
        let event_id = bob.send_text(room, &number.to_string()).await;
        first.get_or_insert(event_id);
        alice.send_text(room, "mine").await;
    }
    let mut content = message("alice!");
    content["m.mentions"] = json!({ "user_ids": [alice.user_id] });
    bob.send_event(&rooms[1], "m.room.message", content).await;
    let receipt = format!("receipt/m.read/{}", encode(first.unwrap().as_str()));
    alice.post_ok(&at(&rooms[0], receipt), json!({})).await;

    let page = alice.get_ok(&format!("{path}?limit=4")).await;
    assert_eq!(said(&page), ["alice!", "4", "3", "2"]);
    let newest = &page["notifications"][0];
    assert_eq!(newest["room_id"], json!(rooms[1]));
    assert_eq!(newest["read"], false);
    assert!(newest["ts"].as_u64().unwrap() > 1_500_000_000_000);
    assert_eq!(newest["event"]["sender"], json!(bob.user_id));
    assert_eq!(newest["event"].get("room_id"), None);
    let highlight = json!({ "set_tweak": "highlight" });
    assert!(newest["actions"].as_array().unwrap().contains(&highlight), "{newest}");
    let token = encode(page["next_token"].as_str().unwrap());
    let rest = alice.get_ok(&format!("{path}?limit=4&from={token}")).await;
    assert_eq!(said(&rest), ["1", "0"]);
    assert_eq!(rest.get("next_token"), None);
    let read = rest["notifications"].as_array().unwrap().iter().map(|one| one["read"].clone());
    assert_eq!(read.collect::<Vec<_>>(), [json!(false), json!(true)]);
    let highlights = alice.get_ok(&format!("{path}?only=highlight")).await;
    assert_eq!(said(&highlights), ["alice!"]);
    refused(alice.get(&format!("{path}?from=x")).await, 400, "M_INVALID_PARAM");
}

#[tokio::test]
async fn name_invitations_and_leave_out_what_was_redacted_or_is_ignored() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let mallory = server.register("mallory").await;
    let room = bob.create_public_room().await;
    for user in [&alice, &mallory] {
        user.join(&room).await;
    }
    let gone = bob.send_text(&room, "gone").await;
    bob.redact(&room, &gone).await;
    mallory.send_text(&room, "spam").await;
    let ignored = json!({ "ignored_users": { mallory.user_id.as_str(): {} } });
    let own = format!("{V3}/user/{}", encode(alice.user_id.as_str()));
    alice.put_ok(&format!("{own}/account_data/m.ignored_user_list"), ignored).await;
    let secret = bob.create_room(json!({ "invite": [alice.user_id] })).await;
    let page = alice.get_ok(&format!("{V3}/notifications")).await;
    let list = page["notifications"].as_array().unwrap();
    assert_eq!(list.len(), 1, "{page}");
    assert_eq!(list[0]["room_id"], json!(secret));
    assert_eq!(list[0]["event"]["content"]["membership"], "invite");
}
