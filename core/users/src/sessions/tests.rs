use std::future::Future as _;

use hearth_storage::{Listener, Notifier};
use hearth_types::StreamPosition;
use parking_lot::Mutex;

use super::*;
use crate::{UsersConfig, users::testing::Bench};

fn refreshable() -> NewSession {
    NewSession { refreshable: true, ..NewSession::default() }
}

async fn soft_logout(users: &Users, token: &str) -> Option<bool> {
    match users.authenticate(token).await {
        Err(AuthError::UnknownToken { soft_logout }) => Some(soft_logout),
        Err(error) => panic!("{error}"),
        Ok(_) => None,
    }
}

#[tokio::test]
async fn a_token_is_good_until_the_logout() {
    let bench = Bench::new().await;
    let alice = bench.user("alice").await;
    let users = &bench.users;
    let tokens = users.create_session(&alice, NewSession::default()).await.unwrap();
    assert_eq!(tokens.refresh_token.as_deref(), None);
    assert_eq!(tokens.expires_in_ms, None);
    for _ in 0..3 {
        let session = users.authenticate(&tokens.access_token).await.unwrap();
        assert_eq!(session.user_id(), alice);
        assert_eq!(session.device_id(), tokens.device_id);
    }
    let session = users.authenticate(&tokens.access_token).await.unwrap();
    users.logout(&session).await.unwrap();
    assert_eq!(soft_logout(users, &tokens.access_token).await, Some(false));
    assert_eq!(soft_logout(users, "ha_nonsense").await, Some(false));
    assert!(users.devices(&alice).await.unwrap().is_empty());
}

/// Notes at each change of the user whether a session is still in memory.
struct Look {
    users: Users,
    token: TokenHash,
    found: Mutex<Vec<bool>>,
}

impl std::fmt::Debug for Look {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Look")
    }
}

impl Listener for Look {
    fn changed(&self, _topic: &Topic, _position: StreamPosition) {
        self.found.lock().push(self.users.inner.sessions.0.get(&self.token).is_some());
    }
}

/// A waiting request asks again when its user changes, and not a second time.
#[tokio::test]
async fn whom_the_end_of_a_session_wakes_no_longer_finds_it() {
    let bench = Bench::new().await;
    let alice = bench.user("alice").await;
    let users = &bench.users;
    let login = || NewSession { device_id: Some("PHONE".into()), ..NewSession::default() };
    for way in ["login", "logout", "lock", "deactivation"] {
        let tokens = users.create_session(&alice, login()).await.unwrap();
        let session = users.authenticate(&tokens.access_token).await.unwrap();
        assert!(users.authenticate_again(&session).await.is_ok());
        let look = Arc::new(Look {
            users: users.clone(),
            token: session.token_hash(),
            found: Mutex::default(),
        });
        let listener: Arc<dyn Listener> = Arc::clone(&look) as _;
        let (topic, notifier): (_, &Notifier) =
            (Topic::new(alice.as_str()), bench.store.notifier());
        notifier.subscribe(&topic, &listener);
        match way {
            "login" => drop(users.create_session(&alice, login()).await.unwrap()),
            "logout" => users.logout(&session).await.unwrap(),
            "lock" => users.set_locked(&alice, true).await.unwrap(),
            _ => users.deactivate(&alice, false).await.unwrap(),
        }
        notifier.unsubscribe(&topic, &listener);
        assert_eq!(look.found.lock().first(), Some(&false), "{way}");
        match users.authenticate_again(&session).await {
            Ok(session) => assert!(way == "lock" && session.is_locked(), "{way}"),
            Err(error) => assert!(way != "lock", "{way}: {error}"),
        }
        if way == "lock" {
            users.set_locked(&alice, false).await.unwrap();
        }
    }
}

#[tokio::test]
async fn tokens_outlive_the_process_but_not_in_the_clear() {
    let bench = Bench::new().await;
    let alice = bench.user("alice").await;
    let tokens = bench.users.create_session(&alice, refreshable()).await.unwrap();
    let bench = bench.reopen().await;
    let session = bench.users.authenticate(&tokens.access_token).await.unwrap();
    assert_eq!(session.user_id(), alice);
    assert!(bench.users.refresh(&tokens.refresh_token.unwrap()).await.is_ok());
}

#[tokio::test]
async fn logging_in_again_on_a_device_ends_its_old_tokens() {
    let bench = Bench::new().await;
    let alice = bench.user("alice").await;
    let users = &bench.users;
    let login = |name: &str| NewSession {
        device_id: Some("PHONE".into()),
        initial_display_name: Some(name.to_owned()),
        refreshable: true,
    };
    let one = users.create_session(&alice, login("first")).await.unwrap();
    users.authenticate(&one.access_token).await.unwrap();
    let two = users.create_session(&alice, login("second")).await.unwrap();
    assert_eq!(soft_logout(users, &one.access_token).await, Some(false));
    assert!(users.refresh(&one.refresh_token.unwrap()).await.is_err());
    assert!(users.authenticate(&two.access_token).await.is_ok());
    let devices = users.devices(&alice).await.unwrap();
    assert_eq!(devices.len(), 1);
    assert_eq!(devices[0].display_name.as_deref(), Some("first"));
}

