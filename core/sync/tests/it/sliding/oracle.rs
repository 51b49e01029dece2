//! Whatever a client asks and loses on the way, what it has gathered in the end is what `/v3/sync` says.

use std::collections::BTreeMap;

use proptest::prelude::*;
use ruma::{
    EventId, OwnedRoomId, OwnedUserId, RoomId,
    events::receipt::{ReceiptThread, ReceiptType},
};
use serde_json::{Value, json};

use super::Phone;
use crate::world::{Ask, World, joined, user};

const ROOMS: usize = 4;
const REQUIRED: [&str; 3] = ["m.room.name", "m.room.topic", "m.room.member"];

/// Something that happens.
#[derive(Clone, Debug)]
enum Step {
    Text(usize, usize),
    State(usize, &'static str, u8),
    Join(usize, usize),
    Leave(usize, usize),
    Read(usize),
    Ask { last: u64, limit: u64, lost: bool },
}

fn step() -> impl Strategy<Value = Step> {
    let room = 0..ROOMS;
    prop_oneof![
        4 => (room.clone(), 0..3_usize).prop_map(|(room, who)| Step::Text(room, who)),
        1 => (room.clone(), any::<u8>()).prop_map(|(room, n)| Step::State(room, "m.room.name", n)),
        1 => (room.clone(), any::<u8>()).prop_map(|(room, n)| Step::State(room, "m.room.topic", n)),
        1 => (room.clone(), 0..3_usize).prop_map(|(room, who)| Step::Join(room, who)),
        1 => (room.clone(), 0..3_usize).prop_map(|(room, who)| Step::Leave(room, who)),
        1 => room.prop_map(Step::Read),
        4 => (0..5_u64, 0..5_u64, any::<bool>())
            .prop_map(|(last, limit, lost)| Step::Ask { last, limit, lost }),
    ]
}

/// What a client has gathered of a room.
#[derive(Default)]
struct Gathered {
    state: BTreeMap<(String, String), Value>,
    /// Events since the last gap, oldest first.
    timeline: Vec<String>,
    counts: (u64, u64),
    joined_count: u64,
    name: Option<String>,
}

#[derive(Default)]
struct Client {
    rooms: BTreeMap<String, Gathered>,
}

impl Client {
    fn take(&mut self, answer: &Value) {
        for (room_id, told) in answer["rooms"].as_object().unwrap() {
            if told["initial"] == true {
                self.rooms.remove(room_id);
            }
            let room = self.rooms.entry(room_id.clone()).or_default();
            for event in told["required_state"].as_array().unwrap() {
                let key = |field: &str| event[field].as_str().unwrap().to_owned();
                room.state.insert((key("type"), key("state_key")), event["content"].clone());
            }
            let events: Vec<String> =
                told["timeline"].as_array().unwrap().iter().map(id_of).collect();
            if told["limited"] == true || told["unstable_expanded_timeline"] == true {
                room.timeline = events;
            } else {
                room.timeline.extend(events);
            }
            let number = |field: &str| told[field].as_u64().unwrap_or_default();
            room.counts = (number("notification_count"), number("highlight_count"));
            if told["joined_count"].is_u64() {
                room.joined_count = number("joined_count");
            }
            if told["name"].is_string() {
                room.name = told["name"].as_str().map(ToOwned::to_owned);
            }
        }
    }
}

fn id_of(event: &Value) -> String {
    event["event_id"].as_str().unwrap().to_owned()
}

struct Stage {
    world: World,
    users: Vec<OwnedUserId>,
    rooms: Vec<OwnedRoomId>,
    texts: usize,
}

impl Stage {
    async fn new() -> Self {
        let world = World::new().await;
        let users = vec![user("alice"), user("bob"), user("carol")];
        let mut rooms = Vec::new();
        for _ in 0..ROOMS {
            rooms.push(world.room(&users[0]).await);
        }
        Self { world, users, rooms, texts: 0 }
    }

    async fn is_in(&self, room: usize, who: usize) -> bool {
        let row = self.world.rooms.user_room(&self.users[who], &self.rooms[room]).await.unwrap();
        row.is_some_and(|row| row.details.membership == hearth_rooms::schema::Membership::Join)
    }

