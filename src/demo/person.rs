//! A user, with one device that encrypts.

use std::time::Duration;

use hearth_olm_client::{Device, Homeserver as _, ReadEvent};
use http::Method;
use ruma::{OwnedRoomId, OwnedUserId};
use serde_json::{Value, json};
use tokio::time::timeout;

use super::{
    DemoError,
    client::{Client, ClientError, text},
};

/// How long one sync waits, in milliseconds.
const SYNC_TIMEOUT_MS: u64 = 10_000;
/// How long the user waits for something to happen.
const PATIENCE: Duration = Duration::from_mins(1);
/// One-time keys that the server is to have of the device.
const ONE_TIME_KEYS: usize = 10;
/// Events that one look at a room's timeline shows.
const TIMELINE: usize = 20;

/// A user, logged in.
pub(super) struct Person {
    client: Client,
    device: Device,
    /// The user's ID.
    pub(super) user_id: OwnedUserId,
    /// Where the next sync goes on.
    since: Option<String>,
    /// What could be decrypted so far.
    read: Vec<ReadEvent>,
    /// Transactions so far.
    transactions: u32,
}

impl Person {
    /// Makes an account, and the keys of its device.
    pub(super) async fn register(base_url: String, name: &str) -> Result<Self, DemoError> {
        let (client, answer) = Client::register(base_url, name).await?;
        let what = "the registration";
        let user_id = OwnedUserId::try_from(text(&answer, "user_id", what)?)?;
        let device_id = text(&answer, "device_id", what)?;
        let mut device = Device::new(&user_id, device_id.as_str().into(), ONE_TIME_KEYS);
        device.publish(&client).await?;
        Ok(Self { client, device, user_id, since: None, read: Vec::new(), transactions: 0 })
    }

    /// The name before the colon.
    pub(super) fn name(&self) -> &str {
        self.user_id.localpart()
    }

    /// The public key by which others know the device.
    pub(super) fn fingerprint(&self) -> String {
        self.device.account().ed25519()
    }

    /// Makes an encrypted room with this name and invites somebody; its ID.
    pub(super) async fn create_room(
        &self,
        name: &str,
        guest: &str,
    ) -> Result<OwnedRoomId, DemoError> {
        let path = "/_matrix/client/v3/createRoom";
        let encryption = json!({
            "type": "m.room.encryption",
            "state_key": "",
            "content": { "algorithm": hearth_olm_client::MEGOLM },
        });
        let room = json!({
            "preset": "private_chat",
            "name": name,
            "invite": [guest],
            "initial_state": [encryption],
        });
        let answer = self.client.ask(Method::POST, path, Some(room)).await?;
        Ok(text(&answer, "room_id", path)?.try_into()?)
    }

    /// Joins a room.
    pub(super) async fn join(&self, room_id: &str) -> Result<(), DemoError> {
        let path = format!("/_matrix/client/v3/rooms/{room_id}/join");
        Ok(self.client.ask(Method::POST, &path, Some(json!({}))).await.map(drop)?)
    }

    /// Gives the room key to the devices that are to read what comes next and lack it; were there any?
    pub(super) async fn share_room_key(
        &mut self,
        room_id: &OwnedRoomId,
    ) -> Result<bool, DemoError> {
        let request = self.device.room_key(&self.client, room_id).await?;
        if request.is_empty() {
            return Ok(false);
        }
        request.send(&self.client).await?;
        Ok(true)
    }

    /// Says something that only those with the room key can read; the event's ID.
    pub(super) async fn say(
        &mut self,
        room_id: &OwnedRoomId,
        said: &str,
    ) -> Result<String, DemoError> {
        let message = json!({ "msgtype": "m.text", "body": said });
        let sealed = self.device.seal(room_id, "m.room.message", &message)?;
        self.send(room_id, "m.room.encrypted", sealed).await
    }

