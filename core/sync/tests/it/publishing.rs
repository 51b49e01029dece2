//! What is visible in the store a moment before it is published.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::FutureExt;
use hearth_rooms::schema::Membership;
use hearth_storage::{
    Direction, Engine, EngineError, Store, View,
    engine::{KeyRange, KeyspaceIndex, Visitor, Write, memory::MemoryEngine},
    migrate::MIGRATIONS,
};
use hearth_sync::SyncConfig;
use hearth_testbed::store_options;
use hearth_users::AccountDataScope;
use parking_lot::{Condvar, Mutex};
use serde_json::{json, value::to_raw_value};

use crate::world::{Ask, World, joined, timeline, user};

/// Rows in memory. While it is held, batches can be read and are not reported as applied.
#[derive(Debug)]
struct Slow {
    rows: MemoryEngine,
    held: Mutex<bool>,
    released: Condvar,
}

impl Slow {
    fn hold(&self, hold: bool) {
        *self.held.lock() = hold;
        self.released.notify_all();
    }
}

impl Engine for Slow {
    fn apply(&self, writes: Vec<Write>, durable: bool) -> Result<(), EngineError> {
        self.rows.apply(writes, durable)?;
        let mut held = self.held.lock();
        self.released.wait_while(&mut held, |held| *held);
        Ok(())
    }

    fn sync(&self) -> Result<(), EngineError> {
        self.rows.sync()
    }

    fn view(&self) -> Box<dyn View + Send + Sync> {
        self.rows.view()
    }
}

impl View for Slow {
    fn get(&self, keyspace: KeyspaceIndex, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        self.rows.get(keyspace, key)
    }

    fn scan(
        &self,
        keyspace: KeyspaceIndex,
        range: KeyRange<'_>,
        direction: Direction,
        visit: &mut Visitor<'_>,
    ) -> Result<(), EngineError> {
        self.rows.scan(keyspace, range, direction, visit)
    }
}

#[tokio::test]
async fn a_leave_that_is_being_written_hides_nothing_of_before() {
    let options = store_options(&[]);
    let engine = Arc::new(Slow {
        rows: MemoryEngine::new(options.all_keyspaces().len()),
        held: Mutex::new(false),
        released: Condvar::new(),
    });
    let store = Store::open_over(engine.clone(), &options, MIGRATIONS).unwrap();
    let world = World::over(store, SyncConfig::default()).await;
    let (alice, bob) = (user("alice"), user("bob"));
    let room = world.room(&alice).await;
    world.join(&room, &bob).await;
    let first = world.ask(Ask::of(&bob)).await;
    let before = world.text(&room, &alice, "before").await;
    // Makes the next sync read the list of rooms again.
    let content = to_raw_value(&json!({})).unwrap();
    let scope = AccountDataScope::Global;
    world.users.set_account_data(&bob, scope, "org.a", &content).await.unwrap();

    engine.hold(true);
    let mut leaving = Box::pin(world.rooms.leave(&room, &bob, None));
    while world.rooms.user_room(&bob, &room).await.unwrap().unwrap().details.membership
        == Membership::Join
    {
        assert!(leaving.as_mut().now_or_never().is_none(), "it is not published");
        tokio::task::yield_now().await;
    }
    let mut asked = Box::pin(world.ask(Ask::of(&bob).after(&first)));
    let early = asked.as_mut().now_or_never();
    engine.hold(false);
    let left = leaving.await.unwrap();
    let mut seen = Vec::new();
    let mut response = match early {
        Some(response) => response,
        None => asked.await,
    };
    while response["rooms"]["leave"].is_null() {
        seen.extend(timeline(joined(&response, &room)));
        response = world.ask(Ask::of(&bob).after(&response)).await;
    }
    seen.extend(timeline(&response["rooms"]["leave"][room.as_str()]));
    assert_eq!(seen, [before.to_string(), left.to_string()]);
}
