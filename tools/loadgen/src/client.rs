//! A virtual Matrix client: the handful of calls that the scenarios make.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::HeaderValue;
use http::{Method, StatusCode};
use serde::Deserialize;
use serde_json::json;

use crate::connection::{Connection, RequestError, Target};
use crate::paths::{self, Room};
use crate::scan;

/// Most attempts of a call that prepares a scenario and meets a rate limit.
const MAX_ATTEMPTS: u32 = 20;
/// Longest wait between two attempts, whatever the server asks for.
const MAX_RETRY_WAIT: Duration = Duration::from_secs(5);

/// A registered user and its access token.
#[derive(Debug)]
pub(crate) struct Account {
    authorization: HeaderValue,
}

impl Account {
    /// The account whose access token is `token`.
    pub(crate) fn new(token: &str) -> Result<Self, RequestError> {
        let mut authorization = HeaderValue::from_str(&format!("Bearer {token}"))
            .map_err(|_| RequestError::Missing("access_token"))?;
        authorization.set_sensitive(true);
        Ok(Self { authorization })
    }

    /// The `Authorization` header of the account's requests.
    pub(crate) fn authorization(&self) -> &HeaderValue {
        &self.authorization
    }
}

/// What the scenarios need of a `/sync` response.
pub(crate) struct Synced {
    /// The next `since`.
    pub(crate) next_batch: String,
    /// The whole response.
    pub(crate) body: Bytes,
}

/// One connection and the calls on it. Each call names the account that it is made for.
pub(crate) struct Client {
    connection: Connection,
}

impl Client {
    /// A client of `target`; it connects with its first call.
    pub(crate) fn new(target: &Arc<Target>) -> Self {
        Self { connection: Connection::new(Arc::clone(target)) }
    }

    /// Creates a room that anybody may join.
    pub(crate) async fn create_room(
        &mut self,
        account: &Account,
        name: &str,
    ) -> Result<Room, RequestError> {
        let body = Bytes::from(json!({"preset": "public_chat", "name": name}).to_string());
        let answer =
            self.patient(Method::POST, paths::CREATE_ROOM, Some(account), Some(body)).await?;
        scan::string_field(&answer, "room_id")
            .map(Room::new)
            .ok_or(RequestError::Missing("room_id"))
    }

    /// Joins `room`.
    pub(crate) async fn join(
        &mut self,
        account: &Account,
        room: &Room,
    ) -> Result<(), RequestError> {
        let body = Bytes::from_static(b"{}");
        self.patient(Method::POST, &room.join(), Some(account), Some(body)).await.map(drop)
    }

    /// Joins `room` by way of another server.
    pub(crate) async fn join_via(
        &mut self,
        account: &Account,
        room: &Room,
        server: &str,
    ) -> Result<(), RequestError> {
        let body = Bytes::from_static(b"{}");
        self.patient(Method::POST, &room.join_via(server), Some(account), Some(body))
            .await
            .map(drop)
    }

    /// Sends a message whose content is `content`. Returns the answer, which holds the `event_id`.
    pub(crate) async fn send(
        &mut self,
        account: &Account,
        room: &Room,
        transaction_id: &str,
        content: Bytes,
    ) -> Result<Bytes, RequestError> {
        let target = room.send(transaction_id);
        self.connection
            .request(Method::PUT, &target, Some(account.authorization()), Some(content))
            .await
    }

    /// Syncs once.
    pub(crate) async fn sync(
        &mut self,
        account: &Account,
        since: Option<&str>,
        timeout_ms: u32,
        filter: Option<&str>,
    ) -> Result<Synced, RequestError> {
        let target = paths::sync(since, timeout_ms, filter);
        let body = self
            .connection
            .request(Method::GET, &target, Some(account.authorization()), None)
            .await?;
        let next_batch =
            scan::string_field(&body, "next_batch").ok_or(RequestError::Missing("next_batch"))?;
        Ok(Synced { next_batch: next_batch.to_owned(), body })
    }

    /// Reads one page of history backwards. Returns the body and, unless the start was reached, the next token.
    pub(crate) async fn messages(
        &mut self,
        account: &Account,
        room: &Room,
        from: Option<&str>,
        limit: u32,
    ) -> Result<(Bytes, Option<String>), RequestError> {
        let target = room.messages(from, limit);
        let body = self
            .connection
            .request(Method::GET, &target, Some(account.authorization()), None)
            .await?;
        let end = scan::string_field(&body, "end").map(str::to_owned);
        Ok((body, end))
    }

    /// Sends a public read receipt.
    pub(crate) async fn receipt(
        &mut self,
        account: &Account,
        room: &Room,
        event_id: &str,
    ) -> Result<(), RequestError> {
        let body = Some(Bytes::from_static(b"{}"));
        let target = room.receipt(event_id);
        self.connection
            .request(Method::POST, &target, Some(account.authorization()), body)
            .await
            .map(drop)
    }

    /// Makes one request.
    pub(crate) async fn call(
        &mut self,
        method: Method,
        target: &str,
        account: &Account,
        body: Bytes,
    ) -> Result<Bytes, RequestError> {
        self.connection.request(method, target, Some(account.authorization()), Some(body)).await
    }

    /// A request that waits out rate limits, for preparing a scenario. Never used for what is measured.
    pub(crate) async fn patient(
        &mut self,
        method: Method,
        target: &str,
        account: Option<&Account>,
        body: Option<Bytes>,
    ) -> Result<Bytes, RequestError> {
        let mut attempt = 1;
        loop {
            let authorization = account.map(Account::authorization);
            match self.connection.request(method.clone(), target, authorization, body.clone()).await
            {
                Err(RequestError::Status {
                    status: StatusCode::TOO_MANY_REQUESTS, body, ..
                }) if attempt < MAX_ATTEMPTS => {
                    tokio::time::sleep(retry_after(&body)).await;
                    attempt += 1;
                }
                result => return result,
            }
        }
    }
}

/// How long a rate-limited answer asks to wait.
fn retry_after(body: &[u8]) -> Duration {
    #[derive(Deserialize)]
    struct Limited {
        retry_after_ms: Option<u64>,
    }
    let asked =
        serde_json::from_slice::<Limited>(body).ok().and_then(|limited| limited.retry_after_ms);
    Duration::from_millis(asked.unwrap_or(500)).clamp(Duration::from_millis(10), MAX_RETRY_WAIT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_as_long_as_asked_within_bounds() {
        assert_eq!(retry_after(br#"{"retry_after_ms":250}"#), Duration::from_millis(250));
        assert_eq!(retry_after(br#"{"retry_after_ms":9999999}"#), MAX_RETRY_WAIT);
        assert_eq!(retry_after(b"busy"), Duration::from_millis(500));
    }
}
