//! The local order of commits.

use std::fmt;

use serde::{Deserialize, Serialize, Serializer, ser::Error as _};

/// The place of one change in the order in which this server made changes durable.
///
/// Positions are assigned by the storage committer, start at 1 and only grow. They are local to one
/// server and say nothing about an event's depth. Position 0 is "before everything".
///
/// While a commit is being built its own positions are not known yet: [`pending`](Self::pending)
/// stands for them in keys and values, and the committer fills them in. A pending position sorts after
/// every real one, and serializing it any other way is an error.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
pub struct StreamPosition(u64);

const PENDING: u64 = 1 << 62;

impl StreamPosition {
    /// Before every change.
    pub const ZERO: Self = Self(0);
    /// After every change.
    pub const MAX: Self = Self(PENDING - 1);

    /// The position with this number.
    #[must_use]
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// This position's number.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The position `count` later; saturates.
    #[must_use]
    pub const fn plus(self, count: u64) -> Self {
        Self(self.0.saturating_add(count))
    }

    /// The position right after this one; saturates.
    #[must_use]
    pub const fn next(self) -> Self {
        self.plus(1)
    }

    /// The position right before this one; saturates at [`Self::ZERO`].
    #[must_use]
    pub const fn previous(self) -> Self {
        Self(self.0.saturating_sub(1))
    }

    /// The `index`-th position of the commit that is being built.
    #[must_use]
    pub const fn pending(index: u32) -> Self {
        Self(PENDING + index as u64)
    }

    /// Which position of the commit being built this is; `None` if it is a real one.
    #[must_use]
    pub const fn pending_index(self) -> Option<u64> {
        self.0.checked_sub(PENDING)
    }
}

impl Serialize for StreamPosition {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.pending_index().is_some() {
            return Err(S::Error::custom("a pending position has no number yet"));
        }
        serializer.serialize_u64(self.0)
    }
}

impl fmt::Display for StreamPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
