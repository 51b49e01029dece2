//! What a fork costs, measured: see `docs/performance.md`.
#![expect(clippy::print_stdout, reason = "a measurement")]

use std::time::{Duration, Instant};

use ruma::RoomVersionId;
use serde_json::{Value, json};

use super::*;

const ALICE: &str = "@alice:hs.test";
const BOB: &str = "@bob:b.test";
const SIZES: [usize; 2] = [100, 20_000];
/// Forks whose costs are measured, after as many that only warm up.
const ROUNDS: usize = 100;

/// Receives the same conflict in a small and in a large room: on one side the creator changes the power
/// levels and the name, on the other a moderator sets the name and the topic.
#[tokio::test]
#[ignore = "measures for some minutes"]
async fn a_fork_costs_the_same_in_a_large_room() {
    for version in [RoomVersionId::V11, RoomVersionId::V12] {
        let rooms = [
            Forking::new(version.clone(), SIZES[0]).await,
            Forking::new(version.clone(), SIZES[1]).await,
        ];
        let mut costs = [Vec::new(), Vec::new()];
        for round in 0..2 * ROUNDS {
            // In turns, so that what else the machine does weighs on both.
            for (room, costs) in rooms.iter().zip(&mut costs) {
                costs.push(room.fork(round).await);
            }
        }
        let medians = costs.map(|costs| {
            let mut measured = costs[ROUNDS..].to_vec();
            measured.sort_unstable();
            measured[ROUNDS / 2]
        });
        let ratio = medians[1].as_secs_f64() / medians[0].as_secs_f64();
        println!("version {version}: {SIZES:?} members, p50 {medians:?}, ratio {ratio:.2}");
        assert!(ratio < 2.0, "{medians:?}");
    }
}

/// A room, the server that makes its events, and the one that is measured.
struct Forking {
    shared: Shared,
    twin: Rooms,
}

impl Forking {
    async fn new(version: RoomVersionId, members: usize) -> Self {
        let shared = Shared::with(version, &[BOB]).await;
        for number in 2..members {
            shared.join(&format!("@user{number}:s{}.test", number % 50)).await;
        }
        let twin = shared.full_twin("t.test").await;
        let forking = Self { shared, twin };
        let levels = forking.levels(0);
        let levels = forking.shared.state(ALICE, ("m.room.power_levels", ""), levels).await;
        assert_eq!(forking.shared.take(levels.clone()).await, Verdict::Accepted);
        forking.take(vec![levels]).await;
        forking
    }

    fn levels(&self, round: usize) -> Value {
        let mut content = json!({ "users": { BOB: 50 }, "events": { "org.round": round % 50 } });
        if !self.shared.rules.authorization.explicitly_privilege_room_creators {
            content["users"][ALICE] = 100.into();
        }
        content
    }

    /// Both servers take events; how long the measured one needs.
    async fn take(&self, events: Vec<CheckedPdu>) -> Duration {
        let started = Instant::now();
        let verdicts = self.twin.receive(&self.shared.id, events).await.unwrap();
        let needed = started.elapsed();
        assert!(verdicts.iter().all(|verdict| *verdict == Verdict::Accepted), "{verdicts:?}");
        needed
    }

    /// Makes a fork and joins its ends. Only the fork is measured.
    async fn fork(&self, round: usize) -> Duration {
        let mut fork = Vec::new();
        let base = self.shared.tips().await;
        let name = |who: &str| json!({ "name": format!("{who} {round}") });
        let sides = [
            (ALICE, "m.room.power_levels", self.levels(round), "m.room.name", name("alice")),
            (BOB, "m.room.topic", json!({ "topic": round }), "m.room.name", name("bob")),
        ];
        for (sender, first, first_content, second, second_content) in sides {
            let mut prev = base.clone();
            for (kind, content) in [(first, first_content), (second, second_content)] {
                let event = self.shared.state_on(&prev, sender, (kind, ""), content).await;
                prev = vec![event.pdu().id().to_owned()];
                assert_eq!(self.shared.take(event.clone()).await, Verdict::Accepted);
                fork.push(event);
            }
        }
        let needed = self.take(fork).await;
        let joining = self.shared.message(ALICE, &round.to_string()).await;
        assert_eq!(self.shared.take(joining.clone()).await, Verdict::Accepted);
        self.take(vec![joining]).await;
        needed
    }
}
