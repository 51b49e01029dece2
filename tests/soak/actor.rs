//! A user who does random things.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use hearth_testkit::{Client, encode};
use http::Method;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde_json::{Value, json};

use crate::{
    api::{self, Failure},
    world::{RoomInfo, World},
};

const MAX_ROOMS: usize = 8;

/// What the server acknowledged to one user.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    /// Receipts: room, thread (`None`: unthreaded), event.
    pub(crate) receipts: Vec<(String, Option<String>, String)>,
    /// Account data: room (empty: global) and type, with the last content.
    pub(crate) account_data: BTreeMap<(String, String), Value>,
    /// Rooms that the user tried to forget at any time.
    pub(crate) forgotten: HashSet<String>,
    /// Whom the user ignored at any time.
    pub(crate) ever_ignored: HashSet<String>,
}

impl Ledger {
    /// Adds what was acknowledged to another actor of the same user.
    pub(crate) fn add(&mut self, other: Self) {
        self.receipts.extend(other.receipts);
        self.account_data.extend(other.account_data);
        self.forgotten.extend(other.forgotten);
        self.ever_ignored.extend(other.ever_ignored);
    }
}

pub(crate) struct Actor {
    world: Arc<World>,
    user: usize,
    /// Which of the user's actors this is.
    number: usize,
    dice: StdRng,
    next: u64,
    typed_in: HashSet<String>,
    ledger: Ledger,
}

impl Actor {
    pub(crate) fn new(world: Arc<World>, user: usize, number: usize, seed: u64) -> Self {
        let dice = StdRng::seed_from_u64(seed);
        let (typed_in, ledger) = (HashSet::new(), Ledger::default());
        Self { world, user, number, dice, next: 0, typed_in, ledger }
    }

    fn client(&self) -> Client {
        (*self.world.users[self.user].login).clone()
    }

    fn id(&self) -> String {
        self.world.users[self.user].id.clone()
    }

    /// A text that was never used.
    fn fresh(&mut self) -> String {
        self.next += 1;
        format!("text-{}-{}-{}", self.user, self.number, self.next)
    }

    /// Acts until the acting ends.
    pub(crate) async fn run(mut self) -> Ledger {
        self.create_room().await;
        while self.world.is_acting() {
            self.act().await;
        }
        for room_id in self.typed_in.clone() {
            self.typing(&room_id, false).await;
        }
        self.ledger
    }

    fn any_room(&mut self) -> Option<Arc<RoomInfo>> {
        let rooms = self.world.rooms.lock();
        if rooms.is_empty() {
            return None;
        }
        Some(Arc::clone(&rooms[self.dice.random_range(0..rooms.len())]))
    }

    fn any_other(&mut self) -> usize {
        let others = self.world.users.len() - 1;
        (self.user + 1 + self.dice.random_range(0..others)) % self.world.users.len()
    }

    fn any_message(&mut self, room: &RoomInfo) -> Option<(String, usize)> {
        let messages = room.messages.lock();
        let from = messages.len().saturating_sub(30);
        (!messages.is_empty())
            .then(|| messages[self.dice.random_range(from..messages.len())].clone())
    }

    async fn act(&mut self) {
        let Some(room) = self.any_room() else { return };
        match self.dice.random_range(0..1000) {
            0..8 => self.create_room().await,
            8..70 => self.member(&room, "join", None).await,
            70..110 => self.member(&room, "invite", Some(())).await,
            110..130 => self.member(&room, "leave", None).await,
            130..145 => self.member(&room, "kick", Some(())).await,
            145..158 => self.member(&room, "ban", Some(())).await,
            158..175 => self.member(&room, "unban", Some(())).await,
            175..179 => {
                self.ledger.forgotten.insert(room.id.clone());
                self.member(&room, "forget", None).await;
            }
            182..190 => self.leave_and_rejoin(&room).await,
            190..230 => self.state(&room).await,
            230..250 => self.visibility(&room).await,
            250..290 => self.redact(&room).await,
            290..330 => self.relate(&room, "edit").await,
            330..380 => self.relate(&room, "reaction").await,
            380..450 => self.relate(&room, "thread").await,
            450..540 => self.receipt(&room).await,
            540..580 => {
                let typing = self.dice.random();
                self.typing(&room.id, typing).await;
            }
            580..620 => self.account_data(&room).await,
            620..626 => self.profile().await,
            626..640 if self.world.users[self.user].ignores && self.number == 0 => {
                self.ignore().await;
            }
            _ => self.message(&room).await,
        }
    }

