//! Pushers make way for requests that are served late. On simulated time.

use std::{future::pending, sync::Arc, time::Duration};

use async_trait::async_trait;
use hearth_push::Foreground;
use ruma::{OwnedEventId, RoomId, UserId, user_id};
use serde_json::json;
use tokio::{sync::watch, time::timeout};

use crate::world::{PATIENCE, World};

/// How often it is asked at least how late requests are, before there is a limit: twice eight answers are judged.
const ENOUGH: usize = 17;
/// More than may wait for one pusher while there is a limit, and fewer than otherwise.
const MANY: usize = 50;
/// More positions than the cursor may lag behind.
const SOME: u32 = 300;

/// Requests that are served late, or not at all.
struct Late {
    answers: bool,
    asked: watch::Sender<usize>,
}

#[async_trait]
impl Foreground for Late {
    async fn lateness(&self) -> Duration {
        self.asked.send_modify(|asked| *asked += 1);
        if !self.answers {
            pending::<()>().await;
        }
        Duration::from_millis(20)
    }
}

impl Late {
    fn new(answers: bool) -> Arc<Self> {
        Arc::new(Self { answers, asked: watch::Sender::new(0) })
    }
}

fn bob() -> &'static UserId {
    user_id!("@bob:hearth.test")
}

/// Has a pusher be at work until its pace was judged: what it sent.
async fn be_judged(world: &World, late: &Late, room_id: &RoomId) -> Vec<OwnedEventId> {
    let judged = async {
        let mut sent = Vec::new();
        while *late.asked.borrow() < ENOUGH {
            sent.push(world.text(room_id, bob(), "meanwhile").await);
            world.gateway.events_until(sent.last().unwrap()).await;
        }
        sent
    };
    timeout(PATIENCE, judged).await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn beside_late_requests_little_waits_for_a_pusher_and_the_log_is_let_go() {
    for answers in [true, false] {
        let late = Late::new(answers);
        let world = World::beside(late.clone()).await;
        let room_id = world.room(bob(), user_id!("@alice:hearth.test")).await;
        let mut sent = be_judged(&world, &late, &room_id).await;
        world.gateway.hold(true);
        sent.push(world.text(&room_id, bob(), "under way").await);
        world.gateway.asked(sent.len()).await;
        sent.extend(world.texts(&room_id, bob(), MANY).await);
        let happened = world.much_happens(SOME).await;
        world.log_is_let_go(happened).await;
        world.gateway.hold(false);
        let told = world.gateway.events_until(sent.last().unwrap()).await;
        assert_eq!(json!(told), json!(sent), "each once, in order");
        world.close().await;
    }
}
