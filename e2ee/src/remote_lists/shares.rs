//! What each server may have of something that all share.

use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;
use ruma::{OwnedServerName, ServerName};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Servers that have a share, and what is left of it. One that has nothing is not there.
type Servers = Mutex<HashMap<OwnedServerName, Arc<Semaphore>>>;

/// Equal shares for servers: none takes everything.
#[derive(Debug)]
pub(super) struct Shares {
    each: usize,
    servers: Arc<Servers>,
}

/// A part of a server's share, given back when dropped.
#[derive(Debug)]
pub(super) struct Share {
    server: OwnedServerName,
    servers: Arc<Servers>,
    permit: Option<OwnedSemaphorePermit>,
}

impl Shares {
    pub(super) fn new(each: usize) -> Self {
        Self { each, servers: Arc::default() }
    }

    /// A part of this server's share, if there is one left.
    pub(super) fn try_take(&self, server: &ServerName) -> Option<Share> {
        let (mut share, left) = self.of(server);
        share.permit = Some(left.try_acquire_owned().ok()?);
        Some(share)
    }

    /// Waits for a part of this server's share.
    pub(super) async fn take(&self, server: &ServerName) -> Share {
        let (mut share, left) = self.of(server);
        // Nobody closes it.
        share.permit = left.acquire_owned().await.ok();
        share
    }

    /// The share of a server, and who gives it back: made first, so that it is in any case.
    fn of(&self, server: &ServerName) -> (Share, Arc<Semaphore>) {
        let share =
            Share { server: server.to_owned(), servers: Arc::clone(&self.servers), permit: None };
        let mut servers = self.servers.lock();
        let left =
            servers.entry(server.to_owned()).or_insert_with(|| Arc::new(Semaphore::new(self.each)));
        (share, Arc::clone(left))
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        drop(self.permit.take());
        let mut servers = self.servers.lock();
        // Whoever has or waits for some of it holds it too.
        if servers.get(&self.server).is_some_and(|left| Arc::strong_count(left) == 1) {
            servers.remove(&self.server);
        }
    }
}

#[cfg(test)]
mod tests {
    use ruma::server_name;

    use super::*;

    #[tokio::test]
    async fn each_server_has_its_own_and_leaves_nothing_behind() {
        let shares = Shares::new(2);
        let (one, other) = (server_name!("one.test"), server_name!("other.test"));
        let first = shares.try_take(one).unwrap();
        let second = shares.take(one).await;
        assert!(shares.try_take(one).is_none());
        let of_other = shares.try_take(other).unwrap();
        {
            let mut third = Box::pin(shares.take(one));
            assert!(futures_util::poll!(&mut third).is_pending());
            drop(first);
            assert!(futures_util::poll!(&mut third).is_ready());
        }
        assert!(shares.try_take(one).is_some());
        drop((second, of_other));
        assert!(shares.servers.lock().is_empty());
    }
}
