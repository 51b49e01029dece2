//! Servers that reach each other without a network.

use std::{collections::BTreeMap, time::Duration};

use hearth_federation::FederationConfig;
use hearth_testkit::{Client, Network, Passage, TestServer, TestUser, encode};
use parking_lot::Mutex;
use ruma::{EventId, RoomId, ServerName, UserId};
use serde_json::Value;
use tokio::time::timeout;

/// How long what one server tells another may take to be seen there.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Servers that federate with each other.
pub(crate) struct World {
    servers: BTreeMap<String, TestServer>,
    network: Network,
    /// Every request sent so far.
    passages: Mutex<Vec<Passage>>,
}

impl World {
    /// Starts servers of these names.
    pub(crate) async fn start(names: &[&str]) -> Self {
        Self::start_with(names, |_| ()).await
    }

    /// Starts servers of these names with another configuration.
    pub(crate) async fn start_with(
        names: &[&str],
        configure: impl Fn(&mut FederationConfig),
    ) -> Self {
        let network = Network::new();
        let mut servers = BTreeMap::new();
        for name in names {
            let builder = TestServer::builder().federating(name, &network);
            let builder = builder.config(|config| configure(&mut config.federation));
            servers.insert((*name).to_owned(), builder.start().await);
        }
        Self { servers, network, passages: Mutex::default() }
    }

    /// Stops a server, and starts it again.
    pub(crate) async fn restart(&mut self, name: &str) {
        self.servers.get_mut(name).unwrap().restart().await;
    }

    /// A client of a server, without a user.
    pub(crate) fn client(&self, server: &str) -> Client {
        self.servers[server].client()
    }

    /// Registers a user of a server.
    pub(crate) async fn user(&self, server: &str, localpart: &str) -> TestUser {
        self.servers[server].register(localpart).await
    }

    /// What is between the servers.
    pub(crate) fn network(&self) -> &Network {
        &self.network
    }

    /// These two do not reach each other any more.
    pub(crate) fn cut(&self, one: &str, other: &str) {
        self.network.cut(&ServerName::parse(one).unwrap(), &ServerName::parse(other).unwrap());
    }

    /// How often a server has asked others for something below this path.
    pub(crate) fn count_requests(&self, from: &str, path: &str) -> usize {
        self.requests(from, path).len()
    }

    /// What a server has asked others for below this path, as paths and queries.
    pub(crate) fn requests(&self, from: &str, path: &str) -> Vec<String> {
        let mut passages = self.passages.lock();
        passages.extend(self.network.take_passages());
        let below = |passage: &&Passage| passage.from == from && passage.path.starts_with(path);
        passages.iter().filter(below).map(|passage| passage.path.clone()).collect()
    }

    /// Waits until a user's syncs have shown an event.
    pub(crate) async fn wait_for_event(
        &self,
        user: &TestUser,
        since: &str,
        room_id: &RoomId,
        event_id: &EventId,
    ) {
        let shows = |sync: &Value| {
            let timeline = &sync["rooms"]["join"][room_id.as_str()]["timeline"]["events"];
            let mut shown = timeline.as_array().into_iter().flatten();
            shown.any(|event| event["event_id"] == event_id.as_str())
        };
        wait_for_sync(user, since, shows).await;
    }

    /// Waits until a server holds this membership.
    pub(crate) async fn wait_for_membership(
        &self,
        viewer: &TestUser,
        room_id: &RoomId,
        user_id: &UserId,
        wanted: &str,
    ) {
        let waiting = async {
            while membership(viewer, room_id, user_id).await != wanted {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        let reached = timeout(PATIENCE, waiting).await;
        reached.unwrap_or_else(|_| panic!("{user_id} does not come to be in {wanted}"));
    }
}

/// Waits until a user's syncs have shown something.
pub(crate) async fn wait_for_sync(user: &TestUser, since: &str, shows: impl Fn(&Value) -> bool) {
    let waiting = async {
        let mut since = since.to_owned();
        loop {
            let sync = user.wait_for_sync(&since).await;
            if shows(&sync) {
                return;
            }
            sync["next_batch"].as_str().unwrap().clone_into(&mut since);
        }
    };
    let seen = timeout(PATIENCE, waiting).await;
    seen.unwrap_or_else(|_| panic!("it does not come to {}", user.user_id));
}

/// Kicks somebody.
pub(crate) async fn kick(by: &TestUser, room_id: &RoomId, user_id: &UserId) {
    let body = serde_json::json!({ "user_id": user_id });
    by.post_ok(&TestUser::room_path(room_id, "kick"), body).await;
}

/// A path of `/join` or `/knock` with servers to ask.
pub(crate) fn via_path(what: &str, room: &str, via: &[&str]) -> String {
    let via: Vec<String> = via.iter().map(|server| format!("via={server}")).collect();
    format!("/_matrix/client/v3/{what}/{}?{}", encode(room), via.join("&"))
}

/// A user's membership as another one sees it; `leave` if there is none.
pub(crate) async fn membership(viewer: &TestUser, room_id: &RoomId, user_id: &UserId) -> String {
    let rest = format!("state/m.room.member/{}", encode(user_id.as_str()));
    let (status, content): (_, Value) = viewer.get(&TestUser::room_path(room_id, &rest)).await;
    if status == http::StatusCode::NOT_FOUND {
        return "leave".to_owned();
    }
    assert_eq!(status, http::StatusCode::OK, "{content}");
    content["membership"].as_str().unwrap().to_owned()
}
