//! A device: follows sync as a client would, and keeps what it was told.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{Arc, atomic::Ordering},
};

use hearth_testkit::{TestUser, encode};
use http::Method;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde_json::{Value, json};

use crate::{
    api::{self, Failure},
    socket::Updates,
    world::World,
};

/// Syncs that a device does when nothing happens any more, at most.
const FINAL_SYNCS: usize = 50;

/// How a device asks.
#[expect(clippy::struct_excessive_bools, reason = "each is one parameter of /sync")]
#[derive(Clone, Debug)]
pub(crate) struct Habits {
    pub(crate) limit: u64,
    pub(crate) lazy: bool,
    pub(crate) threads: bool,
    pub(crate) state_after: bool,
    pub(crate) socket: bool,
}

/// A room as one device knows it.
#[derive(Debug, Default)]
pub(crate) struct DeviceRoom {
    pub(crate) joined: bool,
    /// Events in the order of the timeline, gaps filled; coming back to a room begins a new stretch,
    /// which may show what was before the last one.
    pub(crate) stretches: Vec<Vec<String>>,
    pub(crate) known: HashSet<String>,
    /// State by type and key.
    pub(crate) state: BTreeMap<(String, String), String>,
    /// A gap could not be filled, since the user was not in the room any more.
    pub(crate) excused: bool,
    pub(crate) account_data: BTreeMap<String, Value>,
    /// Notifications and highlights, those of threads added.
    pub(crate) unread: Option<(u64, u64)>,
    pub(crate) typing: Vec<Value>,
    /// In which run of the server that was told.
    pub(crate) typing_run: u64,
    pub(crate) joined_count: Option<u64>,
}

pub(crate) struct Device {
    pub(crate) user: usize,
    pub(crate) name: String,
    pub(crate) habits: Habits,
    pub(crate) login: TestUser,
    pub(crate) rooms: BTreeMap<String, DeviceRoom>,
    pub(crate) invites: HashSet<String>,
    pub(crate) account_data: BTreeMap<String, Value>,
    dice: StdRng,
    token: Option<String>,
    /// What the last responses said, for reports.
    pub(crate) trace: HashMap<String, Vec<String>>,
}

impl Device {
    pub(crate) fn new(
        world: &World,
        user: usize,
        number: usize,
        login: TestUser,
        seed: u64,
    ) -> Self {
        let mut dice = StdRng::seed_from_u64(seed);
        let habits = Habits {
            limit: dice.random_range(1..=12),
            lazy: dice.random(),
            threads: dice.random(),
            state_after: dice.random(),
            socket: dice.random_bool(0.4),
        };
        Self {
            user,
            name: format!("{}/{number} {habits:?}", world.users[user].id),
            habits,
            login,
            rooms: BTreeMap::new(),
            invites: HashSet::new(),
            account_data: BTreeMap::new(),
            dice,
            token: None,
            trace: HashMap::new(),
        }
    }

    fn query(&mut self) -> String {
        let habits = &self.habits;
        let filter = json!({ "room": {
            "timeline": {
                "limit": habits.limit,
                "lazy_load_members": habits.lazy,
                "unread_thread_notifications": habits.threads,
            },
            "state": { "lazy_load_members": habits.lazy },
        } });
        let mut query = format!("filter={}", encode(&filter.to_string()));
        if self.habits.state_after {
            query.push_str("&use_state_after=true");
        }
        if let Some(token) = &self.token {
            query.extend(["&since=", &encode(token)]);
        }
        if self.token.is_some() && self.dice.random_bool(0.03) {
            query.push_str("&full_state=true");
        }
        query
    }

