//! A server in memory, as far as devices ask one, and devices on it.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fmt,
    sync::{Arc, Mutex},
};

use http::Method;
use ruma::{DeviceId, OwnedDeviceId, OwnedUserId, RoomId, UserId, room_id};
use serde_json::{Map, Value, json};

use crate::{Device, Error, Homeserver, ReadEvent, Update};

/// One-time keys that devices keep on the server.
pub(crate) const KEYS: usize = 5;

pub(crate) fn room() -> &'static RoomId {
    room_id!("!room:a.test")
}

/// What the server holds. Keys can be altered by a test.
#[derive(Debug, Default)]
pub(crate) struct Desk {
    pub(crate) members: BTreeSet<OwnedUserId>,
    pub(crate) device_keys: BTreeMap<OwnedUserId, BTreeMap<OwnedDeviceId, Value>>,
    pub(crate) one_time_keys: BTreeMap<OwnedDeviceId, VecDeque<(String, Value)>>,
    /// Users whose devices it cannot tell now.
    pub(crate) silent: BTreeSet<OwnedUserId>,
    /// The paths that were asked for, without their common beginning, and the bodies.
    pub(crate) asked: Vec<(String, Value)>,
    queues: BTreeMap<OwnedDeviceId, Vec<Value>>,
    /// Requests to fail before others are answered.
    pub(crate) failures: usize,
}

/// The server does nothing.
#[derive(Debug)]
pub(crate) struct Down;

impl fmt::Display for Down {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("down")
    }
}

impl std::error::Error for Down {}

impl Desk {
    /// How often an endpoint was asked.
    pub(crate) fn count(&self, endpoint: &str) -> usize {
        self.asked.iter().filter(|(path, _)| path.starts_with(endpoint)).count()
    }

    fn answer(
        &mut self,
        user_id: &UserId,
        device_id: &DeviceId,
        path: &str,
        body: &Value,
    ) -> Value {
        match path {
            "keys/upload" => self.upload(user_id, device_id, body),
            "keys/query" => self.query(body),
            "keys/claim" => self.claim(body),
            path if path.ends_with("/joined_members") => {
                let joined = self.members.iter().map(|id| (id.to_string(), json!({})));
                json!({ "joined": joined.collect::<Map<_, _>>() })
            }
            _ => self.send(user_id, body),
        }
    }

    fn upload(&mut self, user_id: &UserId, device_id: &DeviceId, body: &Value) -> Value {
        if let Some(keys) = body.get("device_keys") {
            let devices = self.device_keys.entry(user_id.to_owned()).or_default();
            devices.insert(device_id.to_owned(), keys.clone());
        }
        let keys = body.get("one_time_keys").and_then(Value::as_object).into_iter().flatten();
        let offered = self.one_time_keys.entry(device_id.to_owned()).or_default();
        offered.extend(keys.map(|(id, key)| (id.clone(), key.clone())));
        json!({})
    }

    fn query(&self, body: &Value) -> Value {
        let mut told = Map::new();
        for user_id in body["device_keys"].as_object().unwrap().keys() {
            let user_id = OwnedUserId::try_from(user_id.as_str()).unwrap();
            if !self.silent.contains(&user_id) {
                let devices = self.device_keys.get(&user_id).cloned().unwrap_or_default();
                told.insert(user_id.to_string(), json!(devices));
            }
        }
        json!({ "device_keys": told })
    }

    fn claim(&mut self, body: &Value) -> Value {
        let mut claimed = BTreeMap::<_, BTreeMap<_, _>>::new();
        for (user_id, devices) in body["one_time_keys"].as_object().unwrap() {
            for device_id in devices.as_object().unwrap().keys() {
                let offered = self.one_time_keys.get_mut(<&DeviceId>::from(device_id.as_str()));
                if let Some((id, key)) = offered.and_then(VecDeque::pop_front) {
                    claimed.entry(user_id).or_default().insert(device_id, json!({ id: key }));
                }
            }
        }
        json!({ "one_time_keys": claimed })
    }

