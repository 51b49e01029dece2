//! What must hold when nothing happens any more.

use std::collections::{BTreeMap, HashMap, HashSet};

use hearth_testkit::encode;
use serde_json::{Value, json};

use crate::{
    actor::Ledger,
    api,
    device::{Device, DeviceRoom, list, object, text},
    truth::{Event, Stay, Truth},
    world::World,
};

pub(crate) async fn all(world: &World, ledgers: &[Ledger], devices: &[Device]) {
    let ids: Vec<String> = world.rooms.lock().iter().map(|room| room.id.clone()).collect();
    let mut truths = BTreeMap::new();
    for id in ids {
        let truth = Truth::read(world, &id).await;
        truths.insert(id, truth);
    }
    acknowledged(world, &truths);
    for (user, ledger) in ledgers.iter().enumerate() {
        for device in devices.iter().filter(|device| device.user == user) {
            let check = Check { world, ledger, device };
            check.rooms(&truths).await;
            check.account_data();
        }
        counts(world, user, ledger, devices, &truths).await;
    }
}

/// Every acknowledged event is in its room, and every text once.
fn acknowledged(world: &World, truths: &BTreeMap<String, Truth>) {
    let mut texts: HashMap<(&str, String), usize> = HashMap::new();
    for (room_id, truth) in truths {
        for event in &truth.events {
            let body = text(&event.json["content"]["body"]);
            if !event.is_redacted() && event.json["type"] == "m.room.message" {
                *texts.entry((room_id, body)).or_default() += 1;
            }
        }
    }
    for (room_id, event_id, body) in world.acknowledged.lock().iter() {
        let Some(truth) = truths.get(room_id) else { continue };
        let Some(place) = truth.places.get(event_id) else {
            world.fail(format!("{event_id} was acknowledged and is not in {room_id}"));
            continue;
        };
        if let Some(body) = body
            && !truth.events[*place].is_redacted()
        {
            let times = texts.get(&(room_id.as_str(), body.clone())).copied().unwrap_or_default();
            if times != 1 {
                world.fail(format!("{body} is in {room_id} {times} times"));
            }
        }
    }
}

struct Check<'a> {
    world: &'a World,
    ledger: &'a Ledger,
    device: &'a Device,
}

