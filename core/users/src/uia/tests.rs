use ruma::api::client::uiaa::{
    Dummy, MatrixUserIdentifier, Password, RegistrationToken as TokenStage,
};

use super::*;
use crate::{guesses::MAX_WRONG, users::testing::Bench};

const HERE: Guesser = Guesser::Address(None);

fn request(body: &[u8]) -> UiaRequest {
    UiaRequest::new("POST", "/_matrix/client/v3/register", None, body)
}

fn dummy(session: Option<&str>) -> AuthData {
    let mut stage = Dummy::new();
    stage.session = session.map(ToOwned::to_owned);
    AuthData::Dummy(stage)
}

fn password(user: &str, password: &str, session: Option<&str>) -> AuthData {
    let user = UserIdentifier::Matrix(MatrixUserIdentifier::new(user.to_owned()));
    let mut stage = Password::new(user, password.to_owned());
    stage.session = session.map(ToOwned::to_owned);
    AuthData::Password(stage)
}

fn token(token: &str, session: Option<&str>) -> AuthData {
    let mut stage = TokenStage::new(token.to_owned());
    stage.session = session.map(ToOwned::to_owned);
    AuthData::RegistrationToken(stage)
}

fn challenge(outcome: UiaOutcome) -> UiaChallenge {
    match outcome {
        UiaOutcome::Challenge(challenge) => challenge,
        other => panic!("no challenge: {other:?}"),
    }
}

fn proof(outcome: UiaOutcome) -> UiaProof {
    match outcome {
        UiaOutcome::Done(proof) => proof,
        other => panic!("not done: {other:?}"),
    }
}

#[tokio::test]
async fn stages_are_passed_in_order() {
    let bench = Bench::new().await;
    let alice = bench.user("alice").await;
    let users = &bench.users;
    let flows = [vec![AuthType::Dummy, AuthType::Password]];
    let request = request(b"{}");
    let attempt = async |auth: Option<&AuthData>| {
        users.uia(&request, &flows, Some(&alice), HERE, auth).await.unwrap()
    };

    let first = challenge(attempt(None).await);
    assert_eq!((first.error, first.completed.len()), (None, 0));
    assert_eq!(first.flows, flows);
    let session = Some(&*first.session);
    let early = challenge(attempt(Some(&password("alice", "correct horse", session))).await);
    assert_eq!(early.error, Some(UiaError::UnexpectedStage));
    let half = challenge(attempt(Some(&dummy(session))).await);
    assert_eq!((half.error, half.completed), (None, vec![AuthType::Dummy]));
    assert_eq!(half.session, first.session);
    let wrong = challenge(attempt(Some(&password("alice", "wrong horse", session))).await);
    assert_eq!(wrong.error, Some(UiaError::WrongCredentials));
    let done =
        proof(attempt(Some(&password("@alice:hearth.test", "correct horse", session))).await);
    assert_eq!(done.completed, [AuthType::Dummy, AuthType::Password]);
    let spent = challenge(attempt(Some(&dummy(session))).await);
    assert_eq!(spent.error, Some(UiaError::UnknownSession));
    assert_ne!(spent.session, first.session);
}

#[tokio::test]
async fn a_stage_without_a_session_starts_one() {
    let bench = Bench::new().await;
    let flows = [vec![AuthType::Dummy]];
    let outcome =
        bench.users.uia(&request(b""), &flows, None, HERE, Some(&dummy(None))).await.unwrap();
    assert_eq!(proof(outcome).completed, [AuthType::Dummy]);
}

#[tokio::test]
async fn a_session_serves_one_request_only() {
    let bench = Bench::new().await;
    let (alice, bob) = (bench.user("alice").await, bench.user("bob").await);
    let users = &bench.users;
    let flows = [vec![AuthType::Dummy]];
    let mine = UiaRequest::new("DELETE", "/devices/A", Some(&alice), b"body");
    let session = challenge(users.uia(&mine, &flows, None, HERE, None).await.unwrap()).session;
    let others = [
        UiaRequest::new("POST", "/devices/A", Some(&alice), b"body"),
        UiaRequest::new("DELETE", "/devices/B", Some(&alice), b"body"),
        UiaRequest::new("DELETE", "/devices/A", Some(&bob), b"body"),
        UiaRequest::new("DELETE", "/devices/A", Some(&alice), b"other"),
    ];
    for other in others {
        let auth = dummy(Some(&session));
        let outcome = users.uia(&other, &flows, None, HERE, Some(&auth)).await.unwrap();
        assert!(matches!(outcome, UiaOutcome::Refused(UiaError::OtherRequest)), "{outcome:?}");
    }
    let outcome = users.uia(&mine, &flows, None, HERE, Some(&dummy(Some(&session)))).await.unwrap();
    assert_eq!(proof(outcome).completed, [AuthType::Dummy]);
}

