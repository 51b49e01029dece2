//! The store as its callers see it.

mod codec;
mod engines;
mod store;
mod upkeep;
