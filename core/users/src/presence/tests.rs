use ruma::user_id;

use super::*;
use crate::{UsersConfig, users::testing::Bench};

#[tokio::test]
async fn people_age_from_online_to_idle_to_offline() {
    let bench = Bench::new().await;
    let alice = bench.user("alice").await;
    let users = &bench.users;
    let now = async || {
        users.tick().await;
        let presence = users.presence(&alice).await.unwrap();
        (presence.state, presence.currently_active)
    };
    assert_eq!(now().await, (PresenceState::Offline, false));
    let guard = users.presence_syncing(&alice, PresenceState::Online);
    assert_eq!(now().await, (PresenceState::Online, true));
    bench.advance_s(60);
    assert_eq!(now().await, (PresenceState::Online, false));
    users.presence_active(&alice);
    assert_eq!(now().await, (PresenceState::Online, true));
    bench.advance_s(300);
    assert_eq!(now().await, (PresenceState::Unavailable, false));
    drop(guard);
    bench.advance_s(29);
    assert_eq!(now().await, (PresenceState::Unavailable, false));
    bench.advance_s(5);
    assert_eq!(now().await, (PresenceState::Offline, false));
}

#[tokio::test]
async fn the_last_of_several_syncs_counts() {
    let bench = Bench::new().await;
    let alice = bench.user("alice").await;
    let users = &bench.users;
    let one = users.presence_syncing(&alice, PresenceState::Online);
    let two = users.presence_syncing(&alice, PresenceState::Online);
    drop(one);
    bench.advance_s(60);
    users.tick().await;
    assert_eq!(users.presence(&alice).await.unwrap().state, PresenceState::Online);
    drop(two);
    bench.advance_s(60);
    users.tick().await;
    assert_eq!(users.presence(&alice).await.unwrap().state, PresenceState::Offline);
}

#[tokio::test]
async fn activity_ends_idleness_but_not_invisibility() {
    let bench = Bench::new().await;
    let alice = bench.user("alice").await;
    let users = &bench.users;
    let after_activity = async |asked: PresenceState| {
        users.set_presence(&alice, asked, None).await.unwrap();
        users.presence_active(&alice);
        users.presence(&alice).await.unwrap().state
    };
    assert_eq!(after_activity(PresenceState::Unavailable).await, PresenceState::Online);
    assert_eq!(after_activity(PresenceState::Offline).await, PresenceState::Offline);
}

#[tokio::test]
async fn a_sync_with_offline_shows_nothing() {
    let bench = Bench::new().await;
    let alice = bench.user("alice").await;
    let _guard = bench.users.presence_syncing(&alice, PresenceState::Offline);
    assert_eq!(bench.users.presence(&alice).await.unwrap().state, PresenceState::Offline);
    assert_eq!(bench.users.presence_serial(), 0);
}

#[tokio::test]
async fn changes_are_found_by_serial() {
    let bench = Bench::new().await;
    let (alice, bob) = (bench.user("alice").await, bench.user("bob").await);
    let users = &bench.users;
    let everybody = [&*alice, &*bob, user_id!("@far:away")];
    let changed = |since| {
        let changes = users.presence_changes(everybody, since).into_iter();
        changes.map(|(user_id, _)| user_id).collect::<Vec<_>>()
    };
    assert!(changed(0).is_empty());
    users.set_presence(&alice, PresenceState::Online, None).await.unwrap();
    let before = users.presence_serial();
    let message = Some("at lunch".to_owned());
    users.set_presence(&bob, PresenceState::Unavailable, message.clone()).await.unwrap();
    assert_eq!(changed(0), [alice.clone(), bob.clone()]);
    assert_eq!(changed(before), std::slice::from_ref(&bob));
    let serial = users.presence_serial();
    // The same again is no change, nor is a moment's more activity.
    users.set_presence(&bob, PresenceState::Unavailable, message.clone()).await.unwrap();
    bench.advance_s(1);
    users.presence_active(&alice);
    assert_eq!(users.presence_serial(), serial);
    assert_eq!(users.presence(&bob).await.unwrap().status_msg, message);
}

