//! Whether pushers slow senders down: the same load without them and with them in turns.

use std::sync::Arc;
use std::time::Duration;

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

/// Measures in turns, and compares each time with pushers to its neighbors without: what changes by itself while the run goes on
/// is in both.
pub(crate) async fn run(world: &mut World) -> Result<(), Failure> {
    let gateway = Gateway::start()?;
    let stage = Stage::make(world).await?;
    let mut ratios = Ratios::default();
    let mut before = stage.measure(world, "without pushers", &gateway).await?;
    for _ in 0..world.options.push_rounds {
        stage.set_pushers(world, Some(&gateway.url())).await?;
        let with = stage.measure(world, "with 10 pushers a room", &gateway).await?;
        stage.set_pushers(world, None).await?;
        let after = stage.measure(world, "without pushers again", &gateway).await?;
        ratios.add(&before, &with, &after);
        before = after;
    }
    world.report.add(ratios.row());
    Ok(())
}

/// How sends with pushers compare to those without, once for each round.
#[derive(Default)]
struct Ratios {
    rate: Vec<f64>,
    mean: Vec<f64>,
    p50: Vec<f64>,
    p99: Vec<f64>,
}

impl Ratios {
    fn add(&mut self, before: &Outcome, with: &Outcome, after: &Outcome) {
        let mut without = before.sends.latency.clone();
        without.merge(&after.sends.latency);
        let with_pushers = &with.sends.latency;
        let per_second =
            |sent: &Histogram, took: Duration| as_f64(sent.count()) / took.as_secs_f64().max(1e-6);
        let rate = per_second(&without, before.took + after.took);
        self.rate.push(per_second(with_pushers, with.took) / rate.max(1e-6));
        let compare = |of: &dyn Fn(&Histogram) -> Option<f64>| {
            Some(of(with_pushers)? / of(&without)?.max(1e-6))
        };
        self.mean.extend(compare(&Histogram::mean_ms));
        self.p50.extend(compare(&|sent| sent.quantile_ms(0.5)));
        self.p99.extend(compare(&|sent| sent.quantile_ms(0.99)));
    }

    /// The median of the rounds, and the rounds.
    fn row(self) -> Row {
        let rounds = self.rate.len();
        let mut row = Row::new("push", format!("with pushers to without, median of {rounds}"));
        let all = [("rate", self.rate), ("mean", self.mean), ("p50", self.p50), ("p99", self.p99)];
        for (name, mut ratios) in all {
            let each: Vec<String> = ratios.iter().map(|ratio| format!("{ratio:.2}")).collect();
            if let Some(median) = median(&mut ratios) {
                let note = format!("{name} ratios of the rounds: {}", each.join(", "));
                row = row.metric(format!("{name} ratio"), "", median).note(note);
            }
        }
        row
    }
}

/// The middle one, or the mean of the two in the middle.
fn median(values: &mut [f64]) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let upper = *values.get(values.len() / 2)?;
    let lower = *values.get(values.len().checked_sub(1)? / 2)?;
    Some(f64::midpoint(lower, upper))
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
            .mean("send", &sends.latency)
            .latency("send", &sends.latency)
            .rate("pushed", gateway.taken() - taken, seconds)
            .usage(outcome.before, outcome.after, sends.latency.count(), "message")
            .failures(sends.failed, sends.first_error.as_deref());
        world.report.add(row);
        Ok(outcome)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle() {
        assert_eq!(median(&mut []), None);
        assert_eq!(median(&mut [2.0]), Some(2.0));
        assert_eq!(median(&mut [9.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&mut [4.0, 9.0, 1.0, 2.0]), Some(3.0));
    }
}
