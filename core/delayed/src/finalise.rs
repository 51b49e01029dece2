//! What becomes of an event in the end, and for how long it is remembered.

use std::{ops::ControlFlow, time::Duration};

use hearth_storage::Commit;
use ruma::{OwnedEventId, UserId};
use serde_json::value::RawValue;

use crate::{
    DelayedError, Due, Fate, Refusal, Unsent,
    schema::{CONTENTS, DUE, EVENTS, Ending, FinalisedRow, Found},
    service::Inner,
};

/// Finalised events of a user that are remembered at least; of more, the oldest are forgotten.
pub(crate) const MIN_FINALISED: usize = 100;
/// How long they are remembered, as MSC4140 recommends. Shorter than a room remembers transactions would do,
/// too: what is finalised is not sent any more.
const KEPT: Duration = Duration::from_hours(7 * 24);
/// Events that one sweep forgets at most; the rest is for the next.
const MAX_SWEPT: usize = 10_000;
/// Events that one commit forgets: five rows each.
const FORGOTTEN_PER_COMMIT: usize = 100;

impl Inner {
    /// Has an event sent, in its turn: found in its room, or else charged to its user and sent.
    ///
    /// What this process, or the one before it, has sent is neither refused nor charged for once more; nor is an
    /// event charged for again because its room was busy.
    pub(crate) async fn send(&self, found: &Found) -> Result<OwnedEventId, Refusal> {
        let sender = self.sender.read().clone();
        let sender = sender.ok_or_else(|| fault("the server is stopping"))?;
        let content = self.content(found).await.map_err(|error| {
            tracing::error!(%error, "the content of a delayed event could not be read");
            fault("Internal server error")
        })?;
        let row = &found.row;
        let event = Unsent {
            user_id: found.user_id.clone(),
            device_id: row.device_id.clone(),
            room_id: row.room_id.clone(),
            event_type: row.event_type.clone(),
            state_key: row.state_key.clone(),
            content,
        };
        let due = Due { delay_id: found.delay_id.clone(), event };
        if let Some(event_id) = sender.sent(&due).await? {
            return Ok(event_id);
        }
        sender.check_account(&found.user_id).await?;
        if row.attempts == 0 {
            sender.charge(&found.user_id)?;
        }
        sender.send(due).await
    }

    /// The content of an event.
    pub(crate) async fn content(&self, found: &Found) -> Result<Box<RawValue>, DelayedError> {
        let content = self.store().get(&CONTENTS, &found.user_id, &found.delay_id).await?;
        let content = content.ok_or_else(|| DelayedError::Internal("no content".to_owned()))?;
        serde_json::from_slice(&content).map_err(|error| DelayedError::Internal(error.to_string()))
    }

    /// Writes down how an event ended, in its turn, and forgets the oldest of the user's that did.
    pub(crate) async fn finalise(
        &self,
        mut found: Found,
        by_action: bool,
        ending: Ending,
    ) -> Result<(), DelayedError> {
        let _turn = self.users.lock(found.user_id.as_str()).await;
        let at_ms = self.now_ms();
        found.row.finalised = Some(FinalisedRow { at_ms, by_action, ending });
        let mut commit = Commit::new(&found.user_id);
        commit.put(&EVENTS, &found.user_id, &found.delay_id, &found.row);
        commit.effect_delete(&DUE, &(), &found.due_key());
        for old in self.superfluous(&found.user_id).await? {
            old.add_removal(&mut commit);
        }
        self.store().commit(commit).await?;
        self.changed.notify_one();
        Ok(())
    }

    /// Finalised events of a user that are remembered. If all that one may have scheduled end at once, each is told.
    fn max_finalised(&self) -> usize {
        self.parts.config.max_scheduled.max(MIN_FINALISED)
    }

    /// The oldest finalised events of a user, so many that there is room for one more.
    async fn superfluous(&self, user_id: &UserId) -> Result<Vec<Found>, DelayedError> {
        let mut ended = self.of_user(user_id).await?;
        ended.retain(|found| found.row.finalised.is_some());
        ended.sort_by_key(|found| found.row.finalised.as_ref().map(|ended| ended.at_ms));
        let surplus = (ended.len() + 1).saturating_sub(self.max_finalised());
        ended.truncate(surplus.min(FORGOTTEN_PER_COMMIT));
        Ok(ended)
    }

    /// Forgets an event as if it had never been.
    pub(crate) async fn remove(&self, found: &Found) -> Result<(), DelayedError> {
        let _turn = self.users.lock(found.user_id.as_str()).await;
        let mut commit = Commit::new(&found.user_id);
        found.add_removal(&mut commit);
        self.store().commit(commit).await?;
        Ok(())
    }

    /// Forgets what was finalised long ago.
    pub(crate) async fn sweep(&self) -> Result<usize, DelayedError> {
        let kept_ms = u64::try_from(KEPT.as_millis()).unwrap_or(u64::MAX);
        let limit_ms = self.now_ms().saturating_sub(kept_ms);
        let found = self.store().bulk(move |view| {
            let mut old = Vec::new();
            view.for_each(&EVENTS, |user_id, delay_id, row| {
                if row.finalised.as_ref().is_some_and(|ended| ended.at_ms < limit_ms) {
                    old.push(Found { user_id, delay_id, row });
                }
                if old.len() < MAX_SWEPT {
                    ControlFlow::Continue(())
                } else {
                    ControlFlow::Break(())
                }
            })?;
            Ok(old)
        });
        let found = found.await?;
        for old in &found {
            self.remove(old).await?;
        }
        Ok(found.len())
    }
}

/// The server's fault, which may pass.
fn fault(message: &str) -> Refusal {
    Refusal {
        status: 500,
        errcode: "M_UNKNOWN".to_owned(),
        message: message.to_owned(),
        retry_after: None,
        fate: Fate::Later,
    }
}
