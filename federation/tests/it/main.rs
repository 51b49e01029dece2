//! Two and more servers in this process, over HTTP and a network in memory.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::missing_panics_doc,
    reason = "tests fail by panicking"
)]

mod inbound;
mod policy;
mod remote;
mod support;
