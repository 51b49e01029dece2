//! Users who talk encrypted.

use std::{io, time::Duration};

use hearth_olm_client::{Device, Homeserver, Letter, MEGOLM, ReadEvent, ToDeviceRequest, Update};
use http::Method;
use ruma::{
    DeviceId, EventId, OwnedDeviceId, OwnedEventId, OwnedRoomId, OwnedUserId, RoomId, UserId,
};
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::{Client, TestUser, encode};

/// How long something that must come may take.
const PATIENCE: Duration = Duration::from_mins(1);
/// One-time keys that a device keeps on its server, unless the test says otherwise.
const ONE_TIME_KEYS: usize = 5;

impl Homeserver for Client {
    type Error = io::Error;

    async fn ask(
        &self,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> Result<Value, io::Error> {
        let body = body.map(|body| body.to_string().into());
        let answer = self.try_send(method.clone(), path, http::HeaderMap::new(), body).await;
        let answer = answer.map_err(io::Error::other)?;
        if !answer.status.is_success() {
            let text = format!("{method} {path}: {} {}", answer.status, answer.json());
            return Err(io::Error::other(text));
        }
        Ok(answer.json())
    }
}

/// A user at a device that encrypts and syncs.
#[derive(Debug)]
pub struct Correspondent {
    /// The user, logged in on the device.
    pub user: TestUser,
    /// The device's keys and sessions.
    pub device: Device,
    /// Every event that could be read so far, in the order in which it could.
    pub read: Vec<ReadEvent>,
    /// Every encrypted message to the device so far.
    pub letters: Vec<Letter>,
    /// Whose devices have changed, as the syncs said.
    pub changed: Vec<OwnedUserId>,
    /// With whom no encrypted room is shared any more, as the syncs said.
    pub left: Vec<OwnedUserId>,
    since: Option<String>,
}

impl Correspondent {
    /// Uploads the device's keys, and syncs for the first time.
    pub async fn start(user: TestUser) -> Self {
        Self::with_one_time_keys(user, ONE_TIME_KEYS).await
    }

    /// The same for a device that keeps this many one-time keys on its server.
    pub async fn with_one_time_keys(user: TestUser, one_time_keys: usize) -> Self {
        let mut device = Device::new(&user.user_id, &user.device_id, one_time_keys);
        device.publish(&*user).await.expect("the keys are uploaded");
        let mut new = Self {
            user,
            device,
            read: Vec::new(),
            letters: Vec::new(),
            changed: Vec::new(),
            left: Vec::new(),
            since: None,
        };
        new.sync().await;
        new
    }

    /// The user's ID.
    #[must_use]
    pub fn id(&self) -> &UserId {
        &self.user.user_id
    }

    /// The device's ID.
    #[must_use]
    pub fn device_id(&self) -> &DeviceId {
        &self.user.device_id
    }

    /// The token that the next sync goes on from.
    #[must_use]
    pub fn since(&self) -> Option<&str> {
        self.since.as_deref()
    }

    /// Makes an encrypted room, and has the others come in.
    pub async fn meet(&self, others: &[&Self]) -> OwnedRoomId {
        let encryption = json!({
            "type": "m.room.encryption",
            "state_key": "",
            "content": { "algorithm": MEGOLM },
        });
        let ids: Vec<_> = others.iter().map(|other| other.id()).collect();
        let body = json!({
            "preset": "private_chat",
            "invite": ids,
            "initial_state": [encryption],
        });
        let room_id = self.user.create_room(body).await;
        for other in others {
            other.user.join(&room_id).await;
        }
        room_id
    }

    /// Says something to those in a room, after sharing the room key with those who lack it.
    pub async fn say(&mut self, room_id: &RoomId, text: &str) -> OwnedEventId {
        let key = self.share(room_id).await;
        self.post(&key).await;
        self.say_on(room_id, text).await
    }

    /// Sends a request that [`Correspondent::share`] or the device made, or sends it again.
    pub async fn post(&self, request: &ToDeviceRequest) {
        request.send(&*self.user).await.expect("messages to devices are taken");
    }

