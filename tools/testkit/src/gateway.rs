//! A push gateway that accepts only what the specification allows (`push_notifier.yaml`).

use std::{
    collections::BTreeSet,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use axum::{
    Router,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::post,
};
use bytes::Bytes;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::{
    net::TcpListener,
    sync::Notify,
    time::{sleep, timeout},
};

/// How long a test waits for a notification.
const PATIENCE: Duration = Duration::from_secs(30);

/// A gateway on a port of its own. Ends with its test.
#[derive(Clone, Debug)]
pub struct PushGateway {
    shared: Arc<Shared>,
    address: SocketAddr,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<Received>,
    arrived: Notify,
}

#[derive(Debug, Default)]
struct Received {
    /// What was answered with 200.
    taken: Vec<Value>,
    /// Requests that were refused on purpose.
    refused: usize,
    /// What the specification does not allow.
    faults: Vec<String>,
    /// The status of refusals; `None`: everything is taken.
    refusing: Option<StatusCode>,
    rejected: BTreeSet<String>,
    delay: Duration,
}

impl PushGateway {
    /// Starts to listen on 127.0.0.1.
    pub async fn start() -> Self {
        Self::start_at(Ipv4Addr::LOCALHOST).await
    }

    /// Starts to listen on this address.
    pub async fn start_at(address: Ipv4Addr) -> Self {
        let listener = TcpListener::bind((address, 0)).await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let shared = Arc::new(Shared::default());
        let router = Router::new()
            .route("/_matrix/push/v1/notify", post(notify))
            .with_state(Arc::clone(&shared));
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { shared, address }
    }

    /// Where it is.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}/_matrix/push/v1/notify", self.address)
    }

    /// The body of `pushers/set` for a pusher of this gateway.
    #[must_use]
    pub fn pusher(&self, app_id: &str, pushkey: &str) -> Value {
        json!({
            "app_id": app_id, "pushkey": pushkey, "kind": "http", "lang": "en",
            "app_display_name": "Test", "device_display_name": "Phone",
            "data": { "url": self.url() },
        })
    }

    /// Answers everything with this status from now on; `None`: takes everything.
    pub fn refuse(&self, status: Option<u16>) {
        let status = status.map(|status| StatusCode::from_u16(status).expect("a status"));
        self.shared.state.lock().refusing = status;
    }

    /// Answers that this pushkey is not valid.
    pub fn reject(&self, pushkey: &str) {
        self.shared.state.lock().rejected.insert(pushkey.to_owned());
    }

    /// Takes so long to answer.
    pub fn delay(&self, delay: Duration) {
        self.shared.state.lock().delay = delay;
    }

    /// The notifications that were taken, in their order.
    ///
    /// # Panics
    ///
    /// If the specification does not allow what came.
    #[must_use]
    pub fn taken(&self) -> Vec<Value> {
        let state = self.shared.state.lock();
        assert!(state.faults.is_empty(), "not as the specification says: {:?}", state.faults);
        state.taken.clone()
    }

    /// How many requests were refused on purpose.
    #[must_use]
    pub fn refused(&self) -> usize {
        self.shared.state.lock().refused
    }

    /// Waits until what was taken is as a test wants it.
    pub async fn wait(&self, what: &str, is_there: impl Fn(&[Value]) -> bool) -> Vec<Value> {
        let waiting = async {
            loop {
                let arrived = self.shared.arrived.notified();
                let taken = self.taken();
                if is_there(&taken) {
                    return taken;
                }
                arrived.await;
            }
        };
        let waited = timeout(PATIENCE, waiting).await;
        waited.unwrap_or_else(|_| panic!("{what} did not come: {:#?}", self.taken()))
    }

    /// Waits for so many notifications of events; they alone, in their order.
    pub async fn events(&self, count: usize) -> Vec<Value> {
        let is_event = |taken: &&Value| taken.get("event_id").is_some();
        let what = format!("notification {count}");
        let taken = self.wait(&what, |taken| taken.iter().filter(is_event).count() >= count).await;
        taken.into_iter().filter(|taken| is_event(&taken)).collect()
    }

    /// Waits until the last that came has this unread count.
    pub async fn badge(&self, unread: u64) -> Value {
        let is_there =
            |taken: &[Value]| taken.last().is_some_and(|last| last["counts"]["unread"] == unread);
        self.wait(&format!("a badge of {unread}"), is_there).await.pop().expect("the last")
    }

    /// Waits until so many requests were refused.
    pub async fn refusals(&self, count: usize) {
        let waiting = async {
            loop {
                let arrived = self.shared.arrived.notified();
                if self.refused() >= count {
                    return;
                }
                arrived.await;
            }
        };
        timeout(PATIENCE, waiting).await.expect("refusals");
    }
}

