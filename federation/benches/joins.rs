//! How long a join of a large room on another server takes: the client's request, with every event's
//! signature checked, until it is answered; and until the room's members can be listed.
//!
//! The other servers are scripts in this process, and their work is in the figures. Sizes as arguments:
//! `cargo bench -p hearth-federation --bench joins -- 5000 20000`.
#![expect(clippy::expect_used, clippy::print_stdout, reason = "a program that prints figures")]

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use hearth_testkit::{Network, Peer, TestServer, TestUser, encode, peer::event_id};
use http::StatusCode;
use ruma::{OwnedRoomId, RoomId, RoomVersionId};
use serde_json::{Value, json};

/// Servers that the members are spread over, each with a key of its own.
const SERVERS: usize = 100;
/// Sizes without arguments.
const SIZES: [usize; 2] = [5_000, 20_000];
/// When the room was made, in milliseconds since 1970.
const CREATED_MS: u64 = 1_700_000_000_000;

fn main() {
    let named: Vec<usize> = std::env::args().filter_map(|argument| argument.parse().ok()).collect();
    let sizes = if named.is_empty() { SIZES.to_vec() } else { named };
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.enable_all().build().expect("a runtime");
    println!(
        "| members | answer | joined after | members listed after | answer's size | peak memory |"
    );
    println!("|---|---|---|---|---|---|");
    for size in sizes {
        for omits in [false, true] {
            runtime.block_on(run(size, omits));
        }
    }
}

/// One join on a fresh server.
async fn run(size: usize, omits: bool) {
    let network = Network::new();
    let room = Room::make(size, &network);
    let bytes = room.script(omits);
    let server = TestServer::builder().federating("here.test", &network).start().await;
    let alice = server.register("alice").await;
    room.script_template(&alice);
    let before = memory_mib("VmRSS:");
    forget_peak();
    let begun = Instant::now();
    let path = format!("/_matrix/client/v3/join/{}?via={}", encode(room.id.as_str()), ADMIN_SERVER);
    alice.post_ok(&path, json!({})).await;
    let joined = begun.elapsed();
    let members = alice.get_ok(&TestUser::room_path(&room.id, "members")).await;
    let listed = begun.elapsed();
    let count = members.get("chunk").and_then(Value::as_array).map_or(0, Vec::len);
    assert_eq!(count, size + 1, "all members are listed");
    let answer = if omits { "members omitted" } else { "whole" };
    let peak = memory_mib("VmHWM:").saturating_sub(before);
    println!(
        "| {size} | {answer} | {} | {} | {} MiB | +{peak} MiB |",
        seconds(joined),
        seconds(listed),
        bytes / (1024 * 1024),
    );
}

const ADMIN: &str = "@admin:s0.test";
const ADMIN_SERVER: &str = "s0.test";

/// A room of other servers.
struct Room {
    id: OwnedRoomId,
    version: RoomVersionId,
    peers: Vec<Peer>,
    /// The state in the order of its making, by type and key.
    events: Vec<Value>,
    ids: BTreeMap<(String, String), String>,
    last: String,
}

impl Room {
    fn make(size: usize, network: &Network) -> Self {
        let peers = (0..SERVERS).map(|n| Peer::new(&format!("s{n}.test"), network)).collect();
        let id = RoomId::parse("!large:s0.test").expect("a room ID");
        let mut room = Self {
            id,
            version: RoomVersionId::V11,
            peers,
            events: Vec::with_capacity(size + 5),
            ids: BTreeMap::new(),
            last: String::new(),
        };
        room.put(0, ADMIN, ("m.room.create", ""), json!({ "room_version": "11" }));
        room.put(0, ADMIN, ("m.room.member", ADMIN), json!({ "membership": "join" }));
        let levels = json!({ "users": { ADMIN: 100 } });
        room.put(0, ADMIN, ("m.room.power_levels", ""), levels);
        room.put(0, ADMIN, ("m.room.join_rules", ""), json!({ "join_rule": "public" }));
        room.put(0, ADMIN, ("m.room.name", ""), json!({ "name": "A large room" }));
        for n in 1..size {
            let server = n % SERVERS;
            let user = format!("@user{n}:s{server}.test");
            let avatar = format!("mxc://s{server}.test/abcdefghijklmnopqrstuvwx{n}");
            let content = json!({
                "membership": "join", "displayname": format!("User number {n}"), "avatar_url": avatar,
            });
            room.put(server, &user, ("m.room.member", &user), content);
        }
        room
    }

