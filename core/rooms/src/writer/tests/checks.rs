//! Which events are rejected, and what becomes of what was (checks 4 and 5 on receipt).

use ruma::{RoomVersionId, UserId};
use serde_json::json;

use super::*;

const BOB: &str = "@bob:b.test";
const CAROL: &str = "@carol:c.test";
const ALICE: &str = "@alice:hs.test";

fn id_of(event: &CheckedPdu) -> OwnedEventId {
    event.pdu().id().to_owned()
}

/// Nothing of the room has changed but that the event is kept.
async fn assert_rejected(shared: &Shared, event: CheckedPdu) {
    let before = (shared.tips().await, current(&shared.rooms, &shared.id).await);
    let event_id = id_of(&event);
    let verdict = shared.take(event.clone()).await;
    assert!(matches!(verdict, Verdict::Rejected(_)), "{verdict:?}: {:?}", event.pdu());
    assert_eq!((shared.tips().await, current(&shared.rooms, &shared.id).await), before);
    assert!(!timeline(&shared.rooms, &shared.id).await.contains(&event_id));
    let stored = shared.event(&event_id).await;
    assert_eq!(stored.header.standing, Standing::Rejected);
    assert!(stored.pdu.is_rejected());
    assert_eq!(stored.header.state_after, stored.header.state_before);
    assert_eq!(shared.take(event).await, Verdict::Known);
}

#[tokio::test]
async fn auth_events_must_be_those_that_the_event_calls_for() {
    for version in VERSIONS {
        let shared = Shared::with(version, &[BOB, CAROL]).await;
        let fitting = shared.message(BOB, "fitting").await.into_pdu().auth_events().to_vec();
        let join_of_carol = member_event(&shared, CAROL).await;
        let topic = shared.state(ALICE, ("m.room.topic", ""), json!({ "topic": "x" })).await;
        assert_eq!(shared.take(topic.clone()).await, Verdict::Accepted);
        let without_member: Vec<_> = {
            let own = member_event(&shared, BOB).await;
            fitting.iter().filter(|id| **id != own).cloned().collect()
        };
        let with = |more: OwnedEventId| [fitting.clone(), vec![more]].concat();
        let faults = [
            ("the sender's membership is not among them", without_member),
            ("one that is not called for", with(join_of_carol)),
            ("one that never authorizes", with(id_of(&topic))),
            ("one twice", with(fitting[0].clone())),
            ("none", Vec::new()),
        ];
        for (fault, auth) in faults {
            let making = shared.making(BOB, "m.room.message").await;
            let content = json!({ "body": fault });
            let event = shared.make(Making { auth: Some(auth), content, ..making }).await;
            assert_rejected(&shared, event).await;
        }
    }
}

#[tokio::test]
async fn too_many_auth_or_previous_events_are_refused() {
    let shared = Shared::with(RoomVersionId::V11, &[BOB]).await;
    for (auth, prev) in [(11, 1), (1, 21)] {
        let making = shared.making(BOB, "m.room.message").await;
        let (auth, prev) =
            (Some(vec![making.prev[0].clone(); auth]), vec![making.prev[0].clone(); prev]);
        let event = shared.make(Making { prev, auth, ..making }).await;
        let event_id = id_of(&event);
        assert!(matches!(shared.take(event).await, Verdict::Rejected(_)));
        assert!(shared.rooms.event_by_id(&shared.id, &event_id).await.unwrap().is_none());
    }
}

