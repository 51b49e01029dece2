//! Clients that go away while other servers are asked.

use std::time::Duration;

use hearth_testkit::{Fate, Passage, TestUser};
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::support::{World, membership, via_path, wait_for_sync};

/// Longer than a client waits here.
const LATE: Duration = Duration::from_secs(3);

/// From now on requests whose path has this part arrive late.
fn delay(world: &World, part: &'static str) {
    world.network().judge(move |passage: &Passage| {
        if passage.path.contains(part) { Fate::Late(LATE) } else { Fate::Arrives }
    });
}

/// Asks, and does not wait for the answer once the request is on its way to the other server.
async fn ask_and_go(world: &World, from: &str, user: &TestUser, path: &str, body: Value) {
    let asking = async {
        let sent = async {
            while world.count_requests(from, "/_matrix/federation/v2/invite/")
                + world.count_requests(from, "/_matrix/federation/v1/send_knock/")
                + world.count_requests(from, "/_matrix/federation/v2/send_leave/")
                == 0
            {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::select! {
            answer = user.post(path, body) => panic!("the answer was there: {answer:?}"),
            () = sent => {}
        }
    };
    timeout(Duration::from_secs(30), asking).await.unwrap();
}

#[tokio::test]
async fn a_knock_is_finished_without_the_client() {
    let world = World::start(&["a.test", "b.test"]).await;
    let (ann, bob) = (world.user("a.test", "ann").await, world.user("b.test", "bob").await);
    let rules = json!({ "type": "m.room.join_rules", "content": { "join_rule": "knock" } });
    let room_id = ann.create_room(json!({ "initial_state": [rules] })).await;
    delay(&world, "send_knock");
    let since = bob.now().await;
    let path = via_path("knock", room_id.as_str(), &["a.test"]);
    ask_and_go(&world, "b.test", &bob, &path, json!({})).await;
    wait_for_sync(&bob, &since, |sync| sync["rooms"]["knock"][room_id.as_str()].is_object()).await;
    assert_eq!(membership(&ann, &room_id, &bob.user_id).await, "knock");
}

#[tokio::test]
async fn an_invitation_is_finished_without_the_client() {
    let world = World::start(&["a.test", "b.test"]).await;
    let (ann, bob) = (world.user("a.test", "ann").await, world.user("b.test", "bob").await);
    let room_id = ann.create_room(json!({})).await;
    delay(&world, "v2/invite");
    let path = TestUser::room_path(&room_id, "invite");
    ask_and_go(&world, "a.test", &ann, &path, json!({ "user_id": bob.user_id })).await;
    world.wait_for_membership(&ann, &room_id, &bob.user_id, "invite").await;
}

#[tokio::test]
async fn a_rejection_is_finished_without_the_client() {
    let world = World::start(&["a.test", "b.test"]).await;
    let (ann, bob) = (world.user("a.test", "ann").await, world.user("b.test", "bob").await);
    let room_id = ann.create_room(json!({})).await;
    ann.invite(&room_id, &bob.user_id).await;
    let since = bob.now().await;
    delay(&world, "send_leave");
    let path = TestUser::room_path(&room_id, "leave");
    ask_and_go(&world, "b.test", &bob, &path, json!({})).await;
    world.wait_for_membership(&ann, &room_id, &bob.user_id, "leave").await;
    wait_for_sync(&bob, &since, |sync| sync["rooms"]["leave"][room_id.as_str()].is_object()).await;
}
