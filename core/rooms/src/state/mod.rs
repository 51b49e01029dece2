//! State as a persistent radix tree: state-key ordinal → event ordinal, 64-way nodes, copied along the
//! path on change and shared otherwise.
//!
//! A snapshot is a [`StateRoot`]: two tree roots, one over membership state keys and one over all the
//! others, so that reading a room's name, topic or power levels never walks its members, and lazy
//! loading costs what it returns. State keys have dense ordinals, counted apart for the two trees
//! ([`crate::schema::STATE_KEYS`]).
//!
//! Costs: a change writes one node per level (log64 of the keys); comparing two snapshots skips equal
//! subtrees and costs what differs. This module is pure: nodes come from a [`NodeSource`] and new ones
//! go to the caller, who stores them.

mod node;
#[cfg(test)]
mod tests;
mod tree;

use serde::{Deserialize, Serialize};

pub use self::{
    node::{Node, NodeError, NodeId},
    tree::{Change, NodeSource, TreeEditor, diff, get, walk},
};

/// A snapshot of a room's state. Equal roots mean equal states; the reverse need not hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct StateRoot {
    /// The tree over membership state keys.
    pub members: NodeId,
    /// The tree over all other state keys.
    pub rest: NodeId,
}

/// The number of a state key within its room, and which of the two trees it lives in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum StateKeyOrdinal {
    /// An `m.room.member` state key.
    Member(u32),
    /// Any other state key.
    Rest(u32),
}
