//! The HTTP glue over real endpoint types of the client-server API, in process.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test's helper may fail as loudly as the test"
)]

mod admission;
mod app;
mod auth;
mod bodies;
mod errors;
mod front;
mod fuzz;
mod paths;
