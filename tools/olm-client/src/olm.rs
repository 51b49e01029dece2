//! Olm sessions with other devices, and what is said in them (Client-Server API,
//! "`m.olm.v1.curve25519-aes-sha2`").

use std::collections::{HashMap, VecDeque};

use ruma::UserId;
use serde_json::{Value, json};
use vodozemac::{
    Curve25519PublicKey, base64_decode, base64_encode,
    olm::{OlmMessage, Session, SessionConfig},
};

use crate::{Account, OLM, Undecryptable, device_lists::PeerDevice};

/// Sessions kept with one device; the one that was not used for longest makes room.
const MAX_SESSIONS: usize = 5;

/// Sessions by the other device's Curve25519 key, those used last first.
#[derive(Default)]
pub(crate) struct OlmSessions(HashMap<Curve25519PublicKey, VecDeque<Session>>);

impl OlmSessions {
    pub(crate) fn has(&self, peer: &PeerDevice) -> bool {
        self.0.get(&peer.curve25519).is_some_and(|sessions| !sessions.is_empty())
    }

    /// From now on, this session is used with that device.
    pub(crate) fn put(&mut self, key: Curve25519PublicKey, session: Session) {
        let sessions = self.0.entry(key).or_default();
        sessions.push_front(session);
        sessions.truncate(MAX_SESSIONS);
    }

    pub(crate) fn forget_all(&mut self) {
        self.0.clear();
    }

    /// The content of an `m.room.encrypted` for a device with which there is a session.
    pub(crate) fn seal(
        &mut self,
        account: &Account,
        peer: &PeerDevice,
        event_type: &str,
        content: &Value,
    ) -> Option<Value> {
        let session = self.0.get_mut(&peer.curve25519)?.front_mut()?;
        let payload = json!({
            "type": event_type,
            "content": content,
            "sender": account.user_id(),
            "sender_device_keys": account.device_keys(),
            "keys": { "ed25519": account.ed25519() },
            "recipient": peer.user_id,
            "recipient_keys": { "ed25519": peer.ed25519.to_base64() },
        });
        let (kind, bytes) = session.encrypt(payload.to_string()).ok()?.to_parts();
        let message = json!({ "type": kind, "body": base64_encode(bytes) });
        Some(json!({
            "algorithm": OLM,
            "sender_key": account.curve25519(),
            "ciphertext": { peer.curve25519.to_base64(): message },
        }))
    }

    /// Reads the content of an `m.room.encrypted` from this user: type and content. Starts a session if it
    /// asks for one.
    ///
    /// # Errors
    ///
    /// [`Undecryptable::Malformed`], [`Undecryptable::Forged`], [`Undecryptable::NoOlmSession`]
    pub(crate) fn open(
        &mut self,
        account: &mut Account,
        sender: &UserId,
        content: &Value,
    ) -> Result<(String, Value), Undecryptable> {
        let (sender_key, message) = message_for(account, content)?;
        let plaintext = self.decrypt(account, sender_key, &message)?;
        let payload: Value = serde_json::from_slice(&plaintext)
            .map_err(|_| Undecryptable::Malformed("the payload is no JSON"))?;
        check(account, sender, sender_key, &payload)?;
        let event_type = payload.get("type").and_then(Value::as_str);
        let event_type = event_type.ok_or(Undecryptable::Malformed("no type"))?.to_owned();
        Ok((event_type, payload.get("content").cloned().unwrap_or_default()))
    }

    fn decrypt(
        &mut self,
        account: &mut Account,
        sender_key: Curve25519PublicKey,
        message: &OlmMessage,
    ) -> Result<Vec<u8>, Undecryptable> {
        let sessions = self.0.entry(sender_key).or_default();
        let mut why = "there is none".to_owned();
        for index in 0..sessions.len() {
            match sessions.get_mut(index).map(|session| session.decrypt(message)) {
                Some(Ok(plaintext)) => {
                    sessions.swap(0, index);
                    return Ok(plaintext);
                }
                Some(Err(error)) => why = error.to_string(),
                None => {}
            }
        }
        if let OlmMessage::PreKey(first) = message {
            let config = SessionConfig::version_1();
            match account.olm.create_inbound_session(config, sender_key, first) {
                Ok(created) => {
                    self.put(sender_key, created.session);
                    return Ok(created.plaintext);
                }
                Err(error) => why = error.to_string(),
            }
        }
        Err(Undecryptable::NoOlmSession { sender_key: sender_key.to_base64(), why })
    }
}

