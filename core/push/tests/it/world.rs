//! A small server without HTTP, and a gateway in memory.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use hearth_push::{
    Foreground, Gateway, GatewayAnswer, GatewayError, NewPusher, Push, PushConfig, PushParts,
};
use hearth_rooms::{CreateRoomOptions, Draft, MemberProfile, Preset, Rooms};
use hearth_storage::{Commit, Store, engine::memory::MemoryEngine};
use hearth_sync::SyncConfig;
use hearth_testbed::{Services, store_options};
use hearth_types::StreamPosition;
use ruma::{
    EventId, OwnedEventId, OwnedRoomId, RoomId, UserId,
    api::client::push::{PusherIds, PusherInit, PusherKind},
    push::HttpPusherData,
    server_name,
};
use serde_json::{Value, json, value::to_raw_value};
use tokio::{
    runtime::{Builder, Handle, Runtime},
    sync::watch,
    time::{sleep, timeout},
};
use url::Url;

/// How long anything may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A server, whose pushers work on a thread of their own if nothing else is said.
pub(crate) struct World {
    pub(crate) store: Store,
    pub(crate) rooms: Rooms,
    pub(crate) push: Push,
    pub(crate) gateway: Arc<MemoryGateway>,
    background: Option<Runtime>,
}

/// Takes everything and remembers it; while it is held, it takes nothing.
pub(crate) struct MemoryGateway {
    is_held: watch::Sender<bool>,
    asked: watch::Sender<usize>,
    taken: watch::Sender<Vec<Value>>,
}

#[async_trait]
impl Gateway for MemoryGateway {
    async fn post(
        &self,
        _: &Url,
        body: Bytes,
        _: Duration,
        _: usize,
    ) -> Result<GatewayAnswer, GatewayError> {
        self.asked.send_modify(|asked| *asked += 1);
        self.is_held.subscribe().wait_for(|is_held| !is_held).await.unwrap();
        let mut told: Value = serde_json::from_slice(&body).unwrap();
        self.taken.send_modify(|taken| taken.push(told["notification"].take()));
        Ok(GatewayAnswer { status: 200, body: Bytes::from_static(b"{}") })
    }
}

impl MemoryGateway {
    pub(crate) fn hold(&self, is_held: bool) {
        self.is_held.send_replace(is_held);
    }

    /// Waits until it was asked to take so much.
    pub(crate) async fn asked(&self, times: usize) {
        let mut asked = self.asked.subscribe();
        timeout(PATIENCE, asked.wait_for(|asked| *asked >= times)).await.unwrap().unwrap();
    }

    /// Waits until it has taken so much.
    pub(crate) async fn took(&self, times: usize) {
        let mut taken = self.taken.subscribe();
        timeout(PATIENCE, taken.wait_for(|taken| taken.len() >= times)).await.unwrap().unwrap();
    }

    /// Waits until it has taken an event for this user's pusher.
    pub(crate) async fn told(&self, owner: &UserId, event_id: &EventId) {
        let is_it = |told: &Value| {
            told["event_id"] == *event_id.as_str()
                && told["devices"][0]["pushkey"] == *owner.as_str()
        };
        let mut taken = self.taken.subscribe();
        timeout(PATIENCE, taken.wait_for(|taken| taken.iter().any(is_it))).await.unwrap().unwrap();
    }

    /// The events that it took, once this is the last of them.
    pub(crate) async fn events_until(&self, last: &OwnedEventId) -> Vec<Value> {
        let events = |taken: &[Value]| -> Vec<Value> {
            let ids = taken.iter().map(|told| told["event_id"].clone());
            ids.filter(|event_id| !event_id.is_null()).collect()
        };
        let mut taken = self.taken.subscribe();
        let is_there = |taken: &Vec<Value>| events(taken).last() == Some(&json!(last));
        let taken = timeout(PATIENCE, taken.wait_for(is_there)).await.unwrap().unwrap();
        events(&taken)
    }
}

impl World {
    pub(crate) async fn new() -> Self {
        Self::over(Self::store().await).await
    }

    /// An empty store.
    pub(crate) async fn store() -> Store {
        Store::open(store_options(hearth_push::KEYSPACES)).await.unwrap()
    }

    pub(crate) async fn over(store: Store) -> Self {
        let background = Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let background = background.unwrap();
        let runtime = background.handle().clone();
        let world = Self::on(runtime, store, None).await;
        Self { background: Some(background), ..world }
    }

    /// A server that does everything on the current runtime, which may simulate the time, beside requests that are
    /// as late as the foreground says.
    pub(crate) async fn beside(foreground: Arc<dyn Foreground>) -> Self {
        let options = store_options(hearth_push::KEYSPACES);
        let engine = Arc::new(MemoryEngine::new(options.all_keyspaces().len()));
        let store = Store::open_in_task(engine, &options, Duration::from_millis(1)).unwrap();
        Self::on(Handle::current(), store, Some(foreground)).await
    }

