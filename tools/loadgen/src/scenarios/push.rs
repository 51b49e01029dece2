//! Whether pushers slow senders down: the same load without them, with them, and without them again.

use std::sync::Arc;

use bytes::Bytes;
use http::Method;
use serde_json::{Value, json};

use super::open_loop::{self, Outcome, Plan};
use crate::client::Account;
use crate::gateway::Gateway;
use crate::histogram::Histogram;
use crate::paths::{self, Room};
use crate::report::{Row, as_f64};
use crate::world::{Doing as _, Failure, World};

/// Connections that send; their users are in every room.
const SENDERS: u32 = 8;
/// Members of each room, the senders among them.
const MEMBERS: u32 = 100;
/// Members of each room who have a pusher. None of them sends.
const PUSHERS: u32 = 10;

/// Measures, and compares.
pub(crate) async fn run(world: &mut World) -> Result<(), Failure> {
    let gateway = Gateway::start()?;
    let stage = Stage::make(world).await?;
    let before = stage.measure(world, "without pushers", &gateway).await?;
    stage.set_pushers(world, Some(&gateway.url())).await?;
    let with = stage.measure(world, "with 10 pushers a room", &gateway).await?;
    stage.set_pushers(world, None).await?;
    let after = stage.measure(world, "without pushers again", &gateway).await?;
    // What changes by itself while the run goes on is in both of the others.
    let mut without = before.sends.latency;
    without.merge(&after.sends.latency);
    let per_second =
        |outcome: &Outcome, count: u64| as_f64(count) / outcome.took.as_secs_f64().max(1e-6);
    let slower = per_second(&with, with.sends.latency.count())
        / (as_f64(without.count()) / (before.took + after.took).as_secs_f64().max(1e-6));
    let row = Row::new("push", "with pushers to without").metric("rate ratio", "", slower);
    world.report.add(compare(row, &with.sends.latency, &without));
    Ok(())
}

fn compare(mut row: Row, with: &Histogram, without: &Histogram) -> Row {
    let mean = (with.mean_ms(), without.mean_ms());
    let p50 = (with.quantile_ms(0.5), without.quantile_ms(0.5));
    let p99 = (with.quantile_ms(0.99), without.quantile_ms(0.99));
    for (name, pair) in [("mean ratio", mean), ("p50 ratio", p50), ("p99 ratio", p99)] {
        if let (Some(with), Some(without)) = pair {
            row = row.metric(name, "", with / without.max(1e-6));
        }
    }
    row
}

/// The rooms, who sends into them, and who has a pusher.
struct Stage {
    rooms: Vec<Room>,
    senders: Vec<Arc<Account>>,
    pushed: Vec<Arc<Account>>,
}

impl Stage {
    async fn make(world: &mut World) -> Result<Self, Failure> {
        let others = MEMBERS - SENDERS;
        let accounts = world.accounts(SENDERS + others * world.options.push_rooms).await?;
        let (senders, members) = accounts.split_at(accounts.len().min(SENDERS as usize));
        let Some(owner) = senders.first() else {
            return Err(Failure::Server("a room needs a member".to_owned()));
        };
        let rooms = world.create_rooms(owner, world.options.push_rooms).await?;
        let mut joins = Vec::new();
        let mut pushed = Vec::new();
        for (room, members) in rooms.iter().zip(members.chunks(others as usize)) {
            let all = senders.iter().skip(1).chain(members);
            joins.extend(all.map(|account| (Arc::clone(account), room.clone())));
            pushed.extend(members.iter().take(PUSHERS as usize).map(Arc::clone));
        }
        world.join_all(joins).await?;
        Ok(Self { rooms, senders: senders.to_vec(), pushed })
    }

    /// Gives those who shall have one a pusher of this gateway, or takes it away.
    async fn set_pushers(&self, world: &World, url: Option<&str>) -> Result<(), Failure> {
        let mut client = world.client();
        for (number, account) in self.pushed.iter().enumerate() {
            // Each their own: who sets another user's key takes it over.
            let key = format!("key-{number}");
            let kind = if url.is_some() { json!("http") } else { Value::Null };
            let body = json!({
                "app_id": "loadgen", "pushkey": key, "kind": kind, "lang": "en",
                "app_display_name": "Load", "device_display_name": "Load",
                "data": { "url": url },
            });
            let body = Some(Bytes::from(body.to_string()));
            let set = client.patient(Method::POST, paths::SET_PUSHER, Some(account), body).await;
            set.doing("setting pushers")?;
        }
        Ok(())
    }

    async fn measure(
        &self,
        world: &mut World,
        case: &str,
        gateway: &Gateway,
    ) -> Result<Outcome, Failure> {
        let taken = gateway.taken();
        let per_second = world.options.push_rate;
        let plan = Plan {
            rooms: self.rooms.clone(),
            senders: self.senders.clone(),
            receivers: Vec::new(),
            receivers_at: Arc::clone(&world.target),
            per_second,
        };
        let outcome = open_loop::run(world, plan).await?;
        let sends = &outcome.sends;
        let seconds = outcome.took.as_secs_f64();
        let case = format!("{per_second}/s over {} rooms, {case}", self.rooms.len());
        let row = Row::new("push", case)
            .rate("sent", sends.latency.count(), seconds)
            .latency("send", &sends.latency)
            .rate("pushed", gateway.taken() - taken, seconds)
            .usage(outcome.before, outcome.after, sends.latency.count(), "message")
            .failures(sends.failed, sends.first_error.as_deref());
        world.report.add(row);
        Ok(outcome)
    }
}
