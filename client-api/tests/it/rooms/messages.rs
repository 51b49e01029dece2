//! `GET /rooms/{roomId}/messages`.

use hearth_testkit::{TestServer, encode};
use serde_json::{Value, json};

use crate::support::{
    all_different, at, bodies, filter, ids, keys, refused, text, tidy, timeline, walk,
};

#[tokio::test]
async fn pages_cover_the_history_once() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let room = alice.create_public_room().await;
    for n in 0..25 {
        alice.send_text(&room, &n.to_string()).await;
    }
    let expected: Vec<_> = (0..25).map(|n| n.to_string()).collect();
    for limit in [1, 4, 7, 100] {
        let query = format!("&limit={limit}");
        let forwards = walk(&alice, &room, "f", None, &query).await;
        all_different(&forwards);
        assert_eq!(forwards[0]["type"], "m.room.create");
        assert_eq!(bodies(&json!(forwards)), expected, "forwards by {limit}");
        let mut backwards = walk(&alice, &room, "b", None, &query).await;
        all_different(&backwards);
        backwards.reverse();
        assert_eq!(ids(&json!(backwards)), ids(&json!(forwards)), "backwards by {limit}");
    }
    // Ten at a time unless asked otherwise.
    let page = alice.get_ok(&at(&room, "messages?dir=b")).await;
    assert_eq!(page["chunk"].as_array().unwrap().len(), 10);
}

#[tokio::test]
async fn a_page_has_the_form_of_the_specification() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let room = alice.create_public_room().await;
    let event = alice.send_text(&room, "hello").await;
    let page = alice.get_ok(&at(&room, "messages?dir=b&limit=1")).await;
    let names: [(&dyn AsRef<str>, &str); 2] = [(&room, "room"), (&event, "hello")];
    insta::assert_json_snapshot!(tidy(&page, &names));
    let from = text(&page, "end");
    let next =
        alice.get_ok(&at(&room, format!("messages?dir=b&limit=1&from={}", encode(from)))).await;
    assert_eq!(next["start"], from, "the same as the given `from`");
    // The last page names no further one.
    let all = alice.get_ok(&at(&room, "messages?dir=b&limit=100")).await;
    assert!(all.get("end").is_none(), "{all}");
}

#[tokio::test]
async fn tokens_work_both_ways_and_end_at_to() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let room = alice.create_public_room().await;
    for n in 0..4 {
        alice.send_text(&room, &n.to_string()).await;
    }
    let middle = alice.now().await;
    for n in 4..8 {
        alice.send_text(&room, &n.to_string()).await;
    }
    let from = encode(&middle);
    let after = alice.get_ok(&at(&room, format!("messages?dir=f&from={from}&limit=100"))).await;
    assert_eq!(bodies(&after["chunk"]), ["4", "5", "6", "7"]);
    let before = alice.get_ok(&at(&room, format!("messages?dir=b&from={from}&limit=3"))).await;
    assert_eq!(bodies(&before["chunk"]), ["3", "2", "1"]);
    // Back to the middle from the end, and no further.
    let end = encode(&alice.now().await);
    let path = format!("messages?dir=b&from={end}&to={from}&limit=100");
    assert_eq!(bodies(&alice.get_ok(&at(&room, path)).await["chunk"]), ["7", "6", "5", "4"]);
    // From the end of a page backwards, forwards again.
    let turn = encode(text(&before, "end"));
    let path = format!("messages?dir=f&from={turn}&limit=3");
    assert_eq!(bodies(&alice.get_ok(&at(&room, path)).await["chunk"]), ["1", "2", "3"]);
    // What comes after the last event is found later from the token of the last page.
    let path = format!("messages?dir=f&from={end}&limit=100");
    let nothing = alice.get_ok(&at(&room, &path)).await;
    assert_eq!(bodies(&nothing["chunk"]), Vec::<String>::new());
    alice.send_text(&room, "later").await;
    assert_eq!(bodies(&alice.get_ok(&at(&room, path)).await["chunk"]), ["later"]);
}

