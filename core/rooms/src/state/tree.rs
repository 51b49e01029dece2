//! Reading, changing and comparing trees.

use std::{collections::HashMap, ops::ControlFlow, sync::Arc};

use super::{
    Node, NodeError, NodeId,
    node::{DIGIT_BITS, MAX_HEIGHT, Slots},
};

/// Where nodes come from: the store behind a bounded cache, or a map in tests.
pub trait NodeSource {
    /// A node by number. A missing node is an error: trees never name nodes that are not stored.
    fn node(&self, id: NodeId) -> Result<Arc<Node>, NodeError>;
}

impl<S: NodeSource + ?Sized> NodeSource for &S {
    fn node(&self, id: NodeId) -> Result<Arc<Node>, NodeError> {
        (**self).node(id)
    }
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

/// One more than the greatest height a root can have: the bound that shrinks on the way down.
const ROOT_LIMIT: u8 = MAX_HEIGHT + 1;

/// The height of the lowest node that covers a key.
fn height_for(key: u32) -> u8 {
    // At most 31 / 6 = 5.
    key.checked_ilog2().map_or(0, |bit| u8::try_from(bit / DIGIT_BITS).unwrap_or(MAX_HEIGHT))
}

/// How far to shift a key to find its digit at this height.
fn shift(height: u8) -> u32 {
    u32::from(height) * DIGIT_BITS
}

/// The part of a key that the nodes below this height decide.
fn below(height: u8, key: u32) -> u32 {
    key & ((1 << shift(height)) - 1)
}

/// A node that must be lower than `limit`: what keeps every descent finite, damaged rows or not.
fn load(source: &impl NodeSource, id: NodeId, limit: u8) -> Result<Arc<Node>, NodeError> {
    let node = source.node(id)?;
    if node.height() >= limit {
        return Err(NodeError(format!("node {} stands higher than its parent", id.0)));
    }
    Ok(node)
}

/// The value at a key.
pub fn get(source: &impl NodeSource, root: NodeId, key: u32) -> Result<Option<u32>, NodeError> {
    let (mut id, mut key, mut limit) = (root, key, ROOT_LIMIT);
    while !id.is_empty() {
        let node = load(source, id, limit)?;
        let height = node.height();
        let Some(value) = node.slot(key >> shift(height)) else { return Ok(None) };
        if height == 0 {
            return Ok(Some(value));
        }
        (id, key, limit) = (NodeId(value), below(height, key), height);
    }
    Ok(None)
}

/// Visits all (key, value) pairs from `from_key` up, in key order, until the visitor breaks.
pub fn walk(
    source: &impl NodeSource,
    root: NodeId,
    from_key: u32,
    visit: &mut dyn FnMut(u32, u32) -> ControlFlow<()>,
) -> Result<(), NodeError> {
    walk_node(source, root, ROOT_LIMIT, 0, from_key, visit).map(drop)
}

/// `from` is relative to `base`, where this node's keys begin.
fn walk_node(
    source: &impl NodeSource,
    id: NodeId,
    limit: u8,
    base: u32,
    from: u32,
    visit: &mut dyn FnMut(u32, u32) -> ControlFlow<()>,
) -> Result<ControlFlow<()>, NodeError> {
    if id.is_empty() {
        return Ok(ControlFlow::Continue(()));
    }
    let node = load(source, id, limit)?;
    let height = node.height();
    let first = from >> shift(height);
    for (digit, value) in node.slots_from(first) {
        let key = base | (digit << shift(height));
        let flow = if height == 0 {
            visit(key, value)
        } else {
            let from = if digit == first { below(height, from) } else { 0 };
            walk_node(source, NodeId(value), height, key, from, visit)?
        };
        if flow.is_break() {
            return Ok(flow);
        }
    }
    Ok(ControlFlow::Continue(()))
}

/// All keys whose values differ, in key order; equal subtrees are skipped.
pub fn diff(
    source: &impl NodeSource,
    before: NodeId,
    after: NodeId,
) -> Result<Vec<Change>, NodeError> {
    let mut changes = Vec::new();
    diff_nodes(source, before, after, ROOT_LIMIT, 0, &mut changes)?;
    Ok(changes)
}

fn diff_nodes(
    source: &impl NodeSource,
    before: NodeId,
    after: NodeId,
    limit: u8,
    base: u32,
    changes: &mut Vec<Change>,
) -> Result<(), NodeError> {
    if before == after {
        return Ok(());
    }
    let node = |id: NodeId| (!id.is_empty()).then(|| load(source, id, limit)).transpose();
    let (before_node, after_node) = (node(before)?, node(after)?);
    let height =
        before_node.iter().chain(&after_node).map(|node| node.height()).max().unwrap_or_default();
    let before = spread(before, before_node.as_deref(), height);
    let after = spread(after, after_node.as_deref(), height);
    for digit in before.union(&after) {
        let key = base | (digit << shift(height));
        let (before, after) = (before.get(digit), after.get(digit));
        if height > 0 {
            let id = |slot: Option<u32>| slot.map_or(NodeId::EMPTY, NodeId);
            diff_nodes(source, id(before), id(after), height, key, changes)?;
        } else if before != after {
            changes.push(Change { key, before, after });
        }
    }
    Ok(())
}

/// A node's slots as seen from a height at or above its own: a lower node is all in slot 0.
fn spread(id: NodeId, node: Option<&Node>, height: u8) -> Slots {
    match node {
        None => Slots::EMPTY,
        Some(node) if node.height() == height => Slots::of(node),
        Some(_) => {
            let mut slots = Slots::EMPTY;
            slots.put(0, Some(id.0));
            slots
        }
    }
}

/// Makes new trees from old ones. New nodes are numbered from the room's counter and kept until
/// [`finish`](Self::finish), so that a batch of changes writes each node of the result once.
#[derive(Debug)]
pub struct TreeEditor<'a, S> {
    source: &'a S,
    next_node: u32,
    new: HashMap<NodeId, Arc<Node>>,
}