    async fn create_room(&mut self) {
        if self.world.rooms.lock().len() >= MAX_ROOMS {
            return;
        }
        let preset =
            ["public_chat", "private_chat", "trusted_private_chat"][self.dice.random_range(0..3)];
        let mut invited = HashSet::from([self.world.watcher.user_id.to_string()]);
        for _ in 0..self.dice.random_range(0..3) {
            let other = self.any_other();
            invited.insert(self.world.users[other].id.clone());
        }
        let version = ["10", "11", "12"][self.dice.random_range(0..3)];
        let body = json!({
            "preset": preset,
            "room_version": version,
            "invite": invited,
            "initial_state": [{
                "type": "m.room.history_visibility",
                "content": { "history_visibility": "shared" },
            }],
            "power_level_content_override": {
                "events": { "m.room.topic": 0, "org.soak.state": 0, "m.room.history_visibility": 50 },
                "invite": 0,
            },
        });
        let client = self.client();
        let path = "/_matrix/client/v3/createRoom";
        // An answer that is lost leaves a room that nobody plays in.
        let made = api::once(&self.world, &client, Method::POST, path, Some(&body)).await;
        let answer = match made {
            Ok(answer) => answer,
            Err(Failure::Unreachable) => return,
            Err(refused) => return self.world.fail(format!("createRoom {body}: {refused:?}")),
        };
        let id = answer["room_id"].as_str().unwrap().to_owned();
        let watcher = (*self.world.watcher).clone();
        let path = api::room(&id, "join");
        let body = json!({});
        if let Err(refused) =
            api::until_answered(&self.world, &watcher, Method::POST, &path, Some(&body)).await
        {
            self.world.fail(format!("the watcher cannot join {id}: {refused:?}"));
        }
        let room = RoomInfo { id, creator: self.user, messages: parking_lot::Mutex::default() };
        self.world.rooms.lock().push(Arc::new(room));
    }

    async fn member(&mut self, room: &RoomInfo, action: &str, other: Option<()>) {
        let body = match other {
            Some(()) => {
                let target = self.any_other();
                json!({ "user_id": self.world.users[target].id })
            }
            None => json!({}),
        };
        let path = api::room(&room.id, action);
        // Many of these are refused, as they should be.
        drop(api::once(&self.world, &self.client(), Method::POST, &path, Some(&body)).await);
    }

    async fn leave_and_rejoin(&mut self, room: &RoomInfo) {
        self.member(room, "leave", None).await;
        if self.dice.random_bool(0.7) {
            self.member(room, "join", None).await;
        }
    }

    async fn state(&mut self, room: &RoomInfo) {
        let text = self.fresh();
        let (event_type, key, content) = match self.dice.random_range(0..4) {
            0 => ("m.room.name".to_owned(), String::new(), json!({ "name": text.clone() })),
            1 => ("m.room.topic".to_owned(), String::new(), json!({ "topic": text.clone() })),
            _ => {
                let key = format!("k{}", self.dice.random_range(0..6));
                ("org.soak.state".to_owned(), key, json!({ "body": text.clone() }))
            }
        };
        let path = api::room(&room.id, &format!("state/{event_type}/{key}"));
        let answer =
            api::once(&self.world, &self.client(), Method::PUT, &path, Some(&content)).await;
        if let Ok(answer) = answer {
            self.acknowledge(room, &answer, None);
        }
    }

    async fn visibility(&mut self, room: &RoomInfo) {
        let kinds = ["shared", "invited", "joined", "world_readable"];
        let content = json!({ "history_visibility": kinds[self.dice.random_range(0..4)] });
        let path = api::room(&room.id, "state/m.room.history_visibility/");
        // Many of these are refused, as they should be.
        drop(api::once(&self.world, &self.client(), Method::PUT, &path, Some(&content)).await);
    }

    fn acknowledge(&self, room: &RoomInfo, answer: &Value, text: Option<String>) -> String {
        let event_id = answer["event_id"].as_str().unwrap().to_owned();
        self.world.acknowledged.lock().push((room.id.clone(), event_id.clone(), text));
        event_id
    }

    /// Sends with a transaction ID until it is answered, now and then twice at once.
    async fn send(
        &mut self,
        room: &RoomInfo,
        event_type: &str,
        content: Value,
        text: Option<String>,
    ) -> Option<String> {
        self.next += 1;
        let path =
            api::room(&room.id, &format!("send/{event_type}/t{}-{}", self.number, self.next));
        let (world, client) = (&self.world, self.client());
        let send = || api::until_answered(world, &client, Method::PUT, &path, Some(&content));
        let answer = if self.dice.random_bool(0.15) {
            let (one, other) = tokio::join!(send(), send());
            match (one, other) {
                (Ok(one), Ok(other)) => {
                    if one != other {
                        world.fail(format!("{path}: one transaction made {one} and {other}"));
                    }
                    Ok(one)
                }
                // A kick may come between the two.
                (one, other) => one.or(other),
            }
        } else if self.dice.random_bool(0.1) {
            // The client goes away in the middle and repeats itself.
            tokio::select! {
                biased;
                () = tokio::task::yield_now() => {}
                _ = send() => {}
            }
            send().await
        } else {
            send().await
        };
        let event_id = answer.ok().map(|answer| self.acknowledge(room, &answer, text))?;
        if self.dice.random_bool(0.05) {
            let again =
                api::until_answered(&self.world, &client, Method::PUT, &path, Some(&content));
            if let Ok(again) = again.await
                && again["event_id"] != *event_id
            {
                self.world.fail(format!("{path}: a repeated transaction made {again}"));
            }
        }
        Some(event_id)
    }

