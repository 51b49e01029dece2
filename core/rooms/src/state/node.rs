//! Nodes of the state tree and their encoding.

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// Bits of a key that one node decides.
pub(super) const DIGIT_BITS: u32 = 6;
/// The height whose nodes cover every `u32`.
pub(super) const MAX_HEIGHT: u8 = 5;
/// Height byte and bitmap.
const HEADER_BYTES: usize = 9;

/// The number of a node within its room; 0 is the empty tree.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
)]
pub struct NodeId(pub u32);

impl NodeId {
    /// The empty tree.
    pub const EMPTY: Self = Self(0);

    /// Is this the empty tree?
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }
}

/// One node: its height above the leaves (0: slots hold event ordinals; above: node numbers) and up
/// to 64 slots. Immutable once stored.
///
/// A node of height `h` covers the keys below `64^(h + 1)`, counted from where its parent's slot
/// begins. A child may be lower than its parent by more than one: the digits between are zero.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    height: u8,
    occupied: u64,
    /// The values of the occupied slots, in slot order.
    values: Box<[u32]>,
}

/// Bytes that are not a node, or a tree that does not hang together.
#[derive(Clone, Debug, thiserror::Error)]
#[error("damaged state tree: {0}")]
pub struct NodeError(pub String);

impl Node {
    /// The stored form: height, bitmap, then 4 bytes a slot.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut bytes = Vec::with_capacity(HEADER_BYTES + 4 * self.values.len());
        bytes.push(self.height);
        bytes.extend_from_slice(&self.occupied.to_be_bytes());
        for value in &self.values {
            bytes.extend_from_slice(&value.to_be_bytes());
        }
        bytes.into()
    }

    /// Reads the stored form.
    pub fn decode(bytes: &[u8]) -> Result<Arc<Self>, NodeError> {
        let damaged = || NodeError(format!("a node of {} bytes does not read as one", bytes.len()));
        let (height, rest) = bytes.split_first().ok_or_else(damaged)?;
        let (bitmap, slots) = rest.split_first_chunk::<8>().ok_or_else(damaged)?;
        let occupied = u64::from_be_bytes(*bitmap);
        let (values, odd) = slots.as_chunks::<4>();
        if *height > MAX_HEIGHT
            || occupied == 0
            || !odd.is_empty()
            || values.len() != occupied.count_ones() as usize
        {
            return Err(damaged());
        }
        let values = values.iter().map(|value| u32::from_be_bytes(*value)).collect();
        Ok(Arc::new(Self { height: *height, occupied, values }))
    }

    /// What the node takes in memory, in bytes: its weight in a cache.
    #[must_use]
    pub fn weight(&self) -> u64 {
        // Two allocations with their headers, then the slots.
        64 + 4 * self.values.len() as u64
    }

    pub(super) fn height(&self) -> u8 {
        self.height
    }

    /// The value in a slot; slots beyond the 64th are empty.
    pub(super) fn slot(&self, digit: u32) -> Option<u32> {
        if digit >= u64::BITS || self.occupied & (1 << digit) == 0 {
            return None;
        }
        let before = self.occupied & ((1 << digit) - 1);
        self.values.get(before.count_ones() as usize).copied()
    }

    /// The occupied slots from `from` up, in order.
    pub(super) fn slots_from(&self, from: u32) -> impl Iterator<Item = (u32, u32)> {
        digits(self.occupied)
            .zip(self.values.iter().copied())
            .skip_while(move |(digit, _)| *digit < from)
    }
}

/// The positions of a bitmap's set bits, in order.
fn digits(mut bitmap: u64) -> impl Iterator<Item = u32> {
    std::iter::from_fn(move || {
        let digit = (bitmap != 0).then(|| bitmap.trailing_zeros())?;
        bitmap &= bitmap - 1;
        Some(digit)
    })
}

/// A node being built: all 64 slots spread out.
#[derive(Clone, Debug)]
pub(super) struct Slots {
    occupied: u64,
    values: [u32; 64],
}

impl Slots {
    pub(super) const EMPTY: Self = Self { occupied: 0, values: [0; 64] };

    pub(super) fn of(node: &Node) -> Self {
        let mut slots = Self::EMPTY;
        for (digit, value) in node.slots_from(0) {
            slots.put(digit, Some(value));
        }
        slots
    }

    pub(super) fn get(&self, digit: u32) -> Option<u32> {
        if digit >= u64::BITS || self.occupied & (1 << digit) == 0 {
            return None;
        }
        self.values.get(digit as usize).copied()
    }

    /// Sets or clears a slot below 64.
    pub(super) fn put(&mut self, digit: u32, value: Option<u32>) {
        let Some(slot) = self.values.get_mut(digit as usize) else { return };
        match value {
            Some(value) => {
                *slot = value;
                self.occupied |= 1 << digit;
            }
            None => self.occupied &= !(1 << digit),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.occupied == 0
    }

    /// The value of slot 0 if no other slot is occupied.
    pub(super) fn only_first(&self) -> Option<u32> {
        if self.occupied == 1 { self.values.first().copied() } else { None }
    }

    pub(super) fn union(&self, other: &Self) -> impl Iterator<Item = u32> {
        digits(self.occupied | other.occupied)
    }

    pub(super) fn into_node(self, height: u8) -> Node {
        let values = digits(self.occupied).filter_map(|digit| self.get(digit)).collect();
        Node { height, occupied: self.occupied, values }
    }
}