    async fn on(runtime: Handle, store: Store, foreground: Option<Arc<dyn Foreground>>) -> Self {
        let services = Services::over(store, server_name!("hearth.test")).await;
        let sync = services.sync(SyncConfig::default());
        let Services { store, clock, users, rooms, .. } = services;
        let push = Push::open(PushParts {
            store: store.clone(),
            clock,
            users,
            rooms: rooms.clone(),
            sync,
            config: PushConfig::default(),
        });
        let push = push.await.unwrap();
        let gateway = Arc::new(MemoryGateway {
            is_held: watch::Sender::new(false),
            asked: watch::Sender::new(0),
            taken: watch::Sender::default(),
        });
        push.start(Arc::clone(&gateway) as _, runtime, foreground).await.unwrap();
        Self { store, rooms, push, gateway, background: None }
    }

    /// A room of these two, the second of whom has a pusher.
    pub(crate) async fn room(&self, sender: &UserId, owner: &UserId) -> OwnedRoomId {
        let options =
            CreateRoomOptions { preset: Some(Preset::PublicChat), ..CreateRoomOptions::default() };
        let room_id = self.rooms.create_room(sender, options).await.unwrap();
        self.join(&room_id, owner).await;
        room_id
    }

    /// Has somebody with a pusher join.
    pub(crate) async fn join(&self, room_id: &RoomId, owner: &UserId) {
        self.rooms.join(room_id, owner, &MemberProfile::default(), None).await.unwrap();
        self.set_pusher(owner, owner.as_str()).await;
    }

    pub(crate) async fn set_pusher(&self, owner: &UserId, pushkey: &str) {
        let url = "https://push.example/_matrix/push/v1/notify".to_owned();
        let pusher = PusherInit {
            ids: PusherIds::new(pushkey.to_owned(), "app".to_owned()),
            kind: PusherKind::Http(HttpPusherData::new(url)),
            app_display_name: "App".to_owned(),
            device_display_name: "Phone".to_owned(),
            profile_tag: None,
            lang: "en".to_owned(),
        };
        let pusher = NewPusher::check(pusher.into(), "DEVICE".into(), 1, false).unwrap();
        self.push.set_pusher(owner, pusher, false).await.unwrap();
    }

    pub(crate) async fn text(&self, room_id: &RoomId, sender: &UserId, body: &str) -> OwnedEventId {
        let content = to_raw_value(&json!({ "msgtype": "m.text", "body": body })).unwrap();
        let draft = Draft::message(sender.to_owned(), "m.room.message".into(), content);
        self.rooms.send(room_id, draft, None).await.unwrap()
    }

    pub(crate) async fn texts(
        &self,
        room_id: &RoomId,
        sender: &UserId,
        count: usize,
    ) -> Vec<OwnedEventId> {
        let mut sent = Vec::new();
        for number in 0..count {
            sent.push(self.text(room_id, sender, &number.to_string()).await);
        }
        sent
    }

    /// As many positions as very much that happens takes; the last of them.
    pub(crate) async fn much_happens(&self, positions: u32) -> StreamPosition {
        let mut commit = Commit::new(&());
        for _ in 0..positions {
            commit.next_position();
        }
        self.store.commit(commit).await.unwrap().last
    }

    /// Waits until push does not hold back the log up to a position.
    pub(crate) async fn log_is_let_go(&self, position: StreamPosition) {
        let let_go = async {
            while self.cursor().await < position {
                sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(PATIENCE, let_go).await.unwrap();
    }

    /// Where the cursor of push is.
    pub(crate) async fn cursor(&self) -> StreamPosition {
        self.store.cursor("push").await.unwrap().unwrap()
    }

    /// Has the background do nothing until what this returns is dropped.
    pub(crate) async fn stall(&self) -> std::sync::mpsc::Sender<()> {
        let (stalled, is_stalled) = tokio::sync::oneshot::channel();
        let (let_go, until) = std::sync::mpsc::channel();
        self.background.as_ref().unwrap().spawn(async move {
            stalled.send(()).unwrap();
            // Ends with an error, when the other end is dropped.
            until.recv().unwrap_or_default();
        });
        is_stalled.await.unwrap();
        let_go
    }

    /// Ends without a word: what is left.
    pub(crate) fn crash(mut self) -> Store {
        self.background.take().unwrap().shutdown_background();
        self.store
    }

    pub(crate) async fn close(mut self) {
        self.push.close().await;
        if let Some(background) = self.background.take() {
            background.shutdown_background();
        }
    }
}