    /// Adds state, signed by a server.
    #[expect(clippy::needless_pass_by_value, reason = "what tests write in place")]
    fn put(&mut self, server: usize, sender: &str, (kind, key): (&str, &str), content: Value) {
        let event = json!({
            "auth_events": self.auth_events(kind, sender),
            "content": content,
            "depth": self.events.len() + 1,
            "origin_server_ts": CREATED_MS + self.events.len() as u64,
            "prev_events": if self.last.is_empty() { json!([]) } else { json!([self.last]) },
            "room_id": self.id,
            "sender": sender,
            "state_key": key,
            "type": kind,
        });
        let event = self.peers.get(server).expect("a server").sign(&self.version, event);
        let id = event_id(&self.version, &event).to_string();
        self.ids.insert((kind.to_owned(), key.to_owned()), id.clone());
        self.last = id;
        self.events.push(event);
    }

    fn auth_events(&self, kind: &str, sender: &str) -> Vec<&String> {
        let mut keys = vec![("m.room.create", ""), ("m.room.power_levels", "")];
        keys.push(("m.room.member", sender));
        if kind == "m.room.member" {
            keys.push(("m.room.join_rules", ""));
        }
        let id =
            |(kind, key): &(&str, &str)| self.ids.get(&((*kind).to_owned(), (*key).to_owned()));
        keys.iter().filter_map(id).collect()
    }

    /// Scripts the answers to a join and to what follows; the size of the first in bytes.
    fn script(&self, omits: bool) -> usize {
        let resident = self.peers.first().expect("a server");
        let is_kept = |event: &&Value| {
            !omits || event["type"] != "m.room.member" || event["state_key"] == ADMIN
        };
        let state: Vec<&Value> = self.events.iter().filter(is_kept).collect();
        let auth_chain: Vec<&Value> = self.events.iter().take(5).collect();
        let servers: Vec<String> = (0..SERVERS).map(|n| format!("s{n}.test")).collect();
        let answer = json!({
            "auth_chain": auth_chain, "members_omitted": omits, "origin": ADMIN_SERVER,
            "servers_in_room": servers, "state": state,
        });
        let bytes = answer.to_string().len();
        resident.answers("/_matrix/federation/v2/send_join/", StatusCode::OK, answer);
        if omits {
            let whole = json!({ "auth_chain": auth_chain, "pdus": self.events });
            resident.answers("/_matrix/federation/v1/state/", StatusCode::OK, whole);
        }
        bytes
    }

    /// Scripts the template of a user's join.
    fn script_template(&self, user: &TestUser) {
        let user_id = user.user_id.as_str();
        let event = json!({
            "auth_events": self.auth_events("m.room.member", user_id),
            "content": { "membership": "join" },
            "depth": self.events.len() + 1,
            "origin": ADMIN_SERVER,
            "origin_server_ts": CREATED_MS,
            "prev_events": [self.last],
            "room_id": self.id,
            "sender": user_id,
            "state_key": user_id,
            "type": "m.room.member",
        });
        let template = json!({ "event": event, "room_version": self.version });
        let resident = self.peers.first().expect("a server");
        resident.answers("/_matrix/federation/v1/make_join/", StatusCode::OK, template);
    }
}

fn seconds(time: Duration) -> String {
    format!("{:.2} s", time.as_secs_f64())
}

/// A line of this process's status, in MiB.
fn memory_mib(line: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let found = status.lines().find_map(|text| text.strip_prefix(line));
    let kib = found.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or_default() / 1024
}

/// Has the kernel count the peak of the memory anew.
fn forget_peak() {
    drop(std::fs::write("/proc/self/clear_refs", "5"));
}
