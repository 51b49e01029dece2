//! Two and more servers in this process, over HTTP and a network in memory.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests fail by panicking")]

mod devices;
mod encryption;
mod inbound;
mod policy;
mod remote;
mod support;
mod to_device;
