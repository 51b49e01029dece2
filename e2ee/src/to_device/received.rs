//! What other servers have sent, so that a repetition is known: each server's newest messages, for a
//! bounded time.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use hearth_storage::{Commit, CommitError, Direction};
use hearth_types::StreamPosition;
use quick_cache::sync::Cache;
use ruma::{OwnedServerName, OwnedUserId};

use super::letters::Letters;
use crate::{
    E2ee, E2eeError,
    schema::{RECEIVED_FROM, RECEIVED_MESSAGES, RECEIVED_ORDER, ReceivedRow},
};

/// A server repeats a transaction within this time, in milliseconds: thirty days.
const KEEP_MS: u64 = crate::outgoing::MAX_AGE_MS;
/// Messages of one server that are remembered: what it repeats is what it sent last, a hundred messages
/// at a time.
const MAX_REMEMBERED: usize = if cfg!(test) { 300 } else { 10_000 };
/// So many more may come before the oldest are forgotten.
const SURPLUS: usize = if cfg!(test) { 100 } else { 1_000 };
/// Servers whose messages are counted in memory; the others' oldest are looked for with their next one.
const MAX_COUNTED: usize = 10_000;
/// Messages that are forgotten at a time, with two rows each.
const AT_ONCE: usize = 100;

/// How many messages of each server came since its oldest were forgotten.
#[derive(Debug)]
pub(crate) struct ReceivedCounts(Cache<OwnedServerName, Arc<AtomicUsize>>);

impl Default for ReceivedCounts {
    fn default() -> Self {
        Self(Cache::new(MAX_COUNTED))
    }
}

/// Adds to the commit of a message at which place it came.
pub(super) fn note_received(
    letters: &mut Letters<'_, OwnedServerName>,
    origin: &OwnedServerName,
    (sender, message_id): &(OwnedUserId, String),
    received_ms: u64,
) {
    let commit = letters.last();
    let (sender, message_id) = (sender.clone(), message_id.clone());
    let position = commit.next_position();
    let row = ReceivedRow { sender, message_id, received_ms };
    commit.put(&RECEIVED_ORDER, origin, &position, &row);
    commit.effect_put(&RECEIVED_FROM, &(), origin, &position);
}

impl E2ee {
    /// A message has come: forgets the oldest ones of its server if they have become too many.
    pub(super) async fn count_received(&self, origin: &OwnedServerName) -> Result<(), E2eeError> {
        let counts = &self.inner.received.0;
        let first = || Ok::<_, E2eeError>(Arc::new(AtomicUsize::new(SURPLUS)));
        let count = counts.get_or_insert_with(origin, first)?;
        if count.fetch_add(1, Ordering::Relaxed) < SURPLUS {
            return Ok(());
        }
        count.store(0, Ordering::Relaxed);
        let server = origin.clone();
        let newest = self.store().bulk(move |view| {
            view.page(&RECEIVED_ORDER, &server, .., Direction::Backward, MAX_REMEMBERED)
        });
        let newest = newest.await?;
        match newest.last() {
            Some((first, _)) if newest.len() >= MAX_REMEMBERED => {
                self.forget_received(origin, |position, _| position < *first).await.map(drop)
            }
            _ => Ok(()),
        }
    }

    /// Forgets what came too long ago, from anybody. Reads a page for each server, and what is forgotten.
    pub(super) async fn forget_old_received(&self, now_ms: u64) -> Result<(), E2eeError> {
        let before_ms = now_ms.saturating_sub(KEEP_MS);
        let all = (std::ops::Bound::Unbounded, std::ops::Bound::Unbounded);
        for (origin, last) in self.store().page_all(&RECEIVED_FROM, &(), all).await? {
            let is_old = |_, row: &ReceivedRow| row.received_ms < before_ms;
            if self.forget_received(&origin, is_old).await? {
                continue;
            }
            // Nothing of it is left, unless something comes just now.
            let mut commit = Commit::new(&()).lazy();
            commit.require(&RECEIVED_FROM, &(), &origin, &last);
            commit.delete(&RECEIVED_FROM, &(), &origin);
            match self.store().commit(commit).await {
                Ok(_) | Err(CommitError::Precondition) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Forgets a server's messages from the oldest on, as long as they are to be forgotten. Whether some
    /// are left.
    async fn forget_received(
        &self,
        origin: &OwnedServerName,
        is_old: impl Fn(StreamPosition, &ReceivedRow) -> bool,
    ) -> Result<bool, E2eeError> {
        loop {
            let oldest =
                self.store().page(&RECEIVED_ORDER, origin, .., Direction::Forward, AT_ONCE);
            let oldest = oldest.await?;
            let full = oldest.len() == AT_ONCE;
            let mut commit = Commit::new(origin).lazy();
            let mut left = false;
            for (position, row) in oldest {
                if !is_old(position, &row) {
                    left = true;
                    break;
                }
                commit.delete(&RECEIVED_ORDER, origin, &position);
                commit.delete(&RECEIVED_MESSAGES, origin, &(row.sender, row.message_id));
            }
            if !commit.is_empty() {
                self.store().commit(commit).await?;
            }
            if left || !full {
                return Ok(left);
            }
        }
    }
}
