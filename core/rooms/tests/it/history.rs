//! History from before a join by way of another server.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use async_trait::async_trait;
use hearth_rooms::{
    CheckedPdu, DirectoryPage, DirectoryQuery, MAX_HISTORY, RemoteAlias, RemoteHierarchy,
    RemoteInvite, RemoteMembership, RemoteRooms, RoomError, Rooms, Teller, Verdict,
    read::{Ignored, MessagesRequest, TimelineFilter, TimelineToken},
    schema::{self, Standing, TimelineIndex},
};
use hearth_storage::Direction;
use parking_lot::Mutex;
use ruma::{
    MilliSecondsSinceUnixEpoch, OwnedEventId, OwnedRoomAliasId, OwnedRoomId, OwnedServerName,
    RoomId, RoomVersionId, UserId, server_name,
};
use serde_json::json;

use crate::{
    elsewhere::{FAR_ADMIN, FarRoom, Sketch},
    fixture::{Server, check_pages, user},
};

/// The state before the `n`-th event of a room, as event IDs.
fn state_before(far: &FarRoom, n: usize) -> Vec<OwnedEventId> {
    let mut state = BTreeMap::new();
    for event in &far.events[..n] {
        let pdu = event.pdu();
        if let Some(key) = pdu.state_key() {
            state.insert((pdu.kind().to_string(), key.to_owned()), pdu.id().to_owned());
        }
    }
    state.into_values().collect()
}

/// The place of an event among those of its room.
fn place(far: &FarRoom, event_id: &OwnedEventId) -> usize {
    far.events.iter().position(|event| event.pdu().id() == event_id).unwrap()
}

/// Another server that is asked for history, `at_a_time` events.
struct Archive {
    rooms: Rooms,
    far: Mutex<FarRoom>,
    at_a_time: usize,
}

impl Archive {
    fn plug_in(server: &Server, far: &FarRoom, at_a_time: usize) -> Arc<Self> {
        let far = Mutex::new(far.clone());
        let archive = Arc::new(Self { rooms: server.rooms.clone(), far, at_a_time });
        server.rooms.set_remote(archive.clone());
        archive
    }
}

#[async_trait]
impl RemoteRooms for Archive {
    async fn backfill(&self, room_id: &RoomId, _limit: usize) -> Result<bool, RoomError> {
        let gaps = self.rooms.history_gaps(room_id, 1).await?;
        let Some((missing, _)) = gaps.first() else { return Ok(false) };
        let far = self.far.lock().clone();
        let last = place(&far, missing) + 1;
        let first = last.saturating_sub(self.at_a_time);
        let mut events: Vec<CheckedPdu> = far.events[first..last].to_vec();
        // In an order that says nothing.
        events.sort_by_key(|event| event.pdu().id().to_owned());
        let told = vec![(far.events[first].pdu().id().to_owned(), state_before(&far, first))];
        let told = if first == 0 { Vec::new() } else { told };
        let verdicts =
            self.rooms.receive_history(room_id, events, told, server_name!("far.test")).await?;
        Ok(verdicts.contains(&Verdict::Accepted))
    }

    async fn join(&self, _: RemoteMembership) -> Result<OwnedEventId, RoomError> {
        Err(RoomError::Busy)
    }

    async fn knock(&self, _: RemoteMembership) -> Result<OwnedEventId, RoomError> {
        Err(RoomError::Busy)
    }

    async fn leave(&self, _: RemoteMembership) -> Result<OwnedEventId, RoomError> {
        Err(RoomError::Busy)
    }

    async fn invite(&self, _: RemoteInvite) -> Result<CheckedPdu, RoomError> {
        Err(RoomError::Busy)
    }

    async fn policy_signature(
        &self,
        _: OwnedServerName,
        _: CheckedPdu,
    ) -> Result<String, RoomError> {
        Err(RoomError::Busy)
    }

    async fn resolve_alias(&self, _: OwnedRoomAliasId) -> Result<RemoteAlias, RoomError> {
        Err(RoomError::Busy)
    }

    async fn public_rooms(
        &self,
        _: OwnedServerName,
        _: DirectoryQuery,
    ) -> Result<DirectoryPage, RoomError> {
        Err(RoomError::Busy)
    }

    async fn hierarchy(
        &self,
        _: OwnedRoomId,
        _: bool,
        _: Vec<OwnedServerName>,
    ) -> Result<RemoteHierarchy, RoomError> {
        Err(RoomError::Busy)
    }

    async fn timestamp_to_event(
        &self,
        _: &RoomId,
        _: MilliSecondsSinceUnixEpoch,
        _: ruma::api::Direction,
    ) -> Result<Option<(OwnedEventId, MilliSecondsSinceUnixEpoch)>, RoomError> {
        Ok(None)
    }
}

