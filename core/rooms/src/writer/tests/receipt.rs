//! Single events: what is taken, and what it changes.

use hearth_storage::Direction;
use ruma::{RoomId, RoomVersionId, UserId, server_name};
use serde_json::json;

use super::*;
use crate::{
    Teller,
    read::TimelineToken,
    schema::{HISTORY_GAPS, LOG_ROOM_EVENT, RELATIONS, log_forwarding, log_ordinal},
};

const BOB: &str = "@bob:b.test";
const CAROL: &str = "@carol:c.test";

#[tokio::test]
async fn events_of_others_enter_the_timeline_and_the_state() {
    for version in VERSIONS {
        let shared = Shared::with(version, &[BOB]).await;
        let message = shared.message(BOB, "hello").await;
        let event_id = message.pdu().id().to_owned();
        assert_eq!(shared.take(message.clone()).await, Verdict::Accepted);
        assert_eq!(shared.take(message).await, Verdict::Known);
        assert_eq!(timeline(&shared.rooms, &shared.id).await.last(), Some(&event_id));
        assert_eq!(shared.tips().await, std::slice::from_ref(&event_id));
        assert_rows_follow(&shared.rooms, &shared.id).await;

        // The next local event follows it.
        let alice = UserId::parse("@alice:hs.test").unwrap();
        let text = RawValue::from_string(json!({ "body": "hi" }).to_string()).unwrap();
        let draft = crate::Draft::message(alice, "m.room.message".into(), text);
        let reply = shared.rooms.send(&shared.id, draft, None).await.unwrap();
        assert_eq!(shared.event(&reply).await.pdu.prev_events(), [event_id]);
    }
}

#[tokio::test]
async fn the_log_says_who_passes_an_event_on() {
    let shared = Shared::with(RoomVersionId::V11, &[BOB]).await;
    let from = shared.rooms.store().notifier().published();
    let elsewhere = shared.message(BOB, "one").await;
    shared.take(elsewhere.clone()).await;
    let here = shared.message(BOB, "two").await;
    let verdict = shared.rooms.admit_event(&shared.id, here.clone()).await.unwrap();
    assert_eq!(verdict, Verdict::Accepted);
    let log = shared.rooms.store().log_after(from, 100).await.unwrap();
    let mut told = Vec::new();
    for record in log.iter().filter(|record| record.entry.kind == LOG_ROOM_EVENT) {
        let ordinal = log_ordinal(&record.entry.payload).unwrap();
        let event = shared.rooms.event(&shared.id, ordinal).await.unwrap();
        told.push((event.header.event_id.clone(), log_forwarding(&record.entry.payload)));
    }
    let id = |event: &CheckedPdu| event.pdu().id().to_owned();
    let expected = [(id(&elsewhere), Forwarding::Elsewhere), (id(&here), Forwarding::Here)];
    assert_eq!(told, expected);
}

#[tokio::test]
async fn what_an_event_rests_on_must_be_here() {
    let shared = Shared::with(RoomVersionId::V10, &[BOB]).await;
    let first = shared.message(BOB, "first").await;
    let (base, first_id) = (shared.tips().await, first.pdu().id().to_owned());
    let twin = shared.full_twin("c.test").await;
    shared.take(first.clone()).await;
    let second = shared.message(BOB, "second").await;
    let verdict = receive(&twin, &shared.id, second.clone()).await;
    assert_eq!(verdict, Verdict::MissingPrev(vec![first_id]));

    let unknown = OwnedEventId::try_from("$unknown").unwrap();
    let making = shared.making(BOB, "m.room.message").await;
    let auth = Some(vec![unknown.clone()]);
    let event = shared.make(Making { auth, prev: base, ..making }).await;
    assert_eq!(receive(&twin, &shared.id, event).await, Verdict::MissingAuth(vec![unknown]));

    // Several at once, in order.
    let verdicts = twin.receive(&shared.id, vec![first, second]).await.unwrap();
    assert_eq!(verdicts, [Verdict::Accepted, Verdict::Accepted]);
}

