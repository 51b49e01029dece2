//! Conversations of users who encrypt: the same for two users of one server and for users of two servers.
//!
//! Each fails if a server hands out a wrong key, keeps a list of devices that is not true, or loses,
//! repeats or reorders a message to a device: then somebody cannot read what was said to them, or
//! somebody can who should not.

use hearth_olm_client::Undecryptable;
use ruma::{DeviceId, OwnedRoomId, UserId};
use serde_json::{Value, json};

use crate::{Client, Correspondent, TestUser};

const CLAIM: &str = "/_matrix/client/v3/keys/claim";

/// Alice and Bob in an encrypted room, and their servers, which may be one.
#[derive(Debug)]
pub struct Stage {
    hers: Client,
    his: Client,
    alice: Correspondent,
    bob: Correspondent,
    room_id: OwnedRoomId,
}

impl Stage {
    /// Registers both, and has Bob follow Alice's invitation to an encrypted room.
    pub async fn new(hers: &Client, his: &Client) -> Self {
        Self::with_one_time_keys_of_bob(hers, his, 5).await
    }

    async fn with_one_time_keys_of_bob(hers: &Client, his: &Client, count: usize) -> Self {
        let alice = Correspondent::start(TestUser::register(hers, "alice").await).await;
        let bob = TestUser::register(his, "bob").await;
        let bob = Correspondent::with_one_time_keys(bob, count).await;
        let room_id = alice.meet(&[&bob]).await;
        let (hers, his) = (hers.clone(), his.clone());
        Self { hers, his, alice, bob, room_id }
    }

    /// Another device of Bob's.
    async fn second_device_of_bob(&self) -> Correspondent {
        Correspondent::start(TestUser::login(&self.his, "bob").await).await
    }

    /// What a claim of a one-time key of a device by Alice brings: its ID and the key.
    async fn claim(&self, user_id: &UserId, device_id: &DeviceId) -> Option<(String, Value)> {
        let wanted = json!({ user_id.as_str(): { device_id.as_str(): "signed_curve25519" } });
        let answer = self.alice.user.post_ok(CLAIM, json!({ "one_time_keys": wanted })).await;
        let keys = answer["one_time_keys"][user_id.as_str()][device_id.as_str()].as_object();
        keys.into_iter().flatten().next().map(|(id, key)| (id.clone(), key.clone()))
    }
}

/// What each says is read by the other, and the servers hold nothing but ciphertext.
pub async fn both_are_read_and_the_servers_hold_ciphertext(hers: &Client, his: &Client) {
    let Stage { mut alice, mut bob, room_id, .. } = Stage::new(hers, his).await;
    let first = alice.say(&room_id, "the first secret").await;
    bob.reads("the first secret").await;
    let second = bob.say(&room_id, "the second secret").await;
    alice.reads("the second secret").await;
    alice.say(&room_id, "the third secret").await;
    bob.reads("the third secret").await;
    assert_eq!(bob.texts(), ["the first secret", "the second secret", "the third secret"]);
    for event_id in [first, second] {
        let one = alice.held(&room_id, &event_id).await;
        let other = bob.held(&room_id, &event_id).await;
        assert_eq!(one["type"], "m.room.encrypted");
        assert!(one["content"]["ciphertext"].is_string(), "{one}");
        assert_eq!(one["content"], other["content"]);
        assert!(!one.to_string().contains("secret") && !other.to_string().contains("secret"));
    }
    // One room key each way, and no more: it is shared once.
    assert_eq!((alice.letters.len(), bob.letters.len()), (1, 1));
}

/// Once a member has left, what is said is said in a new session, whose key they do not get.
pub async fn a_member_who_left_does_not_get_the_next_room_key(hers: &Client, his: &Client) {
    let mut stage = Stage::new(hers, his).await;
    let mut carol = Correspondent::start(TestUser::register(his, "carol").await).await;
    stage.alice.user.invite(&stage.room_id, carol.id()).await;
    carol.user.join(&stage.room_id).await;
    stage.alice.sees_join_of(&stage.room_id, carol.id()).await;
    let Stage { mut alice, mut bob, room_id, .. } = stage;
    let before = alice.say(&room_id, "for all three").await;
    bob.reads("for all three").await;
    carol.reads("for all three").await;

    // Who came and went between two syncs is not told of.
    alice.sync().await;
    carol.user.leave(&room_id).await;
    let gone = carol.user.user_id.clone();
    alice.until("carol is out of sight", |alice| alice.left.contains(&gone).then_some(())).await;
    let key = alice.share(&room_id).await;
    assert!(key.is_for(bob.id(), bob.device_id()));
    assert!(!key.is_for(carol.id(), carol.device_id()));
    alice.post(&key).await;
    let after = alice.say_on(&room_id, "for two").await;
    bob.reads("for two").await;
    let (before, after) = (alice.held(&room_id, &before).await, alice.held(&room_id, &after).await);
    assert_ne!(before["content"]["session_id"], after["content"]["session_id"]);
    carol.sync().await;
    assert_eq!(carol.device.decrypt(&room_id, &after), Err(Undecryptable::NoRoomKey));
    assert_eq!(carol.letters.len(), 1);
}