/// All that a user reads backwards from the end, page by page, oldest first.
async fn read_all(
    server: &Server,
    room_id: &RoomId,
    user_id: &UserId,
    limit: usize,
) -> Vec<OwnedEventId> {
    let mut read = Vec::new();
    let mut from: Option<TimelineToken> = None;
    for _ in 0..1_000 {
        let request = MessagesRequest {
            from,
            to: None,
            direction: Direction::Backward,
            limit,
            filter: TimelineFilter::default(),
        };
        let page = server.rooms.messages(room_id, user_id, &Ignored::default(), &request).await;
        let page = page.unwrap();
        read.extend(page.events.iter().map(|event| event.header.event_id.clone()));
        let Some(end) = page.end else {
            read.reverse();
            return read;
        };
        // As clients have it.
        from = Some(end.to_string().parse().unwrap());
    }
    panic!("the history does not end");
}

fn ids(events: &[CheckedPdu]) -> Vec<OwnedEventId> {
    events.iter().map(|event| event.pdu().id().to_owned()).collect()
}

#[tokio::test]
async fn history_is_read_to_the_beginning_in_its_order() {
    for version in [RoomVersionId::V6, RoomVersionId::V11, RoomVersionId::V12] {
        let server = Server::new().await;
        let mut far = FarRoom::new(version);
        far.join("@bob:far.test");
        for n in 0..70 {
            far.say(if n % 2 == 0 { FAR_ADMIN } else { "@bob:far.test" }, &format!("text {n}"));
            if n % 20 == 19 {
                far.put("m.room.topic", "", json!({ "topic": n }));
            }
        }
        let alice = user("alice");
        server.rooms.admit_join(far.answer_join(alice.as_str())).await.unwrap();
        let head = server.rooms.head(&far.id).await.unwrap().unwrap();
        Archive::plug_in(&server, &far, 7);
        assert_eq!(read_all(&server, &far.id, &alice, 10).await, ids(&far.events));
        assert!(server.rooms.history_gaps(&far.id, 9).await.unwrap().is_empty());
        // And once more, from what is here now; in pages of another size.
        assert_eq!(read_all(&server, &far.id, &alice, 3).await, ids(&far.events));

        let now = server.rooms.head(&far.id).await.unwrap().unwrap();
        assert_eq!((&now.extremities, now.state), (&head.extremities, head.state));
        assert_eq!((now.joined_members, now.notify_total), (head.joined_members, 0));
        for (n, event) in far.events.iter().enumerate() {
            let stored = server.event(&far.id, &event.pdu().id().to_owned()).await;
            let state = server.rooms.state_events(
                &far.id,
                stored.header.state_before,
                hearth_rooms::read::StatePart::All,
            );
            let state: HashSet<_> =
                state.await.unwrap().iter().map(|event| event.header.event_id.clone()).collect();
            assert_eq!(state, state_before(&far, n).into_iter().collect(), "before event {n}");
        }
    }
}

#[tokio::test]
async fn history_that_comes_behind_what_was_read_is_read() {
    let server = Server::new().await;
    let mut far = FarRoom::new(RoomVersionId::V11);
    far.say(FAR_ADMIN, "before");
    let alice = user("alice");
    server.rooms.admit_join(far.answer_join(alice.as_str())).await.unwrap();
    let archive = Archive::plug_in(&server, &far, 1);
    check_pages(&server.rooms, &far.id).await;
    let mut pieces = 0;
    while archive.backfill(&far.id, 1).await.unwrap() {
        check_pages(&server.rooms, &far.id).await;
        pieces += 1;
    }
    assert!(pieces > 3, "more than are remembered of a room");
}

#[tokio::test]
async fn what_was_missed_between_two_stays_is_read_between_them() {
    let server = Server::new().await;
    let mut far = FarRoom::new(RoomVersionId::V11);
    let alice = user("alice");
    server.rooms.admit_join(far.answer_join(alice.as_str())).await.unwrap();
    let leave = server.rooms.leave(&far.id, &alice, None).await.unwrap();
    let leave = server.event(&far.id, &leave).await;
    far.add(CheckedPdu::new(leave.pdu.clone()));
    for n in 0..30 {
        far.say(FAR_ADMIN, &format!("away {n}"));
    }
    server.rooms.admit_join(far.answer_join(alice.as_str())).await.unwrap();
    let back = server.say(&far.id, &alice, "back").await.unwrap();
    Archive::plug_in(&server, &far, 12);
    let mut expected = ids(&far.events);
    expected.push(back);
    for limit in [4, 7, 100] {
        assert_eq!(read_all(&server, &far.id, &alice, limit).await, expected);
    }
}

