//! How far pushers got is written before they go on.

use hearth_types::StreamPosition;
use ruma::{OwnedUserId, UserId, user_id};

use crate::world::World;

/// No more than one gateway is asked to take at once.
const PUSHERS: usize = 30;

#[tokio::test]
async fn the_progress_of_many_takes_few_commits() {
    let world = World::new().await;
    let bob = user_id!("@bob:hearth.test");
    let users: Vec<OwnedUserId> = (0..PUSHERS)
        .map(|number| UserId::parse(format!("@{number}:hearth.test")).unwrap())
        .collect();
    let room_id = world.room(bob, &users[0]).await;
    for user_id in &users[1..] {
        world.join(&room_id, user_id).await;
    }
    world.gateway.hold(true);
    world.text(&room_id, bob, "first").await;
    world.gateway.asked(PUSHERS).await;
    let before = world.published();
    world.gateway.hold(false);
    world.gateway.took(PUSHERS).await;
    world.gateway.hold(true);
    world.text(&room_id, bob, "second").await;
    // The next are sent when what became of the first is written.
    world.gateway.asked(2 * PUSHERS).await;
    let commits = world.published().get() - before.get();
    let most = u64::try_from(PUSHERS).unwrap() / 2;
    assert!((2..most).contains(&commits), "{commits}: a message, and the progress");
    world.gateway.hold(false);
    world.gateway.took(2 * PUSHERS).await;
    world.close().await;
}

impl World {
    fn published(&self) -> StreamPosition {
        self.store.notifier().published()
    }
}
