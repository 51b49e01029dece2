//! The WebSocket transport (`docs/websocket.md`).

use futures_util::{SinkExt as _, StreamExt as _};
use hearth_testkit::{TestServer, TestUser, encode};
use ruma::RoomId;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{
        Error, Message, client::IntoClientRequest as _, handshake::client::Request,
        protocol::frame::coding::CloseCode,
    },
};

use crate::support::{
    all_different, at, bodies, ids, joined, list, message, next, of_type, text, timeline, walk,
};

const PATH: &str = "/_matrix/client/unstable/org.hearth.websocket/sync";

struct Socket(WebSocketStream<TcpStream>);

fn request(
    server: &TestServer,
    token: Option<&str>,
    protocol: Option<&str>,
    query: &str,
) -> Request {
    let url = format!("ws://{}{PATH}?{query}", server.address());
    let mut request = url.into_client_request().unwrap();
    if let Some(token) = token {
        let bearer = format!("Bearer {token}").parse().unwrap();
        request.headers_mut().insert("authorization", bearer);
    }
    if let Some(protocol) = protocol {
        request.headers_mut().insert("sec-websocket-protocol", protocol.parse().unwrap());
    }
    request
}

async fn try_open(server: &TestServer, request: Request) -> Result<Socket, (u16, Value)> {
    let stream = TcpStream::connect(server.address()).await.unwrap();
    match client_async(request, stream).await {
        Ok((socket, answer)) => {
            assert_eq!(answer.headers()["sec-websocket-protocol"], "m.json");
            Ok(Socket(socket))
        }
        Err(Error::Http(answer)) => {
            let body = answer.body().as_deref().unwrap_or_default();
            let body = serde_json::from_slice(body).unwrap_or(Value::Null);
            Err((answer.status().as_u16(), body))
        }
        Err(error) => panic!("{error}"),
    }
}

impl Socket {
    async fn open(server: &TestServer, user: &TestUser, query: &str) -> Self {
        let request = request(server, Some(&user.token), Some("m.json"), query);
        try_open(server, request).await.unwrap_or_else(|refusal| panic!("{refusal:?}"))
    }

    /// A socket that continues from a token, without presence.
    async fn from(server: &TestServer, user: &TestUser, since: &str) -> Self {
        let quiet = encode(&json!({ "presence": { "types": [] } }).to_string());
        Self::open(server, user, &format!("since={}&filter={quiet}", encode(since))).await
    }

    async fn frame(&mut self) -> Message {
        loop {
            match self.0.next().await.expect("the socket is open").expect("a whole frame") {
                Message::Ping(_) | Message::Pong(_) => {}
                frame => return frame,
            }
        }
    }

    /// The next message of the server.
    async fn read(&mut self) -> Value {
        match self.frame().await {
            Message::Text(text) => serde_json::from_str(&text).expect("JSON"),
            frame => panic!("{frame:?}"),
        }
    }

    /// The next update; answers to requests are passed over.
    async fn update(&mut self) -> Value {
        loop {
            let message = self.read().await;
            if message.get("next_batch").is_some() {
                return message;
            }
        }
    }

    async fn write(&mut self, message: &Value) {
        self.0.send(Message::text(message.to_string())).await.unwrap();
    }

    async fn ack(&mut self, update: &Value) {
        self.write(&json!({ "ack": update["next_batch"] })).await;
    }

    /// The answer to a request; updates are acknowledged and passed over.
    async fn ask(&mut self, method: &str, id: &str, params: Value) -> Value {
        self.write(&json!({ "id": id, "method": method, "params": params })).await;
        loop {
            let message = self.read().await;
            if message["id"] == id {
                return message;
            }
            self.ack(&message).await;
        }
    }

    /// The code with which the server closes.
    async fn closed(&mut self) -> CloseCode {
        loop {
            match self.0.next().await {
                Some(Ok(Message::Close(Some(frame)))) => return frame.code,
                Some(Ok(_)) => {}
                other => panic!("no close frame: {other:?}"),
            }
        }
    }
}

async fn two_in_a_room(server: &TestServer) -> (TestUser, TestUser, ruma::OwnedRoomId) {
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let room = alice.create_public_room().await;
    bob.join(&room).await;
    (alice, bob, room)
}

fn seen(update: &Value, room: &RoomId) -> Vec<String> {
    bodies(timeline(update, room))
}