    pub(crate) async fn run(mut self, world: Arc<World>) -> Self {
        while !world.is_quiet() {
            if self.habits.socket && self.token.is_some() && self.dice.random_bool(0.3) {
                self.stream(&world).await;
            } else {
                self.poll(&world, 2_000).await;
            }
            // Some devices look seldom, so that much happens in between.
            for _ in 0..self.dice.random_range(0..3) {
                api::get(&world, &self.login, "/_matrix/client/v3/account/whoami").await;
            }
        }
        for _ in 0..FINAL_SYNCS {
            let before = self.token.clone();
            self.poll(&world, 0).await;
            if self.token == before {
                break;
            }
        }
        self
    }

    async fn poll(&mut self, world: &World, timeout: u64) {
        world.wait_until_up().await;
        let path = format!("/_matrix/client/v3/sync?timeout={timeout}&{}", self.query());
        let client = (*self.login).clone();
        let request = api::once(world, &client, Method::GET, &path, None);
        let answer = if timeout > 0 && self.dice.random_bool(0.05) {
            // The client goes away while it waits.
            tokio::select! {
                biased;
                answer = request => answer,
                () = tokio::task::yield_now() => return,
            }
        } else {
            request.await
        };
        match answer {
            // A response that is lost on the way: the token stays.
            Ok(_) if timeout > 0 && self.dice.random_bool(0.05) => {}
            Ok(body) => {
                world.syncs.fetch_add(1, Ordering::Relaxed);
                self.take_in(world, &body).await;
            }
            Err(Failure::Unreachable) => tokio::task::yield_now().await,
            Err(refused) => world.fail(format!("{}: {path}: {refused:?}", self.name)),
        }
    }

    async fn stream(&mut self, world: &World) {
        world.wait_until_up().await;
        let query = self.query();
        let opened = Updates::open(&world.base, &query, &self.login.token).await;
        let Some(mut updates) = opened else { return };
        for _ in 0..self.dice.random_range(1..8) {
            let update = tokio::select! {
                update = updates.next() => update,
                () = world.quiet() => return,
            };
            let Some(update) = update else { return };
            world.updates.fetch_add(1, Ordering::Relaxed);
            self.take_in(world, &update).await;
            if self.dice.random_bool(0.9) {
                updates.acknowledge(self.token.as_deref().unwrap_or_default()).await;
            }
        }
    }

    async fn take_in(&mut self, world: &World, body: &Value) {
        for event in list(&body["account_data"]["events"]) {
            let event_type = text(&event["type"]);
            self.account_data.insert(event_type, event["content"].clone());
        }
        for (room_id, section) in object(&body["rooms"]["join"]) {
            self.invites.remove(room_id);
            self.take_in_room(world, room_id, section, true).await;
        }
        for (room_id, section) in object(&body["rooms"]["leave"]) {
            self.invites.remove(room_id);
            self.take_in_room(world, room_id, section, false).await;
        }
        for room_id in object(&body["rooms"]["invite"]).map(|(room_id, _)| room_id) {
            self.invites.insert(room_id.clone());
            let room = self.rooms.entry(room_id.clone()).or_default();
            // Out and asked back since the last look: an invitation has no timeline for the end.
            room.excused |= std::mem::take(&mut room.joined);
        }
        self.token = Some(text(&body["next_batch"]));
    }

