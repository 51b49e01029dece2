//! Leaving an event with the server.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use hearth_rooms::DELAY_ID_PREFIX;
use hearth_storage::Commit;
use hearth_types::limits::MAX_ID_BYTES;
use rand::{TryRng as _, rngs::SysRng};
use ruma::{OwnedTransactionId, OwnedUserId};
use sha2::{Digest as _, Sha256};

use crate::{
    Delayed, DelayedError,
    schema::{CONTENTS, DUE, DelayedRow, EVENTS, Found, IdRow, OWNERS, OwnerRow, REQUESTS},
    sender::Unsent,
    service::Inner,
};

/// The largest content in bytes: that of an event (CS "Size limits").
const MAX_CONTENT_BYTES: usize = 65_536;

/// An event to be sent later.
#[derive(Clone, Debug)]
pub struct NewDelayed {
    /// What is to be sent.
    pub event: Unsent,
    /// How long to wait, in milliseconds; at least 1.
    pub delay_ms: u64,
    /// The request's transaction ID, if it has one: repeated, it gets the same event.
    pub transaction_id: Option<OwnedTransactionId>,
}

impl Delayed {
    /// Keeps an event until it is due; its ID, durable. Whether the user may send it is asked then.
    ///
    /// # Errors
    ///
    /// [`DelayedError::InvalidParam`], [`DelayedError::TooLarge`],
    /// [`DelayedError::DelayTooLong`] and [`DelayedError::TooMany`].
    pub async fn schedule(&self, new: NewDelayed) -> Result<String, DelayedError> {
        let config = self.config();
        if new.delay_ms == 0 {
            return Err(DelayedError::InvalidParam("the delay must be positive"));
        }
        let max_ms = config.max_delay_ms();
        if new.delay_ms > max_ms {
            return Err(DelayedError::DelayTooLong { max_ms });
        }
        let event = &new.event;
        let state_key = event.state_key.as_deref().unwrap_or_default();
        let is_too_long = |text: &str| text.len() > MAX_ID_BYTES;
        if is_too_long(&event.event_type)
            || is_too_long(state_key)
            || event.content.get().len() > MAX_CONTENT_BYTES
        {
            return Err(DelayedError::TooLarge);
        }
        let this = self.clone();
        self.inner.detached(async move { this.inner.schedule(new).await }).await
    }
}

impl Inner {
    async fn schedule(&self, new: NewDelayed) -> Result<String, DelayedError> {
        let request = request_hash(&new);
        let event = new.event;
        let _turn = self.users.lock(event.user_id.as_str()).await;
        if let Some(request) = &request
            && let Some(IdRow(delay_id)) =
                self.store().get(&REQUESTS, &event.user_id, request).await?
        {
            return Ok(delay_id);
        }
        let now_ms = self.now_ms();
        self.must_have_room(&event.user_id, now_ms).await?;
        let due_ms = now_ms.saturating_add(new.delay_ms);
        let row = DelayedRow {
            device_id: event.device_id,
            room_id: event.room_id,
            event_type: event.event_type,
            state_key: event.state_key,
            delay_ms: new.delay_ms,
            since_ms: now_ms,
            due_ms,
            attempts: 0,
            request,
            finalised: None,
        };
        let found = Found { user_id: event.user_id, delay_id: new_delay_id()?, row };
        let Found { user_id, delay_id, row } = &found;
        let mut commit = Commit::new(user_id);
        commit.put(&EVENTS, user_id, delay_id, row);
        let content = Bytes::from(Box::<str>::from(event.content).into_string());
        commit.put(&CONTENTS, user_id, delay_id, &content);
        if let Some(request) = &row.request {
            commit.put(&REQUESTS, user_id, request, &IdRow(delay_id.clone()));
        }
        let owner = OwnerRow(user_id.clone());
        commit.effect_put(&OWNERS, delay_id, &(), &owner);
        commit.effect_put(&DUE, &(), &found.due_key(), &owner);
        self.store().commit(commit).await?;
        self.changed.notify_one();
        Ok(found.delay_id)
    }

    /// Refuses a user who has as many scheduled events as one may have.
    async fn must_have_room(&self, user_id: &OwnedUserId, now_ms: u64) -> Result<(), DelayedError> {
        let mut all = self.of_user(user_id).await?;
        all.retain(|found| found.row.finalised.is_none());
        if all.len() < self.parts.config.max_scheduled {
            return Ok(());
        }
        let next_ms = all.iter().map(|found| found.row.due_ms).min().unwrap_or(now_ms);
        Err(DelayedError::TooMany { next_in_ms: next_ms.saturating_sub(now_ms) })
    }
}

/// What a repeated request has in common with the first. The parts cannot run into each other.
fn request_hash(new: &NewDelayed) -> Option<[u8; 32]> {
    let transaction_id = new.transaction_id.as_ref()?;
    let Unsent { device_id, room_id, event_type, .. } = &new.event;
    let parts = [device_id.as_str(), room_id.as_str(), event_type, transaction_id.as_str()];
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part.len().to_be_bytes());
        hash.update(part.as_bytes());
    }
    Some(hash.finalize().into())
}

/// An ID that nobody can guess: who knows it may manage the event.
fn new_delay_id() -> Result<String, DelayedError> {
    let mut bytes = [0; 32];
    SysRng
        .try_fill_bytes(&mut bytes)
        .map_err(|error| DelayedError::Internal(format!("no randomness: {error}")))?;
    Ok(format!("{DELAY_ID_PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes)))
}