#[tokio::test]
async fn expired_tokens_are_a_soft_logout_until_refreshed() {
    let bench = Bench::new().await;
    let alice = bench.user("alice").await;
    let users = &bench.users;
    let old = users.create_session(&alice, refreshable()).await.unwrap();
    assert_eq!(old.expires_in_ms, Some(3_600_000));
    assert!(users.authenticate(&old.access_token).await.is_ok());
    bench.advance_s(3_600);
    assert_eq!(soft_logout(users, &old.access_token).await, Some(true));
    let new = users.refresh(&old.refresh_token.unwrap()).await.unwrap();
    assert_eq!(new.device_id, old.device_id);
    assert!(users.authenticate(&new.access_token).await.is_ok());
    assert_eq!(soft_logout(users, &old.access_token).await, Some(false));
}

#[tokio::test]
async fn the_old_pair_ends_with_the_first_use_of_the_new_access_token() {
    let bench = Bench::new().await;
    let alice = bench.user("alice").await;
    let users = &bench.users;
    let old = users.create_session(&alice, refreshable()).await.unwrap();
    let refresh = old.refresh_token.unwrap();
    let lost = users.refresh(&refresh).await.unwrap();
    // The answer was lost: everything old still works, and so does asking again.
    assert!(users.authenticate(&old.access_token).await.is_ok());
    let new = users.refresh(&refresh).await.unwrap();
    assert_eq!(soft_logout(users, &lost.access_token).await, Some(false));
    assert!(users.authenticate(&old.access_token).await.is_ok());
    assert!(users.authenticate(&new.access_token).await.is_ok());
    assert_eq!(soft_logout(users, &old.access_token).await, Some(false));
    assert!(users.refresh(&refresh).await.is_err());
}

#[tokio::test]
async fn the_old_pair_ends_with_the_first_use_of_the_new_refresh_token() {
    let bench = Bench::new().await;
    let alice = bench.user("alice").await;
    let users = &bench.users;
    let one = users.create_session(&alice, refreshable()).await.unwrap();
    users.authenticate(&one.access_token).await.unwrap();
    let two = users.refresh(one.refresh_token.as_deref().unwrap()).await.unwrap();
    let three = users.refresh(two.refresh_token.as_deref().unwrap()).await.unwrap();
    assert_eq!(soft_logout(users, &one.access_token).await, Some(false));
    assert!(users.refresh(one.refresh_token.as_deref().unwrap()).await.is_err());
    assert!(users.authenticate(&two.access_token).await.is_ok());
    assert!(users.authenticate(&three.access_token).await.is_ok());
    assert_eq!(soft_logout(users, &two.access_token).await, Some(false));
}

#[tokio::test]
async fn refresh_tokens_expire_when_configured() {
    let config = UsersConfig { refresh_token_lifetime_s: 7_200, ..UsersConfig::for_tests() };
    let bench = Bench::with(config).await;
    let alice = bench.user("alice").await;
    let tokens = bench.users.create_session(&alice, refreshable()).await.unwrap();
    bench.advance_s(7_200);
    let result = bench.users.refresh(&tokens.refresh_token.unwrap()).await;
    assert!(matches!(result, Err(UsersError::UnknownToken { soft_logout: true })));
}

#[tokio::test]
async fn logging_out_everywhere_ends_all() {
    let bench = Bench::new().await;
    let (alice, bob) = (bench.user("alice").await, bench.user("bob").await);
    let users = &bench.users;
    let mut all = Vec::new();
    for _ in 0..120 {
        all.push(users.create_session(&alice, NewSession::default()).await.unwrap());
    }
    let other = users.create_session(&bob, NewSession::default()).await.unwrap();
    for tokens in &all {
        users.authenticate(&tokens.access_token).await.unwrap();
    }
    assert_eq!(users.logout_all(&alice).await.unwrap().len(), 120);
    for tokens in &all {
        assert_eq!(soft_logout(users, &tokens.access_token).await, Some(false));
    }
    assert!(users.authenticate(&other.access_token).await.is_ok());
}

#[tokio::test]
async fn deactivated_users_are_out_and_stay_out() {
    let bench = Bench::new().await;
    let alice = bench.user("alice").await;
    let users = &bench.users;
    let tokens = users.create_session(&alice, refreshable()).await.unwrap();
    users.authenticate(&tokens.access_token).await.unwrap();
    users.deactivate(&alice, false).await.unwrap();
    assert_eq!(soft_logout(users, &tokens.access_token).await, Some(false));
    assert!(users.refresh(&tokens.refresh_token.unwrap()).await.is_err());
    let result = users.create_session(&alice, NewSession::default()).await;
    assert!(matches!(result, Err(UsersError::Deactivated)));
}

