//! One fetch of a whole list, for all who wait for it.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures_util::{
    FutureExt as _,
    future::{BoxFuture, Shared},
};
use hearth_storage::run_blocking;
use ruma::{OwnedUserId, UserId};
use tokio::{
    sync::oneshot,
    time::{Instant, timeout_at},
};

use super::{
    keep::{CheckedList, Kept},
    shares::Share,
};
use crate::{E2ee, query::TOO_LATE, remote::patience};

/// How long a server may take to tell a list.
pub(super) const FETCH_TIMEOUT: Duration = Duration::from_secs(30);
/// Users whose lists are fetched or wait for their turn. Further ones are fetched later.
const MAX_FETCHES: usize = 2_000;
/// How often a list is fetched that changes while it is.
const MAX_ROUNDS: usize = 3;

/// A fetch that is under way.
pub(super) struct Fetch {
    done: Shared<BoxFuture<'static, Result<(), String>>>,
    /// Did something happen since the server was asked? Then its answer may be older than that.
    marked: Arc<AtomicBool>,
}

impl fmt::Debug for Fetch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fetch").field("marked", &self.marked).finish_non_exhaustive()
    }
}

impl E2ee {
    /// Fetches the whole list of a user of another server, with whom a room is shared, and keeps it; or
    /// waits for who does. The fetch goes on when nobody waits for it any more. The error is for clients.
    pub(crate) async fn fetch_list(
        &self,
        user_id: &UserId,
        deadline: Instant,
    ) -> Result<(), String> {
        let done = self.join_fetch(user_id)?;
        timeout_at(deadline, done).await.unwrap_or_else(|_| Err(TOO_LATE.to_owned()))
    }

    fn join_fetch(
        &self,
        user_id: &UserId,
    ) -> Result<Shared<BoxFuture<'static, Result<(), String>>>, String> {
        let mut fetches = self.inner.remote_lists.fetches.lock();
        if let Some(fetch) = fetches.get(user_id) {
            return Ok(fetch.done.clone());
        }
        if fetches.len() >= MAX_FETCHES {
            return Err("too many device lists are being fetched".to_owned());
        }
        let shares = &self.inner.remote_lists.fetches_of_each;
        let Some(share) = shares.try_take(user_id.server_name()) else {
            return Err("too many device lists of this server are being fetched".to_owned());
        };
        let (told, hear) = oneshot::channel();
        let cut_off = |_| Err("the fetch was cut off".to_owned());
        let done = hear.map(move |done| done.unwrap_or_else(cut_off)).boxed().shared();
        let marked = Arc::new(AtomicBool::new(false));
        let fetch = Fetch { done: done.clone(), marked: Arc::clone(&marked) };
        fetches.insert(user_id.to_owned(), fetch);
        drop(fetches);
        let place =
            Place { e2ee: self.clone(), user_id: user_id.to_owned(), marked, _share: share };
        self.spawn(async move {
            let outcome = place.e2ee.run_fetch(&place.user_id, &place.marked).await;
            drop(place);
            // Nobody may be waiting any more.
            drop(told.send(outcome));
        });
        Ok(done)
    }

    async fn run_fetch(
        &self,
        user_id: &OwnedUserId,
        marked: &Arc<AtomicBool>,
    ) -> Result<(), String> {
        let told = |error: &dyn fmt::Display| error.to_string();
        let remote = self.remote().ok_or("this server does not federate")?;
        let lists = &self.inner.remote_lists;
        // First its own share: who waits for that keeps no place from others.
        let _share = lists.places_of_each.take(user_id.server_name()).await;
        let _place = lists.places.acquire().await.map_err(|error| told(&error))?;
        for _ in 0..MAX_ROUNDS {
            marked.store(false, Ordering::SeqCst);
            let deadline = Instant::now() + FETCH_TIMEOUT;
            let asked = timeout_at(deadline, remote.devices(user_id, patience(deadline)));
            let answer = asked.await.map_err(|_| TOO_LATE)?.map_err(|error| told(&error))?;
            let owner = user_id.clone();
            // A thousand signatures take a while.
            let list = run_blocking(move || CheckedList::check(&owner, answer));
            let list = list.await.map_err(|error| told(&error))??;
            let kept = self.keep_list(user_id, marked, list).await.map_err(|error| {
                tracing::error!(%error, %user_id, "a device list could not be kept");
                "it could not be kept".to_owned()
            })?;
            match kept {
                Kept::Fresh => return Ok(()),
                Kept::Stale => {}
                Kept::Not => return Err("no room is shared with them any more".to_owned()),
            }
        }
        Err("it changes faster than it can be fetched".to_owned())
    }

    /// Something happened to this user's list: what is being fetched may be older. In the user's turn.
    pub(super) fn mark_fetch(&self, user_id: &UserId) {
        if let Some(fetch) = self.inner.remote_lists.fetches.lock().get(user_id) {
            fetch.marked.store(true, Ordering::SeqCst);
        }
    }

    /// Was this fetch not marked since the server was asked? `None` if the list was forgotten meanwhile: then
    /// nobody wants to know any more. In the user's turn.
    pub(super) fn is_unmarked(&self, user_id: &UserId, marked: &Arc<AtomicBool>) -> Option<bool> {
        let fetches = self.inner.remote_lists.fetches.lock();
        let current = fetches.get(user_id).filter(|fetch| Arc::ptr_eq(&fetch.marked, marked));
        current.map(|fetch| !fetch.marked.load(Ordering::SeqCst))
    }

    pub(super) fn is_fetching(&self, user_id: &UserId) -> bool {
        self.inner.remote_lists.fetches.lock().contains_key(user_id)
    }

    /// What was fetched is kept, or nobody wants it: whoever wants to know more begins another fetch. In
    /// the user's turn.
    pub(super) fn end_fetch(&self, user_id: &UserId) {
        self.inner.remote_lists.fetches.lock().remove(user_id);
    }
}

/// A fetch's place among those under way, given back when dropped.
struct Place {
    e2ee: E2ee,
    user_id: OwnedUserId,
    marked: Arc<AtomicBool>,
    _share: Share,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut fetches = self.e2ee.inner.remote_lists.fetches.lock();
        // Another one may have begun since.
        if fetches.get(&self.user_id).is_some_and(|fetch| Arc::ptr_eq(&fetch.marked, &self.marked))
        {
            fetches.remove(&self.user_id);
        }
    }
}
