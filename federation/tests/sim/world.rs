//! One run: servers, users, a room, things that happen, and what must hold at the end.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    sync::Arc,
    time::Duration,
};

use hearth_rooms::{
    CreateRoomOptions, Draft, MemberProfile, Preset, RemoteMembership, RoomError, Rooms,
    read::StatePart, schema::Standing,
};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use ruma::{
    OwnedEventId, OwnedRoomId, OwnedServerName, OwnedUserId, RoomVersionId, UserId,
    events::TimelineEventType,
};
use serde_json::{Value, json, value::RawValue};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

use crate::{
    network::{Network, Weather},
    server::{SimClock, SimServer, USERS},
};

/// Things that users do in one run.
const STEPS: usize = 40;
/// How long a user waits for an answer.
const PATIENCE: Duration = Duration::from_secs(90);
/// How long the servers get, at the end, until they must agree.
const TIME_TO_AGREE: Duration = Duration::from_hours(1);

const CALM: Weather = Weather { lost_per_mille: 0, max_delay_ms: 20 };

/// What one run came to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// A digest of every message between the servers.
    pub(crate) trace: u64,
    /// How many there were.
    pub(crate) messages: u64,
    /// Events that a server acknowledged to a user.
    pub(crate) acknowledged: usize,
    /// Events in the room at the end.
    pub(crate) events: usize,
}

struct World {
    rng: StdRng,
    network: Network,
    servers: Vec<SimServer>,
    room_id: OwnedRoomId,
    /// Events from before the last server joined: those that came later need not have all of them.
    before: BTreeMap<OwnedEventId, String>,
    acknowledged: BTreeMap<OwnedEventId, OwnedServerName>,
    running: JoinSet<(OwnedServerName, Result<OwnedEventId, RoomError>)>,
}

/// Runs a seed; fails with what does not hold.
pub(crate) async fn run(seed: u64) -> Result<Outcome, String> {
    let mut rng = StdRng::seed_from_u64(seed);
    let clock = Arc::new(SimClock(Instant::now()));
    let network = Network::new(seed, CALM);
    let mut servers = Vec::new();
    for number in 0..rng.random_range(3..=5) {
        servers.push(SimServer::new(number, Arc::clone(&clock), network.clone()).await);
    }
    let room_id = create(&servers, &mut rng).await?;
    let (acknowledged, before, running) = (BTreeMap::new(), BTreeMap::new(), JoinSet::new());
    let mut world = World { rng, network, servers, room_id, before, acknowledged, running };
    world.everybody_joins().await?;
    world.live().await;
    world.settle().await?;
    let events = world.check().await?;
    let (trace, messages) = world.network.trace();
    for server in &mut world.servers {
        server.crash().await;
    }
    Ok(Outcome { trace, messages, acknowledged: world.acknowledged.len(), events })
}

async fn create(servers: &[SimServer], rng: &mut StdRng) -> Result<OwnedRoomId, String> {
    let versions = ["6", "9", "10", "11", "12"];
    let version = versions[rng.random_range(0..versions.len())];
    let creator = servers[0].user(0);
    // Anchors may do nearly everything, so that they contradict each other.
    let levels: Vec<(OwnedUserId, i64)> = servers
        .iter()
        .filter(|server| version != "12" || server.user(0) != creator)
        .map(|server| (server.user(0), 100))
        .collect();
    let levels: BTreeMap<_, _> = levels.into_iter().collect();
    let Value::Object(power) = json!({ "users": levels }) else { unreachable!() };
    let power = power.into_iter().map(|(key, value)| Ok((key, value.try_into()?)));
    let power: Result<_, ruma::CanonicalJsonError> = power.collect();
    let options = CreateRoomOptions {
        preset: Some(Preset::PublicChat),
        room_version: Some(RoomVersionId::try_from(version).unwrap()),
        power_level_content_override: power.unwrap(),
        ..CreateRoomOptions::default()
    };
    let rooms = servers[0].rooms().unwrap();
    rooms.create_room(&creator, options).await.map_err(|error| format!("createRoom: {error}"))
}

