//! Simplified sliding sync of a user in many rooms: first answers, and follow-ups with nothing new.

use std::sync::Arc;

use http::Method;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::client::Account;
use crate::connection::RequestError;
use crate::paths;
use crate::process::Reading;
use crate::report::{Row, as_f64};
use crate::scan;
use crate::world::{Doing as _, Failure, Tally, World, message, transaction};

/// Rooms of the window that clients ask for first.
const WINDOW: u32 = 20;
/// Answers between the first one and the follow-ups that are measured.
const SETTLING: u32 = 5;
/// Most first answers of one run.
const MAX_FIRST: u64 = 1_000;
/// Most follow-ups of one run.
const MAX_FOLLOW_UPS: u64 = 1_000_000;

/// Measures with one connection.
pub(crate) async fn run(world: &mut World) -> Result<(), Failure> {
    let accounts = world.accounts(2).await?;
    let [owner, user] = accounts.as_slice() else { return Ok(()) };
    let rooms = world.create_rooms(owner, world.options.sliding_rooms).await?;
    world.join_all(rooms.iter().map(|room| (Arc::clone(user), room.clone())).collect()).await?;
    let marker = world.next_marker();
    let mut client = world.client();
    for (number, room) in (0..).zip(&rooms) {
        let id = transaction(&marker, number);
        client.send(owner, room, &id, message(&marker, number)).await.doing("filling rooms")?;
    }
    let count = u32::try_from(rooms.len()).unwrap_or(u32::MAX);
    let window = body(WINDOW - 1).to_string();
    let few = repeat(world, user, &window, None, MAX_FIRST).await;
    world.report.add(few.row(format!("first answer, {WINDOW} of {count} rooms")));
    let all = body(count - 1).to_string();
    let whole = repeat(world, user, &all, None, MAX_FIRST).await;
    world.report.add(whole.row(format!("first answer, all {count} rooms")));
    let Some(mut pos) = whole.pos else { return Ok(()) };
    // These tell what long answers left out.
    for _ in 0..SETTLING {
        pos = ask(world, user, &all, &pos).await.doing("settling")?;
    }
    let empty = repeat(world, user, &all, Some(&pos), MAX_FOLLOW_UPS).await;
    world.report.add(empty.row(format!("follow-up with nothing new, all {count} rooms in view")));
    Ok(())
}

/// What Element X asks for, with this last index of the window.
fn body(last: u32) -> Value {
    json!({
        "conn_id": "room-list",
        "lists": {"all_rooms": {
            "ranges": [[0, last]],
            "timeline_limit": 1,
            "required_state": [
                ["m.room.name", ""], ["m.room.encryption", ""], ["m.room.member", "$LAZY"],
                ["m.room.member", "$ME"], ["m.room.topic", ""], ["m.room.avatar", ""],
                ["m.room.canonical_alias", ""], ["m.room.power_levels", ""],
                ["org.matrix.msc3401.call.member", "*"], ["m.room.join_rules", ""],
                ["m.room.tombstone", ""], ["m.room.create", ""],
                ["m.room.history_visibility", ""], ["io.element.functional_members", ""],
                ["m.space.parent", "*"], ["m.space.child", "*"],
            ],
        }},
        "extensions": {
            "account_data": {"enabled": true},
            "receipts": {"enabled": true, "rooms": ["*"]},
            "typing": {"enabled": true},
        },
    })
}

struct Repeated {
    tally: Tally,
    seconds: f64,
    bytes: u64,
    pos: Option<String>,
    coldest_ms: f64,
    before: Reading,
    after: Reading,
}

impl Repeated {
    fn row(&self, case: String) -> Row {
        let count = self.tally.latency.count();
        Row::new("sliding", case)
            .rate("answers", count, self.seconds)
            .latency("", &self.tally.latency)
            .metric("the first one", "ms", self.coldest_ms)
            .metric("response", "KiB", as_f64(self.bytes) / 1024.0)
            .usage(self.before, self.after, count, "answer")
            .failures(self.tally.failed, self.tally.first_error.as_deref())
    }
}

/// The same request again and again for a third of the asked length.
async fn repeat(
    world: &World,
    user: &Arc<Account>,
    body: &str,
    pos: Option<&str>,
    most: u64,
) -> Repeated {
    let mut client = world.client();
    let target = paths::sliding_sync(pos);
    let (mut tally, mut bytes, mut last, mut coldest_ms) = (Tally::default(), 0, None, 0.0);
    let (begun, before) = (Instant::now(), world.usage());
    while begun.elapsed() < world.options.length() / 3
        && tally.latency.count() < most
        && !tally.hopeless()
    {
        let at = Instant::now();
        let answer = client.call(Method::POST, &target, user, body.to_owned().into()).await;
        if let Some(answer) = tally.note(at, answer) {
            if tally.latency.count() == 1 {
                coldest_ms = at.elapsed().as_secs_f64() * 1000.0;
            }
            bytes = answer.len() as u64;
            last = scan::string_field(&answer, "pos").map(str::to_owned);
        }
    }
    let seconds = begun.elapsed().as_secs_f64();
    Repeated { tally, seconds, bytes, pos: last, coldest_ms, before, after: world.usage() }
}

/// One request; its answer's `pos`.
async fn ask(
    world: &World,
    user: &Arc<Account>,
    body: &str,
    pos: &str,
) -> Result<String, RequestError> {
    let target = paths::sliding_sync(Some(pos));
    let answer = world.client().call(Method::POST, &target, user, body.to_owned().into()).await?;
    scan::string_field(&answer, "pos").map(str::to_owned).ok_or(RequestError::Missing("pos"))
}
