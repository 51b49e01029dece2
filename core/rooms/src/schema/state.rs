//! The state of rooms beside its trees, and what is missing of it.

use hearth_storage::postcard_record;
use serde::{Deserialize, Serialize};

use super::EventOrdinal;
use crate::state::{NodeId, StateRoot};

/// The row of [`CURRENT_STATES`](super::CURRENT_STATES).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CurrentStateRow(pub StateRoot);
postcard_record!(CurrentStateRow, version = 1);

/// The row of [`STATE_KEYS`](super::STATE_KEYS).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateKeyRow(pub u32);
postcard_record!(StateKeyRow, version = 1);

/// The row of [`PARTIAL`](super::PARTIAL).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartialRow {
    /// The join.
    pub join: EventOrdinal,
}
postcard_record!(PartialRow, version = 1);

/// The row of [`COMPLETIONS`](super::COMPLETIONS): the trees of members of the current state before and after. Nobody
/// became a member by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CompletionRow {
    /// Those that were known.
    pub before: NodeId,
    /// All.
    pub after: NodeId,
}
postcard_record!(CompletionRow, version = 1);