#[tokio::test]
async fn only_what_the_state_of_that_time_allows_is_shown() {
    let server = Server::new().await;
    let mut far = FarRoom::new(RoomVersionId::V11);
    far.say(FAR_ADMIN, "for members to come");
    let hidden = json!({ "history_visibility": "joined" });
    far.put("m.room.history_visibility", "", hidden);
    let secret = far.say(FAR_ADMIN, "secret");
    far.put("m.room.history_visibility", "", json!({ "history_visibility": "shared" }));
    let open = far.say(FAR_ADMIN, "open again");
    let alice = user("alice");
    server.rooms.admit_join(far.answer_join(alice.as_str())).await.unwrap();
    Archive::plug_in(&server, &far, 5);
    let mut expected = ids(&far.events);
    expected.retain(|event_id| event_id != secret.pdu().id());
    assert_eq!(read_all(&server, &far.id, &alice, 4).await, expected);
    let shown = server.rooms.readable_event(&far.id, &alice, open.pdu().id()).await;
    shown.unwrap();
    let kept = server.rooms.readable_event(&far.id, &alice, secret.pdu().id()).await;
    assert!(matches!(kept, Err(RoomError::UnknownEvent)), "{kept:?}");
}

#[tokio::test]
async fn history_that_was_not_allowed_is_kept_out_of_sight_and_passed_over() {
    let server = Server::new().await;
    let mut far = FarRoom::new(RoomVersionId::V11);
    far.say(FAR_ADMIN, "first");
    let sketch = Sketch {
        sender: "@stranger:far.test",
        kind: "m.room.message",
        state_key: None,
        content: json!({ "body": "never joined" }),
    };
    let forged = far.sign(sketch);
    far.add(forged.clone());
    far.say(FAR_ADMIN, "last");
    let alice = user("alice");
    server.rooms.admit_join(far.answer_join(alice.as_str())).await.unwrap();
    Archive::plug_in(&server, &far, 1);
    let mut expected = ids(&far.events);
    expected.retain(|event_id| event_id != forged.pdu().id());
    assert_eq!(read_all(&server, &far.id, &alice, 100).await, expected);
    let stored = server.event(&far.id, &forged.pdu().id().to_owned()).await;
    assert_eq!((stored.header.standing, stored.index), (Standing::Rejected, None));
}

#[tokio::test]
async fn an_island_of_history_stands_where_its_depth_puts_it() {
    let server = Server::new().await;
    let mut far = FarRoom::new(RoomVersionId::V11);
    for n in 0..60 {
        far.say(FAR_ADMIN, &format!("text {n}"));
    }
    let alice = user("alice");
    server.rooms.admit_join(far.answer_join(alice.as_str())).await.unwrap();
    let island = far.events[20..30].to_vec();
    let told = vec![(island[0].pdu().id().to_owned(), state_before(&far, 20))];
    let verdicts = server
        .rooms
        .receive_history(&far.id, island.clone(), told, server_name!("far.test"))
        .await
        .unwrap();
    assert_eq!(verdicts, vec![Verdict::Accepted; 10]);
    let verdicts = server
        .rooms
        .receive_history(&far.id, island, Vec::new(), server_name!("far.test"))
        .await
        .unwrap();
    assert_eq!(verdicts, vec![Verdict::Known; 10]);
    Archive::plug_in(&server, &far, 9);
    assert_eq!(read_all(&server, &far.id, &alice, 8).await, ids(&far.events));
}

#[tokio::test]
async fn history_without_a_state_to_begin_with_is_not_taken() {
    let server = Server::new().await;
    let mut far = FarRoom::new(RoomVersionId::V11);
    for n in 0..3 {
        far.say(FAR_ADMIN, &format!("text {n}"));
    }
    let alice = user("alice");
    server.rooms.admit_join(far.answer_join(alice.as_str())).await.unwrap();
    let count = far.events.len();
    let before = far.events[count - 3].pdu().id().to_owned();
    let events = far.events[count - 2..count - 1].to_vec();
    let verdicts = server
        .rooms
        .receive_history(&far.id, events, Vec::new(), server_name!("far.test"))
        .await
        .unwrap();
    assert_eq!(verdicts, [Verdict::MissingPrev(vec![before])]);
    let many = vec![far.events[0].clone(); MAX_HISTORY + 1];
    let refused =
        server.rooms.receive_history(&far.id, many, Vec::new(), server_name!("far.test")).await;
    assert!(matches!(refused, Err(RoomError::InvalidParam(_))), "{refused:?}");
}