/// Joins, by way of another server where the room is not here.
async fn join(
    rooms: Rooms,
    room_id: OwnedRoomId,
    user_id: OwnedUserId,
    via: Vec<OwnedServerName>,
) -> Result<OwnedEventId, RoomError> {
    match rooms.join(&room_id, &user_id, &MemberProfile::default(), None).await {
        Err(RoomError::UnknownRoom) => {
            let remote = rooms.remote().expect("a way out").clone();
            let profile = MemberProfile::default();
            remote.join(RemoteMembership { room_id, user_id, profile, reason: None, via }).await
        }
        other => other,
    }
}

fn raw(json: &Value) -> Box<RawValue> {
    RawValue::from_string(json.to_string()).unwrap()
}

impl World {
    async fn everybody_joins(&mut self) -> Result<(), String> {
        let first = self.servers[0].name.clone();
        for server in &self.servers {
            for number in 0..USERS {
                let (rooms, user_id) = (server.rooms().unwrap().clone(), server.user(number));
                let joined =
                    join(rooms, self.room_id.clone(), user_id.clone(), vec![first.clone()]).await;
                joined.map_err(|error| format!("{user_id} cannot join: {error}"))?;
            }
        }
        // The joins reach everybody, the first server too.
        sleep(Duration::from_mins(1)).await;
        self.before = View::of(self.servers[0].rooms().unwrap(), &self.room_id).await?.events;
        Ok(())
    }

    /// Users act, the network is bad, servers crash.
    async fn live(&mut self) {
        let worst = Weather {
            lost_per_mille: self.rng.random_range(0..150),
            max_delay_ms: self.rng.random_range(10..3_000),
        };
        self.network.set_weather(worst);
        for step in 0..STEPS {
            self.disturb().await;
            self.act(step);
            let pause = self.rng.random_range(0..2_000);
            sleep(Duration::from_millis(pause)).await;
            self.collect();
        }
    }

    /// Now and then something happens to the network or to a server.
    async fn disturb(&mut self) {
        let (one, other) = (self.pick_server(), self.pick_server());
        match self.rng.random_range(0..20) {
            0 | 1 if one != other => {
                let (one, other) = (&self.servers[one].name, &self.servers[other].name);
                self.network.cut(one, other);
            }
            2 => self.network.heal(),
            3 => self.servers[one].crash().await,
            4 | 5 => {
                for server in &mut self.servers {
                    if !server.is_running() {
                        server.start().await;
                    }
                }
            }
            _ => {}
        }
    }

    fn pick_server(&mut self) -> usize {
        self.rng.random_range(0..self.servers.len())
    }

    /// Somebody does something. The answer is waited for in a task, since others go on meanwhile.
    fn act(&mut self, step: usize) {
        let server = self.pick_server();
        let user = self.rng.random_range(0..USERS);
        let (other, guest) = (self.pick_server(), self.rng.random_range(1..USERS));
        let (kind, level) = (self.rng.random_range(0..20), self.rng.random_range(0..=100));
        let server = &self.servers[server];
        let Some(rooms) = server.rooms().cloned() else { return };
        let (me, anchor) = (server.user(user), server.user(0));
        let target = self.servers[other].user(guest);
        let (name, room_id) = (server.name.clone(), self.room_id.clone());
        let via: Vec<_> = self.servers.iter().map(|server| server.name.clone()).collect();
        self.running.spawn(async move {
            let act = do_something(rooms, room_id, kind, step, [me, anchor, target], level, via);
            let gone = || RoomError::Remote("no patience".to_owned());
            (name, timeout(PATIENCE, act).await.unwrap_or_else(|_| Err(gone())))
        });
    }

    fn collect(&mut self) {
        while let Some(done) = self.running.try_join_next() {
            self.note(done.unwrap());
        }
    }