#[tokio::test]
async fn the_handshake_is_checked() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let refused = async |request: Request| match try_open(&server, request).await {
        Ok(_) => panic!("the socket opened"),
        Err(refusal) => refusal,
    };
    let token = Some(alice.token.as_str());
    let (status, _) = refused(request(&server, token, None, "")).await;
    assert_eq!(status, 400);
    let (status, body) = refused(request(&server, token, Some("m.xml"), "")).await;
    assert_eq!((status, &body["errcode"]), (400, &json!("M_INVALID_PARAM")));
    let (status, body) = refused(request(&server, None, Some("m.json"), "")).await;
    assert_eq!((status, &body["errcode"]), (401, &json!("M_MISSING_TOKEN")));
    let (status, body) = refused(request(&server, Some("made-up"), Some("m.json"), "")).await;
    assert_eq!((status, &body["errcode"]), (401, &json!("M_UNKNOWN_TOKEN")));
    for query in ["since=nonsense", "filter=%7B", "full_state=perhaps"] {
        let (status, _) = refused(request(&server, token, Some("m.json"), query)).await;
        assert_eq!(status, 400, "{query}");
    }
    // Browsers give the token in the query, and may offer more protocols.
    let query = format!("access_token={}", alice.token);
    let mut socket = try_open(&server, request(&server, None, Some("m.cbor, m.json"), &query))
        .await
        .ok()
        .unwrap();
    socket.update().await;
    // A plain request is no handshake.
    let (status, _) = alice.get(PATH).await;
    assert!(status.is_client_error());
    let versions = alice.get_ok("/_matrix/client/versions").await;
    assert_eq!(versions["unstable_features"]["org.hearth.websocket"], true);
}

#[tokio::test]
async fn updates_are_those_of_sync() {
    let server = TestServer::start().await;
    let (alice, bob, room) = two_in_a_room(&server).await;
    alice.send_text(&room, "before").await;
    let mut socket = Socket::open(&server, &bob, "").await;
    let initial = socket.update().await;
    assert!(seen(&initial, &room).contains(&"before".to_owned()), "{initial}");
    assert!(initial["account_data"]["events"].is_array());
    socket.ack(&initial).await;
    alice.send_text(&room, "live").await;
    let update = socket.update().await;
    assert_eq!(seen(&update, &room), ["live"]);
    socket.ack(&update).await;
    alice
        .put_ok(&at(&room, "typing/@alice:localhost"), json!({ "typing": true, "timeout": 20_000 }))
        .await;
    let update = socket.update().await;
    of_type(&joined(&update, &room)["ephemeral"]["events"], "m.typing");
    // With a filter.
    let filter = json!({ "room": { "timeline": { "types": ["m.room.message"], "limit": 1 }, "state": { "types": [] } } });
    let query = format!("filter={}", encode(&filter.to_string()));
    let mut filtered = Socket::open(&server, &bob, &query).await;
    let initial = filtered.update().await;
    assert_eq!(crate::support::words(timeline(&initial, &room)), ["live"]);
    assert_eq!(list(&joined(&initial, &room)["state"]["events"]).len(), 0);
}

#[tokio::test]
async fn what_is_not_acknowledged_is_held_back_and_gathered() {
    let server = TestServer::start().await;
    let (alice, bob, room) = two_in_a_room(&server).await;
    let mut socket = Socket::from(&server, &bob, &bob.now().await).await;
    let mut updates = Vec::new();
    for n in 0..4 {
        alice.send_text(&room, &n.to_string()).await;
        updates.push(socket.update().await);
    }
    // Four are in flight: what comes now waits, and comes as one.
    for n in 4..8 {
        alice.send_text(&room, &n.to_string()).await;
    }
    // An answer shows that no update came before it.
    socket.write(&json!({ "id": "p", "method": "ping" })).await;
    assert_eq!(socket.read().await["id"], "p");
    let last = updates.last().unwrap().clone();
    socket.ack(&last).await;
    let gathered = socket.update().await;
    assert_eq!(seen(&gathered, &room), ["4", "5", "6", "7"]);
    let all: Vec<_> = updates.iter().flat_map(|update| seen(update, &room)).collect();
    assert_eq!(all, ["0", "1", "2", "3"]);
    // Acknowledging nonsense is answered and changes nothing.
    socket.write(&json!({ "ack": "nonsense" })).await;
    let answer = socket.read().await;
    assert!(answer.to_string().contains("errcode"), "{answer}");
    socket.ack(&gathered).await;
    alice.send_text(&room, "on").await;
    assert_eq!(seen(&socket.update().await, &room), ["on"]);
}