#[tokio::test]
async fn a_long_list_is_received_whole() {
    let shared = Shared::with(RoomVersionId::V11, &[BOB]).await;
    let twin = shared.full_twin("c.test").await;
    for number in 0..120 {
        let message = shared.message(BOB, &number.to_string()).await;
        assert_eq!(shared.take(message).await, Verdict::Accepted);
    }
    let verdicts = twin.receive(&shared.id, shared.history().await).await.unwrap();
    assert_eq!(verdicts.iter().filter(|v| **v == Verdict::Accepted).count(), 120);
    assert_eq!(current(&twin, &shared.id).await, current(&shared.rooms, &shared.id).await);
}

#[tokio::test]
async fn events_of_other_rooms_and_second_create_events_are_refused() {
    for version in VERSIONS {
        let shared = Shared::with(version.clone(), &[BOB]).await;
        let other = Shared::with(version, &[BOB]).await;
        let stray = other.message(BOB, "stray").await;
        let id = stray.pdu().id().to_owned();
        assert!(matches!(shared.take(stray).await, Verdict::Rejected(_)));
        assert!(shared.rooms.event_by_id(&shared.id, &id).await.unwrap().is_none());

        let making = shared.making(BOB, "m.room.create").await;
        let content = json!({ "creator": BOB });
        let (prev, auth) = (Vec::new(), Some(Vec::new()));
        let create = Making { state_key: Some(""), content, prev, auth, ..making };
        let create = shared.make(create).await;
        assert!(matches!(shared.take(create).await, Verdict::Rejected(_)));
    }
}

#[tokio::test]
async fn a_forged_depth_does_not_stop_the_room() {
    let shared = Shared::with(RoomVersionId::V12, &[BOB]).await;
    let making = shared.making(BOB, "m.room.message").await;
    let depth = (1 << 53) - 1;
    let forged = shared.make(Making { depth, ..making }).await;
    assert_eq!(shared.take(forged).await, Verdict::Accepted);
    let next = shared.message(BOB, "after").await;
    assert_eq!(shared.take(next).await, Verdict::Accepted);
    let alice = UserId::parse("@alice:hs.test").unwrap();
    let text = RawValue::from_string("{}".to_owned()).unwrap();
    let draft = crate::Draft::message(alice, "m.room.message".into(), text);
    assert!(shared.rooms.send(&shared.id, draft, None).await.is_ok());
}

#[tokio::test]
async fn a_redaction_waits_for_its_target() {
    for version in VERSIONS {
        let shared = Shared::with(version, &[BOB, CAROL]).await;
        let base = shared.tips().await;
        let target = shared.message(BOB, "secret").await;
        let target_id = target.pdu().id().to_owned();
        let making = shared.making(BOB, "m.room.redaction").await;
        let redacts = Some(target_id.clone());
        let own = shared.make(Making { redacts: redacts.clone(), ..making }).await;
        let making = shared.making(CAROL, "m.room.redaction").await;
        let foreign = shared.make(Making { redacts, prev: base, ..making }).await;
        let foreign_id = foreign.pdu().id().to_owned();

        // Of another server and without the power: of no effect.
        assert_eq!(shared.take(foreign.clone()).await, Verdict::Accepted);
        assert_eq!(shared.take(target.clone()).await, Verdict::Accepted);
        assert_eq!(shared.event(&target_id).await.header.redacted_by, None);
        assert_eq!(shared.take(own.clone()).await, Verdict::Accepted);
        assert!(shared.event(&target_id).await.header.redacted_by.is_some());

        let twin = shared.twin("d.test").await;
        let mut history = shared.history().await;
        history.retain(|event| event.pdu().id() != target_id);
        // The redacted bytes do not matter here.
        assert!(history.iter().any(|event| event.pdu().id() == foreign_id));
        twin.receive(&shared.id, history).await.unwrap();
        assert_eq!(receive(&twin, &shared.id, target).await, Verdict::Accepted);
        let late = twin.event_by_id(&shared.id, &target_id).await.unwrap().unwrap();
        let by = twin.event(&shared.id, late.header.redacted_by.unwrap()).await.unwrap();
        assert_eq!(by.pdu.id(), own.pdu().id());
        assert!(!late.pdu.content().get().contains("secret"));
    }
}