    async fn act(&mut self, step: &Step) {
        let world = &self.world;
        match *step {
            Step::Text(room, who) if self.is_in(room, who).await => {
                self.texts += 1;
                let body = format!("text {}", self.texts);
                world.text(&self.rooms[room], &self.users[who], &body).await;
            }
            Step::State(room, kind, value) if self.is_in(room, 0).await => {
                let field = kind.trim_start_matches("m.room.");
                let content = json!({field: format!("v{value}")});
                world.state(&self.rooms[room], &self.users[0], kind, content).await;
            }
            Step::Join(room, who) if !self.is_in(room, who).await => {
                world.join(&self.rooms[room], &self.users[who]).await;
            }
            // The room's maker stays, so that it can be entered again.
            Step::Leave(room, who) if who > 0 && self.is_in(room, who).await => {
                world.rooms.leave(&self.rooms[room], &self.users[who], None).await.unwrap();
            }
            Step::Read(room) if self.is_in(room, 1).await => {
                let row = world.ask(Ask::of(&self.users[1])).await;
                let events = joined(&row, &self.rooms[room])["timeline"]["events"].clone();
                if let Some(last) = events.as_array().and_then(|events| events.last()) {
                    let id = EventId::parse(id_of(last)).unwrap();
                    let thread = ReceiptThread::Unthreaded;
                    let (room, user_id) = (&self.rooms[room], &self.users[1]);
                    world.read(room, user_id, ReceiptType::Read, thread, &id).await;
                }
            }
            _ => {}
        }
    }

    /// Holds what was gathered against what a full `/v3/sync` says.
    async fn compare(&self, client: &Client) {
        let filter = json!({"room": {"timeline": {"limit": 500}}});
        let ask = Ask::of(&self.users[1]).filter(filter).with(|ask| ask.use_state_after = true);
        let full = self.world.ask(ask).await;
        for (number, room_id) in self.rooms.iter().enumerate() {
            let known = client.rooms.get(room_id.as_str());
            if self.is_in(number, 1).await {
                let known = known.unwrap_or_else(|| panic!("{room_id} was never told"));
                compare(room_id, joined(&full, room_id), known);
            } else if let Some(known) = known {
                let own = known.state.get(&("m.room.member".to_owned(), "@bob:x".to_owned()));
                assert_eq!(own.unwrap()["membership"], "leave", "{room_id} was left");
            }
        }
    }
}

fn compare(room_id: &RoomId, section: &Value, known: &Gathered) {
    let state: BTreeMap<(String, String), Value> = section["state_after"]["events"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|event| REQUIRED.contains(&event["type"].as_str().unwrap()))
        .map(|event| {
            let key = |field: &str| event[field].as_str().unwrap().to_owned();
            ((key("type"), key("state_key")), event["content"].clone())
        })
        .collect();
    assert_eq!(known.state, state, "state of {room_id}");
    let timeline: Vec<String> =
        section["timeline"]["events"].as_array().unwrap().iter().map(id_of).collect();
    assert!(timeline.ends_with(&known.timeline), "{room_id}: {:?} of {timeline:?}", known.timeline);
    let counts = &section["unread_notifications"];
    let number = |field: &str| counts[field].as_u64().unwrap();
    assert_eq!(known.counts, (number("notification_count"), number("highlight_count")));
    let members = state
        .iter()
        .filter(|((kind, _), content)| kind == "m.room.member" && content["membership"] == "join");
    assert_eq!(known.joined_count, u64::try_from(members.count()).unwrap());
    let name = state.get(&("m.room.name".to_owned(), String::new()));
    assert_eq!(known.name.as_deref(), name.and_then(|content| content["name"].as_str()));
}

async fn run(steps: Vec<Step>) {
    let mut stage = Stage::new().await;
    let required: Vec<_> = REQUIRED.iter().map(|kind| json!([kind, "*"])).collect();
    let body = |last: u64, limit: u64| {
        json!({"lists": {"all": {
            "ranges": [[0, last]], "timeline_limit": limit, "required_state": required,
        }}})
    };
    let mut phone = Phone::of(&stage.users[1], body(1, 2));
    let mut client = Client::default();
    for step in steps {
        let Step::Ask { last, limit, lost } = step else {
            stage.act(&step).await;
            continue;
        };
        phone.body = body(last, limit);
        let answer = phone.try_ask(&stage.world).await.unwrap();
        if !lost {
            phone.take(&answer);
            client.take(&answer);
        }
    }
    phone.body = body(9, 4);
    client.take(&phone.ask(&stage.world).await);
    stage.compare(&client).await;
    let quiet = phone.ask(&stage.world).await;
    assert_eq!(quiet["rooms"], json!({}), "all was told");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn what_a_client_gathers_is_what_is(steps in prop::collection::vec(step(), 1..40)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(run(steps));
    }
}
