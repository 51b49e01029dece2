use proptest::{prelude::*, test_runner::TestCaseError};
use ruma::{event_id, room_id};

use super::*;
use crate::users::testing::Bench;

fn raw(json: &str) -> Box<RawValue> {
    RawValue::from_string(json.to_owned()).unwrap()
}

const GLOBAL: AccountDataScope<'static> = AccountDataScope::Global;

fn types(entries: &[AccountDataEntry]) -> Vec<(Option<&str>, &str)> {
    entries
        .iter()
        .map(|entry| (entry.room_id.as_deref().map(RoomId::as_str), &*entry.event_type))
        .collect()
}

#[tokio::test]
async fn scopes_and_users_are_apart() {
    let bench = Bench::new().await;
    let (alice, bob) = (bench.user("alice").await, bench.user("bob").await);
    let users = &bench.users;
    let (one, two) = (room_id!("!one:b"), room_id!("!one:bc"));
    let set = async |user: &UserId, scope: AccountDataScope<'_>, json: &str| {
        users.set_account_data(user, scope, "x", &raw(json)).await.unwrap()
    };
    let get = async |user: &UserId, scope: AccountDataScope<'_>| {
        users.account_data(user, scope, "x").await.unwrap().map(|raw| raw.get().to_owned())
    };
    set(&alice, GLOBAL, r#"{"n":1}"#).await;
    set(&alice, AccountDataScope::Room(one), r#"{"n":2}"#).await;
    set(&alice, AccountDataScope::Room(two), r#"{"n":3}"#).await;
    set(&bob, GLOBAL, r#"{"n":4}"#).await;
    assert_eq!(get(&alice, GLOBAL).await.as_deref(), Some(r#"{"n":1}"#));
    assert_eq!(get(&alice, AccountDataScope::Room(one)).await.as_deref(), Some(r#"{"n":2}"#));
    assert_eq!(get(&bob, GLOBAL).await.as_deref(), Some(r#"{"n":4}"#));
    assert_eq!(get(&bob, AccountDataScope::Room(one)).await, None);
    let room = users.room_account_data(&alice, one).await.unwrap();
    assert_eq!(types(&room), [(Some("!one:b"), "x")]);
    let global = users.global_account_data(&alice).await.unwrap();
    assert_eq!(types(&global), [(None, "x"), (None, "m.push_rules")]);
}

#[tokio::test]
async fn what_the_server_manages_is_refused() {
    let bench = Bench::new().await;
    let alice = bench.user("alice").await;
    let users = &bench.users;
    for event_type in ["m.fully_read", "m.push_rules"] {
        let result = users.set_account_data(&alice, GLOBAL, event_type, &raw("{}")).await;
        assert!(matches!(result, Err(UsersError::ManagedAccountData)));
    }
    for event_type in [String::new(), "x".repeat(256), "a\0b".to_owned()] {
        let result = users.set_account_data(&alice, GLOBAL, &event_type, &raw("{}")).await;
        assert!(matches!(result, Err(UsersError::InvalidName(_))));
    }
    for json in ["[]", "null", "3", "\"{\""] {
        let result = users.set_account_data(&alice, GLOBAL, "x", &raw(json)).await;
        assert!(matches!(result, Err(UsersError::InvalidContent(_))), "{json}");
    }
    let large = format!(r#"{{"x":"{}"}}"#, "y".repeat(MAX_CONTENT_BYTES));
    let result = users.set_account_data(&alice, GLOBAL, "x", &raw(&large)).await;
    assert!(matches!(result, Err(UsersError::TooLarge { .. })));
    assert!(users.account_data(&alice, GLOBAL, "x").await.unwrap().is_none());
}

#[tokio::test]
async fn the_fully_read_marker_is_room_account_data() {
    let bench = Bench::new().await;
    let alice = bench.user("alice").await;
    let room_id = room_id!("!one:b");
    let position = bench.users.set_fully_read(&alice, room_id, event_id!("$read")).await.unwrap();
    let entries = bench.users.room_account_data(&alice, room_id).await.unwrap();
    assert_eq!(entries[0].content.get(), r#"{"event_id":"$read"}"#);
    assert_eq!(entries[0].position, position);
    assert_eq!(entries[0].event_type, "m.fully_read");
}

#[tokio::test]
async fn changes_wake_their_user_and_are_logged() {
    let bench = Bench::new().await;
    let alice = bench.user("alice").await;
    let before = bench.store.notifier().published();
    let position = bench.users.set_account_data(&alice, GLOBAL, "x", &raw("{}")).await.unwrap();
    let topic = Topic::new(alice.as_str());
    assert!(bench.store.notifier().changed_since(&topic, before));
    let log = bench.store.log_after(before, 10).await.unwrap();
    assert_eq!((log.len(), log[0].position), (1, position));
    assert_eq!(log[0].entry.kind, LogKind::AccountData as u8);
    assert_eq!(&*log[0].entry.payload, b"\0x");
}

#[tokio::test]
async fn several_rooms_are_read_together() {
    let bench = Bench::new().await;
    let (alice, bob) = (bench.user("alice").await, bench.user("bob").await);
    let users = &bench.users;
    let rooms: Vec<OwnedRoomId> =
        (0..60).map(|number| RoomId::parse(format!("!{number:02}:b")).unwrap()).collect();
    // Rooms without any, with one piece, and with more than are read at once.
    for (number, room_id) in rooms.iter().enumerate() {
        let scope = AccountDataScope::Room(room_id);
        let pieces = if number == 7 { 2 * BATCH } else { number % 4 };
        for piece in 0..pieces {
            let json = format!(r#"{{"room":{number}}}"#);
            let kind = format!("x.{piece}");
            users.set_account_data(&alice, scope, &kind, &raw(&json)).await.unwrap();
        }
    }
    users.set_account_data(&alice, GLOBAL, "x", &raw("{}")).await.unwrap();
    let scope = AccountDataScope::Room(&rooms[1]);
    users.set_account_data(&bob, scope, "x", &raw("{}")).await.unwrap();
    for (from, step) in [(0, 1), (0, 2), (1, 7), (3, 20), (7, 60), (4, 60), (60, 1)] {
        let asked: BTreeSet<&RoomId> =
            rooms.iter().skip(from).step_by(step).map(|room_id| &**room_id).collect();
        let mut found = users.account_data_of_rooms(&alice, &asked).await.unwrap();
        for room_id in asked {
            let alone = users.room_account_data(&alice, room_id).await.unwrap();
            let seen = |entries: Vec<AccountDataEntry>| -> Vec<_> {
                let of = |e: AccountDataEntry| (e.event_type, e.content.get().to_owned());
                entries.into_iter().map(of).collect()
            };
            let together = found.remove(room_id).unwrap_or_default();
            assert_eq!(seen(together), seen(alone), "{room_id}, {from} {step}");
        }
        assert!(found.is_empty(), "what nobody asked for");
    }
}

#[tokio::test]
async fn many_pieces_are_all_found() {
    let bench = Bench::new().await;
    let alice = bench.user("alice").await;
    let users = &bench.users;
    for number in 0..250 {
        users.set_account_data(&alice, GLOBAL, &format!("x.{number}"), &raw("{}")).await.unwrap();
    }
    assert_eq!(users.global_account_data(&alice).await.unwrap().len(), 251);
    let until = bench.store.notifier().published();
    let changes = users.account_data_changes(&alice, StreamPosition::ZERO, until).await.unwrap();
    assert_eq!(changes.len(), 250);
    assert!(changes.is_sorted_by_key(|entry| entry.position));
    users.deactivate(&alice, false).await.unwrap();
    assert_eq!(users.global_account_data(&alice).await.unwrap().len(), 1);
    assert!(
        users
            .account_data_changes(&alice, StreamPosition::ZERO, StreamPosition::MAX)
            .await
            .unwrap()
            .is_empty()
    );
}

/// A client that reads changes piecewise ends with exactly what was written last.
async fn replay(steps: Vec<(u8, u8, bool)>) -> Result<(), TestCaseError> {
    let bench = Bench::new().await;
    let alice = bench.user("alice").await;
    let users = &bench.users;
    let room_id = room_id!("!one:b");
    let mut written = std::collections::BTreeMap::new();
    let mut seen = std::collections::BTreeMap::new();
    let mut since = StreamPosition::ZERO;
    for (number, (scope, event_type, read)) in steps.into_iter().enumerate() {
        let event_type = format!("x.{event_type}");
        let json = format!(r#"{{"n":{number}}}"#);
        let place = if scope == 0 { GLOBAL } else { AccountDataScope::Room(room_id) };
        users.set_account_data(&alice, place, &event_type, &raw(&json)).await.unwrap();
        written.insert((scope != 0, event_type), json);
        if read {
            let until = bench.store.notifier().published();
            for entry in users.account_data_changes(&alice, since, until).await.unwrap() {
                prop_assert!(entry.position > since && entry.position <= until);
                let key = (entry.room_id.is_some(), entry.event_type);
                let json = entry.content.get().to_owned();
                prop_assert_ne!(seen.insert(key, json.clone()), Some(json));
            }
            since = until;
            prop_assert_eq!(&seen, &written);
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn changes_add_up(steps in prop::collection::vec((0..2u8, 0..4u8, any::<bool>()), 1..40)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(replay(steps))?;
    }
}