/// Does a reader on another server who may see the whole room see this event?
async fn is_seen(rooms: &Rooms, room_id: &RoomId, event: &CheckedPdu) -> bool {
    let alice = UserId::parse("@alice:hs.test").unwrap();
    let stored = rooms.event_by_id(room_id, event.pdu().id()).await.unwrap().unwrap();
    rooms.visibility(room_id, &alice).await.unwrap().can_see(&stored).await.unwrap()
}

#[tokio::test]
async fn a_redaction_is_seen_with_its_target() {
    for version in VERSIONS {
        let shared = Shared::with(version.clone(), &[BOB, CAROL]).await;
        let twin = shared.full_twin("d.test").await;
        let target = shared.message(BOB, "secret").await;
        let mut redactions = Vec::new();
        for sender in [BOB, CAROL] {
            let making = shared.making(sender, "m.room.redaction").await;
            let redacts = Some(target.pdu().id().to_owned());
            let redaction = shared.make(Making { redacts, ..making }).await;
            assert_eq!(receive(&twin, &shared.id, redaction.clone()).await, Verdict::Accepted);
            assert!(!is_seen(&twin, &shared.id, &redaction).await, "nobody knows of what room");
            redactions.push(redaction);
        }
        assert_eq!(receive(&twin, &shared.id, target.clone()).await, Verdict::Accepted);
        assert!(is_seen(&twin, &shared.id, &target).await);
        assert!(is_seen(&twin, &shared.id, &redactions[0]).await);
        assert!(!is_seen(&twin, &shared.id, &redactions[1]).await, "who may not redact it");

        // A second one is of no effect and does no harm.
        let making = shared.making(BOB, "m.room.redaction").await;
        let redacts = Some(target.pdu().id().to_owned());
        let again = shared.make(Making { redacts, depth: 51, ..making }).await;
        assert_eq!(receive(&twin, &shared.id, again.clone()).await, Verdict::Accepted);
        assert!(is_seen(&twin, &shared.id, &again).await);
    }
}

#[tokio::test]
async fn relations_and_notifications_of_others_count() {
    let shared = Shared::with(RoomVersionId::V11, &[BOB]).await;
    let root = shared.message(BOB, "root").await;
    let root_id = root.pdu().id().to_owned();
    shared.take(root).await;
    let react = json!({ "m.relates_to": {
        "rel_type": "m.annotation", "event_id": root_id, "key": "+"
    } });
    for at in [1, 2] {
        let making = shared.making(BOB, "m.reaction").await;
        let reaction = shared.make(Making { content: react.clone(), at, ..making }).await;
        assert_eq!(shared.take(reaction.clone()).await, Verdict::Accepted, "also the second");
        // A thread that begins at a reaction has no summary, but is no fault of the room.
        let making = shared.making(BOB, "m.room.message").await;
        let relates = json!({ "m.relates_to": {
            "rel_type": "m.thread", "event_id": reaction.pdu().id()
        } });
        let reply = shared.make(Making { content: relates, at, ..making }).await;
        assert_eq!(shared.take(reply).await, Verdict::Accepted);
    }
    let rows = shared.rooms.store();
    let rows = rows.page(&RELATIONS, &shared.id, .., Direction::Forward, 10).await.unwrap();
    assert_eq!(rows.len(), 4);
    let head = shared.rooms.head(&shared.id).await.unwrap().unwrap();
    assert_eq!(head.notify_total, 3);
}

