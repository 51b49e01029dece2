//! A device that encrypts: its keys on its server, and what its syncs bring.

use std::{
    collections::{HashMap, VecDeque},
    fmt,
};

use ruma::{DeviceId, OwnedRoomId, OwnedUserId, UserId};
use serde_json::{Value, json};

use crate::{
    Account, Error, Homeserver, SIGNED_CURVE25519, Undecryptable,
    device_lists::DeviceLists,
    homeserver::post,
    megolm::{InboundSessions, Outbound},
    olm::OlmSessions,
};

#[cfg(test)]
mod tests;

/// Events kept until their room key comes; the oldest one makes room.
const MAX_UNREAD: usize = 1_000;

/// One device of a user, with everything that it needs to encrypt and to decrypt.
pub struct Device {
    pub(crate) account: Account,
    /// How many one-time keys its server is to have of it.
    one_time_keys: usize,
    pub(crate) lists: DeviceLists,
    pub(crate) olm: OlmSessions,
    pub(crate) outbound: HashMap<OwnedRoomId, Outbound>,
    pub(crate) inbound: InboundSessions,
    unread: VecDeque<Unread>,
    /// To-device requests so far.
    pub(crate) requests: u64,
}

struct Unread {
    room_id: OwnedRoomId,
    event: Value,
    why: Undecryptable,
}

/// What a sync brought to a device.
#[derive(Debug, Default)]
pub struct Update {
    /// Encrypted messages to this device, in order.
    pub letters: Vec<Letter>,
    /// Encrypted events of rooms that can be read since: new ones, and those whose room key has come.
    pub events: Vec<ReadEvent>,
    /// Users whose lists of devices have changed (`device_lists.changed`).
    pub changed: Vec<OwnedUserId>,
    /// Users with whom no encrypted room is shared any more (`device_lists.left`).
    pub left: Vec<OwnedUserId>,
}

/// An encrypted message to this device.
#[derive(Debug)]
pub struct Letter {
    /// The user who sent it, as the server says.
    pub sender: OwnedUserId,
    /// The type and the content, if it can be read.
    pub said: Result<(String, Value), Undecryptable>,
}

/// An event of a room, decrypted.
#[derive(Clone, Debug)]
pub struct ReadEvent {
    /// The room that it was sent to.
    pub room_id: OwnedRoomId,
    /// The event as the server tells it.
    pub event: Value,
    /// The type that was encrypted.
    pub event_type: String,
    /// The content that was encrypted.
    pub content: Value,
}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Device").field("account", &self.account).finish_non_exhaustive()
    }
}

impl Device {
    /// A device with new keys, which keeps this many one-time keys on its server.
    #[must_use]
    pub fn new(user_id: &UserId, device_id: &DeviceId, one_time_keys: usize) -> Self {
        Self {
            account: Account::new(user_id, device_id),
            one_time_keys,
            lists: DeviceLists::default(),
            olm: OlmSessions::default(),
            outbound: HashMap::new(),
            inbound: InboundSessions::default(),
            unread: VecDeque::new(),
            requests: 0,
        }
    }

    /// The device's own keys.
    #[must_use]
    pub fn account(&self) -> &Account {
        &self.account
    }

    /// Events that cannot be read, by ID, and why. What was said before this device got the room key stays among
    /// them.
    pub fn unread(&self) -> impl Iterator<Item = (&str, &Undecryptable)> {
        self.unread.iter().map(|unread| (event_id(&unread.event), &unread.why))
    }

    /// Uploads the device's keys for the first time, with one-time keys and a fallback key.
    ///
    /// # Errors
    ///
    /// [`Error::Server`]
    pub async fn publish<S: Homeserver + Sync>(&mut self, server: &S) -> Result<(), Error> {
        let body = json!({
            "device_keys": self.account.device_keys(),
            "one_time_keys": self.account.one_time_keys(self.one_time_keys),
            "fallback_keys": self.account.fallback_key(),
        });
        post(server, "keys/upload", body).await.map(drop)
    }

