//! Reading, changing and comparing trees.

use std::{ops::ControlFlow, sync::Arc};

use super::{Node, NodeError, NodeId};

/// Where nodes come from: the store behind a bounded cache, or a map in tests.
pub trait NodeSource {
    /// A node by number. A missing node is an error: trees never name nodes that are not stored.
    fn node(&self, id: NodeId) -> Result<Arc<Node>, NodeError>;
}

/// One difference between two trees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// The state key's ordinal within its tree.
    pub key: u32,
    /// The event in the first tree.
    pub before: Option<u32>,
    /// The event in the second tree.
    pub after: Option<u32>,
}

/// The value at a key.
pub fn get(_source: &impl NodeSource, _root: NodeId, _key: u32) -> Result<Option<u32>, NodeError> {
    todo!()
}

/// Visits all (key, value) pairs from `from_key` up, in key order, until the visitor breaks.
pub fn walk(
    _source: &impl NodeSource,
    _root: NodeId,
    _from_key: u32,
    _visit: &mut dyn FnMut(u32, u32) -> ControlFlow<()>,
) -> Result<(), NodeError> {
    todo!()
}

/// All keys whose values differ, in key order; equal subtrees are skipped.
pub fn diff(
    _source: &impl NodeSource,
    _before: NodeId,
    _after: NodeId,
) -> Result<Vec<Change>, NodeError> {
    todo!()
}

/// Makes new trees from old ones. New nodes are numbered from the room's counter and kept until
/// [`finish`](Self::finish), so that a batch of changes writes each node of the result once.
#[derive(Debug)]
pub struct TreeEditor<'a, S> {
    source: &'a S,
    // Filled in by the owner of this file.
}

impl<'a, S: NodeSource> TreeEditor<'a, S> {
    /// An editor that numbers new nodes from `next_node` on.
    pub fn new(source: &'a S, _next_node: u32) -> Self {
        let _ = source;
        todo!()
    }

    /// The tree with one key set. Setting the value that is already there returns the same root.
    pub fn set(&mut self, _root: NodeId, _key: u32, _value: u32) -> Result<NodeId, NodeError> {
        todo!()
    }

    /// The tree with many keys set, or removed (`None`), in one pass.
    pub fn apply(
        &mut self,
        _root: NodeId,
        _changes: &[(u32, Option<u32>)],
    ) -> Result<NodeId, NodeError> {
        todo!()
    }

    /// The next free node number, and the new nodes that `roots` reach, to be stored.
    pub fn finish(self, _roots: &[NodeId]) -> (u32, Vec<(NodeId, Arc<Node>)>) {
        todo!()
    }
}