#[tokio::test]
async fn requests_are_carried_out() {
    let server = TestServer::start().await;
    let (alice, bob, room) = two_in_a_room(&server).await;
    let mut socket = Socket::open(&server, &bob, "").await;
    assert_eq!(socket.ask("ping", "1", json!({})).await, json!({ "id": "1", "result": {} }));
    let params = json!({ "room_id": room, "event_type": "m.room.message", "content": message("over the socket") });
    let answer = socket.ask("send", "2", params.clone()).await;
    let event = text(&answer["result"], "event_id").to_owned();
    // The ID is the transaction's, over HTTP as well.
    assert_eq!(socket.ask("send", "2", params.clone()).await["result"]["event_id"], event);
    let path = at(&room, "send/m.room.message/2");
    assert_eq!(bob.put_ok(&path, message("repeated")).await["event_id"], event);
    let read = alice.get_ok(&at(&room, format!("event/{}", encode(&event)))).await;
    assert_eq!(read["content"]["body"], "over the socket");

    let other = alice
        .create_room(json!({ "preset": "public_chat",
        "power_level_content_override": { "users_default": 50 } }))
        .await;
    bob.join(&other).await;
    let params = json!({ "room_id": other, "event_type": "m.room.topic", "state_key": "", "content": { "topic": "t" } });
    assert!(socket.ask("state", "3", params).await["result"]["event_id"].is_string());
    let since = alice.now().await;
    let params = json!({ "room_id": room, "event_id": event, "receipt_type": "m.read" });
    assert_eq!(socket.ask("receipt", "4", params).await["result"], json!({}));
    let params = json!({ "room_id": room, "typing": true, "timeout": 20_000 });
    assert_eq!(socket.ask("typing", "5", params).await["result"], json!({}));
    let params = json!({ "presence": "unavailable", "status_msg": "at sea" });
    assert_eq!(socket.ask("presence", "6", params).await["result"], json!({}));
    let update = alice.sync(Some(&since), "").await;
    let ephemeral = &joined(&update, &room)["ephemeral"]["events"];
    assert!(of_type(ephemeral, "m.receipt")["content"][event.as_str()].is_object());
    assert_eq!(of_type(ephemeral, "m.typing")["content"]["user_ids"], json!(["@bob:localhost"]));
    let presence = alice.get_ok("/_matrix/client/v3/presence/@bob:localhost/status").await;
    assert_eq!(presence["status_msg"], "at sea");
}

#[tokio::test]
async fn bad_requests_are_answered_with_errors() {
    let server = TestServer::start().await;
    let (alice, bob, room) = two_in_a_room(&server).await;
    let closed = alice.create_room(json!({})).await;
    let mut socket = Socket::open(&server, &bob, "").await;
    let message_to = |room: &RoomId| json!({ "room_id": room, "event_type": "m.room.message", "content": message("x") });
    for (method, params, code) in [
        ("fly", json!({}), "M_UNRECOGNIZED"),
        ("send", json!({}), "M_BAD_JSON"),
        ("send", json!({ "room_id": 5 }), "M_BAD_JSON"),
        ("send", message_to(&closed), "M_FORBIDDEN"),
        (
            "send",
            json!({ "room_id": room, "event_type": "m.room.message", "content": { "n": 1.5 } }),
            "M_BAD_JSON",
        ),
        (
            "send",
            json!({ "room_id": room, "event_type": "m.room.message", "content": message(&"x".repeat(66_000)) }),
            "M_TOO_LARGE",
        ),
        ("typing", json!({ "room_id": closed, "typing": true }), "M_FORBIDDEN"),
    ] {
        let answer = socket.ask(method, "bad", params).await;
        assert_eq!(answer["error"]["errcode"], code, "{method}: {answer}");
        assert!(answer["error"]["error"].is_string());
    }
    // The socket goes on.
    assert!(socket.ask("send", "good", message_to(&room)).await["result"]["event_id"].is_string());
    let long = "i".repeat(256);
    assert!(socket.ask("ping", &long, json!({})).await["error"].is_object());
}

#[tokio::test]
async fn what_is_no_object_closes_the_socket() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    for (frame, code) in [
        (Message::binary(vec![1, 2, 3]), CloseCode::Unsupported),
        (Message::text("hello"), CloseCode::Invalid),
        (Message::text("[]"), CloseCode::Invalid),
        (Message::text("x".repeat(200 * 1024)), CloseCode::Size),
    ] {
        let mut socket = Socket::open(&server, &alice, "").await;
        socket.update().await;
        socket.0.send(frame).await.unwrap();
        assert_eq!(socket.closed().await, code);
    }
}