#[tokio::test]
async fn message_and_time_outlive_the_process() {
    let bench = Bench::new().await;
    let alice = bench.user("alice").await;
    let message = Some("hello".to_owned());
    bench.users.set_presence(&alice, PresenceState::Online, message.clone()).await.unwrap();
    bench.users.flush().await.unwrap();
    let bench = bench.reopen().await;
    let presence = bench.users.presence(&alice).await.unwrap();
    assert_eq!((presence.state, presence.serial), (PresenceState::Offline, 0));
    assert_eq!(presence.last_active_ms, Some(1_000_000));
    assert_eq!(presence.status_msg, message);
    // Coming back does not lose the message.
    let _guard = bench.users.presence_syncing(&alice, PresenceState::Online);
    assert_eq!(bench.users.presence(&alice).await.unwrap().status_msg, message);
}

#[tokio::test]
async fn switched_off_it_does_nothing() {
    let config = UsersConfig { presence_enabled: false, ..UsersConfig::for_tests() };
    let bench = Bench::with(config).await;
    let alice = bench.user("alice").await;
    bench.users.set_presence(&alice, PresenceState::Online, None).await.unwrap();
    let _guard = bench.users.presence_syncing(&alice, PresenceState::Online);
    bench.users.presence_active(&alice);
    assert_eq!(bench.users.presence(&alice).await.unwrap().state, PresenceState::Offline);
}

#[derive(Debug)]
struct OneRoom;

#[async_trait::async_trait]
impl PresenceAudience for OneRoom {
    async fn topics(&self, _user_id: &UserId) -> Vec<Topic> {
        vec![Topic::new("!room:hearth.test")]
    }

    async fn is_large(&self, _room_id: &RoomId) -> bool {
        false
    }
}

#[derive(Debug, Default)]
struct Woken(Notify);

impl hearth_storage::Listener for Woken {
    fn changed(&self, _topic: &Topic, _position: hearth_types::StreamPosition) {
        self.0.notify_one();
    }
}

#[tokio::test]
async fn the_audience_is_woken() {
    let bench = Bench::new().await;
    let alice = bench.user("alice").await;
    bench.users.set_presence_audience(Arc::new(OneRoom));
    let woken = Arc::new(Woken::default());
    let listener: Arc<dyn hearth_storage::Listener> = woken.clone();
    bench.store.notifier().subscribe(&Topic::new("!room:hearth.test"), &listener);
    bench.users.set_presence(&alice, PresenceState::Online, None).await.unwrap();
    woken.0.notified().await;
}

#[tokio::test]
async fn what_another_server_says_counts_until_it_falls_silent() {
    let bench = Bench::new().await;
    let users = &bench.users;
    let bob = user_id!("@bob:there.test");
    let told = |state, currently_active| RemotePresence {
        state,
        status_msg: Some("at sea".to_owned()),
        last_active_ago_ms: Some(5_000),
        currently_active,
    };
    users.set_remote_presence(bob, told(PresenceState::Online, true));
    let shown = users.presence(bob).await.unwrap();
    assert_eq!((shown.state, shown.currently_active), (PresenceState::Online, true));
    assert_eq!(shown.status_msg.as_deref(), Some("at sea"));
    assert_eq!(shown.last_active_ms, Some(bench.users.now_ms() - 5_000));
    assert!(users.present_users(10).is_empty(), "not this server's user");
    bench.advance_s(29 * 60);
    users.tick().await;
    assert_eq!(users.presence(bob).await.unwrap().state, PresenceState::Online);
    users.set_remote_presence(bob, told(PresenceState::Unavailable, false));
    assert_eq!(users.presence(bob).await.unwrap().state, PresenceState::Unavailable);
    bench.advance_s(31 * 60);
    users.tick().await;
    assert_eq!(users.presence(bob).await.unwrap().state, PresenceState::Offline);
    users.flush().await.unwrap();
    let row = bench.store.get(&PRESENCE, &bob.to_owned(), &()).await.unwrap();
    assert_eq!(row, None, "others' users have no rows here");
}

#[tokio::test]
async fn a_status_that_is_too_long_is_passed_over() {
    let bench = Bench::new().await;
    let bob = user_id!("@bob:there.test");
    let told = RemotePresence {
        state: PresenceState::Online,
        status_msg: Some("x".repeat(MAX_STATUS_BYTES + 1)),
        last_active_ago_ms: Some(0),
        currently_active: true,
    };
    bench.users.set_remote_presence(bob, told);
    assert_eq!(bench.users.presence(bob).await.unwrap().state, PresenceState::Offline);
}