#[tokio::test]
async fn nobody_passes_with_anothers_password() {
    let bench = Bench::new().await;
    let (alice, _bob) = (bench.user("alice").await, bench.user("bob").await);
    let flows = [vec![AuthType::Password]];
    for user in ["bob", "@bob:hearth.test", "@alice:elsewhere"] {
        let auth = password(user, "correct horse", None);
        let outcome = bench.users.uia(&request(b""), &flows, Some(&alice), HERE, Some(&auth)).await;
        assert!(matches!(outcome, Ok(UiaOutcome::Refused(UiaError::OtherUser))), "{outcome:?}");
    }
}

#[tokio::test]
async fn sessions_expire_and_end_after_many_failures() {
    let bench = Bench::new().await;
    let alice = bench.user("alice").await;
    let users = &bench.users;
    let flows = [vec![AuthType::Password]];
    let begin = async || {
        challenge(users.uia(&request(b""), &flows, Some(&alice), HERE, None).await.unwrap()).session
    };
    let attempt = async |session: &str| {
        let auth = password("alice", "wrong horse", Some(session));
        let outcome = users.uia(&request(b""), &flows, Some(&alice), HERE, Some(&auth)).await;
        challenge(outcome.unwrap()).error
    };
    let session = begin().await;
    assert!(users.uia_session_exists(&session));
    bench.advance_s(15 * 60);
    assert!(!users.uia_session_exists(&session));
    assert_eq!(attempt(&session).await, Some(UiaError::UnknownSession));
    let session = begin().await;
    for _ in 0..MAX_FAILURES {
        assert_eq!(attempt(&session).await, Some(UiaError::WrongCredentials));
    }
    assert_eq!(attempt(&session).await, Some(UiaError::UnknownSession));
}

#[tokio::test]
async fn wrong_passwords_count_over_all_sessions() {
    let bench = Bench::new().await;
    let alice = bench.user("alice").await;
    let flows = [vec![AuthType::Password]];
    let guess = async |shown: &str| {
        let (request, auth) = (request(b""), password("alice", shown, None));
        bench.users.uia(&request, &flows, Some(&alice), Guesser::Session, Some(&auth)).await
    };
    for _ in 0..MAX_WRONG {
        let wrong = challenge(guess("wrong horse").await.unwrap());
        assert_eq!(wrong.error, Some(UiaError::WrongCredentials));
    }
    let refused = guess("correct horse").await;
    assert!(matches!(refused, Err(UsersError::TooManyGuesses { .. })), "{refused:?}");
    bench.users.login_with_password("alice", "correct horse", None).await.unwrap();
    bench.advance_s(15 * 60);
    proof(guess("correct horse").await.unwrap());
}

#[tokio::test]
async fn stages_passed_on_a_fallback_page_count() {
    let bench = Bench::new().await;
    let users = &bench.users;
    let flows = [vec![AuthType::Dummy]];
    let session =
        challenge(users.uia(&request(b""), &flows, None, HERE, None).await.unwrap()).session;
    let back = AuthData::fallback_acknowledgement(session.clone());
    let early = users.uia(&request(b""), &flows, None, HERE, Some(&back)).await.unwrap();
    assert_eq!(challenge(early).error, None);
    assert!(!users.uia_complete_stage(&session, &AuthType::Password));
    assert!(users.uia_complete_stage(&session, &AuthType::Dummy));
    let outcome = users.uia(&request(b""), &flows, None, HERE, Some(&back)).await.unwrap();
    assert_eq!(proof(outcome).completed, [AuthType::Dummy]);
}

#[tokio::test]
async fn a_registration_token_is_checked_and_handed_on() {
    let bench = Bench::new().await;
    let users = &bench.users;
    users.put_registration_token(Some("welcome".to_owned()), Some(1), None).await.unwrap();
    let flows = users.registration_flows();
    let attempt = async |shown: &str| {
        users.uia(&request(b""), &flows, None, HERE, Some(&token(shown, None))).await.unwrap()
    };
    let wrong = challenge(attempt("unwelcome").await);
    assert_eq!(wrong.error, Some(UiaError::InvalidRegistrationToken));
    let done = proof(attempt("welcome").await);
    assert_eq!(done.registration_token.as_deref(), Some("welcome"));
}