    async fn take_in_room(&mut self, world: &World, room_id: &str, section: &Value, joined: bool) {
        let mut room = self.rooms.remove(room_id).unwrap_or_default();
        let timeline = &section["timeline"];
        let events: Vec<&Value> = list(&timeline["events"]).collect();
        let limited = timeline["limited"] == true;
        let note = format!(
            "since {:?} {} limited={limited} prev={} next-of {:?}",
            self.token,
            if joined { "join" } else { "leave" },
            timeline["prev_batch"],
            events
                .iter()
                .map(|event| format!("{}:{}", text(&event["event_id"]), text(&event["type"])))
                .collect::<Vec<_>>()
        );
        self.trace.entry(room_id.to_owned()).or_default().push(note);
        let was_joined = room.joined;
        if !was_joined {
            room.stretches.push(Vec::new());
        }
        if limited {
            let filled = self.fill(world, &room, room_id, &text(&timeline["prev_batch"])).await;
            if let Some(older) = filled {
                self.append(world, &mut room, room_id, older, true);
            } else {
                world.excused.fetch_add(1, Ordering::Relaxed);
                room.excused = true;
            }
        }
        let new = events.iter().map(|event| text(&event["event_id"])).collect();
        // Who comes back may be shown again what they know.
        self.append(world, &mut room, room_id, new, !was_joined);
        if joined && !was_joined && self.habits.lazy {
            room.state.retain(|(event_type, _), _| event_type != "m.room.member");
        }
        let before = list(&section["state"]["events"]);
        let after = list(&section["state_after"]["events"]);
        let shown = events.into_iter().filter(|_| !self.habits.state_after);
        for event in before.chain(shown).chain(after) {
            if let Some(key) = event["state_key"].as_str() {
                let key = (text(&event["type"]), key.to_owned());
                room.state.insert(key, text(&event["event_id"]));
            }
        }
        for event in list(&section["account_data"]["events"]) {
            room.account_data.insert(text(&event["type"]), event["content"].clone());
        }
        for event in list(&section["ephemeral"]["events"]) {
            if event["type"] == "m.typing" {
                room.typing = event["content"]["user_ids"].as_array().cloned().unwrap_or_default();
                room.typing_run = world.run();
            }
        }
        if let Some(count) = section["summary"]["m.joined_member_count"].as_u64() {
            room.joined_count = Some(count);
        }
        if let Some(unread) = section.get("unread_notifications") {
            let threads = object(&section["unread_thread_notifications"]).map(|(_, counts)| counts);
            let sum = |name: &str, counts: &[&Value]| {
                counts.iter().filter_map(|counts| counts[name].as_u64()).sum::<u64>()
            };
            let all: Vec<&Value> = std::iter::once(unread).chain(threads).collect();
            room.unread = Some((sum("notification_count", &all), sum("highlight_count", &all)));
        }
        room.joined = joined;
        if !joined {
            room.typing.clear();
        }
        self.rooms.insert(room_id.to_owned(), room);
    }

    /// Reads backwards to what is known, oldest first. `None` if the room may not be read any more.
    async fn fill(
        &self,
        world: &World,
        room: &DeviceRoom,
        room_id: &str,
        from: &str,
    ) -> Option<Vec<String>> {
        world.filled.fetch_add(1, Ordering::Relaxed);
        let mut older = Vec::new();
        let mut from = from.to_owned();
        'pages: loop {
            let rest = format!("messages?dir=b&limit=50&from={}", encode(&from));
            let path = api::room(room_id, &rest);
            let page =
                api::until_answered(world, &self.login, Method::GET, &path, None).await.ok()?;
            for event in list(&page["chunk"]) {
                let event_id = text(&event["event_id"]);
                if room.known.contains(&event_id) {
                    break 'pages;
                }
                older.push(event_id);
            }
            match page["end"].as_str() {
                Some(end) => end.clone_into(&mut from),
                None => break,
            }
        }
        older.reverse();
        Some(older)
    }

    fn append(
        &self,
        world: &World,
        room: &mut DeviceRoom,
        room_id: &str,
        events: Vec<String>,
        may_repeat: bool,
    ) {
        for event_id in events {
            let is_new = room.known.insert(event_id.clone());
            if is_new || may_repeat {
                room.stretches.last_mut().expect("a stretch was begun").push(event_id);
            } else {
                let trace = &self.trace[room_id];
                let latest = &trace[trace.len().saturating_sub(2)..];
                world.fail(format!(
                    "{}: {event_id} comes twice in {room_id}; {latest:#?}",
                    self.name
                ));
            }
        }
    }
}

/// The elements of an array; none if there is no array.
pub(crate) fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

/// The members of an object; none if there is no object.
pub(crate) fn object(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flatten()
}

pub(crate) fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}