    /// The room key for those who lack it.
    pub async fn share(&mut self, room_id: &RoomId) -> ToDeviceRequest {
        self.device.room_key(&*self.user, room_id).await.expect("everybody's keys are good")
    }

    /// The room key of a new session.
    pub async fn share_anew(&mut self, room_id: &RoomId) -> ToDeviceRequest {
        self.device.rotate(room_id).expect("a new session");
        self.share(room_id).await
    }

    /// Says something with the room's session as it is.
    pub async fn say_on(&mut self, room_id: &RoomId, text: &str) -> OwnedEventId {
        let message = json!({ "msgtype": "m.text", "body": text });
        let sealed = self.device.seal(room_id, "m.room.message", &message);
        let sealed = sealed.expect("there is a session");
        self.user.send_event(room_id, "m.room.encrypted", sealed).await
    }

    /// Syncs until a text has been read; the event.
    pub async fn reads(&mut self, text: &str) -> ReadEvent {
        let is_it = |event: &&ReadEvent| event.content["body"] == text;
        self.until(text, |this| this.read.iter().find(is_it).cloned()).await
    }

    /// Syncs until somebody is in a room.
    pub async fn sees_join_of(&mut self, room_id: &RoomId, user_id: &UserId) {
        let path = TestUser::room_path(room_id, "joined_members");
        let waiting = async {
            while self.user.get_ok(&path).await["joined"].get(user_id.as_str()).is_none() {
                self.poll().await;
            }
        };
        let in_time = timeout(PATIENCE, waiting).await.is_ok();
        assert!(in_time, "{user_id} does not come to be in the room");
    }

    /// Syncs until the devices of a user are these, as far as this one knows.
    pub async fn knows(&mut self, user_id: &UserId, devices: &[&DeviceId]) {
        let mut wanted: Vec<OwnedDeviceId> = devices.iter().map(|id| (*id).to_owned()).collect();
        wanted.sort();
        let mut known = Vec::new();
        let knowing = async {
            while known != wanted {
                known = self.device.devices_of(&*self.user, user_id).await.expect("a list");
                if known != wanted {
                    self.poll().await;
                }
            }
        };
        let in_time = timeout(PATIENCE, knowing).await.is_ok();
        assert!(in_time, "the devices of {user_id} are {wanted:?}, but {known:?} are known");
    }

    /// Syncs until `find` finds something.
    pub async fn until<T>(&mut self, what: &str, find: impl Fn(&Self) -> Option<T>) -> T {
        let waiting = async {
            loop {
                if let Some(found) = find(self) {
                    return found;
                }
                self.poll().await;
            }
        };
        let found = timeout(PATIENCE, waiting).await.ok();
        found.unwrap_or_else(|| {
            let unread: Vec<_> = self.device.unread().collect();
            panic!(
                "{} waits in vain: {what}; letters: {:?}; unread: {unread:?}",
                self.id(),
                self.letters
            )
        })
    }

    /// One sync that does not wait.
    pub async fn sync(&mut self) {
        let response = self.user.sync(self.since.as_deref(), "").await;
        self.take(&response).await;
    }

    /// One sync that waits for something to happen.
    async fn poll(&mut self) {
        let since = self.since.clone().expect("the first sync was at the start");
        let response = self.user.wait_for_sync(&since).await;
        self.take(&response).await;
    }

    async fn take(&mut self, response: &Value) {
        let update = self.device.receive(&*self.user, response).await;
        let Update { letters, events, changed, left } = update.expect("the server takes new keys");
        self.letters.extend(letters);
        self.read.extend(events);
        self.changed.extend(changed);
        self.left.extend(left);
        self.since = response["next_batch"].as_str().map(ToOwned::to_owned);
    }

    /// An event as the user's server holds it.
    pub async fn held(&self, room_id: &RoomId, event_id: &EventId) -> Value {
        let rest = format!("event/{}", encode(event_id.as_str()));
        self.user.get_ok(&TestUser::room_path(room_id, &rest)).await
    }

    /// The texts that could be read, in order.
    #[must_use]
    pub fn texts(&self) -> Vec<&str> {
        self.read.iter().filter_map(|event| event.content["body"].as_str()).collect()
    }
}