    fn send(&mut self, sender: &UserId, body: &Value) -> Value {
        for devices in body["messages"].as_object().unwrap().values() {
            for (device_id, content) in devices.as_object().unwrap() {
                let event =
                    json!({ "type": "m.room.encrypted", "sender": sender, "content": content });
                self.queues.entry(device_id.as_str().into()).or_default().push(event);
            }
        }
        json!({})
    }
}

/// A device's way to the server.
pub(crate) struct Line {
    pub(crate) desk: Arc<Mutex<Desk>>,
    user_id: OwnedUserId,
    device_id: OwnedDeviceId,
}

impl Homeserver for Line {
    type Error = Down;

    async fn ask(&self, _: Method, path: &str, body: Option<Value>) -> Result<Value, Down> {
        let mut desk = self.desk.lock().unwrap();
        if let Some(failures) = desk.failures.checked_sub(1) {
            desk.failures = failures;
            return Err(Down);
        }
        let path = path.strip_prefix("/_matrix/client/v3/").unwrap();
        let body = body.unwrap_or_default();
        desk.asked.push((path.to_owned(), body.clone()));
        Ok(desk.answer(&self.user_id, &self.device_id, path, &body))
    }
}

/// A device with its server.
pub(crate) struct Client {
    pub(crate) device: Device,
    pub(crate) line: Line,
}

impl Client {
    /// A device of a member of the room, whose keys are on the server.
    pub(crate) async fn new(desk: &Arc<Mutex<Desk>>, user_id: &UserId, device_id: &str) -> Self {
        let mut client = Self::unpublished(desk, user_id, device_id);
        client.device.publish(&client.line).await.unwrap();
        client
    }

    pub(crate) fn unpublished(desk: &Arc<Mutex<Desk>>, user_id: &UserId, device_id: &str) -> Self {
        desk.lock().unwrap().members.insert(user_id.to_owned());
        let device_id = OwnedDeviceId::from(device_id);
        let device = Device::new(user_id, &device_id, KEYS);
        let (desk, user_id) = (Arc::clone(desk), user_id.to_owned());
        Self { device, line: Line { desk, user_id, device_id } }
    }

    /// An encrypted event of the room, whose receivers are sent the room key.
    pub(crate) async fn say(&mut self, text: &str) -> Value {
        let content = json!({ "body": text });
        let sealed = self.device.encrypt(&self.line, room(), "m.test", &content).await.unwrap();
        self.event(&sealed)
    }

    /// An event of the room with this content.
    pub(crate) fn event(&self, content: &Value) -> Value {
        json!({ "type": "m.room.encrypted", "sender": self.line.user_id, "content": content })
    }

    /// Receives what waits for the device, and these events.
    pub(crate) async fn sync(&mut self, events: &[Value]) -> Update {
        self.sync_with(
            json!({ "rooms": { "join": { room(): { "timeline": { "events": events } } } } }),
        )
        .await
    }

    /// Receives what waits for the device, and this; the counts of its keys are added.
    pub(crate) async fn sync_with(&mut self, mut sync: Value) -> Update {
        let device_id = &self.line.device_id;
        {
            let mut desk = self.line.desk.lock().unwrap();
            let left = desk.one_time_keys.get(device_id).map_or(0, VecDeque::len);
            sync["device_one_time_keys_count"] = json!({ "signed_curve25519": left });
            let queue = desk.queues.remove(device_id).unwrap_or_default();
            sync["to_device"] = json!({ "events": queue });
        }
        self.device.receive(&self.line, &sync).await.unwrap()
    }

    /// What it can read in the room since, of these events.
    pub(crate) async fn read(&mut self, events: &[Value]) -> Vec<String> {
        texts(&self.sync(events).await.events)
    }
}

/// What was said in events.
pub(crate) fn texts(events: &[ReadEvent]) -> Vec<String> {
    let text = |event: &ReadEvent| event.content["body"].as_str().unwrap().to_owned();
    events.iter().map(text).collect()
}

/// What is wrong with keys.
pub(crate) fn refusal<T>(refused: Result<T, Error>) -> String {
    match refused {
        Err(Error::Keys { why, .. }) => why,
        Err(error) => panic!("{error}"),
        Ok(_) => panic!("nothing was refused"),
    }
}
