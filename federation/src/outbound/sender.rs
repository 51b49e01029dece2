//! The task of one destination: one transaction after the other, for as long as there is something.
//!
//! What becomes of a transaction that is not taken:
//! - The server cannot be reached, or something in front of it answers: its backoff decides.
//! - It has no time (429) or fails (5xx), does not know this server's key yet (401), shuts it out (403)
//!   or has no such endpoint (404, 405): the same is offered again later, with doubling pauses.
//! - It refuses the transaction as such (other 4xx, with an errcode: what has none is the word of
//!   something in front of it): an event in it may be at fault, so each is offered alone, and so is each
//!   message to devices and each user's changed devices; what is still refused is logged and given up, so
//!   that the rest gets through, but with growing pauses if one after the other is refused. The other
//!   EDUs are given up at once.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use hearth_rooms::RoomError;
use hearth_types::StreamPosition;
use http::StatusCode;
use ruma::{
    OwnedServerName, OwnedTransactionId, ServerName,
    api::federation::transactions::{
        edu::{Edu, PresenceUpdate},
        send_transaction_message::v1::Request,
    },
    serde::Raw,
};
use serde_json::value::RawValue;
use tokio::time::Instant;

use super::{
    Inner,
    edus::{TakenEdus, presence_update},
    is_lasting,
    lanes::{Batch, Item, Task},
};
use crate::{
    RemoteError,
    client::Fates,
    transport::{Limits, TransportError},
};

/// Bytes of the events in one transaction; one event is always sent.
const MAX_BYTES: usize = 2 << 20;
/// Bytes of the answer to a transaction: what becomes of its events, and for each some kilobytes of why.
const ANSWER_BYTES: usize = 256 * 1024;
/// Events that are given up in a row without a pause. If all are refused, it is not they that are at
/// fault.
const MAX_GIVEN_UP: u32 = 3;
/// The longest pause after answers that were errors.
const MAX_PAUSE: Duration = Duration::from_hours(1);
/// The pause after something failed here, and the shortest one at all.
const MIN_PAUSE: Duration = Duration::from_secs(1);

/// Names for transactions that are never used twice: the store's position at the start, which no two
/// runs share, and a number.
#[derive(Debug)]
pub(super) struct TransactionIds {
    run: StreamPosition,
    next: AtomicU64,
}

impl TransactionIds {
    pub(super) fn new(run: StreamPosition) -> Self {
        Self { run, next: AtomicU64::new(0) }
    }

    fn next(&self) -> OwnedTransactionId {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        format!("{}.{number}", self.run).into()
    }
}

/// What became of a transaction.
enum Outcome {
    Delivered,
    /// To be offered again after a pause.
    Later(Duration),
    /// Not to be offered again as it is.
    Refused(RemoteError),
    /// Nothing is sent there.
    NotAllowed,
}

/// Sees to it that a destination whose task fails is not left alone.
struct Turn<'a> {
    inner: &'a Inner,
    server: &'a ServerName,
    over: bool,
}

impl Turn<'_> {
    fn rest(mut self, pause: Duration) {
        self.over = true;
        self.inner.lanes.lock().rest(self.server, Instant::now() + pause.max(MIN_PAUSE));
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        if !self.over {
            self.inner.lanes.lock().rest(self.server, Instant::now() + MIN_PAUSE);
        }
    }
}

/// Sends until nothing waits or the destination has to rest.
pub(super) async fn run(inner: Arc<Inner>, server: OwnedServerName) {
    let mut turn = Turn { inner: &inner, server: &server, over: false };
    let mut checked = false;
    loop {
        let Ok(_place) = inner.places.acquire().await else { return };
        if let Some(wait_ms) = inner.destinations.due_in(&server) {
            return turn.rest(Duration::from_millis(wait_ms));
        }
        let task = inner.lanes.lock().next(&server, Instant::now());
        let step = match task {
            None => {
                turn.over = true;
                return;
            }
            Some(Task::Read(after, absence)) => {
                inner.read_on(&server, after, absence, &mut checked).await.map(|()| None)
            }
            Some(Task::Send(batch)) => inner.deliver(&server, batch).await,
        };
        match step {
            Ok(None) => {}
            Ok(Some(pause)) => return turn.rest(pause),
            Err(error) => {
                tracing::error!(%error, %server, "what is to be sent could not be read");
                return turn.rest(MIN_PAUSE);
            }
        }
    }
}

impl Inner {
    /// Sends what was taken; the pause to make, if any.
    async fn deliver(
        &self,
        server: &ServerName,
        mut batch: Batch,
    ) -> Result<Option<Duration>, RoomError> {
        let (pdus, count) = self.pdus(&batch.items).await?;
        let rest = batch.items.split_off(count);
        self.lanes.lock().give_back(server, rest);
        let mut edus = self.list_edus(&batch.edus.lists).await?;
        edus.extend(self.message_edus(server, &mut batch).await?);
        edus.extend(batch.edus.build(self.presence(&batch.edus).await));
        let outcome = if pdus.is_empty() && edus.is_empty() {
            Outcome::Delivered
        } else {
            let id = batch.offered_as.get_or_insert_with(|| self.transaction_ids.next()).clone();
            self.post(server, id, pdus, edus).await
        };
        match &outcome {
            Outcome::Delivered => self.messages_done(server, &batch.messages).await?,
            Outcome::Refused(_) if !batch.may_be_divided() => {
                self.messages_done(server, &batch.messages).await?;
            }
            Outcome::NotAllowed => self.discard_messages(server).await?,
            Outcome::Refused(_) | Outcome::Later(_) => {}
        }
        let mut lanes = self.lanes.lock();
        match outcome {
            Outcome::Delivered => lanes.delivered(server),
            Outcome::Later(pause) => {
                lanes.offer_again(server, batch);
                return Ok(Some(pause));
            }
            Outcome::Refused(error) if batch.may_be_divided() => {
                tracing::warn!(%error, %server, "a transaction was refused: its parts go singly");
                lanes.offer_singly(server, batch);
            }
            Outcome::Refused(error) => {
                tracing::warn!(%error, %server, ?batch, "what was refused alone is given up");
                let before = lanes.given_up(server, error.to_string());
                let pause = before.checked_sub(MAX_GIVEN_UP);
                return Ok(pause.map(|n| pause_after(&error, n, self.config.backoff_min_s)));
            }
            Outcome::NotAllowed => lanes.drop_all(server),
        }
        Ok(None)
    }

