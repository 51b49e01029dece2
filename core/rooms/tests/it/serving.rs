//! What other servers may see.

use hearth_rooms::{CheckedPdu, Verdict, schema};
use hearth_storage::Commit;
use ruma::{RoomVersionId, UserId, server_name};
use serde_json::json;

use crate::{
    elsewhere::{FAR_ADMIN, FarRoom},
    fixture::{Server, user},
};

const EVE: &str = "@eve:other.test";

async fn take(server: &Server, far: &FarRoom, event: &CheckedPdu) {
    let verdicts = server.rooms.receive(&far.id, vec![event.clone()]).await.unwrap();
    assert_eq!(verdicts, [Verdict::Accepted]);
}

async fn is_seen(server: &Server, far: &FarRoom, event: &CheckedPdu) -> bool {
    let event = server.event(&far.id, &event.pdu().id().to_owned()).await;
    let asks = server_name!("other.test");
    server.rooms.visible_to_server(asks, &far.id, &event).await.unwrap()
}

#[tokio::test]
async fn a_server_sees_what_was_said_during_each_of_its_stays() {
    for visibility in ["shared", "joined"] {
        let server = Server::new().await;
        let mut far = FarRoom::new(RoomVersionId::V11);
        far.put("m.room.history_visibility", "", json!({ "history_visibility": visibility }));
        server.rooms.admit_join(far.answer_join(user("alice").as_str())).await.unwrap();
        let (mut inside, mut outside) = (Vec::new(), Vec::new());
        for stay in 0..3 {
            let join = far.join(EVE);
            take(&server, &far, &join).await;
            inside.push(far.say(FAR_ADMIN, &format!("during stay {stay}")));
            take(&server, &far, &inside[stay]).await;
            assert!(is_seen(&server, &far, &inside[stay]).await);
            let leave = far.member(EVE, EVE, "leave");
            take(&server, &far, &leave).await;
            outside.push(far.say(FAR_ADMIN, &format!("after stay {stay}")));
            take(&server, &far, &outside[stay]).await;
            assert!(!is_seen(&server, &far, &outside[stay]).await, "{visibility} {stay}");
            assert!(is_seen(&server, &far, &inside[stay]).await, "{visibility} {stay}");
        }
        // With a shared history a further stay opens what was said before it.
        let seen = is_seen(&server, &far, &outside[0]).await;
        assert_eq!(seen, visibility == "shared");
    }
}

/// The servers that an event concerns.
async fn concerned(server: &Server, far: &FarRoom, event: &CheckedPdu) -> Vec<String> {
    let event = server.event(&far.id, &event.pdu().id().to_owned()).await;
    let servers = server.rooms.remote_servers_before(&far.id, event.ordinal).await.unwrap();
    servers.iter().map(ToString::to_string).collect()
}

#[tokio::test]
async fn events_concern_the_servers_that_were_there_before_them() {
    let folder = tempfile::tempdir().unwrap();
    let mut server = Server::in_folder(folder.path()).await;
    let mut far = FarRoom::new(RoomVersionId::V11);
    server.rooms.admit_join(far.answer_join(user("alice").as_str())).await.unwrap();
    let before = far.say(FAR_ADMIN, "before");
    let join = far.join(EVE);
    let during = far.say(FAR_ADMIN, "during");
    // Another user of the same server changes nothing.
    let second = far.join("@zoe:other.test");
    let left = far.member(EVE, EVE, "leave");
    let later = far.say(FAR_ADMIN, "later");
    for event in [&before, &join, &during, &second, &left, &later] {
        take(&server, &far, event).await;
    }
    for _ in 0..2 {
        assert_eq!(concerned(&server, &far, &before).await, ["far.test"]);
        assert_eq!(concerned(&server, &far, &join).await, ["far.test"]);
        for event in [&during, &second, &left, &later] {
            assert_eq!(concerned(&server, &far, event).await, ["far.test", "other.test"]);
        }
        server = server.reopened(folder.path()).await;
    }
    let gone = far.member("@zoe:other.test", "@zoe:other.test", "leave");
    let again = far.join(EVE);
    let last = far.say(FAR_ADMIN, "last");
    for event in [&gone, &again, &last] {
        take(&server, &far, event).await;
    }
    assert_eq!(concerned(&server, &far, &gone).await, ["far.test"]);
    assert_eq!(concerned(&server, &far, &last).await, ["far.test", "other.test"]);
}

#[tokio::test]
async fn a_server_s_users_are_looked_for_once_while_no_member_changes() {
    for visibility in ["shared", "joined"] {
        let server = Server::new().await;
        let mut far = FarRoom::new(RoomVersionId::V11);
        far.put("m.room.history_visibility", "", json!({ "history_visibility": visibility }));
        server.rooms.admit_join(far.answer_join(user("alice").as_str())).await.unwrap();
        let join = far.join(EVE);
        take(&server, &far, &join).await;
        let said = far.say(FAR_ADMIN, "during the stay");
        take(&server, &far, &said).await;
        let leave = far.member(EVE, EVE, "leave");
        take(&server, &far, &leave).await;
        assert!(is_seen(&server, &far, &said).await);

        // What is not read again is not missed.
        let mut commit = Commit::new(&far.id);
        commit.delete(&schema::MEMBERS, &far.id, &UserId::parse(EVE).unwrap());
        let key = ("m.room.member".to_owned(), EVE.to_owned());
        commit.delete(&schema::STATE_KEYS, &far.id, &key);
        server.rooms.store().commit(commit).await.unwrap();
        assert!(is_seen(&server, &far, &said).await, "{visibility}");
        let other = far.join("@other:far.test");
        take(&server, &far, &other).await;
        assert!(!is_seen(&server, &far, &said).await, "{visibility}: it is read again");
    }
}