    fn note(&mut self, (server, result): (OwnedServerName, Result<OwnedEventId, RoomError>)) {
        if let Ok(event_id) = result {
            self.acknowledged.insert(event_id, server);
        }
    }

    /// Everything is mended; then the servers get time.
    async fn settle(&mut self) -> Result<(), String> {
        while let Some(done) = self.running.join_next().await {
            self.note(done.unwrap());
        }
        self.network.heal();
        self.network.set_weather(CALM);
        for server in &mut self.servers {
            if !server.is_running() {
                server.start().await;
            }
        }
        // What a server could not fetch in the storm, and answered so, is fetched when the next event
        // refers to it (SS "Retrieving missing events").
        for server in &self.servers {
            let text = raw(&json!({ "msgtype": "m.text", "body": "calm again" }));
            let draft = Draft::message(server.user(0), "m.room.message".into(), text);
            let sent = server.rooms().unwrap().send(&self.room_id, draft, None).await;
            let event_id =
                sent.map_err(|error| format!("{}: the last word: {error}", server.name))?;
            self.acknowledged.insert(event_id, server.name.clone());
        }
        let deadline = Instant::now() + TIME_TO_AGREE;
        while Instant::now() < deadline {
            sleep(Duration::from_mins(1)).await;
            if self.disagreement().await?.is_none() {
                return Ok(());
            }
        }
        match self.disagreement().await? {
            None => Ok(()),
            Some(difference) => Err(difference),
        }
    }

    /// The first difference between two servers, if there is one.
    async fn disagreement(&self) -> Result<Option<String>, String> {
        let mut views = Vec::new();
        for server in &self.servers {
            let mut view = View::of(server.rooms().unwrap(), &self.room_id).await?;
            view.events.retain(|event_id, _| !self.before.contains_key(event_id));
            views.push(view);
        }
        let names = self.servers.iter().map(|server| &server.name);
        let mut all = names.zip(&views);
        let Some((first_name, first)) = all.next() else { return Ok(None) };
        for (name, view) in all {
            if let Some(difference) = first.differs(view) {
                return Ok(Some(format!("{first_name} and {name} differ: {difference}")));
            }
        }
        Ok(None)
    }

    /// What must hold when all is quiet. Returns the number of events.
    async fn check(&self) -> Result<usize, String> {
        if let Some(difference) = self.disagreement().await? {
            return Err(difference);
        }
        let view = View::of(self.servers[0].rooms().unwrap(), &self.room_id).await?;
        for (event_id, server) in &self.acknowledged {
            if !view.events.contains_key(event_id) {
                return Err(format!("{event_id}, acknowledged by {server}, is lost"));
            }
        }
        Ok(view.events.len())
    }
}

/// One user's deed. `who`: the actor, the actor's server's anchor, a guest who may be dealt with.
async fn do_something(
    rooms: Rooms,
    room_id: OwnedRoomId,
    kind: u32,
    step: usize,
    who: [OwnedUserId; 3],
    level: i64,
    via: Vec<OwnedServerName>,
) -> Result<OwnedEventId, RoomError> {
    let [me, anchor, target] = who;
    let room = &room_id;
    let state = |sender: &UserId, event_type: &str, content: Value| {
        Draft::state(sender.to_owned(), event_type.into(), String::new(), raw(&content))
    };
    match kind {
        0..8 => {
            let text = raw(&json!({ "msgtype": "m.text", "body": format!("message {step}") }));
            rooms.send(room, Draft::message(me, "m.room.message".into(), text), None).await
        }
        8..10 => {
            let draft = state(&anchor, "m.room.name", json!({ "name": format!("name {step}") }));
            rooms.send(room, draft, None).await
        }
        10 => {
            let draft = state(&me, "m.room.topic", json!({ "topic": format!("topic {step}") }));
            rooms.send(room, draft, None).await
        }
        11 => {
            let mut content = current_levels(&rooms, room).await?;
            content["users"][target.as_str()] = json!(level / 2);
            rooms.send(room, state(&anchor, "m.room.power_levels", content), None).await
        }
        12 => {
            let rule = if level > 50 { "public" } else { "invite" };
            let draft = state(&anchor, "m.room.join_rules", json!({ "join_rule": rule }));
            rooms.send(room, draft, None).await
        }
        13 => rooms.kick(room, &anchor, &target, None).await,
        14 => rooms.ban(room, &anchor, &target, None).await,
        15 => rooms.unban(room, &anchor, &target, None).await,
        16 if me != anchor => rooms.leave(room, &me, None).await,
        17 => redact_last(&rooms, room, anchor).await,
        _ => join(rooms, room_id, me, via).await,
    }
}