impl Check<'_> {
    fn fail(&self, fault: &str) {
        self.world.fail(format!("{}: {fault}", self.device.name));
    }

    async fn rooms(&self, truths: &BTreeMap<String, Truth>) {
        let user_id = &self.world.users[self.device.user].id;
        let nothing = DeviceRoom::default();
        let fresh = api::get(
            self.world,
            &self.device.login,
            "/_matrix/client/v3/sync?timeout=0&filter=%7B%22room%22%3A%7B%22timeline%22%3A%7B%22limit%22%3A1%7D%7D%7D",
        )
        .await;
        for (room_id, truth) in truths {
            let room = self.device.rooms.get(room_id).unwrap_or(&nothing);
            let stay = truth.stay(user_id);
            let joined = stay.membership() == "join";
            if room.joined != joined {
                let trace = self.device.trace.get(room_id);
                let trace = trace.and_then(|trace| trace.last());
                self.fail(&format!(
                    "thinks joined={} of {room_id}, where it is {:?}; last told {trace:?}",
                    room.joined,
                    stay.membership()
                ));
                continue;
            }
            let invited = fresh["rooms"]["invite"].get(room_id).is_some();
            let ignores = self.world.users[self.device.user].ignores;
            if invited != self.device.invites.contains(room_id) && !ignores {
                self.fail(&format!("invited to {room_id} is {invited}, and it thinks not so"));
            }
            self.timeline(room_id, room, truth, &stay);
            if joined {
                self.state(room_id, room).await;
                self.joined_room(room_id, room, truth);
            }
        }
    }

    fn timeline(&self, room_id: &str, room: &DeviceRoom, truth: &Truth, stay: &Stay<'_>) {
        let mut shown = HashSet::new();
        for stretch in &room.stretches {
            let mut before = None;
            for event_id in stretch {
                let Some(place) = truth.places.get(event_id).copied() else {
                    self.fail(&format!("{event_id} of {room_id} is unknown to the room"));
                    continue;
                };
                if !stay.may_see(place) {
                    self.fail(&format!(
                        "{event_id} of {room_id} is not for it to see: {}",
                        truth.events[place].json
                    ));
                }
                shown.insert(place);
                if self.ledger.ever_ignored.contains(&truth.events[place].sender) {
                    // Hidden once and shown later, by a page that went further back than it had to.
                    continue;
                }
                if before >= Some(place) {
                    self.fail(&format!(
                        "{event_id} is out of order in {room_id}; {:#?}",
                        self.trace_of(room_id, event_id)
                    ));
                }
                before = Some(place);
            }
        }
        // Who forgets a room gives up what their devices have not seen of it.
        let excused = room.excused || self.ledger.forgotten.contains(room_id);
        let (Some(first), false) = (shown.iter().min(), excused) else { return };
        let Some(end) = stay.last_inside() else { return };
        let lost: Vec<&str> = (*first..=end)
            .filter(|place| stay.must_see(*place) && !shown.contains(place))
            .map(|place| &truth.events[place])
            .filter(|event| event.is_state() || !self.ledger.ever_ignored.contains(&event.sender))
            .map(|event| event.id.as_str())
            .collect();
        if let Some(one) = lost.first() {
            let place = truth.places[*one];
            let around: Vec<&str> = truth.events[place.saturating_sub(1)..]
                .iter()
                .take(3)
                .map(|e| e.id.as_str())
                .collect();
            self.fail(&format!(
                "never saw {} events of {room_id}, the first {}; it stands after {:?}; traces {:#?}; last {:?}",
                lost.len(),
                truth.events[place].json,
                around.first(),
                self.trace_of(room_id, around[0]),
                self.device.trace[room_id].last(),
            ));
        }
    }

    fn trace_of(&self, room_id: &str, event_id: &str) -> Vec<&String> {
        let trace = &self.device.trace[room_id];
        match trace.iter().position(|note| note.contains(event_id)) {
            Some(place) => trace[place..].iter().take(3).collect(),
            None => Vec::new(),
        }
    }

    async fn state(&self, room_id: &str, room: &DeviceRoom) {
        let state = api::get(self.world, &self.device.login, &api::room(room_id, "state")).await;
        let now: BTreeMap<(String, String), String> = list(&state)
            .map(|event| {
                ((text(&event["type"]), text(&event["state_key"])), text(&event["event_id"]))
            })
            .collect();
        let lazy = self.device.habits.lazy;
        for (key, event_id) in &now {
            let known = room.state.get(key);
            let may_lack = lazy && key.0 == "m.room.member";
            if known.is_some_and(|known| known != event_id) || (known.is_none() && !may_lack) {
                self.fail(&format!(
                    "state {key:?} of {room_id} is {event_id}, and it thinks {known:?}; {:#?}",
                    self.trace_of(room_id, event_id)
                ));
            }
        }
        for key in room.state.keys().filter(|key| !now.contains_key(*key)) {
            self.fail(&format!("there is no state {key:?} in {room_id}"));
        }
    }

    fn joined_room(&self, room_id: &str, room: &DeviceRoom, truth: &Truth) {
        // Typing is not stored, so a client that missed the last word before a restart keeps what it knew.
        if !room.typing.is_empty() && room.typing_run == self.world.run() {
            self.fail(&format!("thinks that {:?} type in {room_id}", room.typing));
        }
        let mut members: HashMap<String, bool> = HashMap::new();
        for event in truth.events.iter().filter(|event| event.json["type"] == "m.room.member") {
            let joined = event.json["content"]["membership"] == "join";
            members.insert(text(&event.json["state_key"]), joined);
        }
        let joined = members.values().filter(|joined| **joined).count() as u64;
        if room.joined_count.is_some_and(|count| count != joined) {
            let count = room.joined_count;
            self.fail(&format!("{room_id} has {joined} members, and it thinks {count:?}"));
        }
        for ((scope, event_type), content) in &self.ledger.account_data {
            if scope == room_id && room.account_data.get(event_type) != Some(content) {
                let known = room.account_data.get(event_type);
                self.fail(&format!(
                    "{event_type} of {room_id} is {content}, and it thinks {known:?}"
                ));
            }
        }
    }

    fn account_data(&self) {
        for ((scope, event_type), content) in &self.ledger.account_data {
            let known = self.device.account_data.get(event_type);
            if scope.is_empty() && known != Some(content) {
                self.fail(&format!("{event_type} is {content}, and it thinks {known:?}"));
            }
        }
    }
}

