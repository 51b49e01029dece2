//! `/user/{userId}/rooms/{roomId}/tags` (CS "Room Tagging").

use hearth_testkit::{TestServer, encode};
use serde_json::json;

use crate::support::{joined, next, of_type, of_user, refused};

#[tokio::test]
async fn are_set_listed_and_deleted() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let room = alice.create_public_room().await;
    let tags = of_user(&alice, format!("rooms/{}/tags", encode(room.as_str())));
    assert_eq!(alice.get_ok(&tags).await, json!({ "tags": {} }));
    let since = alice.now().await;
    alice.put_ok(&format!("{tags}/m.favourite"), json!({ "order": 0.25 })).await;
    alice.put_ok(&format!("{tags}/u.work"), json!({})).await;
    let all = json!({ "tags": { "m.favourite": { "order": 0.25 }, "u.work": {} } });
    assert_eq!(alice.get_ok(&tags).await, all);
    let update = alice.wait_for_sync(&since).await;
    assert!(joined(&update, &room)["account_data"]["events"].is_array(), "{update}");
    alice.delete(&format!("{tags}/m.favourite"), None).await;
    assert_eq!(alice.get_ok(&tags).await, json!({ "tags": { "u.work": {} } }));
    let latest = alice.sync(Some(&next(&update)), "").await;
    let event = of_type(&joined(&latest, &room)["account_data"]["events"], "m.tag");
    assert_eq!(event["content"], json!({ "tags": { "u.work": {} } }));
    refused(bob.get(&tags).await, 403, "M_FORBIDDEN");
    refused(bob.put(&format!("{tags}/u.x"), json!({})).await, 403, "M_FORBIDDEN");
}

#[tokio::test]
async fn do_not_lose_one_another() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let room = alice.create_public_room().await;
    let tags = of_user(&alice, format!("rooms/{}/tags", encode(room.as_str())));
    let writers: Vec<_> = (0..8)
        .map(|n| {
            let (alice, path) = (alice.clone(), format!("{tags}/u.{n}"));
            tokio::spawn(async move { alice.put_ok(&path, json!({ "order": 0.5 })).await })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    assert_eq!(alice.get_ok(&tags).await["tags"].as_object().unwrap().len(), 8);
}