/// Who sent a message, by their key, and the part of it that is for this device.
fn message_for(
    account: &Account,
    content: &Value,
) -> Result<(Curve25519PublicKey, OlmMessage), Undecryptable> {
    let malformed = Undecryptable::Malformed;
    if content.get("algorithm").is_none_or(|algorithm| algorithm != OLM) {
        return Err(malformed("another algorithm"));
    }
    let sender_key = content.get("sender_key").and_then(Value::as_str);
    let sender_key = sender_key.and_then(|key| Curve25519PublicKey::from_base64(key).ok());
    let sender_key = sender_key.ok_or(malformed("no sender key"))?;
    let message = content.get("ciphertext").and_then(|all| all.get(account.curve25519()));
    let message = message.ok_or(malformed("nothing for this device"))?;
    let kind = message.get("type").and_then(Value::as_u64);
    let kind = kind.and_then(|kind| usize::try_from(kind).ok()).ok_or(malformed("no type"))?;
    let body = message.get("body").and_then(Value::as_str);
    let body = body.and_then(|body| base64_decode(body).ok()).ok_or(malformed("no body"))?;
    let message = OlmMessage::from_parts(kind, &body).map_err(|_| malformed("no Olm message"))?;
    Ok((sender_key, message))
}

/// Is a payload for this device, and from the device that the session is with?
fn check(
    account: &Account,
    sender: &UserId,
    sender_key: Curve25519PublicKey,
    payload: &Value,
) -> Result<(), Undecryptable> {
    let forged = |why: &str| Undecryptable::Forged(why.to_owned());
    let says = |pointer: &str, what: &str| payload.pointer(pointer).is_some_and(|is| is == what);
    if !says("/sender", sender.as_str()) {
        return Err(forged("sent by another user"));
    }
    let for_this_key = says("/recipient_keys/ed25519", &account.ed25519());
    if !says("/recipient", account.user_id().as_str()) || !for_this_key {
        return Err(forged("meant for another device"));
    }
    let keys = payload.get("sender_device_keys").ok_or_else(|| forged("no device keys"))?;
    let device_id = keys.get("device_id").and_then(Value::as_str).unwrap_or_default();
    let device = PeerDevice::from_keys(sender, device_id.into(), keys)
        .map_err(|error| Undecryptable::Forged(error.to_string()))?;
    let signs_with = device.ed25519.to_base64();
    if device.curve25519 != sender_key || !says("/keys/ed25519", &signs_with) {
        return Err(forged("sent by another device"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use ruma::{device_id, user_id};

    use super::*;

    struct Side {
        account: Account,
        sessions: OlmSessions,
    }

    impl Side {
        fn new(user_id: &UserId) -> Self {
            let account = Account::new(user_id, device_id!("PHONE"));
            Self { account, sessions: OlmSessions::default() }
        }

        fn as_peer(&self) -> PeerDevice {
            let (user_id, device_id) = (self.account.user_id(), self.account.device_id());
            PeerDevice::from_keys(user_id, device_id, &self.account.device_keys()).unwrap()
        }

        /// Starts a session with one of the other's keys.
        fn start_with(&mut self, other: &mut Side) {
            other.account.one_time_keys(1);
            let key = *other.account.olm.one_time_keys().values().next().unwrap();
            let (config, peer) = (SessionConfig::version_1(), other.as_peer().curve25519);
            let session = self.account.olm.create_outbound_session(config, peer, key).unwrap();
            self.sessions.put(peer, session);
        }

        fn say(&mut self, to: &PeerDevice, text: &str) -> Value {
            self.sessions.seal(&self.account, to, "m.test", &json!(text)).unwrap()
        }

        fn open(&mut self, sender: &UserId, content: &Value) -> Result<Value, Undecryptable> {
            self.sessions.open(&mut self.account, sender, content).map(|(_, content)| content)
        }
    }

    #[test]
    fn what_is_sealed_for_a_device_is_read_there_as_said_by_its_sender() {
        let (alice, bob) = (user_id!("@alice:a.test"), user_id!("@bob:b.test"));
        let (mut hers, mut his) = (Side::new(alice), Side::new(bob));
        hers.start_with(&mut his);
        let first = hers.say(&his.as_peer(), "first");
        assert_eq!(his.open(alice, &first), Ok(json!("first")));
        let back = his.say(&hers.as_peer(), "back");
        assert_eq!(hers.open(bob, &back), Ok(json!("back")));
        let second = hers.say(&his.as_peer(), "second");
        assert!(matches!(his.open(bob, &second), Err(Undecryptable::Forged(_))));
        // The recipient inside of the message is another one.
        let mut other = his.as_peer();
        other.user_id = alice.to_owned();
        let third = hers.say(&other, "third");
        assert!(matches!(his.open(alice, &third), Err(Undecryptable::Forged(_))));
    }

    #[test]
    fn a_lost_session_is_named_and_another_one_takes_its_place() {
        let (alice, bob) = (user_id!("@alice:a.test"), user_id!("@bob:b.test"));
        let (mut hers, mut his) = (Side::new(alice), Side::new(bob));
        hers.start_with(&mut his);
        let first = hers.say(&his.as_peer(), "first");
        his.open(alice, &first).unwrap();
        his.sessions.forget_all();
        let lost = hers.say(&his.as_peer(), "lost");
        let error = his.open(alice, &lost).unwrap_err();
        let Undecryptable::NoOlmSession { sender_key, .. } = error else { panic!("{error}") };
        assert_eq!(sender_key, hers.account.curve25519());
        his.start_with(&mut hers);
        let dummy = his.say(&hers.as_peer(), "dummy");
        hers.open(bob, &dummy).unwrap();
        let again = hers.say(&his.as_peer(), "again");
        assert_eq!(his.open(alice, &again), Ok(json!("again")));
    }

    #[test]
    fn messages_that_are_none_are_refused() {
        let (alice, bob) = (user_id!("@alice:a.test"), user_id!("@bob:b.test"));
        let (mut hers, mut his) = (Side::new(alice), Side::new(bob));
        hers.start_with(&mut his);
        let good = hers.say(&his.as_peer(), "hello");
        let key = his.account.curve25519();
        let mut refused = |pointer: &str, value: Value| {
            let mut content = good.clone();
            *content.pointer_mut(pointer).unwrap() = value;
            his.open(alice, &content).unwrap_err()
        };
        let part = |field: &str| format!("/ciphertext/{}/{field}", key.replace('/', "~1"));
        for (pointer, value, why) in [
            ("/algorithm".to_owned(), json!(crate::MEGOLM), "another algorithm"),
            ("/sender_key".to_owned(), json!("none"), "no sender key"),
            ("/ciphertext".to_owned(), json!({}), "nothing for this device"),
            (part("type"), json!("0"), "no type"),
            (part("type"), json!(7), "no Olm message"),
            (part("body"), json!("?"), "no body"),
            (part("body"), json!("bm9uZQ"), "no Olm message"),
        ] {
            assert_eq!(refused(&pointer, value), Undecryptable::Malformed(why));
        }
        assert_eq!(his.open(alice, &good), Ok(json!("hello")));
    }

    /// What the payload says of who sent it.
    #[test]
    fn who_sent_a_message_is_proved_by_the_keys_in_it() {
        let (alice, bob) = (user_id!("@alice:a.test"), user_id!("@bob:b.test"));
        let (hers, his, other) = (Side::new(alice), Side::new(bob), Side::new(alice));
        let sender_key = hers.as_peer().curve25519;
        let good = json!({
            "sender": alice,
            "sender_device_keys": hers.account.device_keys(),
            "keys": { "ed25519": hers.account.ed25519() },
            "recipient": bob,
            "recipient_keys": { "ed25519": his.account.ed25519() },
        });
        check(&his.account, alice, sender_key, &good).unwrap();
        let forged = |field: &str, value: Value| {
            let mut payload = good.clone();
            payload[field] = value;
            match check(&his.account, alice, sender_key, &payload) {
                Err(Undecryptable::Forged(why)) => why,
                other => panic!("{field}: {other:?}"),
            }
        };
        let others = json!({ "ed25519": other.account.ed25519() });
        assert_eq!(forged("sender", json!(bob)), "sent by another user");
        assert_eq!(forged("recipient", json!(alice)), "meant for another device");
        assert_eq!(forged("recipient_keys", others.clone()), "meant for another device");
        assert_eq!(
            forged("sender_device_keys", Value::Null),
            "keys of  of @alice:a.test: they name another device"
        );
        assert_eq!(
            forged("sender_device_keys", other.account.device_keys()),
            "sent by another device"
        );
        assert_eq!(forged("keys", others), "sent by another device");
        let mut unsigned = hers.account.device_keys();
        unsigned["signatures"] = json!({});
        assert!(forged("sender_device_keys", unsigned).ends_with("not signed by the device"));
    }

    #[test]
    fn few_sessions_are_kept_and_the_one_used_last_is_used_next() {
        let (alice, bob) = (user_id!("@alice:a.test"), user_id!("@bob:b.test"));
        let (mut hers, mut his) = (Side::new(alice), Side::new(bob));
        let (her_peer, his_peer) = (hers.as_peer(), his.as_peer());
        assert!(!hers.sessions.has(&his_peer));
        let mut messages = Vec::new();
        for number in 0..=MAX_SESSIONS {
            hers.start_with(&mut his);
            messages.push(hers.say(&his_peer, &number.to_string()));
        }
        assert_eq!(hers.sessions.0[&his_peer.curve25519].len(), MAX_SESSIONS);
        for message in &messages[1..] {
            his.open(alice, message).unwrap();
        }
        let session_of = |side: &Side, peer: &PeerDevice, index: usize| {
            side.sessions.0[&peer.curve25519][index].session_id()
        };
        // What is said in the last but one makes it the one that answers go into.
        let second = session_of(&hers, &his_peer, 1);
        let sessions = hers.sessions.0.get_mut(&his_peer.curve25519).unwrap();
        sessions.swap(0, 1);
        let message = hers.say(&his_peer, "again");
        assert_eq!(his.open(alice, &message), Ok(json!("again")));
        assert_eq!(session_of(&his, &her_peer, 0), second);
    }
}
