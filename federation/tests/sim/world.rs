//! One run: servers, users, rooms, things that happen, and what must hold at the end.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use hearth_rooms::{CreateRoomOptions, Preset, RoomError};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng, seq::SliceRandom as _};
use ruma::{OwnedEventId, OwnedRoomId, OwnedServerName, OwnedUserId, RoomVersionId};
use serde_json::{Value, json};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

use crate::{
    deeds::{Deed, Done, KINDS, join, message},
    devices::Devices,
    network::{Network, Weather},
    server::{SimClock, SimServer, USERS},
    view::View,
};

/// Users of each founding server who are in a room before the storm.
const FOUNDERS: usize = 2;
/// Things that users do in one run.
const STEPS: usize = 50;
/// How long a user waits for an answer.
const PATIENCE: Duration = Duration::from_secs(90);
/// How long the servers get, at the end, until they must agree.
const TIME_TO_AGREE: Duration = Duration::from_hours(1);
/// How long they get before that in seeds where nobody says a last word at first: what was not told in
/// time is asked for again in growing pauses.
const TIME_TO_AGREE_IN_SILENCE: Duration = Duration::from_hours(5);

const CALM: Weather = Weather { lost_per_mille: 0, max_delay_ms: 20 };

/// Who does something in the storm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Busy {
    /// Users in their rooms. They have no devices.
    Rooms,
    /// Devices, while the rooms are quiet.
    Devices,
}

/// What one run came to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// A digest of every message between the servers.
    pub(crate) trace: u64,
    /// How many there were.
    pub(crate) messages: u64,
    /// Events that a server acknowledged to a user.
    pub(crate) acknowledged: usize,
    /// Events in the rooms at the end.
    pub(crate) events: usize,
    /// Servers that came into a room while the network was bad, and were in it at the end.
    pub(crate) late: usize,
    /// Messages to devices that arrived.
    pub(crate) to_devices: usize,
    /// Device lists of another server's user that a server knew without asking.
    pub(crate) followed: usize,
    /// Whether the servers agreed although nobody said anything after the storm; `None` where somebody did
    /// at once.
    pub(crate) in_silence: Option<bool>,
}

/// A room, and what is known of it.
struct SimRoom {
    room_id: OwnedRoomId,
    /// Servers that were in it before the storm; their anchors never leave. The first made it.
    founders: Vec<usize>,
    /// Events from before the last of them joined: those that came later need not have all of them.
    before: BTreeMap<OwnedEventId, String>,
    acknowledged: BTreeMap<OwnedEventId, OwnedServerName>,
}

/// A server, a room, and what the server answered to a deed there.
type Answer = (OwnedServerName, usize, Result<Done, RoomError>);

/// Which servers must agree.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Compared {
    /// Those that were in a room before the storm.
    Founders,
    /// Also those that came in it.
    All,
}

struct World {
    rng: StdRng,
    network: Network,
    servers: Vec<SimServer>,
    rooms: Vec<SimRoom>,
    /// Does everybody say something as soon as the storm is over?
    last_word: bool,
    /// Did they agree without that?
    agreed_in_silence: bool,
    busy: Busy,
    devices: Devices,
    running: JoinSet<Answer>,
}

