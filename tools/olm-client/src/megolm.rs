//! Megolm sessions: one's own in each room, and those that others have shared (Client-Server API,
//! "`m.megolm.v1.aes-sha2`").

use std::collections::{BTreeMap, HashMap};

use ruma::{OwnedDeviceId, OwnedUserId};
use serde_json::{Value, json};
use vodozemac::megolm::{
    DecryptionError, GroupSession, InboundGroupSession, MegolmMessage, SessionConfig, SessionKey,
};

use crate::{Account, MEGOLM, Undecryptable, device_lists::PeerDevice};

/// Messages after which a session is replaced: the specification's default.
const MAX_MESSAGES: u32 = 100;

/// A device, and the Curve25519 key by which it was known when it got something.
type Holder = (OwnedUserId, OwnedDeviceId, String);

/// A session that this device encrypts with, and the `m.room_key` that each holder of its key was sent.
pub(crate) struct Outbound {
    session: GroupSession,
    holders: BTreeMap<Holder, Value>,
}

impl Outbound {
    pub(crate) fn new() -> Self {
        let session = GroupSession::new(SessionConfig::version_1());
        Self { session, holders: BTreeMap::new() }
    }

    /// May it go on, if these devices are to read what comes next, and nobody else?
    pub(crate) fn suits(&self, readers: &[PeerDevice]) -> bool {
        let reads = |holder: &Holder| readers.iter().any(|device| holder_of(device) == *holder);
        self.session.message_index() < MAX_MESSAGES && self.holders.keys().all(reads)
    }

    /// The content of the `m.room_key` that a device was sent, if it was.
    pub(crate) fn held_by(&self, device: &PeerDevice) -> Option<&Value> {
        self.holders.get(&holder_of(device))
    }

    pub(crate) fn note_holder(&mut self, device: &PeerDevice, room_key: Value) {
        self.holders.insert(holder_of(device), room_key);
    }

    /// The content of the `m.room_key` that lets others read from now on.
    pub(crate) fn room_key(&self, room_id: &str) -> Value {
        json!({
            "algorithm": MEGOLM,
            "room_id": room_id,
            "session_id": self.session.session_id(),
            "session_key": self.session.session_key().to_base64(),
        })
    }

    /// The content of an `m.room.encrypted`.
    pub(crate) fn seal(&mut self, account: &Account, payload: &Value) -> Value {
        let session_id = self.session.session_id();
        let message = self.session.encrypt(payload.to_string());
        json!({
            "algorithm": MEGOLM,
            "ciphertext": message.to_base64(),
            "session_id": session_id,
            "sender_key": account.curve25519(),
            "device_id": account.device_id(),
        })
    }
}

fn holder_of(device: &PeerDevice) -> Holder {
    let key = device.curve25519.to_base64();
    (device.user_id.clone(), device.device_id.clone(), key)
}

/// A session that somebody has shared.
struct Inbound {
    session: InboundGroupSession,
    /// The user whose device has shared it: nobody else's messages are read with it.
    sender: OwnedUserId,
}

/// Sessions by room and session ID.
#[derive(Default)]
pub(crate) struct InboundSessions(HashMap<(String, String), Inbound>);

