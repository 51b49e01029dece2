//! Sync tokens: `since` and `next_batch`.
//!
//! Text: `s1_<position>_<boot>_<typing>_<presence>_<to device>`, opaque to clients and versioned; older
//! tokens end before the last number. The position names all that is stored but messages to devices, of
//! which a response has only so many and which have a position of their own; typing and presence live in memory and are counted by serials that mean
//! something only within one run of the process, which the boot number tells apart. Pagination takes
//! a sync token too (`hearth_rooms::read::TimelineToken`), and reads its position only.

use std::{fmt, str::FromStr};

use hearth_rooms::read::tokens::{SYNC_TOKEN_PREFIX, parse_number};
use hearth_types::StreamPosition;

use crate::SyncError;

/// What a client knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SyncToken {
    /// Everything stored up to here.
    pub position: StreamPosition,
    /// The run of the process that counted the serials.
    pub boot: u32,
    /// Typing changes up to here.
    pub typing: u64,
    /// Presence changes up to here.
    pub presence: u64,
    /// Messages to the device up to here: never behind `position`.
    pub to_device: StreamPosition,
}

impl SyncToken {
    /// The same token as seen by a process of another run: serials of another run count for nothing.
    #[must_use]
    pub fn in_run(self, boot: u32) -> Self {
        if self.boot == boot { self } else { Self { boot, typing: 0, presence: 0, ..self } }
    }
}

impl fmt::Display for SyncToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { position, boot, typing, presence, to_device } = self;
        write!(f, "{SYNC_TOKEN_PREFIX}{position}_{boot}_{typing}_{presence}_{to_device}")
    }
}

impl FromStr for SyncToken {
    type Err = SyncError;

    fn from_str(text: &str) -> Result<Self, SyncError> {
        parse(text).ok_or_else(|| SyncError::InvalidParam("since: unknown token".to_owned()))
    }
}

fn parse(text: &str) -> Option<SyncToken> {
    let mut numbers = text.strip_prefix(SYNC_TOKEN_PREFIX)?.split('_').map(parse_number);
    let position = StreamPosition::new(numbers.next()??);
    let token = SyncToken {
        position,
        boot: u32::try_from(numbers.next()??).ok()?,
        typing: numbers.next()??,
        presence: numbers.next()??,
        to_device: match numbers.next() {
            Some(number) => StreamPosition::new(number?),
            None => position,
        },
    };
    let fits = position <= StreamPosition::MAX && token.to_device <= position;
    (numbers.next().is_none() && fits).then_some(token)
}

#[cfg(test)]
mod tests {
    use hearth_rooms::read::TimelineToken;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn refuses_foreign_tokens() {
        for text in [
            "",
            "s1_",
            "s1_1_2_3",
            "s1_1_2_3_4_5",
            "s1_5_2_3_4_5_6",
            "s1_1_2_-3_4",
            "s2_1_2_3_4",
            "t1_5",
        ] {
            assert!(matches!(text.parse::<SyncToken>(), Err(SyncError::InvalidParam(_))), "{text}");
        }
    }

    #[test]
    fn older_tokens_have_had_all_messages_to_devices() {
        let token: SyncToken = "s1_7_1_2_3".parse().unwrap();
        assert_eq!(token.to_device, token.position);
    }

    #[test]
    fn another_run_knows_no_serials() {
        let nine = StreamPosition::new(9);
        let token = SyncToken { position: nine, boot: 1, typing: 5, presence: 6, to_device: nine };
        assert_eq!(token.in_run(1), token);
        let other = token.in_run(2);
        assert_eq!((other.position, other.typing, other.presence), (token.position, 0, 0));
    }

    proptest! {
        #[test]
        fn texts_are_read_back_and_paginate(
            number in 0..=StreamPosition::MAX.get(), boot: u32, typing: u64, presence: u64,
        ) {
            let position = StreamPosition::new(number);
            let to_device = StreamPosition::new(number / 2);
            let token = SyncToken { position, boot, typing, presence, to_device };
            let text = token.to_string();
            prop_assert_eq!(text.parse::<SyncToken>().unwrap(), token);
            prop_assert_eq!(
                text.parse::<TimelineToken>().unwrap(),
                TimelineToken::at_position(token.position)
            );
        }
    }

    #[test]
    fn fuzz_tokens() {
        let seeds: &[&[u8]] = &[b"s1_12_3_4_5_6", b"s1_7_1_2_3", b"t1_5", b"s1_0_0_0_0_0"];
        let words: &[&[u8]] = &[
            b"_",
            b"s1_",
            b"t1_",
            b"0",
            b"-",
            b"+",
            b"18446744073709551615",
            b"18446744073709551616",
            b"4294967296",
            b"\xc2\xb2",
            b" ",
        ];
        hearth_fuzz::fuzz(seeds, words, |input| {
            let text = String::from_utf8_lossy(input);
            if let Ok(token) = text.parse::<SyncToken>() {
                // There is one way to write a token; older ones end before the last number.
                let written = token.to_string();
                assert!(
                    written == text || written == format!("{text}_{}", token.position),
                    "{text}"
                );
                assert_eq!(written.parse::<SyncToken>().unwrap(), token);
                assert!(text.parse::<TimelineToken>().is_ok(), "{text}");
            }
            if let Ok(token) = text.parse::<TimelineToken>() {
                assert_eq!(token.to_string().parse::<TimelineToken>().unwrap(), token);
            }
        });
    }
}