/// A device that is new is noticed, and reads what is said from then on, but nothing from before.
pub async fn a_new_device_reads_what_is_said_from_then_on(hers: &Client, his: &Client) {
    let mut stage = Stage::new(hers, his).await;
    let room_id = stage.room_id.clone();
    let before = stage.alice.say(&room_id, "before").await;
    stage.bob.reads("before").await;

    let mut second = stage.second_device_of_bob().await;
    let Stage { mut alice, mut bob, .. } = stage;
    alice.knows(bob.id(), &[bob.device_id(), second.device_id()]).await;
    assert!(alice.changed.iter().any(|user_id| user_id == bob.id()));
    let after = alice.say(&room_id, "after").await;
    second.reads("after").await;
    bob.reads("after").await;
    let (before, after) =
        (second.held(&room_id, &before).await, second.held(&room_id, &after).await);
    assert_eq!(before["content"]["session_id"], after["content"]["session_id"]);
    assert_eq!(second.device.decrypt(&room_id, &before), Err(Undecryptable::BeforeRoomKey));
    assert_eq!(second.texts(), ["after"]);
    // Both ways: the others see what the new device says.
    second.say(&room_id, "from the new one").await;
    alice.reads("from the new one").await;
    bob.reads("from the new one").await;
}

/// A device that logged out gets no room key, has no keys, and what is sent to it goes nowhere, not even
/// to a later device of the same ID.
pub async fn a_lost_device_is_not_written_to(hers: &Client, his: &Client) {
    let mut stage = Stage::new(hers, his).await;
    let room_id = stage.room_id.clone();
    let mut lost = stage.second_device_of_bob().await;
    let (bob_id, lost_id) = (lost.user.user_id.clone(), lost.user.device_id.clone());
    let kept_id = stage.bob.user.device_id.clone();
    stage.alice.knows(&bob_id, &[&kept_id, &lost_id]).await;
    let both = stage.alice.say(&room_id, "for both").await;
    stage.bob.reads("for both").await;
    lost.reads("for both").await;

    lost.user.post_ok("/_matrix/client/v3/logout", json!({})).await;
    stage.alice.knows(&bob_id, &[&kept_id]).await;
    let key = stage.alice.share(&room_id).await;
    assert!(key.is_for(&bob_id, &kept_id) && !key.is_for(&bob_id, &lost_id));
    stage.alice.post(&key).await;
    let one = stage.alice.say_on(&room_id, "for one").await;
    stage.bob.reads("for one").await;
    let held = [stage.alice.held(&room_id, &both).await, stage.alice.held(&room_id, &one).await];
    assert_ne!(held[0]["content"]["session_id"], held[1]["content"]["session_id"]);
    assert_eq!(stage.claim(&bob_id, &lost_id).await, None);
    assert!(stage.claim(&bob_id, &kept_id).await.is_some());

    // What is addressed to it is dropped: it has been by the time that the other device has its own.
    let path = "/_matrix/client/v3/sendToDevice/m.room.encrypted/lost";
    let content = json!({ "algorithm": "m.test" });
    let messages = json!({ &bob_id: { lost_id.as_str(): content, kept_id.as_str(): content } });
    stage.alice.user.put_ok(path, json!({ "messages": messages })).await;
    let count = stage.bob.letters.len();
    let said =
        stage.bob.until("the message", |bob| bob.letters.get(count).map(|it| it.said.clone()));
    assert!(matches!(said.await, Err(Undecryptable::Malformed(_))));
    let again = TestUser::login_on(&stage.his, "bob", &lost_id).await;
    let first = again.sync(None, "").await;
    assert!(first["to_device"]["events"].as_array().is_none_or(Vec::is_empty), "{first}");
    assert_eq!(stage.claim(&bob_id, &lost_id).await, None, "its keys do not come back");
    let known = stage.alice.device.devices_of(&*stage.alice.user, &bob_id).await;
    let known = known.expect("a list");
    assert_eq!(known, [kept_id]);
}

