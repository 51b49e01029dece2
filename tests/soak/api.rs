//! Requests to a server that may be restarting.

use bytes::Bytes;
use hearth_testkit::{Client, encode};
use http::{HeaderMap, Method, StatusCode};
use serde_json::Value;

use crate::world::World;

/// What came of a request.
#[derive(Debug)]
pub(crate) enum Failure {
    /// No answer, or the answer of a server that was stopping: it may have happened or not.
    Unreachable,
    /// The server says no.
    Refused(StatusCode, Value),
}

pub(crate) type Answer = Result<Value, Failure>;

/// One attempt.
pub(crate) async fn once(
    world: &World,
    client: &Client,
    method: Method,
    path: &str,
    body: Option<&Value>,
) -> Answer {
    let run = world.run();
    let bytes = body.map(|body| Bytes::from(body.to_string()));
    let sent = client.try_send(method.clone(), path, HeaderMap::new(), bytes).await;
    let Ok(response) = sent else {
        if world.is_up() && run == world.run() {
            world.fail(format!("{method} {path}: no answer: {sent:?}"));
        }
        return Err(Failure::Unreachable);
    };
    if response.status == StatusCode::OK {
        return Ok(response.json());
    }
    if response.status.is_server_error() {
        if world.is_up() && run == world.run() {
            world.fail(format!("{method} {path}: {} {}", response.status, response.json()));
        }
        return Err(Failure::Unreachable);
    }
    Err(Failure::Refused(response.status, response.json()))
}

/// Attempts until there is an answer: for requests that may be repeated.
pub(crate) async fn until_answered(
    world: &World,
    client: &Client,
    method: Method,
    path: &str,
    body: Option<&Value>,
) -> Result<Value, (StatusCode, Value)> {
    loop {
        world.wait_until_up().await;
        match once(world, client, method.clone(), path, body).await {
            Ok(answer) => return Ok(answer),
            Err(Failure::Refused(status, answer)) => return Err((status, answer)),
            Err(Failure::Unreachable) => tokio::task::yield_now().await,
        }
    }
}

/// A `GET` that must succeed.
pub(crate) async fn get(world: &World, client: &Client, path: &str) -> Value {
    until_answered(world, client, Method::GET, path, None)
        .await
        .unwrap_or_else(|refused| panic!("GET {path}: {refused:?}"))
}

/// The path of something in a room.
pub(crate) fn room(room_id: &str, rest: &str) -> String {
    format!("/_matrix/client/v3/rooms/{}/{rest}", encode(room_id))
}