async fn notify(State(shared): State<Arc<Shared>>, body: Bytes) -> Response {
    let (delay, refusing) = {
        let state = shared.state.lock();
        (state.delay, state.refusing)
    };
    sleep(delay).await;
    let answer = {
        let mut state = shared.state.lock();
        match (refusing, serde_json::from_slice::<Value>(&body)) {
            (Some(status), _) => {
                state.refused += 1;
                answered(status, &json!({}))
            }
            (None, Ok(body)) => {
                let notification = body["notification"].clone();
                if let Err(fault) = check(&body) {
                    state.faults.push(format!("{fault}: {body}"));
                }
                let keys: Vec<Value> = notification["devices"]
                    .as_array()
                    .into_iter()
                    .flatten()
                    .map(|device| device["pushkey"].clone())
                    .filter(|key| key.as_str().is_some_and(|key| state.rejected.contains(key)))
                    .collect();
                state.taken.push(notification);
                answered(StatusCode::OK, &json!({ "rejected": keys }))
            }
            (None, Err(error)) => {
                state.faults.push(error.to_string());
                answered(StatusCode::BAD_REQUEST, &json!({}))
            }
        }
    };
    shared.arrived.notify_waiters();
    answer
}

fn answered(status: StatusCode, body: &Value) -> Response {
    (status, [("content-type", "application/json")], body.to_string()).into_response()
}

/// Compares a body with the specification: what must be there, and of which type everything is.
fn check(body: &Value) -> Result<(), String> {
    let fields = |value: &Value, what: &str| {
        value.as_object().cloned().ok_or_else(|| format!("{what} is no object"))
    };
    let outer = fields(body, "the body")?;
    if outer.len() != 1 {
        return Err("more than `notification`".to_owned());
    }
    let notification = fields(&body["notification"], "notification")?;
    for (name, value) in &notification {
        let fits = match name.as_str() {
            "event_id"
            | "room_id"
            | "type"
            | "sender"
            | "sender_display_name"
            | "room_name"
            | "room_alias" => value.is_string(),
            "user_is_target" => value.is_boolean(),
            "prio" => value == "high" || value == "low",
            "content" => value.is_object(),
            "counts" => value.as_object().is_some_and(|counts| {
                let known = |name: &String| name == "unread" || name == "missed_calls";
                counts.iter().all(|(name, count)| known(name) && count.is_u64())
            }),
            "devices" => value.as_array().is_some_and(|devices| !devices.is_empty()),
            _ => false,
        };
        if !fits {
            return Err(format!("{name} is not as it must be"));
        }
    }
    if notification.contains_key("event_id") != notification.contains_key("room_id") {
        return Err("an event without its room, or a room without an event".to_owned());
    }
    let devices = notification.get("devices").and_then(Value::as_array);
    for device in devices.ok_or("no devices")? {
        for (name, value) in &fields(device, "a device")? {
            let fits = match name.as_str() {
                "app_id" | "pushkey" => value.is_string(),
                "pushkey_ts" => value.is_u64(),
                "data" => value.is_object() && value.get("url").is_none(),
                "tweaks" => value.is_object(),
                _ => false,
            };
            if !fits {
                return Err(format!("a device's {name} is not as it must be"));
            }
        }
        if device.get("app_id").is_none() || device.get("pushkey").is_none() {
            return Err("a device without app_id or pushkey".to_owned());
        }
    }
    Ok(())
}
