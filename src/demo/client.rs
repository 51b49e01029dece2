//! A Matrix client, as small as it can be.

use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::{
    client::legacy::{Client as HttpClient, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde_json::{Value, json};
use tokio::time::timeout;

/// The largest answer that is read.
const MAX_BYTES: usize = 4 << 20;
/// How long one answer may take.
const ANSWER_TIMEOUT: Duration = Duration::from_mins(1);
/// How long one sync waits, in milliseconds.
const SYNC_TIMEOUT_MS: u64 = 10_000;
/// How long the user waits for something to happen.
const PATIENCE: Duration = Duration::from_mins(1);

/// Why something did not come about.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClientError {
    /// No whole answer came.
    #[error("{what}: {reason}")]
    NoAnswer {
        /// What was asked for.
        what: String,
        /// Why.
        reason: String,
    },
    /// The answer is an error, or lacks something.
    #[error("{what} was answered with {answer}")]
    BadAnswer {
        /// What was asked for.
        what: String,
        /// The status and the body.
        answer: String,
    },
    /// It did not happen in time.
    #[error("{who} waited in vain {what}")]
    InVain {
        /// Who waited.
        who: String,
        /// What for.
        what: String,
    },
}

/// A user, logged in.
pub(super) struct Person {
    http: HttpClient<HttpConnector, Full<Bytes>>,
    base_url: String,
    token: String,
    /// The user's ID.
    pub(super) user_id: String,
    /// Where the next sync goes on.
    since: Option<String>,
    /// Transactions so far.
    transactions: u32,
}

impl Person {
    /// Makes an account.
    pub(super) async fn register(base_url: String, name: &str) -> Result<Self, ClientError> {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        let http = HttpClient::builder(TokioExecutor::new()).build(connector);
        let (token, user_id) = (String::new(), String::new());
        let mut user = Self { http, base_url, token, user_id, since: None, transactions: 0 };
        let path = "/_matrix/client/v3/register";
        let account = json!({
            "username": name,
            "password": format!("the password of {name}"),
            "auth": { "type": "m.login.dummy" },
        });
        let answer = user.ask(Method::POST, path, Some(account)).await?;
        user.token = text(&answer, "access_token", path)?;
        user.user_id = text(&answer, "user_id", path)?;
        Ok(user)
    }

    /// The name before the colon.
    pub(super) fn name(&self) -> &str {
        self.user_id.trim_start_matches('@').split(':').next().unwrap_or_default()
    }

    /// Makes a room with this name and invites somebody; its ID.
    pub(super) async fn create_room(&self, name: &str, guest: &str) -> Result<String, ClientError> {
        let path = "/_matrix/client/v3/createRoom";
        let room = json!({ "preset": "private_chat", "name": name, "invite": [guest] });
        let answer = self.ask(Method::POST, path, Some(room)).await?;
        text(&answer, "room_id", path)
    }

    /// Joins a room.
    pub(super) async fn join(&self, room_id: &str) -> Result<(), ClientError> {
        let path = format!("/_matrix/client/v3/rooms/{room_id}/join");
        self.ask(Method::POST, &path, Some(json!({}))).await.map(drop)
    }

    /// Sends an event; its ID.
    pub(super) async fn send(
        &mut self,
        room_id: &str,
        event_type: &str,
        content: Value,
    ) -> Result<String, ClientError> {
        let path = format!("send/{event_type}/{}", self.transaction());
        self.put(room_id, &path, content).await
    }

    /// Takes an event back; the ID of the event that does so.
    pub(super) async fn redact(
        &mut self,
        room_id: &str,
        event_id: &str,
    ) -> Result<String, ClientError> {
        let path = format!("redact/{event_id}/{}", self.transaction());
        self.put(room_id, &path, json!({})).await
    }

    /// The IDs of the events that are the room's state, in order.
    pub(super) async fn state(&self, room_id: &str) -> Result<Vec<String>, ClientError> {
        let path = format!("/_matrix/client/v3/rooms/{room_id}/state");
        let answer = self.ask(Method::GET, &path, None).await?;
        let mut ids = Vec::new();
        for event in answer.as_array().into_iter().flatten() {
            ids.push(text(event, "event_id", &path)?);
        }
        ids.sort_unstable();
        Ok(ids)
    }

    /// An event as the user sees it.
    pub(super) async fn event(&self, room_id: &str, id: &str) -> Result<Value, ClientError> {
        let path = format!("/_matrix/client/v3/rooms/{room_id}/event/{id}");
        self.ask(Method::GET, &path, None).await
    }

    /// Syncs until a response has what `find` looks for.
    pub(super) async fn wait_for<T>(
        &mut self,
        what: &str,
        find: impl Fn(&Value) -> Option<T>,
    ) -> Result<T, ClientError> {
        let waiting = async {
            loop {
                let response = self.sync().await?;
                if let Some(found) = find(&response) {
                    return Ok(found);
                }
            }
        };
        let found = timeout(PATIENCE, waiting).await;
        let in_vain = || ClientError::InVain { who: self.user_id.clone(), what: what.to_owned() };
        found.unwrap_or_else(|_| Err(in_vain()))
    }

    async fn sync(&mut self) -> Result<Value, ClientError> {
        let mut path = format!("/_matrix/client/v3/sync?timeout={SYNC_TIMEOUT_MS}");
        if let Some(since) = &self.since {
            path = format!("{path}&since={since}");
        }
        let response = self.ask(Method::GET, &path, None).await?;
        self.since = Some(text(&response, "next_batch", &path)?);
        Ok(response)
    }

    async fn put(&self, room_id: &str, rest: &str, body: Value) -> Result<String, ClientError> {
        let path = format!("/_matrix/client/v3/rooms/{room_id}/{rest}");
        let answer = self.ask(Method::PUT, &path, Some(body)).await?;
        text(&answer, "event_id", &path)
    }

    fn transaction(&mut self) -> u32 {
        self.transactions += 1;
        self.transactions
    }

    /// One request. IDs need no encoding: what they are made of may stand in paths.
    async fn ask(
        &self,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> Result<Value, ClientError> {
        let what = format!("{method} {path}");
        let no_answer = |reason: String| ClientError::NoAnswer { what: what.clone(), reason };
        let body = body.map_or_else(Bytes::new, |body| Bytes::from(body.to_string()));
        let request = Request::builder()
            .method(method.clone())
            .uri(format!("{}{path}", self.base_url))
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::AUTHORIZATION, format!("Bearer {}", self.token))
            .body(Full::new(body))
            .map_err(|error| no_answer(error.to_string()))?;
        let exchange = async {
            let response = self.http.request(request).await.map_err(|error| error.to_string())?;
            let (head, body) = response.into_parts();
            let body = Limited::new(body, MAX_BYTES).collect().await;
            Ok((head.status, body.map_err(|error| error.to_string())?.to_bytes()))
        };
        let answered = timeout(ANSWER_TIMEOUT, exchange).await;
        let answered = answered.unwrap_or_else(|_| Err("no answer in time".to_owned()));
        let (status, body) = answered.map_err(&no_answer)?;
        match serde_json::from_slice(&body) {
            Ok(answer) if status.is_success() => Ok(answer),
            _ => {
                let answer = format!("{status} {}", String::from_utf8_lossy(&body));
                Err(ClientError::BadAnswer { what, answer })
            }
        }
    }
}

/// A text that an answer must have.
fn text(answer: &Value, field: &str, what: &str) -> Result<String, ClientError> {
    let found = answer.get(field).and_then(Value::as_str).map(ToOwned::to_owned);
    found.ok_or_else(|| ClientError::BadAnswer {
        what: what.to_owned(),
        answer: format!("no {field}: {answer}"),
    })
}