#[tokio::test]
async fn a_thread_and_a_redaction_of_the_past_are_what_they_were() {
    let server = Server::new().await;
    let mut far = FarRoom::new(RoomVersionId::V11);
    let root = far.say(FAR_ADMIN, "root").pdu().id().to_owned();
    let slip = far.say(FAR_ADMIN, "slip").pdu().id().to_owned();
    let reply = |body: &str| Sketch {
        sender: FAR_ADMIN,
        kind: "m.room.message",
        state_key: None,
        content: json!({
            "body": body,
            "m.relates_to": { "rel_type": "m.thread", "event_id": root },
        }),
    };
    for body in ["one", "two"] {
        let event = far.sign(reply(body));
        far.add(event);
    }
    let redaction = far.sign(Sketch {
        sender: FAR_ADMIN,
        kind: "m.room.redaction",
        state_key: None,
        content: json!({ "redacts": slip }),
    });
    far.add(redaction);
    let alice = user("alice");
    server.rooms.admit_join(far.answer_join(alice.as_str())).await.unwrap();
    // The redaction comes before what it redacts, the replies before their root.
    Archive::plug_in(&server, &far, 2);
    read_all(&server, &far.id, &alice, 100).await;
    let thread = server.rooms.store().get(&schema::THREADS, &far.id, &root).await.unwrap().unwrap();
    assert_eq!(thread.count, 2);
    let last = server.rooms.event(&far.id, thread.latest).await.unwrap();
    assert!(last.pdu.content().get().contains("two"));
    let slip = server.event(&far.id, &slip).await;
    assert!(slip.header.redacted_by.is_some());
    assert!(!slip.pdu.content().get().contains("slip"));
    assert!(matches!(slip.index, Some(TimelineIndex::History { .. })));
}

/// Messages with told states that name previous events which nobody has ever seen.
async fn invent(server: &Server, far: &FarRoom, messages: usize) {
    let state = state_before(far, far.events.len());
    let mut fork = far.clone();
    fork.depth = 1_000;
    for n in 0..messages {
        fork.tips = (0..20)
            .map(|m| OwnedEventId::try_from(format!("$!!{:!>40}", n * 20 + m)).unwrap())
            .collect();
        let content = json!({ "body": "invented" });
        let sketch = Sketch { sender: FAR_ADMIN, kind: "m.room.message", state_key: None, content };
        let event = fork.sign(sketch);
        let verdict =
            server.rooms.receive_with_state(&far.id, event, state.clone(), Teller::Author).await;
        assert_eq!(verdict.unwrap(), Verdict::Accepted);
    }
}

#[tokio::test]
async fn invented_previous_events_do_not_hide_history() {
    let server = Server::new().await;
    let mut far = FarRoom::new(RoomVersionId::V11);
    far.say(FAR_ADMIN, "before");
    let alice = user("alice");
    let answer = far.answer_join(alice.as_str());
    let real = answer.event.pdu().prev_events()[0].clone();
    server.rooms.admit_join(answer).await.unwrap();
    invent(&server, &far, 6).await;
    let gaps = server.rooms.history_gaps(&far.id, 20).await.unwrap();
    assert!(gaps.iter().any(|(missing, _)| *missing == real), "{gaps:?}");
}

#[tokio::test]
async fn what_no_server_has_is_asked_for_less_and_in_the_end_no_more() {
    let server = Server::new().await;
    let mut far = FarRoom::new(RoomVersionId::V11);
    far.say(FAR_ADMIN, "before");
    let answer = far.answer_join(user("alice").as_str());
    let real = answer.event.pdu().prev_events()[0].clone();
    server.rooms.admit_join(answer).await.unwrap();
    invent(&server, &far, 2).await;
    let ask = || async {
        let gaps = server.rooms.history_gaps(&far.id, 20).await.unwrap();
        gaps.into_iter().map(|(missing, _)| missing).collect::<Vec<_>>()
    };
    let asked = ask().await;
    assert_eq!(asked.iter().filter(|missing| **missing != real).count(), 6, "three of each event");
    server.rooms.history_not_had(&far.id, asked.clone()).await.unwrap();
    let again = ask().await;
    assert!(!again.iter().any(|missing| asked.contains(missing) && *missing != real), "{again:?}");
    let mut rounds = 0;
    while ask().await != [real.clone()] {
        let mut asked = ask().await;
        asked.retain(|missing| *missing != real);
        server.rooms.history_not_had(&far.id, asked).await.unwrap();
        rounds += 1;
        assert!(rounds < 40 * schema::MAX_GAP_TRIES, "they are asked for for ever");
    }
}