#[tokio::test]
async fn authentication_races_with_logout_without_leftovers() {
    let bench = Bench::new().await;
    let alice = bench.user("alice").await;
    for _ in 0..50 {
        let tokens = bench.users.create_session(&alice, NewSession::default()).await.unwrap();
        let (users, token) = (bench.users.clone(), tokens.access_token.clone());
        let asking = tokio::spawn(async move {
            for _ in 0..5 {
                let _known = users.authenticate(&token).await.is_ok();
            }
        });
        bench.users.delete_devices(&alice, &[tokens.device_id]).await.unwrap();
        asking.await.unwrap();
        assert_eq!(soft_logout(&bench.users, &tokens.access_token).await, Some(false));
    }
}

#[tokio::test]
async fn locked_users_get_no_new_tokens_and_keep_their_old_ones() {
    let bench = Bench::new().await;
    let alice = bench.user("alice").await;
    let users = &bench.users;
    let tokens = users.create_session(&alice, refreshable()).await.unwrap();
    let refresh = tokens.refresh_token.as_deref().unwrap();
    users.set_locked(&alice, true).await.unwrap();
    assert!(matches!(users.refresh(refresh).await, Err(UsersError::Locked)));
    let again = users.create_session(&alice, NewSession::default()).await;
    assert!(matches!(again, Err(UsersError::Locked)));
    users.set_locked(&alice, false).await.unwrap();
    assert!(users.refresh(refresh).await.is_ok());
}

/// A client that hangs up in the middle of its logout is logged out all the same.
#[tokio::test]
async fn an_abandoned_logout_takes_place() {
    let bench = Bench::new().await;
    let alice = bench.user("alice").await;
    let users = &bench.users;
    let tokens = users.create_session(&alice, refreshable()).await.unwrap();
    let session = users.authenticate(&tokens.access_token).await.unwrap();
    let mut logout = Box::pin(users.logout(&session));
    let polled = std::future::poll_fn(|context| {
        std::task::Poll::Ready(logout.as_mut().poll(context).is_pending())
    });
    assert!(polled.await);
    drop(logout);
    // Whoever comes next under the user's lock comes after it.
    let unknown: OwnedDeviceId = "UNKNOWN".into();
    assert!(users.rename_device(&alice, &unknown, None).await.is_err());
    assert_eq!(soft_logout(users, &tokens.access_token).await, Some(false));
    assert!(users.refresh(&tokens.refresh_token.unwrap()).await.is_err());
}

#[tokio::test]
async fn login_tokens_are_spent_once_and_expire() {
    let bench = Bench::new().await;
    let alice = bench.user("alice").await;
    let users = &bench.users;
    let (token, lifetime_ms) = users.create_login_token(&alice).unwrap();
    assert_eq!(lifetime_ms, 120_000);
    assert_eq!(users.login_with_token(&token).await.unwrap(), alice);
    let again = users.login_with_token(&token).await;
    assert!(matches!(again, Err(UsersError::WrongCredentials)));
    let (token, _) = users.create_login_token(&alice).unwrap();
    bench.advance_s(120);
    assert!(users.login_with_token(&token).await.is_err());
}

#[tokio::test]
async fn a_session_lasts_until_its_device_logs_in_anew() {
    let bench = Bench::new().await;
    let alice = bench.user("alice").await;
    let users = &bench.users;
    let login = || NewSession { device_id: Some("PHONE".into()), ..NewSession::default() };
    let one = TokenHash::of(&users.create_session(&alice, login()).await.unwrap().access_token);
    let device_id: &DeviceId = "PHONE".into();
    assert!(users.must_be_session(&alice, device_id, one).await.is_ok());
    let two = TokenHash::of(&users.create_session(&alice, login()).await.unwrap().access_token);
    assert!(users.must_be_session(&alice, device_id, two).await.is_ok());
    let ended = users.must_be_session(&alice, device_id, one).await;
    assert!(matches!(ended, Err(UsersError::UnknownToken { soft_logout: true })));
    users.logout_all(&alice).await.unwrap();
    let gone = users.must_be_session(&alice, device_id, two).await;
    assert!(matches!(gone, Err(UsersError::UnknownToken { soft_logout: false })));
}

#[tokio::test]
async fn device_ids_are_checked() {
    let bench = Bench::new().await;
    let alice = bench.user("alice").await;
    for device_id in [String::new(), "x".repeat(256), "a\0b".to_owned(), "*".to_owned()] {
        let session = NewSession { device_id: Some(device_id.into()), ..NewSession::default() };
        let result = bench.users.create_session(&alice, session).await;
        assert!(matches!(result, Err(UsersError::InvalidDeviceId)));
    }
}
