//! Places in a room's timeline.

use std::cmp::Ordering;

use hearth_storage::{KeyDecoder, KeyEncoder, KeyError, KeyPart};
use hearth_types::StreamPosition;
use serde::{Deserialize, Serialize};

/// Where an event stands in its room's timeline: events that arrived in the ordinary way by stream
/// position; history that was fetched later right before the event that led to it, and after
/// everything that was there already before that one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum TimelineIndex {
    /// An event that arrived in the ordinary way.
    Live(StreamPosition),
    /// An event of the time before the one at a position.
    History {
        /// The position of that event.
        before: StreamPosition,
        /// How far before it, at least 1 and at most [`Self::MAX_DISTANCE`]: greater distances are
        /// earlier. Zero is the place right before the event, where none is put.
        distance: u64,
    },
}

impl TimelineIndex {
    /// Before every event of any room: positions count from 1.
    pub const START: Self = Self::Live(StreamPosition::ZERO);
    /// After every event of any room.
    pub const END: Self = Self::Live(StreamPosition::MAX);
    /// The greatest distance of history from the event that it was found before.
    pub const MAX_DISTANCE: u64 = u64::MAX - 1;

    /// The stream position that a reader must have passed to know this event; zero for history.
    #[must_use]
    pub fn position(self) -> StreamPosition {
        match self {
            Self::Live(position) => position,
            Self::History { .. } => StreamPosition::ZERO,
        }
    }

    /// The place right before this one.
    #[must_use]
    pub fn previous(self) -> Self {
        match self {
            Self::Live(StreamPosition::ZERO) => Self::START,
            Self::Live(before) => Self::History { before, distance: 0 },
            Self::History { before, distance } => {
                let distance = distance.saturating_add(1).min(Self::MAX_DISTANCE);
                Self::History { before, distance }
            }
        }
    }

    /// Indices as numbers of one line, for searches that halve it.
    pub(crate) fn line(self) -> u128 {
        let (position, after) = match self {
            Self::Live(position) => (position, 0),
            Self::History { before, distance } => (before.previous(), u64::MAX - distance),
        };
        (u128::from(position.get()) << 64) | u128::from(after)
    }

    /// The index at a number of the line.
    pub(crate) fn at_line(number: u128) -> Self {
        let position = u64::try_from(number >> 64).unwrap_or(u64::MAX);
        let after = u64::try_from(number & u128::from(u64::MAX)).unwrap_or(u64::MAX);
        let position = StreamPosition::new(position);
        match after {
            0 => Self::Live(position),
            after => Self::History { before: position.next(), distance: u64::MAX - after },
        }
    }

    /// What indices are compared by.
    fn rank(self) -> (StreamPosition, u64) {
        match self {
            Self::Live(position) => (position, 0),
            Self::History { before, distance } => (before.previous(), u64::MAX - distance),
        }
    }
}

impl Ord for TimelineIndex {
    fn cmp(&self, other: &Self) -> Ordering {
        self.rank().cmp(&other.rank())
    }
}

impl PartialOrd for TimelineIndex {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// The version of this key.
const KEY_VERSION: u8 = 1;

impl KeyPart for TimelineIndex {
    /// History has one field more behind the position before its own. So the one may be the beginning of
    /// the other, and an index is always the last part of a key.
    fn encode(&self, out: &mut KeyEncoder) {
        KEY_VERSION.encode(out);
        match self {
            Self::Live(position) => KeyPart::encode(position, out),
            Self::History { before, distance } => {
                KeyPart::encode(&before.previous(), out);
                (u64::MAX - distance).encode(out);
            }
        }
    }

    fn decode(input: &mut KeyDecoder<'_>) -> Result<Self, KeyError> {
        if u8::decode(input)? != KEY_VERSION {
            return Err(KeyError("timeline index"));
        }
        let position = <StreamPosition as KeyPart>::decode(input)?;
        if input.rest().is_empty() {
            return Ok(Self::Live(position));
        }
        let distance = u64::MAX - u64::decode(input)?;
        Ok(Self::History { before: position.next(), distance })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn index() -> impl Strategy<Value = TimelineIndex> {
        let position = (1..1_000_u64).prop_map(StreamPosition::new);
        prop_oneof![
            position.clone().prop_map(TimelineIndex::Live),
            (position, 0..=TimelineIndex::MAX_DISTANCE)
                .prop_map(|(before, distance)| TimelineIndex::History { before, distance }),
        ]
    }

    fn encoded(index: TimelineIndex) -> Vec<u8> {
        let mut out = KeyEncoder::default();
        index.encode(&mut out);
        out.as_bytes().to_vec()
    }

    proptest! {
        #[test]
        fn keys_sort_as_indices_do(one in index(), other in index()) {
            prop_assert_eq!(encoded(one).cmp(&encoded(other)), one.cmp(&other));
            prop_assert_eq!(one.line().cmp(&other.line()), one.cmp(&other));
            let bytes = encoded(one);
            let mut decoder = KeyDecoder::new(&bytes);
            prop_assert_eq!(TimelineIndex::decode(&mut decoder).unwrap(), one);
            prop_assert_eq!(TimelineIndex::at_line(one.line()), one);
            prop_assert!(one.previous() <= one);
        }
    }

    #[test]
    fn history_stands_between_what_led_to_it_and_what_was_there() {
        let live = |position| TimelineIndex::Live(StreamPosition::new(position));
        let history = |before, distance| {
            let before = StreamPosition::new(before);
            TimelineIndex::History { before, distance }
        };
        let sorted = [
            TimelineIndex::START,
            history(1, 9),
            live(1),
            history(5, TimelineIndex::MAX_DISTANCE),
            history(5, 2),
            history(5, 1),
            live(5).previous(),
            live(5),
            history(6, 1),
            live(6),
            TimelineIndex::END,
        ];
        assert!(sorted.is_sorted(), "{sorted:?}");
    }
}