/// Runs a seed; fails with what does not hold.
pub(crate) async fn run(seed: u64, busy: Busy) -> Result<Outcome, String> {
    let mut rng = StdRng::seed_from_u64(seed);
    let clock = Arc::new(SimClock(Instant::now()));
    let network = Network::new(seed, CALM);
    let mut servers = Vec::new();
    for number in 0..rng.random_range(3..=5) {
        servers.push(SimServer::new(number, Arc::clone(&clock), network.clone()).await);
    }
    let mut rooms = Vec::new();
    for _ in 0..rng.random_range(2..=3) {
        rooms.push(create(&servers, &mut rng).await?);
    }
    let last_word = seed.is_multiple_of(2);
    let running = JoinSet::new();
    let mut world = World {
        rng,
        network,
        servers,
        rooms,
        last_word,
        agreed_in_silence: false,
        busy,
        devices: Devices::new(seed),
        running,
    };
    if busy == Busy::Devices {
        world.devices.start(&world.servers).await?;
    }
    world.founders_join().await?;
    world.live().await?;
    world.settle().await?;
    let (events, late) = world.check().await?;
    let (to_devices, followed) = match busy {
        Busy::Rooms => (0, 0),
        Busy::Devices => world.check_devices().await?,
    };
    let (trace, messages) = world.network.trace();
    for server in &mut world.servers {
        server.crash().await;
    }
    let acknowledged = world.rooms.iter().map(|room| room.acknowledged.len()).sum();
    let in_silence = (!world.last_word).then_some(world.agreed_in_silence);
    Ok(Outcome { trace, messages, acknowledged, events, late, to_devices, followed, in_silence })
}

/// Makes a room of some of the servers, at least two.
async fn create(servers: &[SimServer], rng: &mut StdRng) -> Result<SimRoom, String> {
    let versions = ["6", "9", "10", "11", "12"];
    let version = versions[rng.random_range(0..versions.len())];
    let mut founders: Vec<usize> = (0..servers.len()).collect();
    founders.shuffle(rng);
    founders.truncate(rng.random_range(2..=servers.len()));
    let maker = &servers[founders[0]];
    let creator = maker.user(0);
    // Anchors may do nearly everything, so that they contradict each other.
    let levels: BTreeMap<OwnedUserId, i64> = founders
        .iter()
        .map(|founder| servers[*founder].user(0))
        .filter(|anchor| version != "12" || *anchor != creator)
        .map(|anchor| (anchor, 100))
        .collect();
    let Value::Object(power) = json!({ "users": levels }) else { unreachable!() };
    let power = power.into_iter().map(|(key, value)| Ok((key, value.try_into()?)));
    let power: Result<_, ruma::CanonicalJsonError> = power.collect();
    let options = CreateRoomOptions {
        preset: Some(Preset::PublicChat),
        room_version: Some(RoomVersionId::try_from(version).unwrap()),
        power_level_content_override: power.unwrap(),
        ..CreateRoomOptions::default()
    };
    let made = maker.rooms().unwrap().create_room(&creator, options).await;
    let room_id = made.map_err(|error| format!("createRoom: {error}"))?;
    Ok(SimRoom { room_id, founders, before: BTreeMap::new(), acknowledged: BTreeMap::new() })
}

impl World {
    async fn founders_join(&mut self) -> Result<(), String> {
        for room in &self.rooms {
            let maker = self.servers[room.founders[0]].name.clone();
            for founder in &room.founders {
                let server = &self.servers[*founder];
                for number in 0..FOUNDERS {
                    let (rooms, user_id) = (server.rooms().unwrap().clone(), server.user(number));
                    let (room_id, via) = (room.room_id.clone(), vec![maker.clone()]);
                    let joined = join(rooms, room_id, user_id.clone(), via).await;
                    joined.map_err(|error| format!("{user_id} cannot join: {error}"))?;
                }
            }
        }
        // The joins reach everybody, the makers too.
        sleep(Duration::from_mins(1)).await;
        for place in 0..self.rooms.len() {
            let (maker, room) = (self.rooms[place].founders[0], &self.rooms[place]);
            let view = self.view(maker, room).await?.ok_or("the room is gone")?;
            self.rooms[place].before = view.events;
        }
        Ok(())
    }

    async fn view(&self, server: usize, room: &SimRoom) -> Result<Option<View>, String> {
        View::of(self.servers[server].rooms().unwrap(), &room.room_id).await
    }