#[tokio::test]
async fn the_end_of_a_session_closes_the_socket() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let phone = server.login("alice").await;
    let room = alice.create_public_room().await;
    let mut socket = Socket::open(&server, &phone, "").await;
    let update = socket.update().await;
    socket.ack(&update).await;
    phone.post_ok("/_matrix/client/v3/logout", json!({})).await;
    alice.send_text(&room, "not for the logged-out phone").await;
    assert_eq!(socket.closed().await, CloseCode::Policy);
}

#[tokio::test]
async fn a_logged_out_device_gets_no_socket() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let since = alice.now().await;
    alice.post_ok("/_matrix/client/v3/logout", json!({})).await;
    let query = format!("since={}", encode(&since));
    let request = request(&server, Some(&alice.token), Some("m.json"), &query);
    let refusal = try_open(&server, request).await.err().unwrap();
    assert_eq!((refusal.0, &refusal.1["errcode"]), (401, &json!("M_UNKNOWN_TOKEN")));
}

#[tokio::test]
async fn the_stop_of_the_server_closes_the_socket() {
    let mut server = TestServer::start().await;
    let alice = server.register("alice").await;
    let mut socket = Socket::open(&server, &alice, "").await;
    let update = socket.update().await;
    server.stop().await;
    assert_eq!(socket.closed().await, CloseCode::Away);
    server.restart().await;
    let room = alice.create_public_room().await;
    let mut socket = Socket::from(&server, &alice, &next(&update)).await;
    assert!(!timeline(&socket.update().await, &room).is_null());
}

#[tokio::test]
async fn one_client_moves_between_the_transports_without_gap_or_duplicate() {
    let mut server = TestServer::start().await;
    let (alice, bob, room) = two_in_a_room(&server).await;
    let mut since = bob.now().await;
    let mut got: Vec<String> = Vec::new();
    let mut sent: Vec<String> = Vec::new();
    for round in 0..12 {
        for n in 0..3 {
            let body = format!("{round}.{n}");
            alice.send_text(&room, &body).await;
            sent.push(body);
        }
        let updates = match round % 4 {
            // By long-poll.
            0 => vec![bob.wait_for_sync(&since).await],
            // By socket, acknowledged, with one more while it is open.
            1 => {
                let mut socket = Socket::from(&server, &bob, &since).await;
                let first = socket.update().await;
                socket.ack(&first).await;
                let body = format!("{round}.live");
                alice.send_text(&room, &body).await;
                sent.push(body);
                vec![first, socket.update().await]
            }
            // By a socket that is lost before its update was taken in: it comes again.
            2 => {
                let mut socket = Socket::from(&server, &bob, &since).await;
                socket.update().await;
                drop(socket);
                vec![bob.sync(Some(&since), "").await]
            }
            // With a restart of the server in between.
            _ => {
                let socket = Socket::from(&server, &bob, &since).await;
                server.restart().await;
                drop(socket);
                vec![Socket::from(&server, &bob, &since).await.update().await]
            }
        };
        for update in &updates {
            got.extend(seen(update, &room));
            since = next(update);
        }
    }
    assert_eq!(got, sent);
    let history = walk(&bob, &room, "f", None, "&limit=9").await;
    all_different(&history);
    assert_eq!(bodies(&json!(history)), sent);
    assert_eq!(ids(timeline(&bob.sync(Some(&since), "").await, &room)).len(), 0);
}

#[tokio::test]
async fn messages_to_devices_stay_until_they_are_acknowledged() {
    let server = TestServer::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let mut socket = Socket::from(&server, &bob, &bob.now().await).await;
    let send = async |n: u64| {
        let messages = json!({ bob.user_id.as_str(): { "*": { "n": n } } });
        let path = format!("/_matrix/client/v3/sendToDevice/m.test/{n}");
        alice.put_ok(&path, json!({ "messages": messages })).await;
    };
    let waiting = async || {
        let sync = bob.sync(None, "").await;
        let events = list(&sync["to_device"]["events"]).to_vec();
        events.iter().map(|event| event["content"]["n"].as_u64().unwrap()).collect::<Vec<_>>()
    };
    send(1).await;
    let first = socket.update().await;
    assert_eq!(first["to_device"]["events"][0]["content"]["n"], 1);
    send(2).await;
    let second = socket.update().await;
    assert_eq!(second["to_device"]["events"][0]["content"]["n"], 2);
    assert_eq!(waiting().await, [1, 2]);
    socket.ack(&first).await;
    while waiting().await != [2] {
        tokio::task::yield_now().await;
    }
    socket.ack(&second).await;
    while !waiting().await.is_empty() {
        tokio::task::yield_now().await;
    }
}