#[tokio::test]
async fn outliers_come_in_any_order_and_can_be_promoted() {
    let shared = Shared::with(RoomVersionId::V10, &[BOB]).await;
    let twin = shared.twin("c.test").await;
    let mut history = shared.history().await;
    history.remove(0);
    history.reverse();
    let verdicts = twin.receive_outliers(&shared.id, history.clone()).await.unwrap();
    assert!(verdicts.iter().all(|verdict| *verdict == Verdict::Accepted), "{verdicts:?}");
    let head = twin.head(&shared.id).await.unwrap().unwrap();
    assert_eq!((head.extremities.len(), head.joined_members), (1, 0));
    let ordinal = twin.ordinal_of(&shared.id, history[0].pdu().id()).await.unwrap();

    history.reverse();
    let verdicts = twin.receive(&shared.id, history.clone()).await.unwrap();
    assert!(verdicts.iter().all(|verdict| *verdict == Verdict::Accepted), "{verdicts:?}");
    let last = history.last().unwrap().pdu().id();
    assert_eq!(twin.ordinal_of(&shared.id, last).await.unwrap(), ordinal, "its number stays");
    assert_eq!(current(&twin, &shared.id).await, current(&shared.rooms, &shared.id).await);
    assert_rows_follow(&twin, &shared.id).await;
    number(&twin, &shared.id, (MEMBER, BOB)).await;
}

#[tokio::test]
async fn a_gap_is_bridged_with_a_told_state() {
    for version in VERSIONS {
        let shared = Shared::with(version, &[BOB]).await;
        let twin = shared.full_twin("c.test").await;
        let local = "@dan:c.test";
        shared.join(local).await;
        let missed = shared.message(BOB, "missed").await;
        shared.take(missed.clone()).await;
        let state: Vec<_> = current(&shared.rooms, &shared.id).await;
        let ids: Vec<OwnedEventId> =
            state.iter().map(|(_, _, id)| OwnedEventId::try_from(id.as_str()).unwrap()).collect();
        let next = shared.message(BOB, "next").await;
        shared.take(next.clone()).await;

        let teller = Teller::Author;
        let told = twin.receive_with_state(&shared.id, next.clone(), ids.clone(), teller).await;
        let told = told.unwrap();
        assert!(matches!(told, Verdict::MissingAuth(missing) if missing.len() == 1));
        let outliers = shared.history().await;
        let outliers: Vec<_> = outliers
            .into_iter()
            .filter(|event| ids.iter().any(|id| id == event.pdu().id()))
            .collect();
        twin.receive_outliers(&shared.id, outliers).await.unwrap();
        let told = twin.receive_with_state(&shared.id, next.clone(), ids, teller).await.unwrap();
        assert_eq!(told, Verdict::Accepted);
        assert_eq!(current(&twin, &shared.id).await, state);
        assert_rows_follow(&twin, &shared.id).await;
        let rows = twin.store().page(&HISTORY_GAPS, &shared.id, .., Direction::Forward, 9).await;
        let gaps: Vec<_> = rows.unwrap().into_iter().map(|(event_id, _)| event_id).collect();
        assert_eq!(gaps, [missed.pdu().id().to_owned()]);

        // What fills the gap changes nothing that is current.
        let history = shared.history().await;
        let verdicts = twin.receive(&shared.id, history).await.unwrap();
        assert!(verdicts.iter().all(|v| matches!(v, Verdict::Accepted | Verdict::Known)));
        let rows = twin.store().page(&HISTORY_GAPS, &shared.id, .., Direction::Forward, 9).await;
        assert!(rows.unwrap().is_empty());
        assert_eq!(current(&twin, &shared.id).await, state);
        let latest = TimelineToken::at_position(twin.store().notifier().published());
        let head = twin.head(&shared.id).await.unwrap().unwrap();
        assert_eq!(twin.state_at(&shared.id, latest).await.unwrap(), head.state);
    }
}

#[tokio::test]
async fn a_told_state_has_an_event_rejected_for_good_only_by_its_author() {
    for teller in [Teller::Author, Teller::Other] {
        let shared = Shared::with(RoomVersionId::V11, &[BOB]).await;
        let twin = shared.full_twin("c.test").await;
        shared.take(shared.message(BOB, "missed").await).await;
        let next = shared.message(BOB, "next").await;
        shared.take(next.clone()).await;
        // A state in which Bob is not.
        let state = current(&shared.rooms, &shared.id).await.into_iter();
        let without_bob = state.filter(|(_, key, _)| key != BOB);
        let ids = without_bob.map(|(_, _, id)| OwnedEventId::try_from(id.as_str()).unwrap());
        let told = twin.receive_with_state(&shared.id, next.clone(), ids.collect(), teller).await;
        assert!(matches!(told, Ok(Verdict::Rejected(_))), "{told:?}");

        let verdicts = twin.receive(&shared.id, shared.history().await).await.unwrap();
        let known = verdicts.last() == Some(&Verdict::Known);
        assert_eq!(known, teller == Teller::Author, "{verdicts:?}");
        assert_eq!(verdicts.last() == Some(&Verdict::Accepted), teller == Teller::Other);
        let event = twin.event_by_id(&shared.id, next.pdu().id()).await.unwrap().unwrap();
        let rejected = event.header.standing == Standing::Rejected;
        assert_eq!(rejected, teller == Teller::Author);
        assert_rows_follow(&twin, &shared.id).await;
    }
}