    /// The bytes of the first events, as many as fit, and how many of the items they are.
    async fn pdus(&self, items: &[Item]) -> Result<(Vec<Box<RawValue>>, usize), RoomError> {
        let (mut pdus, mut bytes) = (Vec::with_capacity(items.len()), 0);
        for (number, item) in items.iter().enumerate() {
            let event = match self.rooms.event(&item.room_id, item.ordinal).await {
                Ok(event) => event,
                Err(error) if is_lasting(&error) => {
                    tracing::error!(%error, room_id = %item.room_id, "an event is not sent");
                    continue;
                }
                Err(error) => return Err(error),
            };
            let json = event.pdu.json();
            if number > 0 && bytes + json.len() > MAX_BYTES {
                return Ok((pdus, number));
            }
            bytes += json.len();
            match serde_json::from_slice(json) {
                Ok(pdu) => pdus.push(pdu),
                Err(error) => tracing::error!(%error, room_id = %item.room_id, "is not JSON"),
            }
        }
        Ok((pdus, items.len()))
    }

    /// The presence that is to be told, as it stands now.
    async fn presence(&self, edus: &TakenEdus) -> Vec<PresenceUpdate> {
        let mut updates = Vec::with_capacity(edus.presence.len());
        for user_id in &edus.presence {
            match self.users.presence(user_id).await {
                Ok(presence) => {
                    let now_ms = self.clock.now_ms();
                    updates.push(presence_update(user_id.clone(), presence, now_ms));
                }
                Err(error) => tracing::warn!(%error, %user_id, "a presence is not told"),
            }
        }
        updates
    }

    async fn post(
        &self,
        server: &ServerName,
        id: OwnedTransactionId,
        pdus: Vec<Box<RawValue>>,
        edus: Vec<Raw<Edu>>,
    ) -> Outcome {
        let origin = self.identity.server_name().to_owned();
        let mut request = Request::new(id, origin, self.clock.now());
        request.pdus = pdus;
        request.edus = edus;
        let limits = Limits { max_bytes: ANSWER_BYTES, ..self.client.limits() };
        match self.client.offer(server, request, limits).await {
            Ok(fates) => {
                log_fates(server, &fates);
                Outcome::Delivered
            }
            Err(error) => self.outcome(server, error),
        }
    }

    fn outcome(&self, server: &ServerName, error: RemoteError) -> Outcome {
        match &error {
            RemoteError::NotAllowed(_) => return Outcome::NotAllowed,
            RemoteError::BackingOff { retry_in_ms, .. } => {
                return Outcome::Later(Duration::from_millis(*retry_in_ms));
            }
            // It was reached, so there is no backoff.
            RemoteError::Transport(TransportError::TooLarge(_)) => {}
            RemoteError::Transport(_) => {
                let wait_ms = self.destinations.due_in(server).unwrap_or(0);
                return Outcome::Later(Duration::from_millis(wait_ms));
            }
            RemoteError::Matrix { status, errcode, .. } if is_final(*status, errcode) => {
                return Outcome::Refused(error);
            }
            RemoteError::Matrix { .. } | RemoteError::BadAnswer { .. } => {}
        }
        let before = self.lanes.lock().refused(server, error.to_string());
        let pause = pause_after(&error, before, self.config.backoff_min_s);
        tracing::info!(%error, %server, ?pause, "a transaction was not taken");
        Outcome::Later(pause)
    }
}

/// Does this answer to a transaction say that the same will never be taken?
fn is_final(status: StatusCode, errcode: &str) -> bool {
    if status == StatusCode::PAYLOAD_TOO_LARGE {
        return true;
    }
    status.is_client_error()
        && !errcode.is_empty()
        && !matches!(
            status,
            StatusCode::UNAUTHORIZED
                | StatusCode::FORBIDDEN
                | StatusCode::NOT_FOUND
                | StatusCode::METHOD_NOT_ALLOWED
                | StatusCode::REQUEST_TIMEOUT
                | StatusCode::TOO_MANY_REQUESTS
        )
}

/// As long as the server asks for, or doubling.
fn pause_after(error: &RemoteError, before: u32, first_s: u64) -> Duration {
    let asked = match error {
        RemoteError::Matrix { retry_after, .. } => *retry_after,
        _ => None,
    };
    let doubling = Duration::from_secs(first_s).saturating_mul(1 << before.min(20));
    asked.unwrap_or(doubling).min(MAX_PAUSE)
}

/// What the other server says about each event concerns its own view of the room alone.
fn log_fates(server: &ServerName, fates: &Fates) {
    for (event_id, fate) in &fates.pdus {
        if let Some(reason) = &fate.error {
            tracing::debug!(%server, %event_id, reason, "another server refused an event");
        }
    }
}
