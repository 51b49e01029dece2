//! A named, typed, ordered map.

use std::marker::PhantomData;

/// One ordered map of the store: rows of type `V` under a partition `P` and a clustering key `C`.
///
/// Declared as a constant by the crate that owns the rows:
/// `const TIMELINE: Keyspace<OwnedRoomId, TimelineIndex, TimelineRow> = Keyspace::new("timeline");`
#[derive(Debug)]
pub struct Keyspace<P, C, V> {
    name: &'static str,
    #[expect(clippy::type_complexity, reason = "a marker for three parameters")]
    marker: PhantomData<fn() -> (P, C, V)>,
}

impl<P, C, V> Keyspace<P, C, V> {
    /// A keyspace of this name. Names are unique in the store and never reused for other rows.
    #[must_use]
    pub const fn new(name: &'static str) -> Self {
        Self { name, marker: PhantomData }
    }

    /// The keyspace's name.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        self.name
    }
}