    async fn message(&mut self, room: &RoomInfo) {
        let text = self.fresh();
        let mut content = json!({ "msgtype": "m.text", "body": text });
        if self.dice.random_bool(0.1) {
            let other = self.any_other();
            content["m.mentions"] = json!({ "user_ids": [self.world.users[other].id] });
        }
        if let Some(event_id) = self.send(room, "m.room.message", content, Some(text)).await {
            room.messages.lock().push((event_id, self.user));
        }
    }

    async fn relate(&mut self, room: &RoomInfo, how: &str) {
        let Some((parent, sender)) = self.any_message(room) else { return };
        let text = self.fresh();
        let (event_type, content) = match how {
            "edit" if sender == self.user => (
                "m.room.message",
                json!({
                    "msgtype": "m.text", "body": format!("* {text}"),
                    "m.new_content": { "msgtype": "m.text", "body": text },
                    "m.relates_to": { "rel_type": "m.replace", "event_id": parent },
                }),
            ),
            "reaction" => (
                "m.reaction",
                json!({ "m.relates_to": { "rel_type": "m.annotation", "event_id": parent, "key": text } }),
            ),
            _ => (
                "m.room.message",
                json!({
                    "msgtype": "m.text", "body": text,
                    "m.relates_to": { "rel_type": "m.thread", "event_id": parent },
                }),
            ),
        };
        self.send(room, event_type, content, None).await;
    }

    async fn redact(&mut self, room: &RoomInfo) {
        let Some((target, sender)) = self.any_message(room) else { return };
        if sender != self.user && room.creator != self.user {
            return;
        }
        self.next += 1;
        let path = api::room(
            &room.id,
            &format!("redact/{}/t{}-{}", encode(&target), self.number, self.next),
        );
        let body = json!({});
        let sent =
            api::until_answered(&self.world, &self.client(), Method::PUT, &path, Some(&body)).await;
        if let Ok(answer) = sent {
            self.acknowledge(room, &answer, None);
            room.messages.lock().retain(|(event_id, _)| *event_id != target);
        }
    }

    async fn receipt(&mut self, room: &RoomInfo) {
        let Some((event_id, _)) = self.any_message(room) else { return };
        let kind = ["m.read", "m.read.private"][self.dice.random_range(0..2)];
        let thread = match self.dice.random_range(0..3) {
            0 => Some("main".to_owned()),
            _ => None,
        };
        let path = api::room(&room.id, &format!("receipt/{kind}/{}", encode(&event_id)));
        let body = thread.as_ref().map_or(json!({}), |thread| json!({ "thread_id": thread }));
        let set =
            api::until_answered(&self.world, &self.client(), Method::POST, &path, Some(&body))
                .await;
        if set.is_ok() {
            self.ledger.receipts.push((room.id.clone(), thread, event_id));
        }
    }

    async fn typing(&mut self, room_id: &str, typing: bool) {
        let path = api::room(room_id, &format!("typing/{}", encode(&self.id())));
        let body = json!({ "typing": typing, "timeout": 120_000 });
        let set =
            api::until_answered(&self.world, &self.client(), Method::PUT, &path, Some(&body)).await;
        if set.is_ok() && typing {
            self.typed_in.insert(room_id.to_owned());
        }
    }

    async fn put_account_data(&mut self, scope: &str, event_type: &str, content: Value) {
        let middle = match scope {
            "" => String::new(),
            room_id => format!("rooms/{}/", encode(room_id)),
        };
        let user = encode(&self.id());
        let path = format!("/_matrix/client/v3/user/{user}/{middle}account_data/{event_type}");
        let set =
            api::until_answered(&self.world, &self.client(), Method::PUT, &path, Some(&content))
                .await;
        if set.is_ok() {
            let key = (scope.to_owned(), event_type.to_owned());
            self.ledger.account_data.insert(key, content);
        }
    }

    async fn account_data(&mut self, room: &RoomInfo) {
        let scope = if self.dice.random() { room.id.clone() } else { String::new() };
        let event_type = format!("org.soak.d{}{}", self.number, self.dice.random_range(0..4));
        let content = json!({ "body": self.fresh() });
        self.put_account_data(&scope, &event_type, content).await;
    }

    async fn ignore(&mut self) {
        let mut list = serde_json::Map::new();
        if self.dice.random_bool(0.5) {
            let other = self.any_other();
            let ignored = self.world.users[other].id.clone();
            self.ledger.ever_ignored.insert(ignored.clone());
            list.insert(ignored, json!({}));
        }
        let content = json!({ "ignored_users": list });
        self.put_account_data("", "m.ignored_user_list", content).await;
    }

    async fn profile(&mut self) {
        let text = self.fresh();
        let path = format!("/_matrix/client/v3/profile/{}/displayname", encode(&self.id()));
        let body = json!({ "displayname": format!("Name {text}") });
        // Many of these are refused, as they should be.
        drop(api::once(&self.world, &self.client(), Method::PUT, &path, Some(&body)).await);
    }
}
