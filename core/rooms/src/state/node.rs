//! Nodes of the state tree and their encoding.

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// The number of a node within its room; 0 is the empty tree.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
)]
pub struct NodeId(pub u32);

impl NodeId {
    /// The empty tree.
    pub const EMPTY: Self = Self(0);
}

/// One node: its height above the leaves (0: slots hold event ordinals; above: node numbers) and up
/// to 64 slots. Immutable once stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    // height, occupancy bitmap, dense values: filled in by the owner of this file.
}

/// Bytes that are not a node, or a tree that does not hang together.
#[derive(Clone, Debug, thiserror::Error)]
#[error("damaged state tree: {0}")]
pub struct NodeError(pub String);

impl Node {
    /// The stored form: height, bitmap, then 4 bytes a slot.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        todo!()
    }

    /// Reads the stored form.
    pub fn decode(_bytes: &[u8]) -> Result<Arc<Self>, NodeError> {
        todo!()
    }
}