/// What a server tells of the state before the next event, without a user whom it keeps secret.
async fn told_without(shared: &Shared, user: &str) -> Vec<OwnedEventId> {
    let state = current(&shared.rooms, &shared.id).await.into_iter();
    let state = state.filter(|(_, key, _)| key != user);
    state.map(|(_, _, id)| OwnedEventId::try_from(id.as_str()).unwrap()).collect()
}

#[tokio::test]
async fn history_has_an_event_rejected_for_good_only_by_its_author() {
    for teller in [server_name!("b.test"), server_name!("c.test")] {
        let shared = Shared::with(RoomVersionId::V11, &[BOB, CAROL]).await;
        let (twin, id) = (shared.full_twin("t.test").await, &shared.id);
        shared.take(shared.message(CAROL, "missed").await).await;
        let told = told_without(&shared, BOB).await;
        let early = shared.message(BOB, "early").await;
        shared.take(early.clone()).await;
        let early_id = early.pdu().id().to_owned();
        let told = vec![(early_id.clone(), told)];
        let verdicts = twin.receive_history(id, vec![early], told, teller).await.unwrap();
        assert!(matches!(verdicts[..], [Verdict::Rejected(_)]), "{verdicts:?}");
        let kept = twin.event_by_id(id, &early_id).await.unwrap();
        assert_eq!(kept.is_some(), teller == "b.test", "{kept:?}");

        let verdicts = twin.receive(id, shared.history().await).await.unwrap();
        let expected = if teller == "b.test" { Verdict::Known } else { Verdict::Accepted };
        assert_eq!(verdicts.last(), Some(&expected));
    }
}

#[tokio::test]
async fn nor_does_history_that_rests_on_a_told_state() {
    let shared = Shared::with(RoomVersionId::V11, &[BOB, CAROL]).await;
    let (twin, id) = (shared.full_twin("t.test").await, &shared.id);
    shared.take(shared.message(BOB, "missed").await).await;
    let told = told_without(&shared, BOB).await;
    let early = shared.message(CAROL, "early").await;
    shared.take(early.clone()).await;
    let told = vec![(early.pdu().id().to_owned(), told)];
    let next = shared.message(BOB, "next").await;
    shared.take(next.clone()).await;
    let next_id = next.pdu().id().to_owned();

    let both = vec![early, next.clone()];
    let verdicts = twin.receive_history(id, both, told, server_name!("c.test")).await.unwrap();
    assert!(matches!(verdicts[..], [Verdict::Accepted, Verdict::Rejected(_)]), "{verdicts:?}");
    // By then the state before it is known, as it was told.
    for teller in [server_name!("c.test"), server_name!("b.test")] {
        let again = twin.receive_history(id, vec![next.clone()], Vec::new(), teller).await.unwrap();
        assert!(matches!(again[..], [Verdict::Rejected(_)]), "{again:?}");
        assert!(twin.event_by_id(id, &next_id).await.unwrap().is_none(), "not for good");
    }
}

