//! One table of events that nobody may take, made of any honest one: what a forger can do without the
//! keys of those in whose name they speak.

use hearth_rooms::schema::Standing;
use ruma::RoomId;
use serde_json::{Value, json};

use super::{Scene, peer::event_id};

/// A forged event, and what was done to it.
pub(crate) type Forgery = (&'static str, Value);

/// Number of entries that [`forgeries`] has.
pub(crate) const FORGERIES: usize = 10;

/// Forges events out of well-formed, unsigned ones of the peer's users: `make` is asked for one by its
/// number for each entry of the table. Each has a time of its own, and so an ID of its own.
pub(crate) fn forgeries(scene: &Scene, make: impl Fn(usize) -> Value) -> [Forgery; FORGERIES] {
    let sign = |event: Value| scene.peer.sign(&scene.version, event);
    let at = |number: usize| {
        let mut event = make(number);
        event["origin_server_ts"] = json!(scene.peer.now_ms() - 1_000 - number as u64);
        event
    };
    let resigned = |number: usize, signatures: Value| {
        let mut event = sign(at(number));
        event["signatures"] = signatures;
        event
    };
    let changed = |number: usize, field: &str, value: Value| {
        let mut event = at(number);
        event[field] = value;
        sign(event)
    };
    let by = |number: usize, sender: &str| {
        let mut event = at(number);
        if event.get("state_key") == event.get("sender") {
            event["state_key"] = json!(sender);
        }
        event["sender"] = json!(sender);
        sign(event)
    };
    let name = scene.peer.name.as_str();
    let nonsense = "A".repeat(86);
    let mut altered = sign(at(4));
    altered["depth"] = json!(altered["depth"].as_u64().unwrap() + 1);
    let mut oversized = at(5);
    oversized["content"]["padding"] = json!("x".repeat(66_000));
    [
        ("unsigned", resigned(0, json!({}))),
        ("wrongly signed", resigned(1, json!({ name: { "ed25519:sim": nonsense } }))),
        ("signed with an unknown key", resigned(2, json!({ name: { "ed25519:new": nonsense } }))),
        ("signed by another", resigned(3, json!({ "honest.sim": { "ed25519:sim": nonsense } }))),
        ("altered", altered),
        ("oversized", sign(oversized)),
        ("malformed", changed(6, "depth", json!("deep"))),
        ("of another room", changed(7, "room_id", json!(scene.other_room))),
        ("in the name of a third server", by(8, "@someone:third.sim")),
        ("in the server's own name", by(9, scene.victim.user(1).as_str())),
    ]
}

/// The event with a content that is not the one that was hashed: it is taken without what redaction
/// removes (SS "Checks performed on receipt of a PDU").
pub(crate) fn altered_content(scene: &Scene, mut event: Value) -> Value {
    event["content"]["reason"] = json!("as written");
    let mut event = scene.peer.sign(&scene.version, event);
    event["content"]["reason"] = json!("altered on the way");
    event
}

/// Forged events among which an honest one stands, and one whose content was altered.
pub(crate) struct Mixed {
    pub(crate) forged: [Forgery; FORGERIES],
    pub(crate) honest: Value,
    pub(crate) altered: Value,
}

impl Mixed {
    /// `make` is asked for well-formed, unsigned events by number.
    pub(crate) fn new(scene: &Scene, make: impl Fn(usize) -> Value) -> Self {
        Self {
            forged: forgeries(scene, &make),
            honest: scene.peer.sign(&scene.version, make(FORGERIES)),
            altered: altered_content(scene, make(FORGERIES + 1)),
        }
    }

    /// All of them, the honest one in the middle.
    pub(crate) fn events(&self) -> Vec<Value> {
        let mut events: Vec<Value> = self.forged.iter().map(|(_, event)| event.clone()).collect();
        events.insert(FORGERIES / 2, self.honest.clone());
        events.push(self.altered.clone());
        events
    }

    /// Their IDs.
    pub(crate) fn ids(&self, scene: &Scene) -> Vec<String> {
        self.events().iter().map(|event| event_id(&scene.version, event)).collect()
    }

    /// Nothing forged is kept; the honest event is, and the altered one without what was altered.
    pub(crate) async fn must_be_told_apart(&self, scene: &Scene, room_id: &RoomId) {
        let version = &scene.version;
        for (what, event) in &self.forged {
            let found = scene.found(room_id, event).await;
            assert!(found.is_none(), "{version}: {what}: {:?}", found.map(|f| f.header.standing));
        }
        for (what, event) in [("honest", &self.honest), ("altered", &self.altered)] {
            let found = scene.found(room_id, event).await;
            let found = found.unwrap_or_else(|| panic!("{version}: the {what} event is not here"));
            assert_ne!(found.header.standing, Standing::Rejected, "{version}: {what}");
            assert!(!found.pdu.content().get().contains("reason"), "{version}: {what}");
        }
    }
}
