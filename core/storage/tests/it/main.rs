//! The store as its callers see it.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod codec;
mod engines;
mod failure;
mod store;
mod upkeep;
