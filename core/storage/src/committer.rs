//! The one task that writes.

use crate::{CommitError, Committed};

/// The promise of an answer to a submitted commit. Dropping it does not withdraw the commit.
#[derive(Debug)]
pub struct Ticket {
    // Filled in by the owner of this file.
}

impl Ticket {
    /// Waits until the commit is durable (lazy ones: applied) and says where it landed.
    pub async fn done(self) -> Result<Committed, CommitError> {
        todo!()
    }
}
