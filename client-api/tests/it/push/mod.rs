//! Push (CS "Push Notifications", Push Gateway API): pushers, what their gateways get, and the list of
//! notifications.

mod delivery;
mod notifications;
mod pushers;

use hearth_testkit::{PushGateway, TestServer, TestServerBuilder, TestUser};
use ruma::OwnedRoomId;

use crate::support::V3;

/// A server that may push to gateways on this machine.
pub(super) fn pushing() -> TestServerBuilder {
    TestServer::builder().config(|config| {
        config.push.allow_http = true;
        config.push.allow_networks = vec!["127.0.0.0/8".parse().unwrap()];
        config.push.backoff_min_s = 1;
    })
}

/// A room of three, in which Alice has a pusher.
pub(super) struct Scene {
    pub(super) server: TestServer,
    pub(super) gateway: PushGateway,
    pub(super) alice: TestUser,
    pub(super) bob: TestUser,
    pub(super) room: OwnedRoomId,
}

pub(super) async fn scene(builder: TestServerBuilder) -> Scene {
    let server = builder.start().await;
    let gateway = PushGateway::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let carol = server.register("carol").await;
    let room = bob.create_public_room().await;
    alice.join(&room).await;
    carol.join(&room).await;
    alice.post_ok(&format!("{V3}/pushers/set"), gateway.pusher("app", "key")).await;
    Scene { server, gateway, alice, bob, room }
}