    /// Sends an event as it is; its ID.
    pub(super) async fn send(
        &mut self,
        room_id: &OwnedRoomId,
        event_type: &str,
        content: Value,
    ) -> Result<String, DemoError> {
        let path = format!("send/{event_type}/{}", self.transaction());
        self.put(room_id, &path, content).await
    }

    /// Takes an event back; the ID of the event that does so.
    pub(super) async fn redact(
        &mut self,
        room_id: &OwnedRoomId,
        event_id: &str,
    ) -> Result<String, DemoError> {
        let path = format!("redact/{event_id}/{}", self.transaction());
        self.put(room_id, &path, json!({})).await
    }

    /// The IDs of the events that are the room's state, in order.
    pub(super) async fn state(&self, room_id: &OwnedRoomId) -> Result<Vec<String>, DemoError> {
        let path = format!("/_matrix/client/v3/rooms/{room_id}/state");
        let answer = self.client.ask(Method::GET, &path, None).await?;
        let mut ids = Vec::new();
        for event in answer.as_array().into_iter().flatten() {
            ids.push(text(event, "event_id", &path)?);
        }
        ids.sort_unstable();
        Ok(ids)
    }

    /// An event as the user's server holds it in the room's timeline.
    pub(super) async fn held(
        &self,
        room_id: &OwnedRoomId,
        event_id: &str,
    ) -> Result<Value, DemoError> {
        let path = format!("/_matrix/client/v3/rooms/{room_id}/messages?dir=b&limit={TIMELINE}");
        let mut page = self.client.ask(Method::GET, &path, None).await?;
        let events = page.get_mut("chunk").and_then(Value::as_array_mut).into_iter().flatten();
        let mut events =
            events.filter(|event| event.get("event_id").is_some_and(|id| id == event_id));
        let found = events.next().map(Value::take);
        let missing = || ClientError::BadAnswer { what: path, answer: format!("no {event_id}") };
        Ok(found.ok_or_else(missing)?)
    }

    /// Syncs until an event can be read; the text that it says.
    pub(super) async fn reads(&mut self, event_id: &str) -> Result<String, DemoError> {
        let is_it = |read: &&ReadEvent| read.event.get("event_id").is_some_and(|id| id == event_id);
        self.wait_for("for something to read", |person, _| {
            let body = person.read.iter().find(is_it)?.content.get("body")?;
            body.as_str().map(ToOwned::to_owned)
        })
        .await
    }

    /// Syncs until `find` finds something in a response or in what could be read so far.
    pub(super) async fn wait_for<T>(
        &mut self,
        what: &str,
        find: impl Fn(&Self, &Value) -> Option<T>,
    ) -> Result<T, DemoError> {
        let waiting = async {
            loop {
                let response = self.sync().await?;
                if let Some(found) = find(self, &response) {
                    return Ok(found);
                }
            }
        };
        let found = timeout(PATIENCE, waiting).await;
        let (who, what) = (self.user_id.to_string(), what.to_owned());
        found.unwrap_or_else(|_| Err(ClientError::InVain { who, what }.into()))
    }

    async fn sync(&mut self) -> Result<Value, DemoError> {
        let mut path = format!("/_matrix/client/v3/sync?timeout={SYNC_TIMEOUT_MS}");
        if let Some(since) = &self.since {
            path = format!("{path}&since={since}");
        }
        let response = self.client.ask(Method::GET, &path, None).await?;
        self.since = Some(text(&response, "next_batch", &path)?);
        let update = self.device.receive(&self.client, &response).await?;
        self.read.extend(update.events);
        Ok(response)
    }

    async fn put(
        &self,
        room_id: &OwnedRoomId,
        rest: &str,
        body: Value,
    ) -> Result<String, DemoError> {
        let path = format!("/_matrix/client/v3/rooms/{room_id}/{rest}");
        let answer = self.client.ask(Method::PUT, &path, Some(body)).await?;
        Ok(text(&answer, "event_id", &path)?)
    }

    fn transaction(&mut self) -> u32 {
        self.transactions += 1;
        self.transactions
    }
}
