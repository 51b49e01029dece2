//! The clock: sends what is due, and sleeps until the next is.

use std::{ops::Bound, sync::Arc, time::Duration};

use hearth_storage::Direction;
use ruma::{OwnedUserId, UserId};
use tokio::time::{sleep, timeout};

use crate::{
    DelayedError, Fate,
    schema::{DUE, Ending, Found, OwnerRow},
    service::{Inner, PAGE},
};

/// The longest sleep: the wall clock may be set meanwhile.
const MAX_SLEEP: Duration = Duration::from_mins(1);
/// How long to wait after the rows could not be read.
const AFTER_FAILURE: Duration = Duration::from_secs(1);
/// How often an event is tried whose room is busy, or that met a fault of the server's.
const MAX_ATTEMPTS: u8 = 6;
/// How long to wait after the first time, in milliseconds; doubled with each further one.
const RETRY_MS: u64 = 1_000;
/// How often finalised events are looked through for old ones.
const SWEEP_EVERY: Duration = Duration::from_hours(1);

/// Sends what is due for as long as the server runs.
pub(crate) async fn follow(inner: Arc<Inner>) {
    loop {
        let wait = match inner.send_due().await {
            Ok(wait) => wait,
            Err(error) => {
                tracing::error!(%error, "delayed events could not be read: none is sent");
                AFTER_FAILURE
            }
        };
        // Woken or not, it looks again.
        timeout(wait, inner.changed.notified()).await.ok();
    }
}

/// Forgets old events for as long as the server runs.
pub(crate) async fn sweep_regularly(inner: Arc<Inner>) {
    loop {
        match inner.sweep().await {
            Ok(swept) => tracing::debug!(swept, "old delayed events were forgotten"),
            Err(error) => tracing::warn!(%error, "old delayed events could not be forgotten"),
        }
        sleep(SWEEP_EVERY).await;
    }
}

impl Inner {
    /// Begins to send what is due; how long until the next is.
    async fn send_due(self: &Arc<Self>) -> Result<Duration, DelayedError> {
        let now_ms = self.now_ms();
        let mut from = Bound::Unbounded;
        loop {
            let range = (from, Bound::Unbounded);
            let page = self.store().page(&DUE, &(), range, Direction::Forward, PAGE).await?;
            let Some((last, _)) = page.last() else { return Ok(MAX_SLEEP) };
            from = Bound::Excluded(last.clone());
            for ((due_ms, _), OwnerRow(user_id)) in page {
                if due_ms > now_ms {
                    return Ok(Duration::from_millis(due_ms - now_ms).min(MAX_SLEEP));
                }
                if !self.begin(user_id) {
                    // Whoever gives a place back wakes this.
                    return Ok(MAX_SLEEP);
                }
            }
        }
    }

    /// Sends what is due of a user in a task of its own, unless one does; whether there was a place for it.
    fn begin(self: &Arc<Self>, user_id: OwnedUserId) -> bool {
        if self.sending.lock().contains(&user_id) {
            return true;
        }
        let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else { return false };
        self.sending.lock().insert(user_id.clone());
        let inner = Arc::clone(self);
        self.tasks.spawn(async move {
            let sent = inner.send_due_of(&user_id).await;
            if let Err(error) = &sent {
                tracing::error!(%error, "a user's delayed events could not be dealt with");
                sleep(AFTER_FAILURE).await;
            }
            drop(place);
            inner.sending.lock().remove(&user_id);
            inner.changed.notify_one();
        });
        true
    }

    /// Sends what is due of a user, one after the other in the order in which it fell due. So the earliest have what
    /// is left of the rate limit, and nobody takes more than one place.
    async fn send_due_of(&self, user_id: &UserId) -> Result<(), DelayedError> {
        let now_ms = self.now_ms();
        let mut due = self.of_user(user_id).await?;
        due.retain(|found| found.row.finalised.is_none() && found.row.due_ms <= now_ms);
        due.sort_by_cached_key(Found::due_key);
        for found in due {
            if self.stop.is_cancelled() {
                break;
            }
            self.send_scheduled(&found.delay_id).await?;
        }
        Ok(())
    }

    async fn send_scheduled(&self, delay_id: &str) -> Result<(), DelayedError> {
        let _turn = self.turns.lock(delay_id).await;
        let Some(found) = self.find(delay_id).await? else { return Ok(()) };
        // It may have been restarted, cancelled or sent since the clock saw it.
        if found.row.finalised.is_some() || found.row.due_ms > self.now_ms() {
            return Ok(());
        }
        match self.send(&found).await {
            Ok(event_id) => self.finalise(found, false, Ending::Sent(event_id)).await,
            Err(refusal) if refusal.fate == Fate::Orphaned => self.remove(&found).await,
            Err(refusal)
                if refusal.fate == Fate::Later && found.row.attempts + 1 < MAX_ATTEMPTS =>
            {
                self.try_later(found).await
            }
            Err(refusal) => {
                let ending = Ending::Refused { errcode: refusal.errcode, message: refusal.message };
                self.finalise(found, false, ending).await
            }
        }
    }

    async fn try_later(&self, found: Found) -> Result<(), DelayedError> {
        let now_ms = self.now_ms();
        self.postpone(found, |row| {
            row.due_ms = now_ms.saturating_add(RETRY_MS << row.attempts.min(MAX_ATTEMPTS));
            row.attempts += 1;
        })
        .await
    }
}
