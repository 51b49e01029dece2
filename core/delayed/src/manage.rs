//! Sending a scheduled event now, cancelling it, or having its delay begin anew.

use hearth_storage::Commit;

use crate::{
    Delayed, DelayedError, Fate,
    schema::{DUE, EVENTS, Ending, Found, OwnerRow},
    service::Inner,
};

/// What is done with a scheduled event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// It is sent at once.
    Send,
    /// It is never sent.
    Cancel,
    /// Its delay begins anew.
    Restart,
}

impl Delayed {
    /// Does something with the event of this ID, whoever asks: who knows the ID may. Asking again for what
    /// has happened is no error.
    ///
    /// # Errors
    ///
    /// [`DelayedError::NotFound`]; [`DelayedError::Finalised`] if the event has ended otherwise;
    /// [`DelayedError::Refused`] if it cannot be sent now.
    pub async fn manage(&self, delay_id: &str, action: Action) -> Result<(), DelayedError> {
        let (this, delay_id) = (self.clone(), delay_id.to_owned());
        self.inner.detached(async move { this.inner.manage(&delay_id, action).await }).await
    }
}

impl Inner {
    async fn manage(&self, delay_id: &str, action: Action) -> Result<(), DelayedError> {
        let _turn = self.turns.lock(delay_id).await;
        let found = self.find(delay_id).await?.ok_or(DelayedError::NotFound)?;
        if let Some(finalised) = &found.row.finalised {
            return match (&finalised.ending, action) {
                (Ending::Sent(_), Action::Send) => Ok(()),
                (Ending::Sent(_), _) => Err(DelayedError::Finalised("the event was sent already")),
                (_, Action::Cancel) => Ok(()),
                _ => Err(DelayedError::Finalised("the event was cancelled already")),
            };
        }
        match action {
            Action::Send => match self.send(&found).await {
                Ok(event_id) => self.finalise(found, true, Ending::Sent(event_id)).await,
                Err(refusal) if refusal.fate == Fate::Orphaned => {
                    self.remove(&found).await?;
                    Err(DelayedError::NotFound)
                }
                Err(refusal) => Err(DelayedError::Refused(refusal)),
            },
            Action::Cancel => self.finalise(found, true, Ending::Cancelled).await,
            Action::Restart => self.restart(found).await,
        }
    }

    async fn restart(&self, found: Found) -> Result<(), DelayedError> {
        let now_ms = self.now_ms();
        self.postpone(found, |row| {
            row.since_ms = now_ms;
            row.due_ms = now_ms.saturating_add(row.delay_ms);
            row.attempts = 0;
        })
        .await
    }

    /// Files a scheduled event under another time, in its turn.
    pub(crate) async fn postpone(
        &self,
        mut found: Found,
        change: impl FnOnce(&mut crate::schema::DelayedRow),
    ) -> Result<(), DelayedError> {
        let before = found.due_key();
        change(&mut found.row);
        let mut commit = Commit::new(&found.user_id);
        commit.put(&EVENTS, &found.user_id, &found.delay_id, &found.row);
        commit.effect_delete(&DUE, &(), &before);
        commit.effect_put(&DUE, &(), &found.due_key(), &OwnerRow(found.user_id.clone()));
        self.store().commit(commit).await?;
        self.changed.notify_one();
        Ok(())
    }
}
