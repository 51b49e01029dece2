//! Rooms over a real store in memory: what callers of the crate see.

mod create;
mod directory;
mod fixture;
mod membership;
mod reading;
mod redaction;
mod send;
mod upgrade;