#[tokio::test]
async fn auth_events_of_another_room_are_not_here() {
    let shared = Shared::with(RoomVersionId::V10, &[BOB]).await;
    let other = Shared::with(RoomVersionId::V10, &[BOB]).await;
    let foreign = member_event(&other, BOB).await;
    let making = shared.making(BOB, "m.room.message").await;
    let event = shared.make(Making { auth: Some(vec![foreign.clone()]), ..making }).await;
    assert_eq!(shared.take(event.clone()).await, Verdict::MissingAuth(vec![foreign.clone()]));
    // Whoever finds out where they are has the event refused for good.
    let refused = shared.rooms.refuse_foreign(&shared.id, event.clone()).await.unwrap();
    assert!(matches!(refused, Verdict::Rejected(_)));
    let kept = shared.event(&id_of(&event)).await;
    assert_eq!(kept.header.standing, Standing::Rejected);
    assert!(matches!(shared.take(event.clone()).await, Verdict::Rejected(_)));
    let again = shared.rooms.refuse_foreign(&shared.id, event).await.unwrap();
    assert_eq!(again, Verdict::Known);
    assert_rows_follow(&shared.rooms, &shared.id).await;
    // Nor do they come in when they are handed over.
    let foreign = CheckedPdu::new(other.event(&foreign).await.pdu.clone());
    let verdicts = shared.rooms.receive_outliers(&shared.id, vec![foreign]).await.unwrap();
    assert!(matches!(verdicts[0], Verdict::Rejected(_)));
}

#[tokio::test]
async fn the_state_before_an_event_must_allow_it() {
    for version in VERSIONS {
        let shared = Shared::with(version, &[BOB, CAROL]).await;
        let stale = shared.message(BOB, "x").await.into_pdu().auth_events().to_vec();
        let content = json!({ "membership": "ban" });
        let ban = shared.state(ALICE, (MEMBER, BOB), content).await;
        assert_eq!(shared.take(ban).await, Verdict::Accepted);
        // By its own auth events Bob is still there; after the ban he is not.
        let making = shared.making(BOB, "m.room.message").await;
        let late = shared.make(Making { auth: Some(stale), ..making }).await;
        assert_rejected(&shared, late).await;
        assert_rows_follow(&shared.rooms, &shared.id).await;
    }
}

#[tokio::test]
async fn what_rests_on_a_rejected_event_is_rejected_and_what_follows_it_is_not() {
    for version in VERSIONS {
        let shared = Shared::with(version, &[BOB, CAROL]).await;
        let base = shared.tips().await;
        // Bob has no power to change levels.
        let content = json!({ "users": { BOB: 100 } });
        let usurped = shared.state(BOB, ("m.room.power_levels", ""), content).await;
        let usurped_id = id_of(&usurped);
        assert_rejected(&shared, usurped).await;

        let fitting = shared.message(BOB, "x").await.into_pdu().auth_events().to_vec();
        let levels = state_event(&shared, ("m.room.power_levels", "")).await;
        let swapped: Vec<_> = fitting
            .iter()
            .map(|id| if *id == levels { usurped_id.clone() } else { id.clone() })
            .collect();
        let making = shared.making(BOB, "m.room.message").await;
        let event = shared.make(Making { auth: Some(swapped), ..making }).await;
        assert_rejected(&shared, event).await;

        // An event after it stands on the state before it.
        let prev = vec![usurped_id.clone()];
        let making = shared.making(CAROL, "m.room.message").await;
        let after = shared.make(Making { prev, ..making }).await;
        assert_eq!(shared.take(after.clone()).await, Verdict::Accepted);
        assert_eq!(shared.tips().await, [id_of(&after)], "it follows {base:?} through it");
        assert_eq!(state_event(&shared, ("m.room.power_levels", "")).await, levels);

        // The same on a server that gets all of it at once.
        let twin = shared.full_twin_of_all("d.test").await;
        assert_eq!(current(&twin, &shared.id).await, current(&shared.rooms, &shared.id).await);
        assert!(!timeline(&twin, &shared.id).await.contains(&usurped_id));
    }
}

#[tokio::test]
async fn levels_are_integers_from_version_10_on() {
    for (version, fits) in [(RoomVersionId::V6, true), (RoomVersionId::V10, false)] {
        let shared = Shared::with(version, &[BOB]).await;
        let content = json!({ "users": { ALICE: "100", BOB: 50 } });
        let event = shared.state(ALICE, ("m.room.power_levels", ""), content).await;
        if fits {
            assert_eq!(shared.take(event).await, Verdict::Accepted);
        } else {
            assert_rejected(&shared, event).await;
        }
    }
}

