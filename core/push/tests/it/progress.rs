//! How far pushers got is written before they go on.

use std::ops::ControlFlow;

use bytes::Bytes;
use hearth_storage::{Commit, Keyspace};
use hearth_types::StreamPosition;
use ruma::{OwnedUserId, UserId, user_id};
use tokio::time::timeout;

use crate::world::{PATIENCE, World};

/// The rows of progress, whatever is in them.
const PROGRESS: Keyspace<OwnedUserId, (String, String), Bytes> = Keyspace::new("pusher_progress");

/// Such a row in its first version.
const NOTHING_DELIVERED: &[u8] = &[1, 0, 0, 0, 0, 0];
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

#[tokio::test]
async fn progress_on_its_way_holds_up_no_change_of_the_user_and_does_not_outlive_the_pusher() {
    let world = World::new().await;
    let [bob, alice] = [user_id!("@bob:hearth.test"), user_id!("@alice:hearth.test")];
    let room_id = world.room(bob, alice).await;
    world.gateway.hold(true);
    world.text(&room_id, bob, "first").await;
    world.gateway.asked(1).await;
    world.gateway.hold(false);
    world.gateway.took(1).await;
    // What it got is written, or about to be.
    let stalled = world.stall().await;
    let changes = async {
        world.set_pusher(alice, "other").await;
        for key in ["other", alice.as_str()] {
            world.push.delete_pusher(alice, "app", key).await.unwrap();
        }
    };
    timeout(PATIENCE, changes).await.unwrap();
    drop(stalled);
    world.push.close().await;
    assert_eq!(world.rows_of_progress().await, 0);
    world.close().await;
}

#[tokio::test]
async fn progress_without_a_pusher_is_dropped_at_the_start() {
    let store = World::store().await;
    let alice = user_id!("@alice:hearth.test").to_owned();
    let mut commit = Commit::new(&());
    for number in 0..300 {
        let key = ("app".to_owned(), number.to_string());
        commit.put(&PROGRESS, &alice, &key, &Bytes::from_static(NOTHING_DELIVERED));
    }
    store.commit(commit).await.unwrap();
    let world = World::over(store).await;
    assert_eq!(world.rows_of_progress().await, 0);
    world.close().await;
}

impl World {
    async fn rows_of_progress(&self) -> usize {
        let count = self.store.bulk(|view| {
            let mut count = 0;
            view.for_each(&PROGRESS, |_, _, _| {
                count += 1;
                ControlFlow::Continue(())
            })?;
            Ok(count)
        });
        count.await.unwrap()
    }

    fn published(&self) -> StreamPosition {
        self.store.notifier().published()
    }
}
