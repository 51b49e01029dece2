//! `pos`: where in a connection a client stands.
//!
//! Text: `s1_<position>_p<boot>_<connection>_<serial>`, opaque to clients. It begins as a sync token does,
//! so that `/messages` and `/relations` take it for the place after its position (MSC4186, "Connections");
//! `/v3/sync` does not take it.

use std::{fmt, str::FromStr};

use hearth_rooms::read::tokens::{SYNC_TOKEN_PREFIX, parse_number};
use hearth_types::StreamPosition;

use crate::SyncError;

/// Which response of a connection: they are counted from one; zero is the beginning, before any.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ResponseSerial(u64);

impl ResponseSerial {
    /// Before the first response.
    pub(crate) const BEGINNING: Self = Self(0);

    /// The serial of the response after this one.
    #[must_use]
    pub(crate) fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

/// One response of one connection of one run of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pos {
    /// What was published when the response was made.
    pub(crate) position: StreamPosition,
    /// The run of the process.
    pub(crate) boot: u32,
    /// The connection.
    pub(crate) connection: u64,
    /// The response.
    pub(crate) serial: ResponseSerial,
}

impl fmt::Display for Pos {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { position, boot, connection, serial: ResponseSerial(serial) } = self;
        write!(f, "{SYNC_TOKEN_PREFIX}{position}_p{boot}_{connection}_{serial}")
    }
}

impl FromStr for Pos {
    type Err = SyncError;

    fn from_str(text: &str) -> Result<Self, SyncError> {
        parse(text).ok_or(SyncError::UnknownPos)
    }
}

fn parse(text: &str) -> Option<Pos> {
    let (position, rest) = text.strip_prefix(SYNC_TOKEN_PREFIX)?.split_once("_p")?;
    let mut numbers = rest.split('_').map(parse_number);
    let pos = Pos {
        position: StreamPosition::new(parse_number(position)?),
        boot: u32::try_from(numbers.next()??).ok()?,
        connection: numbers.next()??,
        serial: ResponseSerial(numbers.next()??),
    };
    (numbers.next().is_none() && pos.position <= StreamPosition::MAX).then_some(pos)
}

#[cfg(test)]
mod tests {
    use hearth_rooms::read::TimelineToken;

    use super::*;
    use crate::SyncToken;

    #[test]
    fn is_read_back_paginates_and_is_no_sync_token() {
        let position = StreamPosition::new(77);
        let pos = Pos { position, boot: 5, connection: 6, serial: ResponseSerial(7) };
        let text = pos.to_string();
        assert_eq!(text.parse::<Pos>().unwrap(), pos);
        let place: TimelineToken = text.parse().unwrap();
        assert_eq!(place, TimelineToken::at_position(position));
        assert!(text.parse::<SyncToken>().is_err());
    }

    #[test]
    fn foreign_ones_are_unknown() {
        for text in [
            "",
            "s1_1_2_3_4",
            "s1_1_p2_3",
            "s1_1_p2_3_4_5",
            "s1_1_p2_3_x",
            "5",
            "s1_p1_2_3",
            "s1_18446744073709551615_p1_2_3",
        ] {
            assert!(matches!(text.parse::<Pos>(), Err(SyncError::UnknownPos)), "{text}");
        }
    }

    #[test]
    fn fuzz_positions() {
        let seeds: &[&[u8]] = &[b"s1_77_p5_6_7", b"s1_0_p0_0_0"];
        let words: &[&[u8]] =
            &[b"_", b"_p", b"s1_", b"0", b"-", b"+", b" ", b"18446744073709551616"];
        hearth_fuzz::fuzz(seeds, words, |input| {
            let text = String::from_utf8_lossy(input);
            if let Ok(pos) = text.parse::<Pos>() {
                assert_eq!(pos.to_string(), text, "there is one way to write one");
                let place: TimelineToken = text.parse().unwrap();
                assert_eq!(place, TimelineToken::at_position(pos.position));
                assert!(text.parse::<SyncToken>().is_err(), "{text}");
            }
        });
    }
}
