//! Idempotency of requests: the keys' limits, and the sweep of what is too old to be repeated.
//!
//! Each transaction's row is written in the commit of its event ([`crate::writer`]), so that a
//! repeated request finds the event or that nothing happened.

use std::{collections::BTreeMap, ops::ControlFlow, time::Duration};

use hearth_storage::Snapshot;
use ruma::{OwnedEventId, OwnedRoomId, RoomId};

use crate::{
    Rooms,
    error::RoomError,
    rooms::WeakRooms,
    schema::{self, TransactionKey},
    writer::Action,
};

/// What the transaction IDs of events begin with that were sent for their users after a delay (MSC4140).
/// Their senders are shown these in the place of a transaction.
pub const DELAY_ID_PREFIX: &str = "hearth_delay_";

/// Bytes of a transaction's key together: a key of the store holds 1,024, the room's ID among them.
const MAX_KEY_BYTES: usize = 700;
/// How long a request may be repeated.
const KEPT: Duration = Duration::from_hours(7 * 24);
/// Rows that one sweep removes at most.
const MAX_SWEPT: usize = 50_000;
/// Rows that one commit removes.
const SWEPT_PER_COMMIT: usize = 250;

/// Time between two sweeps.
const SWEEP_EVERY: Duration = Duration::from_hours(1);

/// Sweeps now and then for as long as the rooms are in use.
pub(crate) async fn sweep_regularly(rooms: WeakRooms) {
    loop {
        tokio::time::sleep(SWEEP_EVERY).await;
        let Some(rooms) = rooms.upgrade() else {
            return;
        };
        match rooms.sweep_transactions().await {
            Ok(swept) => tracing::debug!(swept, "old transactions removed"),
            Err(error) => tracing::warn!(?error, "old transactions could not be removed"),
        }
    }
}

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

impl Rooms {
    /// The event that a transaction has made in a room, once it is durable. What is on its way is not found:
    /// [`Self::send`] finds that.
    pub async fn sent_by(
        &self,
        room_id: &RoomId,
        key: &TransactionKey,
    ) -> Result<Option<OwnedEventId>, RoomError> {
        key.check()?;
        let row = self.store().get(&schema::TRANSACTIONS, &room_id.to_owned(), key).await?;
        Ok(row.map(|row| row.event_id))
    }

    /// Removes transactions older than a week, at most 50,000 of them, and says how many. Runs by
    /// itself every hour; what is left over is removed the next time.
    pub async fn sweep_transactions(&self) -> Result<usize, RoomError> {
        let kept_ms = u64::try_from(KEPT.as_millis()).unwrap_or(u64::MAX);
        let limit_ms = self.clock().now_ms().saturating_sub(kept_ms);
        let find = move |snapshot: &Snapshot| {
            let mut old: BTreeMap<OwnedRoomId, Vec<TransactionKey>> = BTreeMap::new();
            let mut found = 0;
            snapshot.for_each(&schema::TRANSACTIONS, |room_id, key, row| {
                if u64::from(row.at.get()) < limit_ms {
                    old.entry(room_id).or_default().push(key);
                    found += 1;
                }
                if found < MAX_SWEPT { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
            })?;
            Ok(old)
        };
        let mut swept = 0;
        for (room_id, keys) in self.store().bulk(find).await? {
            for keys in keys.chunks(SWEPT_PER_COMMIT) {
                self.act(&room_id, Action::Sweep(keys.to_vec())).await?;
                swept += keys.len();
            }
        }
        Ok(swept)
    }
}