/// Unread counts by the default push rules, against a new sync and what the devices were told last.
async fn counts(
    world: &World,
    user: usize,
    ledger: &Ledger,
    devices: &[Device],
    truths: &BTreeMap<String, Truth>,
) {
    let user = (user, &world.users[user]);
    if user.1.ignores {
        return;
    }
    let filter = json!({ "room": { "timeline": { "limit": 1 } } }).to_string();
    let path = format!("/_matrix/client/v3/sync?timeout=0&filter={}", encode(&filter));
    let fresh = api::get(world, &user.1.login, &path).await;
    for (room_id, section) in object(&fresh["rooms"]["join"]) {
        let Some(truth) = truths.get(room_id) else { continue };
        let wanted = recount(truth, room_id, &user.1.id, ledger);
        let unread = &section["unread_notifications"];
        let count = |name: &str| unread[name].as_u64().unwrap_or_default();
        let told = (count("notification_count"), count("highlight_count"));
        if told != wanted {
            world.fail(format!("{} has {wanted:?} unread in {room_id}, told {told:?}", user.1.id));
        }
        for device in devices.iter().filter(|device| device.user == user.0) {
            let known = device.rooms.get(room_id).and_then(|room| room.unread);
            if known != Some(wanted) {
                world.fail(format!(
                    "{}: {wanted:?} are unread in {room_id}, and it thinks {known:?}",
                    device.name
                ));
            }
        }
    }
}

fn recount(truth: &Truth, room_id: &str, user_id: &str, ledger: &Ledger) -> (u64, u64) {
    let read = |wanted: &[Option<&str>]| {
        let mine = ledger.receipts.iter().filter(|(room, ..)| room == room_id);
        mine.filter(|(_, thread, _)| wanted.contains(&thread.as_deref()))
            .filter_map(|(_, _, event_id)| truth.places.get(event_id))
            .max()
            .copied()
    };
    let (everywhere, main) = (read(&[None]), read(&[None, Some("main")]));
    let joined_at = truth.stay(user_id).joined_at();
    // Whoever sends has read what came before in that place.
    let mut own = HashMap::new();
    for (place, event) in truth.events.iter().enumerate() {
        if event.sender == user_id && is_message(event) {
            own.insert(thread_of(event), place);
        }
    }
    let mut counts = (0, 0);
    for (place, event) in truth.events.iter().enumerate() {
        let thread = thread_of(event);
        let mark = if thread.is_some() { everywhere } else { main };
        let mark = mark.max(own.get(&thread).copied());
        if !is_message(event) || event.is_redacted() || event.sender == user_id {
            continue;
        }
        if Some(place) <= mark || Some(place) <= joined_at {
            continue;
        }
        counts.0 += 1;
        let mentions = &event.json["content"]["m.mentions"]["user_ids"];
        counts.1 += u64::from(list(mentions).any(|mention: &Value| mention == user_id));
    }
    counts
}

/// A message that notifies by the default rules: edits do not.
fn is_message(event: &Event) -> bool {
    event.json["type"] == "m.room.message"
        && event.json["content"]["m.relates_to"]["rel_type"] != "m.replace"
}

/// The root of the thread that an event is in. What was redacted shows no thread any more; the soak
/// redacts only what is in none.
fn thread_of(event: &Event) -> Option<String> {
    let relation = &event.json["content"]["m.relates_to"];
    (relation["rel_type"] == "m.thread").then(|| text(&relation["event_id"]))
}
