use super::*;
use crate::{Secret, UsersConfig, users::testing::Bench};

fn config() -> UsersConfig {
    UsersConfig {
        registration_tokens: vec![Secret::new("always".to_owned())],
        registration_shared_secret: Some(Secret::new("shared secret".to_owned())),
        ..UsersConfig::for_tests()
    }
}

fn paid(username: &str, token: &str) -> NewAccount {
    NewAccount {
        username: username.to_owned(),
        registration_token: Some(token.to_owned()),
        ..NewAccount::default()
    }
}

#[tokio::test]
async fn registration_is_closed_unless_opened() {
    let bench = Bench::new().await;
    assert!(bench.users.registration_flows().is_empty());
    let open = UsersConfig { open_registration: true, ..config() };
    let bench = Bench::with(open).await;
    let flows = [vec![AuthType::Dummy], vec![AuthType::RegistrationToken]];
    assert_eq!(bench.users.registration_flows(), flows);
}

#[tokio::test]
async fn the_token_flow_is_there_while_tokens_are() {
    let bench = Bench::new().await;
    bench.users.put_registration_token(Some("one".to_owned()), None, None).await.unwrap();
    assert_eq!(bench.users.registration_flows(), [vec![AuthType::RegistrationToken]]);
    let bench = bench.reopen().await;
    assert_eq!(bench.users.registration_flows(), [vec![AuthType::RegistrationToken]]);
    assert!(bench.users.delete_registration_token("one").await.unwrap());
    assert!(!bench.users.delete_registration_token("one").await.unwrap());
    assert!(bench.users.registration_flows().is_empty());
}

#[tokio::test]
async fn a_token_pays_as_often_as_allowed() {
    let bench = Bench::new().await;
    let users = &bench.users;
    users.put_registration_token(Some("twice".to_owned()), Some(2), None).await.unwrap();
    let attempts: Vec<_> = (0..6)
        .map(|number| {
            let (users, account) = (users.clone(), paid(&format!("user{number}"), "twice"));
            tokio::spawn(async move { users.create_account(account).await })
        })
        .collect();
    let mut made = 0;
    for attempt in attempts {
        match attempt.await.unwrap() {
            Ok(_) => made += 1,
            Err(error) => assert!(matches!(error, UsersError::InvalidRegistrationToken)),
        }
    }
    assert_eq!(made, 2);
    assert_eq!(users.registration_tokens().await.unwrap()[0].uses, 2);
    assert!(!users.is_registration_token_valid("twice").await.unwrap());
}

#[tokio::test]
async fn a_failed_registration_costs_no_use() {
    let bench = Bench::new().await;
    let users = &bench.users;
    bench.user("alice").await;
    users.put_registration_token(Some("once".to_owned()), Some(1), None).await.unwrap();
    assert!(users.create_account(paid("alice", "once")).await.is_err());
    assert!(users.create_account(paid("bob", "once")).await.is_ok());
}

#[tokio::test]
async fn tokens_expire_and_configured_ones_do_not() {
    let bench = Bench::with(config()).await;
    let users = &bench.users;
    let token = users.put_registration_token(None, None, Some(1_060_000)).await.unwrap().token;
    assert!(users.is_registration_token_valid(&token).await.unwrap());
    bench.advance_s(60);
    assert!(!users.is_registration_token_valid(&token).await.unwrap());
    for name in ["one", "two", "three"] {
        users.create_account(paid(name, "always")).await.unwrap();
    }
    assert!(!users.is_registration_token_valid("\u{0}").await.unwrap());
    assert!(users.put_registration_token(Some("a b".to_owned()), None, None).await.is_err());
}

fn signed(nonce: &str, mac: &str) -> SharedSecretRegistration {
    SharedSecretRegistration {
        nonce: nonce.to_owned(),
        username: "alice".to_owned(),
        password: "correct horse".to_owned(),
        display_name: None,
        is_admin: true,
        user_type: None,
        mac: mac.to_owned(),
    }
}

/// The MAC by the definition of HMAC (RFC 2104) instead of the library's.
fn mac_of(secret: &str, parts: &[&str]) -> String {
    use sha1::Digest;
    let pad = |filler: u8| {
        let mut block = [filler; 64];
        block.iter_mut().zip(secret.bytes()).for_each(|(byte, key)| *byte ^= key);
        block
    };
    let message = parts.join("\0");
    let inner = Sha1::new().chain_update(pad(0x36)).chain_update(message).finalize();
    let outer = Sha1::new().chain_update(pad(0x5c)).chain_update(inner).finalize();
    let digit = |four_bits: u8| char::from_digit(u32::from(four_bits), 16).unwrap();
    outer.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

#[tokio::test]
async fn the_shared_secret_makes_accounts() {
    let bench = Bench::with(config()).await;
    let users = &bench.users;
    let nonce = users.create_registration_nonce().unwrap();
    let mac = mac_of("shared secret", &[&nonce, "alice", "correct horse", "admin"]);
    let alice = users.register_with_shared_secret(signed(&nonce, &mac)).await.unwrap();
    assert!(users.account(&alice).await.unwrap().unwrap().is_admin);
    assert!(users.verify_password(&alice, "correct horse").await.unwrap());
    let again = users.register_with_shared_secret(signed(&nonce, &mac)).await;
    assert!(matches!(again, Err(UsersError::UnknownNonce)));
}

#[tokio::test]
async fn the_user_type_is_part_of_the_mac() {
    let bench = Bench::with(config()).await;
    let nonce = bench.users.create_registration_nonce().unwrap();
    let parts = [&*nonce, "alice", "correct horse", "admin", "bot"];
    let mut request = signed(&nonce, &mac_of("shared secret", &parts).to_uppercase());
    request.user_type = Some("bot".to_owned());
    assert!(bench.users.register_with_shared_secret(request).await.is_ok());
}

#[tokio::test]
async fn wrong_macs_and_old_nonces_make_nothing() {
    let bench = Bench::with(config()).await;
    let users = &bench.users;
    let parts = |nonce: &str, secret: &str, rights: &str| {
        mac_of(secret, &[nonce, "alice", "correct horse", rights])
    };
    for (secret, rights) in [("other secret", "admin"), ("shared secret", "notadmin")] {
        let nonce = users.create_registration_nonce().unwrap();
        let request = signed(&nonce, &parts(&nonce, secret, rights));
        let result = users.register_with_shared_secret(request).await;
        assert!(matches!(result, Err(UsersError::WrongMac)));
    }
    for mac in ["", "zz", "abc", "00"] {
        let nonce = users.create_registration_nonce().unwrap();
        let result = users.register_with_shared_secret(signed(&nonce, mac)).await;
        assert!(matches!(result, Err(UsersError::WrongMac)), "{mac}");
    }
    let nonce = users.create_registration_nonce().unwrap();
    bench.advance_s(60);
    let request = signed(&nonce, &parts(&nonce, "shared secret", "admin"));
    let result = users.register_with_shared_secret(request).await;
    assert!(matches!(result, Err(UsersError::UnknownNonce)));
    assert!(users.account(&users.check_username("alice").unwrap()).await.unwrap().is_none());
}

#[tokio::test]
async fn without_a_secret_there_is_no_shared_secret_registration() {
    let bench = Bench::new().await;
    let nonce = bench.users.create_registration_nonce();
    assert!(matches!(nonce, Err(UsersError::SharedSecretDisabled)));
    let result = bench.users.register_with_shared_secret(signed("x", "00")).await;
    assert!(matches!(result, Err(UsersError::SharedSecretDisabled)));
}
