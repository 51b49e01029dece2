//! Places in a room's timeline, as clients hold them.
//!
//! A [`TimelineToken`] means the gap right after one timeline index: reading backwards from it starts
//! with the event at that index, reading forwards with the one after it. Its text is opaque to
//! clients and versioned: `t1_<position>`, and `t1_<position>b<distance>` in the history before a position.
//! A sync token (`s1_<position>_…`, made by the sync crate) is taken as the place after its position,
//! in whatever room it is used.

use std::{fmt, str::FromStr};

use hearth_types::StreamPosition;

use crate::{RoomError, schema::TimelineIndex};

/// What a sync token's text starts with; its position follows, up to the next underscore.
pub const SYNC_TOKEN_PREFIX: &str = "s1_";
const TIMELINE_TOKEN_PREFIX: &str = "t1_";

/// A place between two timeline events: right after this index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TimelineToken(pub TimelineIndex);

impl TimelineToken {
    /// Before everything that any room holds.
    pub const START: Self = Self(TimelineIndex::START);
    /// After everything.
    pub const END: Self = Self(TimelineIndex::END);

    /// The place right before the event at this index.
    #[must_use]
    pub fn before(index: TimelineIndex) -> Self {
        Self(index.previous())
    }

    /// The place right after the event at this index.
    #[must_use]
    pub fn after(index: TimelineIndex) -> Self {
        Self(index)
    }

    /// The place that a reader of the stream is at when they know everything up to this position.
    #[must_use]
    pub fn at_position(position: StreamPosition) -> Self {
        Self(TimelineIndex::Live(position))
    }
}

impl fmt::Display for TimelineToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            TimelineIndex::Live(position) => write!(f, "{TIMELINE_TOKEN_PREFIX}{position}"),
            TimelineIndex::History { before, distance } => {
                write!(f, "{TIMELINE_TOKEN_PREFIX}{before}b{distance}")
            }
        }
    }
}

impl FromStr for TimelineToken {
    type Err = RoomError;

    fn from_str(text: &str) -> Result<Self, RoomError> {
        parse(text).ok_or_else(|| RoomError::InvalidParam("unknown pagination token".to_owned()))
    }
}

fn parse(text: &str) -> Option<TimelineToken> {
    if let Some(rest) = text.strip_prefix(SYNC_TOKEN_PREFIX) {
        let (position, _) = rest.split_once('_')?;
        return live(position);
    }
    let rest = text.strip_prefix(TIMELINE_TOKEN_PREFIX)?;
    let Some((before, distance)) = rest.split_once('b') else { return live(rest) };
    let (before, distance) = (position(before)?, parse_number(distance)?);
    let is_place = before > StreamPosition::ZERO && distance <= TimelineIndex::MAX_DISTANCE;
    is_place.then_some(TimelineToken(TimelineIndex::History { before, distance }))
}

fn live(number: &str) -> Option<TimelineToken> {
    position(number).map(TimelineToken::at_position)
}

fn position(number: &str) -> Option<StreamPosition> {
    let position = StreamPosition::new(parse_number(number)?);
    (position <= StreamPosition::MAX).then_some(position)
}

/// A number in its one canonical form: digits alone, no sign, no leading zero.
#[must_use]
pub fn parse_number(text: &str) -> Option<u64> {
    let canonical = text == "0" || !text.starts_with('0');
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    (canonical && digits).then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn reads_sync_tokens_as_the_place_after_their_position() {
        let token: TimelineToken = "s1_77_abc_1_2".parse().unwrap();
        assert_eq!(token, TimelineToken::at_position(StreamPosition::new(77)));
    }

    #[test]
    fn refuses_foreign_tokens() {
        for text in [
            "",
            "t1_",
            "t2_5",
            "t1_-5",
            "t1_+5",
            "t1_05",
            "t1_5x",
            "t1_b",
            "t1_b7",
            "t1_0b7",
            "t1_5b",
            "t1_5b18446744073709551615",
            "t1_4611686018427387904b1",
            "s1_5",
            "s2_5_",
            "t1_99999999999999999999",
            "t1_4611686018427387904",
            "s72594_4483_1934",
        ] {
            assert!(
                matches!(text.parse::<TimelineToken>(), Err(RoomError::InvalidParam(_))),
                "{text}"
            );
        }
    }

    #[test]
    fn places_stand_between_events() {
        let index = TimelineIndex::Live(StreamPosition::new(5));
        assert!(TimelineToken::before(index) < TimelineToken::after(index));
        let old = TimelineIndex::History { before: StreamPosition::new(5), distance: 5 };
        assert!(TimelineToken::before(old) < TimelineToken::after(old));
        assert!(TimelineToken::after(old) < TimelineToken::before(index));
        let earlier = TimelineIndex::Live(StreamPosition::new(4));
        assert!(TimelineToken::after(earlier) < TimelineToken::before(old));
    }

    proptest! {
        #[test]
        fn texts_are_read_back(
            number in 1..=StreamPosition::MAX.get(),
            distance in 0..=TimelineIndex::MAX_DISTANCE,
        ) {
            let position = StreamPosition::new(number);
            for index in [
                TimelineIndex::Live(position),
                TimelineIndex::History { before: position, distance },
            ] {
                let token = TimelineToken(index);
                prop_assert_eq!(token.to_string().parse::<TimelineToken>().unwrap(), token);
            }
        }
    }
}
