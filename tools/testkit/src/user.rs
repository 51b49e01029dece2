//! A user on one device, with the requests that tests need over and over.

use std::{
    ops::Deref,
    sync::atomic::{AtomicU64, Ordering},
};

use http::{Method, StatusCode};
use ruma::{DeviceId, OwnedDeviceId, OwnedEventId, OwnedRoomId, OwnedUserId, RoomId, UserId};
use serde_json::{Value, json};

use crate::{Client, encode};

/// A logged-in user. Dereferences to the [`Client`] that carries its access token.
#[derive(Clone, Debug)]
pub struct TestUser {
    client: Client,
    localpart: String,
    /// The user's ID.
    pub user_id: OwnedUserId,
    /// The device that is logged in.
    pub device_id: OwnedDeviceId,
    /// The device's access token.
    pub token: String,
}

impl Deref for TestUser {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

/// A transaction ID that this process has not used before.
fn transaction_id() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    format!("txn{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

fn text<'a>(answer: &'a Value, field: &str) -> &'a str {
    answer[field].as_str().unwrap_or_else(|| panic!("no `{field}` in {answer}"))
}

impl TestUser {
    fn from_answer(client: &Client, localpart: &str, answer: &Value) -> Self {
        let token = text(answer, "access_token").to_owned();
        Self {
            client: client.with_token(&token),
            localpart: localpart.to_owned(),
            user_id: text(answer, "user_id").try_into().expect("a user ID"),
            device_id: text(answer, "device_id").into(),
            token,
        }
    }

    /// Registers a user with a server whose registration is open, with the password
    /// `password of <localpart>`.
    pub async fn register(client: &Client, localpart: &str) -> Self {
        let path = "/_matrix/client/v3/register";
        let request = |auth: Value| {
            json!({
                "username": localpart,
                "password": Self::password_of(localpart),
                "auth": auth,
            })
        };
        let (_, challenge) = client.post(path, request(json!({ "type": "m.login.dummy" }))).await;
        // A server may take the dummy stage without a session; the specification's way has one.
        let answer = if challenge.get("access_token").is_some() {
            challenge
        } else {
            let auth = json!({ "type": "m.login.dummy", "session": challenge.get("session") });
            client.post_ok(path, request(auth)).await
        };
        Self::from_answer(client, localpart, &answer)
    }

    /// Logs a registered user in on one more device.
    pub async fn login(client: &Client, localpart: &str) -> Self {
        Self::login_with(client, localpart, json!({})).await
    }

    /// Logs a registered user in again on a device of this ID.
    pub async fn login_on(client: &Client, localpart: &str, device_id: &DeviceId) -> Self {
        Self::login_with(client, localpart, json!({ "device_id": device_id })).await
    }

    async fn login_with(client: &Client, localpart: &str, mut body: Value) -> Self {
        body["type"] = json!("m.login.password");
        body["identifier"] = json!({ "type": "m.id.user", "user": localpart });
        body["password"] = json!(Self::password_of(localpart));
        let answer = client.post_ok("/_matrix/client/v3/login", body).await;
        Self::from_answer(client, localpart, &answer)
    }

    /// The password that [`TestUser::register`] gives to this localpart.
    #[must_use]
    pub fn password_of(localpart: &str) -> String {
        format!("password of {localpart}")
    }

    /// This user's password.
    #[must_use]
    pub fn password(&self) -> String {
        Self::password_of(&self.localpart)
    }

    /// Makes a room from a `createRoom` body; `json!({})` for a private room.
    pub async fn create_room(&self, body: Value) -> OwnedRoomId {
        let answer = self.post_ok("/_matrix/client/v3/createRoom", body).await;
        text(&answer, "room_id").try_into().expect("a room ID")
    }

    /// Makes a room that anybody may join.
    pub async fn create_public_room(&self) -> OwnedRoomId {
        self.create_room(json!({ "preset": "public_chat" })).await
    }

    /// The path of something inside a room, such as `room_path(&room_id, "members")`.
    #[must_use]
    pub fn room_path(room_id: &RoomId, rest: &str) -> String {
        format!("/_matrix/client/v3/rooms/{}/{rest}", encode(room_id.as_str()))
    }

    /// Joins a room.
    pub async fn join(&self, room_id: &RoomId) {
        self.post_ok(&Self::room_path(room_id, "join"), json!({})).await;
    }

    /// Leaves a room.
    pub async fn leave(&self, room_id: &RoomId) {
        self.post_ok(&Self::room_path(room_id, "leave"), json!({})).await;
    }

    /// Invites somebody.
    pub async fn invite(&self, room_id: &RoomId, user_id: &UserId) {
        self.post_ok(&Self::room_path(room_id, "invite"), json!({ "user_id": user_id })).await;
    }

    /// Sends a text message.
    pub async fn send_text(&self, room_id: &RoomId, body: &str) -> OwnedEventId {
        self.send_event(room_id, "m.room.message", json!({ "msgtype": "m.text", "body": body }))
            .await
    }

    /// Sends a message-like event.
    pub async fn send_event(
        &self,
        room_id: &RoomId,
        event_type: &str,
        content: Value,
    ) -> OwnedEventId {
        let (status, answer) = self.try_send_event(room_id, event_type, content).await;
        assert_eq!(status, StatusCode::OK, "sending {event_type} to {room_id}: {answer}");
        text(&answer, "event_id").try_into().expect("an event ID")
    }

    /// Sends a message-like event that may be refused.
    pub async fn try_send_event(
        &self,
        room_id: &RoomId,
        event_type: &str,
        content: Value,
    ) -> (StatusCode, Value) {
        let rest = format!("send/{}/{}", encode(event_type), transaction_id());
        self.put(&Self::room_path(room_id, &rest), content).await
    }

    /// Sets state.
    pub async fn send_state(
        &self,
        room_id: &RoomId,
        event_type: &str,
        state_key: &str,
        content: Value,
    ) -> OwnedEventId {
        let rest = format!("state/{}/{}", encode(event_type), encode(state_key));
        let answer = self.put_ok(&Self::room_path(room_id, &rest), content).await;
        text(&answer, "event_id").try_into().expect("an event ID")
    }

    /// Redacts an event.
    pub async fn redact(&self, room_id: &RoomId, event_id: &ruma::EventId) -> OwnedEventId {
        let rest = format!("redact/{}/{}", encode(event_id.as_str()), transaction_id());
        let answer = self.put_ok(&Self::room_path(room_id, &rest), json!({})).await;
        text(&answer, "event_id").try_into().expect("an event ID")
    }

    /// One sync that does not wait, with more of a query if need be: `sync(Some(&since), "&full_state=true")`.
    pub async fn sync(&self, since: Option<&str>, query: &str) -> Value {
        let since = since.map_or_else(String::new, |token| format!("&since={}", encode(token)));
        self.ok(Method::GET, &format!("/_matrix/client/v3/sync?timeout=0{since}{query}"), None)
            .await
    }

    /// The `next_batch` of a sync that does not wait: "now".
    pub async fn now(&self) -> String {
        text(&self.sync(None, "").await, "next_batch").to_owned()
    }

    /// One incremental sync that waits up to 30 seconds for something to happen.
    pub async fn wait_for_sync(&self, since: &str) -> Value {
        let path = format!("/_matrix/client/v3/sync?timeout=30000&since={}", encode(since));
        self.get_ok(&path).await
    }
}