    /// Takes in what a sync brought, and uploads new keys in place of used ones.
    ///
    /// # Errors
    ///
    /// [`Error::Server`]
    pub async fn receive<S: Homeserver + Sync>(
        &mut self,
        server: &S,
        sync: &Value,
    ) -> Result<Update, Error> {
        let users = |pointer: &str| list(sync, pointer).filter_map(user_id).collect::<Vec<_>>();
        let (changed, left) = (users("/device_lists/changed"), users("/device_lists/left"));
        self.lists.note(&changed, &left);
        let letters = list(sync, "/to_device/events").filter_map(|event| self.letter(event));
        let letters = letters.collect();
        self.replenish(server, sync).await?;
        for (room_id, event) in encrypted_events(sync) {
            let event = event.clone();
            self.unread.push_back(Unread { room_id, event, why: Undecryptable::NoRoomKey });
        }
        let events = self.read();
        Ok(Update { letters, events, changed, left })
    }

    /// Reads a message to this device; keeps the room key that it may be.
    fn letter(&mut self, event: &Value) -> Option<Letter> {
        event.get("type").filter(|kind| *kind == "m.room.encrypted")?;
        let sender = event.get("sender").and_then(user_id)?;
        let content = event.get("content")?;
        let opened = self.olm.open(&mut self.account, &sender, content);
        let said = opened.and_then(|(event_type, content)| {
            if event_type == "m.room_key" {
                self.inbound.put(sender.clone(), &content)?;
            }
            Ok((event_type, content))
        });
        Some(Letter { sender, said })
    }

    /// Replaces one-time keys that were claimed, and a fallback key that was used.
    async fn replenish<S: Homeserver + Sync>(
        &mut self,
        server: &S,
        sync: &Value,
    ) -> Result<(), Error> {
        let pointer = format!("/device_one_time_keys_count/{SIGNED_CURVE25519}");
        let left = sync.pointer(&pointer).and_then(Value::as_u64).unwrap_or_default();
        let left = usize::try_from(left).unwrap_or(usize::MAX);
        let missing = self.one_time_keys.saturating_sub(left);
        if missing > 0 {
            let keys = self.account.one_time_keys(missing);
            post(server, "keys/upload", json!({ "one_time_keys": keys })).await?;
        }
        let unused = "/device_unused_fallback_key_types";
        if sync.pointer(unused).is_some()
            && !list(sync, unused).any(|algorithm| algorithm == SIGNED_CURVE25519)
        {
            let key = self.account.fallback_key();
            post(server, "keys/upload", json!({ "fallback_keys": key })).await?;
        }
        Ok(())
    }

    /// Those of the unread events that can be read now.
    fn read(&mut self) -> Vec<ReadEvent> {
        let (mut read, mut unread) = (Vec::new(), VecDeque::new());
        for Unread { room_id, event, .. } in std::mem::take(&mut self.unread) {
            match self.decrypt(&room_id, &event) {
                Ok((event_type, content)) => {
                    read.push(ReadEvent { room_id, event, event_type, content });
                }
                Err(why) => unread.push_back(Unread { room_id, event, why }),
            }
        }
        let surplus = unread.len().saturating_sub(MAX_UNREAD);
        unread.drain(..surplus);
        self.unread = unread;
        read
    }
}

/// The encrypted events in the timelines of a sync's joined rooms.
fn encrypted_events(sync: &Value) -> impl Iterator<Item = (OwnedRoomId, &Value)> {
    let rooms = sync.pointer("/rooms/join").and_then(Value::as_object).into_iter().flatten();
    rooms.flat_map(|(room_id, room)| {
        let room_id = OwnedRoomId::try_from(room_id.as_str()).ok();
        let events = list(room, "/timeline/events");
        // Redacted ones have nothing left to read.
        let events = events.filter(|event| {
            event.get("type").is_some_and(|kind| kind == "m.room.encrypted")
                && event.pointer("/content/ciphertext").is_some()
        });
        events.filter_map(move |event| Some((room_id.clone()?, event)))
    })
}

fn list<'a>(value: &'a Value, pointer: &str) -> impl Iterator<Item = &'a Value> {
    value.pointer(pointer).and_then(Value::as_array).into_iter().flatten()
}

fn user_id(value: &Value) -> Option<OwnedUserId> {
    value.as_str().and_then(|user_id| user_id.try_into().ok())
}

fn event_id(event: &Value) -> &str {
    event.get("event_id").and_then(Value::as_str).unwrap_or_default()
}
