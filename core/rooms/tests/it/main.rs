//! Rooms over a real store in memory: what callers of the crate see.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test that cannot go on fails"
)]

mod admit;
mod create;
mod directory;
mod elsewhere;
mod fixture;
mod history;
mod membership;
mod partial;
mod reading;
mod redaction;
mod send;
mod serving;
mod upgrade;
mod writers;
