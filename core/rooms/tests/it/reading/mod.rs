//! Reading what the writer wrote: client form, aggregations, relations, threads, spaces, resolution.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::needless_pass_by_value,
    reason = "a test stops where something is not as it must be"
)]

mod aggregations;
mod format;
mod hierarchy;
mod relations;
mod resolution;
mod support;
mod threads;
mod timeline;
mod visibility;
