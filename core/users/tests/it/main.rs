//! Users on the engine that servers run on: what was acknowledged is there after a restart.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{path::Path, sync::Arc};

use hearth_storage::{EngineKind, Store, StoreError, StoreOptions};
use hearth_types::{ManualClock, ServerIdentity, StreamPosition};
use hearth_users::{
    AccountDataScope, IssuedTokens, KEYSPACES, NewAccount, NewSession, ReceiptUpdate, Users,
    UsersConfig,
};
use ruma::{
    OwnedUserId,
    events::receipt::{ReceiptThread, ReceiptType},
    owned_event_id, owned_room_id, owned_server_name, room_id,
};
use serde_json::{json, value::RawValue};

async fn open(path: &Path) -> (Store, Users) {
    let options = StoreOptions::for_tests(EngineKind::Fjall, path, KEYSPACES);
    let store = loop {
        match Store::open(options.clone()).await {
            Ok(store) => break store,
            // The tasks of the last run have not noticed their end yet.
            Err(StoreError::Locked(_)) => tokio::task::yield_now().await,
            Err(error) => panic!("{error}"),
        }
    };
    let key = ServerIdentity::generate_key();
    let identity =
        ServerIdentity::from_der(owned_server_name!("hearth.test"), &key, "1".to_owned()).unwrap();
    let clock = Arc::new(ManualClock::new(1_000_000));
    let config = UsersConfig::for_tests();
    let users = Users::open(store.clone(), Arc::new(identity), clock, config).await.unwrap();
    (store, users)
}

async fn close(store: Store, users: Users) {
    users.flush().await.unwrap();
    drop(users);
    store.close().await.unwrap();
}

async fn fill(users: &Users) -> (OwnedUserId, IssuedTokens, StreamPosition) {
    let account = NewAccount {
        username: "alice".to_owned(),
        password: Some("correct horse".to_owned()),
        ..NewAccount::default()
    };
    let alice = users.create_account(account).await.unwrap();
    let session = NewSession { refreshable: true, ..NewSession::default() };
    let tokens = users.create_session(&alice, session).await.unwrap();
    users.set_profile_field(&alice, "m.tz", json!("UTC")).await.unwrap();
    let content = RawValue::from_string(r#"{"n":1}"#.to_owned()).unwrap();
    let scope = AccountDataScope::Room(room_id!("!room:hearth.test"));
    let position = users.set_account_data(&alice, scope, "x", &content).await.unwrap();
    let receipt = ReceiptUpdate {
        room_id: owned_room_id!("!room:hearth.test"),
        user_id: alice.clone(),
        receipt_type: ReceiptType::Read,
        thread: ReceiptThread::Main,
        event_id: owned_event_id!("$read"),
        timeline_position: 7,
        fan_out: true,
        ts_ms: None,
    };
    assert!(users.set_receipt(receipt).await.unwrap().is_some());
    (alice, tokens, position)
}

#[tokio::test]
async fn everything_is_there_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let (store, users) = open(folder.path()).await;
    let (alice, tokens, position) = fill(&users).await;
    close(store, users).await;

    let (store, users) = open(folder.path()).await;
    assert_eq!(users.login_with_password("alice", "correct horse", None).await.unwrap(), alice);
    let session = users.authenticate(&tokens.access_token).await.unwrap();
    assert_eq!((session.user_id(), session.device_id()), (&*alice, &*tokens.device_id));
    let profile = users.profile(&alice).await.unwrap().unwrap();
    assert_eq!(profile.fields["m.tz"], "UTC");
    let until = store.notifier().published();
    let changes = users.account_data_changes(&alice, position.previous(), until).await.unwrap();
    assert_eq!(changes.len(), 1);
    assert_eq!((changes[0].position, changes[0].content.get()), (position, r#"{"n":1}"#));
    let room_id = room_id!("!room:hearth.test");
    assert_eq!(users.read_positions(&alice, room_id).await.unwrap().main, Some(7));
    let (found, _) = users.search_directory("ali", 10, |_| true);
    assert_eq!(found.len(), 1);
    close(store, users).await;
}