#[tokio::test]
async fn history_that_names_what_is_to_come_keeps_nothing_out_of_the_forward_extremities() {
    for (sender, is_allowed) in [(BOB, true), ("@stranger:b.test", false)] {
        let shared = Shared::with(RoomVersionId::V11, &[BOB, CAROL]).await;
        let twin = shared.full_twin("t.test").await;
        let state: Vec<_> = current(&shared.rooms, &shared.id).await;
        let state: Vec<_> =
            state.iter().map(|(_, _, id)| OwnedEventId::try_from(id.as_str()).unwrap()).collect();
        let news = shared.message(CAROL, "news").await;
        assert_eq!(shared.take(news.clone()).await, Verdict::Accepted);
        let early = shared.message(sender, "told before what it follows").await;
        let early_id = early.pdu().id().to_owned();
        let told = vec![(early_id, state)];
        let teller = server_name!("b.test");
        let verdicts = twin.receive_history(&shared.id, vec![early], told, teller).await.unwrap();
        assert_eq!(verdicts[0] == Verdict::Accepted, is_allowed, "{verdicts:?}");

        let news_id = news.pdu().id().to_owned();
        assert_eq!(receive(&twin, &shared.id, news).await, Verdict::Accepted);
        let head = twin.head(&shared.id).await.unwrap().unwrap();
        let tips = twin.events(&shared.id, &head.extremities).await.unwrap();
        let tips: Vec<_> = tips.iter().map(|tip| tip.header.event_id.clone()).collect();
        assert_eq!(tips, [news_id]);
        let next = shared.message(BOB, "next").await;
        assert_eq!(receive(&twin, &shared.id, next).await, Verdict::Accepted);
    }
}

#[tokio::test]
async fn a_redaction_is_found_behind_many_without_the_power() {
    let shared = Shared::with(RoomVersionId::V11, &[BOB, CAROL]).await;
    let target = shared.message(BOB, "secret").await;
    let target_id = target.pdu().id().to_owned();
    let redaction = |sender, at| {
        let (shared, target_id) = (&shared, target_id.clone());
        async move {
            let making = shared.making(sender, "m.room.redaction").await;
            shared.make(Making { redacts: Some(target_id), at, ..making }).await
        }
    };
    for at in 0..60 {
        let powerless = redaction(CAROL, at).await;
        assert_eq!(shared.take(powerless).await, Verdict::Accepted);
    }
    let by_moderator = redaction("@alice:hs.test", 100).await;
    let redaction_id = by_moderator.pdu().id().to_owned();
    assert_eq!(shared.take(by_moderator).await, Verdict::Accepted);
    assert_eq!(shared.take(target).await, Verdict::Accepted);
    let by = shared.event(&target_id).await.header.redacted_by.unwrap();
    let by = shared.rooms.event(&shared.id, by).await.unwrap();
    assert_eq!(by.header.event_id, redaction_id);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_large_told_state_does_not_hold_up_other_tasks() {
    let shared = Shared::with(RoomVersionId::V11, &[BOB]).await;
    let joins: Vec<_> = {
        let mut joins = Vec::new();
        for number in 0..600 {
            let user = format!("@user{number}:far.test");
            let join = shared.state(&user, (MEMBER, &user), json!({ "membership": "join" })).await;
            assert_eq!(shared.take(join.clone()).await, Verdict::Accepted);
            joins.push(join);
        }
        joins
    };
    let twin = shared.full_twin("t.test").await;
    shared.take(shared.message(BOB, "missed").await).await;
    let next = shared.message(BOB, "next").await;
    let state = current(&shared.rooms, &shared.id).await.into_iter();
    let ids: Vec<_> =
        state.map(|(_, _, id)| OwnedEventId::try_from(id.as_str()).unwrap()).collect();
    assert!(ids.len() > joins.len());

    // What cannot be done between other tasks is asked for again, not done.
    let view = Context::new(&twin);
    let mut room = Room::load(&view, &shared.id).unwrap().unwrap();
    let mut batch = Batch::new(&shared.id, 1);
    let told = room.told_state(&view, &mut batch, next.pdu().id(), &ids);
    assert!(matches!(told, Err(crate::writer::StepError::Long)));
    drop(view);
    let told = twin.receive_with_state(&shared.id, next.clone(), ids, Teller::Author).await;
    assert_eq!(told.unwrap(), Verdict::Accepted);
    assert_eq!(current(&twin, &shared.id).await, current(&shared.rooms, &shared.id).await);
}