/// A device that lost its Olm sessions cannot read what comes in them; it claims a key for a new one, which is
/// used from then on, and gets again what it missed.
pub async fn a_wedged_session_is_repaired_by_a_new_one(hers: &Client, his: &Client) {
    let Stage { mut alice, mut bob, room_id, .. } = Stage::new(hers, his).await;
    alice.say(&room_id, "ping").await;
    bob.reads("ping").await;
    bob.say(&room_id, "pong").await;
    alice.reads("pong").await;

    bob.device.lose_olm_sessions();
    let key = alice.share_anew(&room_id).await;
    alice.post(&key).await;
    let missed = alice.say_on(&room_id, "missed").await;
    bob.until("a letter that cannot be read", |bob| (bob.letters.len() > 1).then_some(())).await;
    let sender_key = alice.device.account().curve25519();
    let said = &bob.letters[1].said;
    assert!(
        matches!(said, Err(Undecryptable::NoOlmSession { sender_key: key, .. }) if *key == sender_key),
        "{said:?}"
    );
    let is_unread = |bob: &Correspondent| {
        bob.device
            .unread()
            .any(|(id, why)| id == missed.as_str() && *why == Undecryptable::NoRoomKey)
    };
    bob.until("what he cannot read", |bob| is_unread(bob).then_some(())).await;

    let dummy = bob.device.start_over(&*bob.user, alice.id(), alice.device_id()).await;
    let dummy = dummy.expect("a one-time key");
    bob.post(&dummy).await;
    let new = alice.until("the new session", |alice| {
        alice.letters.get(1).map(|letter| letter.said.clone().map(|(event_type, _)| event_type))
    });
    assert_eq!(new.await, Ok("m.dummy".to_owned()));
    let (id, device_id) = (bob.user.user_id.clone(), bob.user.device_id.clone());
    let key = alice.device.room_key_again(&*alice.user, &room_id, &id, &device_id).await;
    let key = key.expect("he is known");
    assert!(key.is_for(&id, &device_id));
    alice.post(&key).await;
    bob.reads("missed").await;
    let key = alice.share_anew(&room_id).await;
    alice.post(&key).await;
    alice.say_on(&room_id, "as before").await;
    bob.reads("as before").await;
}

/// When a device's one-time keys are used up, its fallback key serves everybody, until the device comes
/// and puts others in their place.
pub async fn a_fallback_key_serves_until_it_is_replaced(hers: &Client, his: &Client) {
    let mut stage = Stage::with_one_time_keys_of_bob(hers, his, 2).await;
    let (room_id, bob_id) = (stage.room_id.clone(), stage.bob.user.user_id.clone());
    let bobs_device = stage.bob.user.device_id.clone();
    let mut texts = Vec::new();
    let mut fallback = None;
    for n in 0..5 {
        if n == 2 {
            // Both one-time keys are used by now.
            fallback = stage.claim(&bob_id, &bobs_device).await;
        }
        let mut device = Correspondent::start(TestUser::login(&stage.hers, "alice").await).await;
        texts.push(format!("by device {n}"));
        device.say(&room_id, &texts[n]).await;
    }
    let (old, key) = fallback.expect("a key");
    assert_eq!(key["fallback"], true, "{key}");
    for text in &texts {
        stage.bob.reads(text).await;
    }
    assert!(stage.bob.letters.iter().all(|letter| letter.said.is_ok()), "{:?}", stage.bob.letters);

    let sync = stage.bob.user.sync(stage.bob.since(), "").await;
    assert_eq!(sync["device_one_time_keys_count"]["signed_curve25519"], 2, "{sync}");
    assert_eq!(sync["device_unused_fallback_key_types"], json!(["signed_curve25519"]));
    for _ in 0..2 {
        let (_, key) = stage.claim(&bob_id, &bobs_device).await.expect("a key");
        assert!(key.get("fallback").is_none(), "{key}");
    }
    let (new, key) = stage.claim(&bob_id, &bobs_device).await.expect("a key");
    assert_eq!(key["fallback"], true, "{key}");
    assert_ne!(old, new);
    let mut device = Correspondent::start(TestUser::login(&stage.hers, "alice").await).await;
    device.say(&room_id, "by the new fallback key").await;
    stage.bob.reads("by the new fallback key").await;
}

/// A room key that is sent again under its transaction ID, since the answer may have been lost, comes
/// once; later ones come after it.
pub async fn a_repeated_room_key_comes_once(hers: &Client, his: &Client) {
    let Stage { mut alice, mut bob, room_id, .. } = Stage::new(hers, his).await;
    for text in ["one", "two", "three"] {
        let key = alice.share_anew(&room_id).await;
        for _ in 0..3 {
            alice.post(&key).await;
        }
        alice.say_on(&room_id, text).await;
    }
    bob.reads("three").await;
    bob.reads("one").await;
    assert_eq!(bob.letters.len(), 3, "{:?}", bob.letters);
    bob.sync().await;
    assert_eq!(bob.letters.len(), 3, "{:?}", bob.letters);
}
