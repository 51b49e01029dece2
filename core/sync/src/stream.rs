//! Sync for a connection that stays: responses pushed as they come, each acknowledged.
//!
//! The tokens are those of `/sync`. A stream that is opened with the token of the last response that
//! the client took in, on whichever transport, goes on without gap or repetition.

use std::collections::VecDeque;

use hearth_users::PresenceGuard;
use tokio::time::{Duration, Instant};

use crate::{SyncError, SyncResponse, SyncService, hub::Connection, pass::Question};

/// Responses that may be under way to the client at a time.
const WINDOW: usize = 4;
/// How long one wait lasts before it is begun anew.
const WAIT: Duration = Duration::from_hours(1);

/// A sequence of sync responses for one device; see the module.
#[derive(Debug)]
pub struct SyncStream {
    service: SyncService,
    question: Question,
    connection: Connection,
    _present: PresenceGuard,
    /// Tokens of responses that were handed out and not acknowledged, oldest first.
    pending: VecDeque<String>,
}

impl SyncStream {
    pub(crate) fn new(
        service: SyncService,
        question: Question,
        connection: Connection,
        present: PresenceGuard,
    ) -> Self {
        Self { service, question, connection, _present: present, pending: VecDeque::new() }
    }

    /// May another response be sent before the client acknowledges one?
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.pending.len() < WINDOW
    }

    /// The next response, when there is something to tell; the first one of a stream without a token
    /// comes at once. `None` when the server shuts down. While too many responses are not
    /// acknowledged this waits without end. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Result<Option<SyncResponse>, SyncError> {
        if !self.is_ready() {
            std::future::pending::<()>().await;
        }
        loop {
            // A copy: if the caller stops waiting, the stream still stands at the last response.
            let mut question = self.question.clone();
            let deadline = Instant::now() + WAIT;
            let response =
                self.service.wait_for_change(&self.connection, &mut question, deadline).await?;
            let first = self.question.since.is_none() || self.question.full_state;
            if !response.is_empty || first {
                self.question.since = Some(self.service.inner.read_token(&response.next_batch)?);
                self.question.full_state = false;
                self.pending.push_back(response.next_batch.clone());
                return Ok(Some(response));
            }
            if self.service.is_closing() {
                return Ok(None);
            }
        }
    }

    /// The client has taken in the response with this token, and all before it.
    /// [`SyncError::InvalidParam`] if no such response is under way.
    pub async fn acknowledge(&mut self, token: &str) -> Result<(), SyncError> {
        let Some(place) = self.pending.iter().position(|pending| pending == token) else {
            return Err(SyncError::InvalidParam("no such response to acknowledge".to_owned()));
        };
        self.pending.drain(..=place);
        let token = self.service.inner.read_token(token)?;
        let (user_id, device_id) = (&self.question.user_id, &self.question.device_id);
        self.service.acknowledged(user_id, device_id, &token).await;
        Ok(())
    }
}