impl InboundSessions {
    /// Keeps what an `m.room_key` shares. Of two keys of a session, the one that opens more.
    ///
    /// # Errors
    ///
    /// [`Undecryptable::Malformed`], [`Undecryptable::Forged`]
    pub(crate) fn put(
        &mut self,
        sender: OwnedUserId,
        content: &Value,
    ) -> Result<(), Undecryptable> {
        let text = |field: &'static str| {
            let text = content.get(field).and_then(Value::as_str);
            text.ok_or(Undecryptable::Malformed(field))
        };
        if text("algorithm")? != MEGOLM {
            return Err(Undecryptable::Malformed("another algorithm"));
        }
        let key = SessionKey::from_base64(text("session_key")?)
            .map_err(|_| Undecryptable::Malformed("no session key"))?;
        let mut session = InboundGroupSession::new(&key, SessionConfig::version_1());
        if session.session_id() != text("session_id")? {
            return Err(Undecryptable::Forged("the key of another session".to_owned()));
        }
        let id = (text("room_id")?.to_owned(), session.session_id());
        if let Some(known) = self.0.get_mut(&id) {
            if known.sender != sender {
                return Err(Undecryptable::Forged("somebody else's session".to_owned()));
            }
            let merged = known.session.merge(&mut session);
            known.session = merged.ok_or(Undecryptable::Malformed("another session"))?;
        } else {
            self.0.insert(id, Inbound { session, sender });
        }
        Ok(())
    }

    /// Reads an `m.room.encrypted` of a room: the payload.
    ///
    /// # Errors
    ///
    /// Any but [`Undecryptable::NoOlmSession`].
    pub(crate) fn open(&mut self, room_id: &str, event: &Value) -> Result<Value, Undecryptable> {
        let text = |pointer: &str| {
            let text = event.pointer(pointer).and_then(Value::as_str);
            text.ok_or(Undecryptable::Malformed("a field is missing"))
        };
        if text("/content/algorithm")? != MEGOLM {
            return Err(Undecryptable::Malformed("another algorithm"));
        }
        let message = MegolmMessage::from_base64(text("/content/ciphertext")?)
            .map_err(|_| Undecryptable::Malformed("no Megolm message"))?;
        let id = (room_id.to_owned(), text("/content/session_id")?.to_owned());
        let shared = self.0.get_mut(&id).ok_or(Undecryptable::NoRoomKey)?;
        if shared.sender != text("/sender")? {
            return Err(Undecryptable::Forged("in somebody else's session".to_owned()));
        }
        let plaintext = shared.session.decrypt(&message).map_err(|error| match error {
            DecryptionError::UnknownMessageIndex(..) => Undecryptable::BeforeRoomKey,
            error => Undecryptable::Forged(error.to_string()),
        })?;
        let payload: Value = serde_json::from_slice(&plaintext.plaintext)
            .map_err(|_| Undecryptable::Malformed("the payload is no JSON"))?;
        if payload.get("room_id").is_none_or(|said_in| said_in != room_id) {
            return Err(Undecryptable::Forged("said in another room".to_owned()));
        }
        Ok(payload)
    }
}

#[cfg(test)]
mod tests {
    use ruma::{device_id, user_id};

    use super::*;

    const ROOM: &str = "!room:a.test";

    fn said(outbound: &mut Outbound, account: &Account, text: &str) -> Value {
        let payload = json!({ "room_id": ROOM, "type": "m.test", "content": text });
        json!({ "sender": account.user_id(), "content": outbound.seal(account, &payload) })
    }

    #[test]
    fn a_room_key_opens_what_its_sender_says_from_then_on_in_its_room() {
        let (alice, mallory) = (user_id!("@alice:a.test"), user_id!("@mallory:a.test"));
        let account = Account::new(alice, device_id!("PHONE"));
        let (mut outbound, mut inbound) = (Outbound::new(), InboundSessions::default());
        let from_start = outbound.room_key(ROOM);
        let first = said(&mut outbound, &account, "first");
        assert_eq!(inbound.open(ROOM, &first), Err(Undecryptable::NoRoomKey));
        inbound.put(alice.to_owned(), &outbound.room_key(ROOM)).unwrap();
        assert_eq!(inbound.open(ROOM, &first), Err(Undecryptable::BeforeRoomKey));
        let mut second = said(&mut outbound, &account, "second");
        assert_eq!(inbound.open(ROOM, &second).unwrap()["content"], "second");
        assert_eq!(inbound.open("!other:a.test", &second), Err(Undecryptable::NoRoomKey));
        second["sender"] = json!(mallory);
        assert!(matches!(inbound.open(ROOM, &second), Err(Undecryptable::Forged(_))));
        let theirs = inbound.put(mallory.to_owned(), &from_start);
        assert!(matches!(theirs, Err(Undecryptable::Forged(_))));
        // Of two keys the one that opens more is kept, in whatever order they come.
        inbound.put(alice.to_owned(), &from_start).unwrap();
        inbound.put(alice.to_owned(), &outbound.room_key(ROOM)).unwrap();
        assert_eq!(inbound.open(ROOM, &first).unwrap()["content"], "first");
    }

