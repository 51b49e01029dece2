use std::{
    cell::Cell,
    collections::{BTreeMap, HashMap},
    ops::ControlFlow,
    sync::Arc,
};

use proptest::prelude::*;

use super::{Change, Node, NodeError, NodeId, NodeSource, TreeEditor, diff, get, walk};

/// Stored nodes, in their stored form, and how often they were read.
#[derive(Debug, Default)]
struct Stored {
    nodes: HashMap<NodeId, bytes::Bytes>,
    next: u32,
    reads: Cell<usize>,
}

impl NodeSource for Stored {
    fn node(&self, id: NodeId) -> Result<Arc<Node>, NodeError> {
        self.reads.set(self.reads.get() + 1);
        let bytes = self.nodes.get(&id).ok_or_else(|| NodeError(format!("no node {}", id.0)))?;
        Node::decode(bytes)
    }
}

type Plain = BTreeMap<u32, u32>;
type Batch = Vec<(u32, Option<u32>)>;

impl Stored {
    fn edit<T>(
        &mut self,
        change: impl FnOnce(&mut TreeEditor<'_, Self>) -> (Vec<NodeId>, T),
    ) -> (T, usize) {
        let mut editor = TreeEditor::new(&*self, self.next);
        let (roots, result) = change(&mut editor);
        let (next, new) = editor.finish(&roots);
        let count = new.len();
        for (id, node) in new {
            assert!(id.0 < next);
            assert!(self.nodes.insert(id, node.encode()).is_none(), "a node was written twice");
        }
        self.next = next;
        (result, count)
    }

    fn apply(&mut self, root: NodeId, batch: &[(u32, Option<u32>)]) -> (NodeId, usize) {
        self.edit(|editor| {
            let root = editor.apply(root, batch).unwrap();
            (vec![root], root)
        })
    }

    fn pairs(&self, root: NodeId, from: u32, limit: usize) -> Vec<(u32, u32)> {
        let mut pairs = Vec::new();
        walk(self, root, from, &mut |key, value| {
            pairs.push((key, value));
            if pairs.len() == limit { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })
        .unwrap();
        pairs
    }
}

fn apply_plain(plain: &mut Plain, batch: &[(u32, Option<u32>)]) {
    for (key, value) in batch {
        match value {
            Some(value) => plain.insert(*key, *value),
            None => plain.remove(key),
        };
    }
}

fn plain_diff(before: &Plain, after: &Plain) -> Vec<Change> {
    let keys: std::collections::BTreeSet<u32> =
        before.keys().chain(after.keys()).copied().collect();
    keys.into_iter()
        .map(|key| Change {
            key,
            before: before.get(&key).copied(),
            after: after.get(&key).copied(),
        })
        .filter(|change| change.before != change.after)
        .collect()
}

/// Mostly dense ordinals, as rooms have them, and some far away.
fn key() -> impl Strategy<Value = u32> {
    prop_oneof![6 => 0..200_u32, 3 => 0..20_000_u32, 1 => any::<u32>()]
}

fn batch() -> impl Strategy<Value = Batch> {
    prop::collection::vec((key(), prop::option::weighted(0.7, 0..50_u32)), 0..40)
}

proptest! {
    #[test]
    fn behaves_like_a_map(batches in prop::collection::vec(batch(), 1..12), probe in key()) {
        let mut stored = Stored::default();
        let mut history = vec![(NodeId::EMPTY, Plain::new())];
        for batch in &batches {
            let (root, mut plain) = history.last().cloned().unwrap();
            apply_plain(&mut plain, batch);
            let (root, _) = stored.apply(root, batch);
            history.push((root, plain));
        }
        // Every snapshot, old ones too.
        for (root, plain) in &history {
            let all: Vec<_> = plain.iter().map(|(key, value)| (*key, *value)).collect();
            prop_assert_eq!(&stored.pairs(*root, 0, usize::MAX), &all);
            prop_assert_eq!(plain.is_empty(), root.is_empty());
            let tail: Vec<_> = plain.range(probe..).take(3).map(|(k, v)| (*k, *v)).collect();
            prop_assert_eq!(stored.pairs(*root, probe, 3), tail);
            prop_assert_eq!(get(&stored, *root, probe).unwrap(), plain.get(&probe).copied());
            for key in batches.iter().flatten().map(|(key, _)| *key) {
                prop_assert_eq!(get(&stored, *root, key).unwrap(), plain.get(&key).copied());
            }
        }
        for (root, plain) in &history {
            for (other, other_plain) in &history {
                prop_assert_eq!(diff(&stored, *root, *other).unwrap(), plain_diff(plain, other_plain));
            }
        }
    }

    #[test]
    fn a_batch_is_its_changes_one_by_one(start in batch(), batch in batch()) {
        let mut stored = Stored::default();
        let (start, _) = stored.apply(NodeId::EMPTY, &start);
        let (at_once, _) = stored.apply(start, &batch);
        let mut step = start;
        for change in &batch {
            (step, _) = stored.apply(step, &[*change]);
        }
        prop_assert_eq!(diff(&stored, at_once, step).unwrap(), vec![]);
    }

    #[test]
    fn equal_states_have_trees_of_equal_shape(mut batch in batch()) {
        batch.sort_by_key(|(key, _)| *key);
        batch.dedup_by_key(|(key, _)| *key);
        let mut one = Stored::default();
        let (root, count) = one.apply(NodeId::EMPTY, &batch);
        let mut other = Stored::default();
        let mut grown = NodeId::EMPTY;
        for (key, value) in &batch {
            (grown, _) = other.apply(grown, &[(*key, Some(value.unwrap_or(1)))]);
        }
        for (key, value) in batch.iter().filter(|(_, value)| value.is_none()) {
            (grown, _) = other.apply(grown, &[(*key, *value)]);
        }
        prop_assert_eq!(one.pairs(root, 0, usize::MAX), other.pairs(grown, 0, usize::MAX));
        one.reads.set(0);
        other.reads.set(0);
        one.pairs(root, 0, usize::MAX);
        other.pairs(grown, 0, usize::MAX);
        prop_assert_eq!(one.reads.get(), other.reads.get());
        prop_assert_eq!(one.reads.get(), count);
    }

    #[test]
    fn what_does_not_change_keeps_its_root(start in batch(), gone in key()) {
        let mut stored = Stored::default();
        let (root, _) = stored.apply(NodeId::EMPTY, &start);
        let same: Batch = stored
            .pairs(root, 0, usize::MAX)
            .into_iter()
            .map(|(key, value)| (key, Some(value)))
            .collect();
        prop_assert_eq!(stored.apply(root, &same), (root, 0));
        if get(&stored, root, gone).unwrap().is_none() {
            prop_assert_eq!(stored.apply(root, &[(gone, None)]), (root, 0));
        }
        let (set, written) = stored.edit(|editor| {
            let mut now = root;
            for (key, value) in &same {
                now = editor.set(now, *key, value.unwrap()).unwrap();
            }
            (vec![now], now)
        });
        prop_assert_eq!((set, written), (root, 0));
    }

    #[test]
    fn reading_damaged_nodes_ends(
        rows in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 1..6),
        key in any::<u32>(),
    ) {
        let mut stored = Stored::default();
        for (id, mut row) in (1_u32..).zip(rows) {
            // Children that lead back into the same few nodes.
            for value in row.iter_mut().skip(9) {
                *value %= 7;
            }
            stored.nodes.insert(NodeId(id), row.into());
        }
        // The results do not matter, only that there are some.
        drop(get(&stored, NodeId(1), key));
        drop(walk(&stored, NodeId(1), key, &mut |_, _| ControlFlow::Continue(())));
        drop(diff(&stored, NodeId(1), NodeId(2)));
    }
}

/// A tree of `size` keys, as a room with that many members has it.
fn dense(size: u32) -> (Stored, NodeId) {
    let mut stored = Stored::default();
    let all: Batch = (0..size).map(|key| (key, Some(key))).collect();
    let (root, _) = stored.apply(NodeId::EMPTY, &all);
    (stored, root)
}

#[test]
fn a_change_writes_one_node_for_each_level() {
    for (size, levels) in [(50, 1), (4_000, 2), (50_000, 3)] {
        let (mut stored, root) = dense(size);
        let (changed, written) = stored.apply(root, &[(size / 2, Some(u32::MAX))]);
        assert_eq!(written, levels);
        let (_, written) = stored.apply(changed, &[(size / 2, None)]);
        assert_eq!(written, levels);
        let (grown, written) = stored.apply(root, &[(size, Some(1))]);
        assert!(written <= levels);
        stored.reads.set(0);
        assert_eq!(get(&stored, grown, size).unwrap(), Some(1));
        assert!(stored.reads.get() <= levels);
    }
}

#[test]
fn comparing_costs_what_differs() {
    let (mut stored, root) = dense(50_000);
    let (other, _) = stored.apply(root, &[(7, Some(1)), (40_000, None)]);
    stored.reads.set(0);
    assert_eq!(diff(&stored, root, other).unwrap().len(), 2);
    // Two paths of three nodes in each tree, the root shared.
    assert_eq!(stored.reads.get(), 10);
}

#[test]
fn a_batch_writes_each_node_of_its_result_once() {
    let (mut stored, root) = dense(4_096);
    let (roots, written) = stored.edit(|editor| {
        let mut roots = vec![root];
        for value in 0..10 {
            roots.push(editor.set(roots[roots.len() - 1], 5, 10_000 + value).unwrap());
        }
        // Unstored trees read like stored ones.
        assert_eq!(get(editor, roots[10], 5).unwrap(), Some(10_009));
        assert_eq!(get(editor, roots[1], 5).unwrap(), Some(10_000));
        (vec![roots[10]], roots)
    });
    // Nine of the ten roots were not asked for.
    assert_eq!(written, 2);
    assert_eq!(get(&stored, roots[10], 5).unwrap(), Some(10_009));
    assert!(get(&stored, roots[9], 5).is_err());
}

#[test]
fn refuses_bytes_that_are_not_a_node() {
    let (stored, root) = dense(3);
    let good = stored.nodes[&root].to_vec();
    assert!(Node::decode(&good).is_ok());
    assert!(Node::decode(&[]).is_err());
    assert!(Node::decode(&good[..good.len() - 1]).is_err());
    assert!(Node::decode(&good[..good.len() - 4]).is_err());
    let mut tall = good;
    tall[0] = 6;
    assert!(Node::decode(&tall).is_err());
}
