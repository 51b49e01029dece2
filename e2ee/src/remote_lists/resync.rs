//! Lists that are fetched again behind what made them stale, until it succeeds.

use std::{sync::Arc, time::Duration};

use ruma::{OwnedUserId, UserId};
use tokio::{
    sync::Notify,
    time::{Instant, timeout},
};

use super::{fetch::FETCH_TIMEOUT, shares::Share};
use crate::{E2ee, E2eeError};

/// Lists that are fetched again at a time. Further ones are when somebody asks for them, or the next
/// update comes.
const MAX_RESYNCS: usize = 2_000;
/// How long to wait after each failure. Then the list is left alone until somebody asks for it, or the
/// next update comes.
const PAUSES: [Duration; 6] = [
    Duration::from_secs(5),
    Duration::from_secs(30),
    Duration::from_mins(2),
    Duration::from_mins(10),
    Duration::from_mins(30),
    Duration::from_hours(1),
];

/// The wish to have a list fetched again.
#[derive(Debug, Default)]
pub(super) struct Resync {
    /// Something happened again.
    again: Notify,
}

impl E2ee {
    /// Has a stale list fetched again behind this call.
    pub(super) fn resync(&self, user_id: &UserId) {
        let mut resyncs = self.inner.remote_lists.resyncs.lock();
        if let Some(resync) = resyncs.get(user_id) {
            resync.again.notify_one();
            return;
        }
        if resyncs.len() >= MAX_RESYNCS || self.remote().is_none() {
            return;
        }
        let shares = &self.inner.remote_lists.resyncs_of_each;
        let Some(share) = shares.try_take(user_id.server_name()) else { return };
        let resync = Arc::new(Resync::default());
        resyncs.insert(user_id.to_owned(), Arc::clone(&resync));
        drop(resyncs);
        let place =
            Place { e2ee: self.clone(), user_id: user_id.to_owned(), resync, _share: share };
        self.spawn(async move {
            for pause in PAUSES {
                match place.e2ee.attempt(&place.user_id).await {
                    Ok(true) if place.end() => return,
                    // Something happened meanwhile: at once again.
                    Ok(true) => {}
                    Ok(false) => {
                        // Cut short by whatever happens next.
                        drop(timeout(pause, place.resync.again.notified()).await);
                    }
                    Err(error) => {
                        let user_id = &place.user_id;
                        tracing::error!(%error, %user_id, "a device list cannot be fetched");
                        return;
                    }
                }
            }
        });
    }

    /// Whether no more is to be done.
    async fn attempt(&self, user_id: &UserId) -> Result<bool, E2eeError> {
        let is_stale = self.remote_list(user_id).await?.is_some_and(|row| row.stale);
        if !is_stale || !self.shares_room_with(user_id).await? {
            return Ok(true);
        }
        let fetched = self.fetch_list(user_id, Instant::now() + 3 * FETCH_TIMEOUT).await;
        if let Err(error) = &fetched {
            tracing::debug!(%user_id, error, "a stale device list was not fetched");
        }
        Ok(fetched.is_ok())
    }
}

/// A list's place among those that are fetched again, given back when dropped.
struct Place {
    e2ee: E2ee,
    user_id: OwnedUserId,
    resync: Arc<Resync>,
    _share: Share,
}

impl Place {
    /// Ends this, unless something happened since the last attempt.
    fn end(&self) -> bool {
        let mut resyncs = self.e2ee.inner.remote_lists.resyncs.lock();
        let mut again = std::pin::pin!(self.resync.again.notified());
        if again.as_mut().enable() {
            return false;
        }
        resyncs.remove(&self.user_id);
        true
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut resyncs = self.e2ee.inner.remote_lists.resyncs.lock();
        // Another one may have begun since.
        if resyncs.get(&self.user_id).is_some_and(|resync| Arc::ptr_eq(resync, &self.resync)) {
            resyncs.remove(&self.user_id);
        }
    }
}