    /// Users act, the network is bad, servers crash.
    async fn live(&mut self) -> Result<(), String> {
        let worst = Weather {
            lost_per_mille: self.rng.random_range(0..150),
            max_delay_ms: self.rng.random_range(10..3_000),
        };
        self.network.set_weather(worst);
        for step in 0..STEPS {
            self.disturb().await;
            match self.busy {
                Busy::Rooms => self.act(step),
                Busy::Devices => self.devices.act(&self.servers).await?,
            }
            let pause = self.rng.random_range(0..2_000);
            sleep(Duration::from_millis(pause)).await;
            self.collect();
        }
        Ok(())
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
        let (place, server) = (self.rng.random_range(0..self.rooms.len()), self.pick_server());
        let user = self.rng.random_range(0..USERS);
        let (other, guest) = (self.pick_server(), self.rng.random_range(1..USERS));
        let (kind, level) = (self.rng.random_range(0..KINDS), self.rng.random_range(0..=100));
        let server = &self.servers[server];
        let Some(rooms) = server.rooms().cloned() else { return };
        let room = &self.rooms[place];
        let via = room.founders.iter().map(|founder| self.servers[*founder].name.clone());
        let deed = Deed {
            room_id: room.room_id.clone(),
            kind,
            step,
            me: server.user(user),
            anchor: server.user(0),
            target: self.servers[other].user(guest),
            level,
            via: via.collect(),
        };
        let name = server.name.clone();
        self.running.spawn(async move {
            let gone = || RoomError::Remote("no patience".to_owned());
            let done = timeout(PATIENCE, deed.be_done(rooms)).await;
            (name, place, done.unwrap_or_else(|_| Err(gone())))
        });
    }

    fn collect(&mut self) {
        while let Some(answer) = self.running.try_join_next() {
            self.note(answer.unwrap());
        }
    }

    fn note(&mut self, (server, place, done): Answer) {
        if let Ok(Done::Event(event_id) | Done::Joined(event_id)) = done {
            self.rooms[place].acknowledged.insert(event_id, server);
        }
    }

    /// Everything is mended; then the servers get time.
    async fn settle(&mut self) -> Result<(), String> {
        while let Some(answer) = self.running.join_next().await {
            self.note(answer.unwrap());
        }
        self.network.heal();
        self.network.set_weather(CALM);
        for server in &mut self.servers {
            if !server.is_running() {
                server.start().await;
            }
        }
        self.agreed_in_silence = !self.last_word
            && self.agree_within(TIME_TO_AGREE_IN_SILENCE, Compared::Founders).await?.is_none();
        if !self.agreed_in_silence {
            self.say_last_word().await?;
            if let Some(difference) = self.agree_within(TIME_TO_AGREE, Compared::Founders).await? {
                return Err(difference);
            }
        }
        // What others did while a server joined, and before they knew of that, nobody has told it: this goes
        // to all, and refers to it.
        self.say_last_word().await?;
        match self.agree_within(TIME_TO_AGREE, Compared::All).await? {
            None => Ok(()),
            Some(difference) => Err(difference),
        }
    }

    /// Waits until the servers agree; after this time, says in what they differ.
    async fn agree_within(
        &self,
        time: Duration,
        compared: Compared,
    ) -> Result<Option<String>, String> {
        let (deadline, mut pause) = (Instant::now() + time, Duration::from_mins(1));
        while Instant::now() < deadline {
            sleep(pause).await;
            if self.disagreement(compared).await?.is_none() {
                return Ok(None);
            }
            pause = (pause * 2).min(Duration::from_mins(20));
        }
        self.disagreement(compared).await
    }

    /// What a server could not fetch in the storm is fetched at the latest when an event refers to it (SS
    /// "Retrieving missing events").
    async fn say_last_word(&mut self) -> Result<(), String> {
        for room in &mut self.rooms {
            for founder in &room.founders {
                let server = &self.servers[*founder];
                let draft = message(server.user(0), "calm again");
                let sent = server.rooms().unwrap().send(&room.room_id, draft, None).await;
                let event_id =
                    sent.map_err(|error| format!("{}: the last word: {error}", server.name))?;
                room.acknowledged.insert(event_id, server.name.clone());
            }
        }
        Ok(())
    }

