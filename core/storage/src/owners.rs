//! One writer at a time for each owner.

use std::hash::{BuildHasher, RandomState};

use tokio::sync::{Mutex, MutexGuard};

const LOCKS: usize = 1024;

/// A fixed number of locks that owners hash to: holding an owner's lock makes the holder its only
/// writer. For owners with few writes (users); rooms have writer tasks.
#[derive(Debug)]
pub struct OwnerLocks {
    locks: Box<[Mutex<()>]>,
    hasher: RandomState,
}

impl OwnerLocks {
    /// 1,024 locks.
    #[must_use]
    pub fn new() -> Self {
        Self { locks: (0..LOCKS).map(|_| Mutex::new(())).collect(), hasher: RandomState::new() }
    }

    /// Waits for this owner's lock. Owners may share a lock: never take two.
    pub async fn lock(&self, owner: &str) -> MutexGuard<'_, ()> {
        #[expect(clippy::cast_possible_truncation, reason = "any part of a hash is a hash")]
        let index = self.hasher.hash_one(owner) as usize % LOCKS;
        #[expect(clippy::indexing_slicing, reason = "the index is a remainder of the length")]
        self.locks[index].lock().await
    }
}

impl Default for OwnerLocks {
    fn default() -> Self {
        Self::new()
    }
}