#[tokio::test]
async fn filters_choose_events() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let room = alice.create_public_room().await;
    bob.join(&room).await;
    for n in 0..6 {
        alice.send_text(&room, &format!("a{n}")).await;
        bob.send_text(&room, &format!("b{n}")).await;
        alice.send_event(&room, "org.example.noise", json!({})).await;
    }
    let picture = json!({ "msgtype": "m.image", "body": "pic", "url": "mxc://localhost/pic" });
    alice.send_event(&room, "m.room.message", picture).await;
    let root = alice.send_text(&room, "root").await;
    let reply = json!({ "msgtype": "m.text", "body": "reply",
        "m.relates_to": { "rel_type": "m.thread", "event_id": root } });
    bob.send_event(&room, "m.room.message", reply).await;
    let by = async |wanted: Value| {
        let events = walk(&alice, &room, "f", None, &format!("&limit=5{}", filter(&wanted))).await;
        all_different(&events);
        json!(events)
    };
    let bobs = by(json!({ "senders": ["@bob:localhost"], "types": ["m.room.message"] })).await;
    assert_eq!(bodies(&bobs), ["b0", "b1", "b2", "b3", "b4", "b5", "reply"]);
    let alices = by(json!({ "not_senders": ["@bob:localhost"], "types": ["m.room.*"], "not_types": ["m.room.member"] })).await;
    assert_eq!(bodies(&alices), ["a0", "a1", "a2", "a3", "a4", "a5", "pic", "root"]);
    assert!(alices.as_array().unwrap().iter().all(|event| event["type"] != "m.room.member"));
    assert_eq!(bodies(&by(json!({ "contains_url": true })).await), ["pic"]);
    let noise = by(json!({ "types": ["org.example.noise"] })).await;
    assert_eq!(noise.as_array().unwrap().len(), 6);
    assert_eq!(by(json!({ "types": [] })).await, json!([]));
    assert_eq!(by(json!({ "not_rooms": [room] })).await, json!([]));
    assert_eq!(bodies(&by(json!({ "related_by_senders": ["@bob:localhost"], "related_by_rel_types": ["m.thread"] })).await), ["root"]);
}

#[tokio::test]
async fn members_are_loaded_lazily() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let carol = server.register("carol").await;
    let room = alice.create_public_room().await;
    for user in [&bob, &carol] {
        user.join(&room).await;
    }
    bob.send_text(&room, "one").await;
    alice.send_text(&room, "two").await;
    let lazy = filter(&json!({ "lazy_load_members": true }));
    let page = alice.get_ok(&at(&room, format!("messages?dir=b&limit=2{lazy}"))).await;
    let member = |name: &str| ("m.room.member".to_owned(), format!("@{name}:localhost"));
    assert_eq!(keys(&page["state"]), [member("alice"), member("bob")].into());
    let page = alice.get_ok(&at(&room, "messages?dir=b&limit=2")).await;
    assert!(page["state"].as_array().is_none_or(Vec::is_empty), "{page}");
}

#[tokio::test]
async fn bad_questions_are_refused() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let zoe = server.register("zoe").await;
    let room = alice.create_public_room().await;
    for query in [
        "",
        "?dir=x",
        "?dir=b&limit=x",
        "?dir=b&from=nonsense",
        "?dir=b&to=nonsense",
        "?dir=b&filter=%7B",
    ] {
        let (status, answer) = alice.get(&at(&room, format!("messages{query}"))).await;
        assert_eq!(status, 400, "{query}: {answer}");
    }
    refused(zoe.get(&at(&room, "messages?dir=b")).await, 403, "M_FORBIDDEN");
    let nowhere = ruma::room_id!("!nowhere:localhost");
    refused(alice.get(&at(nowhere, "messages?dir=b")).await, 403, "M_FORBIDDEN");
    let huge = alice.get_ok(&at(&room, "messages?dir=b&limit=9007199254740991")).await;
    assert!(huge["chunk"].as_array().unwrap().len() > 3);
}

#[tokio::test]
async fn sync_and_messages_meet_without_gap() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let room = alice.create_public_room().await;
    for n in 0..12 {
        alice.send_text(&room, &n.to_string()).await;
    }
    let small = filter(&json!({ "room": { "timeline": { "limit": 3 } } }));
    let initial = alice.sync(None, &small).await;
    assert_eq!(bodies(timeline(&initial, &room)), ["9", "10", "11"]);
    let prev = text(&initial["rooms"]["join"][room.as_str()]["timeline"], "prev_batch");
    let mut earlier = walk(&alice, &room, "b", Some(prev), "&limit=5").await;
    earlier.reverse();
    let expected: Vec<_> = (0..9).map(|n| n.to_string()).collect();
    assert_eq!(bodies(&json!(earlier)), expected);
}