async fn current_levels(rooms: &Rooms, room_id: &ruma::RoomId) -> Result<Value, RoomError> {
    let head = rooms.head(room_id).await?.ok_or(RoomError::UnknownRoom)?;
    let levels = rooms.state_event(room_id, head.state, "m.room.power_levels", "").await?;
    let content = levels.and_then(|event| serde_json::from_str(event.pdu.content().get()).ok());
    Ok(content.unwrap_or_else(|| json!({})))
}

async fn redact_last(
    rooms: &Rooms,
    room_id: &ruma::RoomId,
    sender: OwnedUserId,
) -> Result<OwnedEventId, RoomError> {
    let head = rooms.head(room_id).await?.ok_or(RoomError::UnknownRoom)?;
    let last = head.extremities.first().copied().ok_or(RoomError::UnknownEvent)?;
    let target = rooms.event(room_id, last).await?;
    if target.pdu.state_key().is_some() {
        return Err(RoomError::UnknownEvent);
    }
    let redacts = Some(target.header.event_id.clone());
    let draft = Draft::message(sender, TimelineEventType::RoomRedaction, raw(&json!({})));
    rooms.send(room_id, Draft { redacts, ..draft }, None).await
}

/// What a server holds of the room.
struct View {
    /// Events that are part of the room's graph here, soft-failed ones too: which ones those are
    /// differs from server to server, since it depends on when an event arrives.
    /// By what they are.
    events: BTreeMap<OwnedEventId, String>,
    state: BTreeMap<(String, String), OwnedEventId>,
}

impl View {
    async fn of(rooms: &Rooms, room_id: &ruma::RoomId) -> Result<Self, String> {
        let failed = |error: RoomError| error.to_string();
        let head = rooms.head(room_id).await.map_err(failed)?.ok_or("the room is gone")?;
        let ordinals: Vec<u32> = (0..head.next_event).collect();
        let mut events = BTreeMap::new();
        for event in rooms.events(room_id, &ordinals).await.map_err(failed)? {
            if matches!(event.header.standing, Standing::Accepted | Standing::SoftFailed) {
                let what = format!("{} of {}", event.pdu.kind(), event.pdu.sender());
                events.insert(event.header.event_id.clone(), what);
            }
        }
        let mut state = BTreeMap::new();
        for event in
            rooms.state_events(room_id, head.state, StatePart::All).await.map_err(failed)?
        {
            let key = event.pdu.state_key().unwrap_or_default().to_owned();
            state.insert((event.pdu.kind().to_string(), key), event.header.event_id.clone());
        }
        Ok(Self { events, state })
    }

    fn differs(&self, other: &Self) -> Option<String> {
        let mut text = String::new();
        for (which, here, there) in [("first", self, other), ("second", other, self)] {
            for (event_id, what) in &here.events {
                if !there.events.contains_key(event_id) {
                    write!(text, "only the {which} has {event_id} ({what}); ").unwrap();
                }
            }
        }
        let keys: BTreeSet<_> = self.state.keys().chain(other.state.keys()).collect();
        for key in keys {
            let (here, there) = (self.state.get(key), other.state.get(key));
            if here != there {
                write!(text, "{key:?}: {here:?} against {there:?}; ").unwrap();
            }
        }
        (!text.is_empty()).then_some(text)
    }
}