impl<S: NodeSource> NodeSource for TreeEditor<'_, S> {
    /// The new nodes as well as the stored ones, so that [`get`], [`walk`] and [`diff`] work on trees
    /// that are not stored yet.
    fn node(&self, id: NodeId) -> Result<Arc<Node>, NodeError> {
        match self.new.get(&id) {
            Some(node) => Ok(Arc::clone(node)),
            None => self.source.node(id),
        }
    }
}

impl<'a, S: NodeSource> TreeEditor<'a, S> {
    /// An editor that numbers new nodes from `next_node` on.
    pub fn new(source: &'a S, next_node: u32) -> Self {
        // 0 is the empty tree.
        Self { source, next_node: next_node.max(1), new: HashMap::new() }
    }

    /// The tree with one key set. Setting the value that is already there returns the same root.
    pub fn set(&mut self, root: NodeId, key: u32, value: u32) -> Result<NodeId, NodeError> {
        self.edit(root, ROOT_LIMIT, u32::MAX, &[(key, Some(value))])
    }

    /// The tree with many keys set, or removed (`None`), in one pass. A key that is named more than
    /// once takes its last value. A tree that stays the same keeps its root.
    pub fn apply(
        &mut self,
        root: NodeId,
        changes: &[(u32, Option<u32>)],
    ) -> Result<NodeId, NodeError> {
        let mut sorted = changes.to_vec();
        // Stable, so that the last of equal keys stays last; `dedup` keeps the first of them.
        sorted.reverse();
        sorted.sort_by_key(|(key, _)| *key);
        sorted.dedup_by_key(|(key, _)| *key);
        self.edit(root, ROOT_LIMIT, u32::MAX, &sorted)
    }

    /// The next free node number, and the new nodes that `roots` reach, to be stored.
    #[must_use]
    pub fn finish(mut self, roots: &[NodeId]) -> (u32, Vec<(NodeId, Arc<Node>)>) {
        let mut reached = Vec::new();
        let mut open = roots.to_vec();
        while let Some(id) = open.pop() {
            // A stored node's children are stored: only new nodes need following, each once.
            let Some(node) = self.new.remove(&id) else { continue };
            if node.height() > 0 {
                open.extend(node.slots_from(0).map(|(_, child)| NodeId(child)));
            }
            reached.push((id, node));
        }
        reached.sort_unstable_by_key(|(id, _)| *id);
        (self.next_node, reached)
    }

    /// The tree below `id` with sorted, distinct changes, of whose keys only the bits in `mask` count.
    fn edit(
        &mut self,
        id: NodeId,
        limit: u8,
        mask: u32,
        changes: &[(u32, Option<u32>)],
    ) -> Result<NodeId, NodeError> {
        let node = (!id.is_empty()).then(|| load(self, id, limit)).transpose()?;
        // The changes share their bits above the mask, so the last one set is the greatest.
        let greatest = changes.iter().rev().find(|(_, value)| value.is_some());
        let needed = greatest.map(|(key, _)| height_for(key & mask));
        let Some(height) = node.as_ref().map(|node| node.height()).max(needed) else {
            return Ok(id);
        };
        let mut slots = spread(id, node.as_deref(), height);
        let mut differs = false;
        let digit_of = |(key, _): &(u32, Option<u32>)| (key & mask) >> shift(height);
        for group in changes.chunk_by(|a, b| digit_of(a) == digit_of(b)) {
            let Some(first) = group.first() else { continue };
            let digit = digit_of(first);
            if digit >= u64::BITS {
                // Removals of keys that the tree is too low to hold.
                continue;
            }
            let old = slots.get(digit);
            let new = if height == 0 {
                first.1
            } else {
                let child = old.map_or(NodeId::EMPTY, NodeId);
                let edited = self.edit(child, height, below(height, u32::MAX), group)?;
                (!edited.is_empty()).then_some(edited.0)
            };
            differs |= new != old;
            slots.put(digit, new);
        }
        if !differs {
            return Ok(id);
        }
        self.keep(height, slots)
    }

    fn keep(&mut self, height: u8, slots: Slots) -> Result<NodeId, NodeError> {
        if slots.is_empty() {
            return Ok(NodeId::EMPTY);
        }
        if height > 0
            && let Some(child) = slots.only_first()
        {
            return Ok(NodeId(child));
        }
        let id = NodeId(self.next_node);
        self.next_node = self
            .next_node
            .checked_add(1)
            .ok_or_else(|| NodeError("the room has used up its node numbers".to_owned()))?;
        self.new.insert(id, Arc::new(slots.into_node(height)));
        Ok(id)
    }
}
