//! Idempotency of requests: the keys' limits, and the sweep of what is too old to be repeated.

use crate::{error::RoomError, schema::TransactionKey};

/// Bytes of a transaction's key together: a key of the store holds 1,024, the room's ID among them.
const MAX_KEY_BYTES: usize = 700;

impl TransactionKey {
    /// Checks that the key fits into the store.
    pub(crate) fn check(&self) -> Result<(), RoomError> {
        let parts = [
            self.user_id.as_str(),
            self.device_id.as_str(),
            &self.scope,
            self.transaction_id.as_str(),
        ];
        // Zero bytes take two.
        let length = |part: &str| part.len() + part.bytes().filter(|byte| *byte == 0).count();
        if parts.into_iter().map(length).sum::<usize>() > MAX_KEY_BYTES {
            return Err(RoomError::InvalidParam("the transaction ID is too long".to_owned()));
        }
        Ok(())
    }
}