    fn device(user_id: &ruma::UserId, device_id: &ruma::DeviceId) -> PeerDevice {
        let account = Account::new(user_id, device_id);
        PeerDevice::from_keys(user_id, device_id, &account.device_keys()).unwrap()
    }

    #[test]
    fn a_session_goes_on_while_its_holders_may_read_and_for_a_hundred_messages() {
        let (alice, bob) = (user_id!("@alice:a.test"), user_id!("@bob:b.test"));
        let account = Account::new(alice, device_id!("PHONE"));
        let (one, other) = (device(bob, device_id!("ONE")), device(bob, device_id!("OTHER")));
        let mut outbound = Outbound::new();
        assert!(outbound.suits(&[]) && outbound.suits(std::slice::from_ref(&one)));
        let key = outbound.room_key(ROOM);
        outbound.note_holder(&one, key.clone());
        assert_eq!((outbound.held_by(&one), outbound.held_by(&other)), (Some(&key), None));
        assert!(outbound.suits(&[one.clone(), other.clone()]), "one more may join");
        assert!(!outbound.suits(&[other]), "a holder is gone");
        // The same device in name, with other keys.
        assert!(!outbound.suits(&[device(bob, device_id!("ONE"))]));
        for number in 0..100 {
            assert!(outbound.suits(std::slice::from_ref(&one)), "{number}");
            said(&mut outbound, &account, "again");
        }
        assert!(!outbound.suits(&[one]));
    }

    #[test]
    fn room_keys_and_messages_that_are_none_are_refused() {
        let alice = user_id!("@alice:a.test");
        let account = Account::new(alice, device_id!("PHONE"));
        let (mut outbound, mut inbound) = (Outbound::new(), InboundSessions::default());
        let good = outbound.room_key(ROOM);
        let other = Outbound::new().room_key(ROOM)["session_id"].clone();
        let mut put = |field: &str, value: Value| {
            let mut content = good.clone();
            content[field] = value;
            inbound.put(alice.to_owned(), &content).unwrap_err()
        };
        assert_eq!(
            put("algorithm", json!(crate::OLM)),
            Undecryptable::Malformed("another algorithm")
        );
        assert_eq!(put("session_key", json!("none")), Undecryptable::Malformed("no session key"));
        assert_eq!(put("room_id", Value::Null), Undecryptable::Malformed("room_id"));
        assert!(matches!(put("session_id", other), Undecryptable::Forged(_)));
        assert_eq!(inbound.0.len(), 0);
        inbound.put(alice.to_owned(), &good).unwrap();
        let message = said(&mut outbound, &account, "hello");
        let mut open = |field: &str, value: Value| {
            let mut message = message.clone();
            message["content"][field] = value;
            inbound.open(ROOM, &message).unwrap_err()
        };
        assert_eq!(open("algorithm", json!("m.x")), Undecryptable::Malformed("another algorithm"));
        assert_eq!(
            open("ciphertext", json!("none")),
            Undecryptable::Malformed("no Megolm message")
        );
        assert_eq!(open("session_id", Value::Null), Undecryptable::Malformed("a field is missing"));
        // One that another session has encrypted.
        let foreign =
            said(&mut Outbound::new(), &account, "hello")["content"]["ciphertext"].clone();
        assert!(matches!(open("ciphertext", foreign), Undecryptable::Forged(_)));
        assert_eq!(inbound.open(ROOM, &message).unwrap()["content"], "hello");
    }

    #[test]
    fn what_was_said_in_one_room_is_not_read_in_another() {
        let alice = user_id!("@alice:a.test");
        let account = Account::new(alice, device_id!("PHONE"));
        let (mut outbound, mut inbound) = (Outbound::new(), InboundSessions::default());
        inbound.put(alice.to_owned(), &outbound.room_key("!other:a.test")).unwrap();
        let message = said(&mut outbound, &account, "hello");
        let opened = inbound.open("!other:a.test", &message);
        assert!(matches!(opened, Err(Undecryptable::Forged(_))), "{opened:?}");
    }
}