#[tokio::test]
async fn creators_of_version_12_need_no_level_and_may_have_none() {
    let shared = Shared::with(RoomVersionId::V12, &[BOB]).await;
    let named = json!({ "users": { ALICE: 100, BOB: 50 } });
    let event = shared.state(ALICE, ("m.room.power_levels", ""), named).await;
    assert_rejected(&shared, event).await;
    let unnamed = json!({ "users": { BOB: 100 } });
    let event = shared.state(ALICE, ("m.room.power_levels", ""), unnamed).await;
    assert_eq!(shared.take(event).await, Verdict::Accepted);
    // Whatever the level, the creator stands above it.
    let ban = shared.state(BOB, (MEMBER, ALICE), json!({ "membership": "ban" })).await;
    assert_rejected(&shared, ban).await;
    let ban = shared.state(ALICE, (MEMBER, BOB), json!({ "membership": "ban" })).await;
    assert_eq!(shared.take(ban).await, Verdict::Accepted);
}

#[tokio::test]
async fn version_12_names_the_create_event_by_the_room_alone() {
    let shared = Shared::with(RoomVersionId::V12, &[BOB]).await;
    let create = shared.rooms.event(&shared.id, 0).await.unwrap().header.event_id.clone();
    let room = shared.id.as_str().trim_start_matches('!');
    assert_eq!(create.as_str().trim_start_matches('$'), room);
    let fitting = shared.message(BOB, "x").await.into_pdu().auth_events().to_vec();
    assert!(!fitting.contains(&create));
    let making = shared.making(BOB, "m.room.message").await;
    let auth = Some([fitting, vec![create]].concat());
    let event = shared.make(Making { auth, ..making }).await;
    assert_rejected(&shared, event).await;
}

/// The current event at a state key.
async fn state_event(shared: &Shared, key: (&str, &str)) -> OwnedEventId {
    let head = shared.rooms.head(&shared.id).await.unwrap().unwrap();
    let event = shared.rooms.state_event(&shared.id, head.state, key.0, key.1).await.unwrap();
    event.unwrap().header.event_id.clone()
}

async fn member_event(shared: &Shared, user: &str) -> OwnedEventId {
    state_event(shared, (MEMBER, user)).await
}

#[tokio::test]
async fn outliers_are_judged_by_their_auth_events_alone() {
    let shared = Shared::with(RoomVersionId::V11, &[BOB]).await;
    let twin = shared.full_twin("c.test").await;
    let usurped = shared.state(BOB, ("m.room.power_levels", ""), json!({})).await;
    let topic = shared.state(ALICE, ("m.room.topic", ""), json!({ "topic": "x" })).await;
    let (bad, good) = (id_of(&usurped), id_of(&topic));
    let verdicts = twin.receive_outliers(&shared.id, vec![usurped.clone(), topic]).await.unwrap();
    assert!(matches!(verdicts[..], [Verdict::Rejected(_), Verdict::Accepted]), "{verdicts:?}");
    let standing = async |id: &EventId| {
        twin.event_by_id(&shared.id, id).await.unwrap().unwrap().header.standing
    };
    assert_eq!(standing(&bad).await, Standing::Rejected);
    assert_eq!(standing(&good).await, Standing::Outlier);
    assert_eq!(current(&twin, &shared.id).await, current(&shared.rooms, &shared.id).await);
    // It gets a place in the graph when it comes in its turn, and stays what it is.
    assert!(matches!(receive(&twin, &shared.id, usurped.clone()).await, Verdict::Rejected(_)));
    assert_eq!(receive(&twin, &shared.id, usurped).await, Verdict::Known);
    let bob = UserId::parse(BOB).unwrap();
    assert!(twin.member_row(&shared.id, &bob).await.unwrap().is_some());
}