    /// The first difference between two servers in a room, if there is one.
    async fn disagreement(&self, compared: Compared) -> Result<Option<String>, String> {
        for room in &self.rooms {
            let difference = match self.founders_disagree(room).await? {
                None if compared == Compared::All => self.late_servers_disagree(room).await?,
                difference => difference,
            };
            if let Some(difference) = difference {
                return Ok(Some(format!("in {}: {difference}", room.room_id)));
            }
        }
        Ok(None)
    }

    async fn founders_disagree(&self, room: &SimRoom) -> Result<Option<String>, String> {
        let mut first: Option<(usize, View)> = None;
        for founder in &room.founders {
            let view = self.view(*founder, room).await?.ok_or("the room is gone")?;
            let Some((number, first)) = &first else {
                first = Some((*founder, view));
                continue;
            };
            if let Some(difference) = first.differs(&view, &room.before) {
                let names = (&self.servers[*number].name, &self.servers[*founder].name);
                return Ok(Some(format!("{} and {} differ: {difference}", names.0, names.1)));
            }
        }
        Ok(None)
    }

    /// Servers that came in the storm, as far as they are in the room by their own account and that of
    /// the others. One whose join's answer got lost does not know that it is; one whose join did not
    /// stand against what others did at the same time is told nothing any more.
    async fn late_servers_disagree(&self, room: &SimRoom) -> Result<Option<String>, String> {
        let first = self.view(room.founders[0], room).await?.ok_or("the room is gone")?;
        for (number, server) in self.servers.iter().enumerate() {
            if room.founders.contains(&number) {
                continue;
            }
            let mut joins: Vec<&OwnedEventId> = first.joins_of(&server.name).collect();
            let is_in = !joins.is_empty();
            joins.retain(|join| room.acknowledged.contains_key(*join));
            let rooms = server.rooms().unwrap();
            let resident = rooms.is_resident(&room.room_id).await.map_err(|e| e.to_string())?;
            if !is_in || joins.is_empty() && !resident {
                continue;
            }
            let late = self.view(number, room).await?.unwrap_or_default();
            if let Some(difference) = first.differs_from_late(&late, &joins) {
                let maker = &self.servers[room.founders[0]].name;
                return Ok(Some(format!("{maker} and late {} differ: {difference}", server.name)));
            }
        }
        Ok(None)
    }

    /// What must hold of devices when all is quiet. Returns the number of messages that arrived, and of lists
    /// that were known without asking.
    async fn check_devices(&self) -> Result<(usize, usize), String> {
        let deadline = Instant::now() + TIME_TO_AGREE;
        let arrived = loop {
            match self.devices.all_arrived(&self.servers).await {
                Ok(count) => break count,
                Err(missing) if Instant::now() >= deadline => return Err(missing),
                Err(_) => sleep(Duration::from_mins(1)).await,
            }
        };
        // What was told with the last of them may still be on its way.
        sleep(Duration::from_mins(5)).await;
        let pairs = self.rooms.iter().flat_map(|room| {
            let founders = &room.founders;
            founders.iter().flat_map(|one| founders.iter().map(|other| (*one, *other)))
        });
        let shared = pairs.filter(|(one, other)| one != other).collect();
        let followed = self.devices.lists_agree(&self.servers, &shared, &self.network).await?;
        Ok((arrived, followed))
    }

    /// What must hold when all is quiet. Returns the number of events, and of late servers.
    async fn check(&self) -> Result<(usize, usize), String> {
        if let Some(difference) = self.disagreement(Compared::All).await? {
            return Err(difference);
        }
        let (mut events, mut late) = (0, 0);
        for room in &self.rooms {
            let view = self.view(room.founders[0], room).await?.ok_or("the room is gone")?;
            for (event_id, server) in &room.acknowledged {
                if !view.events.contains_key(event_id) {
                    return Err(format!("{event_id}, acknowledged by {server}, is lost"));
                }
            }
            events += view.events.len();
            for (number, server) in self.servers.iter().enumerate() {
                let is_here = view.joins_of(&server.name).next().is_some();
                late += usize::from(is_here && !room.founders.contains(&number));
            }
        }
        Ok((events, late))
    }
}
